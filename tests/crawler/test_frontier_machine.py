"""The frontier on Redis against its executable specification, in any order of transitions."""

import time

import pytest
import redis
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

from crawler.config import FrontierConfig
from crawler.errors import LeaseLost
from crawler.frontier import SEED, Discovered, Frontier
from crawler.frontier.memory_store import MemoryStore
from tests.conftest import close_clients, make_page, open_frontier

HOSTS = ("a.test", "b.test", "c.test")
URLS = [f"https://{host}/{n}" for host in HOSTS for n in range(3)]
PROMISES = st.sampled_from([0.125, 0.25, 0.5, 0.75, 1.0])
SETTINGS = {
    "delay": 0.004, "latency_factor": 0.0, "exploration": 0.0, "attempts": 2, "backlog": 10_000,
    "pages_per_found_host": 5, "pages_per_referring_domain": 2, "pages_per_host": 9,
}  # fmt: skip
REST = SETTINGS["delay"] + 0.004
TIMED = ("ready", "cooling", "blocked", "budget_spent", "next_wake_seconds")
"""What depends on when it is asked."""


class FrontierMachine(RuleBasedStateMachine):
    server = None
    partitions = 1

    @initialize()
    def begin(self):
        self.real = open_frontier(self.server, partitions=self.partitions, **SETTINGS)
        self.client = redis.Redis.from_url(self.server.url)
        config = FrontierConfig(crawl_id="specification", partitions=self.partitions, **SETTINGS)
        self.store = MemoryStore(self.now)
        self.spec = Frontier(self.store, config)
        self.leased = {}
        self.over = []

    def teardown(self):
        if hasattr(self, "client"):
            self.client.close()
            close_clients()

    def now(self):
        seconds, microseconds = self.client.time()
        return seconds + microseconds / 1e6

    def both(self, verb, *args, **kwargs):
        """The same to both; they answer the same."""
        answers = [getattr(frontier, verb)(*args, **kwargs) for frontier in (self.real, self.spec)]
        assert answers[0] == answers[1], (verb, args)
        return answers[0]

    @rule(
        url=st.sampled_from(URLS), promise=PROMISES, referrer=st.sampled_from(["", "x.test", "y.test", SEED])
    )
    def put(self, url, promise, referrer):
        self.both("put", [Discovered(url, promise, referrer)])

    @rule(n=st.integers(1, 4))
    def lease(self, n):
        """Every host that was told to rest has rested: which are leased depends on nothing else then."""
        time.sleep(REST)
        leases = self.real.lease(n)
        expected = self.spec.lease(n)
        if self.partitions > 1:
            together = {lease.url for lease in leases} & {lease.url for lease in expected}
            leases = self.only(together, self.real, leases)
            expected = self.only(together, self.spec, expected)
        assert [facts(lease) for lease in leases] == [facts(lease) for lease in expected]
        self.leased |= {lease.key: (lease, twin) for lease, twin in zip(leases, expected, strict=True)}

    def only(self, urls, frontier, leases):
        """Which partition is asked first is a matter of chance: those that both gave."""
        for lease in leases:
            if lease.url not in urls:
                frontier.give_back(lease)
        return sorted((lease for lease in leases if lease.url in urls), key=lambda lease: lease.url)

    @rule()
    def lease_in_haste_and_give_back(self):
        """How many come depends on the clock; never one of a host that is asked, or rests."""
        busy = {lease.host for lease, _ in self.leased.values()}
        for lease in self.real.lease(4):
            assert lease.host not in busy
            host = self.host(lease.host)
            assert self.now() * 1000 >= host.next
            self.real.give_back(lease)

    def host(self, name):
        return self.store._partition(self.spec.prefixes[self.spec.partition_of(name)]).hosts[name]

    def finish(self, data, verb, *args, **kwargs):
        key = data.draw(st.sampled_from(sorted(self.leased)))
        lease, twin = self.leased.pop(key)
        self.over.append((lease, twin))
        getattr(self.real, verb)(lease, *args, **kwargs)
        getattr(self.spec, verb)(twin, *args, **kwargs)
        return lease

    @precondition(lambda self: self.leased)
    @rule(data=st.data())
    def ack(self, data):
        key = data.draw(st.sampled_from(sorted(self.leased)))
        lease, twin = self.leased.pop(key)
        self.over.append((lease, twin))
        for frontier, mine in ((self.real, lease), (self.spec, twin)):
            if mine.kind == "robots":
                frontier.ack_robots(mine, "rules", valid=3600, crawl_delay=0, latency=0, size=3)
            else:
                frontier.ack(mine, make_page(mine), latency=0, size=7)

    @precondition(lambda self: self.leased)
    @rule(data=st.data(), sent=st.booleans())
    def nack(self, data, sent):
        self.finish(data, "nack", "status_500", sent=sent)

    @precondition(lambda self: self.leased)
    @rule(data=st.data())
    def skip(self, data):
        self.finish(data, "skip", "robots")

    @precondition(lambda self: self.leased)
    @rule(data=st.data())
    def give_back(self, data):
        self.finish(data, "give_back")

    @precondition(lambda self: self.leased)
    @rule(data=st.data())
    def expire(self, data):
        key = data.draw(st.sampled_from(sorted(self.leased)))
        lease, twin = self.leased.pop(key)
        self.over.append((lease, twin))
        prefix = self.real.prefixes[lease.partition]
        self.client.zadd(f"{prefix}deadlines", {lease.token: 1}, xx=True)
        leases = self.store._partition(self.spec.prefixes[twin.partition]).leases
        leases[twin.token] = 1, leases[twin.token][1]
        assert self.both("reap") == 1

    @rule(host=st.sampled_from(HOSTS), index=PROMISES)
    def steer(self, host, index):
        self.both("steer", {host: index})

    @rule(host=st.sampled_from(HOSTS), verb=st.sampled_from(["pause", "resume"]))
    def pause_or_resume(self, host, verb):
        self.both(verb, host)

    @rule(what=st.sampled_from([URLS[0], URLS[4], HOSTS[2]]))
    def take_down(self, what):
        self.both("take_down", what)
        for key, (lease, _) in list(self.leased.items()):
            if what in (lease.host, lease.url):
                self.over.append(self.leased.pop(key))

    @rule(url=st.sampled_from(URLS), verb=st.sampled_from(["retry", "drop"]))
    def look_at_a_dead_letter(self, url, verb):
        self.both(verb, url)

    @precondition(lambda self: self.over)
    @rule(data=st.data())
    def come_late(self, data):
        lease, twin = data.draw(st.sampled_from(self.over))
        for frontier, mine in ((self.real, lease), (self.spec, twin)):
            with pytest.raises(LeaseLost):
                frontier.give_back(mine)

    @invariant()
    def they_agree(self):
        if not hasattr(self, "real"):
            return
        counts = self.both("counts")
        assert sorted(self.real.dead_letters()) == sorted(self.spec.dead_letters())
        for host in HOSTS:
            self.both("best_queued", [host], 10)
            self.both("robots", host)
        idle, expected = self.real.why_idle(), self.spec.why_idle()
        untimed = set(idle) - set(TIMED)
        assert {cause: idle[cause] for cause in untimed} == {cause: expected[cause] for cause in untimed}
        self.nothing_is_lost(counts)

    def nothing_is_lost(self, counts):
        in_flight = sum(lease.kind == "page" for lease, _ in self.leased.values())
        ended = counts["pages"] + counts["dead"] + counts["skipped:robots"] + counts["skipped:dropped"]
        unmet = counts["skipped:taken_down"]  # links to a host that was taken down were never discovered
        assert counts["discovered"] <= counts["queued"] + in_flight + ended + unmet
        assert counts["leased"] == len(self.leased)


def facts(lease):
    return lease.url, lease.kind, lease.promise, lease.attempt, lease.propensity, lease.fetch_no


@pytest.mark.parametrize("partitions", [1, 4])
def test_the_frontier_does_what_its_specification_does_in_any_order(server, partitions):
    run(server, partitions, examples=20)


@pytest.mark.long
@pytest.mark.parametrize("partitions", [1, 4])
def test_the_frontier_does_what_its_specification_does_for_long(any_server, partitions):
    run(any_server, partitions, examples=150)


def run(server, partitions, *, examples):
    machine = type("Machine", (FrontierMachine,), {"server": server, "partitions": partitions})
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
