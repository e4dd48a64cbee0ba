"""A model for each choice of `trainer.model.architecture`: the default with one change, and the presets."""

from typing import Any

CHOICES: dict[str, dict[str, Any]] = {
    "default": {},
    "norm layer": {"norm": "layer"},
    "norm batch": {"norm": "batch"},
    "place post": {"norm_place": "post"},
    "place output": {"norm_place": "output"},
    "place sandwich": {"norm_place": "sandwich"},
    "positions learned": {"positions": "learned"},
    "positions sinusoidal": {"positions": "sinusoidal"},
    "positions alibi": {"positions": "alibi"},
    "positions none": {"positions": "none"},
    "rotary, linear scaling": {"rope_scaling": "linear", "rope_factor": 2.0},
    "rotary, llama3 scaling": {"rope_scaling": "llama3", "rope_factor": 2.0, "rope_original_len": 128},
    "attention mha": {"attention": "mha"},
    "attention mqa": {"kv_heads": 1},
    "attention mla": {"attention": "mla", "qk_norm": "none"},
    "qk_norm none": {"qk_norm": "none"},
    "qk_norm whole": {"qk_norm": "whole"},
    "mlp gelu": {"mlp": "gelu", "mlp_ratio": 4.5},
    "biases": {"bias": True},
    "untied": {"tied_embeddings": False},
    "preset llama": {"preset": "llama"},
    "preset gpt2": {"preset": "gpt2"},
    "preset olmo2": {"preset": "olmo2"},
    "preset deepseek": {"preset": "deepseek"},
}
"""What is changed of the default, by name; each field's every value is in at least one of them."""
