"""Deduplication of a corpus: of what is the same, or nearly, the best stays; and the result is audited.

Three steps, each of which a killed job finds done: a signature of every document, a part at a time; clusters,
of all signatures; then the corpus, a part at a time, by what was decided. Signatures stay beside it
(`signatures/`), so that another threshold, or the next crawl, needs no text of this one.
"""

import math
import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from shards.batch.expression import parse
from shards.batch.job import PARTS, Lineage, Parent, committed, each
from shards.batch.stages import ROW, Judged, OverCorpus, Values, computed, located
from shards.errors import ShardError
from shards.manifest import Manifest, ShardEntry
from shards.reader import read_documents, without_taken_down
from shards.schema import DOCUMENTS
from shards.text.dedup import PERMUTATIONS, SEEN, SHINGLE, bands, shingles
from shards.text.languages import words_of
from shards.text.signals import Signals
from tinylm.files import TEMPORARY_SUFFIX, sync_directory, sync_file

if TYPE_CHECKING:
    from daft import DataFrame

SIGNATURES, _DECISIONS = "signatures", "decisions"
# What is dropped has an estimated overlap of so much; what the audit calls near, a true one that may be less
# by twice the error of an estimate.
NEAR, _ERROR = 0.78, 0.08
# The values of a signature that no band of SEEN has, as bands that find what those missed.
_OTHER_BANDS = 4, 4
_AUDITED_PAIRS = 1000
# Less, with 95 % certainty, no threshold explains: documents were exchanged.
_LEAST_PRECISION = 0.9
# Bytes a character, from which on a text may be in a script without spaces.
_MANY_BYTES = 1.5
# Texts: what they are normalized to stays in the processor's caches; with 20,000 it takes 1.4 times as long.
_SIGNED_AT_ONCE = 500
_SEED = 1  # signatures are compared with those of other corpora
_SIGNED = pa.schema([
    ("node", pa.int64()),
    ("id", pa.string()),
    ("best", pa.float64()),
    ("digest", pa.int64()),
    ("keys", pa.list_(pa.uint64())),
    ("other_keys", pa.list_(pa.uint64())),
    ("minhash", pa.list_(pa.uint32(), PERMUTATIONS)),
])  # fmt: skip
"""`node`: part and row; `keys`: bands, and the digest as one more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What the true overlaps of sampled pairs say of a deduplication; bounds of 95 % (Wilson 1927)."""

    dropped_pairs: int
    """Sampled of dropped documents, each with what was kept instead."""
    kept_pairs: int
    """Sampled of documents that were kept and share another band."""
    precision: float
    """Share of the dropped that are near what was kept instead."""
    precision_low: float
    precision_high: float
    recall: float
    """Share of those near another one that were dropped."""
    recall_low: float
    recall_high: float


