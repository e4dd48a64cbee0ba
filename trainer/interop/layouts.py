"""Which class of transformers a model is, and its config.json: one table, read in both directions.

A class has the choices of its preset, and of its sizes and the rest what its keys say. A model of any other
choice has no layout, so a choice that is new is refused by itself.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from tinylm.config import require
from trainer.model.architecture import PRESETS, ModelConfig, Preset, Refusal
from trainer.model.positions import LLAMA3_HIGH, LLAMA3_LOW


class LayoutError(ValueError):
    """A config.json that no `ModelConfig` says the same as; the message names the key and its value."""


class Layout(NamedTuple):
    """A class of transformers, and how its config.json says what a `ModelConfig` says."""

    preset: Preset
    """What a model of this class is to us, before the keys are read."""
    model_type: str
    architecture: str
    keys: Mapping[str, str]
    """Keys of config.json, and the field each stands for; two keys of one field must agree."""
    defaults: Mapping[str, Any]
    """What the class takes for a key that is not there."""
    fixed: Mapping[str, Any]
    """Keys with the one value that we know how to compute."""


# Keys of config.json and the field each stands for: Llama's, which others took over, mla's, and GPT-2's.
# DeepSeek's two widths of a head are one to us.
_LLAMA = {
    "vocab_size": "vocab_size",
    "hidden_size": "width",
    "intermediate_size": "hidden",
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "num_key_value_heads": "kv_heads",
    "head_dim": "head_width",
    "max_position_embeddings": "sequence_len",
    "rms_norm_eps": "norm_eps",
    "tie_word_embeddings": "tied_embeddings",
}
_LATENT = {
    "kv_lora_rank": "kv_rank",
    "qk_rope_head_dim": "rope_width",
    "qk_nope_head_dim": "head_width",
    "v_head_dim": "head_width",
}
_GPT2 = {
    "vocab_size": "vocab_size",
    "n_embd": "width",
    "n_inner": "hidden",
    "n_layer": "layers",
    "n_head": "heads",
    "n_positions": "sequence_len",
    "layer_norm_epsilon": "norm_eps",
    "tie_word_embeddings": "tied_embeddings",
}
# What transformers' classes take where a key is missing; other families' files often leave keys out.
_DEFAULTS = {"tie_word_embeddings": False, "rms_norm_eps": 1e-6}
_FIXED = {"hidden_act": "silu", "attention_bias": False}

LAYOUTS = (
    Layout(
        "llama",
        "llama",
        "LlamaForCausalLM",
        _LLAMA | {"attention_bias": "bias", "mlp_bias": "bias"},
        _DEFAULTS | {"attention_bias": False, "mlp_bias": False},
        {"hidden_act": "silu"},
    ),
    Layout(
        "qwen3",
        "qwen3",
        "Qwen3ForCausalLM",
        _LLAMA,
        _DEFAULTS | {"head_dim": 128},
        _FIXED | {"use_sliding_window": False},
    ),
    Layout("olmo2", "olmo2", "Olmo2ForCausalLM", _LLAMA, _DEFAULTS | {"rms_norm_eps": 1e-5}, _FIXED),
    Layout(
        "deepseek",
        "deepseek_v3",
        "DeepseekV3ForCausalLM",
        {key: field for key, field in _LLAMA.items() if key != "head_dim"} | _LATENT,
        _DEFAULTS,
        _FIXED | {"q_lora_rank": None, "rope_interleave": True},
    ),
    Layout(
        "gpt2",
        "gpt2",
        "GPT2LMHeadModel",
        _GPT2,
        {"tie_word_embeddings": True, "layer_norm_epsilon": 1e-5},
        {
            "activation_function": "gelu_new",
            "scale_attn_weights": True,
            "scale_attn_by_inverse_layer_idx": False,
            "add_cross_attention": False,
        },
    ),
)


def _nearest(c: ModelConfig) -> Preset:
    """The layout that a model is of, if it is of any."""
    if c.attention == "mla":
        return "deepseek"
    if c.norm_place == "output":
        return "olmo2"
    if c.positions == "learned":
        return "gpt2"
    return "qwen3" if c.qk_norm == "head" else "llama"


# Sizes that a class does not have, beside the choices that are not its preset's.
UNFIT = (
    Refusal(
        "kv_heads", lambda c: _nearest(c) == "gpt2" and c.kv_heads != c.heads, "GPT2LMHeadModel shares none"
    ),
    Refusal(
        "head_width",
        lambda c: _nearest(c) == "gpt2" and c.heads * c.head_width != c.width,
        "GPT2LMHeadModel has width / heads",
    ),
    Refusal(
        "heads",
        lambda c: _nearest(c) == "llama" and c.width % c.heads > 0,
        "LlamaForCausalLM wants them to divide width",
    ),
    Refusal(
        "norm_eps",
        lambda c: _nearest(c) == "deepseek" and c.norm_eps != 1e-6,
        "DeepseekV3ForCausalLM norms its compressed vector with 1e-6, whatever the others have",
    ),
)


def layout_of(config: ModelConfig) -> Layout:
    """The layout of a model; raises `ConfigError` naming the field because of which it has none."""
    layout = next(layout for layout in LAYOUTS if layout.preset == _nearest(config))
    for field, choice in PRESETS[layout.preset].items():
        if field in layout.keys.values():
            continue
        # mha and gqa are one to the classes, which are told kv_heads.
        known = (choice, "mha", "gqa") if field == "attention" else (choice,)
        rule = f"{layout.architecture}, the nearest class of transformers, has {choice}"
        require(config, field, getattr(config, field) in known, rule)
    for refusal in UNFIT:
        require(config, refusal.field, not refusal.when(config), refusal.rule)
    return layout


def to_json(config: ModelConfig) -> dict[str, Any]:
    """The config.json of a model, less its special tokens; raises `ConfigError` as `layout_of` does."""
    layout = layout_of(config)
    found: dict[str, Any] = {
        "architectures": [layout.architecture],
        "model_type": layout.model_type,
        "dtype": "float32",
        **{key: getattr(config, field) for key, field in layout.keys.items()},
        **layout.fixed,
    }
    if config.positions == "rotary":
        found |= _rope_to_json(config)
    if layout.preset == "deepseek":  # all layers dense, none that predicts further tokens
        found |= {"first_k_dense_replace": config.layers, "num_nextn_predict_layers": 0}
    if layout.preset == "gpt2":  # we have no dropout
        found |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return found


def from_json(found: Mapping[str, Any]) -> ModelConfig:
    """The shape that a config.json tells of.

    Raises `LayoutError` naming the key that we cannot compute, `ConfigError` for a shape that no model has.
    """
    layout = next((layout for layout in LAYOUTS if layout.model_type == found.get("model_type")), None)
    if layout is None:
        known = ", ".join(layout.model_type for layout in LAYOUTS)
        raise LayoutError(f"model_type = {found.get('model_type')!r}: must be one of {known}")
    _check(found, layout)
    fields: dict[str, Any] = {"preset": layout.preset}
    for key, field in layout.keys.items():
        value = found.get(key)
        value = layout.defaults.get(key) if value is None else value
        if fields.setdefault(field, value) != value:
            raise LayoutError(
                f"{key} = {value!r}: must be {fields[field]!r}, as others are that we have as one"
            )
    # Sizes that follow from others may be missing, or null; all others have to be said.
    for field in [field for field, value in fields.items() if value is None]:
        if field not in ("head_width", "kv_heads", "hidden"):
            raise LayoutError(f"no {next(key for key in layout.keys if layout.keys[key] == field)} in it")
        del fields[field]
    hidden = fields.pop("hidden", 4 * fields["width"])
    if layout.preset != "deepseek":
        fields.setdefault("kv_heads", fields["heads"])
    rope = _rope_from_json(found) if layout.preset != "gpt2" else {}
    config = ModelConfig(**fields, **rope, mlp_ratio=hidden / fields["width"])
    layout_of(config)
    return config


def _check(found: Mapping[str, Any], layout: Layout) -> None:
    """Raise `LayoutError` for what the class computes and we do not."""
    for key, value in layout.fixed.items():
        if found.get(key, value) != value:
            raise LayoutError(f"{key} = {found[key]!r}: only {value!r} is known here")
    if found.get("quantization_config"):
        raise LayoutError("quantization_config: only plain weights are read")
    for kind in found.get("layer_types") or ():
        if kind != "full_attention":
            raise LayoutError(f"layer_types: {kind!r} is not known here")
    if layout.preset == "deepseek" and found.get("first_k_dense_replace", 0) < found["num_hidden_layers"]:
        raise LayoutError(
            f"first_k_dense_replace = {found.get('first_k_dense_replace')}: experts are not known here"
        )


def _rope_to_json(config: ModelConfig) -> dict[str, Any]:
    """As transformers 5 writes it, and as 4 and other programs read it."""
    if config.rope_scaling == "none":
        scaling = None
        parameters: dict[str, Any] = {"rope_type": "default"}
    else:
        parameters = scaling = {"rope_type": config.rope_scaling, "factor": config.rope_factor}
    if config.rope_scaling == "llama3":
        parameters |= {
            "low_freq_factor": LLAMA3_LOW,
            "high_freq_factor": LLAMA3_HIGH,
            "original_max_position_embeddings": config.rope_original_len,
        }
    theta = {"rope_theta": config.rope_theta}
    return {"rope_parameters": parameters | theta, "rope_scaling": scaling, **theta}


def _rope_from_json(found: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of the rotation, of either form."""
    rope = {"rope_theta": found.get("rope_theta") or 10_000.0}
    rope |= found.get("rope_parameters") or found.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "linear", "llama3"):
        raise LayoutError(f"rope_type = {kind!r}: only default, linear and llama3 are known here")
    # Rotating a part of each head (GPT-NeoX, Phi) is what we do in mla alone.
    partial = rope.get("partial_rotary_factor", found.get("partial_rotary_factor")) or 1.0
    if partial != 1:
        raise LayoutError(f"partial_rotary_factor = {partial}: all of a head is rotated here")
    fields: dict[str, Any] = {"rope_theta": float(rope["rope_theta"])}
    if kind == "default" or rope["factor"] == 1:  # a factor of 1 scales nothing
        return fields
    fields |= {"rope_scaling": kind, "rope_factor": float(rope["factor"])}
    if kind == "llama3":
        for key, value in (("low_freq_factor", LLAMA3_LOW), ("high_freq_factor", LLAMA3_HIGH)):
            if rope[key] != value:
                raise LayoutError(f"{key} = {rope[key]}: only {value} is known here")
        fields["rope_original_len"] = int(rope["original_max_position_embeddings"])
    return fields
