"""The dashboard over a real server, a real frontier, real files, and in a real browser."""

import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from http.client import HTTPConnection
from urllib.request import urlopen

import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from crawler.config import FrontierConfig
from crawler.frontier import Discovered, Frontier, Limits, connect
from crawler.frontier.server import EmbeddedServer
from crawler.page import Page
from crawler.seeds.seed import Seed
from deploy.crawl import attach
from deploy.dashboard.app import content_policy, create_app, listen
from deploy.dashboard.stats import CorpusReader, Curve, RunReader, Sampled
from deploy.status import Status, StatusReader, table, verdict
from deploy.summary import not_fetched
from shards.manifest import FileEntry, HeldOut, Manifest, ShardEntry
from shards.writer import ShardWriter
from tests.conftest import eventually
from tests.ranker.test_sources import written
from tinylm.errors import ConfigError

NASTY = "<img src=x onerror=document.title=1>"
IDLE = {
    "ready": 0, "cooling": 0, "in_flight": 0, "budget_spent": 0, "paused": 0, "next_wake_seconds": None,
    "next_wake": "",
}  # fmt: skip
NOTHING = Status(
    counts={},
    walker={},
    idle=IDLE,
    extraction={},
    limits=None,
    reached="",
    paused=False,
    waiting_for="",
    rate=0.0,
    quiet=0.0,
)


@pytest.fixture
def server(tmp_path):
    with EmbeddedServer(tmp_path / "redis", memory="64mb") as embedded:
        yield embedded


@pytest.fixture
def frontier(server, tmp_path):
    return Frontier(connect(server.url), FrontierConfig(data=tmp_path, delay=0.0, latency_factor=0.0))


def lease_one(frontier):
    """The next lease, once a host has rested."""
    give_up = time.monotonic() + 30
    while not (leases := frontier.lease(1)):
        assert time.monotonic() < give_up, frontier.why_idle()
        time.sleep(0.02)
    return leases[0]


def fetch_robots(frontier):
    frontier.ack_robots(lease_one(frontier), "", valid=3600, crawl_delay=0.0, latency=0.0, size=10)


def page(url):
    return Page(
        url=url,
        fetch_no=1,
        status=200,
        fetched_at=0,
        content_sha256="0" * 64,
        text="",
        reason="empty",
        promise=0.5,
        propensity=1.0,
    )


def a_little_crawl(frontier):
    """One page fetched, one failed, one forbidden, one queued; what a walker would say."""
    frontier.set_limits(Limits(pages=50, bytes=10**6, until=time.time() + 3600))
    frontier.put(Discovered(f"https://a.test/{number}", 0.5) for number in range(4))
    fetch_robots(frontier)
    first = lease_one(frontier)
    frontier.ack(first, page(first.url), latency=0.0, size=2000)
    second = lease_one(frontier)
    frontier.nack(second, NASTY)
    third = lease_one(frontier)
    frontier.skip(third, "robots")
    dropped = {"language": 1, NASTY: 7}
    frontier.publish("worker:a:1", {"buckets": {"5": 98, "10": 1}, "failed": {}})
    frontier.publish("worker:b:1", {"buckets": {"12": 1}, "failed": {"extract_timeout": 1}})
    frontier.publish("walker", {"kept": 0, "text_bytes": 0, "shards": 0, "dropped": dropped, "quality": 0.25})


def a_corpus(directory):
    links = FileEntry(name="links-000001.parquet", bytes=10, sha256="0" * 64)
    shard = ShardEntry(
        name="s", rows=321, row_groups=(321,), text_bytes=4_500_000, bytes=900, sha256="0" * 64, links=links
    )
    directory.mkdir(exist_ok=True)
    return Manifest(shards=(shard,), held_out=HeldOut(hosts=("b.test", NASTY))).save(directory)


def line(step, **values):
    return json.dumps({"step": step, "steps": 100, "loss": 10.0 / step, "time": time.time(), **values}) + "\n"


def a_run(directory, steps):
    directory.mkdir(parents=True)
    (directory / "metrics.jsonl").write_text("".join(line(step) for step in range(1, steps + 1)))
    return directory


@contextmanager
def client(frontier, *args):
    with TestClient(create_app(lambda: frontier, *args)) as opened:
        yield opened


def status_when(opened, true_of):
    give_up = time.monotonic() + 30
    while not true_of(status := opened.get("/api/status").json()):
        assert time.monotonic() < give_up, status
        time.sleep(0.05)
    return status


