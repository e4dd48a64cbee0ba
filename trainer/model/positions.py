"""How a model knows where a token stands: rotary and sinusoidal tables, ALiBi's slopes, masks."""

import math

import torch
from torch import Tensor

from trainer.model.architecture import ModelConfig

# Turns within the original context below which a wavelength is squeezed by the full factor, and above which
# it is not at all; between them, in proportion. They are Llama 3.1's; interop/layouts.py refuses others.
LLAMA3_LOW, LLAMA3_HIGH = 1.0, 4.0


def rotary_tables(config: ModelConfig) -> tuple[Tensor, Tensor]:
    """Factors (sequence_len, D) of a head and of its halves exchanged: rotary (arXiv 2104.09864), scaled."""
    width = config.rotary_width
    exponents = torch.arange(0, width, 2, dtype=torch.float32) / width
    frequencies = scaled(config.rope_theta**-exponents, config)
    angles = torch.outer(torch.arange(config.sequence_len, dtype=torch.float32), frequencies)
    return torch.cat((angles.cos(), angles.cos()), dim=-1), torch.cat((-angles.sin(), angles.sin()), dim=-1)


def scaled(frequencies: Tensor, config: ModelConfig) -> Tensor:
    """Rotary `frequencies` (D / 2,) as `rope_scaling` has them."""
    if config.rope_scaling == "none":
        return frequencies
    if config.rope_scaling == "linear":
        return frequencies / config.rope_factor
    turns = config.rope_original_len * frequencies / (2 * math.pi)
    kept = ((turns - LLAMA3_LOW) / (LLAMA3_HIGH - LLAMA3_LOW)).clamp(0, 1)
    return frequencies * (kept + (1 - kept) / config.rope_factor)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (i, i + D / 2) of x (B, heads, T, D) by their position's angles."""
    return torch.addcmul(x * cos, x.roll(x.size(-1) // 2, -1), sin)


def sinusoids(length: int, width: int) -> Tensor:
    """Fixed waves (length, width) of arXiv 1706.03762, as large beside embeddings as they are there."""
    # 10,000 is the paper's base, whatever rope_theta is: wavelengths from 2 pi to 10,000 * 2 pi positions.
    frequencies = 10_000.0 ** -(torch.arange(0, width, 2, dtype=torch.float32) / width)
    angles = torch.outer(torch.arange(length, dtype=torch.float32), frequencies)
    return torch.cat((angles.sin(), angles.cos()), dim=-1) / math.sqrt(width)


def alibi_slopes(heads: int) -> Tensor:
    """What a step of distance takes from a head's attention logit (heads,); arXiv 2108.12409."""
    # A geometric row from 2 ** (-8 / heads) to 1 / 256, the paper's: the last head sees the farthest.
    return 2.0 ** (-8.0 / heads * torch.arange(1, heads + 1, dtype=torch.float32))


def visible(
    new: int, total: int, segments: Tensor | None, padding: Tensor | None, device: torch.device
) -> Tensor:
    """Which of `total` positions the last `new` may look at: a boolean mask (1 or B, 1, new, total).

    Causal; within `segments` (B, T) only; not at the first `padding` (B,) of a row, which see themselves.
    """
    # The new positions are the last of the total: row i may see the first total - new + i + 1.
    mask = torch.ones(new, total, dtype=torch.bool, device=device).tril(total - new)[None, None]
    if segments is not None:
        mask = mask & (segments.unsqueeze(2) == segments.unsqueeze(1)).unsqueeze(1)
    if padding is not None:
        real = torch.arange(total, device=device) >= padding[:, None, None, None]
        own = torch.eye(total, dtype=torch.bool, device=device)[total - new :]
        mask = mask & (real | own)
    return mask


def position_ids(
    start: int, new: int, segments: Tensor | None, padding: Tensor | None, device: torch.device
) -> Tensor:
    """Number of each position in its text (1 or B, new): from its row's or segment's first, past padding."""
    numbers = torch.arange(start, start + new, device=device)[None]
    if padding is not None:
        return (numbers - padding[:, None]).clamp(min=0)
    if segments is None:
        return numbers
    begins = torch.ones_like(segments, dtype=torch.bool)
    # The number of a segment's first position is carried to all of it, as the largest so far.
    begins[:, 1:] = segments[:, 1:] != segments[:, :-1]
    return numbers - (numbers * begins).cummax(dim=1).values
