import io
import json
import random
import signal
import time
import zlib
from collections import Counter
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from hashlib import sha256
from itertools import count

import numpy as np
import pytest
import redis

from crawler.frontier import Discovered
from crawler.frontier.spill import Refused, Spill
from crawler.page import Link, Page
from crawler.seeds.seed import Seed
from crawler.urls import fingerprint
from ranker.config import WalkConfig
from ranker.graph import Target
from ranker.judge.judge import Judge
from ranker.judge.quality import HashedLinear
from ranker.policy import POLICIES
from ranker.state import restored
from ranker.traps import HOSTS, URLS
from ranker.walker import Walker
from shards.errors import ShardError
from shards.manifest import Manifest
from shards.reader import ShardReader, fetch_rows, read_fetches, verify
from shards.writer import ShardWriter
from tests.conftest import command, eventually, full, open_frontier
from tests.ranker.conftest import WORDS, prose

CONFIG = WalkConfig(languages=(), shard_seconds=3600)


def fetch(frontier, lease, text, **fields):
    page = Page(
        url=lease.url,
        fetch_no=lease.fetch_no,
        fetched_at=int(time.time() * 1000),
        status=200,
        promise=lease.promise,
        propensity=lease.propensity,
        text=text,
        language="en",
        language_score=1.0,
        extractor="test 1",
        content_sha256=sha256(text.encode()).hexdigest() if text else "",
        **fields,
    )
    frontier.ack(lease, page, latency=0, size=len(text))
    return page


def take(frontier):
    """The next page lease; robots on the way are allowed to all."""
    while True:
        for lease in frontier.lease(1):
            if lease.kind == "page":
                return lease
            frontier.ack_robots(lease, "", valid=1e5, crawl_delay=0, latency=0, size=0)


def rows(directory):
    reader = ShardReader(directory, Manifest.load(directory), split="all")
    return [
        row for group in reader.row_groups for row in reader.documents(group, ("id", "url", "content_sha256"))
    ]


def put(frontier, *urls):
    frontier.put(Discovered(url, 0.5) for url in urls)


@pytest.fixture
def frontier(server):
    return open_frontier(server, delay=0)


def append_again(server, frontier, page):
    """What the stream looks like after the server lost an ack, and the page was fetched once more."""
    with redis.Redis.from_url(server.url) as client:
        client.xadd(f"{frontier.prefixes[0]}pages", {"page": page.to_bytes()})


def test_seeds_are_queued_and_pages_kept_and_their_links_followed(frontier, tmp_path):
    with ShardWriter(tmp_path, crawl_id="c") as writer:
        walker = Walker(frontier, writer, CONFIG)
        frontier.put_seeds([Seed("https://a.test/", 100.0, "test")])
        assert walker.step() == 1
        links = (
            Link("https://b.test/linked", "b", "html/body/p", False),
            Link("https://b.test/nofollow", "b", "html/body/p", True),
            Link("https://b.test/picture.png?x=1", "b", "html/body/p", False),
        )
        fetch(frontier, take(frontier), prose(1), links=links)
        walker.step()
        assert frontier.counts()["discovered"] == 2
        assert frontier.best_queued(["b.test"], 9) == ["https://b.test/linked"]
        walker.commit()
        assert writer.manifest.rows == 1
    (row,) = rows(tmp_path)
    assert row["url"] == "https://a.test/"


def test_a_page_has_the_source_of_the_seed_that_first_led_to_it_and_how_far_away_that_is(frontier, tmp_path):
    links = {
        "https://a.test/": ["https://both.test/", "https://a.test/1"],
        "https://b.test/": ["https://both.test/", "https://b.test/1"],
        "https://b.test/1": ["https://b.test/2"],
    }

    numbers = count()

    def crawl(walker, url):
        """Fetch `url`, which is next."""
        walker.step()
        lease = take(frontier)
        assert lease.url == url
        found = tuple(Link(to, "", "html/body/p", False) for to in links.get(url, ()))
        fetch(frontier, lease, prose(next(numbers)), links=found)
        walker.step()
        walker.commit()

    for source, start, *more in (
        ("search:x:otters", "https://a.test/", "https://both.test/", "https://a.test/1"),
        # A restart between: what was learned of sources is kept.
        ("chosen", "https://b.test/", "https://b.test/1", "https://b.test/2"),
    ):
        with ShardWriter(tmp_path, crawl_id="c") as writer:
            walker = Walker(frontier, writer, CONFIG)
            frontier.put_seeds([Seed(start, 5.0, source)])
            for url in (start, *more):
                crawl(walker, url)
    expected = {
        "https://a.test/": ("search:x:otters", 0),
        "https://both.test/": ("search:x:otters", 1),
        "https://a.test/1": ("search:x:otters", 1),
        "https://b.test/": ("chosen", 0),
        "https://b.test/1": ("chosen", 1),
        "https://b.test/2": ("chosen", 2),
    }
    documents = ShardReader(tmp_path, split="all")
    assert {row["url"]: (row["source"], row["source_hops"]) for row in documents} == expected
    columns = ["url", "source", "source_hops"]
    logged = [
        row for _, table in read_fetches(tmp_path, documents.manifest, columns) for row in table.to_pylist()
    ]
    assert {row["url"]: (row["source"], row["source_hops"]) for row in logged} == expected


def karma_of(walker, url):
    return walker.graph.karma[walker.graph.queued(fingerprint(url))]