# The figures


def test_the_table_of_status_has_extractions_times_and_failures(frontier):
    console = Console(record=True, width=120, file=io.StringIO())
    console.print(table(StatusReader(frontier).read()))
    assert "nothing yet" in console.export_text()
    a_little_crawl(frontier)
    console.print(table(StatusReader(frontier).read()))
    assert "99 % below 1,024 ms, 1 failed" in console.export_text()


def test_the_status_has_the_figures_of_crawl_corpus_and_training(frontier, tmp_path):
    a_little_crawl(frontier)
    a_corpus(tmp_path / "shards")
    run = a_run(tmp_path / "run", 3)
    with client(frontier, tmp_path / "shards", [run]) as opened:
        status = status_when(opened, lambda status: "fetched" in status["crawl"] and "runs" in status["disk"])
    crawl, disk = status["crawl"], status["disk"]
    assert (crawl["fetched"], crawl["discovered"], crawl["bytes"]) == (3, 4, 2010)
    assert crawl["not_kept"] == {"language": 1, NASTY: 7}
    assert crawl["not_fetched"] == {NASTY: 1, "robots": 1}
    assert crawl["extraction"] == {
        "extracted": 100, "p50_ms": 32, "p99_ms": 1024, "failed": {"extract_timeout": 1}
    }  # fmt: skip
    assert crawl["limits"]["pages"] == 50
    assert 3500 < crawl["limits"]["seconds_left"] <= 3600
    assert (disk["corpus"]["documents"], disk["corpus"]["held_out"]) == (321, 2)
    assert disk["runs"][0]["last"]["step"] == 3
    assert disk["runs"][0]["curves"]["loss"] == [[1, 10.0], [2, 5.0], [3, 10 / 3]]


def test_the_status_says_what_each_kind_of_source_brought(frontier, tmp_path):
    with ShardWriter(tmp_path / "shards", crawl_id="c") as writer:
        written(writer, 1, "search:x:otters", 0)
        written(writer, 2, "search:x:otters", 1, "g.example", kept=False)
        writer.commit({"0": "1-0"}, state=b"s")
    with client(frontier, tmp_path / "shards", []) as opened:
        status = status_when(opened, lambda status: "sources" in status["sources"])
    [search] = status["sources"]["sources"]
    assert (search["name"], search["all"]["fetches"], search["seeds"]["fetches"]) == ("search", 2, 1)
    assert search["all"]["low"] <= search["all"]["per_fetch"] == 100 <= search["all"]["high"]


def test_before_there_is_anything_the_status_says_so(frontier, tmp_path):
    with client(frontier, tmp_path / "shards", [tmp_path / "run"]) as opened:
        status = status_when(opened, lambda status: "verdict" in status["crawl"] and "runs" in status["disk"])
    assert "No crawl yet" in status["crawl"]["verdict"]["text"]
    assert status["crawl"]["limits"] is None
    assert status["disk"]["corpus"] == {}
    assert status["disk"]["runs"][0]["state"] == "waiting"


def test_a_server_that_went_away_leaves_the_last_figures_and_comes_back(frontier, server, tmp_path):
    a_little_crawl(frontier)
    with client(frontier, tmp_path / "shards", []) as opened:
        status_when(opened, lambda status: "fetched" in status["crawl"])
        server.stop()
        status = status_when(opened, lambda status: status["crawl"]["age_seconds"] > 2)
        assert status["crawl"]["fetched"] == 3
        with EmbeddedServer(tmp_path / "redis", memory="64mb"):
            status = status_when(opened, lambda status: status["crawl"]["age_seconds"] < 1)
            assert status["crawl"]["fetched"] == 3
            assert status["crawl"]["error"] == ""


def test_a_dashboard_may_be_there_before_the_crawl_and_owns_nothing_of_it(tmp_path):
    config = FrontierConfig(data=tmp_path / "data", delay=0.0)
    with TestClient(create_app(partial(attach, config), config.shards, [])) as opened:
        said = status_when(opened, lambda status: "verdict" in status["crawl"])["crawl"]
        assert "No crawl yet: no server runs for" in said["verdict"]["text"]
        assert not config.data.exists()
        with EmbeddedServer(config.data / "redis", memory="64mb") as server:
            assert server.pid
            a_little_crawl(Frontier(connect(server.url), config))
            status = status_when(opened, lambda status: "fetched" in status["crawl"])
    assert status["crawl"]["fetched"] == 3


