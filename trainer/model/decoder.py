"""The model as decoding on a CPU wants it: few operations, and weights laid out to be read once.

A token of a small model costs two things: reading every weight, and starting each operation. So query, key
and value are one product, as are gate and up; the weights of norms are multiplied into the matrices after
them; and matrices are stored by columns, which MKL reads twice as fast as rows, or in fp16, which halves what
is read (FBGEMM multiplies in fp32). docs/model.md has the measurements. What comes out is what
`trainer.model.model` gives, to rounding. The weights are copied.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 (the name everyone knows)
from torch import Tensor

from tinylm.config import require
from trainer.model.architecture import ModelConfig
from trainer.model.model import GPT, KVCache, attend
from trainer.model.positions import rotate, visible

Weights = Literal["fp32", "fp16"]
# A layer's matrices and norms, by transformers' names.
_NAMES = (
    "input_layernorm",
    "post_attention_layernorm",
    *(f"self_attn.{part}_proj" for part in "qkvo"),
    *(f"mlp.{part}_proj" for part in ("gate", "up", "down")),
)
# Rows (N, inputs) to rows (N, outputs).
Product = Callable[[Tensor], Tensor]


class _Layer(NamedTuple):
    qkv: Product
    """Width to all heads' queries, keys and values."""
    scales: Tensor | None
    """Weights of the norms of queries and keys (H + K, D)."""
    out: Product
    gate_up: Product
    down: Product


class Decoder:
    """A GPT of the Llama or Qwen3 layout, for inference on a CPU."""

    def __init__(self, model: GPT, weights: Weights = "fp32") -> None:
        """Raises `ConfigError` for another layout."""
        config = self.config = model.config
        require(
            config,
            "preset",
            fits(config),
            "only pre-normed rotary layouts, as llama and qwen3, have a Decoder",
        )
        # A tensor, as `_normed` adds to it in one operation with the squares.
        self._eps = torch.full((1, 1, 1), config.norm_eps)
        self._embeddings = model.embed_tokens.weight.detach()
        self._cos, self._sin = model.cos[:, None], model.sin[:, None]
        state = model.state_dict()
        self._layers = [_layer(number, state, config, weights) for number in range(config.layers)]
        # Norms have no weights left: they are in the columns of the matrices that read what is normed.
        self._head = _product(state["lm_head.weight"] * state["norm.weight"], weights)

    def __call__(self, ids: Tensor, cache: KVCache) -> Tensor:
        """Logits (B, T, V) of `ids` (B, T), the positions after those that `cache` holds; it grows by T."""
        config = self.config
        rows, new = ids.shape
        start, end = cache.length, cache.length + new
        if end > config.sequence_len:
            raise ValueError(f"{end} positions in a model of sequence_len = {config.sequence_len}")
        mask = None  # causal: every row begins at the first position and nothing was read before
        if cache.padding is not None or (new > 1 and start):
            mask = visible(new, end, None, cache.padding, ids.device)
        turn = self._cos[start:end], self._sin[start:end]
        heads, kv_heads, width = config.heads, config.kv_heads, config.head_width
        x = self._embeddings[ids.flatten()]  # (N, C)
        for number, layer in enumerate(self._layers):
            qkv = layer.qkv(self._normed(x)).view(rows, new, -1, width)  # (B, T, H + 2 K, D)
            qk, v = torch.split_with_sizes(qkv, [heads + kv_heads, kv_heads], dim=2)
            if layer.scales is not None:
                qk = self._normed(qk.reshape(-1, width)).view(qk.shape) * layer.scales
            q, k = torch.split_with_sizes(rotate(qk, *turn).transpose(1, 2), [heads, kv_heads], dim=1)
            k, v = cache.extend(number, k, v.transpose(1, 2))
            y = attend(q, k, v, mask)  # (B, H, T, D)
            x = x + layer.out(y.transpose(1, 2).reshape(-1, heads * width))
            gate, up = layer.gate_up(self._normed(x)).chunk(2, dim=-1)
            x = x + layer.down(F.silu(gate).mul_(up))
        cache.length = end
        return self._head(self._normed(x)).view(rows, new, -1)

    def _normed(self, x: Tensor) -> Tensor:
        """Rows x (N, C) by their root mean square, in three operations."""
        # eps + x @ x.T / C for each row: one operation for a square, a mean and a sum.
        squares = torch.baddbmm(self._eps, x.unsqueeze(1), x.unsqueeze(2), alpha=1 / x.size(1))
        return x * squares.rsqrt_().squeeze(2)


def fits(config: ModelConfig) -> bool:
    """Whether a `Decoder` can be made of such a model."""
    return (
        (config.norm, config.norm_place, config.positions, config.mlp) == ("rms", "pre", "rotary", "swiglu")
        and config.attention in ("mha", "gqa")
        and config.qk_norm in ("none", "head")
        and not config.bias
    )


def _layer(number: int, state: dict[str, Tensor], config: ModelConfig, weights: Weights) -> _Layer:
    """A block, of the tensors of the model's state."""
    tensors = {name: state[f"layers.{number}.{name}.weight"] for name in _NAMES}
    attention = [tensors[f"self_attn.{part}_proj"] for part in "qkv"]
    gate_up = torch.cat([tensors[f"mlp.{part}_proj"] for part in ("gate", "up")])
    scales = None
    if config.qk_norm == "head":
        q_norm, k_norm = (state[f"layers.{number}.self_attn.{part}_norm.weight"] for part in "qk")
        scales = torch.cat((q_norm.expand(config.heads, -1), k_norm.expand(config.kv_heads, -1)))
    return _Layer(
        qkv=_product(torch.cat(attention) * tensors["input_layernorm"], weights),
        scales=scales,
        out=_product(tensors["self_attn.o_proj"], weights),
        gate_up=_product(gate_up * tensors["post_attention_layernorm"], weights),
        down=_product(tensors["mlp.down_proj"], weights),
    )


def _product(weight: Tensor, weights: Weights) -> Product:
    """x @ weight.T, with the weight in the layout that is read fastest."""
    if weights == "fp16":
        packed = torch.ops.quantized.linear_prepack_fp16(weight, None)
        multiply = torch.ops.quantized.linear_dynamic_fp16.default
        return lambda x: multiply(x, packed)
    by_column = weight.t().contiguous()
    return lambda x: torch.mm(x, by_column)
