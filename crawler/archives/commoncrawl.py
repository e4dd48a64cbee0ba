"""Common Crawl's columnar index, Parquet files with a row a capture: URLs as seeds, records by byte ranges.

Which rows is said in SQL, and DuckDB reads no more of the files than that needs. Nobody's index server is
asked, and a record comes straight out of the file that it is in.
"""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import fsspec
from fsspec import AbstractFileSystem

from crawler.archives.places import Places
from crawler.archives.records import Record
from crawler.archives.warc import WarcReader
from crawler.errors import SeedError
from crawler.read.sitemaps import is_text
from crawler.seeds.ledger import Ledger
from crawler.seeds.seed import LONGEST_SOURCE, Batch, Progress, Seed
from crawler.urls import address

# Rows that become seeds together, and that are planned at a time.
_ROWS = 10_000
# Bytes between two records that are read along with them: forty records of others cost less than a request
# and the rest before it. Of one request: at half more of them, at double more is lost when one breaks off.
_GAP, _MOST_BYTES = 1 << 20, 16 << 20
_LONGEST_RECORD = 64 << 20
# DuckDB's own limit is most of the machine; what is sorted beyond this goes to disk.
_SETTINGS: dict[str, Any] = {
    "memory_limit": "1GB",
    # Or it would fetch code from its makers' server, past the guard.
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
}
_SCHEME = re.compile(r"(\w+)://")
_Range = tuple[str, int, int]  # file, offset, length


class _WebFiles(AbstractFileSystem):  # type: ignore[misc]
    """Web servers' files as DuckDB opens them."""

    protocol = ("http", "https")
    cachable = False

    def __init__(self, places: Places) -> None:
        super().__init__()
        self._places = places

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path

    def _open(self, path: str, *_: Any, **__: Any) -> Any:
        return self._places.open(path, buffered=False)

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        return {"name": path, "size": self._places.size(path), "type": "file"}

    def glob(self, path: str, **_: Any) -> list[str]:
        return [path]

    def modified(self, _: str) -> datetime:
        return datetime.fromtimestamp(0, UTC)  # `Places` looks whether it changes


class Index:
    """One file of the index, by path or URL, and which of its rows are wanted: SQL, "" for all.

    Its methods raise SeedError for a file, or a `where`, that is none; CrawlError if it cannot be had.
    """

    def __init__(self, places: Places, place: str, where: str) -> None:
        self._places, self._place, self._where = places, place, f"({where or 'true'})"

    def seeds(self, ledger: Ledger, progress: Progress) -> Iterator[Batch]:
        """URLs of pages that were there, which nobody chose; from where the ledger says."""
        with self._asking() as asked:
            about = asked("select num_rows, file_size_bytes from parquet_file_metadata(?)").fetchall()
            job = f"commoncrawl {self._place} {about[0]} {self._where}"
            last = int(ledger.position(job) or -1)
            progress.unit, progress.total = "rows", progress.total + about[0][0]
            progress.done += last + 1
            found = asked(
                "select url, fetch_status, content_mime_detected, file_row_number, "
                "regexp_extract(warc_filename, 'crawl-data/([^/]+)/', 1) "
                "from read_parquet(?, file_row_number = true) where "
                + self._where
                + " and file_row_number > ?",
                last,
            )
            captures: Sequence[Any] = [()]
            while captures:
                captures = found.fetchmany(_ROWS)
                seeds = [seed for row in captures if (seed := _seed(row, progress))]
                end = captures[-1][3] if captures else about[0][0] - 1
                progress.read += end - last
                progress.done += end - last
                progress.dropped["where"] += end - last - len(captures)
                if seeds:
                    yield Batch(seeds)
                last = end
                ledger.settle(job, str(last))

    def records(self, base: str, position: str, progress: Progress) -> Iterator[Record]:
        """The records that the rows are of, out of the files below `base`, by file and offset."""
        offset, _, file = position.partition(" ")
        with self._asking() as asked:
            found = asked(
                "select warc_filename, warc_record_offset, warc_record_length, count(*) over () "
                "from read_parquet(?) where " + self._where + " "
                "and (warc_filename, warc_record_offset) > (?, ?) order by 1, 2",
                file,
                int(offset or -1),
            )
            missing = ""
            progress.unit = "records"
            for ranges in _merged(_planned(found, progress)):
                name, start, _ = ranges[0]
                data = b""
                if name != missing:
                    try:
                        with self._places.open(f"{base.rstrip('/')}/{name}", buffered=False) as opened:
                            opened.seek(start)
                            data = opened.read(ranges[-1][1] + ranges[-1][2] - start)
                    except FileNotFoundError:
                        missing = name
                progress.done += len(ranges)
                if name == missing:
                    progress.dropped["missing_file"] += len(ranges)
                    continue
                for _, at, length in ranges:
                    reader = WarcReader(io.BytesIO(data[at - start : at - start + length]))
                    contents = list(reader)
                    progress.dropped["damaged"] += not contents
                    yield from (Record(content, f"{at} {name}") for content in contents)

    @contextmanager
    def _asking(self) -> Iterator[Any]:
        """A function that asks this file, whose place is the first parameter of what it is asked."""
        try:
            with TemporaryDirectory() as spill, duckdb.connect(config=_SETTINGS) as database:
                database.execute("set temp_directory = ?", [spill])
                if scheme := _SCHEME.match(self._place):
                    web = scheme[1] in ("http", "https")
                    database.register_filesystem(
                        _WebFiles(self._places) if web else fsspec.filesystem(scheme[1])
                    )
                    database.execute("set threads = 1")  # who read one file from several places of it
                yield lambda sql, *more: database.execute(sql, [self._place, *more])
        except (duckdb.Error, OSError, ImportError, ValueError) as error:
            # Of what failed in Python, DuckDB has the whole trace: its last line is the error.
            lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
            why = lines[-1 if lines[0].startswith("Traceback") else 0]
            raise SeedError(
                f"{self._place}: not to be read as Common Crawl's columnar index where {self._where} ({why})"
            ) from error


def _seed(row: Sequence[Any], progress: Progress) -> Seed | None:
    url, status, media_type, _, crawl = row
    found = address(url or "")
    if status != 200 or not is_text(media_type or "text/html") or not found:
        progress.dropped[f"status_{status}" if status != 200 else "media_type" if found else "bad_url"] += 1
        return None
    return Seed(found, 1.0, f"commoncrawl:{crawl or 'unknown'}"[:LONGEST_SOURCE], precision=0.0)


def _planned(found: Any, progress: Progress) -> Iterator[_Range]:
    """The rows that say where a record is, each once, in their order."""
    before = None
    while rows := found.fetchmany(_ROWS):
        for name, offset, length, total in rows:
            progress.total = total
            if not name or ".." in name or offset is None or not 0 < (length or 0) <= _LONGEST_RECORD:
                progress.dropped["bad_range"] += 1
            elif (name, offset) != before:
                before = name, offset
                yield name, offset, length


def _merged(ranges: Iterator[_Range]) -> Iterator[list[_Range]]:
    """Those of one file that are read together."""
    together: list[_Range] = []
    for name, offset, length in ranges:
        if together:
            last, start, end = together[-1][0], together[0][1], together[-1][1] + together[-1][2]
            if name != last or offset - end > _GAP or offset + length - start > _MOST_BYTES:
                yield together
                together = []
        together.append((name, offset, length))
    if together:
        yield together
