"""Pages and documents per core second through the whole pipeline, beside scrapy-redis and Crawlee.

All fetch the same list of real pages from one nginx on loopback, 44 hosts, no delay, 16 requests at once, and
push the links they find where "discovered or not" is decided: ours and scrapy-redis in Redis, Crawlee in its
memory. A core second is a CPU second of any process of a contestant, Redis among them, nginx not; it counts
from the page at which all have warmed up to the last one. Extraction is trafilatura with the same settings.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Annotated, Any, NamedTuple

from backports import zstd
from cyclopts import App, Parameter
from rich.progress import Progress

from bench.crawlers import Job
from bench.report import report
from crawler.frontier.server import EmbeddedServer
from crawler.read.language import detect_language
from crawler.urls import canonicalize
from shards.text.filters import judge
from shards.text.signals import Signals

DATA = Path(os.environ.get("TINYLM_TEST_DATA", Path(__file__).parents[2] / "shared" / "data")) / "web"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "tinylm" / "web"
PEERS = {"scrapy_redis": "scrapy_redis", "crawlee": "crawlee"}
_ALIASES = 2
_WARM_SHARE = 0.25
_PATIENCE = 600.0
_TICKS = os.sysconf("SC_CLK_TCK")
_NGINX = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
  types {{ text/html html htm; text/plain txt; text/css css; image/png png; }}
  default_type application/octet-stream;
  log_format line '$status'; access_log {folder}/access.log line;
  client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s; keepalive_requests 100000;
  server {{ {listen} root {folder}/hosts/$host; }}
}}
"""

_PACKAGES = ("scrapy", "scrapy-redis", "crawlee", "trafilatura", "selectolax", "resiliparse")

app = App(name="python -m bench.crawl", help=__doc__)


class Round(NamedTuple):
    """One contestant over the list once."""

    pages: int
    core_seconds: float
    documents: list[tuple[str, str]]
    shares: dict[str, float]
    """CPU seconds by process."""


@app.default
def main(*, quick: Annotated[bool, Parameter(negative=())] = False, out: Path | None = None) -> None:
    """Alternate all contestants in all modes; the last line is JSON.

    Parameters
    ----------
    quick
        A short list, one round.
    out
        File that gets the JSON too.
    """
    if missing := _missing():
        found: dict[str, Any] = {**dict.fromkeys(_KEYS), "why": missing}
        print(missing)
    else:
        found = _measure(pages=300 if quick else 600, rounds=1 if quick else 3)
    report(found | {"quick": quick}, out, *_PACKAGES)


_KEYS = (
    "links_only_pages_per_core_s", "documents_per_core_s", "ratio_links_only", "ratio_documents",
    "two_tier_tokens_ratio", "bound",
)  # fmt: skip


def _missing() -> str:
    if not DATA.is_dir():
        return f"{DATA} is not there; TINYLM_TEST_DATA names the folder that `web` is in"
    if not shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin"):
        return "nginx is not installed: `make setup-system`"
    lacking = [name for name in PEERS.values() if find_spec(name) is None]
    return f"{', '.join(lacking)} not installed: `make bench-setup`" if lacking else ""


def _measure(pages: int, rounds: int) -> dict[str, Any]:
    runs: dict[tuple[str, str], list[Round]] = {}
    plan = [(name, mode) for mode in ("links", "documents") for name in ("ours", *PEERS)]
    plan.append(("ours", "two tiers"))
    with tempfile.TemporaryDirectory() as scratch, _serving(Path(scratch)) as base, Progress() as progress:
        task = progress.add_task("crawling", total=rounds * len(plan))
        for number in range(rounds):
            urls = _choose(base, pages, seed=number)
            for name, mode in plan if number % 2 == 0 else plan[::-1]:
                progress.update(task, description=f"{name}: {mode}")
                runs.setdefault((name, mode), []).append(_run(name, mode, urls, Path(scratch)))
                progress.advance(task)
    return _figures(runs)


# The web


