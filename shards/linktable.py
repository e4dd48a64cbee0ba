"""Reading the link tables of a corpus, a shard at a time and never with its texts."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from shards.document import LINKS
from shards.errors import ShardCorrupt
from shards.manifest import ShardEntry

COLUMNS = ("src_id", "dst_url", "tag_path", "nofollow")
"""What the graph is made of."""


def read_links(directory: Path, shard: ShardEntry) -> dict[str, pa.Array]:
    """The links of a shard's pages by column of COLUMNS; what is text comes as a dictionary array.

    Raises ShardCorrupt if the file is missing, of another size, or fails its checksums.
    """
    path = directory / shard.links.name
    words = [name for name in COLUMNS if LINKS.field(name).type == pa.string()]
    try:
        if (size := path.stat().st_size) != shard.links.bytes:
            raise ShardCorrupt(f"{path}: {size} bytes, the manifest says {shard.links.bytes}")
        with pq.ParquetFile(path, read_dictionary=words, page_checksum_verification=True) as file:
            table = file.read(list(COLUMNS), use_threads=False)
        table.validate(full=True)
        return {name: table[name].unify_dictionaries().combine_chunks() for name in COLUMNS}
    except FileNotFoundError:
        raise ShardCorrupt(f"{path}: the manifest lists it, but it is not there") from None
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise ShardCorrupt(f"{path}: damaged ({error}); see `tinylm shards verify`") from error
