"""`ParquetReader`: Parquet that something else wrote (FineWeb, DCLM), read where it is as text to train on.

A location is a folder, a file, or an fsspec URL of either (s3://, hf://). What lies there is listed once,
by the size and the footer of each file, and whoever pins it keeps the listing: files that come later are not
seen, and a file that changed is an error that names it. A footer has the offset, size and extremes of every
part of every column, but no digest of the values. Only the column `text` is needed, of strings in any of
Arrow's forms; rows where it is null, empty or white space do not count, and U+FFFD stands for what is not
UTF-8.
"""

import hashlib
import json
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from shards.errors import ShardCorrupt, ShardError, unread
from shards.files import is_folder, names_below, open_bytes, size_of
from shards.manifest import FILE_NAME as MANIFEST
from shards.manifest import is_corpus
from shards.reader import Reader, RowGroup, documents_of
from tinylm.errors import FileError
from tinylm.files import read_json, write_json
from tinylm.records import record
from tinylm.terminal import say

FILE_NAME = "listing.json"
# Files whose footers are read at once: over a network they wait, and take no CPU.
_AT_ONCE = 16
_SUFFIX = ".parquet"
_STRINGS = ("string", "large_string", "string_view", "null")
# A character that is no white space, in RE2's words.
_SEEN = r"[^\s\pZ]"
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
    blank_counts: bool = True
    """Whether a text of no more than white space is a document, as it was in listings from before 2026-12."""

    @cached_property
    def fingerprint(self) -> str:
        """Hex SHA-256 of names, sizes and footers, and of how they are read."""
        seen = asdict(self)
        if self.blank_counts:  # what was pinned before keeps its fingerprint, and its documents
            del seen["blank_counts"]
        return hashlib.sha256(json.dumps(seen, sort_keys=True).encode()).hexdigest()

    @classmethod
    def of(cls, location: Path | str) -> Self:
        """Look at every `*.parquet` at `location`.

        Raises ShardError if there are none, if one has no text, or if the one that is named is of a corpus.
        """
        folder, names = _found(location)
        with ThreadPoolExecutor(_AT_ONCE) as threads:
            listed = threads.map(lambda name: _listed(folder, name), names)
            files = tuple(file for each in listed for file in each)
        return cls(files, blank_counts=False)

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
        self._folder, _ = _split(location)
        self._files = {file.name: file for file in self.listing.files}
        self._said: set[str] = set()  # files of which it was said that some of their text is not UTF-8
        files = ((file.name, file.row_groups) for file in self.listing.files)
        text_bytes = sum(file.text_bytes for file in self.listing.files)
        super().__init__(location, self.listing.fingerprint, text_bytes, files)

    def documents(
        self, group: RowGroup, columns: Sequence[str] = ("text",), rows: slice = slice(None)
    ) -> list[dict[str, Any]]:
        """Those `rows` that have a text."""
        table = self._read(group, [*{*columns, "text"}])
        numbers = np.arange(group.rows)[rows]
        texts = table["text"].take(pa.array(numbers))
        counts = texts.is_valid() if self.listing.blank_counts else pc.match_substring_regex(texts, _SEEN)
        numbers = numbers[counts.fill_null(False).to_numpy()]
        return documents_of(table.select(columns), numbers)

    def columns(self, group: RowGroup) -> list[str]:
        """The names of the columns of `group`'s file."""
        with open_bytes(self._folder, group.shard) as source:
            names: list[str] = pq.read_schema(source).names
            return names

    def _read(self, group: RowGroup, columns: list[str]) -> pa.Table:
        """`columns` of `group`, of which `text` is of strings that are valid."""
        path, listed = f"{self._folder}/{group.shard}", self._files[group.shard]
        try:
            with open_bytes(self._folder, group.shard) as source:
                if size_of(source) != listed.bytes or _footer(source, listed.bytes) != listed.footer:
                    raise ShardCorrupt(f"{path} is another file than was listed: give the old one back")
                file = pq.ParquetFile(source, page_checksum_verification=True)
                table = file.read_row_group(group.index, columns=columns, use_threads=False)
            if len(table) != group.rows:
                raise pa.ArrowInvalid(f"{len(table)} rows, its footer says {group.rows}")
            raw = table["text"].cast(pa.large_binary())
        except FileNotFoundError:
            raise ShardCorrupt(f"{path} was listed, but it is not there") from None
        except (pa.ArrowException, OSError) as error:
            raise unread(path, error, f"row group {group.index} is damaged ({error})") from error
        try:
            texts = raw.cast(pa.large_string())  # looks at every byte
        except pa.ArrowInvalid:
            if group.shard not in self._said:
                self._said.add(group.shard)
                where = f"{path}: text in row group {group.index}"
                say(f"warning: {where} is not UTF-8: U+FFFD is read there and in the others", file=sys.stderr)
            replaced = [text and text.decode("utf-8", "replace") for text in raw.to_pylist()]
            texts = pa.chunked_array([replaced], pa.large_string())
        return table.set_column(table.schema.get_field_index("text"), "text", texts)


