"""One walker a crawl, by the frontier's word: not two with a corpus each, not one that was thought dead."""

import signal
import socket
from dataclasses import replace

import pytest
import redis

from crawler.errors import WalkerLost
from crawler.frontier import Discovered
from deploy.walk import _wait_for_turn
from ranker.walker import Walker
from shards.errors import ShardError
from shards.manifest import FILE_NAME, Manifest
from shards.writer import LOCK_NAME, ShardWriter
from tests.conftest import eventually, open_frontier
from tests.ranker.conftest import prose
from tests.ranker.test_walker import CONFIG, committed_all, feed, fetch, put, rows, take, walk


@pytest.fixture
def frontier(server):
    return open_frontier(server, delay=0)


def beside(server, frontier):
    """Another process's view of the crawl."""
    return open_frontier(server, delay=0, crawl_id=frontier.config.crawl_id)


def end_claim(server, frontier):
    """What the passing of time does to a claim that nobody renews."""
    with redis.Redis.from_url(server.url) as client:
        client.hset(f"{frontier.prefixes[0]}meta", "walker_until", 1)


def said(log, words):
    return lambda: log.exists() and words in log.read_text()


def test_a_walker_that_was_replaced_changes_nothing_any_more(server, frontier, tmp_path):
    other, bystander = beside(server, frontier), beside(server, frontier)
    put(bystander, "https://a.test/1", "https://b.test/1")
    with ShardWriter(tmp_path, crawl_id="c") as writer:
        assert frontier.claim("lock a", "host a") == ""
        walker = Walker(frontier, writer, CONFIG)
        fetch(bystander, take(bystander), prose(1))
        walker.step()
        assert other.claim("lock b", "host b") == "host a"
        frontier.hold(now=True)
        end_claim(server, frontier)
        assert other.claim("lock b", "host b") == ""
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        for says in (
            lambda: frontier.hold(now=True),
            walker.commit,
            walker._publish,
            lambda: frontier.put([Discovered("https://c.test/", 1.0)]),
            lambda: frontier.steer({"b.test": 1.0}),
            lambda: frontier.trim_stream({"0": "9999999999999-0"}),
            lambda: frontier.spooled(0, [], 1),
            lambda: frontier.refill(0, "b.test", 1, [("/2", 5)], -1),
            lambda: frontier.stop("its disk is full"),
        ):
            with pytest.raises(WalkerLost):
                says()
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert (bystander.counts()["discovered"], bystander.counts()["backlog"]) == (2, 1)
    assert (bystander.published("walker")["kept"], bystander.reached()) == (1, "")
    put(bystander, "https://d.test/1")
    put(other, "https://d.test/2")
    assert bystander.counts()["discovered"] == 4, "who is no walker, and the one that is, go on"


def test_one_that_is_replaced_during_its_commit_commits_nothing(server, frontier, tmp_path, monkeypatch):
    put(frontier, "https://a.test/1")
    frontier.claim("lock a", "host a")
    with ShardWriter(tmp_path, crawl_id="c") as writer:
        walker = Walker(frontier, writer, CONFIG)
        fetch(frontier, take(frontier), prose(1))
        walker.step()
        write = writer.write_shard

        def stopped_meanwhile(*arguments):
            written = write(*arguments)
            end_claim(server, frontier)
            beside(server, frontier).claim("lock b", "host b")
            return written

        monkeypatch.setattr(writer, "write_shard", stopped_meanwhile)
        with pytest.raises(WalkerLost):
            walker.commit()
    assert Manifest.load(tmp_path).rows == 0
    assert beside(server, frontier).counts()["backlog"] == 1


def test_a_walker_that_was_stopped_comes_back_to_a_crawl_that_another_walks(server, frontier, tmp_path):
    logs = [tmp_path / name for name in ("a.log", "b.log")]
    with walk(server, frontier, tmp_path / "a", logs[0]) as first:
        eventually(said(logs[0], "walking"))
        first.send_signal(signal.SIGSTOP)
        with walk(server, frontier, tmp_path / "b", logs[1]) as second:
            eventually(said(logs[1], "standing by"))
            end_claim(server, frontier)
            feed(frontier, range(8))
            eventually(lambda: committed_all(frontier))
            first.send_signal(signal.SIGCONT)
            assert first.wait(60) == 2
            feed(frontier, range(10, 18))
            eventually(lambda: committed_all(frontier))
            second.terminate()
            assert second.wait(60) == 0
    where = f"{socket.gethostname()}:{(tmp_path / 'b' / 'shards').resolve()}"
    for words in ("another walker has claimed this crawl", f"that the last walker wrote at {where}, and"):
        assert words in logs[0].read_text()
    assert Manifest.load(tmp_path / "a" / "shards").rows == 0
    assert len(rows(tmp_path / "b" / "shards")) == 16


def test_without_its_lock_a_corpus_still_has_one_walker(server, frontier, tmp_path):
    logs = [tmp_path / name for name in ("a.log", "b.log")]
    shards = tmp_path / "shards"
    with walk(server, frontier, tmp_path, logs[0]) as first:
        eventually(said(logs[0], "walking"))
        (shards / LOCK_NAME).unlink()
        unlisted = shards / "shard-999999.parquet.tmp"
        unlisted.touch()
        with walk(server, frontier, tmp_path, logs[1]) as second:
            eventually(said(logs[1], "standing by"))
            feed(frontier, range(8))
            eventually(lambda: committed_all(frontier))
            assert unlisted.exists()
            assert first.poll() is None
            first.kill()
            first.wait()
            end_claim(server, frontier)
            feed(frontier, range(10, 18))
            eventually(lambda: committed_all(frontier))
            second.terminate()
            assert second.wait(60) == 0
    assert len(rows(shards)) == 16


def test_a_corpus_whose_frontier_is_gone_and_an_old_copy_of_one_are_refused(server, frontier, tmp_path):
    config = replace(frontier.config, data=tmp_path)

    def turn(crawl):
        with _wait_for_turn(crawl, config, CONFIG, lambda: False) as writer:
            return Manifest.load(writer.directory).positions

    for number in range(2):
        put(frontier, f"https://a.test/{number}")
        with _wait_for_turn(frontier, config, CONFIG, lambda: False) as writer:
            before = (config.shards / FILE_NAME).read_bytes()
            walker = Walker(frontier, writer, CONFIG)
            fetch(frontier, take(frontier), prose(number))
            walker.step()
            walker.commit()
    after = (config.shards / FILE_NAME).read_bytes()
    (config.shards / FILE_NAME).write_bytes(before)
    with pytest.raises(ShardError, match="or an old copy: it lacks pages that the last walker wrote at"):
        turn(frontier)
    (config.shards / FILE_NAME).write_bytes(after)
    assert turn(frontier) == walker._positions
    with pytest.raises(ShardError, match=r"which is new to the server: .*redis/appendonlydir"):
        turn(open_frontier(server))
    assert (config.shards / FILE_NAME).read_bytes() == after