def test_a_seed_given_again_counts_once_whoever_died_and_votes_of_another_source_are_added(
    frontier, tmp_path
):
    url = "https://a.test/"
    with ShardWriter(tmp_path, crawl_id="c") as writer:
        walker = Walker(frontier, writer, CONFIG)
        frontier.put_seeds([Seed(url, 100.0, "RS_2020-01.zst")] * 2)
        walker.step()
        walker.commit()
    with ShardWriter(tmp_path, crawl_id="c") as writer:
        walker = Walker(frontier, writer, CONFIG)
        frontier.put_seeds([Seed(url, 100, "RS_2020-01.zst")])
        walker.step()
        assert karma_of(walker, url) == 100
        frontier.put_seeds([Seed(url, 100.0, "RS_2020-02.zst"), Seed(url, 1.0, "chosen")])
        walker.step()
        assert karma_of(walker, url) == 201


def test_a_seed_that_moved_is_still_what_people_chose(frontier, tmp_path):
    with ShardWriter(tmp_path, crawl_id="c") as writer:
        walker = Walker(frontier, writer, CONFIG)
        untouched = {name: array.tolist() for name, array in walker.policy.state().items()}
        frontier.put_seeds([Seed("http://x.test/", 500.0, "test")])
        walker.step()
        there = (Link("https://x.test/", "", "", False),)
        fetch(frontier, take(frontier), "", reason="redirect", links=there)
        walker.step()
        assert {name: array.tolist() for name, array in walker.policy.state().items()} == untouched
        fetch(frontier, take(frontier), prose(1))
        walker.step()
        walker.commit()
    (row,) = ShardReader(tmp_path, split="all")
    assert (row["url"], row["karma"], row["inlinks"]) == ("https://x.test/", 500.0, 0)


def test_a_redirect_without_end_ends(frontier, tmp_path):
    with ShardWriter(tmp_path, crawl_id="c") as writer:
        walker = Walker(frontier, writer, CONFIG, deepest=3)
        frontier.put_seeds([Seed("https://x.test/0", 500.0, "test")])
        walker.step()
        for hop in range(1, 5):
            further = (Link(f"https://x.test/{hop}", "", "", False),)
            fetch(frontier, take(frontier), "", reason="redirect", links=further)
            walker.step()
        assert frontier.finished()


def test_the_stream_is_forgotten_only_once_it_is_committed(frontier, tmp_path):
    put(frontier, "https://a.test/1")
    with ShardWriter(tmp_path, crawl_id="c") as writer:
        walker = Walker(frontier, writer, CONFIG)
        fetch(frontier, take(frontier), prose(1))
        walker.step()
        assert frontier.counts()["backlog"] == 1
        walker.commit()
        assert frontier.counts()["backlog"] == 0


def test_a_fetch_whose_ack_was_lost_is_judged_once_even_by_a_later_walker(server, frontier, tmp_path):
    put(frontier, "https://a.test/1", "https://a.test/2")
    kept = fetch(frontier, take(frontier), prose(1))
    dropped = fetch(frontier, take(frontier), "", reason="status_404")
    with ShardWriter(tmp_path, crawl_id="c") as writer:
        walker = Walker(frontier, writer, CONFIG)
        walker.step()
        for page in (kept, dropped):
            append_again(server, frontier, page)
        walker.step()
        walker.commit()
        for page in (kept, dropped):
            append_again(server, frontier, page)
    with ShardWriter(tmp_path, crawl_id="c") as writer:
        walker = Walker(frontier, writer, CONFIG)
        assert walker.step() == 2
        walker.commit()
        assert walker.dropped == Counter(status_404=1)
    assert len(rows(tmp_path)) == 1


def test_the_same_text_under_another_url_is_dropped_also_after_a_restart(frontier, tmp_path):
    put(frontier, "https://a.test/1", "https://b.test/1", "https://c.test/1")
    for restarts in range(3):
        with ShardWriter(tmp_path, crawl_id="c") as writer:
            walker = Walker(frontier, writer, CONFIG)
            fetch(frontier, take(frontier), prose(1))
            walker.step()
            walker.commit()
            assert walker.dropped["duplicate"] == restarts
    assert len(rows(tmp_path)) == 1


def promise_of(walker, n):
    row = walker.graph.seed(Target(n, f"https://h{n}.test/x/y"), 0.0, 0.1)
    return walker.policy.promise(np.array([row])).item()


def test_what_was_learned_survives_a_restart_exactly(frontier, tmp_path):
    frontier.put_seeds([Seed(f"https://h{n % 3}.test/{n}", float(10 * (n % 2)), "test") for n in range(20)])
    with ShardWriter(tmp_path, crawl_id="c") as writer:
        walker = Walker(frontier, writer, CONFIG)
        walker.step()
        for n in range(23):
            links = (Link(f"https://new.test/{n % 3}", "x", "html", False),)
            fetch(frontier, take(frontier), prose(n), links=links)
            walker.step()
        walker.commit()
        before = walker._state()
        promises = [promise_of(walker, n) for n in range(3)]
        score = walker.judge.online.score(prose(99))
        assert score != 0.5
    with ShardWriter(tmp_path, crawl_id="c") as writer:
        again = Walker(frontier, writer, CONFIG)
        after = again._state()
        assert again.judge.online.score(prose(99)) == score
        assert promises == [promise_of(again, n) for n in range(3)]
        assert again.dropped == walker.dropped
    with np.load(io.BytesIO(before)) as old, np.load(io.BytesIO(after)) as new:
        assert sorted(old.files) == sorted(new.files)
        for name in set(old.files) - {"plain"}:
            np.testing.assert_array_equal(old[name], new[name], err_msg=name)
        plain, restored = (json.loads(state["plain"].tobytes()) for state in (old, new))
    pushed, said_again = ({url for url, *_ in state.pop("pushed")} for state in (plain, restored))
    assert plain == restored
    assert pushed == said_again, "a server may have lost it: it is said again"


