"""The model: a decoder-only transformer, every choice of `trainer.model.architecture` in one file.

Parameters carry the names of transformers' classes for the same layout less their `model.` prefix (Qwen3,
Llama, Olmo2, Gemma3's norms, DeepseekV3), so an export only renames. A training step costs about 6 FLOPs per
parameter and token, plus attention.

Shapes in comments: B rows, T positions, S positions in the cache and the row together, C width,
H query heads, K key/value heads, D head width, R rotated width of mla, L its rank, V vocabulary, N = B * T.
"""

import math
from typing import NamedTuple, overload

import torch
import torch.nn.functional as F  # noqa: N812 (the name everyone knows)
from torch import Tensor, nn

from trainer.data.batch import IGNORE
from trainer.model.architecture import ModelConfig
from trainer.model.loss import Linear, cross_entropy
from trainer.model.positions import alibi_slopes, position_ids, rotary_tables, rotate, sinusoids, visible


class KVCache:
    """What attention needs of the positions seen so far, allocated once for `sequence_len` of them.

    A layer stores keys and values (B, K, S, D), or with mla the one vector (B, 1, S, L + R) they are made of.
    Rows may begin with `padding` (B,) positions that nothing looks at, so that they end together.
    """

    def __init__(
        self,
        config: ModelConfig,
        batch: int,
        device: torch.device | str = "cpu",
        padding: Tensor | None = None,
    ) -> None:
        latent = config.attention == "mla"
        heads, parts = (1, 1) if latent else (config.kv_heads, 2)
        width = config.cached_per_token // (heads * parts)
        # One block for all layers, views of it for each: allocated once, and never grown while decoding.
        self._held = torch.zeros(
            config.layers, parts, batch, heads, config.sequence_len, width, device=device
        )
        self._layers = [[self._held[layer, part] for part in range(parts)] for layer in range(config.layers)]
        self.padding = padding
        self.length = 0

    def extend(self, layer: int, *new: Tensor) -> list[Tensor]:
        """Store (B, K, T, D) of each part after the `length` positions held; returns all, (B, K, S, D)."""
        added = new[0].size(2)
        held = self._layers[layer]
        for part, rows in zip(held, new, strict=True):
            part.narrow(2, self.length, added).copy_(rows)
        return [part.narrow(2, 0, self.length + added) for part in held]

    @property
    def bytes_per_token(self) -> int:
        """Memory for one position of one row, in all layers."""
        return self._held.nbytes // (self._held.size(2) * self._held.size(4))


class Sight(NamedTuple):
    """What the positions of one forward pass see of each other and of those before them."""

    rotary: tuple[Tensor, Tensor] | None
    """Factors of `rotate` (T, D), if positions are rotary."""
    mask: Tensor | None
    """Boolean, or added to the attention logits; (1 or B, 1 or H, T, S). None: all that is not later."""
    cache: KVCache | None

    def turned(self, x: Tensor) -> Tensor:
        """Queries or keys x (B, heads, T, D) by their positions."""
        return rotate(x, *self.rotary) if self.rotary else x


