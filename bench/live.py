"""A live crawl beside its simulation: is what the simulator says of a policy what a crawl does?

The local web (real HTTP, host delays, several workers) is crawled whole and so recorded. Then each policy
crawls it again from the same pages, live with a budget of fetches, and in the simulator on the recording.
What steers either is what it finds pages worth itself, judged as they come, since that depends on what the
quality model has seen by then; what counts is the worth that the recording gives each page.
"""

import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
from cyclopts import App, Parameter
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from bench.pages import fetched
from bench.report import report
from crawler.config import CrawlConfig, FrontierConfig
from crawler.frontier import Frontier
from crawler.page import LISTS, Extracted
from crawler.seeds.read import read_seeds
from crawler.seeds.seed import Seed
from deploy.crawl import Crawl
from deploy.demo.dump import write_dump
from deploy.demo.run import local_web
from deploy.demo.sites import discover
from ranker.config import WalkConfig
from ranker.judge.judge import Judge
from ranker.policy import POLICIES
from ranker.replay.simulator import Clock, Simulation
from ranker.replay.web import RecordedWeb, read_shards
from shards.manifest import Manifest
from shards.reader import ShardReader, read_fetches

PACKAGES = "scrapy,redis,rich,numpy,aiohttp,pyarrow,trafilatura,parsel"
SEEDS = 60
"""Pages with the most votes, from which crawls start."""
ORDERS = ("tinylm", "opic", "bfs", "random")
_DELAY, _WORKERS, _CONCURRENCY = 0.1, 2, 8
_MOST = 20_000
# Area under the live curve by that of its simulation, at least and at most (1 / 0.75). Wide, because the
# harvests of two live crawls of one policy differ by some percent (results/live.json).
_SOUND = 0.75, 1.33
_JUDGED_BY = ("text", "language", "language_score", "content_sha256", "opt_out")
Documents = Mapping[str, dict[str, Any]]
"""Rows of a recording's documents, by URL."""

app = App(name="python -m bench.live", help=__doc__)


@app.default
def main(
    *,
    quick: Annotated[bool, Parameter(negative=())] = False,
    budget: int = 600,
    rounds: int = 3,
    out: Path | None = None,
) -> None:
    """Record, crawl, simulate; the last line is JSON. Exit 1 if `tinylm` is not what its simulation says.

    Parameters
    ----------
    quick
        One policy, once, 150 fetches.
    budget
        Fetches of a crawl.
    rounds
        Live crawls of each policy; simulations are as many, with other random draws.
    out
        File that gets the JSON too.
    """
    figures = compare(("tinylm",), 150, 1) if quick else compare(ORDERS, budget, rounds)
    report(figures | {"quick": quick}, out, "scrapy")
    ratio = figures["orders"]["tinylm"]["ratio_auc"]
    if not _SOUND[0] < ratio < _SOUND[1]:
        sys.exit(f"tinylm live is {ratio} of its simulation: one of the two is wrong")


def compare(orders: Sequence[str], budget: int, rounds: int) -> dict[str, Any]:
    """The harvest of each order at the end and its area under the curve, live and simulated, and ratios."""
    with tempfile.TemporaryDirectory() as scratch, local_web(Path(scratch), PACKAGES) as web:
        folder = Path(scratch)
        seeds = _seeds(folder)
        crawl(folder / "whole", web, "bfs", seeds, _MOST)
        recorded = read_shards(folder / "whole" / "shards")
        documents = {row["url"]: row for row in ShardReader(folder / "whole" / "shards", split="all")}
        print(f"{len(recorded.urls):,} pages recorded, worth {recorded.worth.sum():,.0f}", flush=True)
        found = {}
        for order in orders:
            live, simulated = [], []
            for number in range(rounds):
                data = folder / f"{order}-{number}"
                crawl(data, web, order, seeds, budget)
                live.append(_curve(_fetched(data / "shards"), recorded, budget))
                urls = _simulated(recorded, documents, order, seeds, len(live[-1]), number)
                simulated.append(_curve(urls, recorded, budget))
            found[order] = _beside(live, simulated)
    _print(found)
    return {"orders": found, "pages": len(recorded.urls), "budget": budget, "rounds": rounds}