def test_a_state_of_another_version_is_refused(frontier, tmp_path, monkeypatch):
    put(frontier, "https://a.test/1")
    fetch(frontier, take(frontier), prose(1))
    with ShardWriter(tmp_path, crawl_id="c") as writer:
        walker = Walker(frontier, writer, CONFIG)
        walker.step()
        monkeypatch.setattr("ranker.state._VERSION", 99)
        walker.commit()
        monkeypatch.undo()
        with pytest.raises(ShardError, match="version 99"):
            Walker(frontier, writer, CONFIG)


def test_what_was_judged_and_not_committed_is_judged_again(frontier, tmp_path):
    put(frontier, *(f"https://a.test/{n}" for n in range(4)))
    with ShardWriter(tmp_path, crawl_id="c") as writer:
        walker = Walker(frontier, writer, CONFIG)
        for n in range(2):
            fetch(frontier, take(frontier), prose(n))
        walker.step()
        walker.commit()
        for n in range(2, 4):
            fetch(frontier, take(frontier), prose(n))
        assert walker.step() == 2
    with ShardWriter(tmp_path, crawl_id="c") as writer:
        walker = Walker(frontier, writer, CONFIG)
        assert walker.step() == 2
        walker.commit()
    assert len({row["id"] for row in rows(tmp_path)}) == len(rows(tmp_path)) == 4


@contextmanager
def walking(frontier, directory, *, disk):
    """A walker, with a disk for what does not fit into memory or without one."""
    spilling = Spill(frontier, directory / "frontier.sqlite") if disk else nullcontext()
    with ShardWriter(directory, crawl_id="c") as writer, spilling as spill:
        yield Walker(frontier, writer, CONFIG, spill=spill)


@pytest.mark.parametrize("disk", [True, False])
def test_links_that_a_full_server_refuses_wait_and_are_put_once_it_has_room_also_by_a_later_walker(
    server, frontier, tmp_path, disk
):
    put(frontier, "https://a.test/1")
    links = tuple(Link(f"https://b.test/{n}", "b", "html", False) for n in range(200))
    fetch(frontier, take(frontier), prose(1), links=links)
    with walking(frontier, tmp_path, disk=disk) as walker:
        with full(server):
            assert walker.step() == 1
            assert walker.step() == 0
            walker.commit()
        assert walker.dropped["links_while_full"] == frontier.counts()["backlog"] == 0
        said = frontier.published("walker")
        assert (said["links_waiting"], said["full"]) == (200, True)
        walker.step()
        assert frontier.counts()["discovered"] == 1 + 64, "few at first"
    assert len(rows(tmp_path)) == 1
    with walking(frontier, tmp_path, disk=disk) as walker:
        assert len(walker._refused) == 200, "what was put last is put again: the server may have lost it"
        walker.step()
        walker._publish()
        said = frontier.published("walker")
        assert (said["links_waiting"], said["full"]) == (0, False)
        walker.step()
    counts = frontier.counts()
    assert (counts["discovered"], counts["queued"]) == (201, 200)
    refs = frontier.client.smembers(f"{frontier.prefixes[0]}refs:b.test")
    assert len(refs) == 1, "that a.test refers to them counts"


def test_a_seed_that_was_fetched_while_it_waited_waits_no_longer_and_its_host_is_chosen(
    server, frontier, tmp_path
):
    put(frontier, "https://a.test/1")
    lease = take(frontier)
    with walking(frontier, tmp_path, disk=False) as walker:
        frontier.put_seeds([Seed(lease.url, 5.0, "test")])
        with full(server):
            walker.step()
        walker._publish()
        assert frontier.published("walker")["seeds_waiting"] == 1
        fetch(frontier, lease, prose(1))
        walker.step()
        walker.step()
        walker._publish()
        assert frontier.published("walker")["seeds_waiting"] == 0
    assert frontier.client.hget(f"{frontier.prefixes[0]}h:a.test", "chosen") == b"1"
    assert frontier.finished()


def test_a_walker_that_is_killed_before_its_commit_loses_no_link(server, frontier, tmp_path):
    """Nor one that the server took in the last second before both lost power."""
    put(frontier, "https://a.test/1")
    fetch(frontier, take(frontier), prose(1), links=(Link("https://b.test/1", "b", "html", False),))
    with walking(frontier, tmp_path, disk=True) as walker, full(server):
        walker.step()
    with walking(frontier, tmp_path, disk=True) as walker:
        assert len(walker._refused) == 1
        walker._push(walker._priced({}, set(), walker._refused.best(9)), (), walker._refused.best(9))
        assert len(walker._refused) == 0
    with walking(frontier, tmp_path, disk=True) as walker:
        assert [link.url for link in walker._refused.best(9)] == ["https://b.test/1"]


