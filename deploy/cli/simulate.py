"""`tinylm simulate`: policies compared on a recorded web; a table, JSON, and a plot."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.table import Table

from crawler.urls import canonicalize
from ranker.replay.experiment import Experiment, Run, run, summarize
from ranker.replay.web import PAGERANK, RecordedWeb, read_edges, read_shards, read_warc
from tinylm.errors import ConfigError
from tinylm.files import replacing

_SHOWN = ("0.01", "0.1", "0.5", "1.0")
"""Shares of the budget whose recall is in the table."""


def compare(experiment: Experiment) -> dict[str, Any]:
    """Run an experiment with a progress bar, print its table, and return its result."""
    console = Console()
    bar = Progress(
        "{task.description}", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=console
    )
    runs: list[Run] = []
    crawls = len(experiment.starts) * len(experiment.compared)
    with bar:
        task = bar.add_task("crawling", total=crawls)
        for one in run(experiment):
            runs.append(one)
            bar.update(task, advance=1, description=f"{one.policy}, draw {one.draw + 1}")
    result = summarize(experiment, runs)
    console.print(_table(result))
    return result


def _table(result: dict[str, Any]) -> Table:
    """Best first: percent of oracle, recall at shares of the budget, CPU time a fetch, simulated time."""
    title = (
        f"{result['graph']}: {result['pages']:,} pages, {result['links']:,} links; "
        f"{result['budget']:,} fetches, {result['draws']} draws"
    )
    table = Table(title=title, box=SIMPLE_HEAD, padding=(0, 0, 0, 1))
    timed = any("seconds" in of for of in result["policies"].values())
    names = ("% oracle", "interval", *(f"{float(share):.0%}" for share in _SHOWN), "µs")
    table.add_column("policy", no_wrap=True)
    for name in (*names, "seconds") if timed else names:
        table.add_column(name, justify="right", no_wrap=True)
    for name, of in sorted(result["policies"].items(), key=lambda item: -item[1]["auc"]):
        low, high = of["percent_of_oracle_ci"]
        recalls = (f"{of['recall'][share]:.3f}" for share in _SHOWN)
        cells = [f"{of['percent_of_oracle']:.1f}", f"{low:.0f} to {high:.0f}", *recalls]
        cells += [f"{of['us_per_decision']:.0f}", *([f"{of['seconds']:,.0f}"] if timed else [])]
        table.add_row(name, *cells)
    return table


def read_web(
    edges: Path | None, pages: Path | None, shards: Path | None, warc: Sequence[Path], worth: str | None
) -> RecordedWeb:
    """The one recorded web that was named. Raises ConfigError if none was, or several."""
    if (edges is not None) + (shards is not None) + bool(warc) != 1:
        raise ConfigError("one recorded web is needed: --edges, --shards or --warc")
    if edges is not None:
        return read_edges(edges, pages, worth or PAGERANK)
    if pages is not None:
        raise ConfigError(f"pages = {pages}: goes with --edges only")
    if shards is not None:
        return read_shards(shards, worth or "worth")
    return read_warc(warc, worth or "min(text_chars, 20000)")


def read_starts(path: Path, web: RecordedWeb) -> NDArray[np.int64]:
    """The pages of `web` whose URLs stand in a file, one a line.

    Raises ConfigError if it cannot be read, or has a URL that is not a page of the web.
    """
    try:
        lines = [line.strip() for line in path.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"start = {path}: cannot be read ({error})") from error
    number = {url: page for page, url in enumerate(web.urls)}
    pages = [number.get(line, number.get(canonicalize(line) or "", -1)) for line in lines]
    if not pages:
        raise ConfigError(f"start = {path}: no URL in it")
    if -1 in pages:
        at = pages.index(-1)
        raise ConfigError(f"start = {path}: {lines[at]} is no page of {web.name}")
    return np.array(pages, np.int64)


def write_json(result: dict[str, Any], path: Path) -> None:
    """The result, whole or not at all; nan, which JSON does not have, becomes null."""
    plain = json.loads(json.dumps(result), parse_constant=lambda _: None)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(plain, indent=1) + "\n")


def plot(result: dict[str, Any], path: Path) -> None:
    """Harvest curves, and percent of oracle with its intervals, as SVG, PNG or PDF.

    Raises ConfigError if matplotlib is not installed, or does not write such a file.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError("--plot needs matplotlib: pip install matplotlib") from None
    figure = Figure(figsize=(11, 5), layout="constrained")
    curves, bars = figure.subplots(1, 2, width_ratios=(3, 2))
    ranked = sorted(result["policies"].items(), key=lambda item: item[1]["auc"])
    for name, of in reversed(ranked):
        points = np.linspace(0, result["budget"], len(of["curve"]))
        style = "--" if name.startswith("oracle") else "-"
        curves.plot(points, of["curve"], style, label=name, linewidth=2.2 if name == "tinylm" else 1.2)
    curves.set(xlabel="fetches", ylabel="recall of worth", title=f"{result['graph']}: harvest")
    curves.legend(fontsize=8)
    middle = [of["percent_of_oracle"] for _, of in ranked]
    sides = np.abs(np.array([of["percent_of_oracle_ci"] for _, of in ranked]).T - middle)
    bars.barh([name for name, _ in ranked], middle, xerr=sides, color="#7aa6c2", ecolor="#333333")
    bars.set(xlabel="% of the greedy oracle", title="with 95 % intervals")
    try:
        figure.savefig(path)
    except (ValueError, OSError) as error:
        raise ConfigError(f"plot = {path}: {error}") from error
