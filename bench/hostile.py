"""Forty good hosts crawled alone, beside a hostile web, and with links to a thousand names without address.

Each is a real `tinylm crawl` over HTTP on loopback, which it cannot leave: default settings, but shorter
timeouts and commits. In turn, several rounds. A good host may be asked once a second, so the figure is
whether it still is. Memory is that of the largest process of each part, at the end of the window by that at
its beginning; `budget_right` is whether the crawl counted as many fetches as its servers saw requests.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from statistics import median
from typing import Annotated, Any, NamedTuple

from cyclopts import App, Parameter
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench.hostile_web import KINDS
from bench.report import report
from crawler.config import FrontierConfig
from crawler.frontier import Frontier, connect
from crawler.frontier.server import EmbeddedServer

ROOT = Path(__file__).parents[1]
SEEDS = 8
"""Good hosts from which a crawl starts; links lead to the other 32."""
_OVER = "the window is over"
_PORTS = 10  # in a row: the hosts' own, and some more for the host that is linked at many
_PATIENCE = 300.0  # seconds, for a run that does not begin, or does not end when it should
_SAMPLE_SECONDS = 1.0
_EDGE = 0.25  # share of the window at each end, whose median is the memory there
_MEGABYTE = 1_000_000
# The crawl's Python processes ask this module for names instead of a name server.
_NO_DNS = "import socket\nfrom bench.hostile_web import look_up\nsocket.getaddrinfo = look_up\n"
_PARTS = {"redis-server": "server", "valkey": "server", " worker": "worker", " walk": "walker"}

app = App(name="python -m bench.hostile", help=__doc__)


class Course(NamedTuple):
    """Seconds of a run: until all is warm, those that count, those a response may take; and rounds."""

    warm: float
    window: float
    timeout: float
    rounds: int


class Run(NamedTuple):
    """What one crawl did."""

    good: int
    """Pages of good hosts that were asked for within the window."""
    reached: int
    """Good hosts that were asked for a page at all."""
    elsewhere: float
    """Share of the requests that went to other hosts."""
    fetched: int
    """Fetches by the crawl's count."""
    asked: int
    """Requests by the servers'."""
    counts: dict[str, int]
    """How fetches failed, and what else the frontier counted."""
    memory: dict[str, tuple[float, float]]
    """MB of the largest process of each part at the beginning and the end of the window."""
    end: str
    """What the crawl said last."""


@app.default
def main(
    kinds: Annotated[tuple[str, ...], Parameter(negative=())] = tuple(KINDS),
    *,
    quick: Annotated[bool, Parameter(negative=())] = False,
    each: Annotated[bool, Parameter(negative=())] = False,
    keep: Path | None = None,
    out: Path | None = None,
) -> None:
    """Crawl the webs in turn; the last line is JSON.

    Parameters
    ----------
    kinds
        Hostile kinds, such as farm or nested; all of them by default.
    quick
        One round of a few seconds.
    each
        One round beside each kind by itself, to see which one costs what.
    keep
        Folder that gets the data and the logs of every run.
    out
        File that gets the JSON too.
    """
    webs = {kind: kind for kind in kinds} if each else {"hostile": ",".join(kinds)}
    webs = {"alone": "good", **webs, "dead names": "dead"}
    course = Course(6, 8, 5, 1) if quick else Course(15, 30, 8, 1) if each else Course(30, 60, 10, 3)
    runs: dict[str, list[Run]] = {name: [] for name in webs}
    with Progress() as progress:
        task = progress.add_task("crawling", total=course.rounds * len(webs))
        for number in range(course.rounds):
            for name in list(webs) if number % 2 == 0 else reversed(webs):
                progress.update(task, description=name)
                with tempfile.TemporaryDirectory() as folder:
                    runs[name].append(crawl(Path(folder), webs[name], course))
                    if keep:
                        shutil.copytree(folder, keep / f"{name}-{number}", ignore=_sockets)
                progress.advance(task)
    _print(runs, course)
    found = figures(runs) if not each else {"ratios": {name: ratio(runs, name) for name in runs}}
    report(found | {"quick": quick}, out, "scrapy", "redis")