def test_the_status_of_a_crawl_that_does_not_run_is_one_clear_error(tmp_path):
    argv = [sys.executable, "-m", "deploy.cli.app", "status", "--data", str(tmp_path)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr
        == f"error: no server runs for {tmp_path}: start `tinylm crawl` or `tinylm server` first\n"
    )
    assert not list(tmp_path.iterdir())


def test_a_reading_that_fails_keeps_the_last_result_and_says_why():
    results = iter([{"figure": 1}])
    sampled = Sampled(lambda: next(results, None) or {}["missing"])
    give_up = time.monotonic() + 30
    with sampled:
        while not sampled.latest()["error"]:
            assert time.monotonic() < give_up
            time.sleep(0.05)
    assert sampled.latest()["figure"] == 1
    assert "KeyError" in sampled.latest()["error"]


def test_skips_and_failures_of_one_reason_are_counted_together():
    counts = {"failed:robots": 2, "skipped:robots": 3, "fetched": 9}
    assert not_fetched(counts) == {"robots": 5}


# Why


@pytest.mark.parametrize(
    ("counts", "idle", "values", "level", "text"),
    [
        ({}, {}, {"reached": "9 pages fetched"}, "done", "9 pages fetched"),
        ({"discovered": 0}, {}, {}, "wait", "No crawl yet"),
        ({"discovered": 0, "backlog": 1}, {}, {}, "wait", "seeds wait for the walker"),
        ({"backlog": 10}, {}, {"rate": 2.0}, "bad", "Workers pause because 10 pages"),
        ({}, {}, {"rate": 2.0}, "good", "2.0 pages a second. The delays of the hosts"),
        ({}, {"ready": 40}, {"rate": 2.0}, "good", "40 hosts are ready: more workers"),
        ({}, {"ready": 2, "next_wake_seconds": 0.0}, {"paused": True}, "wait", "tinylm frontier resume"),
        (
            {},
            {"ready": 2, "next_wake_seconds": 0.0},
            {"waiting_for": "no room"},
            "bad",
            "waits, nothing is lost: no room",
        ),
        ({}, {"in_flight": 4}, {}, "good", "Waiting for 4 answers"),
        ({}, {"in_flight": 4}, {"quiet": 90.0}, "bad", "none ended for 90 s"),
        ({}, {"ready": 2, "next_wake_seconds": 0.0}, {}, "wait", "take some seconds"),
        ({}, {"ready": 2, "next_wake_seconds": 0.0}, {"quiet": 30.0}, "bad", "nobody asks them"),
        ({}, {"cooling": 2, "next_wake_seconds": 0.0}, {"quiet": 30.0}, "bad", "nobody asks them"),
        (
            {},
            {"cooling": 2, "next_wake_seconds": 3.2, "next_wake": "a.test"},
            {},
            "wait",
            "a.test, may be asked in 3.2 s",
        ),
        ({}, {"budget_spent": 2}, {}, "done", "spent their budget: 2"),
        ({}, {}, {}, "done", "Nothing left"),
    ],
)
def test_the_verdict_says_what_keeps_the_crawl(counts, idle, values, level, text):
    status = NOTHING._replace(counts={"discovered": 5, "backlog": 0, **counts}, idle=IDLE | idle, **values)
    said = verdict(status, backlog=10)
    assert said.level == level
    assert text in said.text


def test_a_real_frontier_without_workers_is_told_from_one_that_has_seeds_only(frontier, tmp_path):
    with client(frontier, tmp_path / "shards", []) as opened:

        def said(text):
            return status_when(opened, lambda s: text in s["crawl"].get("verdict", {}).get("text", ""))

        said("No crawl yet")
        frontier.put_seeds([Seed("https://a.test/", 1.0, "test")])
        said("The seeds wait for the walker")
        frontier.put([Discovered("https://a.test/", 0.5)])
        said("is a `tinylm worker` running?")
        frontier.stop("no disk left")
        said("Stopped: no disk left")


# Metrics


def test_a_half_written_line_is_read_once_it_is_whole(tmp_path):
    run = a_run(tmp_path / "run", 2)
    reader = RunReader(run)
    whole = line(3)
    with (run / "metrics.jsonl").open("a") as file:
        file.write(whole[:9])
        file.flush()
        assert reader.read()["last"]["step"] == 2
        file.write(whole[9:])
    assert reader.read()["last"]["step"] == 3
    assert [step for step, _ in reader.read()["curves"]["loss"]] == [1, 2, 3]


