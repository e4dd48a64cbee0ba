"""What a supervisor sees: heartbeats that stop with the work, standbys that take over, quick ends."""

import signal
import threading
import time

import pytest

from crawler.frontier import Discovered
from tests.conftest import article, command, eventually, kill, open_frontier, reply, running_server, worker

LEASES = 8


def beats(file, seconds=10.0):
    """Whether `file` is touched again within `seconds`."""
    file.unlink(missing_ok=True)
    give_up = time.monotonic() + seconds
    while not file.exists() and time.monotonic() < give_up:
        time.sleep(0.02)
    return file.exists()


def walk(server, frontier, directory, name):
    crawl_id = frontier.config.crawl_id
    arguments = ("walk", "--redis-url", server.url, "--crawl-id", crawl_id, "--data", directory)
    environment = {"TINYLM_HEARTBEAT": str(directory / name), "TINYLM_CRAWL_DISK_RESERVE_GIGABYTES": "0"}
    return command(directory / f"{name}.log", *map(str, arguments), **environment)


@pytest.mark.long
def test_walkers_stand_by_and_beat_and_one_takes_over_from_a_killed_one(server, tmp_path):
    frontier = open_frontier(server)
    log = {name: tmp_path / f"{name}.log" for name in ("first", "second", "third")}
    with walk(server, frontier, tmp_path, "first") as first:
        eventually(lambda: " walking " in log["first"].read_text())
        with (
            walk(server, frontier, tmp_path, "second") as second,
            walk(server, frontier, tmp_path, "third") as third,
        ):
            eventually(lambda: all("standing by" in log[name].read_text() for name in ("second", "third")))
            assert all(beats(tmp_path / name) for name in log)
            third.terminate()
            assert third.wait(10) == 0  # a standby has nothing to commit
            first.kill()
            eventually(lambda: " walking " in log["second"].read_text())
            assert beats(tmp_path / "second")
            second.terminate()
            assert second.wait(30) == 0


@pytest.mark.long
def test_a_walker_that_is_told_to_stop_again_and_again_stops(server, tmp_path):
    """As by a supervisor, the terminal and the kernel at once, when its parent is killed."""
    frontier, log = open_frontier(server), tmp_path / "walker.log"
    with walk(server, frontier, tmp_path, "walker") as process:
        eventually(lambda: " walking " in log.read_text())
        while "stopping:" not in log.read_text():
            process.send_signal(signal.SIGTERM)
            process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    assert log.read_text().count("stopping:") == 1


@pytest.mark.long
def test_a_worker_beats_while_the_frontier_answers_it_though_there_is_nothing_to_do(site, tmp_path):
    heartbeat = tmp_path / "heartbeat"
    with running_server(tmp_path / "redis") as first:
        frontier = open_frontier(first)
        with worker(first, frontier, site, tmp_path / "log", TINYLM_HEARTBEAT=str(heartbeat)):
            assert beats(heartbeat, 30)
            kill(first)
            beats(heartbeat, 0.5)
            assert not beats(heartbeat, 2)
            with running_server(tmp_path / "redis"):
                assert beats(heartbeat)


@pytest.mark.long
def test_a_worker_whose_hosts_hang_does_not_beat_until_they_are_given_up(server, site, tmp_path):
    """So a limit on the heartbeat's age must be above the timeout of a response."""
    heartbeat = tmp_path / "heartbeat"
    frontier = open_frontier(server)

    given_up = threading.Event()

    def hang(handler):
        given_up.wait(20)
        reply(404)(handler)

    for n in range(2):
        site.on(f"h{n}.test", "*", hang)
        frontier.put([Discovered(f"http://h{n}.test/page", 0.5)])
    options = ("--concurrency", "2", "--timeout", "20")
    with worker(
        server, frontier, site, tmp_path / "log", *options, TINYLM_HEARTBEAT=str(heartbeat)
    ) as process:
        eventually(lambda: frontier.counts()["leased"] == 2)
        beats(heartbeat, 0.5)
        assert not beats(heartbeat, 1)
        given_up.set()
        assert beats(heartbeat)
        process.terminate()
        assert process.wait(30) == 0


@pytest.mark.long
def test_a_worker_whose_server_is_away_waits_for_it_once_and_not_once_a_lease(site, tmp_path):
    def slow(handler):
        time.sleep(1)
        reply(200, article("slow"))(handler)

    for n in range(LEASES):
        site.on(f"h{n}.test", "/page", slow)
    with running_server(tmp_path / "redis") as server:
        frontier = open_frontier(server)
        frontier.put(Discovered(f"http://h{n}.test/page", 0.5) for n in range(LEASES))
        with worker(server, frontier, site, tmp_path / "log") as process:
            eventually(lambda: site.asked("h0.test", "/robots.txt") and frontier.counts()["leased"] == LEASES)
            kill(server)
            process.terminate()
            # 20 s for all together, and what a loaded machine adds; 160 if each lease waited by itself.
            assert process.wait(100) == 2
    assert "does not answer" in (tmp_path / "log").read_text()
