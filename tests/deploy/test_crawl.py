"""`tinylm crawl` as a whole: when it is over, and that it does not say so before it is."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import redis

from crawler.config import CrawlConfig, FrontierConfig
from crawler.errors import CrawlError
from crawler.seeds.seed import Seed
from deploy.crawl import Crawl
from deploy.summary import Summary
from ranker.config import WalkConfig
from shards.manifest import Manifest
from tests.conftest import article, eventually, reply
from tinylm.processes import stop

SEEDS = [Seed("http://a.test/", 1.0, "test")]


@pytest.fixture
def crawl(site, tmp_path):
    """A crawl of a site of a few pages, whose robots.txt counts as one: `crawl(pages=4)`."""
    paths = [f"/{number}" for number in range(6)]
    site.on("a.test", "/", reply(200, article("front page", *paths)))
    for path in paths:
        site.on("a.test", path, reply(200, article(f"page {path}")))

    def make(*hosts, **limits):
        crawl = CrawlConfig(
            allowed_networks=(f"127.0.0.1/32:{site.port}",),
            resolve=tuple(f"{host}=127.0.0.1:{site.port}" for host in ("a.test", *hosts)),
            workers=1,
            timeout=5.0,
            disk_reserve_gigabytes=0.0,
            **limits,
        )
        frontier = FrontierConfig(data=tmp_path / "data", delay=0.01, latency_factor=0.0)
        return Crawl(frontier, crawl, WalkConfig(languages=(), shard_seconds=3600))

    return make


def shown(*, each=lambda frontier: None, last=lambda: None):
    """A display that calls `each` at every refresh, and `last` before the parts are stopped."""

    @contextmanager
    def show(frontier):
        yield lambda: each(frontier)
        last()

    return show


def walker_of(data):
    """The process id of the walker of the crawl in `data`."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words, settings = ((entry / name).read_bytes() for name in ("cmdline", "environ"))
        except OSError:
            continue
        if words.endswith(b"deploy.cli.app\0walk\0") and bytes(data) in settings:
            return int(entry.name)
    return None


def test_a_walker_whose_last_commit_fails_is_no_success_and_the_same_command_again_is_one(crawl, tmp_path):
    blocked = tmp_path / "data" / "shards" / "manifest.json.tmp"
    with pytest.raises(CrawlError, match=r"walk ended with code .*: start the same command again"):
        crawl(pages=4).run(SEEDS, shown(last=blocked.mkdir))
    blocked.rmdir()
    assert Manifest.load(tmp_path / "data" / "shards").rows == 0
    assert crawl(pages=4).run(SEEDS, shown()) == "4 pages fetched"
    manifest = Manifest.load(tmp_path / "data" / "shards")
    assert manifest.rows + sum(manifest.dropped.values()) == 3


def test_a_walker_killed_while_it_drains_is_no_success(crawl, tmp_path):
    def kill():
        os.kill(eventually(lambda: walker_of(tmp_path / "data")), signal.SIGKILL)

    with pytest.raises(CrawlError, match="walk ended with code -9 before all pages were in a shard"):
        crawl(pages=4).run(SEEDS, shown(last=kill))


def test_a_server_that_dies_in_the_middle_of_a_call_ends_the_crawl_with_what_to_do(crawl, monkeypatch):
    monkeypatch.setattr("crawler.frontier.store._RECONNECT_SECONDS", 0.5)
    running = crawl(pages=4)

    def die_and_ask(frontier):
        os.kill(running._server.pid, signal.SIGKILL)
        frontier.counts()

    with pytest.raises(CrawlError, match=r"the embedded server died; .*start the same command again"):
        running.run(SEEDS, shown(each=die_and_ask))


def test_a_crawl_that_ends_because_its_server_is_full_says_so_and_goes_on_with_more_memory(
    crawl, site, monkeypatch
):
    monkeypatch.setattr("deploy.crawl._FULL_POLLS", 8)
    running, front = crawl(), site.answers["a.test", "/"]

    def fill_and_answer(handler):
        with redis.Redis.from_url(running._server.url) as client:
            client.config_set("maxmemory", "1")
        front(handler)

    site.on("a.test", "/", fill_and_answer)
    full = r"the server is full (memory = 1gb): 6 links wait; raise --memory and start the same command again"
    assert running.run(SEEDS, shown()) == full
    assert [hit.path for hit in site.asked("a.test")] == ["/robots.txt", "/"]
    assert crawl().run(SEEDS, shown()) == "nothing left to fetch"
    assert len(site.asked("a.test")) == 8


