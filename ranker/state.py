"""What a walker knows, as the bytes that are committed with its shards."""

import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ranker.graph import LinkGraph
from ranker.policy import POLICIES, Policy
from shards.errors import ShardError
from shards.manifest import Manifest
from tinylm.records import MALFORMED, typed

# 5, without sources, is gone on with.
_VERSION, _GOES_ON = 6, (5, 6)
# Bytes up to which a Bloom filter is compressed: one that is hardly filled is mostly zeros.
_SMALL = 1 << 20


class State(NamedTuple):
    """Values that JSON can hold, and by the name of their owner the arrays that it needs to go on."""

    plain: dict[str, Any]
    parts: Mapping[str, Mapping[str, Any]]

    def to_bytes(self) -> bytes:
        """As `numpy.savez_compressed`, but large Bloom filters as they are: they are as good as random."""
        named = joined(self.parts)
        named["plain"] = np.frombuffer(json.dumps({"version": _VERSION, **self.plain}).encode(), np.uint8)
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for name, array in named.items():
                member = zipfile.ZipInfo(f"{name}.npy")
                stored = name.startswith("judge.novelty.") and np.asarray(array).nbytes > _SMALL
                member.compress_type = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
                with archive.open(member, "w", force_zip64=True) as file:
                    np.lib.format.write_array(file, np.asarray(array), allow_pickle=False)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes, directory: Path) -> "State":
        """The state of the corpus in `directory`. Raises ShardError if it is none, or another version's."""
        with _reading(directory):
            with np.load(io.BytesIO(data)) as file:
                arrays = dict(file)
            plain = typed(dict[str, Any], json.loads(arrays.pop("plain").tobytes()), "plain")
        if plain.get("version") not in _GOES_ON:
            raise ShardError(
                f"{directory}: the walker's state has version {plain.get('version')}, not {_VERSION}: go on "
                "with the tinylm that wrote it, or begin another crawl"
            )
        parts: dict[str, dict[str, Any]] = {}
        for name, array in arrays.items():
            owner, _, rest = name.partition(".")
            parts.setdefault(owner, {})[rest] = array
        return cls(plain, parts)


def restored(directory: Path) -> tuple[LinkGraph, Policy]:
    """The evidence and the policy of a corpus when its walker last committed.

    Raises ShardError if there is no state, or none of this version.
    """
    entry = Manifest.load(directory).state
    if entry is None:
        raise ShardError(f"{directory}: no walker has committed here")
    state = State.from_bytes((directory / entry.name).read_bytes(), directory)
    graph = LinkGraph()
    with _reading(directory):
        graph.restore(state.parts["graph"])
        policy = POLICIES[state.plain["policy"]](graph)
        policy.restore(state.parts.get("policy", {}))
    return graph, policy


@contextmanager
def _reading(directory: Path) -> Iterator[None]:
    """Turn what goes wrong with bytes that no walker wrote into a ShardError."""
    try:
        yield
    except (*MALFORMED, EOFError, zipfile.BadZipFile) as error:
        raise ShardError(
            f"{directory}: its walker's state is damaged ({error}); restore it from a backup"
        ) from error


def joined(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The states of several owners as one mapping of arrays: names after their owner's."""
    return {f"{owner}.{name}": value for owner, part in parts.items() for name, value in part.items()}


def part_of(arrays: Mapping[str, Any], owner: str) -> dict[str, Any]:
    """What `joined` was given for `owner`."""
    prefix = f"{owner}."
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}
