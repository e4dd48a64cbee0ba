"""The model: a decoder-only transformer in the Qwen3 layout (arXiv 2505.09388), in one file.

RMSNorm before each sublayer, rotary positions, grouped-query attention with per-head QK-norm, SwiGLU.
Parameters carry the names of transformers' Qwen3ForCausalLM less its `model.` prefix, so an export only
renames. A training step costs about 6 FLOPs per parameter and token, plus attention.

Shapes in comments: B rows, T positions, S positions in the cache and the row together, C width,
H query heads, K key/value heads, D head width, V vocabulary, N = B * T.
"""

import math
from typing import Any, overload

import torch
import torch.nn.functional as F  # noqa: N812 (the name everyone knows)
from torch import Tensor, nn

from trainer.config import ModelConfig

IGNORE = -100
"""Target of a position that is not to be predicted."""

_LOGITS_AT_ONCE = 2**19


class KVCache:
    """Keys and values of the positions seen so far, allocated once for `sequence_len` positions."""

    def __init__(self, config: ModelConfig, batch: int, device: torch.device | str = "cpu") -> None:
        shape = (config.layers, batch, config.kv_heads, config.sequence_len, config.head_width)
        self.keys = torch.zeros(shape, device=device)
        self.values = torch.zeros(shape, device=device)
        self.length = 0

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store (B, K, T, D) after the `length` positions held; returns all of the layer's (B, K, S, D)."""
        end = self.length + keys.size(2)
        self.keys[layer, :, :, self.length : end] = keys
        self.values[layer, :, :, self.length : end] = values
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]


class RMSNorm(nn.Module):
    """x / rms(x) * weight (arXiv 1910.07467); spelled out, as torch's kernel takes 2.4x the time on a CPU."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weight


class Attention(nn.Module):
    """Causal self-attention; heads share keys and values in groups (GQA, arXiv 2305.13245)."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.head_width = config.head_width
        kv_width = config.kv_heads * config.head_width
        self.q_proj = nn.Linear(config.width, config.width, bias=False)
        self.k_proj = nn.Linear(config.width, kv_width, bias=False)
        self.v_proj = nn.Linear(config.width, kv_width, bias=False)
        self.o_proj = nn.Linear(config.width, config.width, bias=False)
        self.q_norm = RMSNorm(config.head_width, config.norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(config.head_width, config.norm_eps) if config.qk_norm else nn.Identity()

    def forward(
        self, x: Tensor, rotary: tuple[Tensor, Tensor], cache: KVCache | None, mask: Tensor | None
    ) -> Tensor:
        q = _rotate(self.q_norm(self._heads(self.q_proj(x))), *rotary)  # (B, H, T, D)
        k = _rotate(self.k_norm(self._heads(self.k_proj(x))), *rotary)  # (B, K, T, D)
        v = self._heads(self.v_proj(x))
        if cache is not None:
            k, v = cache.extend(self.layer, k, v)
        y = _attend(q, k, v, mask)  # (B, H, T, D)
        projected: Tensor = self.o_proj(y.transpose(1, 2).flatten(2))
        return projected

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], -1, self.head_width).transpose(1, 2)


class SwiGLU(nn.Module):
    """Gated feed-forward layer (arXiv 2002.05202)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.width, config.hidden, bias=False)
        self.up_proj = nn.Linear(config.width, config.hidden, bias=False)
        self.down_proj = nn.Linear(config.hidden, config.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return y


class Block(nn.Module):
    """One layer: what attention, then the feed-forward layer, make of x is added to x."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.width, config.norm_eps)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = RMSNorm(config.width, config.norm_eps)
        self.mlp = SwiGLU(config)

    def forward(
        self, x: Tensor, rotary: tuple[Tensor, Tensor], cache: KVCache | None, mask: Tensor | None
    ) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), rotary, cache, mask)
        gated: Tensor = self.mlp(self.post_attention_layernorm(x))
        return x + gated


