"""Corpora summed up and compared, shard by shard on all cores."""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from shards.batch.job import Part, committed, each
from shards.columns import hashes_of
from shards.errors import ShardError
from shards.files import is_url
from shards.manifest import Manifest
from shards.reader import read_documents, without_taken_down
from shards.schema import DOCUMENTS

_WORDS = "rps_doc_word_count"


@dataclass
class Side:
    """What one of two corpora has alone."""

    groups: list[dict[str, Any]]
    """By value of a column: `documents`, `bytes`, `words` and mean `quality`; those with most words first."""
    samples: list[dict[str, Any]]
    rules: Counter[str] = field(default_factory=Counter)
    """Which rules of the other's making dropped how many of them; a document counts for each."""


def summed(corpus: Path | str, by: str) -> list[dict[str, Any]]:
    """As `Side.groups`, of all documents. Raises ShardError if `by` is no column to count by."""
    return _summed(corpus, Manifest.load(corpus), by)[0]


def differences(before: Path | str, after: Path | str, by: str, samples: int) -> tuple[Side, Side]:
    """What only `before` has, and what only `after` has, by document id.

    Holds 8 bytes a document of each. Raises ShardError.
    """
    manifests = [Manifest.load(before), Manifest.load(after)]
    ids = [_ids(where, manifest) for where, manifest in zip((before, after), manifests, strict=True)]
    lost = Side(*_summed(before, manifests[0], by, ids[1], samples))
    won = Side(*_summed(after, manifests[1], by, ids[0], samples))
    if not is_url(after):
        lost.rules = _rules(Path(after), ids[0][~np.isin(ids[0], ids[1])])
    return lost, won


def parts_of(corpus: Path) -> Iterator[Part]:
    """The parts of which a stage made `corpus`."""
    number = 0
    while part := committed(corpus, number):
        yield part
        number += 1


def _summed(
    where: Path | str, manifest: Manifest, by: str, without: NDArray[np.int64] | None = None, samples: int = 0
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Groups of the documents whose ids are not among `without`, and samples of them."""
    if by not in DOCUMENTS.names or pa.types.is_list(DOCUMENTS.field(by).type):
        raise ShardError(f"{by!r} is no column to count by: language, host, source, policy, …")
    totals: dict[Any, list[float]] = {}
    found: list[tuple[int, dict[str, Any]]] = []

    def of_shard(number: int) -> str:
        columns = list(dict.fromkeys([by, "id", "url", "host", "text", "quality", _WORDS]))
        table = without_taken_down(read_documents(where, manifest.shards[number], columns), manifest)
        hashes = hashes_of(table["id"].to_pylist())
        if without is not None:
            alone = ~np.isin(hashes, without)
            table, hashes = table.filter(pa.array(alone)), hashes[alone]
        table = table.append_column("bytes", pc.binary_length(table["text"]))
        sums = table.group_by(by).aggregate(
            [("id", "count"), ("bytes", "sum"), (_WORDS, "sum"), ("quality", "sum")]
        )
        parts = (by, "id_count", "bytes_sum", f"{_WORDS}_sum", "quality_sum")
        rows = [*zip(*(sums[name].to_pylist() for name in parts), strict=True)]
        # Those with the least hashes: any would do, and these are spread over all shards.
        first = np.argsort(hashes)[:samples]
        few = table.select(["url", "text"]).take(pa.array(first)).to_pylist()
        return json.dumps([rows, [*zip(hashes[first].tolist(), few, strict=True)]], default=str)

    for _, said in each(of_shard, range(len(manifest.shards))):
        rows, few = json.loads(said)
        for key, *values in rows:
            known = totals.setdefault(key, [0, 0, 0, 0])
            totals[key] = [one + (more or 0) for one, more in zip(known, values, strict=True)]
        found += few
    groups = [
        {by: key, "documents": int(count), "bytes": int(size), "words": words, "quality": quality / count}
        for key, (count, size, words, quality) in totals.items()
        if count
    ]
    found.sort(key=lambda one: one[0])
    return sorted(groups, key=lambda row: -row["words"]), [row for _, row in found[:samples]]


def _ids(where: Path | str, manifest: Manifest) -> NDArray[np.int64]:
    """The ids of a corpus, hashed."""
    found = [np.zeros(0, np.int64)]
    for shard in manifest.shards:
        table = without_taken_down(read_documents(where, shard, ["id", "url", "host"]), manifest)
        found.append(hashes_of(table["id"].to_pylist()))
    return np.concatenate(found)


def _rules(corpus: Path, ids: NDArray[np.int64]) -> Counter[str]:
    """How many of the documents each rule dropped when `corpus` was made."""
    counts = Counter[str]()
    for part in parts_of(corpus):
        for file in part.verdicts:
            table = pq.read_table(corpus / file.name, columns=["document", "rule", "keep"])
            table = table.filter(pc.invert(table["keep"]))
            table = table.filter(pa.array(np.isin(hashes_of(table["document"].to_pylist()), ids)))
            counts.update(table["rule"].to_pylist())
    return counts