class RMSNorm(nn.Module):
    """x / rms(x) * weight (arXiv 1910.07467); spelled out, as torch's kernel takes 2.4x the time on a CPU."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.weight


class BatchNorm(nn.BatchNorm1d):
    """Each channel by its mean and variance over all tokens of the batch; by running averages in evaluation.

    In training a token's output so depends on later tokens and on the other rows: see docs/model.md.
    """

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(0, -2)).view_as(x)


def norm(config: ModelConfig) -> nn.Module:
    """The norm of a residual stream (B, T, C)."""
    if config.norm == "layer":  # the one norm that has a bias, where matrices have one
        return nn.LayerNorm(config.width, config.norm_eps, bias=bool(config.bias))
    return (BatchNorm if config.norm == "batch" else RMSNorm)(config.width, config.norm_eps)


class Attention(nn.Module):
    """Causal self-attention; heads share keys and values in groups (GQA, arXiv 2305.13245)."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.head_width = config.head_width
        q_width, kv_width = config.heads * config.head_width, config.kv_heads * config.head_width
        self.q_proj = Linear(config.width, q_width, bias=bool(config.bias))
        self.k_proj = Linear(config.width, kv_width, bias=bool(config.bias))
        self.v_proj = Linear(config.width, kv_width, bias=bool(config.bias))
        self.o_proj = Linear(q_width, config.width, bias=bool(config.bias))
        self.norm_all_heads = config.qk_norm == "whole"
        self.q_norm, self.k_norm = (
            RMSNorm(width if self.norm_all_heads else config.head_width, config.norm_eps)
            if config.qk_norm != "none"
            else nn.Identity()
            for width in (q_width, kv_width)
        )

    def forward(self, x: Tensor, sight: Sight) -> Tensor:
        q, k = self.q_proj(x), self.k_proj(x)
        if self.norm_all_heads:
            q, k = self._heads(self.q_norm(q)), self._heads(self.k_norm(k))
        else:
            q, k = self.q_norm(self._heads(q)), self.k_norm(self._heads(k))
        v = self._heads(self.v_proj(x))  # (B, K, T, D)
        q, k = sight.turned(q), sight.turned(k)
        if sight.cache is not None:
            k, v = sight.cache.extend(self.layer, k, v)
        y = attend(q, k, v, sight.mask)  # (B, H, T, D)
        projected: Tensor = self.o_proj(y.transpose(1, 2).flatten(2))
        return projected

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], -1, self.head_width).transpose(1, 2)