def _seeds(folder: Path) -> list[Seed]:
    """Those of a generated Reddit dump that people liked best."""
    dump = folder / "RS.zst"
    write_dump(dump, discover(PACKAGES.split(",")))
    return sorted(read_seeds(str(dump)), key=lambda seed: -seed.prior)[:SEEDS]


def crawl(data: Path, web: dict[str, Any], policy: str, seeds: list[Seed], pages: int) -> None:
    """Crawl `web` from `seeds` with real workers and a walker."""
    frontier = FrontierConfig(
        data=data, delay=_DELAY, latency_factor=0.0, backoff=1.0, lease_seconds=40.0, pages_per_host=500
    )
    fetching = CrawlConfig(
        user_agent="tinylm-bench/0 (+http://python.test/)",
        pages=pages,
        disk_reserve_gigabytes=0.1,
        allowed_networks=(f"127.0.0.0/8:{web['port']}",),
        resolve=tuple(web["resolve"]),
        workers=_WORKERS,
        concurrency=_CONCURRENCY,
        ip_concurrency=_WORKERS * _CONCURRENCY,
        ip_delay=0.0,
        timeout=15.0,
        extract_timeout=5.0,
    )
    Crawl(frontier, fetching, WalkConfig(policy=policy)).run(seeds, _shown)


@contextmanager
def _shown(_frontier: Frontier) -> Iterator[Callable[[], None]]:
    yield lambda: None


def _fetched(shards: Path) -> list[str]:
    """URLs of pages in the order in which their fetches were over."""
    columns = ("url", "fetched_at", "reason")
    log = pa.concat_tables([table for _, table in read_fetches(shards, Manifest.load(shards), columns)])
    rows = sorted(log.to_pylist(), key=lambda row: row["fetched_at"])
    return [row["url"] for row in rows if row["reason"] not in LISTS]


def _simulated(
    web: RecordedWeb, documents: Documents, policy: str, seeds: list[Seed], budget: int, number: int
) -> list[str]:
    pages = {url: page for page, url in enumerate(web.urls)}
    begin = np.array([pages[seed.url] for seed in seeds if seed.url in pages], np.int64)
    harvest = Simulation(web).crawl(
        POLICIES[policy],
        begin,
        budget,
        clock=Clock(delay=_DELAY, latency=0.05, workers=_WORKERS * _CONCURRENCY),
        exploration=FrontierConfig().exploration,
        seed=number,
        worth=_judged(web, documents),
    )
    return [web.urls[page] for page in harvest.pages]


def _judged(web: RecordedWeb, documents: Documents) -> Callable[[int], float]:
    """What a new judge says of pages as they come; of one that was not recorded as kept, nothing."""
    judge = Judge(WalkConfig())

    def worth(page: int) -> float:
        document = documents.get(web.urls[page])
        if not document:
            return 0.0
        found = Extracted(**{name: document[name] for name in _JUDGED_BY})
        return judge(fetched(document["url"], found), document["karma"]).worth

    return worth


def _curve(urls: Sequence[str], web: RecordedWeb, budget: int) -> NDArray[np.float64]:
    """(fetches,) Recorded worth gathered after each fetch, each page counted once."""
    worth = dict(zip(web.urls, web.worth.tolist(), strict=True))
    return np.cumsum([worth.pop(url, 0.0) for url in urls[:budget]])


def _beside(live: list[NDArray[np.float64]], simulated: list[NDArray[np.float64]]) -> dict[str, Any]:
    pairs = list(zip(live, simulated, strict=True))
    return {
        "live": [round(float(curve[-1]), 1) for curve in live],
        "simulated": [round(float(curve[-1]), 1) for curve in simulated],
        "ratio_harvest": round(median(float(one[-1] / other[-1]) for one, other in pairs), 3),
        "ratio_auc": round(median(float(one.mean() / other.mean()) for one, other in pairs), 3),
    }


def _print(found: dict[str, Any]) -> None:
    table = Table("order", "live", "simulated", "ratio", "ratio of areas")
    for order, figures in found.items():
        harvests = ("  ".join(f"{worth:.0f}" for worth in figures[kind]) for kind in ("live", "simulated"))
        table.add_row(order, *harvests, f"{figures['ratio_harvest']:.2f}", f"{figures['ratio_auc']:.2f}")
    Console().print(table)


if __name__ == "__main__":
    app()
