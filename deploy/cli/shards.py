"""`tinylm shards`: what a corpus has, what it must no longer have, and which of its pages are central."""

import heapq
import random
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute as pc
from cyclopts import App, Parameter, validators
from rich.markdown import Markdown
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from crawler.config import CrawlPlace
from crawler.urls import fingerprint, locate
from deploy.cli.frontier import documents_in, say_taken_down, take_down_in
from deploy.cli.hosts import ended_of
from deploy.cli.names import host_named, names_of, urls_named
from deploy.console import Console
from deploy.crawl import attach
from ranker.config import WalkConfig
from ranker.links import rank as ranking
from shards import holdout, takedown
from shards.columns import path_of
from shards.errors import ShardError, ShardsLocked
from shards.manifest import Manifest
from shards.reader import ShardReader, read_fetches
from shards.reader import verify as find_damage
from shards.writer import ShardWriter
from tinylm.config import layers
from tinylm.errors import ConfigError, Exit
from tinylm.terminal import entered, say, tally

app = App(name="shards", help="Look after a corpus.")
# Each with its engine is imported when it is called.
for _name, _help in {
    "import": "Make a corpus of somebody's Parquet or JSON Lines.",
    "filter": "Keep the documents for which a condition holds.",
    "map": "Hand each document to a function of yours.",
    "dedup": "Drop what is the same, or nearly.",
    "sample": "Keep a share of the documents.",
    "stats": "Count documents, text and words, by a column.",
    "language": "Measure a language, for the rules.",
    "diff": "What one corpus has that another has not, and why.",
    "why": "What every stage said of a document.",
}.items():
    app.command(f"deploy.cli.batch:{_name.replace('import', 'import_')}", name=_name, help=_help)
_Number = Annotated[int, Parameter(validator=validators.Number(gte=1))]


@app.command(name="list")
def list_shards(directory: Path) -> None:
    """The shards of DIRECTORY, its size, and what is held out."""
    manifest = Manifest.load(directory)
    table = Table("shard", "documents", "text MB", "file MB", "SHA-256")
    for shard in manifest.shards:
        sizes = f"{shard.text_bytes / 1e6:.1f}", f"{shard.bytes / 1e6:.1f}"
        table.add_row(shard.name, f"{shard.rows:,}", *sizes, shard.sha256[:12])
    console = Console()
    console.print(table)
    console.print(f"{manifest.rows:,} documents, {manifest.text_bytes / 1e6:.1f} MB of text")
    dropped = sorted(manifest.dropped.items(), key=lambda item: -item[1])
    console.print("dropped: " + (", ".join(f"{reason} {count:,}" for reason, count in dropped) or "nothing"))
    held_out = manifest.held_out
    console.print(f"held out: {', '.join(held_out.hosts) if held_out else 'nothing yet: shards hold-out'}")
    if manifest.tombstones:
        console.print(f"taken down: {', '.join(manifest.tombstones)}")
    console.print(f"snapshot {manifest.fingerprint[:12]}, commit {manifest.version}")


@app.command
def verify(directory: Path) -> None:
    """Compare every file of DIRECTORY with what was committed; exit 1 if one differs."""
    damage = list(find_damage(directory))
    for name, what in damage:
        say(f"{directory / name}: {what}", file=sys.stderr)
    if damage:
        sys.exit(Exit.FAILED)
    say(f"{directory}: every file is as it was committed")


@app.command(config=layers(walk=WalkConfig))
def hold_out(directory: Path, *, walk: WalkConfig = WalkConfig()) -> None:
    """Choose the hosts whose text no model trains on, once for a corpus."""
    held_out = holdout.hold_out(directory, walk.held_out)
    reader = ShardReader(directory, split="all")
    groups = (reader.documents(group, ("host",)) for group in reader.row_groups)
    of_hosts = Counter(document["host"] for group in groups for document in group)
    held = sum(of_hosts[host] for host in held_out.hosts)
    say(
        f"held out: {', '.join(held_out.hosts)}, {held:,} of {of_hosts.total():,} documents; "
        f"{len(held_out.excluded):,} near-duplicates of them are on neither side"
    )


@app.command(config=layers(frontier=CrawlPlace))
def take_down(directory: Path, *what: str, frontier: CrawlPlace = CrawlPlace()) -> None:
    """Never give WHAT, hosts and URLs, from the corpus in DIRECTORY again; a crawl does not fetch them again.

    A name with a port is the whole host, a page without http:// or https:// both of them.
    While a crawl writes to DIRECTORY its frontier is told, and the walker's next commit has it.
    """
    named = [name for each in what for name in names_of(each)]
    if not named:
        raise ConfigError("nothing to take down: name hosts or URLs")
    manifest = Manifest.load(directory)
    documents = documents_in(directory, named)
    try:
        with ShardWriter(directory) as writer:
            writer.update(tombstones=writer.manifest.with_tombstones(named).tombstones)
        hit = sum(say_taken_down(name, documents) for name in named) > 0
        done = "no reader gives them any more; `tinylm shards purge` removes them from the files"
    except ShardsLocked:
        # A walker writes here, and nobody else may commit: its frontier passes the names on.
        if frontier.crawl_id != manifest.crawl_id:
            raise ShardError(
                f"{directory}: crawl {manifest.crawl_id!r} is writing here: name it with --crawl-id, and its "
                "server with --redis-url or --data"
            ) from None
        hit = take_down_in(attach(frontier), named, documents)
        done = "not fetched any more; readers do not give them from the walker's next commit"
    if hit or documents is None:
        say(done)


