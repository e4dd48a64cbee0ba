"""Choosing the text no model trains on: by host, and never with a near-duplicate on the other side.

Hosts are taken in the order of a hash of their names until they hold the wanted share of the text, so the
choice says nothing about their content. A held-out page whose text nearly stands in training as well (a
mirror, a version) is put on neither side; a crawl that grew may bring more of those, but never another host.
What is near stands in shards/text/dedup.py.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from shards.errors import ShardError
from shards.manifest import HeldOut, Manifest
from shards.reader import ShardReader
from shards.text.dedup import HELD_OUT, OVERLAP, Signature, bands, signature
from shards.writer import ShardWriter


def choose_hosts(directory: Path | str, manifest: Manifest, share: float) -> tuple[str, ...]:
    """Hosts that together hold about `share` of the text, none of them more than twice that.

    Raises ShardError if the corpus has fewer than two hosts: then nothing can be held out by host.
    """
    sizes: Counter[str] = Counter()
    reader = ShardReader(directory, manifest, split="all")
    for document in _documents(reader):
        sizes[document["host"]] += len(document["text"])
    if len(sizes) < 2:
        raise ShardError(
            f"{directory}: whole hosts are held out, and the text is of {len(sizes)}: crawl another, or "
            "train as it is, with nothing to measure by"
        )
    wanted = share * sizes.total()
    chosen: list[str] = []
    held = 0

    # Any bits of a hash would do, but hosts are chosen again where nothing is recorded: these give the same.
    def order(host: str) -> int:
        return int.from_bytes(hashlib.blake2b(host.encode(), digest_size=4).digest(), "little")

    for host in sorted(sizes, key=order):
        if held >= wanted:
            break
        if sizes[host] <= max(wanted * 2 - held, 0):
            chosen.append(host)
            held += sizes[host]
    return tuple(chosen or [min(sizes, key=lambda host: (sizes[host], host))])


def near_duplicates_of_training(
    directory: Path | str, manifest: Manifest, hosts: frozenset[str]
) -> list[str]:
    """Ids of the documents of `hosts` that have a near-duplicate on any other host."""
    held: dict[str, Signature] = {}
    by_band: dict[int, list[str]] = {}
    reader = ShardReader(directory, manifest, split="all")
    for document in _documents(reader):
        if document["host"] in hosts:
            minhash = held[document["id"]] = signature(document["text"])
            for band in bands(minhash, *HELD_OUT).tolist():
                by_band.setdefault(band, []).append(document["id"])
    near: set[str] = set()
    for document in _documents(reader):
        if document["host"] in hosts:
            continue
        minhash = signature(document["text"])
        keys = bands(minhash, *HELD_OUT).tolist()
        candidates = {name for key in keys for name in by_band.get(key, ())} - near
        near.update(name for name in candidates if (held[name] == minhash).mean() >= OVERLAP)
    return sorted(near)


def _documents(reader: ShardReader) -> Iterator[dict[str, str]]:
    for group in reader.row_groups:
        yield from reader.documents(group, ("id", "host", "text"))


def hold_out(directory: Path, share: float) -> HeldOut:
    """Record in the manifest which text is held out; hosts that were recorded before stay.

    Raises ShardError if nothing can be held out, ShardsLocked while a crawl writes to `directory`.
    """
    Manifest.load(directory)
    with ShardWriter(directory) as writer:
        recorded = writer.manifest.held_out
        if recorded and writer.manifest.held_out_is_current:
            return recorded
        hosts = recorded.hosts if recorded else choose_hosts(directory, writer.manifest, share)
        excluded = near_duplicates_of_training(directory, writer.manifest, frozenset(hosts))
        through = writer.manifest.shards[-1].name
        held_out = HeldOut(hosts=hosts, excluded=tuple(excluded), through=through)
        writer.update(held_out=held_out)
        return held_out
