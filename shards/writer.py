"""`ShardWriter`: rows become a shard, and the shard becomes part of the corpus, in one step or not at all.

The order of a commit: links, fetches, documents, state, each file complete and fsynced; then the
manifest that lists them, with the stream positions they came from. A crash before the manifest leaves files
nobody lists, removed at the next start; a crash after it leaves stream entries below the recorded position,
skipped.
"""

import json
import sys
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from shards.errors import ShardCorrupt, ShardError, ShardsLocked
from shards.manifest import FILE_NAME, FileEntry, Manifest, ShardEntry
from shards.schema import DOCUMENTS, FETCHES, INGREDIENTS, LINKS, Document, FetchRow, LinkRow, row_of
from shards.text.content import values
from tinylm.files import TEMPORARY_SUFFIX, replacing, sha256
from tinylm.processes import lock

LOCK_NAME = "writer.lock"
# Of zstd, its default.
_COMPRESSION_LEVEL = 3
# Memory of a document or a fetch beside its text or numbers, and of a link in columns beside its characters.
_ROW_BYTES, _LINK_BYTES = 4000, 40
# Rows of links that become columns together. At double, rows take 5 MB, not 2.5.
_PACKED_ROWS = 4096


def locked(directory: Path) -> BinaryIO:
    """Make `directory`, and lock it for one writer until the file that is returned is closed.

    Raises ShardsLocked if another process holds the lock, and ShardError if nothing can be written there.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        held = lock(directory / LOCK_NAME)
    except OSError as error:
        raise ShardError(f"{directory}: cannot be written ({error.strerror})") from error
    if held is None:
        raise ShardsLocked(f"{directory}: another process is writing here")
    return held


def manifest_of(directory: Path, crawl_id: str) -> Manifest:
    """The manifest of the corpus in `directory`; raises ShardError if it is not of the crawl `crawl_id`."""
    manifest = Manifest.load(directory)
    if crawl_id and manifest.crawl_id != crawl_id:
        raise ShardError(
            f"{directory} holds crawl {manifest.crawl_id!r}, not {crawl_id!r}: "
            "give this crawl a directory of its own"
        )
    return manifest


def write_table(
    path: Path, table: pa.Table, dictionaries: Sequence[str] = (), row_group_rows: int | None = None
) -> FileEntry:
    """Make `table` the file `path`; the columns `dictionaries` have values that recur."""
    with replacing(path) as temporary:
        pq.write_table(
            table,
            temporary,
            row_group_size=row_group_rows,
            compression="zstd",
            compression_level=_COMPRESSION_LEVEL,
            use_dictionary=list(dictionaries),
            write_page_checksum=True,
        )
    return FileEntry(name=path.name, bytes=path.stat().st_size, sha256=sha256(path))


def write_documents(
    directory: Path,
    number: str,
    documents: pa.Table,
    rows: int,
    links: FileEntry,
    fetches: FileEntry | None = None,
) -> ShardEntry:
    """Write the documents of a shard, in row groups of `rows`; its other files are there."""
    file = _write(directory, f"shard-{number}", documents, rows)
    full, rest = divmod(documents.num_rows, rows)
    return ShardEntry(
        name=file.name,
        rows=documents.num_rows,
        row_groups=(rows,) * full + ((rest,) if rest else ()),
        text_bytes=pc.sum(pc.binary_length(documents["text"])).as_py() or 0,
        bytes=file.bytes,
        sha256=file.sha256,
        links=links,
        fetches=fetches,
    )


def _write(directory: Path, name: str, table: pa.Table, rows: int | None = None) -> FileEntry:
    # Values that hardly recur: a dictionary of them would only be written beside them.
    plain = ("id", "text", "content_sha256")
    repeated = [column for column in table.schema.names if column not in plain]
    return write_table(directory / f"{name}.parquet", table, repeated, rows)


class ShardWriter:
    """The one writer of a directory; a context manager that holds its lock.

    `held` is that lock, if the caller has it already. Raises ShardsLocked if another process holds it, and
    ShardError if the directory belongs to another crawl, has shards but no manifest, or cannot be written.
    """

    def __init__(
        self, directory: Path, *, crawl_id: str = "", row_group_rows: int = 256, held: BinaryIO | None = None
    ) -> None:
        self.directory = directory
        self._row_group_rows = row_group_rows
        self._lock = held or locked(directory)
        try:
            self._open_manifest(crawl_id)
        except BaseException:
            self._lock.close()
            raise
        self._begin_shard()

    def _begin_shard(self) -> None:
        self._documents: list[dict[str, Any]] = []
        self._links: list[LinkRow] = []
        self._packed_links: list[pa.RecordBatch] = []
        self._fetches: list[dict[str, Any]] = []
        self._ingredients: dict[str, None] = {}
        self.buffered_text = 0
        """Bytes of text that the next commit adds to the corpus."""
        self.buffered_bytes = 0
        """Memory of all that the next commit writes."""

    def _open_manifest(self, crawl_id: str) -> None:
        if not (self.directory / FILE_NAME).exists():
            if any(self.directory.glob("shard-*.parquet")):
                raise ShardCorrupt(
                    f"{self.directory}: shards, but no {FILE_NAME}: "
                    "restore it from a backup, or move them away"
                )
            # At once, so that shards without a manifest are never taken for the remains of a crash.
            self.manifest = Manifest(crawl_id=crawl_id).save(self.directory)
            return
        self.manifest = manifest_of(self.directory, crawl_id)
        self.remove_unlisted()

    def remove_unlisted(self) -> None:
        """Remove files that the manifest does not list: a crash left them, or a commit replaced them."""
        listed = {file.name for file in self.manifest.files}
        for pattern in ("shard-*", "links-*", "fetches-*", "state-*", f"*{TEMPORARY_SUFFIX}"):
            for path in self.directory.glob(pattern):
                if path.name not in listed:
                    path.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give up the lock. Rows that were not committed are gone: their stream entries still stand."""
        self._lock.close()

    @property
    def buffered_rows(self) -> int:
        return len(self._documents)

    def append(
        self, document: Document | None, links: Sequence[LinkRow] = (), fetch: FetchRow | None = None
    ) -> None:
        """Add a kept document (None: the page was dropped), its links and its fetch to the next commit."""
        if document:
            self.buffered_text += len(document.text.encode())
            # As it is held: one character of four bytes makes all of a text's four bytes.
            self.buffered_bytes += _ROW_BYTES + sys.getsizeof(document.text)
            self._documents.append(row_of(document))
        if links:
            strings = chain.from_iterable((link.dst_url, link.anchor, link.tag_path) for link in links)
            self.buffered_bytes += _LINK_BYTES * len(links) + len("".join(strings).encode())
            self._links += links
            if len(self._links) >= _PACKED_ROWS:
                self._pack_links()
        if fetch:
            # Numbers in the order in which the rows of this file named them first, at 4 bytes each.
            self._ingredients |= dict.fromkeys(fetch.ingredients)
            numbers = array("f", (fetch.ingredients.get(name, 0.0) for name in self._ingredients))
            self._fetches.append(values(FetchRow, fetch) | {"ingredients": numbers})
            self.buffered_bytes += _ROW_BYTES + numbers.itemsize * len(numbers)

    def _pack_links(self) -> None:
        """Turn link rows into columns: one takes 600 bytes, and 40 beside its characters."""
        columns = [
            pa.array([getattr(link, field.name) for link in self._links], field.type) for field in LINKS
        ]
        self._packed_links.append(pa.RecordBatch.from_arrays(columns, schema=LINKS))
        self._links = []

    def commit(
        self,
        positions: Mapping[str, str] | None = None,
        *,
        state: bytes | None = None,
        dropped: Mapping[str, int] | None = None,
        tombstones: Iterable[str] = (),
        check: Callable[[], None] = lambda: None,
    ) -> Manifest:
        """Make the buffered rows, the positions they came from and the writer's state part of the corpus.

        `tombstones` are added to what was taken down. `check` is called before the last step; if it raises,
        nothing is committed. Raises ShardError if the disk is full: what was committed is untouched, the rows
        stay buffered.
        """
        number = self.manifest.version + 1
        shards, before = self.manifest.shards, self.manifest.state
        self._pack_links()
        if self._documents or self._fetches or any(map(len, self._packed_links)):
            names = {INGREDIENTS: json.dumps([*self._ingredients])}
            log = FETCHES.with_metadata(FETCHES.metadata | names)
            shard = self.write_shard(
                f"{number:06d}",
                pa.Table.from_pylist(self._documents, schema=DOCUMENTS),
                pa.Table.from_batches(self._packed_links, schema=LINKS),
                pa.Table.from_pylist(self._fetches, schema=log) if self._fetches else None,
                self._row_group_rows,
            )
            shards = (*shards, shard)
        learned = before
        if state is not None:
            path = self.directory / f"state-{number:06d}.bin"
            with replacing(path) as temporary:
                temporary.write_bytes(state)
            learned = FileEntry(name=path.name, bytes=len(state), sha256=sha256(path))
        manifest = replace(
            self.manifest.with_tombstones(tombstones),
            shards=shards,
            positions={**self.manifest.positions, **(positions or {})},
            state=learned,
            dropped=dict(dropped) if dropped is not None else self.manifest.dropped,
        )
        check()
        # All files are complete; with this rename they are the corpus.
        self.manifest = manifest.save(self.directory)
        self._begin_shard()
        if before and before != learned:
            (self.directory / before.name).unlink(missing_ok=True)
        return self.manifest

    def update(self, **changes: Any) -> Manifest:
        """Commit a change of the manifest alone, such as its held-out hosts."""
        self.manifest = replace(self.manifest, **changes).save(self.directory)
        return self.manifest

    def write_shard(
        self, number: str, documents: pa.Table, links: pa.Table, fetches: pa.Table | None, rows: int
    ) -> ShardEntry:
        """Write a shard's files, documents in row groups of `rows`; no corpus has them until a commit."""
        of_links = _write(self.directory, f"links-{number}", links)
        of_fetches = None if fetches is None else _write(self.directory, f"fetches-{number}", fetches)
        return write_documents(self.directory, number, documents, rows, of_links, of_fetches)

    def state(self) -> bytes | None:
        """What `commit` was last given as state; None if nothing was.

        Raises ShardError if the file is not what the manifest says.
        """
        entry = self.manifest.state
        if entry is None:
            return None
        path = self.directory / entry.name
        if not path.exists() or sha256(path) != entry.sha256:
            raise ShardError(f"{path}: missing or damaged; restore it, or start a new crawl")
        return path.read_bytes()