@contextmanager
def _serving(folder: Path) -> Iterator[list[tuple[str, str]]]:
    """nginx over the unpacked hosts, each under several loopback addresses; yields (URL prefix, host)."""
    for archive in sorted(DATA.glob("*.tar.zst")):
        if not (CACHE / archive.name.removesuffix(".tar.zst")).is_dir():
            _unpack(archive)
    hosts = sorted(path.name for path in CACHE.iterdir())
    (folder / "hosts").mkdir()
    addresses = {}
    for number, host in enumerate(hosts * _ALIASES):
        address = f"127.8.{number // 250}.{number % 250 + 1}"
        (folder / "hosts" / address).symlink_to(CACHE / host)
        addresses[address] = host
    listen = " ".join(f"listen {address}:8199;" for address in addresses)
    (folder / "nginx.conf").write_text(_NGINX.format(folder=folder, listen=listen))
    nginx = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin") or "nginx"
    # Unprivileged workers of a server started by root cannot look into a private directory.
    argv = [nginx, "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
    argv += ["-g", "user root;"] if os.geteuid() == 0 else []
    process = subprocess.Popen(argv)
    try:
        yield [(f"http://{address}:8199", host) for address, host in addresses.items()]
    finally:
        process.terminate()
        process.wait()


def _unpack(archive: Path) -> None:
    CACHE.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=CACHE.parent) as folder,
        zstd.open(archive) as stream,
        tarfile.open(fileobj=stream, mode="r|") as tar,
    ):
        tar.extractall(folder, filter="data")
        for host in Path(folder).iterdir():
            host.rename(CACHE / host.name)


def _choose(base: list[tuple[str, str]], pages: int, seed: int) -> list[str]:
    """As many pages of each host, but no more than it has; in random order, spread over its addresses."""
    random = Random(seed)
    by_host: dict[str, list[str]] = {}
    with zstd.open(DATA / "pages.tsv.zst", "rt", encoding="utf-8") as lines:
        names = next(lines).rstrip("\n").split("\t")
        for line in lines:
            row = dict(zip(names, line.rstrip("\n").split("\t"), strict=False))
            by_host.setdefault(row["host"], []).append(row["url"].partition(f"//{row['host']}")[2])
    addresses: dict[str, list[str]] = {}
    for prefix, host in base:
        addresses.setdefault(host, []).append(prefix)
    chosen = []
    for host, prefixes in addresses.items():
        paths = by_host.get(host, [])
        chosen += [
            canonicalize(random.choice(prefixes) + path) or ""
            for path in random.sample(paths, min(len(paths), pages // len(addresses) + 1))
        ]
    random.shuffle(chosen)
    return chosen


# One run


def _run(name: str, mode: str, urls: list[str], folder: Path) -> Round:
    with ExitStack() as stack:
        redis_folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(_redis(redis_folder))
        job = Job(urls, server.url, mode, str(folder / "out.jsonl"))
        (folder / "job.json").write_text(json.dumps(job._asdict()))
        log = folder / "access.log"
        before = log.stat().st_size
        process = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-m", f"bench.crawlers.{name}", str(folder / "job.json")],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=Path(__file__).parents[1],
            )
        )
        impatience = threading.Timer(_PATIENCE, process.kill)
        impatience.start()
        stack.callback(process.kill)
        stack.callback(impatience.cancel)
        warm, size_of_line = int(len(urls) * _WARM_SHARE), len("200\n")
        _wait(lambda: log.stat().st_size - before >= warm * size_of_line, process)
        begun = _cpu([process.pid, server.pid or 0])
        assert process.stdout
        assert process.stdin
        said = process.stdout.readline()
        ended = _cpu([process.pid, server.pid or 0])
        if said != "done\n":
            raise SystemExit(f"{name} ended early, in mode {mode!r}")
        process.stdin.write("\n")
        process.stdin.close()
        process.wait(_PATIENCE)
        documents = [tuple(json.loads(line)) for line in Path(job.out).read_text().splitlines()]
    shares = {part: seconds - begun.get(part, 0.0) for part, seconds in ended.items()}
    return Round(len(urls) - warm, sum(shares.values()), documents, shares)


@contextmanager
def _redis(folder: Path) -> Iterator[EmbeddedServer]:

    with EmbeddedServer(folder) as server:
        yield server