def test_refused_links_are_bounded_and_the_best_of_them_kept(server, frontier, tmp_path, monkeypatch):
    monkeypatch.setattr("crawler.frontier.spill._REFUSED_IN_MEMORY", 3)
    refused = Refused.in_memory()
    assert refused.add([Discovered(f"https://a.test/{n}", n / 10) for n in range(5)]) == 2
    assert [link.url[-1] for link in refused.best(9)] == ["4", "3", "2"]
    put(frontier, "https://a.test/1")
    links = tuple(Link(f"https://b.test/{n}", "b", "html", False) for n in range(5))
    fetch(frontier, take(frontier), prose(1), links=links)
    with walking(frontier, tmp_path, disk=False) as walker, full(server):
        walker.step()
        assert walker.dropped == Counter(links_while_full=2)


def test_seeds_that_a_full_server_refuses_are_queued_once_it_has_room_also_by_a_later_walker(
    server, frontier, tmp_path
):
    frontier.put_seeds([Seed(f"https://a.test/{n}", 5.0, "test") for n in range(3)])
    with full(server), ShardWriter(tmp_path, crawl_id="c") as writer:
        walker = Walker(frontier, writer, CONFIG)
        walker.step()
        walker.commit()
        assert frontier.counts()["backlog"] == 0
    with ShardWriter(tmp_path, crawl_id="c") as writer:
        walker = Walker(frontier, writer, CONFIG)
        with full(server):
            walker.step()
        assert frontier.counts()["queued"] == 0
        walker.step()
        walker.step()
        assert frontier.counts()["queued"] == 3
        assert not walker.dropped


def test_opted_out_and_foreign_pages_are_dropped_with_their_reason(frontier, tmp_path):
    put(frontier, *(f"https://a.test/{n}" for n in range(2)))
    config = WalkConfig(languages=("de",), shard_seconds=3600)
    with ShardWriter(tmp_path, crawl_id="c") as writer:
        walker = Walker(frontier, writer, config)
        fetch(frontier, take(frontier), prose(1), opt_out=("meta:noai",))
        fetch(frontier, take(frontier), prose(2))
        walker.step()
        assert walker.dropped == Counter(opt_out=1, language=1)


@pytest.mark.parametrize("signal", ["robots:ai-train=no", "header:tdm-reservation=1"])
def test_every_signal_against_training_is_obeyed_unless_told_otherwise(frontier, tmp_path, signal):
    for obey in (True, False):
        put(frontier, f"https://a.test/{obey}")
        with ShardWriter(tmp_path / str(obey), crawl_id="c") as writer:
            walker = Walker(frontier, writer, WalkConfig(languages=(), obey_opt_out=obey))
            fetch(frontier, take(frontier), prose(1), opt_out=("robots:ai-input=no", signal))
            walker.step()
            assert walker.dropped["opt_out"] == int(obey)
            walker.commit()


def test_a_list_is_no_judge_of_what_it_lists(frontier, tmp_path):
    """A sitemap has no text and is worth nothing; what it lists promises what its host does."""
    put(frontier, "https://a.test/sitemap.xml")
    with ShardWriter(tmp_path, crawl_id="c") as writer:
        walker = Walker(frontier, writer, CONFIG)
        listed = Link("https://a.test/x", "", "urlset/url/loc", False)
        packed = Link("https://a.test/more.xml.gz", "", "sitemapindex/sitemap/loc", False)
        archive = Link("https://a.test/data.gz", "", "urlset/url/loc", False)
        fetch(frontier, take(frontier), "", reason="sitemap", links=(listed, packed, archive))
        walker.step()
        row = walker.graph.queued(fingerprint("https://a.test/x"))
        assert (walker.graph.inlinks[row], walker.graph.depth[row]) == (0, 1)
        assert set(frontier.best_queued(["a.test"], 9)) == {listed.url, packed.url}
        assert walker.dropped == Counter(sitemap=1)


# Walkers as processes


def walk(server, frontier, data, log, *options):
    crawl_id = frontier.prefixes[0].split("{")[1].split("/")[0]
    return command(
        log, "walk", "--redis-url", server.url, "--crawl-id", crawl_id, "--data", str(data),
        "--disk-reserve-gigabytes", "0", "--shard-seconds", "0.3", "--languages", "en", *options,
    )  # fmt: skip


def feed(frontier, numbers):
    for n in numbers:
        put(frontier, f"https://h{n % 5}.test/{n}")
        lease = take(frontier)
        fetch(frontier, lease, prose(n % 50 if n % 10 == 9 else n))


def committed_all(frontier):
    return not frontier.counts()["backlog"]


def test_a_second_walker_stands_by_and_takes_over(server, frontier, tmp_path):
    with (
        walk(server, frontier, tmp_path, tmp_path / "first.log") as first,
        walk(server, frontier, tmp_path, tmp_path / "second.log") as second,
    ):
        feed(frontier, range(8))
        eventually(lambda: committed_all(frontier))
        logs = (tmp_path / "first.log", tmp_path / "second.log")
        eventually(lambda: any("standing by" in log.read_text() for log in logs))
        leading, waiting = (first, second) if "standing by" in logs[1].read_text() else (second, first)
        leading.send_signal(signal.SIGKILL)
        leading.wait()
        feed(frontier, range(10, 18))
        eventually(lambda: committed_all(frontier))
        waiting.terminate()
        assert waiting.wait(60) == 0
    assert len(rows(tmp_path / "shards")) == 16


