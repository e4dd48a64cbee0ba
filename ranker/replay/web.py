"""A recorded web, to be crawled again in a simulator: pages, their links, and what each was worth.

It is read from tables of anybody's, from a crawl of ours, or from WARC files.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from crawler.archives import warc as archives
from crawler.archives.places import Places
from crawler.archives.records import Archived
from crawler.config import CrawlConfig
from crawler.errors import CrawlError
from crawler.page import LISTS, Extracted, Page
from crawler.read.extract import Extractor
from crawler.read.pages import Task, answered
from crawler.read.pool import Extractors
from crawler.seeds.seed import Progress
from crawler.urls import canonicalize, domain, fingerprint, locate
from ranker.links.centrality import Graph, pagerank
from ranker.links.webgraph import Names, counted, latest, split_ids
from ranker.replay.worth import evaluate
from shards.reader import ShardReader, read_fetches, read_links
from shards.schema import DOCUMENTS, FETCHES
from shards.text.content import values
from tinylm.errors import TinylmError

# Where pages are whose URLs name no host.
_NOWHERE = "http://graph/"
# The worth that needs no table of pages.
PAGERANK = "pagerank"
# Reasons of fetches that are lists, or that only said that an earlier one still holds.
_NOT_PAGES = (*LISTS, "not_modified")
_LOGGED = ("url", "host", "status", "reason", "worth", "promise", "propensity", "policy", "expected")
_WORDS = "rps_doc_word_count"
_MAY_BE_XHTML = ("application/xml", "text/xml")
# Columns of a WARC file's pages, and their types.
_COLUMNS = {"status": int, "bytes": int, "text_chars": int, "links": int, "language": object}
_ARCHIVES = ".warc", ".warc.gz", ".warc.wet.gz", ".warc.wat.gz"
# That the extraction of a page may take; most take 0.03.
_SECONDS = 10.0

log = logging.getLogger(__name__)
# Of a response: the URL, fingerprints of where it links to, and the values of _COLUMNS.
_Page = tuple[str, NDArray[np.uint64], dict[str, Any]]
_Extract = Callable[[Task], Extracted]


class RecordingError(TinylmError):
    """A recorded web that cannot be read."""


@dataclass(frozen=True)
class RecordedWeb:
    """Pages numbered from 0. A page that is not in the recording does not exist: links to it are left out."""

    name: str
    urls: Sequence[str]
    hosts: Sequence[str]
    worth: NDArray[np.float64]
    """(pages,), not negative."""
    targets: NDArray[np.int32]
    """(links,): where each link leads, those of page 0 first, each at most once a page."""
    starts: NDArray[np.int64]
    """(pages + 1,): the links of page i are those from starts[i] up to starts[i + 1]."""

    def links(self, page: int) -> NDArray[np.int32]:
        """Where the links of a page lead."""
        return self.targets[self.starts[page] : self.starts[page + 1]]

    def reachable(self, start: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(pages,) Whether links lead from one of the pages `start` to each page."""
        reached = np.zeros(len(self.urls), np.bool_)
        edge = np.unique(start)
        while len(edge):
            reached[edge] = True
            lengths = self.starts[edge + 1] - self.starts[edge]
            offsets = np.repeat(self.starts[edge] - np.cumsum(lengths) + lengths, lengths)
            linked = np.unique(self.targets[offsets + np.arange(lengths.sum())])
            edge = linked[~reached[linked]]
        return reached


def read_edges(edges: Path, pages: Path | None, worth: str) -> RecordedWeb:
    """A web out of a Parquet table of links (`src`, `dst`) and a table of pages (`id`, `url`, and more).

    The pages are tab-separated or Parquet, plain or compressed with zstd. `worth` is an expression over their
    columns (`ranker.replay.worth`), or "pagerank". Without pages, every end of a link is a page of one host.
    Raises RecordingError for files that are not of this form, ConfigError for a worth that is none.
    """
    links = _table(edges, parquet=True)
    sources, targets = (_numbers(links, name, edges) for name in ("src", "dst"))
    if pages is None:
        ids = np.unique(np.concatenate([sources, targets]))
        urls: list[str] = [f"{_NOWHERE}{number}" for number in ids]
        columns: dict[str, Any] = {}
    else:
        table = _table(pages, parquet=pages.name.endswith(".parquet"))
        ids, urls = _numbers(table, "id", pages), _column(table, "url", pages).to_pylist()
        columns = {name: _array(table[name]) for name in table.column_names}
    return build(edges.stem, ids, urls, sources, targets, columns, worth)