class Dedup(OverCorpus):
    """Drops all but the best of each cluster of documents that are near each other.

    Near are documents of the same text, and those whose signatures say that their word 5-grams overlap by
    `overlap` at least; pairs are looked for by the bands that a crawl's walker uses. `keep` is an expression
    that says which is best. With `against`, what is near a document of that corpus is dropped too.
    `values_of` is what a deduplication of the same snapshots made: its signatures are used.
    """

    stage = "dedup"

    def __init__(
        self,
        corpus: Path | str,
        keep: str = "quality",
        overlap: float = NEAR,
        against: Path | str | None = None,
        values_of: Path | None = None,
    ) -> None:
        super().__init__(corpus)
        self.keep, self.overlap, self.values_of = keep, overlap, values_of
        self.against = located(against) if against else None
        self._ranked(DOCUMENTS.empty_table())  # what cannot be computed is said at once
        self._out = Path()
        if values_of:
            lineage = Lineage.load(values_of)
            if not lineage or lineage.stage != self.stage or lineage.parents != self.parents:
                raise ShardError(f"{values_of}: no dedup made it of these snapshots")
            if lineage.settings["keep"] != keep:
                raise ShardError(f"{values_of}: was made by --keep {lineage.settings['keep']!r}")

    @property
    def parents(self) -> tuple[Parent, ...]:
        others = [Parent(self.against[0], self.against[1].fingerprint)] if self.against else []
        return (*super().parents, *others)

    def settings(self) -> dict[str, Any]:
        return {"keep": self.keep, "overlap": self.overlap}

    # Before the first part

    def prepare(self, out: Path, ray: str, note: Callable[[str], None]) -> None:
        """Signatures, then clusters, unless they are there."""
        self._out = out
        (out / SIGNATURES).mkdir(exist_ok=True)
        others = len(self.against[1].shards) if self.against else 0
        of = self.parts + others
        left = [number for number in range(of) if not _signatures(out, number).exists()]
        for at, _ in enumerate(each(self._sign, left, ray), of - len(left) + 1):
            note(f"signatures {at}/{of}")
        if not (out / _DECISIONS).is_dir():
            note("clusters")
            self._decide(out)

    def _sign(self, number: int) -> str:
        """Write the signatures of a part; those above our own are of the other corpus."""
        path = _signatures(self._out, number)
        if self.values_of:
            table = pq.read_table(_signatures(self.values_of, number))
        elif number < self.parts:
            table = self._signed(self.location, self.corpus, number, number)
        else:
            table = self._signed_before(number - self.parts, number)
        temporary = self._out / PARTS / f"{uuid.uuid4().hex}{TEMPORARY_SUFFIX}"
        pq.write_table(table, temporary, compression="zstd")
        sync_file(temporary)
        temporary.replace(path)
        return ""

    def _signed(self, location: str, manifest: Manifest, at: int, number: int) -> pa.Table:
        needed = ["id", "url", "host", "text", "content_sha256", *parse(self.keep).columns()]
        table = read_documents(location, manifest.shards[at], list(dict.fromkeys(needed)))
        table = table.append_column(ROW, pa.array(np.arange(len(table)) + (number << 32)))
        table = without_taken_down(table, manifest)
        minhash = signatures(table["text"])
        digests = [int(digest[:16], 16) for digest in table["content_sha256"].to_pylist()]
        keys = np.column_stack([bands(minhash, *SEEN), np.array(digests, np.uint64)])
        best = np.full(len(table), np.inf) if number >= self.parts else self._ranked(table)
        columns = {
            "node": table[ROW],
            "id": table["id"],
            "best": pa.array(np.nan_to_num(best, nan=-np.inf, posinf=np.inf, neginf=-np.inf)),
            "digest": pa.array(np.array(digests, np.uint64).astype(np.int64)),
            "keys": _lists(keys),
            "other_keys": _lists(bands(minhash[:, math.prod(SEEN) :], *_OTHER_BANDS)),
            "minhash": pa.FixedSizeListArray.from_arrays(pa.array(minhash.ravel()), PERMUTATIONS),
        }
        return pa.table(columns).cast(_SIGNED)

    def _signed_before(self, at: int, number: int) -> pa.Table:
        """As `_signed`, of the other corpus: it may have them, shard for shard, of what it dropped too."""
        location, manifest = self.against or (self.location, self.corpus)
        path = _signatures(Path(location), at)
        if Lineage.load(location) is None or not path.exists():
            return self._signed(location, manifest, at, number)
        kept = without_taken_down(
            read_documents(location, manifest.shards[at], ["id", "url", "host"]), manifest
        )
        table = pq.read_table(path)
        table = table.filter(pc.is_in(table["id"], kept["id"].combine_chunks()))
        nodes = np.arange(len(table)) + (number << 32)
        table = table.set_column(0, "node", pa.array(nodes))
        return table.set_column(2, "best", pa.array(np.full(len(table), np.inf))).cast(_SIGNED)

    def _ranked(self, table: pa.Table) -> NDArray[np.float64]:
        return computed([parse(self.keep)], [False], table, self.keep)[0]

    def _decide(self, out: Path) -> None:
        """Write `decisions/part=N/`: of each row of that part that goes, for what; of leaders, how many."""
        import daft
        from daft import col

        from shards.batch.clusters import components, leaders, pairs

        signed = daft.read_parquet(str(out / SIGNATURES / "*.parquet"))
        members = components(
            pairs(signed.select("node", "keys").explode("keys").with_column_renamed("keys", "key"))
        )
        dropped = leaders(members, signed, self.overlap).collect()
        sizes = dropped.groupby("leader").agg((col("node").count() + 1).alias("size"))
        of_dropped = dropped.join(sizes, on="leader").select("node", "id", "overlap", "same", "size")
        of_leaders = sizes.select(
            col("leader").alias("node"),
            daft.lit(None).cast(daft.DataType.string()).alias("id"),
            daft.lit(0.0).alias("overlap"),
            daft.lit(False).alias("same"),
            "size",
        )
        temporary = out / PARTS / f"{_DECISIONS}-{uuid.uuid4().hex[:8]}"
        rows = of_dropped.union_all(of_leaders).with_column(
            "part", (col("node") / (1 << 32)).floor().cast(daft.DataType.int64())
        )
        rows.write_parquet(str(temporary), partition_cols=[col("part")])
        temporary.mkdir(exist_ok=True)
        sync_directory(temporary)
        try:
            temporary.rename(out / _DECISIONS)
        except OSError:  # another process was first, with the same
            shutil.rmtree(temporary, ignore_errors=True)

    # A part

    @property
    def columns(self) -> list[str]:
        return ["id"]

    def judged(self, table: pa.Table, number: int, attempt: Path) -> Judged:
        decisions = self._decisions(attempt.parents[1], number)
        rows = len(table)
        keep, overlap = np.ones(rows, np.bool_), np.zeros(rows)
        instead, reason = np.full(rows, None, object), np.full(rows, "near_duplicate", object)
        size, always = np.ones(rows), np.ones(rows, np.bool_)
        for at, row in enumerate(table[ROW].to_pylist()):
            instead[at], overlap[at], same, size[at] = decisions.get(row, (None, 0.0, False, 1))
            keep[at] = instead[at] is None
            if same:
                reason[at], overlap[at] = "duplicate", 1.0
        near = Values("overlap", reason, overlap, self.overlap, keep, instead)
        return Judged(keep, [near, Values("cluster_size", "", size, None, always, instead)])

    def _decisions(self, out: Path, number: int) -> dict[int, tuple[str | None, float, bool, int]]:
        folder = out / _DECISIONS / f"part={number}"
        if not folder.is_dir():
            return {}
        table = pa.concat_tables(pq.ParquetFile(path).read() for path in sorted(folder.glob("*.parquet")))
        rows = (np.asarray(table["node"]) & 0xFFFFFFFF).tolist()
        values = (table[name].to_pylist() for name in ("id", "overlap", "same", "size"))
        return dict(zip(rows, zip(*values, strict=True), strict=True))

    # Afterwards

    def manifest(self, shards: tuple[ShardEntry, ...], out: Path) -> Manifest:
        """With the audit. Raises ShardError if documents were dropped for others than they are near."""
        manifest = super().manifest(shards, out)
        if not shards:
            return manifest
        audit = self._audited(out, manifest)
        if audit.dropped_pairs and audit.precision_high < _LEAST_PRECISION:
            raise ShardError(
                f"{out}: of {audit.dropped_pairs} dropped documents {audit.precision:.0%} are near what was "
                "kept instead: no corpus was made of it. Something else was written there, or this is a "
                "fault of tinylm: remove it and begin anew"
            )
        return Manifest(**{**vars(manifest), "audit": asdict(audit)})

    def _audited(self, out: Path, made: Manifest) -> Audit:
        import daft
        from daft import col

        from shards.batch.clusters import pairs

        parts = [part for number in range(self.parts) if (part := committed(out, number))]
        verdicts = daft.read_parquet([str(out / file.name) for part in parts for file in part.verdicts])
        gone = verdicts.where(~col("keep")).select(col("document").alias("id"), "kept_instead").collect()
        kept = daft.read_parquet(str(out / SIGNATURES / "*.parquet")).join(gone, on="id", how="anti")
        close = pairs(kept.select(col("node"), col("other_keys").alias("key")).explode("key"))
        # Of each document one pair: what counts is whether it should have gone.
        close = close.groupby("u").agg(col("v").min().alias("v"))
        one, other = (kept.select(col("node").alias(end), col("id").alias(f"{end}_id")) for end in "uv")
        stayed = close.join(one, on="u").join(other, on="v").select("u_id", "v_id").collect()
        of_dropped, of_stayed = _sampled(gone), _sampled(stayed)
        texts = self._texts(out, made, {name for pair in (*of_dropped, *of_stayed) for name in pair})
        near = self.overlap - _ERROR
        overlaps = [_jaccard(texts[one], texts[other]) for one, other in of_stayed]
        count, rows = _OTHER_BANDS
        # Each stands for those that have its overlap and share no band.
        missed = sum(1 / (1 - (1 - overlap**rows) ** count) for overlap in overlaps if overlap >= near)
        true = sum(_jaccard(texts[one], texts[other]) >= near for one, other in of_dropped)
        precision, precision_low, precision_high = _share(true, len(of_dropped))
        share, least, most = _share(min(missed, len(of_stayed)), len(of_stayed)) if of_stayed else (0, 0, 0)
        found, may_be = precision * gone.count_rows(), stayed.count_rows()
        recall, recall_low, recall_high = (
            found / (found + of * may_be) if found else 1.0 - (of > 0) for of in (share, most, least)
        )
        return Audit(
            dropped_pairs=len(of_dropped),
            kept_pairs=len(of_stayed),
            precision=precision,
            precision_low=precision_low,
            precision_high=precision_high,
            recall=recall,
            recall_low=recall_low,
            recall_high=recall_high,
        )

    def _texts(self, out: Path, made: Manifest, names: set[str]) -> Mapping[str, tuple[str, str]]:
        """Text and language of documents by id; what was kept is read of what was made."""
        wanted, found = pa.array(sorted(names), pa.string()), dict[str, tuple[str, str]]()
        for location, manifest in [
            *([self.against] if self.against else []),
            (self.location, self.corpus),
            (str(out), made),
        ]:
            for shard in manifest.shards:
                ids = read_documents(location, shard, ["id"])["id"]
                rows = np.flatnonzero(np.asarray(pc.is_in(ids, wanted)))
                if len(rows):
                    for row in read_documents(location, shard, ["id", "text", "language"], rows).to_pylist():
                        found[row["id"]] = row["text"], row["language"]
        return found


