"""The order in which text becomes micro-batches: the same for any number of ranks, and after any restart.

The row groups of a source are cut into slices of documents, the slices of an epoch are shuffled and dealt to
a fixed number of lanes, and a lane reads its share a few slices at a time: a window, whose documents are
shuffled, packed into rows (trainer/data/packing.py), and the rows shuffled. With several sources a lane has
such a stream for each of them, and the number of the row says whose turn it is. Micro-batch j holds the next
rows of lane j mod L; rank r owns the lanes that are r mod the number of ranks. All of it follows from
(snapshots, seed, j); nothing from who computes it. Nothing ends: each source begins its next epoch by itself.

A reading position is a count and three numbers a source, for each lane; restoring one tokenises the windows
it is in again, each when its turn comes.
"""

import hashlib
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from random import Random
from typing import Any, NamedTuple

import numpy as np
import torch

from shards.reader import RowGroup, ShardReader
from trainer.config import PretrainConfig
from trainer.data.batch import IGNORE, Batch, DataError, Ranks
from trainer.data.packing import Rows, Tokens, pack, segments
from trainer.data.sampling import Sampling
from trainer.data.sources import Source, identity_of_sources
from trainer.tokenizer import Tokenizer

# Counts changes of the order itself, of which the four numbers below are part: another one refuses old runs.
_ORDER = 2
_DOCUMENTS_PER_SLICE = 256
# Of a row group, which is decoded once for each of its slices: twice as many cost twice the decoding of large
# groups, half as many let more neighbours meet.
_SLICES_PER_GROUP = 16
# The window whose documents are shuffled and packed together: with 256 documents a slice, about 1,000; it is
# what a lane holds in memory, in proportion. With one, all rows of a micro-batch were of one row group.
_SLICES_AT_ONCE = 4
# 2^64 over the golden ratio: multiples of it, modulo 2^64, are spread as evenly as can be.
_GOLDEN = 0x9E3779B97F4A7C15
_STEPS_AHEAD = 2  # read in a thread beside the step that is trained on; of the speed, not of the order


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


# How far a lane is: rows taken in all, and where each of its sources is.
LanePosition = tuple[int, tuple[Position, ...]]


