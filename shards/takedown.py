"""Rewriting a corpus without what was taken down.

New files are written beside the old ones, each complete and fsynced; then the manifest that lists them
instead; then the old ones go. Killed before the manifest, the new files are those that nobody lists, and
after it the old ones: whoever opens the directory for writing next removes them.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from shards.errors import ShardCorrupt
from shards.manifest import HeldOut, Manifest, ShardEntry, names_of_page
from shards.reader import ShardReader, verify, without_taken_down
from shards.schema import parsed_id
from shards.writer import ShardWriter

# The host of a canonical URL, and its fingerprint: how URLs are read is the crawler's business.
Locate = Callable[[str], tuple[str, int]]


def documents_hit(directory: Path, names: Iterable[str]) -> Counter[str]:
    """How many of the documents that readers of `directory` give now each of `names` would take down.

    Raises ShardCorrupt if a file is damaged.
    """
    reader, hit = ShardReader(directory, split="all"), Counter[str]()
    wanted = frozenset(names)
    for group in reader.row_groups:
        for document in reader.documents(group, ("url", "host")):
            hit.update(wanted.intersection(names_of_page(document["url"], document["host"])))
    return hit


class Purged(NamedTuple):
    """How many rows are no longer in the files."""

    documents: int
    links: int
    fetches: int


def purge(directory: Path, locate: Locate) -> Purged:
    """Rewrite the shards of `directory` that have rows of what its manifest has taken down.

    A link goes if it leads to it, or if its page is of it: one that was taken down by its URL, one that is in
    the corpus or in its log of fetches, or one on a host taken down that any link led to. Row positions
    change, and so does the snapshot. Raises ShardsLocked while a crawl writes here, ShardCorrupt if a file
    is damaged.
    """
    Manifest.load(directory)
    with ShardWriter(directory) as writer:
        before = writer.manifest
        if not before.tombstones:
            return Purged(0, 0, 0)
        for name, what in verify(directory):
            raise ShardCorrupt(f"{directory / name}: {what}; nothing was changed")
        gone = _Gone(directory, before, locate)
        shards = tuple(_rewrite(writer, shard, gone) for shard in before.shards)
        if shards != before.shards:
            writer.update(shards=shards, held_out=_held_out(before, shards, gone))
            writer.remove_unlisted()
        return Purged(*gone.rows)


class _Gone:
    """Which rows go; counts documents, links and fetches of them in `rows`."""

    def __init__(self, directory: Path, manifest: Manifest, locate: Locate) -> None:
        self._manifest = manifest
        self._locate = locate
        self.rows = [0, 0, 0]
        self._fingerprints = {locate(what)[1] for what in manifest.tombstones if "://" in what}
        for shard in manifest.shards:
            for file in (shard, shard.fetches) if shard.fetches else (shard,):
                for url, host, name in _rows(directory / file.name, "url", "host", "id"):
                    if manifest.is_taken_down(url, host):
                        self._fingerprints.add(parsed_id(name)[0])
            for [url] in _rows(directory / shard.links.name, "dst_url"):
                host, fingerprint = locate(url)
                if manifest.is_taken_down(url, host):
                    self._fingerprints.add(fingerprint)

    def fetched(self, name: str) -> bool:
        """Whether the fetch with this id was of what goes."""
        return parsed_id(name)[0] in self._fingerprints

    def without_links(self, links: pa.Table) -> pa.Table:
        pairs = zip(links["src_id"].to_pylist(), links["dst_url"].to_pylist(), strict=True)
        stays = [
            not (self.fetched(source) or self._manifest.is_taken_down(url, self._locate(url)[0]))
            for source, url in pairs
        ]
        return links.filter(pa.array(stays, pa.bool_()))


def _rows(path: Path, *columns: str) -> Iterator[tuple[str, ...]]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(columns=list(columns)):
            yield from zip(*(batch[name].to_pylist() for name in columns), strict=True)


def _rewrite(writer: ShardWriter, shard: ShardEntry, gone: _Gone) -> ShardEntry:
    """The entry of the shard without what goes; the same if all of it stays."""
    left: list[pa.Table] = []
    fewer = [0, 0, 0]
    for at, entry in enumerate(shard.files):
        with pq.ParquetFile(writer.directory / entry.name) as file:
            table = file.read()
        of_links = entry is shard.links
        left.append(gone.without_links(table) if of_links else without_taken_down(table, writer.manifest))
        fewer[at] = len(table) - len(left[-1])
    if not any(fewer):
        return shard
    gone.rows = [*map(sum, zip(gone.rows, fewer, strict=True))]
    documents, links, *fetches = left
    first_number = shard.name.removesuffix(".parquet").split("-")[1]
    number = f"{first_number}-{writer.manifest.version + 1:06d}"
    log = fetches[0] if fetches else None
    return writer.write_shard(number, documents, links, log, max(shard.row_groups, default=1))


def _held_out(before: Manifest, shards: tuple[ShardEntry, ...], gone: _Gone) -> HeldOut | None:
    """Less what is gone; None if nothing is left of it, so that it can be chosen again."""
    if not (held_out := before.held_out):
        return None
    hosts = tuple(host for host in held_out.hosts if host not in before.taken_down)
    excluded = tuple(name for name in held_out.excluded if not gone.fetched(name))
    names = {old.name: new.name for old, new in zip(before.shards, shards, strict=True)}
    through = names.get(held_out.through, held_out.through)
    return HeldOut(hosts=hosts, excluded=excluded, through=through) if hosts else None