def signatures(texts: pa.ChunkedArray) -> NDArray[np.uint32]:
    """MinHash of the word 5-grams of each text, in small letters and without punctuation: (texts, 128).

    Daft's, which parts words at spaces: scripts without them are parted before (shards/text/languages.py).
    """
    from daft import col
    from daft.expressions import ExpressionsProjection
    from daft.functions import minhash, normalize
    from daft.recordbatch import MicroPartition

    if not len(texts):
        return np.zeros((0, PERMUTATIONS), np.uint32)
    many = np.asarray(pc.binary_length(texts)) > _MANY_BYTES * np.asarray(pc.utf8_length(texts))
    if many.any():
        parted = [" ".join(words_of(text)) for text in texts.filter(pa.array(many)).to_pylist()]
        texts = pc.replace_with_mask(texts.combine_chunks(), pa.array(many), pa.array(parted, texts.type))
    plain = normalize(col("text"), remove_punct=True, lowercase=True, white_space=True)
    signed = minhash(
        plain, num_hashes=PERMUTATIONS, ngram_size=SHINGLE, seed=_SEED, hash_function="xxhash3_64"
    )
    found = []
    for start in range(0, len(texts), _SIGNED_AT_ONCE):
        frame = MicroPartition.from_arrow(pa.table({"text": texts.slice(start, _SIGNED_AT_ONCE)}))
        signatures = frame.eval_expression_list(ExpressionsProjection([signed.alias("minhash")])).to_arrow()
        found.append(np.asarray(signatures["minhash"].combine_chunks().flatten()).reshape(-1, PERMUTATIONS))
    return np.concatenate(found)


