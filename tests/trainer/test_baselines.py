"""The baselines are what their names say."""

import lzma
import math
from random import Random

import numpy as np
import pytest

from trainer.data.batch import IGNORE
from trainer.evaluate import Bigram, baselines
from trainer.tokenizer import Tokenizer

TEXT = "The server reads the queue and the reader writes 12 rows. "
TOKENIZER = Tokenizer.train([TEXT * 3], 300)


def rows(text):
    """`text` as one training row."""
    tokens = [TOKENIZER.endoftext, *TOKENIZER.encode(text)]
    return np.array([tokens[:-1]]), np.array([tokens[1:]])


def test_probabilities_of_what_may_follow_add_up_to_one():
    random = np.random.default_rng(0)
    tokens, following = random.integers(0, 50, (2, 1000))
    bigram = Bigram(tokens[tokens < 40], following[tokens < 40], 60)
    assert bigram.unigram.sum() == pytest.approx(1)
    for token in range(60):  # also those never seen
        assert bigram(np.full(60, token), np.arange(60)).sum() == pytest.approx(1)


def test_a_bigram_weighs_what_it_saw_by_witten_and_bell():
    bigram = Bigram(np.array([1, 1, 1, 2]), np.array([2, 2, 3, 1]), 4)
    [seen] = bigram(np.array([1]), np.array([2]))
    assert seen == pytest.approx((2 + 2 * bigram.unigram[2]) / (3 + 2))


def test_uniform_costs_the_logarithm_of_the_vocabulary():
    found = baselines(*rows(TEXT), [TEXT], TOKENIZER)
    expected = len(TOKENIZER.encode(TEXT)) * math.log2(TOKENIZER.vocab_size) / len(TEXT)
    assert found["uniform"] == pytest.approx(expected)


def test_knowing_more_helps_on_text_of_a_kind():
    random = Random(0)
    words = ["parser", "server", "queue", "reads", "writes", "the", "a", "row", ".", ","]
    known, new = (" ".join(random.choices(words, k=2000)) for _ in range(2))
    found = baselines(*rows(known), [new], TOKENIZER)
    assert found["uniform"] > found["unigram"] > found["bigram"]


def test_xz_pays_almost_nothing_for_text_it_has_seen():
    random = Random(0)
    text = "".join(chr(random.randrange(32, 127)) for _ in range(5000))
    assert baselines(*rows(text), [text], TOKENIZER)["xz -9"] < 0.1
    assert baselines(*rows(text), [text[::-1]], TOKENIZER)["xz -9"] > 6


def test_xz_is_measured_by_the_growth_of_its_output():
    known, new = TEXT * 5, "Something else, which is new."
    grown = len(lzma.compress((known + new).encode(), preset=9)) - len(
        lzma.compress(known.encode(), preset=9)
    )
    assert baselines(*rows(known), [new], TOKENIZER)["xz -9"] == 8 * grown / len(new)


def test_padding_is_no_text():
    ids, targets = rows(TEXT * 3)
    padded = np.pad(ids, ((0, 0), (0, 9))), np.pad(targets, ((0, 0), (0, 9)), constant_values=IGNORE)
    assert baselines(*padded, [TEXT], TOKENIZER) == baselines(ids, targets, [TEXT], TOKENIZER)
