"""The order in which text becomes micro-batches: the same for any number of ranks, and after any restart.

The row groups of a corpus are cut into slices of documents, the slices of an epoch are shuffled and dealt to
a fixed number of lanes, and micro-batch j holds the next rows of lane j mod L. Rank r owns the lanes that are
r mod the number of ranks. All of it follows from (manifest snapshot, seed, j); nothing from who computes it.

A slice is packed by itself: its documents, shuffled, with `<|endoftext|>` before, between and after them, cut
every `sequence_len` tokens into rows, which are shuffled too. No token is lost; what this costs is that a row
may begin within a document, and that the last row of a slice is part padding. A reading position is three
numbers a lane, and restoring one tokenises one slice again: a few hundred documents at most. With `sample_by`
a slice holds each document as often as `trainer.sampling` says for the epoch.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from random import Random
from typing import Any, NamedTuple

import torch
from torch import Tensor

from shards.reader import RowGroup, ShardReader
from tinylm.errors import TinylmError
from trainer.config import PretrainConfig
from trainer.distributed import World
from trainer.loop import Batch
from trainer.model import IGNORE
from trainer.sampling import Sampling
from trainer.tokenizer import Tokenizer

_DOCUMENTS_PER_SLICE = 256


class DataError(TinylmError):
    """Text that cannot be trained on, or not the text a run was started on."""


class Slice(NamedTuple):
    """The documents of a row group whose row is `number` modulo `of`."""

    group: RowGroup
    number: int
    of: int


class Position(NamedTuple):
    """How far a lane is: its epoch, the slice in its share of that epoch, the row in that slice."""

    epoch: int = 0
    slice: int = 0
    row: int = 0


class Loader:
    """Gives a rank its micro-batches, one step after the other, without end.

    The next step is read and tokenised in a thread while this one is trained on. `lanes` is lowered to the
    number of slices, so a corpus of one row group still feeds several ranks.
    """

    def __init__(
        self, reader: ShardReader, tokenizer: Tokenizer, config: PretrainConfig, world: World | None = None
    ) -> None:
        self._reader = reader
        self._tokenizer = tokenizer
        self._world = world or World()
        self._rows_per_batch = config.device_batch_size
        self._per_step = config.micro_batches_per_step(config.sequence_len)
        slices = cut(reader.row_groups, config.lanes)
        if not any(reader.texts(group) for group in reader.row_groups):
            raise DataError(f"{reader.directory}: no text to train on; crawl more, or hold less out")
        self.sampling = (
            Sampling(reader, config.sample_by, config.sample_power, config.seed) if config.sample_by else None
        )
        self._lane_count = min(config.lanes, len(slices))
        deal = _Deal(slices, config.seed, self._lane_count)
        self._lanes = {
            lane: Lane(lane, deal, reader, tokenizer, config.sequence_len, self.sampling)
            for lane in range(self._world.rank, self._lane_count, self._world.size)
        }
        self._micro_batch = 0
        self._positions: dict[int, Position] = {lane: Position() for lane in self._lanes}
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="loader")
        self._ahead: Future[_Step] | None = None

    def next_step(self) -> list[Batch]:
        """This rank's micro-batches of the next step, on its device; none if it has none in this step."""
        step = (self._ahead or self._thread.submit(self._read)).result()
        self._micro_batch, self._positions = step.micro_batch, step.positions
        self._ahead = self._thread.submit(self._read)
        device = self._world.device
        return [{name: part.to(device) for name, part in batch.items()} for batch in step.batches]

    def state(self) -> dict[str, Any]:
        """Where all ranks stand, as JSON values; a collective, to be called by all of them."""
        positions: dict[int, Position] = {}
        for part in self._world.gather(self._positions):
            positions |= part
        return {
            "manifest": self._reader.manifest.fingerprint,
            "tokenizer": self._tokenizer.fingerprint,
            "sample_by": self._sampled_by,
            "micro_batch": self._micro_batch,
            "epoch": min(position.epoch for position in positions.values()),
            "lanes": [list(positions[lane]) for lane in range(self._lane_count)],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`, whatever the number of ranks; raises `DataError` for other text or tokens."""
        here = {
            "manifest": self._reader.manifest.fingerprint,
            "tokenizer": self._tokenizer.fingerprint,
            "sample_by": self._sampled_by,
            "lanes": self._lane_count,
        }
        for field, value in here.items():
            saved = len(state["lanes"]) if field == "lanes" else state[field]
            if saved != value:
                raise DataError(
                    f"the run was started on {field} = {saved}, here it is {value}: "
                    "give back what it was started on, or start anew with another --out"
                )
        self._ahead = None
        self._micro_batch = state["micro_batch"]
        self._positions = {lane: Position(*state["lanes"][lane]) for lane in self._lanes}
        for lane, position in self._positions.items():
            self._lanes[lane].position = position

    @property
    def _sampled_by(self) -> str | None:
        """Fingerprint of the numbers documents are sampled by, on which the order depends."""
        return self.sampling.fingerprint if self.sampling else None

    def close(self) -> None:
        """Stop reading ahead."""
        self._thread.shutdown(cancel_futures=True)

    def _read(self) -> "_Step":
        numbers = range(self._micro_batch, self._micro_batch + self._per_step)
        mine = [lane for number in numbers if (lane := number % self._lane_count) in self._lanes]
        batches = [self._lanes[lane].batch(self._rows_per_batch) for lane in mine]
        positions = {lane: self._lanes[lane].position for lane in self._lanes}
        return _Step(batches, numbers.stop, positions)


class _Step(NamedTuple):
    """A step's micro-batches, and the numbers to go on from after it."""

    batches: list[Batch]
    micro_batch: int
    positions: dict[int, Position]


def cut(row_groups: Sequence[RowGroup], lanes: int) -> list[Slice]:
    """Slices of even size, at most 256 documents each, and enough for every lane if there is one for each."""
    documents = sum(group.rows for group in row_groups)
    size = max(1, min(_DOCUMENTS_PER_SLICE, documents // lanes))
    parts = [(group, -(-group.rows // size)) for group in row_groups]
    return [Slice(group, number, of) for group, of in parts for number in range(of)]


class _Deal:
    """Which slices each lane reads in each epoch."""

    def __init__(self, slices: Sequence[Slice], seed: int, lanes: int) -> None:
        self.seed = seed
        self._slices = slices
        self._lanes = lanes
        self._order = lru_cache(maxsize=4)(self._shuffled)

    def share(self, lane: int, epoch: int) -> list[Slice]:
        return self._order(epoch)[lane :: self._lanes]

    def _shuffled(self, epoch: int) -> list[Slice]:
        order = list(self._slices)
        Random(f"{self.seed}/{epoch}").shuffle(order)
        return order


class Lane:
    """One endless stream of packed rows; `position` is where its next row is, and may be set."""

    def __init__(
        self,
        number: int,
        deal: _Deal,
        reader: ShardReader,
        tokenizer: Tokenizer,
        sequence_len: int,
        sampling: Sampling | None,
    ) -> None:
        self.position = Position()
        self._number = number
        self._deal = deal
        self._reader = reader
        self._tokenizer = tokenizer
        self._sequence_len = sequence_len
        self._sampling = sampling
        self._packed: tuple[Position, Tensor] | None = None

    def batch(self, rows: int) -> Batch:
        """The next `rows` rows: ids and targets (rows, sequence_len)."""
        taken = torch.stack([next(self) for _ in range(rows)]).long()  # (B, T + 1), -1 is padding
        ids, targets = taken[:, :-1], taken[:, 1:]
        return {
            "ids": ids.masked_fill(ids < 0, self._tokenizer.endoftext),
            "targets": targets.masked_fill(targets < 0, IGNORE),
        }

    def __iter__(self) -> Iterator[Tensor]:
        return self

    def __next__(self) -> Tensor:
        """The next row, `sequence_len` + 1 tokens: the last is the first of the row after it in the text."""
        while (rows := self._rows()) is None or self.position.row >= len(rows):
            self._turn()
        row = rows[self.position.row]
        self.position = self.position._replace(row=self.position.row + 1)
        return row

    def _turn(self) -> None:
        """To the next slice, and after the last one to the next epoch."""
        epoch, index, _ = self.position
        if index + 1 < len(self._deal.share(self._number, epoch)):
            self.position = Position(epoch, index + 1)
        else:
            self.position = Position(epoch + 1)

    def _rows(self) -> Tensor | None:
        """The packed rows of the slice the position is in; None if there is no such slice."""
        here = self.position._replace(row=0)
        if self._packed is None or self._packed[0] != here:
            share = self._deal.share(self._number, here.epoch)
            if here.slice >= len(share):
                return None
            self._packed = (here, self._pack(share[here.slice], here.epoch))
        return self._packed[1]

    def _pack(self, part: Slice, epoch: int) -> Tensor:
        """All rows (n, sequence_len + 1) of a slice, in the order of this epoch."""
        random = Random(f"{self._deal.seed}/{epoch}/{part.group.shard}/{part.group.index}/{part.number}")
        texts = self._texts(part, epoch)
        random.shuffle(texts)
        rows = pack(self._tokenizer.encode_batch(texts), self._tokenizer.endoftext, self._sequence_len)
        order = list(range(len(rows)))
        random.shuffle(order)
        return rows[order]

    def _texts(self, part: Slice, epoch: int) -> list[str]:
        """The texts of a slice, each as often as it is read in this epoch."""
        sampling = self._sampling
        if sampling and sampling.reads_none_of(part.group):
            return []
        return [
            document["text"]
            for document in self._reader.documents(part.group, ("id", "text"))
            if document["row"] % part.of == part.number
            for _ in range(sampling.readings(part.group, document, epoch) if sampling else 1)
        ]


def pack(documents: Sequence[Sequence[int]], endoftext: int, sequence_len: int) -> Tensor:
    """Rows (n, sequence_len + 1) of int32 in which each token of `documents` is predicted exactly once.

    A row's last token is the first of the next row; the last row is filled up with -1. No text, no rows.
    """
    if not documents:
        return torch.empty((0, sequence_len + 1), dtype=torch.int32)
    tokens = [endoftext]
    for document in documents:
        tokens += [*document, endoftext]
    count = -(-(len(tokens) - 1) // sequence_len)
    tokens += [-1] * (count * sequence_len + 1 - len(tokens))
    return torch.tensor(tokens, dtype=torch.int32).unfold(0, sequence_len + 1, sequence_len)[:count]
