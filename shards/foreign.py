"""`ParquetReader`: Parquet that something else wrote (FineWeb, DCLM), read where it is as text to train on.

A location is a folder, a file, or an fsspec URL of either (s3://, hf://). What lies there is listed once,
by the size and the footer of each file, and whoever pins it keeps the listing: files that come later are not
seen, and a file that changed is an error that names it. A footer has the offset, size and extremes of every
part of every column, but no digest of the values. Only the column `text` is needed; rows where it is null do
not count.
"""

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from shards.errors import ShardCorrupt, ShardError, unread
from shards.files import is_url, names_below, open_bytes, size_of
from shards.manifest import is_corpus
from shards.reader import Reader, RowGroup, documents_of
from tinylm.errors import FileError
from tinylm.files import read_json, write_json
from tinylm.records import record

FILE_NAME = "listing.json"
# Files whose footers are read at once: over a network they wait, and take no CPU.
_AT_ONCE = 16
# Bytes after the footer: its length in four, and the magic number.
_FOOTER_END = 8


@dataclass(frozen=True, slots=True)
class ListedFile:
    """A Parquet file as it was when it was listed; `footer` is the SHA-256 of its footer."""

    name: str
    bytes: int
    text_bytes: int
    footer: str
    row_groups: tuple[int, ...]


@dataclass(frozen=True)
class Listing:
    """The Parquet files of a location at one moment, by name."""

    files: tuple[ListedFile, ...]

    @cached_property
    def fingerprint(self) -> str:
        """Hex SHA-256 of names, sizes and footers."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    @classmethod
    def of(cls, location: Path | str) -> Self:
        """Look at every `*.parquet` at `location`.

        Raises ShardError if there are none, if one has no text, or if the one that is named is of a corpus.
        """
        folder, names = _found(location)
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            return cls(tuple(threads.map(lambda name: _listed(folder, name), names)))

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """What `save` wrote to `folder`; None if it wrote nothing. Raises ShardCorrupt for anything else."""
        try:
            return record(cls, read_json(folder / FILE_NAME))
        except FileNotFoundError:
            return None
        except (ValueError, FileError) as error:
            raise ShardCorrupt(
                f"{folder / FILE_NAME}: not a listing ({error}); start the run anew"
            ) from error

    def save(self, folder: Path) -> None:
        """Write it to `folder`; raises FileError."""
        write_json(folder / FILE_NAME, asdict(self))


class ParquetReader(Reader):
    """Reads the Parquet at `location` as `listing` (default: what lies there now) has it."""

    def __init__(self, location: Path | str, listing: Listing | None = None) -> None:
        self.listing = listing or Listing.of(location)
        self._folder = _folder_of(location)
        self._files = {file.name: file for file in self.listing.files}
        files = ((file.name, file.row_groups) for file in self.listing.files)
        text_bytes = sum(file.text_bytes for file in self.listing.files)
        super().__init__(location, self.listing.fingerprint, text_bytes, files)

    def documents(
        self, group: RowGroup, columns: Sequence[str] = ("text",), rows: slice = slice(None)
    ) -> list[dict[str, Any]]:
        """Those `rows` that have a text."""
        table = self._read(group, [*{*columns, "text"}])
        numbers = np.arange(group.rows)[rows]
        numbers = numbers[table["text"].is_valid().to_numpy()[numbers]]
        return documents_of(table.select(columns), numbers)

    def _read(self, group: RowGroup, columns: list[str]) -> pa.Table:
        path, listed = f"{self._folder}/{group.shard}", self._files[group.shard]
        try:
            with open_bytes(self._folder, group.shard) as source:
                if size_of(source) != listed.bytes or _footer(source, listed.bytes) != listed.footer:
                    raise ShardCorrupt(f"{path} is another file than was listed: give the old one back")
                file = pq.ParquetFile(source, page_checksum_verification=True)
                return file.read_row_group(group.index, columns=columns, use_threads=False)
        except FileNotFoundError:
            raise ShardCorrupt(f"{path} was listed, but it is not there") from None
        except (pa.ArrowException, OSError) as error:
            raise unread(path, error, f"row group {group.index} is damaged ({error})") from error


def _found(location: Path | str) -> tuple[str, list[str]]:
    """The folder of `location`, and the names of the Parquet files in it, however deep."""
    folder = _folder_of(location)
    if folder != str(location).rstrip("/"):
        if is_corpus(folder):  # what is held out, and what was taken down, stands in its manifest
            raise ShardError(f"{location}: a file of the corpus in {folder}; name that folder instead")
        return folder, [str(location).rpartition("/")[2]]
    if is_url(location):
        paths = names_below(folder)
    else:
        paths = [path.relative_to(folder).as_posix() for path in Path(folder).rglob("*.parquet")]
    names = sorted(path for path in paths if path.endswith(".parquet"))
    if not names:
        raise ShardError(f"{location}: no manifest.json here, so no corpus, and no other Parquet either")
    return folder, names


def _folder_of(location: Path | str) -> str:
    path = str(location).rstrip("/")
    is_file = path.endswith(".parquet") and not Path(path).is_dir()
    return path.rpartition("/")[0] or "." if is_file else path


def _listed(folder: str, name: str) -> ListedFile:
    path = f"{folder}/{name}"
    try:
        with open_bytes(folder, name) as source:
            size = size_of(source)
            footer = _footer(source, size)
            file = pq.ParquetFile(source)
            schema, metadata = file.schema_arrow, file.metadata
    except (pa.ArrowException, OSError, ValueError) as error:  # the last of a server without ranges
        raise ShardError(f"{path} cannot be read as Parquet ({error})") from error
    if "text" not in schema.names:
        raise ShardError(f"{path}: no column `text`; there are: {', '.join(schema.names)}")
    if str(kind := schema.field("text").type) not in ("string", "large_string"):
        raise ShardError(f"{path}: its column `text` is of {kind}, not of strings")
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    column = next(n for n in range(metadata.num_columns) if metadata.schema.column(n).path == "text")
    text_bytes = sum(group.column(column).total_uncompressed_size for group in groups)
    return ListedFile(name, size, text_bytes, footer, tuple(group.num_rows for group in groups))


def _footer(source: Any, size: int) -> str:
    source.seek(max(0, size - _FOOTER_END))
    length = int.from_bytes(source.read(4), "little")
    source.seek(max(0, size - _FOOTER_END - length))
    digest = hashlib.sha256(source.read(length)).hexdigest()
    source.seek(0)
    return digest
