"""The data order is the same for any number of ranks and after any restart, and loses no token."""

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from threading import Barrier
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shards.foreign import ParquetReader
from shards.reader import RowGroup, ShardReader
from trainer.config import PretrainConfig
from trainer.data.batch import IGNORE, DataError
from trainer.data.loader import Loader, cut
from trainer.data.sources import Source
from trainer.run.checkpoint import CheckpointError, check_identity
from trainer.run.distributed import World
from trainer.tokenizer import Tokenizer

TOKENIZER = Tokenizer.train(["The server reads the queue and the reader writes 12 rows."], 300)
CONFIG = PretrainConfig(
    sequence_len=16, device_batch_size=2, tokens_per_step=7 * 2 * 16, lanes=5, vocab_size=300
)


PACKINGS = ["concat", "best-fit"]


@dataclass
class Room:
    """Where ranks that are threads meet."""

    size: int
    values: dict[int, Any] = field(default_factory=dict)

    def __post_init__(self):
        self.barrier = Barrier(self.size)


@dataclass(frozen=True)
class Thread(World):
    """A rank that is a thread of this process."""

    room: Room | None = None

    def gather(self, value):
        self.room.values[self.rank] = value
        self.room.barrier.wait()
        return [self.room.values[rank] for rank in range(self.size)]


def worlds(size):
    """Ranks that are threads, in one room."""
    room = Room(size)
    return [Thread(rank=rank, size=size, room=room) for rank in range(size)]


def loaders(corpus, size=1, config=CONFIG):
    return [Loader([Source(corpus, ShardReader(corpus))], TOKENIZER, config, world) for world in worlds(size)]


def states(ranks):
    with ThreadPoolExecutor(len(ranks)) as threads:
        return list(threads.map(Loader.state, ranks))


def read(ranks, count):
    """What the ranks read together in each of `count` steps, in an order that tells nothing of the ranks."""
    found = []
    for _ in range(count):
        batches = [batch for rank in ranks for batch in rank.next_step()]
        found.append(sorted(torch.stack([batch["ids"], batch["targets"]]).tolist() for batch in batches))
    return found


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("size", [2, 3, 5, 7])
def test_all_ranks_together_read_what_one_alone_reads(corpus, size, packing):
    config = replace(CONFIG, packing=packing)
    assert read(loaders(corpus, size, config), 12) == read(loaders(corpus, config=config), 12)


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    before=st.integers(0, 60),
    first=st.integers(1, 3),
    second=st.integers(1, 3),
    packing=st.sampled_from(PACKINGS),
)
def test_stopping_anywhere_and_going_on_with_other_ranks_changes_nothing(
    corpus, before, first, second, packing
):
    config = replace(CONFIG, packing=packing)
    uninterrupted = loaders(corpus, config=config)
    read(uninterrupted, before)
    stopped = loaders(corpus, first, config)
    read(stopped, before)
    state = states(stopped)[0]
    resumed = loaders(corpus, second, config)
    for rank in resumed:
        rank.restore(state)
    assert read(resumed, 3) == read(uninterrupted, 3)
    assert states(resumed) == [states(uninterrupted)[0]] * second


def test_the_state_is_json_and_small(corpus):
    [rank] = loaders(corpus)
    read([rank], 3)
    state = rank.state()
    assert json.loads(json.dumps(state)) == state
    assert state["micro_batch"] == 21
    assert [taken for taken, _ in state["lanes"]] == [10, 8, 8, 8, 8]
    assert len(json.dumps(state)) < 1000


def test_an_epoch_holds_every_training_document_once_and_nothing_held_out(corpus, texts):
    """One lane, read until it enters its second epoch: its targets are all documents, each once."""
    config = PretrainConfig(sequence_len=16, device_batch_size=1, tokens_per_step=16, lanes=1, vocab_size=300)
    [rank] = loaders(corpus, config=config)
    counts: Counter[int] = Counter()
    while True:
        [batch] = rank.next_step()
        if rank.state()["epoch"] > 0:
            break
        counts.update(token for token in batch["targets"].flatten().tolist() if token != IGNORE)
    expected = Counter(
        token for text in texts[3:] for token in (*TOKENIZER.encode(text), TOKENIZER.endoftext)
    )
    assert counts == expected