def _signatures(out: Path, number: int) -> Path:
    return out / SIGNATURES / f"{number:06d}.parquet"


def _lists(keys: NDArray[np.uint64]) -> pa.ListArray:
    offsets = np.arange(len(keys) + 1, dtype=np.int32) * keys.shape[1]
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(keys.ravel()))


def _sampled(pairs: "DataFrame") -> list[tuple[str, str]]:
    """The pairs with the least hashes: the same whenever they are drawn."""
    from daft.functions import hash as hashed

    first, second = pairs.column_names
    few = pairs.sort(hashed(pairs[first])).limit(_AUDITED_PAIRS).to_pydict()
    return [*zip(few[first], few[second], strict=True)]


def _jaccard(one: tuple[str, str], other: tuple[str, str]) -> float:
    """Of the sets of word 5-grams, as the walker has them."""
    sets = [{*shingles(Signals(*text).hashes).tolist()} for text in (one, other)]
    return len(sets[0] & sets[1]) / max(1, len(sets[0] | sets[1]))


def _share(found: float, of: int) -> tuple[float, float, float]:
    """A share, and Wilson's bounds of it; 1 of nothing."""
    if not of:
        return 1.0, 0.0, 1.0
    z, share = 1.96, found / of
    middle, width = share + z * z / (2 * of), z * math.sqrt(share * (1 - share) / of + (z / (2 * of)) ** 2)
    return share, (middle - width) / (1 + z * z / of), (middle + width) / (1 + z * z / of)
