"""Documents are read in proportion to a column, in an order that survives restarts and other world sizes."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shards import columns
from shards.errors import ShardError
from shards.manifest import Manifest
from shards.reader import ShardReader
from tests.trainer.test_loader import TOKENIZER, loaders, read, states
from trainer.config import PretrainConfig
from trainer.data.sampling import MOST_READINGS, Sampling, SamplingError, weigh
from trainer.run.checkpoint import CheckpointError, check_identity

CONFIG = PretrainConfig(
    sequence_len=16,
    device_batch_size=2,
    tokens_per_step=7 * 2 * 16,
    lanes=5,
    vocab_size=300,
    sample_by="worth",
)
NUMBERS = st.lists(st.just(0.0) | st.floats(1e-250, 1e6), min_size=1, max_size=60).filter(any)


def put(directory, numbers):
    """A table that gives the documents of `directory`, in their order, these numbers."""
    ids = [document["id"] for document in ShardReader(directory, split="all")]
    manifest = Manifest.load(directory)
    with columns.writing(directory):
        table = pa.table({"id": ids, "worth": numbers})
        columns.write(columns.path_of(directory, "worth", manifest), table, manifest)
    return directory


@pytest.fixture(scope="module")
def weighted(write_corpus, texts, tmp_path_factory):
    """60 documents, 3 of them held out, with numbers from 0 to 6 and one far above."""
    directory = write_corpus(tmp_path_factory.mktemp("weighted"), texts, held_out=3)
    return put(directory, [*(float(number % 7) for number in range(59)), 1e9])


@given(NUMBERS)
def test_weights_are_proportional_capped_and_have_mean_one(numbers):
    numbers = np.array(numbers)
    weights = weigh(numbers, 1.0)
    assert (weights <= MOST_READINGS).all()
    assert (weights[numbers == 0] == 0).all()
    below = weights < MOST_READINGS
    shares = numbers / numbers.max()
    if below[shares > 0].any():
        assert weights.mean() == pytest.approx(1)
        with np.errstate(over="ignore"):  # of the least numbers there are
            scale = weights[below].sum() / shares[below].sum()
            assert weights[below] == pytest.approx(shares[below] * scale, abs=1e-9)
            assert (shares[~below] * scale >= MOST_READINGS - 1e-6).all()
    else:
        assert weights.mean() <= 1 + 1e-9


@given(NUMBERS)
def test_equal_numbers_are_no_weights(numbers):
    assert weigh(np.full(len(numbers), 7.0), 1.0) == pytest.approx(1)


def test_a_power_evens_out():
    numbers = np.array([1.0, 100.0])
    assert weigh(numbers, 1.0) == pytest.approx([2 / 101, 200 / 101])
    assert weigh(numbers, 0.5) == pytest.approx([2 / 11, 20 / 11])


def readings(sampling, reader, epoch):
    """How often each document is read in `epoch`, by id."""
    return {
        document["id"]: sampling.readings(group, document, epoch)
        for group in reader.row_groups
        for document in reader.documents(group, ("id",))
    }


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(first=st.integers(0, 10**6), epochs=st.integers(1, 12), seed=st.integers(0, 9))
def test_in_any_epochs_each_document_is_read_its_weight_rounded_up_or_down(weighted, first, epochs, seed):
    reader = ShardReader(weighted)
    sampling = Sampling(reader, "worth", 1.0, seed)
    column = columns.read_column(reader, "worth")
    numbers = np.concatenate([*column.values.values()])
    weights = weigh(numbers[~np.isnan(numbers)], 1.0)
    counts = Counter()
    for epoch in range(first, first + epochs):
        counts.update(readings(sampling, reader, epoch))
    for expected, count in zip(weights * epochs, counts.values(), strict=True):
        assert abs(count - expected) < 1 + 1e-4


def test_another_seed_and_another_epoch_choose_otherwise(weighted):
    reader = ShardReader(weighted)
    sampling = Sampling(reader, "worth", 1.0, 0)
    assert readings(sampling, reader, 0) != readings(sampling, reader, 1)
    assert readings(sampling, reader, 0) != readings(Sampling(reader, "worth", 1.0, 1), reader, 0)


def test_an_epoch_holds_each_document_as_often_as_it_is_read(weighted, texts):
    [rank] = loaders(weighted, config=CONFIG)
    reader = ShardReader(weighted)
    times = readings(rank.sampling, reader, 0)
    expected = Counter()
    for document in reader:
        for token in [*TOKENIZER.encode(document["text"]), TOKENIZER.endoftext]:
            expected[token] += times[document["id"]]
    found = Counter()
    for lane in rank._lanes.values():
        while True:
            _, targets, filled = next(lane)
            if lane.position[1][0].epoch > 0:
                break
            found.update(targets[:filled].tolist())
    assert found == expected


@pytest.mark.parametrize("size", [2, 3, 5])
def test_all_ranks_together_read_what_one_alone_reads(weighted, size):
    assert read(loaders(weighted, size, CONFIG), 12) == read(loaders(weighted, config=CONFIG), 12)


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(before=st.integers(0, 40), first=st.integers(1, 3), second=st.integers(1, 3))
def test_stopping_anywhere_and_going_on_with_other_ranks_changes_nothing(weighted, before, first, second):
    uninterrupted = loaders(weighted, config=CONFIG)
    read(uninterrupted, before)
    stopped = loaders(weighted, first, CONFIG)
    read(stopped, before)
    state = states(stopped)[0]
    resumed = loaders(weighted, second, CONFIG)
    for rank in resumed:
        rank.restore(state)
    assert read(resumed, 3) == read(uninterrupted, 3)
    assert states(resumed) == [states(uninterrupted)[0]] * second


def test_equal_numbers_change_nothing_of_the_order(write_corpus, texts, tmp_path):
    corpus = put(write_corpus(tmp_path, texts), [3.0] * 60)
    assert read(loaders(corpus, config=CONFIG), 12) == read(loaders(corpus), 12)


def test_one_document_alone_still_feeds_every_lane(write_corpus, texts, tmp_path):
    corpus = put(write_corpus(tmp_path, texts), [*[0.0] * 59, 1.0])
    [rank] = loaders(corpus, config=CONFIG)
    wanted = set(TOKENIZER.encode(texts[59])) | {TOKENIZER.endoftext}
    assert {
        token for step in read([rank], 3) for batch in step for row in batch[0] for token in row
    } <= wanted


def test_a_run_sampled_by_other_numbers_is_not_continued(weighted, write_corpus, texts, tmp_path):
    [rank] = loaders(weighted, config=CONFIG)
    other = put(write_corpus(tmp_path, texts, held_out=3), [1.0] * 60)
    [changed] = loaders(other, config=CONFIG)
    [unsampled] = loaders(weighted)
    with pytest.raises(CheckpointError, match=r"sample_by\.sha256 = [0-9a-f]{64}, not [0-9a-f]{64}"):
        check_identity(tmp_path, rank.identity, changed.identity)
    with pytest.raises(CheckpointError, match=r"sample_by\.sha256 = [0-9a-f]{64}, not None"):
        check_identity(tmp_path, rank.identity, unsampled.identity)


def test_a_documents_own_column_may_be_sampled_by(weighted):
    own = replace(CONFIG, sample_by="quality")
    assert read(loaders(weighted, config=own), 3) == read(loaders(weighted), 3)


def test_negative_numbers_are_refused(write_corpus, texts, tmp_path):
    put(write_corpus(tmp_path, texts), [*[1.0] * 59, -2.0])
    with pytest.raises(SamplingError, match=r"column 'worth' is -2.0 for a document: must not be negative"):
        loaders(tmp_path, config=CONFIG)


def test_nothing_but_zeros_is_refused(weighted):
    with pytest.raises(SamplingError, match="column 'karma' is 0 for every training document"):
        Sampling(ShardReader(weighted), "karma", 1.0, 0)


def test_a_column_there_is_not_is_refused(weighted):
    with pytest.raises(ShardError, match="no numbers called 'wroth'"):
        Sampling(ShardReader(weighted), "wroth", 1.0, 0)
