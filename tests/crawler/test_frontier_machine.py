"""The frontier against its executable specification: a model in a few dozen lines."""

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

from crawler.errors import LeaseLost
from crawler.frontier import Discovered
from crawler.urls import locate
from tests.conftest import close_clients, make_page, open_frontier

HOSTS = ("a.test", "b.test", "c.test")
URLS = [f"https://{host}/{n}" for host in HOSTS for n in range(3)]
DELAY, ATTEMPTS, NEW_HOST = 0.004, 2, 0.3
PROMISES = st.sampled_from([0.125, 0.25, 0.5, 0.75, 1.0])


class FrontierMachine(RuleBasedStateMachine):
    server = None
    partitions = 1

    @initialize()
    def begin(self):
        self.frontier = open_frontier(
            self.server, delay=DELAY, attempts=ATTEMPTS, partitions=self.partitions, backlog=10_000
        )
        self.client = redis.Redis.from_url(self.server.url)
        self.queued: dict[str, float] = {}
        self.leased: dict[tuple[int, int], object] = {}
        self.over: list[object] = []
        self.failures: dict[str, int] = {}
        self.seen, self.fetched, self.skipped, self.dead = set(), set(), set(), set()
        self.admitted: set[str] = set()
        self.index: dict[str, float] = {}
        self.rested: dict[str, float] = {}

    def teardown(self):
        if hasattr(self, "client"):
            self.client.close()
            close_clients()

    def now(self):
        seconds, microseconds = self.client.time()
        return seconds + microseconds / 1e6

    def queue(self, host):
        return {url: promise for url, promise in self.queued.items() if locate(url).host == host}

    def rank(self, host):
        return max(self.queue(host).values()) + self.index.get(host, NEW_HOST)

    def over_with(self, lease, *, rests=True):
        del self.leased[lease.key]
        self.over.append(lease)
        if rests:
            self.rested[lease.host] = self.now()

    def fail(self, lease, promise):
        if lease.kind == "robots":
            return
        self.failures[lease.url] = self.failures.get(lease.url, 0) + 1
        if self.failures[lease.url] == ATTEMPTS:
            self.dead.add(lease.url)
        else:
            self.queued[lease.url] = promise

    @rule(url=st.sampled_from(URLS), promise=PROMISES)
    def put(self, url, promise):
        assert self.frontier.put([Discovered(url, promise)]) == (url not in self.seen)
        if url not in self.seen or url in self.queued:
            self.queued[url] = promise
        if url not in self.seen and locate(url).host not in self.index:
            self.index[locate(url).host] = NEW_HOST
        self.seen.add(url)

    def able(self):
        busy = {lease.host for lease in self.leased.values()}
        return {host for host in HOSTS if self.queue(host) and host not in busy}

    @rule(n=st.integers(1, 4))
    def lease(self, n):
        able = self.able()
        time.sleep(DELAY + 0.002)
        leases = self.frontier.lease(n)
        assert len(leases) == min(n, len(able))
        left = able - {lease.host for lease in leases}
        if self.partitions == 1:
            assert all(self.rank(lease.host) >= self.rank(other) for lease in leases for other in left)
        self.check(leases, able)
        for lease in leases:
            self.leased[lease.key] = lease
            if lease.kind == "page":
                del self.queued[lease.url]

    @rule()
    def lease_in_haste_and_give_back(self):
        """How many come depends on the clock, so the model must not."""
        leases = self.frontier.lease(4)
        self.check(leases, self.able())
        for lease in leases:
            self.frontier.give_back(lease)

    def check(self, leases, able):
        now = self.now()
        assert len({lease.host for lease in leases}) == len(leases)
        for lease in leases:
            assert lease.host in able
            assert now >= self.rested.get(lease.host, 0) + DELAY - 0.001
            assert (lease.kind == "page") == (lease.host in self.admitted)
            if lease.kind == "page":
                assert lease.promise == self.queued[lease.url] == max(self.queue(lease.host).values())
                assert lease.attempt == 1 + self.failures.get(lease.url, 0)

    def some(self, data):
        return self.leased[data.draw(st.sampled_from(sorted(self.leased)))]

    @precondition(lambda self: self.leased)
    @rule(data=st.data())
    def ack(self, data):
        lease = self.some(data)
        self.over_with(lease)
        if lease.kind == "robots":
            self.frontier.ack_robots(lease, "", valid=3600, crawl_delay=0, latency=0, size=0)
            self.admitted.add(lease.host)
        else:
            self.frontier.ack(lease, make_page(lease), latency=0, size=0)
            self.fetched.add(lease.url)
            self.failures.pop(lease.url, None)

    @precondition(lambda self: self.leased)
    @rule(data=st.data(), sent=st.booleans())
    def nack(self, data, sent):
        lease = self.some(data)
        self.over_with(lease)
        self.frontier.nack(lease, "status_500", sent=sent)
        self.fail(lease, lease.promise / 2)

    @precondition(lambda self: self.leased)
    @rule(data=st.data())
    def skip(self, data):
        lease = self.some(data)
        self.frontier.skip(lease, "robots")
        self.over_with(lease, rests=False)
        done_with = self.queue(lease.host) if lease.kind == "robots" else {lease.url: 0}
        self.skipped |= done_with.keys()
        for url in done_with:
            self.queued.pop(url, None)
        if lease.kind == "page":
            self.failures.pop(lease.url, None)

    @precondition(lambda self: self.leased)
    @rule(data=st.data())
    def give_back(self, data):
        lease = self.some(data)
        self.frontier.give_back(lease)
        self.over_with(lease, rests=False)
        if lease.kind == "page":
            self.queued[lease.url] = lease.promise

    @precondition(lambda self: self.leased)
    @rule(data=st.data())
    def expire(self, data):
        lease = self.some(data)
        prefix = self.frontier.prefixes[lease.partition]
        self.client.zadd(f"{prefix}deadlines", {lease.token: 1}, xx=True)
        self.over_with(lease)
        assert self.frontier.reap() == 1
        self.fail(lease, lease.promise)

    @rule(host=st.sampled_from(HOSTS), index=PROMISES)
    def steer(self, host, index):
        self.frontier.steer({host: index})
        if host in self.index:
            self.index[host] = index

    @precondition(lambda self: self.over)
    @rule(data=st.data())
    def come_late(self, data):
        lease = data.draw(st.sampled_from(self.over))
        with pytest.raises(LeaseLost):
            self.frontier.give_back(lease)

    @invariant()
    def nothing_is_lost(self):
        if not hasattr(self, "frontier"):
            return
        counts = self.frontier.counts()
        pages = [lease for lease in self.leased.values() if lease.kind == "page"]
        assert counts["discovered"] == len(self.seen)
        assert counts["queued"] == len(self.queued)
        assert counts["leased"] == len(self.leased)
        assert counts["pages"] == counts["backlog"] == len(self.fetched)
        assert counts["skipped:robots"] == len(self.skipped)
        assert counts["dead"] == len(self.dead)
        assert len(self.seen) == sum(map(len, (self.queued, pages, self.fetched, self.skipped, self.dead)))
        assert sorted(url for url, _ in self.frontier.dead_letters()) == sorted(self.dead)
        listed = [url for host in HOSTS for url in self.frontier.best_queued([host], 10)]
        assert sorted(listed) == sorted(self.queued)
        assert self.frontier.finished() == (not self.queued and not self.leased)


@pytest.mark.parametrize("partitions", [1, 4])
def test_the_frontier_does_what_its_model_says_in_any_order(server, partitions):
    run(server, partitions, examples=20)


@pytest.mark.long
@pytest.mark.parametrize("partitions", [1, 4])
def test_the_frontier_does_what_its_model_says_for_long(any_server, partitions):
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
