"""Many hosts on one server: the server is asked as one, by all workers together."""

import time
from contextlib import ExitStack

import pytest

from crawler.fetch.handler import address_group
from crawler.frontier import Discovered
from tests.conftest import article, eventually, fetched_pages, open_frontier, reply, worker


def hold(frontier, holder, address="192.0.2.1", most=2, gap=0.0, seconds=30.0):
    batch = frontier.batch()
    batch.hold_ip(address, holder, most=most, gap=gap, seconds=seconds)
    assert batch.send() == []
    return batch.waits[holder]


def release(frontier, holder, address="192.0.2.1"):
    batch = frontier.batch()
    batch.release_ip(address, holder)
    batch.send()


def test_no_more_connections_than_allowed_until_one_is_over(store):
    frontier = store.open()
    assert [hold(frontier, "a"), hold(frontier, "b")] == [0, 0]
    assert hold(frontier, "c") > 0
    assert hold(frontier, "c", address="192.0.2.2") == 0
    release(frontier, "a")
    assert hold(frontier, "c") == 0


def test_a_dead_workers_hold_ends_by_itself(store):
    frontier = store.open()
    assert hold(frontier, "dead", most=1, seconds=0.2) == 0
    assert hold(frontier, "next", most=1) > 0
    eventually(lambda: hold(frontier, "next", most=1) == 0)


def test_who_is_refused_is_told_a_turn_of_its_own(store):
    frontier = store.open()
    assert hold(frontier, "first", most=0, gap=10.0) == 0
    turns = [hold(frontier, str(n), most=0, gap=10.0) for n in range(4)]
    assert turns == pytest.approx([10, 20, 30, 40], abs=2)


def test_a_turn_is_kept(store):
    frontier = store.open()
    assert hold(frontier, "first", gap=0.2) == 0
    time.sleep(hold(frontier, "second", gap=0.2))
    assert hold(frontier, "second", gap=0.2) == 0


def test_nothing_is_left_of_an_address_that_rests(server):
    frontier = open_frontier(server)
    hold(frontier, "a", gap=0.1, seconds=1.0)
    keys = f"tinylm:{{{frontier.config.crawl_id}/ip:*"
    assert len(list(frontier.client.scan_iter(keys))) == 2
    eventually(lambda: not list(frontier.client.scan_iter(keys)))


def test_a_deferred_lease_costs_neither_an_attempt_nor_a_fetch(store):
    frontier = store.open()
    frontier.put([Discovered("http://a.test/page", 0.7)])
    for _ in range(5):
        [lease] = eventually(lambda: frontier.lease(9))
        assert lease.attempt == 1
        frontier.give_back(lease, wait=0.05)
        assert frontier.lease(9) == []
    counts = frontier.counts()
    assert (counts["fetched"], counts["leased"], counts["queued"]) == (0, 0, 1)


@pytest.mark.parametrize(
    ("address", "group"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_a_server_is_an_ipv4_address_or_an_ipv6_64(address, group):
    assert address_group(address) == group


def test_two_workers_ask_a_server_of_many_hosts_as_one(server, site, tmp_path):
    frontier = open_frontier(server, delay=0.01, attempts=1)
    hosts = [f"h{n}.test" for n in range(12)]

    def slowly(handler):
        time.sleep(0.1)
        reply(200, article("slow"))(handler)

    for host in hosts:
        site.on(host, "/robots.txt", reply(404))
        site.on(host, "*", slowly)
    frontier.put(Discovered(f"http://{host}/{n}", 0.5) for host in hosts for n in range(2))
    options = ("--ip-concurrency", "2", "--ip-delay", "0.02")
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(worker(server, frontier, site, tmp_path / "log", *options))
        eventually(frontier.finished)
    hits = sorted(site.hits, key=lambda hit: hit.begun)
    assert max(sum(hit.begun <= other.begun < hit.ended for hit in hits) for other in hits) <= 2
    assert len(fetched_pages(frontier)) == 24
    assert frontier.counts()["fetched"] == len(hits) == 36
    assert not frontier.dead_letters()
    assert hits[-1].begun - hits[0].begun >= 34 * 0.02