def test_a_run_that_was_cut_back_and_resumed_shows_what_its_file_holds_now(tmp_path):
    run = a_run(tmp_path / "run", 5)
    reader = RunReader(run)
    assert reader.read()["last"]["step"] == 5
    shorter = tmp_path / "shorter"
    shorter.write_text("".join(line(step) for step in range(1, 3)))
    shorter.replace(run / "metrics.jsonl")
    assert [step for step, _ in reader.read()["curves"]["loss"]] == [1, 2]
    (run / "metrics.jsonl").unlink()
    assert reader.read()["state"] == "waiting"


def test_the_state_of_a_run_is_training_silent_or_finished(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    metrics = run / "metrics.jsonl"
    for values, state in (
        ({}, "training"),
        ({"time": time.time() - 600}, "silent"),
        ({"steps": 7}, "finished"),
    ):
        metrics.write_text(line(7, **values))
        assert RunReader(run).read()["state"] == state


def test_what_is_not_json_or_not_finite_does_not_break_the_status(frontier, tmp_path):
    run = a_run(tmp_path / "run", 1)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('not json\n[1]\n{"step": 2, "steps": 9, "loss": NaN, "val_bpb": Infinity}\n')
    (run / "evaluation.json").write_text("{")
    with client(frontier, tmp_path / "shards", [run]) as opened:
        shown = status_when(opened, lambda status: "runs" in status["disk"])["disk"]["runs"][0]
    assert shown["curves"] == {"loss": [[1, 10.0]]}
    assert (shown["last"]["step"], shown["last"]["loss"], shown["evaluation"]) == (2, None, {})


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=700), st.sampled_from([2, 10, 64]))
def test_a_curve_is_thinned_in_order_and_keeps_its_end(values, most):
    curve = Curve(most)
    for step, value in enumerate(values):
        curve.add(step, value)
    steps = [step for step, _ in curve.points]
    assert len(steps) <= most
    assert steps == sorted(set(steps))
    assert steps[-1] == len(values) - 1
    assert all(min(values) - 1e-3 <= value <= max(values) + 1e-3 for _, value in curve.points)


# The corpus


def test_a_new_commit_is_noticed_and_damage_is_said(tmp_path):
    reader = CorpusReader(tmp_path)
    assert reader.read() == {}
    manifest = a_corpus(tmp_path)
    assert reader.read()["version"] == 1
    manifest.save(tmp_path)
    assert reader.read()["version"] == 2
    (tmp_path / "manifest.json").write_text("{}")
    assert "not a manifest" in reader.read()["damage"]


# Serving


def test_a_taken_port_is_one_clear_error():
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} .*give another --port"):
            listen("127.0.0.1", port)
    with pytest.raises(ConfigError, match=r"cannot listen on xxx"):
        listen("x" * 70, 0)
    with pytest.raises(ConfigError, match="port = 70000"):
        listen("127.0.0.1", 70000)


def test_the_page_allows_its_own_script_only_and_loads_nothing_from_elsewhere(frontier, tmp_path):
    with client(frontier, tmp_path / "shards", []) as opened:
        answer = opened.get("/")
        assert opened.get("/health").json() == {"status": "ok"}
    assert answer.headers["content-security-policy"] == content_policy(answer.text)
    assert "unsafe" not in content_policy(answer.text)
    assert not re.findall(r'(?:src|href)\s*=\s*"(?!/api)', answer.text)
    assert not re.findall(r"innerHTML|insertAdjacentHTML|document\.write|\son\w+=", answer.text)


HOSTS = [
    ("localhost", 200), ("LOCALHOST.:1", 200), ("127.0.0.1:8000", 200), ("[::1]", 200),
    ("panel.lab.example", 200),
    ("evil.example", 421), ("evil.example:8000", 421), ("169.254.169.254", 421), ("127.0.0.1:8000@evil", 421),
    ("a b", 421), ("localhost.evil.example", 421), ("127.0.0.1.", 200), ("", 421), ("localhost,evil", 421),
]  # fmt: skip


def asked(port, path="/api/status", **headers):
    """Status and headers of an answer over a connection of its own."""
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status, {name.lower(): value for name, value in answer.getheaders()}


