"""Stages over a corpus: filter, map, sample. Each says why it kept a document or did not, in numbers."""

import fcntl
import hashlib
import importlib
import os
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from shards.batch.expression import Expression, parse
from shards.batch.job import VERDICTS, Lineage, Made, Parent, Work, committed
from shards.errors import ShardError
from shards.files import is_url
from shards.manifest import HeldOut, Manifest, ShardEntry
from shards.reader import read_documents, without_taken_down
from shards.schema import DOCUMENTS
from shards.text.signals import Signals
from tinylm.errors import ConfigError

ROW = "_row"
# Characters: the error of a user's function may say anything.
_LONGEST_RULE = 200
_JOURNAL = "at"
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "==": np.equal,
    "!=": np.not_equal,
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
}
_TURNED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}


class Judged(NamedTuple):
    """Of the rows of a table: which stay, and for each rule its values, thresholds and outcomes."""

    keep: NDArray[np.bool_]
    verdicts: list["Values"]


class Values(NamedTuple):
    """What a rule says of each row; arrays are (rows,), and `reason` is what a dropped one counts under."""

    rule: str | NDArray[np.object_]
    reason: str | NDArray[np.object_]
    value: NDArray[np.float64]
    threshold: float | NDArray[np.float64] | None
    keep: NDArray[np.bool_]
    kept_instead: NDArray[np.object_] | None = None
    """Ids."""


def located(corpus: Path | str) -> tuple[str, Manifest]:
    """Where a corpus is, whatever the working directory, and its snapshot. Raises ShardError."""
    location = str(corpus) if is_url(corpus) else str(Path(corpus).resolve())
    return location, Manifest.load(location)


class OverCorpus(Work):
    """A stage that looks at each shard of a corpus; what was taken down it does not see."""

    def __init__(self, corpus: Path | str) -> None:
        self.location, self.corpus = located(corpus)

    @property
    def parents(self) -> tuple[Parent, ...]:
        return (Parent(self.location, self.corpus.fingerprint),)

    @property
    def parts(self) -> int:
        return len(self.corpus.shards)

    def manifest(self, shards: tuple[ShardEntry, ...], out: Path) -> Manifest:  # noqa: ARG002 (as all have it)
        """What was held out and taken down stays so."""
        held_out = self.corpus.held_out
        if held_out and shards and self.corpus.held_out_is_current:
            held_out = HeldOut(hosts=held_out.hosts, excluded=held_out.excluded, through=shards[-1].name)
        return Manifest(shards=shards, held_out=held_out, tombstones=self.corpus.tombstones)

    def made(self, number: int, attempt: Path) -> Iterator[Made]:
        shard = self.corpus.shards[number]
        needed = list(dict.fromkeys([*self.columns, "id", "url", "host"]))
        table = read_documents(self.location, shard, needed)
        table = table.append_column(ROW, pa.array(np.arange(len(table))))
        table = without_taken_down(table, self.corpus)
        judged = self.judged(table, number, attempt)
        kept = table.filter(pa.array(judged.keep))
        others = [name for name in DOCUMENTS.names if name not in needed]
        if len(kept) and others:
            rest = read_documents(self.location, shard, others, kept[ROW].to_numpy())
            for name in others:
                kept = kept.append_column(name, rest[name])
        documents = self.changed(kept.select(DOCUMENTS.names)) if len(kept) else DOCUMENTS.empty_table()
        verdicts = _table_of(table["id"], self.stage, judged)
        yield Made(documents, verdicts, _reasons(judged), shard, self.location)

    @property
    @abstractmethod
    def columns(self) -> list[str]:
        """Those that `judged` looks at."""

    @abstractmethod
    def judged(self, table: pa.Table, number: int, attempt: Path) -> Judged:
        """Judge the documents of part `number`, of which `table` has the columns."""

    def changed(self, documents: pa.Table) -> pa.Table:
        """What becomes of the documents that stay, with all their columns."""
        return documents