def _found(location: Path | str) -> tuple[str, list[str]]:
    """The folder of `location`, and the names of the Parquet files in it, however deep."""
    folder, name = _split(location)
    if name:
        if is_corpus(folder):  # what is held out, and what was taken down, stands in its manifest
            raise ShardError(f"{location}: a file of the corpus in {folder}; name that folder instead")
        return folder, [name]
    below = sorted(names_below(folder))
    for name in below:
        inner = name.removesuffix(f"/{MANIFEST}")
        if inner != name and any(other.startswith(f"{inner}/shard-") for other in below):
            raise ShardError(f"{location}: no corpus, but {folder}/{inner} is one: did you mean that?")
    names = [name for name in below if name.lower().endswith(_SUFFIX)]
    if not names:
        raise ShardError(
            f"{location}: no manifest.json here, so no corpus, and no other Parquet either (names that begin "
            "with . or _ are left out)"
        )
    return folder, names


def _split(location: Path | str) -> tuple[str, str]:
    """The folder that `location` is, or that it is a Parquet file in, and the name of that file, else ""."""
    path = str(location)
    if path.lower().endswith(_SUFFIX) and not is_folder(path):
        folder, slash, name = path.rpartition("/")
        return folder or slash or ".", name
    return path.rstrip("/") or "/", ""


def _listed(folder: str, name: str) -> list[ListedFile]:
    """The file `name`, or those of the folder that it leads to: a symbolic link, a link without a slash."""
    path = f"{folder}/{name}"
    try:
        with open_bytes(folder, name) as source:
            size = size_of(source)
            footer = _footer(source, size)
            file = pq.ParquetFile(source)
            schema, metadata = file.schema_arrow, file.metadata
    except (pa.ArrowException, OSError, ShardError, ValueError) as error:  # the last: a server without ranges
        if is_folder(path):
            _, names = _found(path)
            return [file for inner in names for file in _listed(folder, f"{name}/{inner}")]
        raise ShardError(f"{path} cannot be read as Parquet ({error})") from error
    if (times := schema.names.count("text")) != 1:
        which = "two columns" if times else "no column"
        raise ShardError(f"{path}: {which} `text`; there are: {', '.join(schema.names)}")
    kind = schema.field("text").type
    values = kind.value_type if pa.types.is_dictionary(kind) else kind
    if str(values) not in _STRINGS:
        raise ShardError(f"{path}: its column `text` is of {kind}, not of strings")
    # Of type null is a column in which its writer saw nothing but nulls: there is nothing to read.
    count = 0 if pa.types.is_null(kind) else metadata.num_row_groups
    groups = [metadata.row_group(index) for index in range(count)]
    column = next(n for n in range(metadata.num_columns) if metadata.schema.column(n).path == "text")
    text_bytes = sum(group.column(column).total_uncompressed_size for group in groups)
    return [ListedFile(name, size, text_bytes, footer, tuple(group.num_rows for group in groups))]


def _footer(source: Any, size: int) -> str:
    source.seek(max(0, size - _FOOTER_END))
    length = int.from_bytes(source.read(4), "little")
    source.seek(max(0, size - _FOOTER_END - length))
    digest = hashlib.sha256(source.read(length)).hexdigest()
    source.seek(0)
    return digest