@pytest.mark.long
def test_killed_at_any_moment_every_page_is_in_the_corpus_once_or_counted(server, frontier, tmp_path):
    chance, total = random.Random(7), 400
    fed = 0
    for _ in range(6):
        with walk(server, frontier, tmp_path, tmp_path / "log") as process:
            give_up = time.monotonic() + chance.uniform(1.0, 4.0)
            while time.monotonic() < give_up and fed < total:
                feed(frontier, [fed])
                fed += 1
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            process.wait()
    feed(frontier, range(fed, total))
    with walk(server, frontier, tmp_path, tmp_path / "log") as process:
        eventually(lambda: committed_all(frontier))
        process.terminate()
        assert process.wait(60) == 0
    kept = rows(tmp_path / "shards")
    dropped = Manifest.load(tmp_path / "shards").dropped
    assert len({row["id"] for row in kept}) == len({row["content_sha256"] for row in kept}) == len(kept)
    assert len(kept) + sum(dropped.values()) == total
    assert dropped["duplicate"] > 0
    assert list(verify(tmp_path / "shards")) == []


def test_what_a_host_answers_to_everything_is_a_soft_404_and_its_links_are_not_followed(frontier, tmp_path):
    put(frontier, *(f"https://a.test/{n}" for n in range(8)))
    for n in range(8):
        link = Link(f"https://b.test/{n}", "b", "html/body/p", False)
        fetch(frontier, take(frontier), prose(1), links=(link,))
    with ShardWriter(tmp_path, crawl_id="c") as writer:
        walker = Walker(frontier, writer, CONFIG)
        walker.step()
        assert walker.dropped == Counter(duplicate=4, soft_404=3)
        assert frontier.counts()["discovered"] == 8 + 5


def test_links_into_a_trap_are_counted_and_not_followed_also_after_a_restart(frontier, tmp_path):
    put(frontier, "https://a.test/1", "https://a.test/2")
    for restarts in range(2):
        with ShardWriter(tmp_path, crawl_id="c") as writer:
            walker = Walker(frontier, writer, CONFIG)
            if not restarts:
                for n in range(60):
                    walker.traps.fetched(f"https://c.test/day/{n}", "", kept=False)
            paths = ("day/99", "a/a/a/", "good")
            links = tuple(Link(f"https://c.test/{path}", "", "html/body/p", False) for path in paths)
            fetch(frontier, take(frontier), prose(restarts), links=links)
            walker.step()
            walker.commit()
            assert walker.dropped == Counter(trap_pattern=restarts + 1, trap_repeats=restarts + 1)
    assert frontier.counts()["discovered"] == 3


def test_names_are_free_so_a_page_that_invents_hosts_fills_no_table(frontier, tmp_path):
    def links(count, farm, *more):
        urls = [f"https://x{n}.{farm}/{path}" for n in range(count) for path in ("", "more")]
        return tuple(Link(url, "", "html/body/p", False) for url in (*urls, *more))

    put(frontier, "https://a.test/1", "https://b.test/1", "https://c.test/1")
    by_host = {lease.url: lease for lease in (take(frontier), take(frontier), take(frontier))}
    with ShardWriter(tmp_path, crawl_id="c") as writer:
        walker = Walker(frontier, writer, CONFIG)
        fetch(frontier, by_host["https://a.test/1"], prose(1), links=links(990, "evil.test"))
        walker.step()
        assert walker.dropped == Counter(trap_new_hosts=2 * 490)
        assert (walker.graph.hosts, len(walker.graph)) == (501, 1000)
        assert frontier.counts()["hosts"] == 503
        # Those that were met are followed, from wherever, and a directory is followed whole.
        fetch(
            frontier, by_host["https://b.test/1"], prose(2), links=links(500, "evil.test", "https://c.test/")
        )
        fetch(frontier, by_host["https://c.test/1"], prose(3), links=links(500, "good.test"))
        walker.step()
        assert walker.dropped == Counter(trap_new_hosts=2 * 490)
        assert frontier.counts()["hosts"] == 1003


def test_a_domain_that_named_too_many_urls_still_refers_to_those_that_are_known(frontier, tmp_path):
    put(frontier, "https://x.a.test/", "https://y.a.test/")
    leases = [take(frontier), take(frontier)]
    with ShardWriter(tmp_path, crawl_id="c") as writer:
        walker = Walker(frontier, writer, CONFIG)
        walker.traps.named(URLS, "a.test", URLS.domain - 20)
        for lease, numbers in zip(leases, (range(30), range(20, 60)), strict=True):
            links = tuple(Link(f"https://b.test/{n}", "", "html/body/p", False) for n in numbers)
            fetch(frontier, lease, "too short", links=links)
            walker.step()
        assert walker.dropped["trap_new_urls"] == 30
        assert len(walker.graph) == 30
        row = walker.graph.queued(fingerprint("https://b.test/29"))
        assert walker.graph.inlinks[row] == 2


def test_redirects_cost_a_fetch_each_so_they_are_no_free_names(frontier, tmp_path):
    with ShardWriter(tmp_path, crawl_id="c") as writer:
        walker = Walker(frontier, writer, CONFIG)
        for names in (HOSTS, URLS):
            walker.traps.named(names, "short.test", names.domain)
        put(frontier, "https://short.test/1")
        fetch(
            frontier, take(frontier), "", reason="redirect", links=(Link("https://b.test/", "", "", False),)
        )
        walker.step()
        assert (frontier.best_queued(["b.test"], 9), walker.dropped["trap_new_hosts"]) == (
            ["https://b.test/"],
            0,
        )


