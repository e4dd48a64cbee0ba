"""`tinylm crawl` as a whole: when it is over, and that it does not say so before it is."""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import redis

from crawler.config import CrawlConfig, FrontierConfig
from crawler.errors import CrawlError, ServerError
from crawler.frontier import Discovered, Limits
from crawler.frontier.server import EmbeddedServer
from crawler.seeds.seed import Seed
from deploy.cli.app import app
from deploy.crawl import Crawl, asleep, give_seeds, remember
from deploy.summary import NothingKept, Summary
from ranker.config import WalkConfig
from shards.errors import ShardError
from shards.manifest import Manifest
from shards.writer import ShardWriter
from tests.conftest import article, eventually, open_frontier, reply
from tests.crawler.driving import next_page
from tinylm.errors import ConfigError, FileError
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
    assert crawl(pages=4).run(SEEDS, shown()) == "the limit of 4 pages is reached"
    manifest = Manifest.load(tmp_path / "data" / "shards")
    assert manifest.rows + sum(manifest.dropped.values()) == 3


def test_a_walker_killed_while_it_drains_is_no_success(crawl, tmp_path):
    def kill():
        os.kill(eventually(lambda: walker_of(tmp_path / "data")), signal.SIGKILL)

    with pytest.raises(CrawlError, match="walk ended with code -9 before all pages were in a shard"):
        crawl(pages=4).run(SEEDS, shown(last=kill))
    assert Summary.load(tmp_path / "data").ended.startswith("walk ended with code -9 before")


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


# A directory, its settings, and who crawls in it


def tinylm(capsys, *argv):
    """What a command prints, here, in this process; its children are real."""
    with pytest.raises((SystemExit, NothingKept)) as ended:  # our pages are not worth keeping
        app(argv)
    assert not getattr(ended.value, "code", 0)
    return capsys.readouterr().out


def given_to(crawl):
    """The settings of `crawl` that no directory would know, as flags."""
    here = crawl._crawl
    flags = ["--allowed-networks", here.allowed_networks[0], "--resolve", here.resolve[0], "--workers", "1"]
    return [*flags, "--disk-reserve-gigabytes", "0", "--delay", "0.01", "--latency-factor", "0"]