def _wait(check: Any, process: "subprocess.Popen[str]") -> None:
    give_up = time.monotonic() + _PATIENCE
    while not check():
        if process.poll() is not None or time.monotonic() > give_up:
            raise SystemExit(f"a contestant did not get through the list: {process.args!r}")
        time.sleep(0.01)


def _cpu(roots: list[int]) -> dict[str, float]:
    """CPU seconds so far of the processes under `roots`, by what they are."""
    found: dict[str, float] = {}
    waiting = list(roots)
    while waiting:
        pid = waiting.pop()
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        except FileNotFoundError:
            continue
        waiting += map(int, children)
        part = _part(line)
        found[part] = found.get(part, 0.0) + sum(map(int, fields[11:15])) / _TICKS
    return found


def _part(command: str) -> str:
    if "multiprocessing" in command:
        return "extraction"
    if "bench.crawlers" in command:
        return "worker" if command.rstrip().endswith("worker") else "main"
    return "server"


# What came of it


def _pages(one: Round) -> float:
    return one.pages / one.core_seconds


def _documents(one: Round) -> float:
    return len(one.documents) * (1 - _WARM_SHARE) / one.core_seconds


def _kept_characters(one: Round) -> float:
    return (
        sum(len(text) for _, text in one.documents if _is_kept(text)) * (1 - _WARM_SHARE) / one.core_seconds
    )


def _figures(runs: dict[tuple[str, str], list[Round]]) -> dict[str, Any]:
    for (name, mode), rounds in runs.items():
        print(f"{name:13} {mode:10} {_row(rounds)}")
    links, documents, tiers = (runs["ours", mode] for mode in ("links", "documents", "two tiers"))
    lost = [_lost(one, two) for one, two in zip(documents, tiers, strict=True)]
    return {
        "links_only_pages_per_core_s": _median(_pages, links),
        "documents_per_core_s": _median(_documents, documents),
        "ratio_links_only": min(_ratio(_pages, links, runs[peer, "links"]) for peer in PEERS),
        "ratio_documents": min(_ratio(_documents, documents, runs[peer, "documents"]) for peer in PEERS),
        "two_tier_tokens_ratio": _ratio(_kept_characters, tiers, documents),
        "two_tier_ratio_to_peers": min(
            _ratio(_kept_characters, tiers, runs[peer, "documents"]) for peer in PEERS
        ),
        "two_tier_lost_share": round(statistics.median(lost), 4),
        "peers": {
            peer: {
                "links_only_pages_per_core_s": _median(_pages, runs[peer, "links"]),
                "documents_per_core_s": _median(_documents, runs[peer, "documents"]),
            }
            for peer in PEERS
        },
        "bound": f"links only: {_shares(links)}; with extraction: {_shares(documents)}",
    }


def _row(rounds: list[Round]) -> str:
    kept = sum(_is_kept(text) for _, text in rounds[-1].documents)
    return (
        f"{_median(_pages, rounds):7} pages a core second, {len(rounds[-1].documents):5} documents, "
        f"{kept:5} of them kept; {_shares(rounds)}"
    )


def _shares(rounds: list[Round]) -> str:
    """Milliseconds of CPU a page, by process."""
    return ", ".join(
        f"{part} {1000 * statistics.median(one.shares.get(part, 0.0) / one.pages for one in rounds):.1f} ms"
        for part in rounds[0].shares
    )


def _median(rate: Callable[[Round], float], rounds: list[Round]) -> float:
    return round(statistics.median(map(rate, rounds)), 1)


def _ratio(rate: Callable[[Round], float], ours: list[Round], theirs: list[Round]) -> float:
    """The median over rounds, each on one list for both."""
    return round(statistics.median(rate(a) / rate(b) for a, b in zip(ours, theirs, strict=True)), 2)


def _lost(every: Round, screened: Round) -> float:
    """Share of the kept characters that the screen did not let through, duplicates aside."""
    passed = {text for _, text in screened.documents}
    kept = {text for _, text in every.documents if _is_kept(text)}
    return sum(map(len, kept - passed)) / max(1, sum(map(len, kept)))


@cache
def _is_kept(text: str) -> bool:
    language, score = detect_language(text)
    return language == "en" and score >= 0.65 and judge(Signals(text, language)).keep


if __name__ == "__main__":
    app()
