"""Column tables: numbers computed of a corpus after it was written, beside its shards, by document id.

A table is `columns/NAME-SNAPSHOT.parquet`: a column `id`, one or more of numbers, and in its metadata the
fingerprint of the manifest it was computed from. It is complete or absent. Tables of earlier snapshots stay
for the runs that are pinned to those.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from shards.errors import ShardError, unread
from shards.files import is_url
from shards.manifest import Manifest
from shards.reader import RowGroup, ShardReader
from shards.schema import DOCUMENTS
from shards.writer import locked, write_table

FOLDER = "columns"
_SNAPSHOT = "manifest"
# What pyarrow raises for a file that is no Parquet any more.
_DAMAGE = (pa.ArrowException, OSError, ValueError, KeyError)


@dataclass(frozen=True, slots=True)
class Column:
    """One number for each document of a reader's split."""

    source: str
    """File and column, for messages."""
    values: dict[RowGroup, NDArray[np.float64]]
    """(rows,) each; NaN for the rows that are not in the split, and finite for the others."""


def path_of(directory: Path | str, name: str, manifest: Manifest) -> Path:
    """Where the table `name` of this snapshot belongs."""
    return Path(directory) / FOLDER / f"{name}-{manifest.fingerprint[:12]}.parquet"


def writing(directory: Path | str) -> BinaryIO:
    """A context in which no other process writes column tables of this corpus; raises ShardsLocked."""
    return locked(Path(directory) / FOLDER)


def write(path: Path, table: pa.Table, manifest: Manifest, **facts: str) -> None:
    """Make `table`, computed from `manifest`, the file `path`, with `facts` in its metadata."""
    write_table(path, table.replace_schema_metadata({_SNAPSHOT: manifest.fingerprint, **facts}))


def facts_of(path: Path) -> Mapping[str, str]:
    """The metadata of a table; empty if there is none, or it is none."""
    try:
        return _facts(pq.read_schema(path))
    except _DAMAGE:
        return {}


def _facts(schema: pa.Schema) -> dict[str, str]:
    metadata = (schema.metadata or {}).items()
    return {key.decode(errors="replace"): value.decode(errors="replace") for key, value in metadata}


def read_column(reader: ShardReader, name: str) -> Column:
    """The numbers called `name`: of the documents themselves, or of the one column table that has them.

    Holds about 60 bytes a document while it lasts, and 8 afterwards. Raises ShardError if there are no such
    numbers, if they are of another snapshot, or if a document of the split has none.
    """
    path = None if name in DOCUMENTS.names else _table_with(reader, name)
    source = f"{path or reader.location}: column {name!r}"
    if path is None and name not in _numbers_in(DOCUMENTS):
        raise ShardError(f"{source} holds no numbers; there are: {', '.join(_numbers_in(DOCUMENTS))}")
    joined = path and _Table(path, name)
    values = {}
    for group in reader.row_groups:
        documents = reader.documents(group, ("id",) if joined else ("id", name))
        ids = [document["id"] for document in documents]
        found = (
            joined.numbers_of(ids) if joined else np.array([document[name] for document in documents], float)
        )
        if (bad := np.flatnonzero(~np.isfinite(found))).size:
            raise ShardError(f"{source} is null, NaN or infinite for document {ids[bad[0]]}")
        values[group] = np.full(group.rows, np.nan)
        values[group][[document["row"] for document in documents]] = found
    return Column(source, values)


class _Table:
    """A column of a table by document id: 16 bytes a row, since ids are known by their hashes."""

    def __init__(self, path: Path, name: str) -> None:
        self._path = path
        try:
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                ids, values = [np.zeros(0, np.int64)], [np.zeros(0)]
                for batch in file.iter_batches(columns=["id", name]):
                    ids.append(hashes_of(batch["id"].to_pylist()))
                    numbers = batch[name].cast(pa.float64(), safe=False).fill_null(np.nan)
                    values.append(numbers.to_numpy(zero_copy_only=False))
        except _DAMAGE as error:
            raise unread(path, error, f"damaged ({error}); compute it again") from error
        hashes = np.concatenate(ids)
        order = np.argsort(hashes)
        self._hashes, self._numbers = hashes[order], np.concatenate(values)[order]
        # Or two documents have one hash: with a million of them, once in 37 million tables (2**64 hashes).
        if (self._hashes[1:] == self._hashes[:-1]).any():
            raise ShardError(f"{path}: a document has two rows")

    def numbers_of(self, ids: list[str]) -> NDArray[np.float64]:
        """The number of each document, NaN where it is null; raises ShardError if one has no row."""
        wanted = hashes_of(ids)
        rows = np.searchsorted(self._hashes, wanted)
        there = rows < self._hashes.size
        there[there] = self._hashes[rows[there]] == wanted[there]
        if not there.all():
            raise ShardError(f"{self._path}: no row for document {ids[int(there.argmin())]}")
        return self._numbers[rows]


def hashes_of(ids: list[str]) -> NDArray[np.int64]:
    """64 bits each, the same within this process."""
    return np.fromiter(map(hash, ids), np.int64, len(ids))


def _table_with(reader: ShardReader, name: str) -> Path:
    """The one table of the reader's snapshot that has this column."""
    if is_url(reader.location):
        raise ShardError(f"{reader.location}: tables in {FOLDER}/ are read beside a local corpus only")
    snapshots: dict[Path, str] = {}
    known = _numbers_in(DOCUMENTS)
    for path in sorted((Path(reader.location) / FOLDER).glob("*.parquet")):
        try:
            schema = pq.read_schema(path)
        except _DAMAGE as error:
            raise unread(path, error, f"damaged ({error}); compute it again") from error
        if "id" not in schema.names:
            continue
        snapshot = _facts(schema).get(_SNAPSHOT, "?")
        known += _numbers_in(schema) if snapshot == reader.fingerprint else []
        if name in schema.names:
            snapshots[path] = snapshot
    current = [path for path, snapshot in snapshots.items() if snapshot == reader.fingerprint]
    if len(current) > 1:
        raise ShardError(f"{current[0]} and {current[1]}: both have a column {name!r}; move one away")
    if not current and snapshots:
        path, snapshot = snapshots.popitem()
        raise ShardError(
            f"{path}: computed from manifest {snapshot[:12]}, this is "
            f"{reader.fingerprint[:12]}: compute it again (`tinylm shards rank {reader.location}`)"
        )
    if not current or name not in known:
        raise ShardError(
            f"{current[0] if current else reader.location}: no numbers called {name!r}; there are: "
            f"{', '.join(sorted(set(known)))} (more after `tinylm shards rank {reader.location}`)"
        )
    return current[0]


def _numbers_in(schema: pa.Schema) -> list[str]:
    is_integer, is_float = pa.types.is_integer, pa.types.is_floating
    return [field.name for field in schema if is_integer(field.type) or is_float(field.type)]
