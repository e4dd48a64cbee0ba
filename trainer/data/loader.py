"""The order in which text becomes micro-batches: the same for any number of ranks, and after any restart.

The row groups of a source are cut into slices of documents, the slices of an epoch are shuffled and dealt to
a fixed number of lanes, and a lane reads its share a few slices at a time: a window, whose documents are
shuffled, packed into rows (trainer/data/packing.py), and the rows shuffled. With several sources a lane has
such a stream for each of them, and the number of the row says whose turn it is. Micro-batch j holds the next
rows of lane j mod L; rank r owns the lanes that are r mod the number of ranks. All of it follows from
(snapshots, seed, j); nothing from who computes it.

A reading position is a count and three numbers a source, for each lane; restoring one tokenises the windows
it is in again, each when its turn comes. With `sample_by` a window holds each document as often as
`trainer.data.sampling` says for the epoch. Nothing ends: each source begins its next epoch by itself.
"""

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from random import Random
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from shards.foreign import Reader
from shards.reader import RowGroup, ShardReader
from tinylm.errors import TinylmError
from trainer.config import PretrainConfig
from trainer.data.packing import Rows, Tokens, pack, segments
from trainer.data.sampling import Sampling
from trainer.data.sources import Source
from trainer.model.model import IGNORE
from trainer.run.distributed import World
from trainer.run.loop import Batch
from trainer.tokenizer import Tokenizer

_ORDER = 2
"""Counts changes of the order itself; a position is one in an order."""
_DOCUMENTS_PER_SLICE = 256
_SLICES_PER_GROUP = 16
_SLICES_AT_ONCE = 4
_STEPS_AHEAD = 2
_GOLDEN = 0x9E3779B97F4A7C15
"""2^64 over the golden ratio: multiples of it, modulo 2^64, are spread as evenly as can be."""


class DataError(TinylmError):
    """Text that cannot be trained on, or not the text a run was started on."""


class Slice(NamedTuple):
    """The documents of a row group whose row is `number` modulo `of`."""

    group: RowGroup
    number: int
    of: int


class Position(NamedTuple):
    """How far a stream is: its epoch, the window in its share of that epoch, the row in that window."""

    epoch: int = 0
    window: int = 0
    row: int = 0


class LanePosition(NamedTuple):
    """How far a lane is: rows taken in all, and where each of its sources is."""

    taken: int
    streams: tuple[Position, ...]


