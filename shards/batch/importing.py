"""`Import`: a corpus of somebody's Parquet or JSON Lines, with the columns, ids and signals of a crawl's.

A row without a URL gets one of its place in the file, and is of one of 64 made-up hosts by the digest of its
text: so text can be held out by host there too, and no text stands on both sides.
"""

import bz2
import gzip
import hashlib
import io
import json
import lzma
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from shards.batch.job import VERDICTS, Made, Parent, Work
from shards.errors import ShardError
from shards.files import is_folder, is_url, names_below, open_bytes, size_of
from shards.foreign import ParquetReader
from shards.reader import RowGroup
from shards.schema import DOCUMENTS, document_id
from shards.text.signals import Signals

LINES = (".jsonl", ".ndjson", ".json")
_PACKED: dict[str, Callable[[Any], Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": lambda raw: io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), "zstd")),
}
# Bytes of text of a shard, about: as much as a crawl's.
_SHARD_BYTES = 64 << 20
# Of a line: what is longer is no document but another kind of file.
_LONGEST_LINE = 256 << 20
_HOSTS = 64
_DATES = ("fetched_at", "date", "timestamp", "crawl_date")

Identify = Callable[[str], tuple[str, str, int] | None]
"""The canonical form of a URL, its host, and its fingerprint; None if it is no URL."""
Detect = Callable[[str], tuple[str, float]]
"""The language of a text, and its probability."""


class _Piece(NamedTuple):
    """What one part reads: some row groups of a Parquet file, or a file of lines."""

    source: str
    file: str
    groups: tuple[RowGroup, ...] = ()


class Import(Work):
    """Every row that has a text. Sources are files and folders, by path or URL."""

    stage, in_python = "import", True

    def __init__(
        self, sources: list[str], identify: Identify, detect: Detect, *, text: str = "text", name: str = ""
    ) -> None:
        self._identify, self._detect, self._text = identify, detect, text
        self._readers: dict[str, ParquetReader] = {}
        self._pieces: list[_Piece] = []
        self._parents: list[Parent] = []
        for source in sources:
            source = source if is_url(source) else str(Path(source).resolve())
            self._parents.append(Parent(source, self._add(source)))
        self.name = name or Path(sources[0].rstrip("/")).name.partition(".")[0] or "import"

    def _add(self, source: str) -> str:
        """Take in what lies at `source`; returns a digest of it."""
        if not is_url(source) and not Path(source).exists():
            raise ShardError(f"{source}: no such file or folder")
        folder = is_folder(source)
        names = sorted(names_below(source)) if folder else [source.rpartition("/")[2]]
        base = source if folder else source.rpartition("/")[0]
        lines = [name for name in names if _is_lines(name)]
        if not lines:  # Parquet, or nothing: then this says so
            if self._text != "text":
                raise ShardError(f"{source}: Parquet is read by its column `text`; --text is for JSON Lines")
            reader = self._readers[source] = ParquetReader(source)
            self._pieces += _cut(source, reader)
            return reader.fingerprint
        sizes = []
        for name in lines:
            with open_bytes(base, name) as file:
                sizes.append((name, size_of(file)))
            self._pieces.append(_Piece(base, name))
        return hashlib.sha256(json.dumps(sizes).encode()).hexdigest()

    @property
    def parents(self) -> tuple[Parent, ...]:
        return tuple(self._parents)

    @property
    def parts(self) -> int:
        return len(self._pieces)

    def settings(self) -> dict[str, Any]:
        return {"text": self._text, "name": self.name}

    def made(self, number: int, attempt: Path) -> Iterator[Made]:  # noqa: ARG002 (as all have it)
        piece, rows, size, dropped = self._pieces[number], list[dict[str, Any]](), 0, Counter[str]()
        for at, row in self._rows(piece):
            found = self._document(piece, number, at, row) if isinstance(row, dict) else row
            if isinstance(found, str):
                dropped[found] += 1
                continue
            rows.append(found)
            size += len(found["text"])
            if size >= _SHARD_BYTES:
                yield Made(_table(rows), VERDICTS.empty_table(), dropped)
                rows, size, dropped = [], 0, Counter()
        yield Made(_table(rows), VERDICTS.empty_table(), dropped)

    def _rows(self, piece: _Piece) -> Iterator[tuple[int, dict[str, Any] | str]]:
        """Each row with its number in the file, or why it is none."""
        if not piece.groups:
            yield from self._lines(piece)
            return
        reader = self._readers[piece.source]
        for group in piece.groups:
            there = [name for name in _WANTED if name in reader.columns(group)]
            in_file = (one for one in reader.row_groups if one.shard == group.shard)
            first = sum(one.rows for one in in_file if one.index < group.index)
            documents = reader.documents(group, there)
            for _ in range(group.rows - len(documents)):
                yield first, "no_text"
            for document in documents:
                yield first + document.pop("row"), document

    def _lines(self, piece: _Piece) -> Iterator[tuple[int, dict[str, Any] | str]]:
        with open_bytes(piece.source, piece.file) as raw:
            for at, line in enumerate(_unpacked(raw, piece.file)):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line) if len(line) < _LONGEST_LINE else None
                except (ValueError, RecursionError):
                    row = None
                yield at, row if isinstance(row, dict) else "bad_line"

    def _document(self, piece: _Piece, number: int, at: int, row: dict[str, Any]) -> dict[str, Any] | str:
        text = row.get(self._text)
        if not isinstance(text, str) or not text.strip():
            return "no_text"
        text = text.encode("utf-8", "replace").decode()  # JSON may have half of a pair of surrogates
        sha256 = hashlib.sha256(text.encode()).hexdigest()
        url = row.get("url")
        known = self._identify(url) if isinstance(url, str) else None
        if known is None:
            place = f"{piece.file}#{at}"
            known = f"import:{self.name}/{place}", f"{self.name}-{int(sha256[:8], 16) % _HOSTS:02d}", 0
        url, host, fingerprint = known
        if not fingerprint:
            fingerprint = int(hashlib.blake2b(url.encode(), digest_size=8).hexdigest(), 16)
        language, score = row.get("language"), row.get("language_score")
        if not isinstance(language, str) or not language:
            language, score = self._detect(text)
        quality = row.get("quality")
        title = row.get("title")
        found: dict[str, Any] = {
            # A URL may be there many times, and each row is a document of its own.
            "id": document_id(fingerprint, (number + 1) * 10**9 + at),
            "url": url,
            "host": host,
            "fetched_at": _moment(row),
            "status": 200,
            "content_sha256": sha256,
            "language": language,
            "language_score": float(score) if isinstance(score, int | float) else 1.0,
            "title": title if isinstance(title, str) else "",
            "text": text,
            "extractor": "import",
            "opt_out": [],
            "quality": float(quality) if isinstance(quality, int | float) else 0.5,
            "promise": 0.0,
            "propensity": 1.0,
            "policy": "import",
            "karma": 0.0,
            "equity": 0.0,
            "inlinks": 0,
            "depth": 0,
            "crawl_id": "",
            "source": f"import:{self.name}",
            "source_hops": 0,
        }
        return found | Signals(text, language).columns


