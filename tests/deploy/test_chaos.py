"""Anything may be killed at any moment, and the power fail once: nothing is lost."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from contextlib import ExitStack, suppress
from itertools import pairwise
from pathlib import Path

import pytest

from crawler.config import FrontierConfig
from crawler.errors import ServerError
from crawler.frontier import Frontier, connect
from crawler.frontier.server import EmbeddedServer
from crawler.seeds.seed import Seed
from shards.reader import ShardReader, verify
from tests.conftest import reply
from tests.ranker.conftest import prose

HOSTS, PAGES = 16, 30  # takes longer than the chaos: a host is found by the one before and rests 30 times
DELAY, LEASE_SECONDS, CHAOS_SECONDS, LOST_SECONDS = 1.2, 25.0, 45.0, 2.0
WORKERS, WALKERS = 4, 2


def make_web(site):
    """Every page is reached from one seed only, most by a single link."""
    for host in range(HOSTS):
        for page in range(PAGES):
            links = [f"http://h{host}.test/{page + 1}", f"http://h{host}.test/{2 * page + 1}"]
            if page == 0:
                links.append(f"http://h{host + 1}.test/0")
            anchors = "".join(
                f'<p><a href="{link}">another page</a></p>'
                for link in links
                if link.split("/")[-1] in map(str, range(PAGES)) and f"//h{HOSTS}." not in link
            )
            text = "".join(f"<p>{line}</p>" for line in prose(host * PAGES + page).split("\n"))
            body = f"<html><body><main><h1>{host} {page}</h1>{text}{anchors}</main></body></html>"
            site.on(f"h{host}.test", f"/{page}", reply(200, body))


class Cluster:
    """Server, workers and walkers, each started again when it was killed."""

    def __init__(self, site, folder):
        self.folder = folder
        self.server = EmbeddedServer(folder / "redis")
        self.server.__enter__()
        self.settings = {
            "TINYLM_FRONTIER_REDIS_URL": self.server.url,
            "TINYLM_FRONTIER_DATA": str(folder),
            "TINYLM_FRONTIER_DELAY": str(DELAY),
            "TINYLM_FRONTIER_LATENCY_FACTOR": "0",
            "TINYLM_FRONTIER_LEASE_SECONDS": str(LEASE_SECONDS),
            "TINYLM_FRONTIER_ATTEMPTS": "50",
            "TINYLM_FRONTIER_HOT_PER_HOST": "4",
            "TINYLM_CRAWL_ALLOWED_NETWORKS": f"127.0.0.1/32:{site.port}",
            "TINYLM_CRAWL_RESOLVE": " ".join(f"{host}=127.0.0.1:{site.port}" for host in site.hosts),
            "TINYLM_CRAWL_DEEPEST": "100",
            "TINYLM_CRAWL_TIMEOUT": "3",
            "TINYLM_CRAWL_EXTRACT_TIMEOUT": "3",
            "TINYLM_CRAWL_DISK_RESERVE_GIGABYTES": "0.1",
            "TINYLM_WALK_SHARD_SECONDS": "4",
        }
        names = [*(f"worker-{n}" for n in range(WORKERS)), *(f"walk-{n}" for n in range(WALKERS))]
        self.parts = {name: self.start(name) for name in names}

    def start(self, name):
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "deploy.cli.app", name.partition("-")[0]],
                stdout=log,
                stderr=log,
                env=os.environ | self.settings,
                cwd=Path(__file__).parents[2],
            )

    def kill(self, name):
        self.parts[name].kill()
        self.parts[name].wait()
        self.parts[name] = self.start(name)

    def kill_server(self, *, back_to=None):
        """With `back_to`, the size its log had a while ago, as if the kernel's memory had been lost too."""
        os.kill(self.server.pid, signal.SIGKILL)
        self.server.stop()
        if back_to is not None:
            log, size = back_to
            os.truncate(log, size)
        self.server.__enter__()

    def stop(self):
        for process in self.parts.values():
            process.terminate()
        return [process.wait(60) for process in self.parts.values()]

    def close(self):
        for process in self.parts.values():
            process.kill()
            process.wait()
        self.server.stop()


class LogSizes:
    """How long the server's append-only file was when."""

    def __init__(self, folder):
        self._folder = folder
        self._sizes = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def _watch(self):
        while not self._stopping.wait(0.05):
            with suppress(OSError, ValueError):
                log = max(
                    self._folder.glob("appendonlydir/*.incr.aof"), key=lambda path: path.stat().st_mtime
                )
                self._sizes.append((time.monotonic(), log, log.stat().st_size))

    def ago(self, seconds):
        then = time.monotonic() - seconds
        return next((log, size) for at, log, size in reversed(self._sizes) if at <= then)

    def stop(self):
        self._stopping.set()
        self._thread.join()


def wait_until_over(frontier, seconds):
    give_up = time.monotonic() + seconds
    quiet = 0
    while quiet < 6:
        time.sleep(0.5)
        assert time.monotonic() < give_up, (frontier.why_idle(), frontier.counts())
        with suppress(ServerError):
            quiet = quiet + 1 if frontier.finished() and not frontier.counts()["backlog"] else 0


@pytest.mark.long
@pytest.mark.timeout(600)
def test_whatever_is_killed_nothing_is_lost_or_twice_in_the_corpus_and_no_host_is_hurried(site, tmp_path):
    make_web(site)
    chance = random.Random(2)  # kills each kind of part twice within 30 s
    with ExitStack() as stack:
        cluster = Cluster(site, tmp_path)
        stack.callback(cluster.close)
        sizes = LogSizes(tmp_path / "redis")
        stack.callback(sizes.stop)
        config = FrontierConfig(redis_url=cluster.server.url, delay=DELAY)
        frontier = Frontier(connect(cluster.server.url), config)
        stack.callback(frontier.close)
        frontier.put_seeds([Seed("http://h0.test/0", 10.0, "test")])
        began, killed = time.monotonic(), defaultdict(int)
        while time.monotonic() - began < CHAOS_SECONDS:
            time.sleep(chance.uniform(1.0, 5.0))
            victim = chance.choice([*cluster.parts, "server"])
            killed[victim.partition("-")[0]] += 1
            if victim != "server":
                cluster.kill(victim)
            elif killed["server"] % 3 == 2:
                cluster.kill_server(back_to=sizes.ago(LOST_SECONDS))
            else:
                cluster.kill_server()
        assert min(killed.values()) >= 2
        wait_until_over(frontier, 240)
        assert cluster.stop() == [0] * (WORKERS + WALKERS)
        assert frontier.dead_letters() == []
    check_corpus(tmp_path / "shards")
    check_manners(site)


def check_corpus(shards):
    urls = [row["url"] for row in ShardReader(shards, split="all")]
    assert len(set(urls)) == len(urls)
    assert set(urls) == {f"http://h{host}.test/{page}" for host in range(HOSTS) for page in range(PAGES)}
    assert list(verify(shards)) == []


def check_manners(site):
    """By the servers' own log: no host was asked before it had rested."""
    for host in site.hosts:
        hits = sorted(site.asked(host), key=lambda hit: hit.begun)
        gaps = [after.begun - before.ended for before, after in pairwise(hits)]
        assert min(gaps) >= DELAY - 0.001, host