@app.command
def purge(directory: Path) -> None:
    """Rewrite the shards of DIRECTORY without what was taken down. Not while a crawl writes there.

    Text, links and fetches go from the corpus; what was made from it (models, instruction data, WARC files)
    is not touched. Snapshots from before cannot be read any more.
    """
    # Documents, links and fetches of a page are known by its host and its fingerprint, of which ids are made.
    documents, links, fetches = takedown.purge(directory, lambda url: (locate(url).host, fingerprint(url)))
    say(f"{directory}: {documents:,} documents, {links:,} links and {fetches:,} logged fetches are gone")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which rows of a corpus."""

    url: str | None = None
    """Only the page with this URL."""
    host: str | None = None
    """Only pages of this host."""
    reason: str | None = None
    """Instead of documents: fetches that were dropped for this reason."""
    sample: bool = False
    """Any of them, not the first."""
    limit: _Number = 3
    """How many at the most."""


@app.command
def show(directory: Path, *, wanted: Wanted = Wanted()) -> None:
    """Print documents of DIRECTORY, or fetches that were dropped, and how many there are of them."""
    urls = urls_named(wanted.url) if wanted.url is not None else ()
    host = host_named(wanted.host) if wanted.host is not None else ""
    reader = ShardReader(directory, split="all")
    if wanted.reason:
        columns = ["url", "host", "status", "fetched_at", "reason"]
        dropped = pc.field("reason") == entered(wanted.reason)
        tables = (table.filter(dropped) for _, table in read_fetches(directory, reader.manifest, columns))
        rows = (row for table in tables for row in table.to_pylist())
    else:  # where they lie; the text is read of those that are shown
        groups = ((group, reader.documents(group, ("url", "host"))) for group in reader.row_groups)
        rows = (dict(row, group=group) for group, documents in groups for row in documents)
    found: list[dict[str, Any]] = []
    count, counted = 0, urls or host or wanted.reason or wanted.sample
    for row in rows:
        if (urls and row["url"] not in urls) or (host and row["host"] != host):
            continue
        count += 1
        if len(found) < wanted.limit:
            found.append(row)
        elif wanted.sample and (at := random.randrange(count)) < wanted.limit:
            found[at] = row  # each of `count` is among them with the same probability (Vitter's algorithm R)
        if not counted and count == wanted.limit:
            count = reader.manifest.rows
            break
    if not count:
        of = f" has the URL {' or '.join(urls)}" if urls else f" is of {host}" if host else " is there"
        what = f"fetch dropped for {wanted.reason}" if wanted.reason else "document"
        raise ShardError(f"{directory}: no {what}{of}")
    console = Console()
    facts = ("quality", "promise", "karma", "inlinks", "depth", "language")
    for row in found:
        console.rule(row.pop("url"))
        if wanted.reason:
            console.print({name: row[name] for name in row if name != "host"})
            continue
        [document] = reader.documents(row["group"], ("text", *facts), slice(row["row"], row["row"] + 1))
        console.print({name: document[name] for name in facts})
        console.print(Markdown(document["text"], hyperlinks=False))
    console.print(f"{len(found):,} of {count:,}")


@app.command
def hosts(directory: Path, *, top: _Number = 20) -> None:
    """Hosts of DIRECTORY: those with most fetches, what was kept of them, and why most was not."""
    of_hosts = ended_of(directory)
    shown = Table("host", "fetched", "kept", "not kept")
    for host, reasons in heapq.nlargest(top, of_hosts.items(), lambda item: item[1].total()):
        kept = reasons.pop("", 0)
        shown.add_row(host, f"{kept + reasons.total():,}", f"{kept:,}", tally(reasons, 3))
    console = Console()
    console.print(shown)
    console.print(f"{len(of_hosts):,} hosts were fetched from")


@app.command
def rank(directory: Path, *, top: _Number = 10) -> None:
    """PageRank and harmonic centrality of DIRECTORY's pages, hosts and domains, as columns beside its shards.

    Done once for a snapshot of the corpus: the second time it says so.

    Parameters
    ----------
    top
        How many of the best pages and hosts to print.
    """
    console = Console()
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("reading")
        found = ranking.rank(
            directory,
            lambda what, done, of: progress.update(task, description=what, completed=done, total=of),
        )
    path = path_of(directory, "rank", Manifest.load(directory))
    if found is None:
        console.print(f"{path}: up to date", soft_wrap=True)
        return
    pages = found.rank.append_column("url", found.urls)
    _print_best(console, pages, ("url", "pagerank", "harmonic", "host_harmonic"), top)
    of_hosts = ("host", "pages", "documents", "pages_pagerank", "pagerank", "harmonic")
    _print_best(console, found.hosts, of_hosts, top)
    graph = f"{found.pages:,} pages, {found.links:,} links, {found.hosts.num_rows:,} hosts"
    console.print(f"{graph}: {path}", soft_wrap=True)


def _print_best(console: Console, table: pa.Table, columns: tuple[str, ...], top: int) -> None:
    """Print the rows with the highest PageRank."""
    best = table.take(pc.select_k_unstable(table, top, [("pagerank", "descending")]))
    shown = Table(*columns)
    shown.columns[0].overflow = "fold"
    formats = {str: "", int: ",", float: ".3g"}
    for row in best.select(columns).to_pylist():
        shown.add_row(*(format(row[name], formats[type(row[name])]) for name in columns))
    console.print(shown)