class Loader:
    """Gives a rank its micro-batches, one step after the other, without end.

    The next steps are read and tokenised in a thread while this one is trained on. `lanes` is lowered to
    what the smallest source has slices for, so a corpus of one row group still feeds several ranks.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        tokenizer: Tokenizer,
        config: PretrainConfig,
        world: World | None = None,
    ) -> None:
        self._sources = sources
        self._tokenizer = tokenizer
        self._config = config
        self._world = world or World()
        self._per_step = config.micro_batches_per_step(config.sequence_len)
        parts = [cut(source.reader.row_groups, config.lanes) for source in sources]
        for source in sources:
            if not any(source.reader.texts(group) for group in source.reader.row_groups):
                raise DataError(f"{source.place}: no text to train on; crawl more, or hold less out")
        self.sampling = _sampling(sources[0], config)
        self._lane_count = min([config.lanes, *map(len, parts)])
        deals = [_Deal(part, f"{config.seed}/{n}", self._lane_count) for n, part in enumerate(parts)]
        turns = Turns([source.share for source in sources])
        self._lanes = {
            lane: Lane(lane, deals, sources, tokenizer, config, self.sampling, turns)
            for lane in range(self._world.rank, self._lane_count, self._world.size)
        }
        self._micro_batch = 0
        self._positions = {number: lane.position for number, lane in self._lanes.items()}
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="loader")
        self._ahead: deque[Future[_Step]] = deque()

    def next_step(self) -> list[Batch]:
        """This rank's micro-batches of the next step, on its device; none if it has none in this step."""
        while len(self._ahead) <= _STEPS_AHEAD:
            self._ahead.append(self._thread.submit(self._read, self._micro_batch_ahead))
        step = self._ahead.popleft().result()
        self._micro_batch, self._positions = step.micro_batch, step.positions
        device = self._world.device
        return [{name: part.to(device) for name, part in batch.items()} for batch in step.batches]

    def state(self) -> dict[str, Any]:
        """Where all ranks stand, as JSON values; a collective, to be called by all of them."""
        positions: dict[int, LanePosition] = {}
        for part in self._world.gather(self._positions):
            positions |= part
        return {
            **self._here(),
            "micro_batch": self._micro_batch,
            "epoch": min(position.streams[0].epoch for position in positions.values()),
            "lanes": [
                [positions[lane].taken, *map(list, positions[lane].streams)]
                for lane in range(self._lane_count)
            ],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`, whatever the number of ranks.

        Raises `DataError`, naming what differs, for another text, share, tokenizer or order.
        """
        _check(state, self._here() | {"lane_count": self._lane_count})
        for step in self._ahead:
            if not step.cancel():
                step.result()
        self._ahead.clear()
        self._micro_batch = state["micro_batch"]
        for number, lane in self._lanes.items():
            taken, *streams = state["lanes"][number]
            lane.go_to(LanePosition(taken, tuple(Position(*stream) for stream in streams)))
        self._positions = {number: lane.position for number, lane in self._lanes.items()}

    def describe_packing(self) -> str:
        """What packing came to in the windows this rank has read so far."""
        read = [rows for lane in self._lanes.values() for rows in lane.counts()]
        documents, split, used, room = np.sum([*read, np.zeros(4)], axis=0)
        return (
            f"packed {documents:,.0f} documents ({self._config.packing}): {split / max(1, documents):.1%} do "
            f"not lie in one row, {1 - used / max(1, room):.1%} of the positions are padding"
        )

    def close(self) -> None:
        """Stop reading ahead."""
        self._thread.shutdown(cancel_futures=True)

    @property
    def _micro_batch_ahead(self) -> int:
        return self._micro_batch + len(self._ahead) * self._per_step

    def _here(self) -> dict[str, Any]:
        """What a position is worth nothing without."""
        sources = [
            {"place": str(source.place), "manifest": source.reader.fingerprint, "share": source.share}
            for source in self._sources
        ]
        return {
            "order": _ORDER,
            "tokenizer": self._tokenizer.fingerprint,
            "sample_by": self.sampling.fingerprint if self.sampling else None,
            "sources": sources,
        }

    def _read(self, first: int) -> "_Step":
        numbers = range(first, first + self._per_step)
        mine = [lane for number in numbers if (lane := number % self._lane_count) in self._lanes]
        batches = [self._lanes[lane].batch(self._config.device_batch_size) for lane in mine]
        positions = {number: lane.position for number, lane in self._lanes.items()}
        return _Step(batches, numbers.stop, positions)


class _Step(NamedTuple):
    """A step's micro-batches, and the numbers to go on from after it."""

    batches: list[Batch]
    micro_batch: int
    positions: dict[int, LanePosition]


def _sampling(source: Source, config: PretrainConfig) -> Sampling | None:
    if not config.sample_by:
        return None
    if not isinstance(source.reader, ShardReader):
        raise DataError(f"{source.place}: sample_by = {config.sample_by!r}: of a corpus only, this is none")
    return Sampling(source.reader, config.sample_by, config.sample_power, config.seed)


def _check(state: dict[str, Any], here: dict[str, Any]) -> None:
    """Raise `DataError` for the first thing that the run in `state` was started on and that is not `here`."""
    saved = state | {"lane_count": len(state["lanes"])}
    pairs = [("", field, saved.get(field), here[field]) for field in ("order", "tokenizer", "sample_by")]
    before, now = saved.get("sources", []), here["sources"]
    pairs.append(("", "number of sources", len(before), len(now)))
    for old, new in zip(before, now, strict=False):
        moved = "" if old["place"] == new["place"] else f" (then {old['place']})"
        name = f"source {new['place']}{moved}: "
        pairs += [(name, field, old[field], new[field]) for field in ("manifest", "share")]
    pairs.append(("", "lanes", saved["lane_count"], here["lane_count"]))
    for name, field, then, found in pairs:
        if then != found:
            raise DataError(
                f"{name}the run was started on {field} = {then}, here it is {found}: "
                "give back what it was started on, or start anew with another --out"
            )


def cut(row_groups: Sequence[RowGroup], lanes: int) -> list[Slice]:
    """Slices of even size, and enough for every lane if there is a document for each.

    They hold at most 256 documents, or a sixteenth of a row group: it is read once for each of its slices.
    """
    most = sum(group.rows for group in row_groups) // lanes
    sizes = [
        max(1, min(most, max(_DOCUMENTS_PER_SLICE, -(-group.rows // _SLICES_PER_GROUP))))
        for group in row_groups
    ]
    parts = [(group, -(-group.rows // size)) for group, size in zip(row_groups, sizes, strict=True)]
    return [Slice(group, number, of) for group, of in parts for number in range(of)]


class Turns:
    """Which source each row of a lane is of: in any stretch of rows, each has its share but for a few."""

    def __init__(self, shares: Sequence[float]) -> None:
        self._ends = [round(end * 2**64) for end in np.cumsum(shares).tolist()]

    def __call__(self, begin: int, row: int) -> int:
        """The source of a lane's `row`, where `begin` is the lane's own point to begin from, below 2^64."""
        point = (begin + row * _GOLDEN) % 2**64
        return next((n for n, end in enumerate(self._ends) if point < end), len(self._ends) - 1)


class _Deal:
    """Which slices each lane reads in each epoch."""

    def __init__(self, slices: Sequence[Slice], seed: str, lanes: int) -> None:
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
    """One endless sequence of rows, each from one of the sources; `position` is where the next one is."""

    def __init__(
        self,
        number: int,
        deals: Sequence[_Deal],
        sources: Sequence[Source],
        tokenizer: Tokenizer,
        config: PretrainConfig,
        sampling: Sampling | None,
        turns: Turns,
    ) -> None:
        self._streams = [
            Stream(number, deal, source.reader, tokenizer, config, None if index else sampling)
            for index, (deal, source) in enumerate(zip(deals, sources, strict=True))
        ]
        self._turns = turns
        digest = hashlib.blake2b(f"{config.seed}/{number}".encode(), digest_size=8).digest()
        self._begin = int.from_bytes(digest, "little")
        self._taken = 0
        self._endoftext = tokenizer.endoftext
        self._masked = config.document_mask

    @property
    def position(self) -> LanePosition:
        return LanePosition(self._taken, tuple(stream.position for stream in self._streams))

    def go_to(self, position: LanePosition) -> None:
        self._taken = position.taken
        for stream, there in zip(self._streams, position.streams, strict=True):
            stream.position = there

    def counts(self) -> list[NDArray[np.float64]]:
        """Documents, cut ones, positions used and positions in all, of each stream's windows so far."""
        return [stream.counts for stream in self._streams]

    def batch(self, rows: int) -> Batch:
        """The next `rows` rows: ids, targets and, if asked for, segments, each (rows, sequence_len)."""
        taken = [next(self) for _ in range(rows)]
        ids, targets = (np.stack([row[part] for row in taken]).astype(np.int64) for part in (0, 1))
        batch = {"ids": torch.from_numpy(ids), "targets": torch.from_numpy(targets)}
        if self._masked:
            batch["segments"] = torch.from_numpy(segments(ids, targets, self._endoftext))
        for row, (_, _, filled) in zip(targets, taken, strict=True):
            row[filled:] = IGNORE
        return batch

    def __iter__(self) -> Iterator[tuple[Tokens, Tokens, int]]:
        return self

    def __next__(self) -> tuple[Tokens, Tokens, int]:
        """Ids and targets (sequence_len,) of the next row, and how many of its positions count."""
        stream = self._streams[self._turns(self._begin, self._taken)]
        self._taken += 1
        return next(stream)


class Stream:
    """The rows of one source in one lane, without end; `position` is where the next is, and may be set."""

    def __init__(
        self,
        lane: int,
        deal: _Deal,
        reader: Reader,
        tokenizer: Tokenizer,
        config: PretrainConfig,
        sampling: Sampling | None,
    ) -> None:
        self.position = Position()
        self.counts = np.zeros(4)
        self._lane = lane
        self._deal = deal
        self._reader = reader
        self._tokenizer = tokenizer
        self._config = config
        self._sampling = sampling
        self._dtype = np.min_scalar_type(tokenizer.vocab_size - 1)
        self._packed: tuple[Position, Rows] | None = None

    def __iter__(self) -> Iterator[tuple[Tokens, Tokens, int]]:
        return self

    def __next__(self) -> tuple[Tokens, Tokens, int]:
        while (rows := self._rows()) is None or self.position.row >= len(rows.ids):
            self._turn()
        row = self.position.row
        self.position = self.position._replace(row=row + 1)
        return rows.ids[row], rows.targets[row], int(rows.filled[row])

    def _turn(self) -> None:
        """To the next window, and after the last one to the next epoch."""
        epoch, window, _ = self.position
        if (window + 1) * _SLICES_AT_ONCE < len(self._deal.share(self._lane, epoch)):
            self.position = Position(epoch, window + 1)
        else:
            self.position = Position(epoch + 1)

    def _rows(self) -> Rows | None:
        """The packed rows of the window the position is in; None if there is no such window."""
        here = self.position._replace(row=0)
        if self._packed is None or self._packed[0] != here:
            begin = here.window * _SLICES_AT_ONCE
            window = self._deal.share(self._lane, here.epoch)[begin : begin + _SLICES_AT_ONCE]
            if not window:
                return None
            self._packed = (here, self._pack(window, here))
        return self._packed[1]

    def _pack(self, window: Sequence[Slice], here: Position) -> Rows:
        """All rows of a window, in the order of this epoch."""
        random = Random(f"{self._deal.seed}/{self._lane}/{here.epoch}/{here.window}")
        texts = [text for part in window for text in self._texts(part, here.epoch)]
        random.shuffle(texts)
        documents = [self._tokenizer.encode_array(text).astype(self._dtype) for text in texts]
        rows = pack(documents, self._tokenizer.endoftext, self._config.sequence_len, self._config.packing)
        order = list(range(len(rows.ids)))
        random.shuffle(order)
        self.counts += (rows.documents, rows.cut, rows.filled.sum(), rows.ids.size)
        return rows._replace(ids=rows.ids[order], targets=rows.targets[order], filled=rows.filled[order])

    def _texts(self, part: Slice, epoch: int) -> list[str]:
        """The texts of a slice, each as often as it is read in this epoch."""
        sampling, rows = self._sampling, slice(part.number, None, part.of)
        if sampling is None:
            return [document["text"] for document in self._reader.documents(part.group, ("text",), rows)]
        if sampling.reads_none_of(part.group):
            return []
        return [
            document["text"]
            for document in self._reader.documents(part.group, ("id", "text"), rows)
            for _ in range(sampling.readings(part.group, document, epoch))
        ]