class Loader:
    """Gives a rank its micro-batches, one step after the other, without end.

    The next steps are read and tokenised in a thread while this one is trained on. `lanes` is lowered to
    what the smallest source has slices for, so a corpus of one row group still feeds several ranks.
    """

    def __init__(
        self, sources: Sequence[Source], tokenizer: Tokenizer, config: PretrainConfig, ranks: Ranks
    ) -> None:
        self._sources = sources
        self._tokenizer = tokenizer
        self._config = config
        self._ranks = ranks
        self._per_step = config.micro_batches_per_step(config.sequence_len)
        parts = [cut(source.reader.row_groups, config.lanes) for source in sources]
        for source in sources:
            if not any(source.reader.texts(group) for group in source.reader.row_groups):
                raise DataError(f"{source.place}: no text to train on; crawl more, or hold less out")
        self.sampling = _sampling(sources[0], config)
        self._lane_count = min([config.lanes, *map(len, parts)])
        self._feeds = [
            _Feed(source, part, n, self._lane_count, tokenizer, config, None if n else self.sampling)
            for n, (source, part) in enumerate(zip(sources, parts, strict=True))
        ]
        turns = Turns([source.share for source in sources])
        self._lanes = {
            number: Lane(number, self._feeds, turns, config.seed)
            for number in range(ranks.rank, self._lane_count, ranks.size)
        }
        self._micro_batch = 0
        self._positions = self._reached()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="loader")
        # Micro-batches of a step, the number of the next one and where the lanes are after it.
        self._ahead: deque[Future[tuple[list[Batch], int, dict[int, LanePosition]]]] = deque()

    def next_step(self) -> list[Batch]:
        """This rank's micro-batches of the next step, on its device; none if it has none in this step."""
        while len(self._ahead) <= _STEPS_AHEAD:
            first = self._micro_batch + len(self._ahead) * self._per_step
            self._ahead.append(self._thread.submit(self._read, first))
        batches, self._micro_batch, self._positions = self._ahead.popleft().result()
        device = self._ranks.device
        return [{name: part.to(device) for name, part in batch.items()} for batch in batches]

    def state(self) -> dict[str, Any]:
        """Where all ranks stand, as JSON values; a collective, to be called by all of them."""
        positions: dict[int, LanePosition] = {}
        for part in self._ranks.gather(self._positions):
            positions |= part
        return {
            "micro_batch": self._micro_batch,
            "epoch": min(streams[0].epoch for _, streams in positions.values()),
            "lanes": [[taken, *map(list, streams)] for _, (taken, streams) in sorted(positions.items())],
        }

    @property
    def identity(self) -> dict[str, Any]:
        """What a position is worth nothing without, as JSON values."""
        sources = [{"manifest": each.reader.fingerprint, "share": each.share} for each in self._sources]
        return {
            "order": _ORDER,
            "tokenizer": self._tokenizer.fingerprint,
            "sample_by.sha256": self.sampling.fingerprint if self.sampling else None,
            **identity_of_sources(sources),
            "lane_count": self._lane_count,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`, which a loader of the same `identity` gave, whatever the number of ranks."""
        for step in self._ahead:
            if not step.cancel():
                step.result()
        self._ahead.clear()
        self._micro_batch = state["micro_batch"]
        for number, lane in self._lanes.items():
            taken, *streams = state["lanes"][number]
            lane.go_to(taken, [Position(*stream) for stream in streams])
        self._positions = self._reached()

    def describe_packing(self) -> str:
        """What packing came to in the windows this rank has read so far."""
        documents, split, used, room = np.sum([feed.counts for feed in self._feeds], axis=0)
        return (
            f"packed {documents:,.0f} documents ({self._config.packing}): {split / max(1, documents):.1%} do "
            f"not lie in one row, {1 - used / max(1, room):.1%} of the positions are padding"
        )

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)

    def _read(self, first: int) -> tuple[list[Batch], int, dict[int, LanePosition]]:
        numbers = range(first, first + self._per_step)
        mine = [lane for number in numbers if (lane := number % self._lane_count) in self._lanes]
        return [self._batch(self._lanes[lane]) for lane in mine], numbers.stop, self._reached()

    def _reached(self) -> dict[int, LanePosition]:
        return {number: lane.position for number, lane in self._lanes.items()}

    def _batch(self, lane: "Lane") -> Batch:
        """The next rows of a lane: ids, targets and, if asked for, segments, each (B, T)."""
        rows = [next(lane) for _ in range(self._config.device_batch_size)]
        ids, targets = (np.stack([row[part] for row in rows]).astype(np.int64) for part in (0, 1))
        batch = {"ids": torch.from_numpy(ids), "targets": torch.from_numpy(targets)}
        if self._config.document_mask:
            batch["segments"] = torch.from_numpy(segments(ids, targets, self._tokenizer.endoftext))
        # Last, as segments are told by the targets of padding too; the tensor shares the array's memory.
        for target, (_, _, filled) in zip(targets, rows, strict=True):
            target[filled:] = IGNORE
        return batch


def _sampling(source: Source, config: PretrainConfig) -> Sampling | None:
    if not config.sample_by:
        return None
    if not isinstance(source.reader, ShardReader):
        raise DataError(f"{source.place}: sample_by = {config.sample_by!r}: of a corpus only, this is none")
    return Sampling(source.reader, config.sample_by, config.sample_power, config.seed)


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


class _Feed:
    """A source as the lanes of a rank read it: which slices are a lane's in an epoch, and the rows of them.

    `counts` are documents, cut ones, positions used and positions in all, of the windows read so far.
    """

    def __init__(
        self,
        source: Source,
        slices: Sequence[Slice],
        number: int,
        lanes: int,
        tokenizer: Tokenizer,
        config: PretrainConfig,
        sampling: Sampling | None,
    ) -> None:
        self.counts = np.zeros(4)
        self._reader = source.reader
        self._slices = slices
        self._seed = f"{config.seed}/{number}"
        self._lanes = lanes
        self._sampling = sampling
        self._tokenizer = tokenizer
        self._config = config
        # Two bytes a token held where the vocabulary allows, not eight.
        self._dtype = np.min_scalar_type(tokenizer.vocab_size - 1)
        # Lanes of a source are in about the same epoch; an order that is not kept is shuffled again.
        self._order = lru_cache(maxsize=4)(self._shuffled)

    def share(self, lane: int, epoch: int) -> list[Slice]:
        """The slices that a lane reads in an epoch, in order."""
        return self._order(epoch)[lane :: self._lanes]

    def _shuffled(self, epoch: int) -> list[Slice]:
        order = list(self._slices)
        Random(f"{self._seed}/{epoch}").shuffle(order)
        return order

    def rows(self, lane: int, epoch: int, window: int) -> Rows:
        """All rows of a window of a lane, in the order of this epoch; maybe none."""
        begin = window * _SLICES_AT_ONCE
        parts = self.share(lane, epoch)[begin : begin + _SLICES_AT_ONCE]
        texts = [text for part in parts for text in self._texts(part, epoch)]
        random = Random(f"{self._seed}/{lane}/{epoch}/{window}")
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


class _Stream:
    """The rows of one source in one lane, without end; `position` is where the next is, and may be set."""

    def __init__(self, feed: _Feed, lane: int) -> None:
        self.position = Position()
        self._feed = feed
        self._lane = lane
        self._packed: tuple[int, int] | None = None  # epoch and window of which `_rows` are
        self._rows: Rows

    def __next__(self) -> tuple[Tokens, Tokens, int]:
        """Ids and targets (sequence_len,) of the next row, and how many of its positions count."""
        while True:
            epoch, window, row = self.position
            if self._packed != (epoch, window):
                self._rows = self._feed.rows(self._lane, epoch, window)
                self._packed = (epoch, window)
            if row < len(self._rows.ids):
                break
            is_last = (window + 1) * _SLICES_AT_ONCE >= len(self._feed.share(self._lane, epoch))
            self.position = Position(epoch + 1) if is_last else Position(epoch, window + 1)
        self.position = Position(epoch, window, row + 1)
        return self._rows.ids[row], self._rows.targets[row], int(self._rows.filled[row])


class Lane:
    """One endless sequence of rows, each from one of the `feeds`; `position` is where the next one is."""

    def __init__(self, number: int, feeds: Sequence[_Feed], turns: Turns, seed: int) -> None:
        self._streams = [_Stream(feed, number) for feed in feeds]
        self._turns = turns
        digest = hashlib.blake2b(f"{seed}/{number}".encode(), digest_size=8).digest()
        self._begin = int.from_bytes(digest, "little")
        self._taken = 0

    @property
    def position(self) -> LanePosition:
        return self._taken, tuple(stream.position for stream in self._streams)

    def go_to(self, taken: int, positions: Sequence[Position]) -> None:
        self._taken = taken
        for stream, position in zip(self._streams, positions, strict=True):
            stream.position = position

    def __next__(self) -> tuple[Tokens, Tokens, int]:
        """As the stream's whose turn it is."""
        stream = self._streams[self._turns(self._begin, self._taken)]
        self._taken += 1
        return next(stream)