def figures(runs: dict[str, list[Run]]) -> dict[str, Any]:
    """Medians of ratios of the same round, and what was worst in any run."""
    every = [run for found in runs.values() for run in found]
    growth = {name: {part: _growth(found, part) for part in found[0].memory} for name, found in runs.items()}
    return {
        "good_pages_ratio": ratio(runs, "hostile"),
        "good_pages_ratio_dead_names": ratio(runs, "dead names"),
        "good_hosts_reached": min(run.reached for run in every),
        "memory_growth": max(growth["hostile"].values()),
        "memory_growth_of_parts": growth,
        "budget_right": int(all(run.fetched == run.asked for run in every)),
        "fetches_beyond_requests": max(run.fetched - run.asked for run in every),
        "share_elsewhere": round(median(run.elsewhere for run in runs["hostile"]), 3),
        "runs": {name: [run._asdict() for run in found] for name, found in runs.items()},
    }


def ratio(runs: dict[str, list[Run]], name: str) -> float:
    """Good pages of a crawl by those of the same round's crawl of good hosts alone."""
    pairs = zip(runs[name], runs["alone"], strict=True)
    return round(median(run.good / max(1, alone.good) for run, alone in pairs), 3)


def _growth(runs: list[Run], part: str) -> float:
    ends = (run.memory.get(part, (1.0, 1.0)) for run in runs)
    return round(median(after / before - 1 for before, after in ends), 3)


def _print(runs: dict[str, list[Run]], course: Course) -> None:
    table = Table("", "good pages/s", "good hosts", "elsewhere", "fetched", "asked", "memory, MB", "ended")
    for name, found in runs.items():
        for run in found:
            rate, share = f"{run.good / course.window:.1f}", f"{run.elsewhere:.0%}"
            fetches = f"{run.fetched:,}", f"{run.asked:,}"
            sizes = (f"{part} {a:.0f} to {b:.0f}" for part, (a, b) in sorted(run.memory.items()))
            end = run.end.partition("; the corpus")[0]
            table.add_row(name, rate, str(run.reached), share, *fetches, ", ".join(sizes), end)
    Console(width=160).print(table)


# One crawl


def crawl(
    folder: Path, outward: str, course: Course, until: Callable[[], object] = bool, **options: object
) -> Run:
    """Crawl the good hosts, whose pages lead `outward`, from some of them until the window is over.

    It is over before its time once `until` says so. `options` are the crawl's own, beside or instead of ours.
    """
    port = free_ports()
    memory: dict[str, list[float]] = {}
    with ExitStack() as stack:
        logs = [stack.enter_context(_serving(which, port, outward, folder)) for which in ("good", "hostile")]
        process = stack.enter_context(_started(folder, port, course, options))
        _wait(lambda: logs[0].stat().st_size or process.poll() is not None)
        begin = time.time() + course.warm
        end = begin + course.window
        while process.poll() is None and time.time() < end and not until():
            time.sleep(_SAMPLE_SECONDS)
            for part, size in _sizes(process.pid).items() if time.time() > begin else ():
                memory.setdefault(part, []).append(size)
        if process.poll() is None:
            with opened(folder / "data") as frontier:
                frontier.stop(_OVER)
        _wait(lambda: process.poll() is not None)
    good, other = ([json.loads(line) for line in log.read_text().splitlines()] for log in logs)
    # What robots.txt files of others are said to be at is no page that a crawl came for.
    pages = [(when, host) for when, host, path in good if path != "/robots.txt" and "?" not in path]
    with opened(folder / "data") as frontier:
        counts = frontier.counts()
    edge = max(1, int(course.window * _EDGE / _SAMPLE_SECONDS))
    said = (folder / "out").read_text().splitlines()
    return Run(
        good=sum(begin <= when < end for when, _ in pages),
        reached=len({host for _, host in pages}),
        elsewhere=round(len(other) / max(1, len(good) + len(other)), 3),
        fetched=counts["fetched"],
        asked=len(good) + len(other),
        counts=dict(counts),
        memory={part: (median(sizes[:edge]), median(sizes[-edge:])) for part, sizes in memory.items()},
        end=next((line for line in said if line.startswith(("done:", "error:"))), ""),
    )


