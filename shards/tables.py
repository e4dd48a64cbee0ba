"""Reading what a corpus has beside its documents, a shard at a time: links and fetches."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from shards.document import FETCHES, INGREDIENTS, LINKS, FetchRow
from shards.errors import ShardCorrupt
from shards.manifest import FileEntry, Manifest, ShardEntry

COLUMNS = ("src_id", "dst_url", "tag_path", "nofollow")
"""What the graph is made of."""


def read_links(directory: Path, shard: ShardEntry) -> dict[str, pa.Array]:
    """The links of a shard's pages by column of COLUMNS; what is text comes as a dictionary array.

    Raises ShardCorrupt if the file is missing, of another size, or fails its checksums.
    """
    words = [name for name in COLUMNS if LINKS.field(name).type == pa.string()]
    table = _read(directory, shard.links, COLUMNS, words)
    return {name: table[name].unify_dictionaries().combine_chunks() for name in COLUMNS}


def read_fetches(
    directory: Path, manifest: Manifest, columns: Sequence[str] = tuple(FETCHES.names)
) -> Iterator[tuple[ShardEntry, pa.Table]]:
    """Each shard that has a log of fetches, and that, less what was taken down.

    Raises ShardCorrupt if a file is missing, of another size, or fails its checksums.
    """
    wanted = list(dict.fromkeys([*columns, *(("url", "host") if manifest.tombstones else ())]))
    for shard in manifest.shards:
        if shard.fetches is None:
            continue
        table = _read(directory, shard.fetches, wanted, ())
        if manifest.tombstones:
            pairs = zip(table["url"].to_pylist(), table["host"].to_pylist(), strict=True)
            given = [not manifest.is_taken_down(url, host) for url, host in pairs]
            table = table.filter(pa.array(given, pa.bool_()))
        yield shard, table.select(list(columns))


def fetch_rows(table: pa.Table) -> Iterator[FetchRow]:
    """The rows of a table that has all columns of FETCHES and its file's metadata."""
    names = json.loads(table.schema.metadata[INGREDIENTS.encode()])
    moments = table["fetched_at"].cast(pa.int64()).to_pylist()
    for row, fetched_at in zip(table.to_pylist(), moments, strict=True):
        ingredients = dict(zip(names, row["ingredients"], strict=False))
        yield FetchRow(**(row | {"fetched_at": fetched_at, "ingredients": ingredients}))


def _read(directory: Path, entry: FileEntry, columns: Sequence[str], words: Sequence[str]) -> pa.Table:
    path = directory / entry.name
    try:
        if (size := path.stat().st_size) != entry.bytes:
            raise ShardCorrupt(f"{path}: {size} bytes, the manifest says {entry.bytes}")
        with pq.ParquetFile(path, read_dictionary=list(words), page_checksum_verification=True) as file:
            table = file.read(list(columns), use_threads=False)
        table.validate(full=True)
        return table.select(list(columns))
    except FileNotFoundError:
        raise ShardCorrupt(f"{path}: the manifest lists it, but it is not there") from None
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise ShardCorrupt(f"{path}: damaged ({error}); see `tinylm shards verify`") from error
