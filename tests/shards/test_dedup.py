"""MinHash estimates overlap, near-duplicates are found at the stated rate, and nothing is ever forgotten."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.text.dedup import (
    HELD_OUT,
    PERMUTATIONS,
    SEEN,
    SHINGLE,
    Bloom,
    Novelty,
    Sketch,
    bands,
    minhash,
    shingles,
    sketch,
)  # fmt: skip
from shards.text.signals import Signals
from tests.conftest import saved

KEYS = st.lists(st.integers(0, 2**64 - 1), max_size=200).map(lambda keys: np.array(keys, dtype=np.uint64))


def random_words(source, count):
    return source.integers(0, 2**32, count, dtype=np.uint32)


def pair(source, overlap, size=1000):
    """Two sets of hashed shingles whose Jaccard is `overlap`."""
    common = round(2 * size * overlap / (1 + overlap))
    one, other = (source.integers(0, 2**64, size, dtype=np.uint64) for _ in range(2))
    other[:common] = one[:common]
    return one, other


# MinHash


@pytest.mark.parametrize("overlap", [0.0, 0.2, 0.5, 0.72, 0.9, 1.0])
def test_the_share_of_equal_places_is_the_overlap(overlap):
    source = np.random.default_rng(1)
    shares = [
        float((minhash(one) == minhash(other)).mean())
        for one, other in (pair(source, overlap) for _ in range(200))
    ]
    spread = math.sqrt(overlap * (1 - overlap) / PERMUTATIONS)
    assert np.mean(shares) == pytest.approx(overlap, abs=4 * spread / math.sqrt(200) + 0.002)
    assert np.std(shares) == pytest.approx(spread, rel=0.25, abs=0.002)


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=50), st.randoms())
def test_a_signature_is_of_a_set(numbers, order):
    again = numbers * 2
    order.shuffle(again)
    one, other = np.array(numbers, dtype=np.uint64), np.array(again, dtype=np.uint64)
    assert (minhash(one) == minhash(other)).all()


def test_a_signature_of_a_long_text_is_made_block_by_block():
    hashes = np.random.default_rng(2).integers(0, 2**64, 10_000, dtype=np.uint64)
    parts = np.min([minhash(part) for part in np.array_split(hashes, 3)], axis=0)
    assert (minhash(hashes) == parts).all()


@given(st.lists(st.integers(0, 2**32 - 1), max_size=40))
def test_shingles_are_of_five_words_in_their_order(words):
    found = shingles(np.array(words, dtype=np.uint32))
    assert len(found) == max(1, len(words) - SHINGLE + 1)
    if len(words) > SHINGLE and words[0] != words[1]:
        swapped = np.array([words[1], words[0], *words[2:]], dtype=np.uint32)
        assert shingles(swapped)[0] != found[0]


@pytest.mark.parametrize(
    ("near", "overlap"), [*((SEEN, overlap) for overlap in (0.5, 0.72, 0.8, 0.9)), (HELD_OUT, 0.5)]
)
def test_pairs_share_a_band_as_often_as_is_stated(near, overlap):
    source = np.random.default_rng(3)
    count, rows = near
    wanted = 1 - (1 - overlap**rows) ** count
    found = np.mean(
        [
            (bands(minhash(one), *near) == bands(minhash(other), *near)).any()
            for one, other in (pair(source, overlap) for _ in range(1000))
        ]
    )
    assert found == pytest.approx(wanted, abs=4 * math.sqrt(wanted * (1 - wanted) / 1000) + 0.01)


# The filters


@given(st.lists(KEYS, max_size=12))
def test_what_was_added_is_always_found_and_goes_on_after_a_restart(batches):
    """With parts so small that they grow all the time."""
    bloom = Bloom(12, first=1 << 9)
    for keys in batches:
        bloom.add(keys)
    again = Bloom(12, first=1 << 9)
    again.restore(saved(bloom.state()))
    for keys in batches:
        assert bloom.has(keys).all()
        assert again.has(keys).all()
    assert again.state().keys() == bloom.state().keys()
    for name, value in bloom.state().items():
        assert np.array_equal(value, again.state()[name])


def test_texts_like_no_other_are_hardly_ever_taken_for_one_and_cost_what_is_stated():
    source = np.random.default_rng(4)
    novelty, wrong, shares = Novelty(), 0, []
    for _ in range(20_000):
        numbers = source.integers(0, 2**64, 14 + 44, dtype=np.uint64)
        new = Sketch(numbers[:14], numbers[14:])
        wrong += novelty.near_duplicate(new)
        shares.append(novelty.new_share(new))
        novelty.add(new)
    assert wrong <= 20_000 * 0.0002 * 3
    assert np.mean(shares) > 0.98
    assert sum(np.asarray(part).nbytes for part in novelty.state().values()) <= 20_000 * 220


def test_the_share_of_new_text_is_what_no_text_before_had():
    source = np.random.default_rng(5)
    novelty = Novelty()
    known = [random_words(source, 4000) for _ in range(3)]
    for words in known:
        novelty.add(of(words))
    for share in (0.0, 0.25, 0.5, 1.0):
        new = random_words(source, round(12_000 * share))
        old = np.concatenate(known)[: 12_000 - len(new)]
        assert novelty.new_share(of(np.concatenate((old, new)))) == pytest.approx(share, abs=0.06)


def of(words):
    grams = shingles(words)
    return Sketch(bands(minhash(grams), *SEEN), grams[grams < np.uint64((1 << 64) // 16)])


@given(st.text(max_size=200))
def test_a_text_is_a_near_duplicate_of_itself_and_brings_nothing_new(text):
    novelty, found = Novelty(), sketch(Signals(text))
    assert not novelty.near_duplicate(found)
    assert novelty.new_share(found) == 1
    novelty.add(found)
    assert novelty.near_duplicate(found)
    assert novelty.new_share(found) == (0 if len(found.sample) else 1)


def test_it_goes_on_where_it_stopped():
    source = np.random.default_rng(6)
    one, other = Novelty(), Novelty()
    one.add(of(random_words(source, 900)))
    other.restore(saved(one.state()))
    for _ in range(3):
        new = of(random_words(source, 900))
        one.add(new)
        other.add(new)
    for name, value in one.state().items():
        assert np.array_equal(value, other.state()[name])
