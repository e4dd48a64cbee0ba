"""`ShardReader`: a pinned snapshot of a corpus, row group by row group.

The unit is the row group: small enough to hold, large enough to read at disk speed. Page checksums are
verified on the way, so a flipped bit is an error that names the file and never a strange document.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import pyarrow as pa

from shards.manifest import Manifest
from shards.schema import DOCUMENTS, by_version
from shards.tables import opened
from tinylm.files import sha256

Split = Literal["train", "held_out", "all"]


@dataclass(frozen=True, slots=True)
class RowGroup:
    """A row group of a shard; `rows` counts both sides of the split."""

    shard: str
    index: int
    rows: int


class Reader(Protocol):
    """What is trained on: a corpus, or other Parquet (shards/foreign.py)."""

    place: Path | str

    @property
    def fingerprint(self) -> str:
        """Hex digest of the snapshot."""

    @property
    def text_bytes(self) -> int:
        """About how much text there is."""

    @property
    def row_groups(self) -> tuple[RowGroup, ...]:
        """All row groups, in the order of the snapshot."""

    def documents(
        self, group: RowGroup, columns: Sequence[str] = ("text",), rows: slice = slice(None)
    ) -> list[dict[str, Any]]:
        """What there is to train on of some `rows` of `group`, each with `row`, its position in the group."""

    def texts(self, group: RowGroup) -> list[str]:
        """The texts of `group`, in order."""


class ShardReader:
    """Reads one split of the corpus in `directory`, a folder or a URL, as `manifest` has it.

    By default that is the current one. What was taken down is in no split, though it was later than
    `manifest`: that is another snapshot then.
    """

    def __init__(
        self, directory: Path | str, manifest: Manifest | None = None, split: Split = "train"
    ) -> None:
        self.place = directory
        current = Manifest.load(directory)
        self.manifest = manifest.with_tombstones(current.tombstones) if manifest else current
        self.split = split
        self._sizes = {shard.name: shard.bytes for shard in self.manifest.shards}
        held_out = self.manifest.held_out
        self._hosts = frozenset(held_out.hosts) if held_out else frozenset()
        self._excluded = frozenset(held_out.excluded) if held_out else frozenset()

    @property
    def fingerprint(self) -> str:
        """That of the manifest."""
        return self.manifest.fingerprint

    @property
    def text_bytes(self) -> int:
        """That of the manifest, what is held out included."""
        return self.manifest.text_bytes

    @property
    def row_groups(self) -> tuple[RowGroup, ...]:
        """All row groups, in the order in which they were committed."""
        return tuple(
            RowGroup(shard.name, index, rows)
            for shard in self.manifest.shards
            for index, rows in enumerate(shard.row_groups)
        )

    def documents(
        self, group: RowGroup, columns: Sequence[str] = ("text",), rows: slice = slice(None)
    ) -> list[dict[str, Any]]:
        """Those `rows` of `group` that are in the split, in order, each with `row`, its place in the group.

        Raises ShardCorrupt if the file is missing, of another size, or fails its checksums.
        """
        wanted = list(dict.fromkeys([*columns, "id", "host", *(["url"] if self.manifest.tombstones else [])]))
        numbers = range(group.rows)[rows]
        table = self._read(group, wanted)
        if len(numbers) < group.rows:
            table = table.take(np.array(numbers, np.int64))
        found = [{"row": row, **document} for row, document in zip(numbers, table.to_pylist(), strict=True)]
        kept = [document for document in found if self._is_given(document)]
        if len(wanted) == len(columns):
            return kept
        return [{name: document[name] for name in ("row", *columns)} for document in kept]

    def texts(self, group: RowGroup) -> list[str]:
        """The texts of `group` that are in the split, in order."""
        return [document["text"] for document in self.documents(group)]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """All documents of the split with all columns."""
        for group in self.row_groups:
            yield from self.documents(group, DOCUMENTS.names)

    def _is_given(self, document: dict[str, Any]) -> bool:
        manifest, host = self.manifest, document["host"]
        if manifest.tombstones and manifest.is_taken_down(document["url"], host):
            return False
        return self._in_split(host, document["id"])

    def _in_split(self, host: str, document_id: str) -> bool:
        if self.split == "all":
            return True
        return (host in self._hosts) == (self.split == "held_out") and document_id not in self._excluded

    def _read(self, group: RowGroup, columns: list[str]) -> pa.Table:
        part = f"row group {group.index} is "
        with opened(self.place, group.shard, self._sizes[group.shard], part) as file:
            there, later = by_version(columns, file.schema_arrow)
            table = file.read_row_group(group.index, columns=there, use_threads=False)
            for name in later:
                table = table.append_column(
                    DOCUMENTS.field(name), pa.nulls(len(table), DOCUMENTS.field(name).type)
                )
            schema = pa.schema([*map(DOCUMENTS.field, columns)])
            if table.num_rows != group.rows or not table.select(columns).schema.equals(schema):
                raise pa.ArrowInvalid("its schema or number of rows is another than was committed")
            table.validate(full=True)
            return table


def verify(directory: Path | str) -> Iterator[tuple[str, str]]:
    """Every listed file whose bytes are not those that were committed, as (name, what is wrong)."""
    manifest = Manifest.load(directory)
    entries: list[Any] = [entry for shard in manifest.shards for entry in shard.files]
    for entry in [*entries, *([manifest.state] if manifest.state else [])]:
        path = Path(directory) / entry.name
        if not path.exists():
            yield entry.name, "missing"
        elif path.stat().st_size != entry.bytes:
            yield entry.name, f"{path.stat().st_size} bytes instead of {entry.bytes}"
        elif sha256(path) != entry.sha256:
            yield entry.name, "another SHA-256 than was committed"