_WANTED = ("text", "url", "title", "language", "language_score", "quality", *_DATES)


def _is_lines(name: str) -> bool:
    lower = name.lower()
    for ending in _PACKED:
        lower = lower.removesuffix(ending)
    return lower.endswith(LINES)


def _cut(source: str, reader: ParquetReader) -> Iterator[_Piece]:
    """Row groups that make a shard together."""
    for file in reader.listing.files:
        groups = [group for group in reader.row_groups if group.shard == file.name]
        bytes_per_row = file.text_bytes / max(1, sum(file.row_groups))
        held: list[RowGroup] = []
        for group in groups:
            held.append(group)
            if sum(one.rows for one in held) * bytes_per_row >= _SHARD_BYTES:
                yield _Piece(source, file.name, tuple(held))
                held = []
        if held:
            yield _Piece(source, file.name, tuple(held))


def _unpacked(raw: Any, name: str) -> Iterator[bytes]:
    """The lines of a file. Raises ShardError if it is cut off or damaged."""
    unpack = _PACKED.get(Path(name.lower()).suffix, iter)
    try:
        yield from unpack(raw)
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise ShardError(f"{name}: cut off, or damaged: {error}") from error


def _moment(row: dict[str, Any]) -> datetime:
    """When a row says that it is from; 1970 if it says nothing that is a date."""
    for name in _DATES:
        found = row.get(name)
        if isinstance(found, str):
            try:
                found = datetime.fromisoformat(found.strip())
            except ValueError:
                continue
        if isinstance(found, datetime):
            return found if found.tzinfo else found.replace(tzinfo=UTC)
    return datetime.fromtimestamp(0, UTC)


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=DOCUMENTS)