# What was expected, and what it brought


def test_every_fetch_is_logged_with_what_was_expected_of_it(frontier, tmp_path):
    put(frontier, "https://a.test/1")
    links = (Link("https://b.test/guide/x", "a guide", "html/body/main/p", False),)
    with ShardWriter(tmp_path, crawl_id="c") as writer:
        walker = Walker(frontier, writer, CONFIG)
        fetch(frontier, take(frontier), prose(1), links=links)
        walker.step()
        fetch(frontier, take(frontier), "too short")
        walker.step()
        walker.commit()
        [(_, logged)] = read_fetches(tmp_path, writer.manifest)
    kept, dropped = fetch_rows(logged)
    assert (kept.reason, dropped.url) == ("", "https://b.test/guide/x")
    assert dropped.reason
    assert dropped.worth == 0 < kept.worth
    assert dropped.policy == "tinylm"
    assert dropped.promise > 0
    for one in (kept, dropped):
        assert sum(one.ingredients.values()) == pytest.approx(one.expected, abs=1e-6)
    assert dropped.ingredients["parents, mean"] != 0


def test_what_the_walker_knew_can_be_asked_without_it(frontier, tmp_path):
    put(frontier, "https://a.test/1")
    links = (Link("https://b.test/x", "", "html/body/p", False),)
    with ShardWriter(tmp_path, crawl_id="c") as writer:
        with pytest.raises(ShardError, match="no walker has committed"):
            restored(tmp_path)
        walker = Walker(frontier, writer, CONFIG)
        fetch(frontier, take(frontier), prose(1), links=links)
        walker.step()
        walker.commit()
        graph, policy = restored(tmp_path)
        rows = [known.queued(fingerprint("https://b.test/x")) for known in (graph, walker.graph)]
        assert policy.promise(np.array(rows[:1])) == walker.policy.promise(np.array(rows[1:]))


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_every_policy_steers_a_crawl(frontier, tmp_path, name):
    put(frontier, "https://a.test/1", "https://b.test/1")
    with ShardWriter(tmp_path, crawl_id="c") as writer:
        walker = Walker(frontier, writer, replace(CONFIG, policy=name))
        for number in range(4):
            link = Link(f"https://c{number}.test/{number}", "c", "html/body/p", False)
            fetch(frontier, take(frontier), prose(number), links=(link,))
            walker.step()
        walker.commit()
        again = Walker(frontier, writer, replace(CONFIG, policy=name))
        assert again.policy.name == name
        assert len(again.graph) == len(walker.graph)
    assert {row["policy"] for row in ShardReader(tmp_path, split="all")} == {name}


# Taken down


def test_what_is_taken_down_beside_a_crawl_is_not_kept_and_stays_down_in_the_corpus(frontier, tmp_path):
    with ShardWriter(tmp_path, crawl_id="c") as writer:
        walker = Walker(frontier, writer, CONFIG)
        put(frontier, "https://a.test/1", "https://a.test/2", "https://b.test/1", "https://c.test/1")
        leases = {lease.url: lease for lease in (take(frontier), take(frontier), take(frontier))}
        for number, lease in enumerate(leases.values()):
            fetch(frontier, lease, prose(number))
        [of_a] = [url for url in leases if "//a.test" in url]
        frontier.take_down("b.test")
        walker.step()
        frontier.take_down(of_a)
        walker.commit()
        assert writer.manifest.tombstones == tuple(sorted(["b.test", of_a]))
        frontier.take_down("c.test")
        walker.commit()
        assert "c.test" in writer.manifest.tombstones
        fetch(frontier, take(frontier), prose(7))
        walker.step()
        walker.commit()
        assert walker.dropped["taken_down"] == 0
    assert [row["url"].rpartition("/")[0] for row in rows(tmp_path)] == ["https://a.test"]


def test_a_page_that_was_on_its_way_when_it_was_taken_down_is_dropped(frontier, tmp_path):
    with ShardWriter(tmp_path, crawl_id="c") as writer:
        walker = Walker(frontier, writer, CONFIG)
        put(frontier, "https://a.test/1")
        fetch(frontier, take(frontier), prose(1))
        frontier.take_down("a.test")
        walker.commit()
        walker.step()
        assert walker.dropped["taken_down"] == 1


def test_a_crawl_that_begins_anew_on_a_corpus_is_told_what_was_taken_down(server, tmp_path):
    with ShardWriter(tmp_path, crawl_id="c") as writer:
        writer.update(tombstones=("a.test", "https://b.test/1"))
        frontier = open_frontier(server, delay=0)
        Walker(frontier, writer, CONFIG)
        put(frontier, "https://a.test/1", "https://b.test/1", "https://b.test/2")
        assert frontier.taken_down() == {"a.test", "https://b.test/1"}
        assert take(frontier).url == "https://b.test/2"
        assert frontier.counts()["queued"] == 0


