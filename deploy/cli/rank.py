"""`tinylm shards rank`: batch rank with a line of progress, and the top of what was found."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ranker.links.rank import path_of, rank
from shards.manifest import Manifest


def run(directory: Path, top: int) -> None:
    """Rank the corpus in `directory` and print its `top` pages and hosts, or say that it is up to date."""
    console = Console()
    text = TextColumn("{task.description}")
    columns = (text, BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("reading")
        ranking = rank(
            directory,
            lambda what, done, of: progress.update(task, description=what, completed=done, total=of),
        )
    path = path_of(directory, Manifest.load(directory))
    if ranking is None:
        console.print(f"{path}: up to date", soft_wrap=True)
        return
    pages = ranking.rank.append_column("url", ranking.urls)
    _print(console, pages, ("url", "pagerank", "harmonic", "host_harmonic"), top)
    _print(
        console, ranking.hosts, ("host", "pages", "documents", "pages_pagerank", "pagerank", "harmonic"), top
    )
    graph = f"{ranking.pages:,} pages, {ranking.links:,} links, {ranking.hosts.num_rows:,} hosts"
    console.print(f"{graph}: {path}", soft_wrap=True)


def _print(console: Console, table: pa.Table, columns: tuple[str, ...], top: int) -> None:
    """The rows with the highest PageRank."""
    best = table.take(pc.select_k_unstable(table, top, [("pagerank", "descending")]))
    shown = Table(*columns)
    shown.columns[0].overflow = "fold"
    for row in best.select(columns).to_pylist():
        shown.add_row(*(_text(row[name]) for name in columns))
    console.print(shown)


def _text(value: str | float) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"
