"""`tinylm read`: pages of archives into a crawl's corpus, judged and ranked as fetched ones are."""

import asyncio
import re
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from crawler.config import CrawlConfig, FrontierConfig, product_token
from crawler.errors import FrontierFull, SeedError
from crawler.seeds.config import CommonCrawl
from crawler.seeds.seed import LONGEST_SOURCE
from deploy.sources.seed import shown
from ranker.config import WalkConfig
from shards.manifest import Manifest, is_corpus
from tinylm.config import layers, said
from tinylm.terminal import say, tally

if TYPE_CHECKING:
    from crawler.archives.records import Reader, Record
    from crawler.page import Page
    from crawler.seeds.seed import Progress

app = App(name="read", help="Bring pages of archives to a crawl's corpus, without a request.")
_ALL = layers(frontier=FrontierConfig, crawl=CrawlConfig, walk=WalkConfig)
# Pages of one call, and characters of their texts: as many as workers' acks have.
_AT_ONCE, _CHARACTERS_AT_ONCE = 64, 4 << 20
# Records that are read ahead for each of several extractors: with one, a page that takes long leaves others
# without work for a quarter of the time. A single extractor is asked in the order of the archive.
_AHEAD = 8
# Seconds between looks whether the walker has caught up.
_POLL_SECONDS = 0.2
_DONE = "done"
# The crawl that a file of the columnar index is of, as in its path.
_CRAWLED = re.compile(r"CC-MAIN-\d{4}-\d\d")


@app.command(config=_ALL)
def warc(
    files: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    *,
    ranges: CommonCrawl = CommonCrawl(),
    frontier: FrontierConfig = FrontierConfig(),
    crawl: CrawlConfig = CrawlConfig(),
    walk: WalkConfig = WalkConfig(),
) -> None:
    """Read WARC, WET or WAT FILES, by path or URL, whoever wrote them: extract, judge, rank, deduplicate.

    Of a WET file the texts are taken as they are; of a WAT file pages have links and no text.
    """
    if not files and not ranges.index:
        raise SeedError("nothing was given to read: name WARC files, or --index")
    from crawler.archives.places import Places
    from crawler.archives.warc import read_warc

    with Places(crawl) as places:
        read("warc", partial(read_warc, places), list(files), frontier, crawl, walk)
        if not ranges.index:
            return
        from crawler.archives.commoncrawl import Index  # DuckDB is an extra

        def records(place: str, position: str, progress: "Progress") -> "Iterator[Record]":
            return Index(places, place, ranges.where).records(ranges.base, position, progress)

        read(
            "commoncrawl",
            records,
            list(ranges.index),
            frontier,
            crawl,
            walk,
            f" {ranges.base} {ranges.where}",
        )


@app.command(config=_ALL)
def dump(
    files: list[str],
    *,
    frontier: FrontierConfig = FrontierConfig(),
    crawl: CrawlConfig = CrawlConfig(),
    walk: WalkConfig = WalkConfig(),
) -> None:
    """Read dumps of wikis: HTML of Wikimedia Enterprise (.tar.gz), or MediaWiki's XML, packed or not."""
    from crawler.archives.wiki import read_dump

    read("dump", read_dump, files, frontier, crawl, walk)


@app.command(config=_ALL)
def zim(
    files: list[str],
    *,
    frontier: FrontierConfig = FrontierConfig(),
    crawl: CrawlConfig = CrawlConfig(),
    walk: WalkConfig = WalkConfig(),
) -> None:
    """Read ZIM files, as Kiwix has them of Wikipedia and many other sites."""
    from crawler.archives.wiki import read_zim

    read("zim", read_zim, files, frontier, crawl, walk)


