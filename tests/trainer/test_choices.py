"""What holds for every choice of the model: it is causal, and cache, padding and company change nothing."""

from dataclasses import fields, replace
from typing import get_args, get_type_hints

import pytest
import torch

from bench.architectures import CHOICES
from tests.trainer.foreign import shaped
from tinylm.errors import ConfigError
from trainer.model.architecture import PRESETS, ModelConfig
from trainer.model.model import GPT, KVCache

SIZES = {"vocab_size": 300, "sequence_len": 24, "width": 32, "layers": 2, "heads": 4}
every_choice = pytest.mark.parametrize("choice", CHOICES)


def make(choice, **changes):
    return shaped(ModelConfig(**{**SIZES, **CHOICES[choice], **changes}))


def tokens(rows=3, length=24):
    return torch.randint(300, (rows, length), generator=torch.Generator().manual_seed(1))


def same(one, other):
    """Equal to 1e-5 of the largest number there is."""
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5 * max(1.0, float(other.abs().max())))


def test_every_value_of_every_choice_is_tried():
    hints = get_type_hints(ModelConfig)
    made = [ModelConfig(**{**SIZES, **changes}) for changes in CHOICES.values()]
    for field in fields(ModelConfig):
        values = {
            value for part in (hints[field.name], *get_args(hints[field.name])) for value in get_args(part)
        }
        literal = {value for value in values if isinstance(value, str)}
        assert literal <= {getattr(config, field.name) for config in made}, field.name


def read_in(pieces, model, ids, **cache_settings):
    """Logits of `ids` read so many positions at a time, with a cache."""
    cache = KVCache(model.config, batch=len(ids), **cache_settings)
    logits = torch.cat([model(piece, cache=cache) for piece in ids.split(pieces, dim=1)], dim=1)
    assert cache.length == sum(pieces)
    return logits


@torch.no_grad()
@every_choice
def test_a_cache_changes_nothing_and_padding_on_the_left_neither(choice):
    model, ids = make(choice), tokens()
    together = model(ids)
    same(read_in([7, 1, 9, 1, 6], model, ids), together)
    padding = torch.tensor([0, 5, 11])
    padded = read_in([14, 1, 9], model, ids, padding=padding)
    for row, pad in enumerate(padding.tolist()):
        same(padded[row, pad:], model(ids[row : row + 1, pad:])[0])


@torch.no_grad()
@pytest.mark.parametrize("pieces", [[24], [1] * 24], ids=["at once", "one by one"])
@pytest.mark.parametrize("choice", ["default", "attention mla"])
def test_a_cache_may_be_filled_at_once_or_one_by_one(choice, pieces):
    model, ids = make(choice), tokens()
    same(read_in(pieces, model, ids), model(ids))


@torch.no_grad()
@every_choice
def test_a_position_sees_all_before_it_in_their_order_and_none_after_it(choice):
    """Order matters without positions too: what a token adds depends on what stood before the ones before."""
    model, ids = make(choice), tokens()
    before = model(ids)
    changed = ids.clone()
    changed[:, 10:] = (changed[:, 10:] + 1) % 300
    after = model(changed)
    same(before[:, :10], after[:, :10])
    assert not torch.allclose(before[:, 10:], after[:, 10:])
    swapped = model(ids[:, [1, 0, *range(2, 24)]])
    assert not torch.allclose(before[:, -1], swapped[:, -1], atol=1e-4)


@torch.no_grad()
@every_choice
def test_a_segment_is_read_as_if_it_stood_alone(choice):
    model, ids = make(choice), tokens()
    segments = torch.tensor([[0] * 9 + [1] * 15] * 3)
    targets = ids.roll(-1, 1)
    together, _ = model(ids, targets, segments=segments)
    apart = [
        model(part, target)[0]
        for part, target in zip(ids.split([9, 15], 1), targets.split([9, 15], 1), strict=True)
    ]
    torch.testing.assert_close(together, sum(apart), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("choice", "numbers"),
    [
        ("default", 2 * 2 * 8),
        ("attention mha", 2 * 4 * 8),
        ("attention mqa", 2 * 8),
        ("attention mla", 16 + 4),
    ],
)
def test_the_cache_holds_so_much_for_a_token(choice, numbers):
    model = make(choice)
    cache = KVCache(model.config, batch=3)
    assert cache.bytes_per_token == 4 * SIZES["layers"] * numbers
    assert cache.bytes_per_token == 4 * SIZES["layers"] * model.config.cached_per_token


