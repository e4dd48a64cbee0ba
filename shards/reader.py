"""`ShardReader`: a pinned snapshot of a corpus, row group by row group.

The unit is the row group: small enough to hold, large enough to read at disk speed. Page checksums are
verified on the way, so a flipped bit is an error that names the file and never a strange document.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from shards.errors import ShardCorrupt, unread
from shards.files import open_bytes, size_of
from shards.manifest import FileEntry, HeldOut, Manifest, ShardEntry
from shards.schema import ADDED, DOCUMENTS, FETCHES, INGREDIENTS, LINKS, FetchRow
from tinylm.files import sha256

Split = Literal["train", "held_out", "all"]


@dataclass(frozen=True, slots=True)
class RowGroup:
    """A row group of a shard; `rows` counts both sides of the split."""

    shard: str
    index: int
    rows: int


class Reader(ABC):
    """Text to train on at `location`, row group by row group; `files` are names and the rows of their groups.

    `fingerprint` names the snapshot; `text_bytes` counts what it holds, on both sides of a split.
    """

    def __init__(
        self,
        location: Path | str,
        fingerprint: str,
        text_bytes: int,
        files: Iterable[tuple[str, Iterable[int]]],
    ) -> None:
        self.location, self.fingerprint, self.text_bytes = location, fingerprint, text_bytes
        self.row_groups = tuple(
            RowGroup(name, index, rows) for name, groups in files for index, rows in enumerate(groups)
        )

    @abstractmethod
    def documents(
        self, group: RowGroup, columns: Sequence[str] = ("text",), rows: slice = slice(None)
    ) -> list[dict[str, Any]]:
        """Those `rows` of `group` that are read, in order, each with `row`, its index in the group.

        Raises ShardCorrupt if the file is missing, another than is pinned, or damaged.
        """

    def texts(self, group: RowGroup) -> list[str]:
        """The texts of `group`, in order."""
        return [document["text"] for document in self.documents(group)]


class ShardReader(Reader):
    """Reads one split of the corpus at `location`, a folder or a URL, as `manifest` has it.

    By default that is the current one. What was taken down is in no split, even if that happened after
    `manifest` was pinned: then this is another snapshot.
    """

    def __init__(
        self, location: Path | str, manifest: Manifest | None = None, split: Split = "train"
    ) -> None:
        current = Manifest.load(location)
        self.manifest = manifest.with_tombstones(current.tombstones) if manifest else current
        files = ((shard.name, shard.row_groups) for shard in self.manifest.shards)
        super().__init__(location, self.manifest.fingerprint, self.manifest.text_bytes, files)
        self.split = split
        self._sizes = {shard.name: shard.bytes for shard in self.manifest.shards}
        held_out = self.manifest.held_out or HeldOut(hosts=())
        self._hosts, self._excluded = frozenset(held_out.hosts), frozenset(held_out.excluded)

    def documents(
        self, group: RowGroup, columns: Sequence[str] = ("text",), rows: slice = slice(None)
    ) -> list[dict[str, Any]]:
        needed = ("id", "host", "url") if self.manifest.tombstones else ("id", "host")
        table = self._read(group, list(dict.fromkeys([*columns, *needed])))
        numbers = np.arange(group.rows)[rows]
        return documents_of(table.select(list(columns)), numbers[self._in_split(table)[numbers]])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """All documents of the split with all columns."""
        for group in self.row_groups:
            yield from self.documents(group, DOCUMENTS.names)

    def _in_split(self, table: pa.Table) -> NDArray[np.bool_]:
        """For each row of a row group, with `id`, `host` and perhaps `url`, whether a reader gets it."""
        stays = _not_taken_down(table, self.manifest)
        if self.split == "all":
            return stays
        held_out = self.split == "held_out"
        pairs = zip(table["host"].to_pylist(), table["id"].to_pylist(), strict=True)
        on_this_side = (
            (host in self._hosts) == held_out and name not in self._excluded for host, name in pairs
        )
        return stays & np.fromiter(on_this_side, np.bool_, len(table))

    def _read(self, group: RowGroup, columns: list[str]) -> pa.Table:
        damage = f"row group {group.index} is damaged"
        with _opened(self.location, group.shard, self._sizes[group.shard], damage) as file:
            schema = pa.schema([*map(DOCUMENTS.field, columns)])
            table = _columns_of(file, schema, [group.index])
            if table.num_rows != group.rows or not table.select(columns).schema.equals(schema):
                raise pa.ArrowInvalid("its schema or number of rows is another than was committed")
            return table


def _columns_of(file: pq.ParquetFile, schema: pa.Schema, groups: Sequence[int] | None = None) -> pa.Table:
    """What a file, or some of its groups, has of `schema`; what came after its schema version is null."""
    version = int((file.schema_arrow.metadata or {}).get(b"schema_version", 1))
    there = [name for name in schema.names if ADDED.get(name, 1) <= version]
    read = file.read if groups is None else partial(file.read_row_groups, list(groups))
    table = read(columns=there, use_threads=False)
    for field in schema:
        if field.name not in there:
            table = table.append_column(field, pa.nulls(len(table), field.type))
    table.validate(full=True)
    return table


def documents_of(table: pa.Table, numbers: NDArray[np.int64]) -> list[dict[str, Any]]:
    """The rows `numbers` of a row group's table, each with `row`, its number."""
    kept = table.take(numbers).to_pylist()
    return [{"row": row, **document} for row, document in zip(numbers.tolist(), kept, strict=True)]


