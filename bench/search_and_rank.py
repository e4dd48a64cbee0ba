"""Crawl orders on recorded webs: how near each comes to an oracle, its cost, and what each part is worth.

No system publishes an honest order for language-model data that counts its fetches, so the peers are the
orders of the literature, run by the same simulator on the same draws.
"""

import tracemalloc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter
from rich.console import Console
from rich.table import Table

from bench.crawl import DATA
from bench.report import report
from crawler.urls import fingerprint
from deploy.cli.simulate import compare
from ranker.graph import LinkGraph, Target
from ranker.policy import POLICIES, Policy
from ranker.policy.orders import RANDOM
from ranker.policy.promise import PARTS, LearnedPromise
from ranker.replay.experiment import Experiment, draw_starts
from ranker.replay.simulator import GreedyOracle
from ranker.replay.web import PAGERANK, RecordedWeb, read_edges
from tinylm.errors import ConfigError

_WORTH = "where(kind == 'nonenglish', 0, min(prose_chars, 20000))"
SEEDS = 20
_OURS = LearnedPromise.name

app = App(name="python -m bench.search_and_rank", help=__doc__)


@dataclass(frozen=True)
class Setting:
    """A recorded web and how its crawls begin."""

    read: Callable[[Path], RecordedWeb]
    of_hosts: bool = False


def documentation(data: Path) -> RecordedWeb:
    """The documentation web, a page worth its English prose."""
    return read_edges(data / "edges.parquet", data / "pages.tsv.zst", _WORTH)


def _cnr(data: Path) -> RecordedWeb:
    return read_edges(data / "cnr-2000.parquet", None, PAGERANK)


_HOSTS = "web, a page of each host"
SETTINGS = {
    "web": Setting(documentation),
    _HOSTS: Setting(documentation, of_hosts=True),
    "cnr-2000, PageRank": Setting(_cnr),
}


@app.default
def main(
    *,
    quick: Annotated[bool, Parameter(negative=())] = False,
    draws: int = 4,
    budget: int = 10_000,
    out: Path | None = None,
) -> None:
    """Simulate every policy on every web, and ours without each of its parts; the last line is JSON.

    Parameters
    ----------
    quick
        One web, two draws, 2,000 fetches.
    draws
        Of start pages.
    budget
        Fetches.
    out
        File that gets the JSON too.
    """
    if quick:
        draws, budget = 2, 2_000
    data = _data()
    results = {
        name: _run(setting, data, POLICIES, draws, budget)
        for name, setting in SETTINGS.items()
        if not quick or name == "web"
    }
    without: Mapping[str, Callable[[LinkGraph], Policy]] = {
        _OURS: LearnedPromise,
        **{f"without {part}": partial(LearnedPromise, without=frozenset([part])) for part in sorted(PARTS)},
    }
    ablation = {} if quick else {_HOSTS: _run(SETTINGS[_HOSTS], data, without, draws, budget)}
    figures = {
        "percent_of_oracle": {name: _percent(result)[_OURS] for name, result in results.items()},
        "percent_of_oracle_ci": {
            name: result["policies"][_OURS]["percent_of_oracle_ci"] for name, result in results.items()
        },
        "best_baseline": {name: max(_baselines(result).values()) for name, result in results.items()},
        "baselines": {name: _baselines(result) for name, result in results.items()},
        "recall": {name: result["policies"][_OURS]["recall"] for name, result in results.items()},
        "ablation": {name: _percent(result) for name, result in ablation.items()},
        "us_per_decision": {
            name: round(result["policies"][_OURS]["us_per_decision"]) for name, result in results.items()
        },
        "bytes_per_url": _bytes_per_url(),
        "lm_bpb": None,
        "why": "lm_bpb: `python -m bench.language_models`",
    }
    _print(figures)
    report(figures | {"draws": draws, "budget": budget, "quick": quick}, out, "numpy")


def _data() -> Path:
    if not (DATA / "edges.parquet").exists():
        raise ConfigError(
            f"{DATA / 'edges.parquet'} is not there; TINYLM_TEST_DATA names the folder of `web`"
        )
    return DATA


def _run(
    setting: Setting,
    data: Path,
    policies: Mapping[str, Callable[[LinkGraph], Policy]],
    draws: int,
    budget: int,
) -> dict[str, Any]:
    web = setting.read(data)
    starts = draw_starts(web, SEEDS, draws, seed=0, of_hosts=setting.of_hosts)
    return compare(Experiment(web=web, policies=policies, starts=starts, budget=budget))


def _percent(result: dict[str, Any]) -> dict[str, float]:
    return {name: round(of["percent_of_oracle"], 1) for name, of in result["policies"].items()}


def _baselines(result: dict[str, Any]) -> dict[str, float]:
    ours = (_OURS, GreedyOracle.name, RANDOM)
    return {name: value for name, value in _percent(result).items() if name not in ours}


def _bytes_per_url(urls: int = 50_000) -> float:
    """Of the evidence of queued URLs, by allocation."""
    targets = [
        Target(fingerprint(url), url)
        for url in (f"http://host{n % 500}.example/docs/{n % 7}/page-{n}.html" for n in range(urls))
    ]
    tracemalloc.start()
    graph = LinkGraph()
    for target in targets:
        graph.seed(target, 0.0, 0.0)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return round(held / urls, 1)


def _print(figures: dict[str, Any]) -> None:
    table = Table("left out", *figures["ablation"], title="percent of oracle without a part")
    for name in next(iter(figures["ablation"].values()), {}):
        table.add_row(name, *(f"{of[name]:.1f}" for of in figures["ablation"].values()))
    if figures["ablation"]:
        Console().print(table)


if __name__ == "__main__":
    app()