@pytest.mark.parametrize("packing", PACKINGS)
def test_a_target_is_the_next_id_of_its_document(corpus, packing):
    masked = replace(CONFIG, packing=packing, document_mask=True)
    for batch in loaders(corpus, config=masked)[0].next_step():
        ids, targets, segments = batch["ids"], batch["targets"], batch["segments"]
        goes_on = segments[:, 1:] == segments[:, :-1]
        kept = (targets[:, :-1] != IGNORE) & goes_on
        assert kept.any()
        assert torch.equal(targets[:, :-1][kept], ids[:, 1:][kept])
        ends = (targets[:, :-1] != IGNORE) & ~goes_on
        assert (targets[:, :-1][ends] == TOKENIZER.endoftext).all()


def test_another_seed_is_another_order(corpus):
    other = PretrainConfig(
        sequence_len=16, device_batch_size=2, tokens_per_step=7 * 2 * 16, lanes=5, vocab_size=300, seed=1
    )
    assert read(loaders(corpus), 2) != read(loaders(corpus, config=other), 2)


def test_a_loader_that_reads_ahead_is_restored_to_where_it_was_told(corpus):
    [rank] = loaders(corpus)
    state = rank.state()
    first = read([rank], 5)
    rank.restore(state)
    assert read([rank], 5) == first


@pytest.mark.parametrize("kind", ["corpus", "plain"])
def test_uneven_text_gives_all_ranks_equal_steps(write_corpus, texts, tmp_path, kind):
    """Three lanes for two ranks, the text in one of them much longer than in the others."""
    uneven = [texts[0], texts[0], " ".join(texts)]
    if kind == "corpus":
        reader = ShardReader(write_corpus(tmp_path, uneven, row_group_rows=1))
    else:
        pq.write_table(pa.table({"text": uneven}), tmp_path / "plain.parquet", row_group_size=1)
        reader = ParquetReader(tmp_path / "plain.parquet")
    alone, *two = [
        Loader([Source(tmp_path, reader)], TOKENIZER, CONFIG, world) for world in (*worlds(1), *worlds(2))
    ]
    assert read(two, 20) == read([alone], 20)


@pytest.mark.parametrize("count", [1, 2, 9])
def test_one_row_group_feeds_two_ranks_without_end(write_corpus, texts, tmp_path, count):
    corpus = write_corpus(tmp_path, texts[-count:])
    assert len(ShardReader(corpus).row_groups) <= 2
    assert read(loaders(corpus, 2), 20) == read(loaders(corpus), 20)
    assert all(sum(len(step) for step in read([rank], 2)) > 0 for rank in loaders(corpus, 2)[: min(count, 2)])


def test_slices_hold_each_row_once_and_are_even():
    groups = [RowGroup("a", 0, 1000), RowGroup("a", 1, 30), RowGroup("b", 0, 257)]
    slices = cut(groups, 64)
    rows = [
        (part.group, row) for part in slices for row in range(part.group.rows) if row % part.of == part.number
    ]
    assert len(rows) == len(set(rows)) == 1287
    assert len(slices) >= 64
    sizes = Counter(len(range(part.number, part.group.rows, part.of)) for part in slices)
    assert max(sizes) <= 1287 // 64


def test_a_run_of_another_corpus_is_not_continued(corpus, write_corpus, tmp_path, texts):
    [rank] = loaders(corpus)
    [other] = loaders(write_corpus(tmp_path, texts[10:50]))
    with pytest.raises(CheckpointError, match=r"holds a run with shards\.manifest = \w+, not \w+: go on"):
        check_identity(tmp_path, rank.identity, other.identity)


def test_a_run_of_another_tokenizer_is_not_continued(corpus):
    [rank] = loaders(corpus)
    tokenizer = Tokenizer.train(["another text"], 300)
    other = Loader([Source(corpus, ShardReader(corpus))], tokenizer, CONFIG, World())
    with pytest.raises(CheckpointError, match="holds a run with tokenizer = "):
        check_identity(corpus, rank.identity, other.identity)


def test_a_corpus_without_training_text_is_refused(write_corpus, texts, tmp_path):
    with pytest.raises(DataError, match="no text to train on"):
        loaders(write_corpus(tmp_path, texts[:4], held_out=4))