@pytest.mark.long
def test_seeds_that_a_slow_walker_has_not_read_are_not_nothing_left(crawl, site, tmp_path):
    site.on("b.test", "/", reply(200, article("late page")))
    rests, walkers = [], []

    def each(frontier):
        if frontier.counts()["fetched"] >= 8 and frontier.finished():
            rests.append(frontier)
        if len(rests) == 3 and not walkers:
            walkers.append(walker_of(tmp_path / "data"))
            os.kill(walkers[0], signal.SIGSTOP)
            frontier.put_seeds([Seed("http://b.test/", 1.0, "test")])
        if len(rests) == 14:  # more looks than it takes to call a crawl over
            os.kill(walkers[0], signal.SIGCONT)

    assert crawl("b.test").run(SEEDS, shown(each=each)) == "nothing left to fetch"
    assert site.asked("b.test", "/")


def test_parts_that_die_now_and_then_are_started_again_and_often_is_an_error(crawl, tmp_path, monkeypatch):
    (tmp_path / "data" / "logs").mkdir(parents=True)
    (tmp_path / "data" / "logs" / "worker-0.log").touch()
    running = crawl()

    def restart(times):
        for _ in range(times):
            stop([running._restart("worker-0", 1)], patience=0)

    monkeypatch.setattr("deploy.crawl._RESTARTS_WITHIN_SECONDS", 0.0)
    restart(8)
    monkeypatch.setattr("deploy.crawl._RESTARTS_WITHIN_SECONDS", 600.0)
    with pytest.raises(CrawlError, match="worker-0 ended with code 1: it said nothing"):
        restart(8)
    with pytest.raises(CrawlError, match=r"code -9: .*is there enough memory"):
        running._restart("worker-0", -signal.SIGKILL)


def test_a_crawl_of_hosts_that_have_spent_their_budget_says_so(crawl):
    running = crawl()
    running._frontier_config = replace(running._frontier_config, pages_per_host=3)
    assert running.run(SEEDS, shown()) == (
        "nothing more may be fetched: 5 queued URLs; "
        "hosts that have spent their budget, or their domain has: 1"
    )


def test_hosts_that_refuse_connections_are_no_fetches_and_end_the_crawl_at_their_own_limit(crawl, site):
    hosts = [f"gone{number}.test" for number in range(9)]
    site.on("a.test", "/", reply(200, article("front page", *(f"http://{host}/" for host in hosts))))
    running = crawl(failed_connections=5)
    here = running._crawl
    nobody = tuple(f"{host}=127.0.0.1:1" for host in hosts)
    running._crawl = replace(here, allowed_networks=("127.0.0.1/32",), resolve=(*here.resolve, *nobody))
    counts = []
    assert (
        running.run(SEEDS, shown(each=lambda frontier: counts.append(frontier.counts())))
        == "5 connections failed"
    )
    assert counts[-1]["fetched"] == len(site.asked("a.test")) == 2


def test_a_crawl_that_could_fetch_nothing_says_why(crawl, tmp_path):
    running = crawl("gone.test")
    running._crawl = replace(
        running._crawl, allowed_networks=("127.0.0.1/32",), resolve=("gone.test=127.0.0.1:1",)
    )
    running._frontier_config = replace(running._frontier_config, attempts=1)
    seeds = [Seed("http://gone.test/", 1.0, "test")]
    assert running.run(seeds, shown()) == "nothing left to fetch"
    said = Summary.load(tmp_path / "data").nothing_kept()
    assert said == "nothing was fetched in all runs of this crawl: refused 1 (nobody listens there)"


def test_without_seeds_there_must_be_something_to_go_on_with(crawl, tmp_path):
    with pytest.raises(CrawlError, match=f"no crawl was begun in {tmp_path / 'data'}: give it seeds"):
        crawl().run([], shown())


def test_a_directory_that_cannot_be_made_is_one_clear_error(tmp_path):
    (tmp_path / "file").touch()
    data = tmp_path / "file" / "data"
    argv = ["crawl", "http://a.test/", "--data", str(data), "--allowed-networks", "127.0.0.1"]
    done = subprocess.run(
        [sys.executable, "-m", "deploy.cli.app", *argv], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (2, f"error: {data}: Not a directory\n")