def build(
    name: str,
    ids: NDArray[np.int64],
    urls: list[str],
    sources: NDArray[np.int64],
    targets: NDArray[np.int64],
    columns: Mapping[str, NDArray[Any]],
    worth: str,
) -> RecordedWeb:
    """A web of pages, (pages,) each, and of links from `sources` to `targets`, (links,) of any ids.

    `worth` as for `read_edges`, over `columns`. Raises RecordingError if an id is there twice, or no page is.
    """
    if not len(ids):
        raise RecordingError(f"{name}: no pages")
    order = np.argsort(ids, kind="stable")
    if np.any(np.diff(ids[order]) == 0):
        raise RecordingError(f"{name}: the table of pages has an id twice")
    source, target = (_positions(ids, order, ends) for ends in (sources, targets))
    known = (source >= 0) & (target >= 0)
    # The other way round: grouped by where links come from.
    graph = Graph.of(len(ids), target[known], source[known])
    if worth == PAGERANK:
        values = pagerank(Graph.of(len(ids), source[known], target[known]))
    else:
        values = evaluate(worth, columns, len(ids))
    if not all(urls):
        raise RecordingError(f"{name}: a page without a URL")
    urls = [url if "://" in url else f"{_NOWHERE}{url}" for url in map(str, urls)]
    hosts = [url.partition("://")[2].partition("/")[0] for url in urls]
    return RecordedWeb(name, urls, hosts, values, graph.sources, graph.starts)