def test_only_who_asks_by_a_name_of_ours_is_answered(server, tmp_path):
    with dashboard(server, tmp_path, [], "--names", "Panel.LAB.example.") as url:
        port = int(url.split(":")[-1].strip("/"))
        assert [(host, asked(port, Host=host)[0]) for host, _ in HOSTS] == HOSTS
        assert asked(port, Host=socket.gethostname())[0] == 200
        assert asked(port, "/health", Host="10.0.0.9:8000")[0] == 200  # as kubelet asks
        status, headers = asked(port, "/api/status/", Host="localhost")
        assert (status, headers.get("location")) == (404, None)
        assert headers["x-content-type-options"] == "nosniff"
        assert "server" not in headers
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n")
            assert client.recv(100).startswith((b"HTTP/1.1 400", b"HTTP/1.1 421"))


def test_half_requests_and_unread_answers_give_their_place_to_others(server, tmp_path):
    soon = (
        "from deploy.dashboard import server; server._SECONDS = 1.0; from deploy.cli.app import main; main()"
    )
    with dashboard(server, tmp_path, [], program=["-c", soon]) as url, ExitStack() as stack:
        port = int(url.split(":")[-1].strip("/"))
        held = []
        for number in range(400):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))
            whole = b"\r\n" if number % 2 else b""  # and never reads what comes
            with suppress(OSError):
                client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: y\r\n" + whole)
            held.append(client)
        assert asked(port, "/health")[0] == 200  # at once: the oldest went
        assert sum(ended(client) for client in held) >= 400 - 256
        assert asked(port, "/")[0] == 200
        for client in held:  # by themselves, all of them
            eventually(lambda client=client: ended(client))
        assert asked(port, "/")[0] == 200


def ended(client):
    """Whether the other side has ended the connection; what it said before that is read."""
    client.setblocking(False)
    try:
        while client.recv(1 << 16):
            pass
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@contextmanager
def dashboard(server, tmp_path, runs, *more, program=("-m", "deploy.cli.app")):
    """`tinylm dashboard` as a process; yields its address."""
    port = free_port()
    argv = [sys.executable, *program, "dashboard", "--data", str(tmp_path), "--port", str(port)]
    argv += ["--redis-url", server.url, *(part for run in runs for part in ("--runs", str(run)))]
    argv += more
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == f"dashboard on http://127.0.0.1:{port}/\n"
        yield f"http://127.0.0.1:{port}/"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def render(url, profile):
    """The DOM after Chromium ran the page's script."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not browser:
        assert not os.environ.get("CI"), "Chromium must be there in CI: `make setup-system`"
        pytest.skip("no Chromium on PATH: `make setup-system` installs it")
    flags = ["headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync"]
    flags += ["disable-background-networking", "disable-component-update", "virtual-time-budget=3000"]
    argv = [browser, *(f"--{flag}" for flag in flags), f"--user-data-dir={profile}", "--dump-dom", url]
    return subprocess.run(argv, capture_output=True, text=True, timeout=120, check=True).stdout


@pytest.mark.system
def test_a_browser_shows_the_figures_and_runs_no_foreign_markup(frontier, server, tmp_path):
    a_little_crawl(frontier)
    a_corpus(tmp_path / "shards")
    run = a_run(tmp_path / "run", 40)
    evaluation = {"val_bpb": 2.345, "baselines": {"unigram": 4.567}, "held_out_bytes": 1000}
    (run / "evaluation.json").write_text(json.dumps(evaluation))
    with dashboard(server, tmp_path, [run]) as url:
        give_up = time.monotonic() + 30
        while "runs" not in json.load(urlopen(f"{url}api/status"))["disk"]:  # noqa: S310 (ours)
            assert time.monotonic() < give_up
        dom = render(url, tmp_path / "profile")
    text = re.sub(r"<script.*?</script>|<style.*?</style>", "", dom, flags=re.DOTALL)
    for shown in ("3 of 50", "2.0 kB of 1.0 MB", "robots", "321", "4.5 MB", "of 100 steps", "2.345", "4.567"):
        assert f">{shown}<" in text, shown
    assert re.search(r"<polyline[^>]*points=\"[\d. ,]{200,}\"", text)
    assert "&lt;img src=x" in text
    assert "<img" not in text
    assert "<title>tinylm</title>" in dom