class GPT(nn.Module):
    """The language model: token ids in; logits, or the loss of given targets, out."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.width)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        self.norm = RMSNorm(config.width, config.norm_eps)
        self.lm_head = nn.Linear(config.width, config.vocab_size, bias=False)
        if config.tied_embeddings:
            self.lm_head.weight = self.embed_tokens.weight
        cos, sin = _rotary_tables(config)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self._initialise()

    @overload
    def forward(
        self, ids: Tensor, targets: Tensor, *, segments: Tensor | None = None
    ) -> tuple[Tensor, Tensor]: ...
    @overload
    def forward(self, ids: Tensor, targets: None = None, cache: KVCache | None = None) -> Tensor: ...
    def forward(
        self,
        ids: Tensor,
        targets: Tensor | None = None,
        cache: KVCache | None = None,
        *,
        segments: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Logits (B, T, V) of `ids` (B, T); or, given `targets` (B, T), (sum of the losses in nats, count).

        Targets equal to `IGNORE` are left out of both. With a `cache`, `ids` are the positions after those
        it holds, which are attended to, and it grows by T. With `segments` (B, T), positions attend to those
        of their own segment only, as if it stood alone (positions being relative). Raises `ValueError` past
        `sequence_len`.
        """
        start = cache.length if cache is not None else 0
        end = start + ids.size(1)
        if end > self.config.sequence_len:
            raise ValueError(f"{end} positions in a model of sequence_len = {self.config.sequence_len}")
        rotary = (self.cos[start:end], self.sin[start:end])
        mask = _within(segments) if segments is not None else None
        x = self.embed_tokens(ids)  # (B, T, C)
        for block in self.layers:
            x = block(x, rotary, cache, mask)
        x = self.norm(x)
        if cache is not None:
            cache.length = end
        if targets is None:
            logits: Tensor = self.lm_head(x)
            return logits
        loss = _ChunkedCrossEntropy.apply(x.flatten(0, 1), self.lm_head.weight, targets.flatten())  # type: ignore[no-untyped-call]
        return loss, (targets != IGNORE).sum()

    @property
    def parameters_count(self) -> int:
        """Parameters, tied ones once."""
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def flops_per_token(self) -> float:
        """FLOPs of training on one token: 6 a weight in a product, 6 * T * C a layer for causal attention."""
        lookup = 0 if self.config.tied_embeddings else self.embed_tokens.weight.numel()
        attention = 6 * self.config.layers * self.config.width * self.config.sequence_len
        return 6 * (self.parameters_count - lookup) + attention

    def _initialise(self) -> None:
        """Normal, deviation 1 / sqrt(inputs); zero for what is added to the residual stream (as in muP).

        At first the blocks do nothing and the model is one of bigrams. Measured on 0.4 M tokens: 2.41 bits
        per byte of held-out text, against 2.80 with GPT-2's initialisation.
        """
        for name, parameter in self.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                nn.init.zeros_(parameter)
            elif parameter.dim() == 2:
                nn.init.normal_(parameter, std=1 / math.sqrt(parameter.size(1)))


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Sum of the cross entropies of x @ weight.T, without ever holding all N * V logits.

    The gradient is computed together with the loss, a chunk of rows at a time (as Liger Kernel does,
    arXiv 2410.10989); chunks that stay in the processor's cache make it twice as fast as the plain way.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        rows = max(16, _LOGITS_AT_ONCE // len(weight))
        wanted = any(ctx.needs_input_grad)
        loss = torch.zeros((), dtype=torch.float32, device=x.device)
        grad_x = torch.empty_like(x) if wanted else None
        grad_weight = torch.zeros_like(weight) if wanted else None
        for start in range(0, len(x), rows):
            chunk, target = x[start : start + rows], targets[start : start + rows]
            log_p = F.log_softmax(F.linear(chunk, weight).float(), dim=-1)  # (rows, V)
            loss += F.nll_loss(log_p, target, ignore_index=IGNORE, reduction="sum")
            if grad_x is not None and grad_weight is not None:
                grad_logits = _logits_gradient(log_p, target).to(weight.dtype)
                torch.mm(grad_logits, weight, out=grad_x[start : start + rows])
                grad_weight.addmm_(grad_logits.t(), chunk)
        if wanted:
            ctx.save_for_backward(grad_x, grad_weight)
        return loss

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor, Tensor, None]:
        grad_x, grad_weight = ctx.saved_tensors
        return grad_x * grad_loss, grad_weight * grad_loss, None


def _logits_gradient(log_p: Tensor, target: Tensor) -> Tensor:
    """softmax - onehot, and zero in ignored rows; overwrites `log_p` (rows, V)."""
    kept = (target != IGNORE).unsqueeze(1)
    gradient = log_p.exp_()
    gradient.scatter_add_(1, target.clamp(min=0).unsqueeze(1), -torch.ones_like(kept, dtype=gradient.dtype))
    return gradient.mul_(kept)


def _rotary_tables(config: ModelConfig) -> tuple[Tensor, Tensor]:
    """Cosines and sines (sequence_len, D / 2) of the rotary embedding (arXiv 2104.09864)."""
    exponents = torch.arange(0, config.head_width, 2, dtype=torch.float32) / config.head_width
    positions = torch.arange(config.sequence_len, dtype=torch.float32)
    angles = torch.outer(positions, config.rope_theta**-exponents)
    return angles.cos(), angles.sin()


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (i, i + D / 2) of x (B, heads, T, D) by their position's angles."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


def _within(segments: Tensor) -> Tensor:
    """Mask (B, 1, T, T) of causal attention inside each of the `segments` (B, T)."""
    return (segments.unsqueeze(2) == segments.unsqueeze(1)).tril().unsqueeze(1)


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Attention of the last T of S positions, causal or by `mask`; q (B, H, T, D), k and v (B, K, S, D)."""
    new, total = q.size(2), k.size(2)
    if mask is not None:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
    if new == 1 or new == total:
        return F.scaled_dot_product_attention(q, k, v, is_causal=new > 1, enable_gqa=True)
    mask = torch.ones(new, total, dtype=torch.bool, device=q.device).tril(total - new)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
