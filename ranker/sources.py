"""Which source pays: what fetches brought, by the seed that led to them, with intervals.

Pages of one host are alike, so hosts are what is drawn: the standard error of tokens per fetch is that of a
ratio over clusters (Cochran 1977, section 6; Lohr's *Sampling*), linearised, one cluster a host.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from shards.manifest import Manifest, is_corpus
from shards.reader import ShardReader, read_fetches

# Of English text: 3 words are 4 tokens of a large vocabulary.
_TOKENS_A_WORD = 4 / 3
_CONFIDENCE = 1.96
# Of a corpus, or a part of it, that a version wrote which knew none.
UNKNOWN = "(not recorded)"
# Kinds of what is brought without a request: its pages cost no fetch.
_BROUGHT = ("warc", "wet", "wat", "zim", "dump")

Host = list[float]
"""Fetches, and good tokens."""


@dataclass(frozen=True, slots=True)
class Yield:
    """What fetches brought in good tokens: tokens of what was kept, by their quality and their novelty."""

    fetches: int
    tokens: float
    hosts: int
    error: float
    """Standard error of tokens per fetch; NaN with fewer than two hosts."""

    @classmethod
    def of(cls, hosts: Iterable[Host]) -> "Yield":
        """Of fetches and tokens by host."""
        numbers = np.array(list(hosts), float).reshape(-1, 2)
        fetches, tokens = numbers.sum(0) if len(numbers) else (0.0, 0.0)
        error = math.nan
        if len(numbers) > 1 and fetches:
            off = numbers[:, 1] - tokens / fetches * numbers[:, 0]
            error = math.sqrt(len(off) / (len(off) - 1) * float(off @ off)) / fetches
        return cls(int(fetches), float(tokens), len(numbers), error)

    @property
    def per_fetch(self) -> float:
        """Good tokens per fetch; NaN without one."""
        return self.tokens / self.fetches if self.fetches else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Of `per_fetch`, 95 %; NaN where there is no error."""
        off = _CONFIDENCE * self.error
        return float(np.maximum(0.0, self.per_fetch - off)), self.per_fetch + off


@dataclass(slots=True)
class Source:
    """What one source brought: by its seeds alone, and with all that they led to."""

    name: str
    seeds: Yield
    all: Yield
    spent: Mapping[str, float] = field(default_factory=dict)
    """What else it cost, by unit: queries, billed, probes, requests."""


class Sources:
    """The sums of a corpus, by source and host; a shard is read once.

    Memory: a hundred bytes for each pair of a source and a host.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._read: set[str] = set()
        # By source and whether it is of the seeds themselves: each host's.
        self._sums: dict[tuple[str, bool], dict[str, Host]] = defaultdict(
            lambda: defaultdict(lambda: [0.0, 0.0])
        )

    def update(self) -> None:
        """Read the shards that came since. Raises ShardError, ShardCorrupt."""
        if not is_corpus(self._directory):
            return
        manifest = Manifest.load(self._directory)
        fresh = tuple(shard for shard in manifest.shards if shard.name not in self._read)
        part = ShardReader(self._directory, replace(manifest, shards=fresh), split="all")
        for _, table in read_fetches(self._directory, part.manifest, ["source", "source_hops", "host"]):
            self._add(table.append_column("amount", pa.array(np.ones(len(table)))), 0)
        columns = ("source", "source_hops", "host", "quality", "novelty", "rps_doc_word_count")
        for group in part.row_groups:
            table = pa.Table.from_pylist(part.documents(group, columns), _DOCUMENTS)
            worth = pc.multiply(table["quality"], pc.multiply(table["novelty"], table["rps_doc_word_count"]))
            self._add(table.append_column("amount", pc.fill_null(pc.multiply(worth, _TOKENS_A_WORD), 0.0)), 1)
        self._read.update(shard.name for shard in fresh)

    def _add(self, table: pa.Table, what: int) -> None:
        seed = pc.equal(pc.fill_null(table["source_hops"], 1), 0)
        grouped = (
            table.append_column("seed", seed)
            .group_by(["source", "seed", "host"])
            .aggregate([("amount", "sum")])
        )
        names = ("source", "seed", "host", "amount_sum")
        for source, is_seed, host, amount in zip(*(grouped[name].to_pylist() for name in names), strict=True):
            self._sums[source or UNKNOWN, is_seed][host][what] += amount

    def by(
        self, name: Callable[[str], str], spent: Mapping[str, Mapping[str, float]] | None = None
    ) -> list[Source]:
        """What each source brought, those that `name` calls the same together; what pays most comes first."""
        sums: dict[str, tuple[dict[str, Host], dict[str, Host]]] = defaultdict(lambda: ({}, {}))
        for (source, is_seed), hosts in self._sums.items():
            for into in sums[name(source)][: 2 if is_seed else 1]:
                for host, (fetches, tokens) in hosts.items():
                    held = into.setdefault(host, [0.0, 0.0])
                    held[0] += 0.0 if source.partition(":")[0] in _BROUGHT else fetches
                    held[1] += tokens
        costs: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
        for source, units in (spent or {}).items():
            for unit, amount in units.items():
                costs[name(source)][unit] += amount
        found = [
            Source(key, Yield.of(sums[key][1].values()), Yield.of(sums[key][0].values()), dict(costs[key]))
            for key in {**sums, **costs}
        ]
        return sorted(
            found, key=lambda source: (-np.nan_to_num(source.all.per_fetch), -source.all.tokens, source.name)
        )


def kind(source: str) -> str:
    """What stands before the name: `search`, `reddit`; `list` of the name of a list."""
    before, colon, _ = source.partition(":")
    return before if colon or source in (UNKNOWN, "chosen") else "list"


_DOCUMENTS = pa.schema(
    [("source", pa.string()), ("source_hops", pa.int32()), ("host", pa.string())]
    + [(name, pa.float64()) for name in ("quality", "novelty", "rps_doc_word_count")]
)
