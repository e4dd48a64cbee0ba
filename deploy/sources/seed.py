"""`tinylm seed`: URLs from a source into a crawl, or into a file."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from cyclopts import App

from crawler.config import CrawlConfig, FrontierConfig
from crawler.errors import SeedError
from crawler.seeds.config import SeedsTo
from tinylm.config import layers
from tinylm.terminal import say, tally

if TYPE_CHECKING:
    from crawler.seeds.ledger import Ledger
    from crawler.seeds.seed import Batch, Progress

app = App(
    help="Bring URLs to a crawl, running or not, or to a file: people's choices, lists, searches.",
    config=layers(frontier=FrontierConfig),
)
# Each source with its libraries is imported when it is called.
app.command("deploy.sources.reddit:app", name="reddit", help="Pages by the votes of Reddit's submissions.")
app.command("deploy.sources.sites:sites_app", name="sites", help="Chosen sites, and lists of feeds.")
app.command("deploy.sources.sites:wiki_app", name="wiki", help="Articles of a MediaWiki.")
app.command("deploy.sources.hosts:app", name="hosts", help="Front pages of hosts that lists name.")
app.command("deploy.sources.search:app", name="search", help="What search engines find.")
Found = Callable[["Ledger", "Progress"], "Iterator[Batch]"]
"""A source with its settings: what it finds, from where the ledger says that it goes on."""
_COLUMNS = ("url", "prior", "source", "precision")
app.command(
    "deploy.sources.commoncrawl:commoncrawl",
    name="commoncrawl",
    help="Give the URLs of pages that Common Crawl's columnar index has.",
    config=layers(frontier=FrontierConfig, crawl=CrawlConfig),
)


@app.default
def seed(seeds: list[str], *, frontier: FrontierConfig = FrontierConfig()) -> None:
    """Give SEEDS (URLs, files of URLs, Reddit dumps) to a crawl, or what a source below finds."""
    from deploy.cli.crawl import read_seeds_of
    from deploy.crawl import give_seeds, open_frontier

    if not (found := read_seeds_of(seeds)):
        raise SeedError("nothing was given: no seed has a URL")
    with open_frontier(frontier, begin=False) as opened:
        again = give_seeds(opened, found)
    more = f", {again:,} of them queued again that were refused or given up" if again else ""
    say(f"{len(found):,} seeds given to crawl {frontier.crawl_id!r}{more}; those it has had count once")


def give(name: str, found: Found, config: FrontierConfig, to: SeedsTo) -> None:
    """Give what the source `name` finds to the crawl, or to a file; show how far it is, and what it did."""
    from crawler.seeds.ledger import FILE_NAME, Ledger
    from crawler.seeds.seed import Progress

    progress, given = Progress(), 0
    with (
        Ledger(config.data / FILE_NAME, resumes=to.out is None) as ledger,
        shown(name, progress),
        _target(config, to) as put,
    ):
        for batch in found(ledger, progress):
            put(batch)
            given += len(batch.seeds)
    left_out = f"; left out: {tally(progress.dropped)}" if progress.dropped.total() else ""
    where = to.out or f"crawl {config.crawl_id!r}, where those it has had count once"
    say(f"{name}: {given:,} seeds of {progress.read:,} records given to {where}{left_out}", file=sys.stderr)


@contextmanager
def shown(name: str, progress: "Progress") -> Iterator[None]:
    """A bar of `progress` on stderr, if that is a terminal, for as long as this is open."""
    from rich.progress import BarColumn, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    from deploy.console import Console

    class Drawn(Bar):
        def get_renderables(self) -> Iterator[Any]:
            # In Rich's thread, ten times a second: a source may read for an hour before it gives anything.
            for task in self.task_ids:
                show(task)
            yield from super().get_renderables()

    texts = TextColumn("{task.description}"), TextColumn("{task.fields[said]}")
    console = Console(stderr=True)
    with Drawn(
        texts[0],
        BarColumn(),
        TaskProgressColumn(),
        texts[1],
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
        transient=True,
    ) as bar:

        def show(task: TaskID) -> None:
            # Another thread counts meanwhile: without a copy a new reason would break the sum.
            dropped = sum(progress.dropped.copy().values())
            said = f"{progress.done:,.0f} {progress.unit}, {progress.read:,} read, {dropped:,} left out"
            bar.update(task, total=progress.total or None, completed=progress.done, said=said)

        bar.add_task(name, total=None, said="")
        yield


@contextmanager
def _target(config: FrontierConfig, to: SeedsTo) -> Iterator[Callable[["Batch"], object]]:
    """What gives a batch to the crawl, or writes it to a file that is there once all of them are."""
    from deploy.crawl import give_seeds, open_frontier

    if to.out is None:
        with open_frontier(config, begin=False) as frontier:
            yield lambda batch: give_seeds(frontier, batch.seeds)
        return
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet as pq

    from tinylm.files import replacing

    stdout = str(to.out) == "-"
    kind: Any = {".parquet": pq.ParquetWriter}.get(to.out.suffix, pyarrow.csv.CSVWriter)
    if not stdout and to.out.suffix not in (".parquet", ".csv"):
        raise SeedError(f"--out {to.out}: what kind of file? .parquet, .csv, or - for CSV on stdout")
    with nullcontext(sys.stdout.buffer) if stdout else replacing(to.out) as place, ExitStack() as stack:
        writer: Any = None
        # The first batch that has seeds says what else is known of them, and of which type.
        types = pa.schema(zip(_COLUMNS, (pa.string(), pa.float64(), pa.string(), pa.float64()), strict=True))

        def write(batch: "Batch") -> None:
            nonlocal writer, types
            if not batch.seeds:
                return
            columns = dict(zip(_COLUMNS, zip(*batch.seeds, strict=True), strict=True))
            table = pa.table(columns | dict(batch.facts), types if writer else None)
            types = table.schema
            writer = writer or stack.enter_context(kind(place, types))
            writer.write_table(table)

        yield write
        if writer is None:
            stack.enter_context(kind(place, types)).write_table(types.empty_table())