@torch.no_grad()
def test_mla_decodes_from_what_is_compressed_alone():
    """Its cache is all it has of earlier tokens, and whole keys and values are never made."""
    model, ids = make("attention mla"), tokens()
    made = []
    for block in model.layers:
        block.self_attn.kv_b_proj.register_forward_hook(lambda *_: made.append(1))
    cache = KVCache(model.config, batch=3)
    logits = torch.cat([model(piece, cache=cache) for piece in ids.split(1, dim=1)], dim=1)
    assert not made
    same(logits, model(ids))
    assert made


def test_batch_norm_looks_ahead_in_training_and_depends_on_the_other_rows():
    ids = tokens()
    later, company = ids.clone(), ids.clone()
    later[:, 10:] = (later[:, 10:] + 1) % 300
    company[1:] = (company[1:] + 1) % 300
    for choice, leaks in (("default", False), ("norm layer", False), ("norm batch", True)):
        model = make(choice).train()
        with torch.no_grad():
            logits = model(ids)
            assert torch.allclose(logits[:, :10], model(later)[:, :10], atol=1e-3) != leaks
            assert torch.allclose(logits[0], model(company)[0], atol=1e-3) != leaks


@torch.no_grad()
def test_linear_scaling_squeezes_positions():
    """Scaled by two, every second position is where an unscaled model has them all."""
    plain, scaled = GPT(ModelConfig(**SIZES)), GPT(ModelConfig(**SIZES, **CHOICES["rotary, linear scaling"]))
    same(scaled.cos[::2], plain.cos[:12])


@torch.no_grad()
def test_llama3_scaling_keeps_short_wavelengths_and_squeezes_long_ones():
    settings = {
        "rope_scaling": "llama3",
        "rope_factor": 8.0,
        "rope_original_len": 8192,
        "rope_theta": 500_000.0,
    }
    sizes = SIZES | {"width": 256, "heads": 2}
    plain, scaled = (
        GPT(ModelConfig(**(sizes | {"rope_theta": 500_000.0} | more))) for more in ({}, settings)
    )
    angle, squeezed = (model.sin[1, 64:].asin() for model in (plain, scaled))
    assert torch.equal(angle[1:20], squeezed[1:20])
    same(angle[-20:] / 8, squeezed[-20:])


@pytest.mark.parametrize(
    ("preset", "depth"), [*((preset, 3) for preset in PRESETS), *(("qwen3", depth) for depth in (1, 2, 12))]
)
def test_one_dial_sets_the_size(preset, depth):
    config = ModelConfig(preset=preset, depth=depth)
    assert (config.layers, config.width, config.heads, config.head_width) == (depth, 64 * depth, depth, 64)
    assert ModelConfig(preset=preset, depth=depth, layers=2).layers == 2


def test_a_choice_made_wins_over_the_preset_and_a_config_is_a_config_again():
    config = ModelConfig(preset="gpt2", norm="rms", bias=False)
    assert (config.norm, config.bias, config.positions) == ("rms", False, "learned")
    assert replace(config, vocab_size=500) == ModelConfig(
        preset="gpt2", norm="rms", bias=False, vocab_size=500
    )


@pytest.mark.parametrize(
    ("field", "settings"),
    [
        ("heads", {"heads": 3, "kv_heads": 1, "width": 32}),
        ("heads", {"heads": 6, "width": 48, "positions": "alibi"}),
        ("kv_heads", {"kv_heads": 3}),
        ("kv_heads", {"kv_heads": 2, "attention": "mha"}),
        ("kv_heads", {"kv_heads": 2, "preset": "deepseek"}),
        ("kv_rank", {"kv_rank": 16}),
        ("rope_width", {"rope_width": 16}),
        ("attention", {"preset": "deepseek", "positions": "learned"}),
        ("qk_norm", {"attention": "mla"}),
        ("bias", {"preset": "deepseek", "bias": True}),
        ("head_width", {"head_width": 5}),
        ("width", {"width": 33, "head_width": 8, "positions": "sinusoidal"}),
        ("rope_scaling", {"preset": "gpt2", "rope_scaling": "linear", "rope_factor": 2}),
        ("rope_factor", {"rope_factor": 2}),
        ("rope_factor", {"rope_scaling": "linear"}),
        ("mlp_ratio", {"mlp_ratio": 0.001}),
        ("depth", {"depth": -1}),
    ],
)
def test_a_combination_that_cannot_work_is_refused_by_field(field, settings):
    with pytest.raises(ConfigError, match=f"^{field} = "):
        ModelConfig(**settings)
