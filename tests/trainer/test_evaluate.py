"""Bits per byte are exact where they can be known, and the same for any number of ranks."""

import math
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.reader import ShardReader
from trainer.config import ModelConfig
from trainer.evaluate import bits_per_byte, held_out_texts
from trainer.model.model import GPT
from trainer.run.distributed import World
from trainer.tokenizer import Tokenizer

TOKENIZER = Tokenizer.train(["The server reads the queue and the reader writes 12 rows."] * 3, 300)
SHAPE = ModelConfig(vocab_size=TOKENIZER.vocab_size, sequence_len=16, width=16, layers=1, heads=2, kv_heads=1)


def model(uniform=False):
    torch.manual_seed(0)
    made = GPT(SHAPE)
    if uniform:
        torch.nn.init.zeros_(made.norm.weight)
    return made


@settings(max_examples=30)
@given(st.lists(st.text(min_size=1, max_size=80), min_size=1, max_size=5))
def test_a_model_that_knows_nothing_needs_the_logarithm_of_the_vocabulary_a_token(texts):
    tokens = sum(len(TOKENIZER.encode(text)) for text in texts)
    size = sum(len(text.encode()) for text in texts)
    expected = tokens * math.log2(TOKENIZER.vocab_size) / size
    assert bits_per_byte(model(uniform=True), TOKENIZER, texts) == pytest.approx(expected, rel=1e-5)


@torch.no_grad()
def test_a_short_text_costs_what_its_tokens_cost():
    text = "the reader"
    ids = torch.tensor([[TOKENIZER.endoftext, *TOKENIZER.encode(text)]])
    log_p = model()(ids[:, :-1]).log_softmax(-1).gather(2, ids[:, 1:, None])
    expected = -float(log_p.sum()) / math.log(2) / len(text)
    assert bits_per_byte(model(), TOKENIZER, [text]) == pytest.approx(expected, rel=1e-5)


def test_an_empty_text_among_others_costs_nothing():
    texts = ["The reader reads.", "", "The writer writes."]
    assert bits_per_byte(model(), TOKENIZER, texts) == bits_per_byte(model(), TOKENIZER, [texts[0], texts[2]])


@dataclass(frozen=True)
class Part(World):
    """A rank whose sum over all ranks is its own part."""

    def sum(self, tensor):
        return tensor


def test_the_parts_of_the_ranks_add_up_to_the_whole():
    texts = [f"The reader reads row {number} of the queue. " * 9 for number in range(9)]
    parts = [bits_per_byte(model(), TOKENIZER, texts, Part(rank=rank, size=3)) for rank in range(3)]
    assert min(parts) > 0
    assert sum(parts) == pytest.approx(bits_per_byte(model(), TOKENIZER, texts))


@pytest.mark.parametrize("most", [10, 500, 10**6])
def test_held_out_text_is_bounded_and_only_held_out(corpus, texts, most):
    found = held_out_texts(ShardReader(corpus, split="held_out"), most)
    assert 0 < sum(len(text.encode()) for text in found) <= most
    assert all(any(text.startswith(part) for text in texts[:3]) for part in found)
    if most == 10**6:
        assert found == texts[:3]


def test_a_corpus_that_holds_nothing_out_has_no_held_out_text(write_corpus, texts, tmp_path):
    corpus = write_corpus(tmp_path, texts[:9])
    assert held_out_texts(ShardReader(corpus, split="held_out"), 1000) == []


def test_measuring_leaves_no_trace_in_a_model_in_training():
    """Batch norm keeps averages of what it was trained on; held-out text is none of that."""
    trained = GPT(replace(SHAPE, norm="batch"))
    before = {name: tensor.clone() for name, tensor in trained.state_dict().items()}
    bits_per_byte(trained, TOKENIZER, ["The server reads 7 rows."])
    assert trained.training
    assert all(torch.equal(before[name], tensor) for name, tensor in trained.state_dict().items())
