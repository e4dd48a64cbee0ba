"""`Manifest`: what a corpus consists of. A file that it does not list does not exist for any reader.

It is one JSON file, replaced in one step, so a commit of a shard, of the reading positions that led to it and
of the writer's own state is one rename.
"""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from shards.errors import ShardCorrupt, ShardError
from shards.files import open_bytes
from shards.schema import SCHEMA_VERSION
from tinylm.files import write_json
from tinylm.records import MALFORMED, record

FILE_NAME = "manifest.json"
_PORT = re.compile(r":[0-9]+$")


def check_entry(name: str, *counts: int) -> None:
    """Raise ValueError unless `name` is of a file beside the manifest, and no count below 0.

    A name that leads elsewhere would be read there, and removed.
    """
    if name != Path(name).name or name in ("", ".", "..") or "\0" in name or "\\" in name:
        raise ValueError(f"{name!r} is not the name of a file beside the manifest")
    if min(counts) < 0:
        raise ValueError(f"{name}: a count below 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """A file beside the manifest, as it was when it was committed."""

    name: str
    bytes: int
    sha256: str

    def __post_init__(self) -> None:
        check_entry(self.name, self.bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardEntry:
    """A shard: its documents, the links of every page fetched for it, its fetches, and its counts."""

    name: str
    rows: int
    row_groups: tuple[int, ...]
    """Rows in each row group."""
    text_bytes: int
    bytes: int
    sha256: str
    links: FileEntry
    fetches: FileEntry | None = None
    """None if no fetch was logged, as in shards from before schema version 3."""

    def __post_init__(self) -> None:
        check_entry(self.name, self.bytes, self.rows, self.text_bytes, *self.row_groups)
        if sum(self.row_groups) != self.rows:
            raise ValueError(f"{self.name}: its row groups have not {self.rows} rows together")

    @property
    def files(self) -> tuple["ShardEntry | FileEntry", ...]:
        """All of its files, each with name, bytes and sha256."""
        return (self, self.links, *([self.fetches] if self.fetches else []))


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """The text no model trains on: that of some hosts, less pages that have a near-duplicate in training."""

    hosts: tuple[str, ...]
    excluded: tuple[str, ...] = ()
    """Ids of documents on neither side."""
    through: str = ""
    """The last shard that was looked at; in later ones near-duplicates may stand on both sides."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The corpus in one directory at one moment."""

    crawl_id: str = ""
    version: int = 0
    """Counts commits, from the empty one that begins a corpus."""
    schema_version: int = SCHEMA_VERSION
    shards: tuple[ShardEntry, ...] = ()
    held_out: HeldOut | None = None
    positions: dict[str, str] = field(default_factory=dict)
    """Stream partition to the id of its last entry that is in the corpus or was judged not worth keeping."""
    state: FileEntry | None = None
    """What the writer had learned at this commit."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Pages read and not kept, by reason."""
    audit: dict[str, float] = field(default_factory=dict)
    """Of a deduplication: what it says of itself."""
    tombstones: tuple[str, ...] = ()
    """Canonical URLs, and hosts with all their ports, that were taken down: no reader gives them."""

    @property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.shards)

    @property
    def text_bytes(self) -> int:
        return sum(shard.text_bytes for shard in self.shards)

    @property
    def files(self) -> list[ShardEntry | FileEntry]:
        """Every file of the corpus."""
        of_shards = [file for shard in self.shards for file in shard.files]
        return [*of_shards, self.state] if self.state else of_shards

    @property
    def held_out_is_current(self) -> bool:
        """Whether nothing is held out, or every shard was looked at for near-duplicates of what is."""
        return not self.held_out or not self.shards or self.held_out.through == self.shards[-1].name

    @cached_property
    def taken_down(self) -> frozenset[str]:
        return frozenset(self.tombstones)

    def is_taken_down(self, url: str, host: str) -> bool:
        """Whether the page at `url` on `host` was, by itself or with its host."""
        return not self.taken_down.isdisjoint(names_of_page(url, host))

    def with_tombstones(self, more: Iterable[str]) -> Self:
        """This manifest with `more` taken down."""
        return replace(self, tombstones=tuple(sorted(self.taken_down.union(more))))

    @cached_property
    def fingerprint(self) -> str:
        """Hex SHA-256 of what a reader would see: the snapshot a training run pins."""
        held_out = asdict(self.held_out) if self.held_out else None
        shards = [(shard.name, shard.sha256) for shard in self.shards if shard.rows]
        seen: dict[str, Any] = {"shards": shards, "held_out": held_out}
        # Left out while there are none: snapshots that were pinned before keep their fingerprint.
        if self.tombstones:
            seen["tombstones"] = self.tombstones
        return hashlib.sha256(json.dumps(seen, sort_keys=True).encode()).hexdigest()

    @classmethod
    def load(cls, directory: Path | str) -> Self:
        """Read the manifest of `directory`, a folder or a URL.

        Raises ShardError if there is none, if it is not one, or if another version of tinylm wrote it.
        """
        path = f"{directory}/{FILE_NAME}"
        try:
            with open_bytes(directory, FILE_NAME) as file:
                data = json.loads(file.read())
            if (found := data["schema_version"]) not in range(1, SCHEMA_VERSION + 1):
                raise ShardError(
                    f"{path}: the corpus has schema version {found}, not 1 to {SCHEMA_VERSION}: "
                    "use the tinylm that wrote it, or crawl again"
                )
            manifest = record(cls, data | {"schema_version": SCHEMA_VERSION, "shards": data["shards"]})
            names = [FILE_NAME, *(file.name for file in manifest.files)]
            if len(set(names)) < len(names):
                raise ValueError("a file is listed twice, or the manifest itself")
            return manifest
        except (FileNotFoundError, NotADirectoryError):
            hint = (
                f"did you mean {below}?" if is_corpus(below := f"{directory}/shards") else "crawl one first"
            )
            raise ShardError(f"{directory}: no {FILE_NAME} here, so no corpus; {hint}") from None
        except MALFORMED as error:
            raise ShardCorrupt(f"{path}: not a manifest ({error}); restore it from a backup") from error

    def save(self, directory: Path) -> "Manifest":
        """Replace the manifest of `directory` by this one, with the version counted up; returns that."""
        saved = replace(self, version=self.version + 1)
        write_json(directory / FILE_NAME, asdict(saved))
        return saved


def names_of_page(url: str, host: str) -> tuple[str, ...]:
    """All by which the page at a canonical URL may be taken down: itself, its host with a port and without.

    Corpora from before 2026-12 have hosts with ports, as documents' and as tombstones.
    """
    place = url.partition("://")[2].partition("/")[0]
    return url, host, place, _PORT.sub("", place)


def is_corpus(location: Path | str) -> bool:
    """Whether there is a manifest in the folder or at the URL `location`."""
    try:
        open_bytes(location, FILE_NAME).close()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True
