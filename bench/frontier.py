"""The frontier on one server: bytes a URL, speed a core, latency; beside scrapy-redis on the same server.

Paths are those of real documentation hosts, host sizes follow Zipf's law. Speeds are divided by the CPU
seconds of the server, whatever the client in Python takes; memory is what the server reports, its log on.
"""

import csv
import io
import os
import random
import re
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import redis
from backports import zstd
from cyclopts import App, Parameter
from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.report import report
from crawler.config import FrontierConfig
from crawler.frontier import Discovered, Frontier, Lease, connect
from crawler.frontier.server import EmbeddedServer
from crawler.frontier.spill import Spill
from crawler.page import Page

_DATA = Path(os.environ.get("TINYLM_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
_BATCH = 2000
_URLS_A_HOST = 100
_LEASED_AT_ONCE = 64
_DAY = 86400.0
_GOALS = {
    "bytes_per_url_10m": "<= 80",
    "ram_bytes_per_url_10m_spilled": "<= 25",
    "push_new_per_core_s": ">= 60,000",
    "push_seen_per_core_s": ">= 150,000",
    "lease_ack_per_core_s": ">= 15,000",
    "lease_p99_ms": "< 5",
}

app = App(name="python -m bench.frontier", help=__doc__)
console = Console()


@app.default
def main(*, quick: Annotated[bool, Parameter(negative=())] = False, out: Path | None = None) -> None:
    """Measure, print a table, and as the last line the figures as JSON.

    Parameters
    ----------
    quick
        A tenth of the URLs, within a minute or two: the keys that say 10m are of 300,000 URLs then.
    out
        File that gets the JSON too.
    """
    try:
        paths = _paths()
    except FileNotFoundError as error:
        report(dict.fromkeys(_GOALS) | {"why": f"{error.filename} is not there"}, out)
        return
    small, large = (100_000, 300_000) if quick else (1_000_000, 10_000_000)
    found: dict[str, Any] = {"urls_small": small, "urls_large": large, "quick": quick}
    found |= _memory(paths, small, large)
    found |= _speed(paths, rounds=1 if quick else 3)
    found |= _spilled(paths, large)
    found |= _scrapy_redis(paths, 20_000 if quick else 200_000)
    _show(found)
    report(found, out)


def _paths() -> list[str]:
    """Paths and queries of real pages."""
    table = zstd.decompress((_DATA / "web" / "pages.tsv.zst").read_bytes()).decode()
    rows = csv.DictReader(io.StringIO(table), delimiter="\t", quoting=csv.QUOTE_NONE)
    return [re.sub(r"^https?://[^/]*", "", row["url"]) for row in rows]


def _urls(paths: list[str], count: int, seed: int = 0) -> Iterator[str]:
    """Distinct URLs in a random order of hosts; the r-th largest host has a share of 1/r."""
    chance = random.Random(seed)
    hosts = [f"www.host-{number}.org" for number in range(count // _URLS_A_HOST)]
    total = 0.0
    cumulative = [total := total + 1 / rank for rank in range(1, len(hosts) + 1)]
    met = dict.fromkeys(hosts, 0)
    while True:
        for host in chance.choices(hosts, cum_weights=cumulative, k=10_000):
            number = met[host]
            met[host] += 1
            turn, index = divmod(number * 7919 + hash(host) % 41_000, len(paths))
            head, dot, tail = paths[index].rpartition(".")
            yield f"https://{host}{head}{turn or ''}{dot}{tail}"


@contextmanager
def _server() -> Iterator[tuple[EmbeddedServer, redis.Redis]]:
    with (
        tempfile.TemporaryDirectory() as folder,
        EmbeddedServer(Path(folder), memory="16gb") as server,
        redis.Redis.from_url(server.url) as client,
    ):
        yield server, client


def _frontier(server: EmbeddedServer, **settings: Any) -> Frontier:
    return Frontier(connect(server.url), FrontierConfig(**{"backlog": 10**9, "delay": 0.0} | settings))


def _put(frontier: Frontier, urls: Iterator[str], count: int, what: str, spill: Spill | None = None) -> None:
    chance = random.Random(0)
    for _ in track(range(count // _BATCH), what, console=console, transient=True):
        frontier.put(Discovered(url, chance.random()) for url in islice(urls, _BATCH))
        if spill:
            spill.turn()


def _used(client: redis.Redis) -> int:
    time.sleep(2)  # what the log has buffered
    return int(client.info("memory")["used_memory"])


# Memory


def _memory(paths: list[str], small: int, large: int) -> dict[str, Any]:
    with _server() as (server, client):
        frontier, before, urls = _frontier(server), _used(client), _urls(paths, large)
        _put(frontier, urls, small, f"memory at {small:,} URLs")
        at_small = _used(client) - before
        _put(frontier, urls, large - small, f"memory at {large:,} URLs")
        at_large = _used(client) - before
        latencies = _latencies(frontier)
    growth = (at_large - at_small) / (large - small)
    projected = at_large + growth * (1e8 - large)
    return {
        "bytes_per_url_1m": at_small / small,
        "bytes_per_url_10m": at_large / large,
        "projected_gib_100m": projected / 2**30,
        "projected_error": abs(at_small / small - at_large / large) / (at_large / large),
        "lease_p50_ms": statistics.median(latencies),
        "lease_p99_ms": statistics.quantiles(latencies, n=100)[98],
    }


def _latencies(frontier: Frontier) -> list[float]:
    """Milliseconds of calls that lease 16 URLs, of robots.txt and of pages, as the client sees them."""
    found = []
    for _ in track(range(3000), "latency of a lease", console=console, transient=True):
        began = time.perf_counter()
        leases = frontier.lease(16)
        found.append(1000 * (time.perf_counter() - began))
        _end(frontier, leases, b"")
    return found


def _spilled(paths: list[str], large: int) -> dict[str, Any]:
    with _server() as (server, client), tempfile.TemporaryDirectory() as folder:
        frontier, before = _frontier(server), _used(client)
        path = Path(folder) / "frontier.sqlite"
        with Spill(frontier, path) as spill:
            _put(frontier, _urls(paths, large), large, f"spilling at {large:,} URLs", spill)
            on_disk = spill.count()
            used = _used(client) - before
        disk = path.stat().st_size
    return {
        "ram_bytes_per_url_10m_spilled": used / large,
        "disk_bytes_per_url_10m_spilled": disk / max(1, on_disk),
        "share_on_disk": on_disk / large,
    }


def _scrapy_redis(paths: list[str], count: int) -> dict[str, Any]:
    """The same URLs as its scheduler keeps them: a request in the queue, a fingerprint in the filter."""
    try:
        from scrapy import Request, Spider
        from scrapy.utils.test import get_crawler
        from scrapy_redis.dupefilter import RFPDupeFilter
        from scrapy_redis.queue import PriorityQueue
    except ImportError:
        return {"scrapy_redis_bytes_per_url": None, "why_scrapy_redis": "not installed: make bench-setup"}
    crawler = get_crawler(Spider)
    spider = crawler._create_spider("bench")
    with _server() as (_, client):
        seen = RFPDupeFilter(client, "dupefilter")
        if hasattr(crawler, "request_fingerprinter"):
            seen.fingerprinter = crawler.request_fingerprinter
        queue, before = PriorityQueue(client, spider, "%(spider)s:requests"), _used(client)
        began, cpu = time.perf_counter(), _cpu(client)
        for url in track(
            islice(_urls(paths, count * 10), count), "scrapy-redis", count, console=console, transient=True
        ):
            request = Request(url, callback=spider.parse if hasattr(spider, "parse") else None)
            if not seen.request_seen(request):
                queue.push(request)
        used, seconds = _used(client) - before, time.perf_counter() - began
        return {
            "scrapy_redis_bytes_per_url": used / count,
            "scrapy_redis_push_per_core_s": count / (_cpu(client) - cpu),
            "scrapy_redis_push_per_s": count / seconds,
        }


# Speed


def _cpu(client: redis.Redis) -> float:
    """CPU seconds the server has used, its log's thread included."""
    cpu = client.info("cpu")
    return float(cpu["used_cpu_user"]) + float(cpu["used_cpu_sys"])


def _speed(paths: list[str], rounds: int) -> dict[str, Any]:
    runs = [_speed_once(paths, seed) for seed in range(rounds)]
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def _speed_once(paths: list[str], seed: int) -> dict[str, float]:
    count = 200_000
    with _server() as (server, client):
        frontier = _frontier(server, exploration=0.05)
        urls = list(islice(_urls(paths, count, seed), count))
        chance = random.Random(seed)
        speeds = {}
        for name in ("push_new_per_core_s", "push_seen_per_core_s"):
            cpu, began = _cpu(client), time.perf_counter()
            _put(frontier, iter(urls), count, name)
            speeds[name] = count / (_cpu(client) - cpu)
            speeds[name.replace("_per_core_s", "_per_s")] = count / (time.perf_counter() - began)
        for kilobytes in (10, 0, 30):
            cpu, began, ended = _cpu(client), time.perf_counter(), 0
            body = chance.randbytes(1000 * kilobytes)
            while ended < 20_000 and (leases := frontier.lease(_LEASED_AT_ONCE)):
                ended += _end(frontier, leases, body)
                if ended % (20 * _LEASED_AT_ONCE) == 0:
                    _trim(frontier, client)
            name = "lease_ack_per_core_s" if kilobytes == 10 else f"lease_ack_{kilobytes}kb_per_core_s"
            speeds[name] = ended / (_cpu(client) - cpu)
            if kilobytes == 10:
                speeds["lease_ack_per_s"] = ended / (time.perf_counter() - began)
        return speeds


def _trim(frontier: Frontier, client: redis.Redis) -> None:
    """Forget all pages, as after a commit."""
    last = client.xinfo_stream(f"{frontier.prefixes[0]}pages")["last-generated-id"].decode()
    frontier.trim_stream({"0": last})


class _Packed(Page):
    """A page of so many bytes: packing them is not the server's work."""

    def to_bytes(self) -> bytes:
        return self.text.encode("latin-1")


def _end(frontier: Frontier, leases: list[Lease], body: bytes) -> int:
    text = body.decode("latin-1")
    batch = frontier.batch()
    for lease in leases:
        if lease.kind == "robots":
            batch.ack_robots(lease, "", valid=_DAY, crawl_delay=0, latency=0, size=0)
        else:
            page = _Packed(
                url=lease.url, fetch_no=1, fetched_at=0, status=200, promise=0.5, propensity=1, text=text
            )
            batch.ack(lease, page, latency=0, size=len(body))
    batch.send()
    return len(leases)


def _show(found: dict[str, Any]) -> None:
    table = Table("figure", "value", "goal")
    for name, value in found.items():
        text = f"{value:,.2f}" if isinstance(value, float) else str(value)
        table.add_row(name, text, _GOALS.get(name, ""))
    console.print(table)


if __name__ == "__main__":
    app()