def test_a_crawl_goes_on_with_what_it_was_given_before_and_says_what_is_other_now(
    crawl, site, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    flags = [*given_to(crawl()), "--empty-languages", "--pages", "3", "--timeout", "4"]
    assert "was" not in tinylm(capsys, "crawl", "http://a.test/", *flags).split("done:")[0]
    kept = Path("runs/crawl/settings.toml").read_text()
    assert "delay = 0.01" in kept
    assert not re.search("data|redis_url", kept), "that is where it lies, and may lie elsewhere later"
    Path("tinylm.toml").write_text("[crawl]\npages = 5\n")
    said = tinylm(capsys, "crawl", "--timeout", "5")
    assert [line for line in said.splitlines() if ", was " in line] == [
        "[crawl] pages = 5, was 3",
        "[crawl] timeout = 5.0, was 4.0",
    ]
    assert "done: the limit of 5 pages is reached" in said
    assert len(site.asked("a.test")) == 5
    Path("tinylm.toml").unlink()
    Path("runs/crawl").rename("moved")
    monkeypatch.setenv("COLUMNS", "200")
    shown = [line.split("│")[2:5] for line in tinylm(capsys, "config", "--data", "moved").splitlines()]
    rows = {row[0].strip(): (row[1].strip(), row[2].strip()) for row in shown if len(row) == 3}
    assert rows["pages"] == ("5", "moved/settings.toml")
    assert rows["delay"] == ("0.01", "moved/settings.toml")
    assert rows["hours"] == ("12.0", "default")
    # Rules that are not said stay; what `begin` is told of a directory's crawl is written down there.
    assert "a host rests 0.01 s" in tinylm(capsys, "begin", "--data", "moved", "--pages", "9")
    assert "pages = 9" in Path("moved/settings.toml").read_text()
    assert "languages = []" in Path("moved/settings.toml").read_text()


def test_one_crawls_in_a_directory_and_another_is_told_who_and_what_to_do_instead(crawl, tmp_path, capsys):
    running, told = crawl(pages=500), []

    def each(frontier):
        if told or not frontier.counts()["fetched"]:
            return
        here = rf"process {os.getpid()} crawls here; .*`tinylm begin --data {tmp_path}/data`"
        with pytest.raises(FileError, match=here) as e:
            crawl(pages=2).run([], shown())
        told.append(e.value)
        assert frontier.limits().pages == 500
        given = given_to(running)[:4]
        said = tinylm(capsys, "begin", "--data", str(tmp_path / "data"), "--pages", "4", *given)
        assert "[crawl] pages = 4, was 500" in said
        assert "fetched" in tinylm(capsys, "status", "--data", str(tmp_path / "data"))

    assert running.run(SEEDS, shown(each=each)) == "the limit of 4 pages is reached"
    assert told


@pytest.mark.long
def test_a_server_that_ends_with_the_command_that_started_it_is_taken_over(crawl, tmp_path):
    argv = [sys.executable, "-m", "deploy.cli.app", "server", "--data", str(tmp_path / "data")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE) as other:
        assert b"redis.sock" in other.stdout.readline()
        running = crawl(pages=6)

        def end_the_other(frontier):
            if other.poll() is None and frontier.counts()["fetched"]:
                assert running._server.pid is None
                other.terminate()
                other.wait()

        assert running.run(SEEDS, shown(each=end_the_other)) == "the limit of 6 pages is reached"


def test_a_server_goes_on_for_those_that_use_it_when_the_command_that_started_it_ends(tmp_path):
    argv = [sys.executable, "-m", "deploy.cli.app", "server", "--data", str(tmp_path)]
    with (
        EmbeddedServer(tmp_path / "redis") as first,
        subprocess.Popen(argv, stdout=subprocess.PIPE) as second,
    ):
        assert b"redis.sock" in second.stdout.readline()
        first.stop()
        assert eventually(first.answers)
        second.terminate()
        second.wait()
        eventually(lambda: not first.answers())


def test_what_comes_back_from_disk_is_waited_for_though_hosts_rest_beyond_the_crawls_time(
    server, monkeypatch
):
    frontier = open_frontier(server, delay=0)
    frontier.set_limits(Limits(pages=9, bytes=10**9, until=time.time() + 60, failed_connections=9))
    frontier.put([Discovered("https://a.test/", 0.5), Discovered("https://a.test/2", 0.5)])
    frontier.nack(next_page(frontier), "status_503", retry_at=time.time() + 86400)
    assert "a.test rests until" in asleep(frontier)
    idle = frontier.why_idle()
    monkeypatch.setattr(frontier, "why_idle", lambda: idle | {"on_disk": 1})
    assert not asleep(frontier)


def test_what_a_setting_refused_is_queued_by_the_next_start_if_this_one_is_killed_before(server, monkeypatch):
    frontier = open_frontier(server)
    give_seeds(frontier, SEEDS, CrawlConfig(allowed_networks=("127.0.0.2",)))
    monkeypatch.setattr(type(frontier), "dead_letters", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        give_seeds(frontier, [], CrawlConfig(allowed_networks=("127.0.0.1",)))
    assert frontier.published("settings")["allowed_networks"] == ["127.0.0.2"]


def test_a_worker_that_is_given_another_delay_than_its_crawls_is_refused(server, tmp_path):
    frontier = open_frontier(server, delay=3.0)
    crawl_id = frontier.config.crawl_id
    argv = ["--redis-url", server.url, "--crawl-id", crawl_id, "--user-agent", "lab (+https://lab.test)"]
    for part in ("worker", "walk"):
        with pytest.raises(
            ConfigError, match=rf"delay = 1\.0, not 3\.0: .*`tinylm begin .*{crawl_id} --delay 1"
        ):
            app([part, "--data", str(tmp_path), *argv, "--delay", "1"])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"policy": "tinylmm"}, "policy = 'tinylmm': there is bfs"),
        ({"quality": "nowhere.bin"}, "quality = .*nowhere.bin': there is no model"),
        ({"quality": __file__}, "there is no model at this path"),
    ],
)
def test_what_the_walker_would_refuse_is_refused_before_there_is_a_server(tmp_path, wrong, message):
    loopback = CrawlConfig(allowed_networks=("127.0.0.1",))
    with pytest.raises(ConfigError, match=message):
        Crawl(FrontierConfig(data=tmp_path / "data"), loopback, WalkConfig(**wrong)).run(SEEDS, shown())
    assert not (tmp_path / "data").exists()


