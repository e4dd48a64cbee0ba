"""`tinylm simulate`: policies compared on a recorded web; a table, JSON, and a plot."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from cyclopts import Parameter
from numpy.typing import NDArray
from rich.box import SIMPLE_HEAD
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn
from rich.table import Table

from crawler.urls import canonicalize
from deploy.console import Console
from ranker.replay.experiment import Experiment, Run, draw_starts, policies, run, summarize
from ranker.replay.simulator import Clock
from ranker.replay.web import PAGERANK, RecordedWeb, read_edges, read_shards, read_warc
from tinylm.config import listed, require
from tinylm.errors import ConfigError
from tinylm.files import write_json

# Shares of the budget whose recall is in the table, as the result names them.
_SHOWN = ("0.01", "0.1", "0.5", "1.0")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class SimulationOptions:
    """A recorded web, policies to compare on it, and how they crawl."""

    edges: Path | None = None
    """The web as a Parquet file of links: src and dst, numbers of pages."""
    pages: Path | None = None
    """With it, a table of pages, tab-separated or Parquet: id, url, and what the worth is made of."""
    shards: Path | None = None
    """The web that a crawl of ours saw: its directory of shards."""
    warc: tuple[str, ...] = ()
    """The web in WARC or WAT files, by path or fsspec URL, or directories of them."""
    worth: str | None = None
    """What fetching a page is worth: "pagerank" (of an edge list, its default), or an expression over the
    columns of the pages with numbers, 'words', + - * /, comparisons, min, max, where and log1p. Shards know
    what each fetch was worth; of a WARC it is the length of its text."""
    policy: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = ("tinylm",)
    """Names of policies, separated by commas. Random order and the greedy oracle are always with them."""
    seeds: int = 20
    """Pages drawn to start from."""
    draws: int = 8
    """How often."""
    start: str | None = None
    """Instead: "hosts" for one page drawn of each host, or a file of URLs."""
    budget: int = 10_000
    """Fetches."""
    delay: float | None = None
    """Seconds a host rests after a fetch: simulates time, and politeness with it."""
    latency: float = 0.1
    """Seconds a fetch takes, in simulated time."""
    workers: int = 16
    """Fetches at once, in simulated time."""
    exploration: float = 0.0
    """Share of fetches drawn at random, as in a real crawl."""
    seed: int = 0
    """The same seed draws the same."""
    json: Path | None = None
    """File for the result."""
    plot: Path | None = None
    """File for harvest curves and percent of oracle: .svg, .png or .pdf."""


_DEFAULTS = SimulationOptions()


def simulate(*, options: SimulationOptions = _DEFAULTS) -> None:
    """`tinylm simulate`: compare policies, print a table, and write the files that `options` ask for."""
    require(options, "seed", options.seed >= 0, "0 or more")
    if options.plot is not None:
        check_plot(options.plot)
    web = read_web(options)
    names = list(listed(options.policy))
    if options.start in (None, "hosts"):
        of_hosts = options.start == "hosts"
        starts = draw_starts(web, options.seeds, options.draws, options.seed, of_hosts=of_hosts)
    else:
        # The same pages every time: draws then differ by the random numbers of policies and exploration only.
        starts = [read_starts(Path(options.start), web)] * options.draws
    clock = None
    if options.delay is not None:
        clock = Clock(delay=options.delay, latency=options.latency, workers=options.workers)
    result = compare(
        Experiment(
            web=web,
            policies=policies(names, web, options.budget),
            starts=starts,
            budget=options.budget,
            clock=clock,
            exploration=options.exploration,
        )
    )
    if options.json is not None:
        # Once more through JSON, which has no nan: it becomes null.
        write_json(options.json, json.loads(json.dumps(result), parse_constant=lambda _: None))
    if options.plot is not None:
        plot(result, options.plot)


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


def read_web(options: SimulationOptions) -> RecordedWeb:
    """The one recorded web that was named. Raises ConfigError if none was, or several."""
    if (options.edges is not None) + (options.shards is not None) + bool(options.warc) != 1:
        raise ConfigError("one recorded web is needed: --edges, --shards or --warc")
    if options.edges is not None:
        return read_edges(options.edges, options.pages, options.worth or PAGERANK)
    if options.pages is not None:
        raise ConfigError(f"pages = {options.pages}: goes with --edges only")
    if options.shards is not None:
        return read_shards(options.shards, options.worth or "worth")
    # 20,000 characters are about ten pages of a book: a longer text is worth no more.
    return read_warc(options.warc, options.worth or "min(text_chars, 20000)")


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
    if -1 in pages:  # what the lines above give a URL that the web does not have
        at = pages.index(-1)
        raise ConfigError(f"start = {path}: {lines[at]} is no page of {web.name}")
    return np.array(pages, np.int64)


def check_plot(path: Path) -> None:
    """Raise ConfigError if matplotlib is not installed, or writes no such file, before hours of work."""
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ImportError:
        raise ConfigError("--plot needs matplotlib: pip install matplotlib") from None
    known = sorted(FigureCanvasBase.get_supported_filetypes())
    if path.suffix.lower().removeprefix(".") not in known:
        raise ConfigError(f"plot = {path}: a file's name ends in .{', .'.join(known)}")


def plot(result: dict[str, Any], path: Path) -> None:
    """Harvest curves, and percent of oracle with its intervals. Raises ConfigError for what is no path."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5), layout="constrained")
    curves, bars = figure.subplots(1, 2, width_ratios=(3, 2))
    ranked = sorted(result["policies"].items(), key=lambda item: item[1]["auc"])
    # The best first in the legend; bars are drawn from below, so that it is on top there too.
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