class Rule(NamedTuple):
    """One of the conditions that a filter puts together."""

    name: str
    value: Expression
    operator: str = ""
    threshold: float | None = None
    """None: the value is a condition, 1 or 0."""

    @classmethod
    def of(cls, condition: Expression) -> "Rule":
        """A comparison with a number is a value and a threshold; all else is a yes or a no."""
        if condition.operator in _COMPARE:
            left, right = condition.arguments
            if (limit := _number(right)) is not None and _number(left) is None:
                return cls(str(left), left, condition.operator, limit)
            if (limit := _number(left)) is not None and _number(right) is None:
                return cls(str(right), right, _TURNED[condition.operator], limit)
        return cls(str(condition), condition)

    def keeps(self, value: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which of the values pass; NaN, for null, is only unequal."""
        kept: NDArray[np.bool_] = (
            value == 1 if self.threshold is None else _COMPARE[self.operator](value, self.threshold)
        )
        return kept

    def __str__(self) -> str:
        return self.name if self.threshold is None else f"{self.name} {self.operator} {self.threshold:g}"


class Filter(OverCorpus):
    """Keeps the documents for which a condition holds.

    With `values_of`, a corpus that a filter made of the same snapshot, each rule takes its values from there
    and no text is looked at: only thresholds may be others.
    """

    stage = "filter"
    _decides = True

    def __init__(self, corpus: Path | str, where: str, values_of: Path | None = None) -> None:
        super().__init__(corpus)
        self.where, self.values_of = where, values_of
        self.rules = [Rule.of(condition) for condition in parse(where).conditions()]
        if values_of:
            lineage = Lineage.load(values_of)
            if not lineage or lineage.parents != self.parents:
                raise ShardError(f"{values_of}: no filter made it of this snapshot of {corpus}")
        else:
            self._computed(DOCUMENTS.empty_table())  # what cannot be computed is said at once

    def settings(self) -> dict[str, Any]:
        return {"where": " and ".join(map(str, self.rules))}

    @property
    def columns(self) -> list[str]:
        return [] if self.values_of else [name for rule in self.rules for name in rule.value.columns()]

    def judged(self, table: pa.Table, number: int, attempt: Path) -> Judged:  # noqa: ARG002 (as all have it)
        values = self._earlier(table, number, of) if (of := self.values_of) else self._computed(table)
        verdicts = [
            Values(rule.name, str(rule), value, rule.threshold, rule.keeps(value))
            for rule, value in zip(self.rules, values, strict=True)
        ]
        return Judged(np.all([one.keep for one in verdicts], axis=0), verdicts)

    def _computed(self, table: pa.Table) -> list[NDArray[np.float64]]:
        conditions = [self._decides and rule.threshold is None for rule in self.rules]
        return computed([rule.value for rule in self.rules], conditions, table, self.where)

    def _earlier(self, table: pa.Table, number: int, values_of: Path) -> list[NDArray[np.float64]]:
        if not (part := committed(values_of, number)):
            raise ShardError(f"{values_of}: part {number} is not done")
        known: dict[str, dict[str, float]] = {rule.name: {} for rule in self.rules}
        for file in part.verdicts:
            rows = pq.read_table(values_of / file.name, columns=["document", "rule", "value"])
            for name, of_rule in known.items():
                mine = rows.filter(pc.equal(rows["rule"], name))
                of_rule.update(zip(mine["document"].to_pylist(), mine["value"].to_pylist(), strict=True))
        ids = table["id"].to_pylist()
        try:
            return [np.array([known[rule.name][name] for name in ids], np.float64) for rule in self.rules]
        except KeyError as error:
            raise ShardError(
                f"{values_of}: no value of a rule for document {error}; filter without its values"
            ) from error


def computed(
    expressions: Sequence[Expression], conditions: Sequence[bool], table: pa.Table, said: str
) -> list[NDArray[np.float64]]:
    """The value of each expression for each row, NaN for null; 1 or 0 of one that has to be a condition.

    Raises ConfigError, with what was `said`, for what cannot be computed of these columns.
    """
    from daft import Schema
    from daft.expressions import ExpressionsProjection
    from daft.recordbatch import MicroPartition

    from shards.batch.native import number_of

    schema = Schema.from_pyarrow_schema(table.schema)
    try:
        columns = [
            number_of(value, schema, condition=condition).alias(str(at))
            for at, (value, condition) in enumerate(zip(expressions, conditions, strict=True))
        ]
        found = MicroPartition.from_arrow(table).eval_expression_list(ExpressionsProjection(columns))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{said!r}: {error}") from error
    arrays = found.to_arrow()
    return [arrays[str(at)].fill_null(np.nan).to_numpy() for at in range(len(columns))]


@dataclass(frozen=True)
class _Random:
    """A number from 0 up to 1 for each id, the same whenever it is asked."""

    seed: int

    def __call__(self, ids: list[str]) -> NDArray[np.float64]:
        digests = (hashlib.blake2b(f"{self.seed} {name}".encode(), digest_size=8).digest() for name in ids)
        numbers = np.frombuffer(b"".join(digests), np.uint64)
        return numbers / 2.0**64


class Sample(Filter):
    """Keeps each document with a probability: `share`, or `share` times what an expression is for it.

    Which they are is decided by a hash of the id and `seed`: a larger share has all that a smaller one had.
    """

    stage, _decides = "sample", False

    def __init__(self, corpus: Path | str, share: float, by: str = "1", seed: int = 0) -> None:
        self.share, self.seed = share, seed
        OverCorpus.__init__(self, corpus)
        self.where, self.values_of, self.rules = by, None, [Rule(by, parse(by))]
        self._computed(DOCUMENTS.empty_table())

    def settings(self) -> dict[str, Any]:
        return {"share": self.share, "by": self.where, "seed": self.seed}

    def judged(self, table: pa.Table, number: int, attempt: Path) -> Judged:  # noqa: ARG002 (as all have it)
        probability = np.nan_to_num(self.share * self._computed(table)[0])
        drawn = _Random(self.seed)(table["id"].to_pylist())
        keep = drawn < probability
        return Judged(keep, [Values("drawn", "not drawn", drawn, probability, keep)])


class Map(OverCorpus):
    """Hands each document to a function, `module:name`, as a dictionary of its columns.

    It returns what changes of them, as a dictionary; True if nothing does; or False or None to drop the
    document. One for which it raises an error is dropped, with the error as the rule, and so is one
    at which its process died twice.
    """

    stage, in_python = "map", True

    def __init__(self, corpus: Path | str, function: str) -> None:
        super().__init__(corpus)
        self.function = function
        self._changes: dict[str, dict[str, Any]] = {}
        _ = self._call  # one that is not there is said at once

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_call"}

    def settings(self) -> dict[str, Any]:
        code = Path(str(importlib.import_module(self.function.partition(":")[0]).__file__)).read_bytes()
        return {"function": self.function, "code": hashlib.sha256(code).hexdigest()}

    @property
    def columns(self) -> list[str]:
        return [*DOCUMENTS.names]

    @cached_property
    def _call(self) -> Callable[[dict[str, Any]], Any]:
        module, _, name = self.function.partition(":")
        try:
            found = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise ConfigError(f"{self.function!r}: {error}; a function is named as module:name") from error
        if not callable(found):
            raise ConfigError(f"{self.function!r} is no function")
        call: Callable[[dict[str, Any]], Any] = found
        return call

    def judged(self, table: pa.Table, number: int, attempt: Path) -> Judged:  # noqa: ARG002 (as all have it)
        keep = np.zeros(len(table), np.bool_)
        rules, reasons = (np.full(len(table), self.function, object) for _ in range(2))
        self._changes = {}
        killers, journal = _killers(attempt), (attempt / _JOURNAL).open("wb")
        fcntl.flock(journal, fcntl.LOCK_EX)
        for at, row in enumerate(table.drop_columns([ROW]).to_pylist()):
            os.pwrite(journal.fileno(), f"{row['id']:40}".encode(), 0)
            try:
                if row["id"] in killers:
                    raise RuntimeError("its process died, twice")
                found = self._call(row)
                if isinstance(found, dict):
                    self._changes[row["id"]] = _fitting(found, row["language"])
                keep[at] = found is True or isinstance(found, dict)
            except Exception as error:  # of the user's code, whatever it is
                reasons[at] = f"error: {type(error).__name__}"
                rules[at] = f"{reasons[at]}: {error}"[:_LONGEST_RULE]
        journal.close()
        return Judged(keep, [Values(rules, reasons, keep.astype(np.float64), None, keep)])

    def changed(self, documents: pa.Table) -> pa.Table:
        rows = documents.to_pylist()
        for row in rows:
            row |= self._changes.get(row["id"], {})
        return pa.Table.from_pylist(rows, schema=DOCUMENTS)


def _killers(attempt: Path) -> set[str]:
    """Documents at which two attempts at this part died; those whose journal is locked are alive."""
    died = Counter[str]()
    for path in attempt.parent.glob(f"{attempt.name.partition('-')[0]}-*/{_JOURNAL}"):
        with suppress(OSError), path.open("rb") as journal:
            fcntl.flock(journal, fcntl.LOCK_SH | fcntl.LOCK_NB)
            died[journal.read().decode().strip()] += 1
    return {name for name, times in died.items() if times > 1}


def _fitting(changes: dict[str, Any], language: str) -> dict[str, Any]:
    """`changes` with what follows from another text; raises ValueError for what no column takes."""
    if bad := [name for name in changes if name not in DOCUMENTS.names or name in ("id", "url", "host")]:
        raise ValueError(f"column {bad[0]!r} is not one that changes")
    pa.Table.from_pylist([changes], schema=pa.schema([DOCUMENTS.field(name) for name in changes]))
    if "text" in changes:
        language = changes.get("language", language)
        changes = Signals(changes["text"], language).columns | changes
        changes.setdefault("content_sha256", hashlib.sha256(changes["text"].encode()).hexdigest())
    return changes


def _number(expression: Expression) -> float | None:
    """The number that it is, if it is one."""
    if expression.operator == "-" and len(expression.arguments) == 1:
        inner = _number(expression.arguments[0])
        return None if inner is None else -inner
    [*_, value] = expression.arguments
    is_number = (
        expression.operator == "value" and isinstance(value, int | float) and not isinstance(value, bool)
    )
    return float(value) if is_number else None


def _reasons(judged: Judged) -> Mapping[str, int]:
    """How many documents were dropped for each reason: the first rule that they broke."""
    counts, left = Counter[str](), ~judged.keep
    for one in judged.verdicts:
        broken = left & ~one.keep
        if isinstance(one.reason, str):
            counts[one.reason] += int(broken.sum())
        else:
            counts.update(one.reason[broken].tolist())
        left &= ~broken
    return +counts


def _table_of(ids: pa.ChunkedArray, stage: str, judged: Judged) -> pa.Table:
    """The verdicts as rows, those of a document together."""
    rows, rules = len(ids), len(judged.verdicts)
    if not rows or not rules:
        return VERDICTS.empty_table()
    order = np.argsort(np.tile(np.arange(rows), rules), kind="stable")

    def column(part: Callable[[Values], Any]) -> NDArray[Any]:
        return np.concatenate([np.broadcast_to(part(one), rows) for one in judged.verdicts])[order]

    value = column(lambda one: one.value)
    threshold = column(lambda one: np.nan if one.threshold is None else one.threshold)
    table = pa.table(
        {
            "document": ids.take(pa.array(np.repeat(np.arange(rows), rules))),
            "stage": pa.array([stage] * len(value)),
            "rule": pa.array(column(lambda one: np.asarray(one.rule, object))),
            "value": pa.array(value, mask=np.isnan(value)),
            "threshold": pa.array(threshold, mask=np.isnan(threshold)),
            "keep": pa.array(column(lambda one: one.keep)),
            "kept_instead": pa.array(column(lambda one: one.kept_instead), pa.string()),
        }
    )
    return table.cast(VERDICTS)