def free_ports() -> int:
    """The first of some ports in a row that nobody listens at on loopback."""
    for first in range(20_000, 32_000, _PORTS):
        with ExitStack() as stack:
            try:
                for port in range(first, first + _PORTS):
                    stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            return first
    raise SystemExit(f"no {_PORTS} free ports in a row on 127.0.0.1: stop what listens there")


@contextmanager
def _serving(which: str, port: int, outward: str, folder: Path) -> Iterator[Path]:
    log = folder / f"{which}.log"
    log.touch()
    argv = [sys.executable, "-m", "bench.hostile_web", which, str(port), outward, str(log)]
    process = subprocess.Popen(argv, cwd=ROOT)
    try:
        _wait(lambda: (folder / f"{which}.log.ready").exists())
        yield log
    finally:
        process.kill()
        process.wait()


@contextmanager
def _started(
    folder: Path, port: int, course: Course, options: dict[str, object]
) -> Iterator["subprocess.Popen[bytes]"]:
    (folder / "sitecustomize.py").write_text(_NO_DNS)
    ours = {
        "data": folder / "data",
        "allowed_networks": f"127.9.0.0/16:{port}-{port + _PORTS - 1}",
        "user_agent": "tinylm-bench (+http://good0.test/)",
        "pages": 10**9,
        "gigabytes": 1000,
        "timeout": course.timeout,
        "disk_reserve_gigabytes": 0.1,
        "shard_seconds": course.warm / 2,
    }
    argv = [sys.executable, "-m", "deploy.cli.app", "crawl"]
    argv += [f"http://good{number}.test:{port}/" for number in range(SEEDS)]
    for name, value in (ours | options).items():
        argv += ["--" + name.replace("_", "-"), str(value)]
    env = os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
    with (folder / "out").open("wb") as out:
        process = subprocess.Popen(argv, cwd=folder, env=env, stdout=out, stderr=out)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait()


def _wait(check: Callable[[], object]) -> None:
    give_up = time.monotonic() + _PATIENCE
    while not check():
        if time.monotonic() > give_up:
            raise SystemExit(f"a run did not begin or end within {_PATIENCE:.0f} s")
        time.sleep(0.05)


def _sizes(root: int) -> dict[str, float]:
    """MB that the largest process of each part of the crawl `root` holds."""
    found: dict[str, float] = {}
    waiting = [root]
    while waiting:
        pid = waiting.pop()
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            tasks = [*Path(f"/proc/{pid}/task").iterdir()]
            waiting += [int(child) for task in tasks for child in (task / "children").read_text().split()]
        except (OSError, IndexError):
            continue
        # Whatever else is a process of a worker's or the walker's: extractors and other parsers.
        part = "main" if pid == root else next((p for w, p in _PARTS.items() if w in command), "child")
        found[part] = max(found.get(part, 0.0), pages * os.sysconf("SC_PAGE_SIZE") / _MEGABYTE)
    return found


@contextmanager
def opened(data: Path) -> Iterator[Frontier]:
    """The crawl's frontier, whether the crawl runs or not."""
    with EmbeddedServer(data / "redis") as server, closing(connect(server.url)) as store:
        yield Frontier(store, FrontierConfig(data=data), begin=False)


def _sockets(_folder: str, names: list[str]) -> list[str]:
    return [name for name in names if name.endswith(".sock")]


if __name__ == "__main__":
    app()
