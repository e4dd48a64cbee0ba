"""The data order is the same for any number of ranks and after any restart, and loses no token."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Barrier
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shards.reader import RowGroup, ShardReader
from trainer.config import PretrainConfig
from trainer.distributed import World
from trainer.loader import DataError, Loader, cut, pack
from trainer.model import IGNORE
from trainer.tokenizer import Tokenizer

TOKENIZER = Tokenizer.train(["The server reads the queue and the reader writes 12 rows."], 300)
CONFIG = PretrainConfig(
    sequence_len=16, device_batch_size=2, tokens_per_step=7 * 2 * 16, lanes=5, vocab_size=300
)


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


def loaders(corpus, size=1, config=CONFIG):
    room = Room(size)
    worlds = [Thread(rank=rank, size=size, room=room) for rank in range(size)]
    return [Loader(ShardReader(corpus), TOKENIZER, config, world) for world in worlds]


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


@pytest.mark.parametrize("size", [2, 3, 5, 7])
def test_all_ranks_together_read_what_one_alone_reads(corpus, size):
    assert read(loaders(corpus, size), 12) == read(loaders(corpus), 12)


@settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(before=st.integers(0, 60), first=st.integers(1, 3), second=st.integers(1, 3))
def test_stopping_anywhere_and_going_on_with_other_ranks_changes_nothing(corpus, before, first, second):
    uninterrupted = loaders(corpus)
    read(uninterrupted, before)
    stopped = loaders(corpus, first)
    read(stopped, before)
    state = states(stopped)[0]
    resumed = loaders(corpus, second)
    for rank in resumed:
        rank.restore(state)
    assert read(resumed, 3) == read(uninterrupted, 3)
    assert states(resumed) == [states(uninterrupted)[0]] * second


def test_the_state_is_json_and_small(corpus):
    [rank] = loaders(corpus)
    read([rank], 3)
    state = rank.state()
    assert set(state) == {"manifest", "tokenizer", "sample_by", "micro_batch", "epoch", "lanes"}
    assert state["micro_batch"] == 21
    assert all(isinstance(number, int) for lane in state["lanes"] for number in lane)


@given(st.lists(st.lists(st.integers(3, 99), max_size=40), max_size=8), st.integers(1, 20))
def test_packing_predicts_every_token_exactly_once(documents, sequence_len):
    rows = pack(documents, 0, sequence_len)
    expected = [token for document in documents for token in (*document, 0)]
    targets = rows[:, 1:].flatten()
    assert targets[targets >= 0].tolist() == expected
    assert rows[:, 0].tolist() == [0, *expected][: len(expected) : sequence_len]
    assert (targets < 0).sum() < sequence_len
    assert len(rows) == -(-len(expected) // sequence_len)


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


def test_a_target_is_the_next_id_of_its_row(corpus):
    for batch in loaders(corpus)[0].next_step():
        ids, targets = batch["ids"], batch["targets"]
        kept = targets[:, :-1] != IGNORE
        assert torch.equal(targets[:, :-1][kept], ids[:, 1:][kept])


def test_another_seed_is_another_order(corpus):
    other = PretrainConfig(
        sequence_len=16, device_batch_size=2, tokens_per_step=7 * 2 * 16, lanes=5, vocab_size=300, seed=1
    )
    assert read(loaders(corpus), 2) != read(loaders(corpus, config=other), 2)


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
    with pytest.raises(DataError, match=r"started on manifest = .*, here it is "):
        other.restore(rank.state())


def test_a_run_of_another_tokenizer_is_not_continued(corpus):
    [rank] = loaders(corpus)
    other = Loader(ShardReader(corpus), Tokenizer.train(["another text"], 300), CONFIG)
    with pytest.raises(DataError, match="started on tokenizer = "):
        other.restore(rank.state())


def test_a_corpus_without_training_text_is_refused(write_corpus, texts, tmp_path):
    with pytest.raises(DataError, match="no text to train on"):
        loaders(write_corpus(tmp_path, texts[:4], held_out=4))