def _positions(
    ids: NDArray[np.int64], order: NDArray[np.int64], wanted: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Where each wanted id stands in `ids`; -1 where it does not."""
    at = np.minimum(np.searchsorted(ids, wanted, sorter=order), len(ids) - 1)
    return np.where(ids[order[at]] == wanted, order[at], -1)


def _table(path: Path, *, parquet: bool) -> pa.Table:
    try:
        if parquet:
            return pq.read_table(path)
        with (
            pa.OSFile(str(path)) as file,
            pa.CompressedInputStream(file, "zstd") if path.suffix == ".zst" else file as raw,
        ):
            options = pa.csv.ParseOptions(delimiter="\t", quote_char=False)
            table = pa.csv.read_csv(raw, parse_options=options)
            _ = table.column_names  # an error here, if they are not text
            return table
    except (pa.ArrowException, OSError, ValueError) as error:
        raise RecordingError(f"{path}: cannot be read as a table ({error})") from error


def _column(table: pa.Table, name: str, path: Path) -> pa.ChunkedArray:
    if name not in table.column_names:
        raise RecordingError(f"{path}: no column {name!r}; there is {', '.join(table.column_names)}")
    return table[name]


def _numbers(table: pa.Table, name: str, path: Path) -> NDArray[np.int64]:
    try:
        column = _column(table, name, path).cast(pa.int64())
        if column.null_count:
            raise pa.ArrowInvalid("some are missing")
    except pa.ArrowException as error:
        raise RecordingError(f"{path}: column {name!r} is not a number everywhere ({error})") from error
    numbers: NDArray[np.int64] = column.to_numpy()
    return numbers


def _array(column: pa.ChunkedArray) -> NDArray[Any]:
    """Words become str, what is missing becomes '' or nan."""
    if pa.types.is_string(column.type) or pa.types.is_null(column.type):
        return np.array(["" if word is None else word for word in column.to_pylist()], object)
    values: NDArray[Any] = column.to_numpy()
    return values


# A crawl of ours


def read_shards(directory: Path, worth: str = "worth") -> RecordedWeb:
    """The web that the crawl in `directory` saw: each page as it was fetched last, also if it was dropped.

    Links are those people follow: without nofollow and without those of lists (robots.txt, sitemaps, feeds),
    which are no pages either. A redirect is a page with one link. `worth` is an expression
    (`ranker.replay.worth`) over the log of fetches and the documents, all but the text, with `length` for its
    words; for a page that was dropped those of documents are 0 and ''. Raises RecordingError if a shard has
    no log of fetches, ShardError if a file is damaged, ConfigError for a worth that is none.
    """
    reader = ShardReader(directory, split="all")
    if without := [shard.name for shard in reader.manifest.shards if shard.fetches is None]:
        raise RecordingError(
            f"{directory / without[0]}: its fetches were not logged when it was written, so what was dropped "
            "is not known; only a crawl by this version can be replayed"
        )
    log = _latest(reader)
    keys, fetches = split_ids(log["id"].to_pylist())
    sources, targets = [np.zeros(0, np.uint64)], [np.zeros(0, np.uint64)]
    for shard in reader.manifest.shards:
        links = counted(read_links(directory, shard), Names())
        followed = links.of(keys, fetches)
        sources.append(links.pages[links.page[followed]])
        targets.append(links.targets[links.target[followed]])
    return build(
        directory.name,
        keys.view(np.int64),
        log["url"].to_pylist(),
        np.concatenate(sources).view(np.int64),
        np.concatenate(targets).view(np.int64),
        _Columns(reader, log),
        worth,
    )


def _latest(reader: ShardReader) -> pa.Table:
    """The last fetch of each page, in the order of their keys."""
    schema = pa.schema([FETCHES.field(name) for name in ("id", *_LOGGED)])
    tables = [table for _, table in read_fetches(reader.location, reader.manifest, schema.names)]
    log = pa.concat_tables([schema.empty_table(), *(table.cast(schema) for table in tables)])
    log = log.filter(pa.array([reason not in _NOT_PAGES for reason in log["reason"].to_pylist()], pa.bool_()))
    return log.take(pa.array(latest(*split_ids(log["id"].to_pylist()))))


class _Columns(Mapping[str, NDArray[Any]]):
    """What is known of each row of the log, (rows,), read when it is asked for."""

    def __init__(self, reader: ShardReader, log: pa.Table) -> None:
        self._reader, self._log = reader, log
        kinds = (pa.types.is_string, pa.types.is_integer, pa.types.is_floating)
        of_documents = [field.name for field in DOCUMENTS if any(of(field.type) for of in kinds)]
        self._names = dict.fromkeys((*_LOGGED, *of_documents, "length"))
        del self._names["id"], self._names["text"]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self._names:
            raise KeyError(name)
        column = _WORDS if name == "length" else name
        words = pa.types.is_string((FETCHES if name in _LOGGED else DOCUMENTS).field(column).type)
        if name in _LOGGED:
            found = self._log[name].to_pylist()
        else:
            values = {
                document["id"]: document[column]
                for group in self._reader.row_groups
                for document in self._reader.documents(group, ("id", column))
            }
            found = [values.get(fetch, "" if words else 0) for fetch in self._log["id"].to_pylist()]
        # Words become str, numbers float; one that was not measured is NaN.
        return np.array(found, object if words else np.float64)


# WARC files


def read_warc(given: Iterable[Path | str], worth: str) -> RecordedWeb:
    """The pages (HTML, plain text) and redirects of these files, or of all WARC files in these folders.

    A file is a path or an fsspec URL; of a WAT file pages have links and no text. `worth` is an expression
    (`ranker.replay.worth`) over `status`, `bytes` of the body, `text_chars` of the main text, `links` to
    different URLs, and `language`; only a page (status 2xx) has text and links of its own. Of several
    responses with one URL the last one read counts. A page is read in a process that may die
    of it, in 10 s at the most, and if it has no end until then it has no text or links; most take 30 ms. What
    is damaged is skipped, and how much of it is a warning in the log. Not to be called in an event loop.
    Raises RecordingError for a file that cannot be opened, or if there is no page; ConfigError for a worth
    that is none.
    """
    files = [
        file for each in given for file in (_archives(Path(each)) if Path(each).is_dir() else [str(each)])
    ]
    with (
        asyncio.Runner() as runner,
        closing(Extractors(Extractor(), 1, _SECONDS)) as extractors,
        Places(CrawlConfig()) as places,
    ):

        def extract(task: Task) -> Extracted:
            return runner.run(extractors(domain(locate(task.url).host), *task))[0]

        found = {fingerprint(page[0]): page for file in files for page in _pages(places, file, extract)}
    keys = np.fromiter(found, np.uint64, len(found))
    targets = [targets for _, targets, _ in found.values()]
    columns: dict[str, NDArray[Any]] = {
        name: np.array([values[name] for _, _, values in found.values()], kind)
        for name, kind in _COLUMNS.items()
    }
    return build(
        Path(files[0]).name.partition(".warc")[0] if files else "no WARC file",
        keys.view(np.int64),
        [url for url, _, _ in found.values()],
        np.repeat(keys, [len(of_page) for of_page in targets]).view(np.int64),
        np.concatenate([np.zeros(0, np.uint64), *targets]).view(np.int64),
        columns,
        worth,
    )


def _archives(folder: Path) -> list[str]:
    """WARC files in a folder; unlike with `glob`, one that may not be read is not one without any."""
    try:
        return sorted(str(path) for path in folder.iterdir() if path.name.endswith(_ARCHIVES))
    except OSError as error:
        raise RecordingError(f"{folder}: cannot be read ({error.strerror})") from error


def _pages(places: Places, place: str, extract: _Extract) -> Iterator[_Page]:
    progress, count = Progress(), 0
    try:
        for record in archives.read_warc(places, place, "", progress):
            if page := _page(record.content, extract):
                count += 1
                yield page
    except CrawlError as error:
        raise RecordingError(str(error)) from error
    log.info("%s: %d pages", place, count)
    if broken := progress.dropped["damaged"]:
        log.warning("%s: %d places are damaged and were skipped", place, broken)


def _page(answer: Archived | Page, extract: _Extract) -> _Page | None:
    """None if the answer is not of a page: lists and robots.txt are none, as in a crawl."""
    url = canonicalize(answer.url)
    if url is None or urlsplit(url).path == "/robots.txt":
        return None
    if isinstance(answer, Page):
        fields, body = values(Page, answer), b""
    else:
        found, body = answered(replace(answer, url=url), ""), answer.body
        fields = found.with_extracted(extract(found.task)) if found.task else found.fields
    if fields.get("reason") in (*LISTS, "media_type"):
        return None
    targets = [to for link in fields["links"] if not link.nofollow and (to := canonicalize(link.url))]
    keys = np.array([fingerprint(target) for target in targets], np.uint64)
    text, language = fields.get("text", ""), fields.get("language", "")
    sizes = {"bytes": len(body), "text_chars": len(text), "links": len(targets)}
    return url, keys, {"status": answer.status, **sizes, "language": language}