def test_nearly_the_same_text_is_dropped_also_after_a_restart_and_its_links_are_still_followed(
    frontier, tmp_path
):
    put(frontier, "https://a.test/1", "https://b.test/1")
    nearly = prose(1).replace(WORDS[0], "another")
    for restarts, text in enumerate((prose(1), nearly)):
        with ShardWriter(tmp_path, crawl_id="c") as writer:
            walker = Walker(frontier, writer, CONFIG)
            link = Link(f"https://c.test/{restarts}", "c", "html/body/p", False)
            fetch(frontier, take(frontier), text, links=(link,))
            walker.step()
            walker.commit()
            assert walker.dropped["near_duplicate"] == restarts
    assert len(rows(tmp_path)) == 1
    assert frontier.counts()["discovered"] == 4


def test_a_document_says_how_it_was_scored(frontier, tmp_path):
    put(frontier, "https://a.test/1")
    with ShardWriter(tmp_path, crawl_id="c") as writer:
        walker = Walker(frontier, writer, CONFIG)
        fetch(frontier, take(frontier), prose(1))
        walker.step()
        walker.commit()
    (row,) = ShardReader(tmp_path, split="all")
    assert (row["quality_model"], row["novelty"]) == ("online", 1.0)
    assert row["rps_doc_word_count"] == len(prose(1).split())
    # Nobody said where this one came from.
    assert {name for name, value in row.items() if value is None} == {"source", "source_hops"}


def test_the_model_is_exchanged_while_the_walker_runs_and_a_restart_keeps_it(
    server, frontier, tmp_path, classifier
):
    """By the command, beside a walker that is a process of its own."""
    crawl_id = frontier.config.crawl_id
    told = ["frontier", "quality", "--redis-url", server.url, "--crawl-id", crawl_id]

    def model():
        return frontier.published("walker").get("quality_model")

    def fed(numbers):
        feed(frontier, numbers)
        eventually(lambda: committed_all(frontier))

    with walk(server, frontier, tmp_path, tmp_path / "log") as process:
        fed([1])
        with command(tmp_path / "told", *told, "typo.bin") as said:
            assert said.wait(60) == 0
        eventually(lambda: "online goes on judging" in (tmp_path / "log").read_text())
        with command(tmp_path / "told", *told, str(classifier)) as said:
            assert said.wait(60) == 0
        eventually(lambda: model() == "fasttext hq.bin __label__hq")
        fed([2])
        process.send_signal(signal.SIGKILL)
        process.wait()
    frontier.publish("quality", {})  # A server that lost its memory does not matter
    with walk(server, frontier, tmp_path, tmp_path / "log") as process:
        fed([3])
        with command(tmp_path / "told", *told, "online") as said:
            assert said.wait(60) == 0
        eventually(lambda: model() == "online")
        fed([4])
        process.terminate()
        assert process.wait(60) == 0
    models = {row["url"][-1]: row["quality_model"] for row in ShardReader(tmp_path / "shards", split="all")}
    other = "fasttext hq.bin __label__hq"
    assert models == {"1": "online", "2": other, "3": other, "4": "online"}


def spoil(server, frontier, **fields):
    """An entry of the stream that no worker made."""
    with redis.Redis.from_url(server.url) as client:
        return client.xadd(f"{frontier.prefixes[0]}pages", fields)


def test_an_entry_that_cannot_be_read_is_set_aside_and_the_stream_goes_on_also_after_a_restart(
    server, frontier, tmp_path
):
    spoiled = [
        spoil(server, frontier, page=zlib.compress(b" " * (1 << 25))),
        spoil(server, frontier, page=b"no page"),
        spoil(server, frontier, seeds=json.dumps([["https://a.test/", float("nan"), "x"]])),
        *(spoil(server, frontier, seeds=data) for data in ("", "{", "1", "[1]", "[" * 100_000, b"\xff")),
        spoil(server, frontier, at="nowhere"),
        spoil(server, frontier, at=f"b {1 << 20} 99999999"),
        spoil(server, frontier, at=f"b 0 {'9' * 30}"),
        spoil(server, frontier, nothing="x"),
    ]
    put(frontier, "https://a.test/")
    with ShardWriter(tmp_path, crawl_id="c") as writer:
        walker = Walker(frontier, writer, CONFIG)
        fetch(frontier, take(frontier), prose(1))
        assert walker.step() == 14
        assert walker.step() == 0
    # Not committed: the next walker meets them again, and they are listed once.
    with ShardWriter(tmp_path, crawl_id="c") as writer:
        walker = Walker(frontier, writer, CONFIG)
        assert walker.step() == 14
        walker.commit()
        assert (writer.manifest.rows, frontier.counts()["backlog"]) == (1, 0)
    names = [f"entry:0/{entry_id.decode()}" for entry_id in spoiled]
    assert sorted(name for name, _ in frontier.dead_letters()) == sorted(names)
    assert frontier.counts()["set_aside"] == 13
    assert all(frontier.drop(name) for name in names)
    assert (frontier.dead_letters(), frontier.counts()["set_aside"]) == ([], 0)
    assert frontier.counts()["set_aside_bytes"] == 0