def test_a_level_of_the_log_that_there_is_not_is_refused_before_there_is_a_server(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYLM_LOG", "loud")
    loopback = CrawlConfig(allowed_networks=("127.0.0.1",))
    with pytest.raises(ConfigError, match="TINYLM_LOG = 'LOUD'"):
        Crawl(FrontierConfig(data=tmp_path / "data"), loopback, WalkConfig()).run(SEEDS, shown())
    assert not (tmp_path / "data").exists()


def test_the_corpus_of_another_crawl_is_refused_before_there_is_a_server(tmp_path):
    ShardWriter(tmp_path / "shards", crawl_id="other").__enter__().__exit__(None, None, None)
    loopback = CrawlConfig(allowed_networks=("127.0.0.1",))
    with pytest.raises(ShardError, match="holds crawl 'other', not 'main'"):
        Crawl(FrontierConfig(data=tmp_path), loopback, WalkConfig()).run(SEEDS, shown())
    assert not (tmp_path / "redis").exists()


def test_a_password_is_in_no_file_and_asked_for_again(tmp_path, monkeypatch):
    monkeypatch.setattr("crawler.frontier.store._RECONNECT_SECONDS", 0.1)
    secret = FrontierConfig(redis_url="redis://:hush@127.0.0.1:1/0", data=tmp_path, delay=2.0)
    remember(secret)
    assert "hush" not in (tmp_path / "settings.toml").read_text()
    with pytest.raises(
        ConfigError, match=r"redis://:\*\*\*@.*passwords are not written there. Give it again"
    ):
        app(["status", "--data", str(tmp_path)])
    with pytest.raises(ServerError):  # asked: nobody is there
        app(["status", "--data", str(tmp_path), "--redis-url", secret.redis_url])


def test_ctrl_c_says_at_once_what_it_waits_for_and_then_that_it_goes_on(crawl, tmp_path):
    data = tmp_path / "data"
    argv = [sys.executable, "-m", "deploy.cli.app", "crawl", "http://a.test/", "--data", str(data)]
    with subprocess.Popen(
        [*argv, *given_to(crawl()), "--timeout", "5"], stderr=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:  # fmt: skip
        for part, up in (("walk", "walking"), ("worker-0", "Spider opened")):
            log = data / "logs" / f"{part}.log"
            eventually(lambda log=log, up=up: log.exists() and up in log.read_text())
        process.send_signal(signal.SIGINT)
        out, said = process.communicate()
    assert process.returncode == 130
    assert "\nfetched    " in out
    assert Summary.load(data).ended == "interrupted"
    assert said.splitlines() == [
        "stopping: waits for what is under way (5 s at most), then commits",
        "interrupted; the same command goes on from here",
    ]
    assert "stopping: judges what was fetched, then commits" in (data / "logs" / "walk.log").read_text()
    for part in ("walk", "worker-0"):
        last = (data / "logs" / f"{part}.log").read_text().splitlines()[-1]
        assert last == "stopped, and nothing is lost; the same command goes on from here"