def read_links(location: Path | str, shard: ShardEntry) -> dict[str, pa.Array]:
    """Columns of the links of a shard's pages that a graph is made of; text comes as a dictionary array.

    Raises ShardCorrupt if the file is missing, of another size, or fails its checksums.
    """
    words, columns = ["src_id", "dst_url", "tag_path"], ["src_id", "dst_url", "tag_path", "nofollow"]
    table = _read(location, shard.links, LINKS, columns, words)
    return {name: table[name].unify_dictionaries().combine_chunks() for name in columns}


def read_fetches(
    location: Path | str, manifest: Manifest, columns: Sequence[str] = tuple(FETCHES.names)
) -> Iterator[tuple[ShardEntry, pa.Table]]:
    """Each shard that has a log of fetches, and that, less what was taken down.

    Raises ShardCorrupt if a file is missing, of another size, or fails its checksums.
    """
    wanted = list(dict.fromkeys([*columns, *(("url", "host") if manifest.tombstones else ())]))
    for shard in manifest.shards:
        if shard.fetches is None:
            continue
        table = _read(location, shard.fetches, FETCHES, wanted)
        yield shard, without_taken_down(table, manifest).select(list(columns))


def read_documents(
    location: Path | str,
    shard: ShardEntry,
    columns: Sequence[str],
    rows: NDArray[np.int64] | None = None,
) -> pa.Table:
    """The documents of a shard, also those that were taken down: `without_taken_down` is for them.

    `rows`, in rising order, are those that are wanted; groups that have none of them are not read. Raises
    ShardCorrupt if the file is missing, of another size, or fails its checksums.
    """
    schema = pa.schema([*map(DOCUMENTS.field, columns)])
    with _opened(location, shard.name, shard.bytes) as file:
        if rows is None:
            return _columns_of(file, schema).select(list(columns))
        starts = np.cumsum([0, *shard.row_groups])
        of_rows = np.searchsorted(starts, rows, "right") - 1
        groups, of_groups = np.unique(of_rows, return_inverse=True)
        # Where each group that is read begins among those.
        begin = np.cumsum([0, *(shard.row_groups[group] for group in groups)])[of_groups]
        table = _columns_of(file, schema, groups.tolist()).select(list(columns))
        return table.take(pa.array(rows - starts[of_rows] + begin))


def without_taken_down(table: pa.Table, manifest: Manifest) -> pa.Table:
    """A table of documents or fetches, with `url` and `host`, less what was taken down."""
    return table.filter(pa.array(_not_taken_down(table, manifest)))


def _not_taken_down(table: pa.Table, manifest: Manifest) -> NDArray[np.bool_]:
    if not manifest.tombstones:
        return np.ones(len(table), np.bool_)
    pairs = zip(table["url"].to_pylist(), table["host"].to_pylist(), strict=True)
    return np.fromiter((not manifest.is_taken_down(*pair) for pair in pairs), np.bool_, len(table))


def fetch_rows(table: pa.Table) -> Iterator[FetchRow]:
    """The rows of a table that has all columns of FETCHES and its file's metadata."""
    names = json.loads(table.schema.metadata[INGREDIENTS.encode()])
    moments = table["fetched_at"].cast(pa.int64()).to_pylist()
    for row, fetched_at in zip(table.to_pylist(), moments, strict=True):
        ingredients = dict(zip(names, row["ingredients"], strict=False))
        yield FetchRow(**(row | {"fetched_at": fetched_at, "ingredients": ingredients}))


def _read(
    location: Path | str,
    entry: FileEntry,
    schema: pa.Schema,
    columns: Sequence[str],
    words: Sequence[str] = (),
) -> pa.Table:
    with _opened(location, entry.name, entry.bytes, read_dictionary=list(words)) as file:
        return _columns_of(file, pa.schema([*map(schema.field, columns)])).select(list(columns))


@contextmanager
def _opened(
    location: Path | str, name: str, size: int, damage: str = "damaged", **options: Any
) -> Iterator[pq.ParquetFile]:
    """The committed file `name` of `size` bytes, to be read within.

    Raises ShardCorrupt if it is missing, of another size, or not what it should be, then or while it is
    read: `damage` says which part of it.
    """
    path = f"{location}/{name}"
    try:
        with open_bytes(location, name) as source:
            if (found := size_of(source)) != size:
                raise ShardCorrupt(f"{path}: {found} bytes, the manifest says {size}")
            with pq.ParquetFile(source, page_checksum_verification=True, **options) as file:
                yield file
    except FileNotFoundError:
        raise ShardCorrupt(f"{path}: the manifest lists it, but it is not there") from None
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise unread(path, error, f"{damage} ({error}); see `tinylm shards verify`") from error


def verify(directory: Path | str) -> Iterator[tuple[str, str]]:
    """Every listed file whose bytes are not those that were committed, as (name, what is wrong)."""
    for entry in Manifest.load(directory).files:
        path = Path(directory) / entry.name
        if not path.exists():
            yield entry.name, "missing"
        elif path.stat().st_size != entry.bytes:
            yield entry.name, f"{path.stat().st_size} bytes instead of {entry.bytes}"
        elif sha256(path) != entry.sha256:
            yield entry.name, "another SHA-256 than was committed"
