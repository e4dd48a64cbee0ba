"""The learning rate takes the course that was asked for; only matrices decay."""

import pytest
import torch

from trainer.config import ModelConfig, TrainConfig
from trainer.model.model import GPT
from trainer.run.distributed import World
from trainer.run.optim import Optimizer, adamw, clip, learning_rate, newton_schulz


def course(**changes):
    config = TrainConfig(learning_rate=1.0, **changes)
    return [learning_rate(step, 100, round(100 * config.warmup), config) for step in range(100)]


def test_wsd_warms_up_stays_and_falls():
    rates = course(warmup=0.1, decay=0.2)
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[10:81] == [1.0] * 71
    assert rates[80:] == pytest.approx([(100 - step) / 20 for step in range(80, 100)])


def test_the_cosine_falls_from_the_peak_to_almost_nothing():
    rates = course(warmup=0.1, schedule="cosine")
    assert max(rates) == rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 0.001


@pytest.mark.parametrize("schedule", ["wsd", "cosine"])
def test_no_step_is_wasted_on_a_rate_of_zero(schedule):
    assert min(course(warmup=0.0, decay=0.0, schedule=schedule)) > 0


def test_norms_do_not_decay():
    model = GPT(ModelConfig(vocab_size=300, width=16, layers=1, heads=2, kv_heads=1))
    decayed, others = adamw(dict(model.named_parameters()), TrainConfig(weight_decay=0.3)).param_groups
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.3, 0.0)
    assert all(parameter.dim() == 2 for parameter in decayed["params"])
    assert sum(p.numel() for group in (decayed, others) for p in group["params"]) == model.parameters_count


def test_a_long_gradient_is_cut_and_a_short_one_left():
    layer = torch.nn.Linear(3, 1, bias=False)
    layer.weight.grad = torch.full((1, 3), 2.0)
    assert float(clip(layer, 0.0)) == pytest.approx(12**0.5)
    assert float(layer.weight.grad.norm()) == pytest.approx(12**0.5)
    clip(layer, 1.0)
    assert float(layer.weight.grad.norm()) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("shape", [(3, 8, 24), (2, 24, 8), (1, 16, 16)])
def test_newton_schulz_makes_all_singular_values_about_one(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    done = newton_schulz(matrices, torch.float32)
    values = torch.linalg.svdvals(done)
    assert values.min() > 0.3
    assert values.max() < 1.3
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    cosine = torch.cosine_similarity(done.flatten(1), (u @ v).flatten(1))
    assert cosine.min() > 0.95


def test_newton_schulz_of_one_is_that_of_many():
    matrices = torch.randn(3, 8, 24)
    many = newton_schulz(matrices, torch.float32)
    alone = torch.cat([newton_schulz(matrix[None], torch.float32) for matrix in matrices])
    torch.testing.assert_close(many, alone, rtol=1e-4, atol=1e-5)


def test_muon_takes_the_matrices_in_the_layers_and_no_others():
    model = GPT(ModelConfig(vocab_size=300, width=16, layers=1, heads=2, kv_heads=1))
    names = set(Optimizer(model, TrainConfig(optimizer="muon"), World()).tensors())
    assert "momentum.layers.0.mlp.up_proj.weight" in names
    assert "exp_avg.layers.0.mlp.up_proj.weight" not in names
    assert {"exp_avg.embed_tokens.weight", "exp_avg_sq.layers.0.input_layernorm.weight"} < names


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_an_update_has_about_the_size_of_the_learning_rate(optimizer):
    """So one learning rate fits both: a fifth of it, as root mean square, is what AdamW settles at."""
    model = GPT(ModelConfig(vocab_size=300, width=16, layers=1, heads=2, kv_heads=1))
    optimizer = Optimizer(model, TrainConfig(optimizer=optimizer, weight_decay=0.0), World())
    weight = model.layers[0].mlp.up_proj.weight
    before = weight.detach().clone()
    weight.grad = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    optimizer.step(0.01)
    assert 0.001 < (weight - before).square().mean().sqrt() < 0.011
