"""Reading the files of a shard as they were committed: how one is opened, links, and the log of fetches."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from shards.errors import ShardCorrupt
from shards.files import open_bytes, size_of
from shards.manifest import FileEntry, Manifest, ShardEntry
from shards.schema import FETCHES, INGREDIENTS, LINKS, FetchRow

COLUMNS = ("src_id", "dst_url", "tag_path", "nofollow")
"""What the graph is made of."""


def read_links(directory: Path | str, shard: ShardEntry) -> dict[str, pa.Array]:
    """The links of a shard's pages by column of COLUMNS; what is text comes as a dictionary array.

    Raises ShardCorrupt if the file is missing, of another size, or fails its checksums.
    """
    words = [name for name in COLUMNS if LINKS.field(name).type == pa.string()]
    table = _read(directory, shard.links, COLUMNS, words)
    return {name: table[name].unify_dictionaries().combine_chunks() for name in COLUMNS}


def read_fetches(
    directory: Path | str, manifest: Manifest, columns: Sequence[str] = tuple(FETCHES.names)
) -> Iterator[tuple[ShardEntry, pa.Table]]:
    """Each shard that has a log of fetches, and that, less what was taken down.

    Raises ShardCorrupt if a file is missing, of another size, or fails its checksums.
    """
    wanted = list(dict.fromkeys([*columns, *(("url", "host") if manifest.tombstones else ())]))
    for shard in manifest.shards:
        if shard.fetches is None:
            continue
        table = _read(directory, shard.fetches, wanted, ())
        yield shard, without_taken_down(table, manifest).select(list(columns))


def without_taken_down(table: pa.Table, manifest: Manifest) -> pa.Table:
    """A table of documents or fetches, with `url` and `host`, less what was taken down."""
    if not manifest.tombstones:
        return table
    pairs = zip(table["url"].to_pylist(), table["host"].to_pylist(), strict=True)
    return table.filter(pa.array([not manifest.is_taken_down(*pair) for pair in pairs], pa.bool_()))


def fetch_rows(table: pa.Table) -> Iterator[FetchRow]:
    """The rows of a table that has all columns of FETCHES and its file's metadata."""
    names = json.loads(table.schema.metadata[INGREDIENTS.encode()])
    moments = table["fetched_at"].cast(pa.int64()).to_pylist()
    for row, fetched_at in zip(table.to_pylist(), moments, strict=True):
        ingredients = dict(zip(names, row["ingredients"], strict=False))
        yield FetchRow(**(row | {"fetched_at": fetched_at, "ingredients": ingredients}))


def _read(directory: Path | str, entry: FileEntry, columns: Sequence[str], words: Sequence[str]) -> pa.Table:
    with opened(directory, entry.name, entry.bytes, read_dictionary=list(words)) as file:
        table = file.read(list(columns), use_threads=False)
        table.validate(full=True)
        return table.select(list(columns))


@contextmanager
def opened(
    place: Path | str, name: str, size: int, part: str = "", **options: Any
) -> Iterator[pq.ParquetFile]:
    """The committed file `name` of `size` bytes in the folder or at the URL `place`, to be read within.

    Raises ShardCorrupt, in which `part` begins what is said of damage, if it is missing, of another size, or
    not what it should be, then or while it is read.
    """
    path = f"{place}/{name}"
    try:
        with open_bytes(place, name) as source:
            if (found := size_of(source)) != size:
                raise ShardCorrupt(f"{path}: {found} bytes, the manifest says {size}")
            with pq.ParquetFile(source, page_checksum_verification=True, **options) as file:
                yield file
    except FileNotFoundError:
        raise ShardCorrupt(f"{path}: the manifest lists it, but it is not there") from None
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise ShardCorrupt(f"{path}: {part}damaged ({error}); see `tinylm shards verify`") from error