def read(
    kind: str,
    reader: "Reader",
    places: list[str],
    frontier: FrontierConfig,
    crawl: CrawlConfig,
    walk: WalkConfig,
    which: str = "",
) -> None:
    """Bring what `reader` finds in each of `places`, in their order, and say what became of it.

    `which` tells one reading of a place from another, of other parts of it.

    What was brought before is passed over, also in the middle of a file. Raises SeedError for a place that
    cannot be read, after those before it were brought.
    """
    from crawler.archives.making import Pages
    from crawler.read.extract import Extractor, Screen
    from crawler.read.pool import Extractors
    from crawler.seeds.ledger import FILE_NAME, Ledger
    from crawler.seeds.seed import Progress
    from deploy.crawl import Crawl
    from deploy.summary import Summary

    progress, brought, token = Progress(), 0, product_token(crawl.user_agent)
    screen = Screen(walk.languages, walk.language_score) if crawl.prescreen else None
    processes = crawl.workers * crawl.extractors
    ahead = processes * _AHEAD if processes > 1 else 1
    extract, seconds = Extractor(screen, token), crawl.extract_timeout
    with Crawl(frontier, crawl, walk, said()).walking() as (opened, check):
        before = Summary.of(opened, frontier.shards)

        def bring(pages: "list[Page]") -> None:
            """Once there is room: the walker judges as fast as it can, and the server holds what waits."""
            while True:
                with suppress(FrontierFull):
                    if opened.counts()["backlog"] < opened.config.backlog:
                        opened.bring(pages)
                        return
                check()
                time.sleep(_POLL_SECONDS)

        async def bring_all(pages: "AsyncIterator[tuple[Page | None, str]]") -> AsyncIterator[str]:
            """Positions up to which all was brought."""
            nonlocal brought
            held: list[Page] = []
            async for page, position in pages:
                held += [page] if page else []
                if len(held) >= _AT_ONCE or sum(len(one.text) for one in held) >= _CHARACTERS_AT_ONCE:
                    bring(held)
                    brought += len(held)
                    held.clear()
                    yield position
            bring(held)
            brought += len(held)
            yield _DONE

        async def read_all() -> None:
            for place in places:
                job = _job(kind, place) + which
                if (position := ledger.position(job)) == _DONE:
                    say(f"{place}: was read before", file=sys.stderr)
                    continue
                source = _source(kind, place)
                made = Pages(extractors, token, source, int(crawl.megabytes_per_page * 1e6), progress)
                async for brought_to in bring_all(made.of(reader(place, position, progress), ahead)):
                    ledger.settle(job, brought_to)
                    check()

        with (
            Ledger(frontier.data / FILE_NAME) as ledger,
            closing(Extractors(extract, processes, seconds, all_slow=True)) as extractors,
            shown(f"read {kind}", progress),
        ):
            asyncio.run(read_all())
    left_out = f"; left out: {tally(progress.dropped)}" if progress.dropped.total() else ""
    say(f"{progress.read:,} records read, {brought:,} pages brought{left_out}")
    # Beside a crawl that has committed nothing yet there is none: its walker judges what was brought.
    after = Manifest.load(frontier.shards) if is_corpus(frontier.shards) else Manifest()
    dropped = Counter(after.dropped) - Counter(before.dropped)
    say(f"kept {after.rows - before.kept:,}; dropped: {tally(dropped) or 'nothing'}")


def _source(kind: str, place: str) -> str:
    crawled = _CRAWLED.search(place) if kind == "commoncrawl" else None
    name = Path(place.partition("?")[0] if "://" in place else place).name  # a query may hold a key
    return f"{kind}:{crawled[0] if crawled else name}"[:LONGEST_SOURCE]


def _job(kind: str, place: str) -> str:
    """A name for what is read, which another file in its place has not. Raises SeedError if there is none."""
    if "://" in place:
        return f"read {kind} {place}"
    try:
        about = Path(place).resolve().stat()
    except OSError as error:
        raise SeedError(f"{place}: {error.strerror}; a file, or a URL, is needed") from error
    return f"read {kind} {Path(place).resolve()} {about.st_size} {about.st_mtime_ns}"