class LatentAttention(nn.Module):
    """Attention whose keys and values are made of one short vector a token (MLA, arXiv 2405.04434).

    Only that vector is cached, with one rotated key that all heads share. In decoding, heads look at it
    itself: what would make keys of it is applied to the queries, what would make values to the outcome.
    """

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.heads, self.head_width = config.heads, config.head_width
        self.rank, self.rope_width = config.kv_rank, config.rope_width
        self.scale = (self.head_width + self.rope_width) ** -0.5
        width = config.width
        self.q_proj = Linear(width, self.heads * (self.head_width + self.rope_width), bias=False)
        self.kv_a_proj_with_mqa = Linear(width, self.rank + self.rope_width, bias=False)
        self.kv_a_layernorm = RMSNorm(self.rank, config.norm_eps)
        self.kv_b_proj = Linear(self.rank, self.heads * 2 * self.head_width, bias=False)
        self.o_proj = Linear(self.heads * self.head_width, width, bias=False)

    def forward(self, x: Tensor, sight: Sight) -> Tensor:
        q = self.q_proj(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, H, T, D + R)
        q, q_rope = q.split((self.head_width, self.rope_width), dim=-1)
        latent, k_rope = self.kv_a_proj_with_mqa(x).unsqueeze(1).split((self.rank, self.rope_width), dim=-1)
        latent = self.kv_a_layernorm(latent)  # (B, 1, T, L)
        q_rope, k_rope = sight.turned(q_rope), sight.turned(k_rope)
        if sight.cache is None:
            y = self._expanded(q, q_rope, latent, k_rope, sight.mask)
        else:
            y = self._absorbed(q, q_rope, torch.cat((latent, k_rope), dim=-1), sight.cache, sight.mask)
        projected: Tensor = self.o_proj(y.transpose(1, 2).flatten(2))
        return projected

    def _expanded(
        self, q: Tensor, q_rope: Tensor, latent: Tensor, k_rope: Tensor, mask: Tensor | None
    ) -> Tensor:
        """(B, H, T, D), with keys and values made of the vectors: a pair of positions costs D, not L."""
        kv = self.kv_b_proj(latent.squeeze(1)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = kv.chunk(2, dim=-1)  # (B, H, T, D)
        k = torch.cat((k, k_rope.expand(-1, self.heads, -1, -1)), dim=-1)
        # Of one width, the three go through the fused kernel; the zeros added to v are cut off again.
        v = F.pad(v, (0, self.rope_width))
        return attend(torch.cat((q, q_rope), dim=-1), k, v, mask, self.scale)[..., : self.head_width]

    def _absorbed(
        self, q: Tensor, q_rope: Tensor, latent: Tensor, cache: KVCache, mask: Tensor | None
    ) -> Tensor:
        """As `_expanded`, with queries and outcome turned instead: nothing is made of the positions held."""
        made_of = self.kv_b_proj.weight.view(self.heads, -1, self.rank)
        to_keys, to_values = made_of.chunk(2, dim=1)  # (H, D, L)
        (held,) = cache.extend(self.layer, latent)  # (B, 1, S, L + R)
        q = torch.cat((q @ to_keys, q_rope), dim=-1)  # (B, H, T, L + R)
        seen = attend(q, held, held, mask, self.scale)[..., : self.rank]
        return seen @ to_values.transpose(1, 2)  # (B, H, T, D)


class MLP(nn.Module):
    """Feed-forward layer: SwiGLU, which gates one matrix by another (arXiv 2002.05202), or GPT-2's GELU."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gated = config.mlp == "swiglu"
        if self.gated:
            self.gate_proj = Linear(config.width, config.hidden, bias=bool(config.bias))
        self.up_proj = Linear(config.width, config.hidden, bias=bool(config.bias))
        self.down_proj = Linear(config.hidden, config.width, bias=bool(config.bias))

    def forward(self, x: Tensor) -> Tensor:
        if self.gated:
            hidden = F.silu(self.gate_proj(x)) * self.up_proj(x)
        else:
            hidden = F.gelu(self.up_proj(x), approximate="tanh")  # as GPT-2 has it
        y: Tensor = self.down_proj(hidden)
        return y


class Block(nn.Module):
    """One layer: what attention, then the feed-forward layer, make of x is added to x.

    The norms' names are those of transformers, which calls the second norm before a sublayer
    post_attention_layernorm in Llama's layout, and one after it in the others.
    """

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.norm_place = config.norm_place
        if self.norm_place in ("pre", "sandwich"):
            self.input_layernorm = norm(config)
        self.self_attn = (LatentAttention if config.attention == "mla" else Attention)(config, layer)
        self.post_attention_layernorm = norm(config)
        if self.norm_place == "sandwich":
            self.pre_feedforward_layernorm = norm(config)
        self.mlp = MLP(config)
        if self.norm_place != "pre":
            self.post_feedforward_layernorm = norm(config)

    def forward(self, x: Tensor, sight: Sight) -> Tensor:
        match self.norm_place:
            case "pre":
                x = x + self.self_attn(self.input_layernorm(x), sight)
                x = x + self.mlp(self.post_attention_layernorm(x))
            case "post":
                x = self.post_attention_layernorm(x + self.self_attn(x, sight))
                x = self.post_feedforward_layernorm(x + self.mlp(x))
            case "output":
                x = x + self.post_attention_layernorm(self.self_attn(x, sight))
                x = x + self.post_feedforward_layernorm(self.mlp(x))
            case "sandwich":
                x = x + self.post_attention_layernorm(self.self_attn(self.input_layernorm(x), sight))
                x = x + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(x)))
        return x


class GPT(nn.Module):
    """The language model: token ids in; logits, or the loss of given targets, out."""

    cos: Tensor
    sin: Tensor
    waves: Tensor
    slopes: Tensor

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.width)
        if config.positions == "learned":
            self.embed_positions = nn.Embedding(config.sequence_len, config.width)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        self.norm = nn.Identity() if config.norm_place == "post" else norm(config)
        self.lm_head = Linear(config.width, config.vocab_size, bias=False)
        if config.tied_embeddings:  # one parameter under two names, counted and trained once
            self.lm_head.weight = self.embed_tokens.weight
        for name, table in _tables(config).items():
            self.register_buffer(name, table, persistent=False)
        self._initialise()

    @overload
    def forward(
        self, ids: Tensor, targets: Tensor, *, segments: Tensor | None = None, z_loss: float = 0.0
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
        z_loss: float = 0.0,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Logits (B, T, V) of `ids` (B, T); or, given `targets` (B, T), (sum of the losses in nats, count).

        Targets equal to `IGNORE` are left out of both. With a `cache`, `ids` are the positions after those
        it holds, which are attended to, and it grows by T. With `segments` (B, T), positions attend to those
        of their own segment only, as if it stood alone. `z_loss` is `trainer.model.loss.cross_entropy`'s.
        Raises `ValueError` past `sequence_len`.
        """
        start = cache.length if cache is not None else 0
        end = start + ids.size(1)
        if end > self.config.sequence_len:
            raise ValueError(f"{end} positions in a model of sequence_len = {self.config.sequence_len}")
        sight = self._sight(start, end, segments, cache, ids.device)
        x = self._embed(ids, start, segments, cache)
        for block in self.layers:
            x = block(x, sight)
        x = self.norm(x)
        if cache is not None:
            cache.length = end
        if targets is None:
            logits: Tensor = self.lm_head(x)
            return logits
        loss = cross_entropy(x.flatten(0, 1), self.lm_head.weight, targets.flatten(), z_loss)
        return loss, (targets != IGNORE).sum()

    def _embed(self, ids: Tensor, start: int, segments: Tensor | None, cache: KVCache | None) -> Tensor:
        """Token embeddings (B, T, C), with those of their positions where these are added."""
        x: Tensor = self.embed_tokens(ids)
        if self.config.positions not in ("learned", "sinusoidal"):
            return x
        padding = cache.padding if cache is not None else None
        numbers = position_ids(start, ids.size(1), segments, padding, ids.device)
        learned = self.config.positions == "learned"
        return x + (self.embed_positions(numbers) if learned else self.waves[numbers])

    def _sight(
        self, start: int, end: int, segments: Tensor | None, cache: KVCache | None, device: torch.device
    ) -> Sight:
        rotary = (self.cos[start:end], self.sin[start:end]) if self.config.positions == "rotary" else None
        padding = cache.padding if cache is not None else None
        alibi = self.config.positions == "alibi"
        new = end - start
        # Without a mask, attention is causal from the first position, or one position's to all before it.
        if segments is None and padding is None and not alibi and (new == 1 or start == 0):
            return Sight(rotary, None, cache)
        mask = visible(new, end, segments, padding, device)
        if alibi:
            distance = torch.arange(start, end, device=device)[:, None] - torch.arange(end, device=device)
            # Added to the logits: what is farther away is attended to less, what is later not at all.
            mask = (-self.slopes[:, None, None] * distance).masked_fill(~mask, -torch.inf)
        return Sight(rotary, mask, cache)

    @property
    def parameters_count(self) -> int:
        """Parameters, tied ones once."""
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def flops_per_token(self) -> float:
        """FLOPs of training on a token: 6 a weight in a product, 6 * T * H * D a layer for attention."""
        config = self.config
        # Rows that are looked up are no product: an embedding table, unless the head multiplies by it.
        lookup = 0 if config.tied_embeddings else self.embed_tokens.weight.numel()
        if config.positions == "learned":
            lookup += self.embed_positions.weight.numel()
        # Two products of 2 FLOPs, scores and values, half of it masked; forward once and backward twice.
        attention = 6 * config.layers * config.heads * config.head_width * config.sequence_len
        return 6 * (self.parameters_count - lookup) + attention

    def _initialise(self) -> None:
        """Normal, deviation 1 / sqrt(inputs); zero for what is added to the residual stream (as in muP).

        At first the blocks do nothing and the model is one of bigrams. Measured on 0.4 M tokens: 2.41 bits
        per byte of held-out text, against 2.80 with GPT-2's initialisation. Where a norm follows the
        sublayer, its weight is what is zero: the slope of a norm at zero is 1 / sqrt(eps).
        """
        # Attention's and the feed-forward layer's last matrices, or the norms after them.
        normed = self.config.norm_place in ("output", "sandwich")
        last = ("post_attention_layernorm.weight", "post_feedforward_layernorm.weight")
        zero = last if normed else ("o_proj.weight", "down_proj.weight")
        for name, parameter in self.named_parameters():
            if name.endswith((*zero, "bias")):
                nn.init.zeros_(parameter)
            elif parameter.dim() == 2:
                nn.init.normal_(parameter, std=1 / math.sqrt(parameter.size(1)))


def _tables(config: ModelConfig) -> dict[str, Tensor]:
    """The constants of the chosen kind of positions."""
    if config.positions == "rotary":
        return dict(zip(("cos", "sin"), rotary_tables(config), strict=True))
    if config.positions == "sinusoidal":
        return {"waves": sinusoids(config.sequence_len, config.width)}
    return {"slopes": alibi_slopes(config.heads)} if config.positions == "alibi" else {}


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None = None) -> Tensor:
    """Attention of the last T of S positions, 1 or S without a mask; q (B, H, T, D), k, v (B, K, S, D)."""
    causal = mask is None and q.size(2) > 1
    return F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, scale=scale, enable_gqa=True)