def test_a_page_that_cannot_be_judged_is_set_aside_and_kept_as_it_was_when_it_is_tried_again(
    frontier, tmp_path, monkeypatch
):
    hosts = ["a.test", "b.test", "c.test"]
    put(frontier, *(f"https://{host}/" for host in hosts))
    links = (Link("https://b.test/next", "b", "html/body/p", False),)
    for number, _ in enumerate(hosts):
        fetch(frontier, take(frontier), prose(number), links=links)
    real, scored = HashedLinear.score, []

    def broken(self, signals):
        scored.append(signals)
        if len(scored) == 2:
            raise RecursionError("too deep for us")
        return real(self, signals)

    with ShardWriter(tmp_path, crawl_id="c") as writer:
        walker = Walker(frontier, writer, CONFIG)
        with monkeypatch.context() as patch:
            patch.setattr(HashedLinear, "score", broken)
            assert walker.step() == 3
        walker.commit()
        assert writer.manifest.rows == 2
        [(name, reason)] = frontier.dead_letters()
        assert reason == "RecursionError: too deep for us"
        assert frontier.counts()["backlog"] == 0
    with ShardWriter(tmp_path, crawl_id="c") as writer:
        walker = Walker(frontier, writer, CONFIG)
        assert frontier.retry(name)
        assert (frontier.retry(name), frontier.dead_letters()) == (False, [])
        assert walker.step() == 1
        walker.commit()
        assert {row["url"] for row in rows(tmp_path)} == {f"https://{host}/" for host in hosts}


@pytest.mark.parametrize("where", ["fetched", "observe"])
def test_what_raises_when_it_is_learned_costs_one_page_and_no_row(frontier, tmp_path, monkeypatch, where):
    put(frontier, "https://a.test/", "https://b.test/")
    fetch(frontier, take(frontier), prose(1))
    fetch(frontier, take(frontier), prose(2))
    with ShardWriter(tmp_path, crawl_id="c") as writer:
        walker = Walker(frontier, writer, CONFIG)
        owner = walker.traps if where == "fetched" else walker.policy
        real, calls = getattr(owner, where), []

        def once(*args, **kwargs):
            calls.append(args)
            if len(calls) == 1:
                raise ValueError("a mistake")
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, where, once)
        walker.step()
        walker.commit()
        assert writer.manifest.rows == 1
        [(_, reason)] = frontier.dead_letters()
        assert reason == "ValueError: a mistake"
        assert walker.graph._rows_used == len(walker.graph._free) == 1


def test_without_memory_what_is_held_is_committed_first_and_then_one_entry_is_set_aside(
    frontier, tmp_path, monkeypatch
):
    put(frontier, *(f"https://{host}.test/" for host in "abcd"))
    urls = [fetch(frontier, take(frontier), prose(number)).url for number in range(4)]
    real, tried = Judge.__call__, []

    def hungry(self, page, *votes):
        tried.append(page.url)
        if page.url == urls[2] or (page.url == urls[1] and tried.count(page.url) == 1):
            raise MemoryError
        return real(self, page, *votes)

    monkeypatch.setattr(Judge, "__call__", hungry)
    with ShardWriter(tmp_path, crawl_id="c") as writer:
        walker = Walker(frontier, writer, CONFIG)
        while walker.step():
            pass
        walker.commit()
        assert {row["url"] for row in rows(tmp_path)} == {urls[0], urls[1], urls[3]}
    assert tried == [urls[0], urls[1], urls[1], urls[2], urls[2], urls[3]]
    [(_, reason)] = frontier.dead_letters()
    assert reason == "there is no memory for it"


def test_the_list_of_what_was_set_aside_is_bounded(server, frontier, tmp_path):
    for number in range(1010):
        spoil(server, frontier, page=f"no page {number}")
    with ShardWriter(tmp_path, crawl_id="c") as writer:
        walker = Walker(frontier, writer, CONFIG)
        while walker.step():
            pass
        walker.commit()
    counts = frontier.counts()
    assert (counts["set_aside"], counts["set_aside_lost"], counts["backlog"]) == (1000, 10, 0)
    assert len(frontier.dead_letters()) == 1000


def test_links_count_towards_a_commit(frontier, tmp_path, monkeypatch):
    """Pages without a text, of 2,000 links each, held until the walker died."""
    monkeypatch.setattr("ranker.walker._HELD_BYTES", 1e6)
    urls = [f"https://h{number}.test/" for number in range(3)]
    put(frontier, *urls)
    for _ in urls:
        lease = take(frontier)
        found = tuple(Link(f"{lease.url}{number}", "a" * 100, "p" * 200, False) for number in range(2000))
        fetch(frontier, lease, "", reason="pre_short", links=found)
    with ShardWriter(tmp_path, crawl_id="c") as writer:
        walker = Walker(frontier, writer, CONFIG)
        held = []
        while walker.step():
            held.append(writer.buffered_bytes)
            walker.commit_if_due()
            assert writer.buffered_bytes == 0
        assert held[0] > 3 * 2000 * 300
        assert len(writer.manifest.shards) == len(held)


def test_a_step_holds_few_large_pages_and_many_small_ones(frontier, monkeypatch, tmp_path):
    monkeypatch.setattr("crawler.frontier.frontier._HELD_BYTES", 1_000_000)
    urls = [f"https://h{number}.test/" for number in range(12)]
    put(frontier, *urls)
    for number, _ in enumerate(urls):
        fetch(frontier, take(frontier), "a word " * (60_000 if number < 6 else 10))
    with ShardWriter(tmp_path, crawl_id="c") as writer:
        walker = Walker(frontier, writer, CONFIG)
        taken = []
        while step := walker.step():
            taken.append(step)
        assert taken == [3, 3, 6]
    monkeypatch.setattr("crawler.frontier.frontier._READ_BYTES", 1)
    assert len(frontier.read_stream({}, 64)) == 1
