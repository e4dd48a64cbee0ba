"""The frontier on real servers against a model of sets, in any order of transitions.

`TINYLM_TEST_MACHINE_EXAMPLES=1000 pytest -m long tests/crawler/test_frontier_machine.py` looks deeper, on
every kind of server: before a release, and after a change of the scripts.
"""

import os
import time

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from crawler.errors import LeaseLost
from crawler.frontier import SEED, Discovered
from crawler.page import Page
from crawler.urls import locate
from tests.conftest import make_page
from tests.crawler.driving import EVERYWHERE, expire, pages
from tests.crawler.frontier_model import Model

DEEP = int(os.environ.get("TINYLM_TEST_MACHINE_EXAMPLES", "0"))
HOSTS = ("a.test", "b.test", "c.test")
URLS = [f"https://{host}/{n}" for host in HOSTS for n in range(3)]
PROMISES = st.sampled_from([0.125, 0.25, 0.5, 0.75, 1.0])
SETTINGS = {
    "delay": 0.012, "latency_factor": 0.0, "exploration": 0.0, "attempts": 2, "backlog": 10_000,
    "pages_per_found_host": 3, "pages_per_referring_domain": 1, "pages_per_host": 5,
}  # fmt: skip


class FrontierMachine(RuleBasedStateMachine):
    store = None
    partitions = 1

    @initialize(begun=st.booleans())
    def begin(self, begun):
        self.real = self.opened(SETTINGS)
        self.crawl_id = self.real.config.crawl_id
        self.model = Model(SETTINGS)
        self.over = []
        self.rested_by, self.ended = 0, False
        if begun:
            for url in URLS:
                self.put(url, 0.5, "")
            self.fetch(len(HOSTS))

    def opened(self, settings):
        frontier = self.store.open(partitions=self.partitions, **settings)
        frontier._random.seed(0)  # which partition is asked first is no choice of hypothesis
        return frontier

    def teardown(self):
        if hasattr(self, "real"):
            assert sorted(page.url for page in pages(self.real)) == sorted(
                self.model.done + self.model.brought
            )
            self.store.close()

    def now(self):
        """The server's time in milliseconds."""
        seconds, microseconds = self.real.client.time()
        return 1000 * seconds + microseconds // 1000

    def note_rests(self):
        """By then all hosts that were asked have rested; the model knows until when they must."""
        if self.ended:
            self.rested_by, self.ended = self.now() + 1000 * SETTINGS["delay"], False

    @rule(
        url=st.sampled_from(URLS), promise=PROMISES, referrer=st.sampled_from(["", "x.test", "y.test", SEED])
    )
    def put(self, url, promise, referrer):
        new = self.model.put(locate(url)[0], url, promise, referrer)
        assert self.real.put([Discovered(url, promise, referrer)]) == new

    @rule(url=st.sampled_from(URLS))
    def bring(self, url):
        name = locate(url)[0]
        if url not in self.model.met or url in getattr(self.model.hosts.get(name), "queued", ()):
            page = Page(
                url=url, fetch_no=1, fetched_at=0, status=200, promise=0.0, propensity=1.0, text="brought"
            )
            assert self.real.bring([page]) == self.model.bring(name, url)

    @rule(n=st.integers(1, 4))
    def lease(self, n):
        """Every host that was told to rest has rested: which are leased depends on nothing else then."""
        self.note_rests()
        time.sleep(max(0, self.rested_by + 2 - self.now()) / 1000)
        leases = self.real.lease(n)
        self.model.lease(leases, n, self.real.partition_of, self.now(), rested=True)
        idle = self.real.why_idle()
        if len(leases) < n:
            assert idle["ready"] == idle["cooling"] == 0
            waiting = self.model.leases or any(host.paused for host in self.model.hosts.values())
            assert self.real.finished() == (not waiting)

    @rule(n=st.integers(1, 4))
    def fetch(self, n):
        """What a worker does if nothing goes wrong."""
        before = set(self.model.leases)
        self.lease(n)
        at = self.now()
        batch = self.real.batch()
        for lease in [lease for key, lease in self.model.leases.items() if key not in before]:
            self.over.append(lease)
            self.say_fetched(batch, lease)
            self.model.ack(lease, at)
        self.ended = True
        assert batch.send() == []

    def say_fetched(self, frontier, lease):
        if lease.kind == "robots":
            frontier.ack_robots(lease, "rules", valid=3600, crawl_delay=0, latency=0, size=3)
        else:
            frontier.ack(lease, make_page(lease), latency=0, size=7)

    @rule()
    def lease_in_haste_and_give_back(self):
        """How many come depends on the clock; never one of a host that is asked, or rests."""
        leases = self.real.lease(4)
        self.model.lease(leases, 4, self.real.partition_of, self.now(), rested=False)
        batch = self.real.batch()
        for lease in leases:
            self.model.give_back(lease, self.now())
            batch.give_back(lease)
        assert batch.send() == []

    def some(self, data):
        """A lease that is ending, and a time before its end."""
        lease = self.model.leases[data.draw(st.sampled_from(sorted(self.model.leases)))]
        self.over.append(lease)
        self.ended = True
        return lease, self.now()

    @precondition(lambda self: self.model.leases)
    @rule(data=st.data())
    def ack(self, data):
        lease, at = self.some(data)
        self.say_fetched(self.real, lease)
        self.model.ack(lease, at)
        self.lease_in_haste_and_give_back()

    @precondition(lambda self: self.model.leases)
    @rule(data=st.data(), number=st.integers(0, 5), promise=PROMISES)
    def put_to_a_host_that_is_asked(self, data, number, promise):
        host = self.model.leases[data.draw(st.sampled_from(sorted(self.model.leases)))].host
        self.put(f"https://{host}/{number}", promise, "")
        self.lease_in_haste_and_give_back()

    @precondition(lambda self: self.model.leases)
    @rule(data=st.data(), sent=st.booleans())
    def nack(self, data, sent):
        lease, at = self.some(data)
        self.real.nack(lease, "status_500", sent=sent)
        self.model.nack(lease, "status_500", at, sent=sent)
        self.lease_in_haste_and_give_back()

    @precondition(lambda self: self.model.leases)
    @rule(data=st.data())
    def skip(self, data):
        lease, at = self.some(data)
        self.real.skip(lease, "robots")
        self.model.skip(lease, at)

    @precondition(lambda self: self.model.leases)
    @rule(data=st.data())
    def give_back(self, data):
        lease, at = self.some(data)
        self.real.give_back(lease)
        self.model.give_back(lease, at)

    @precondition(lambda self: self.model.leases)
    @rule(data=st.data())
    def expire(self, data):
        lease, at = self.some(data)
        expire(self.real, lease)
        assert self.real.reap() == 1
        self.model.expire(lease, at)

    @rule(host=st.sampled_from(HOSTS), index=PROMISES)
    def steer(self, host, index):
        self.real.steer({host: index})
        self.model.steer(host, index)

    @rule(host=st.sampled_from(HOSTS), paused=st.booleans())
    def pause_or_resume(self, host, paused):
        (self.real.pause if paused else self.real.resume)(host)
        self.model.pause(host, paused=paused)

    @rule(what=st.sampled_from([URLS[0], URLS[4], HOSTS[2]]))
    def take_down(self, what):
        self.over += [lease for lease in self.model.leases.values() if what in (lease.host, lease.url)]
        if "://" in what:
            known = self.model.take_down_url(locate(what)[0], what)
        else:
            known = self.model.take_down_host(what)
        assert self.real.take_down(what) == known

    @rule(url=st.sampled_from(URLS))
    def retry(self, url):
        assert self.real.retry(url) == self.model.retry(locate(url)[0], url, 0.5)

    @rule(url=st.sampled_from(URLS))
    def drop(self, url):
        assert self.real.drop(url) == self.model.drop(url)

    @precondition(lambda self: self.over)
    @rule(data=st.data())
    def come_late(self, data):
        with pytest.raises(LeaseLost):
            self.real.give_back(data.draw(st.sampled_from(self.over)))

    @rule()
    def go_on_in_another_process(self):
        """The rules are the crawl's: other settings make no difference."""
        others = SETTINGS | {"delay": 60.0, "attempts": 9, "pages_per_host": 1, "crawl_id": self.crawl_id}
        self.real = self.opened(others)

    @invariant()
    def it_is_as_the_model_says(self):
        if not hasattr(self, "real"):
            return
        self.note_rests()
        self.model.check()
        counts, expected = self.real.counts(), self.model.counts()
        assert {name: counts[name] for name in expected} == expected
        assert sorted(self.real.dead_letters()) == sorted((self.model.dead | self.model.refused).items())
        idle = self.real.why_idle()
        assert idle["in_flight"] == len(self.model.leases)
        hosts = self.model.hosts.values()
        assert idle["paused"] == sum(host.paused and not host.lease for host in hosts)
        assert idle["no_robots"] == sum(host.no_robots for host in hosts)
        queued = self.real.best_queued(self.model.hosts, 10)
        assert sorted(queued) == sorted(url for host in hosts for url in host.queued)
        for name, host in self.model.hosts.items():
            promises = [host.queued[url] for url in queued if locate(url)[0] == name]
            assert promises == sorted(promises, reverse=True)


def test_the_frontier_does_what_its_model_does_in_any_order(store):
    run(store, partitions=2, examples=60)


@pytest.mark.long
@(EVERYWHERE if DEEP else lambda test: test)
@pytest.mark.parametrize("partitions", [1, 4])
def test_the_frontier_does_what_its_model_does_for_long(store, partitions):
    run(store, partitions, examples=DEEP or 50)


def run(store, partitions, *, examples):
    machine = type("Machine", (FrontierMachine,), {"store": store, "partitions": partitions})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
