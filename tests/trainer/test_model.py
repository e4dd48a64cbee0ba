"""The model's loss is the textbook's, its start unsure, its limits kept; test_choices has what it sees."""

import math

import pytest
import torch

from tests.trainer.foreign import shaped
from trainer.config import ModelConfig
from trainer.data.batch import IGNORE
from trainer.model.model import GPT, KVCache

SIZES = {"vocab_size": 300, "sequence_len": 24, "width": 32, "layers": 2, "heads": 4, "kv_heads": 2}


def make(**changes):
    return shaped(ModelConfig(**{**SIZES, **changes}))


def tokens(rows=3, length=24):
    return torch.randint(300, (rows, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("shape", [{}, {"tied_embeddings": False}, {"qk_norm": "none"}, {"kv_heads": 4}])
def test_the_loss_and_its_gradient_are_those_of_plain_cross_entropy(shape, monkeypatch):
    monkeypatch.setattr("trainer.model.loss.LOGITS_AT_ONCE", 300 * 17)  # chunks that do not divide the rows
    model, ids = make(**shape), tokens()
    targets = tokens(length=25)[:, 1:].clone()
    targets[1, 3:9] = IGNORE
    loss, count = model(ids, targets)
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    logits = model(ids).flatten(0, 1)
    plain = torch.nn.functional.cross_entropy(logits, targets.flatten(), ignore_index=IGNORE, reduction="sum")
    plain.backward()
    assert count == (targets != IGNORE).sum()
    torch.testing.assert_close(loss, plain)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, msg=name, rtol=1e-4, atol=1e-4)


def test_a_row_without_targets_has_no_loss_and_no_gradient():
    model = make()
    loss, count = model(tokens(), torch.full((3, 24), IGNORE))
    loss.backward()
    assert (loss.item(), count.item()) == (0.0, 0)
    assert all(not p.grad.any() for p in model.parameters())


def test_a_new_model_guesses_with_little_confidence():
    torch.manual_seed(0)
    loss, count = GPT(ModelConfig(**SIZES))(tokens(), tokens().flip(0, 1))
    assert loss.item() / count.item() == pytest.approx(math.log(300), abs=1.5)


def test_more_positions_than_the_model_has_are_refused():
    with pytest.raises(ValueError, match="25 positions in a model of sequence_len = 24"):
        make()(tokens(length=25))
    cache = KVCache(make().config, batch=3)
    make()(tokens(length=20), cache=cache)
    with pytest.raises(ValueError, match="25 positions"):
        make()(tokens(length=5), cache=cache)


@torch.no_grad()
def test_attention_depends_on_distance_not_on_place():
    """Rotary positions: with the same text before it, a token's logits do not change when all of it moves."""
    model = make(layers=1)
    ids = tokens(rows=1, length=8)
    there = (model.cos, model.sin)
    here = model(ids)
    model.cos, model.sin = (table.roll(-5, 0) for table in there)
    torch.testing.assert_close(model(ids), here, rtol=1e-4, atol=1e-5)


def test_tied_parameters_are_counted_once():
    tied, untied = make(), make(tied_embeddings=False)
    assert untied.parameters_count - tied.parameters_count == 300 * 32
    assert tied.parameters_count == sum(p.numel() for p in tied.parameters())


def test_the_same_seed_makes_the_same_model():
    models = []
    for _ in range(2):
        torch.manual_seed(7)
        models.append(GPT(ModelConfig(**SIZES)).state_dict())
    one, other = models
    assert all(torch.equal(one[name], other[name]) for name in one)
