"""AdamW with decay on matrices only, and the course of the learning rate."""

import math

import torch
from torch import Tensor, nn

from trainer.config import TrainConfig


def adamw(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW (arXiv 1711.05101), fused: a quarter of the time of the default. Norms are not decayed."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.95), fused=True)


def learning_rate(step: int, steps: int, config: TrainConfig) -> float:
    """The learning rate of `step`, counted from 0, of a run of `steps`."""
    warmup = round(steps * config.warmup)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    if config.schedule == "cosine":
        done = (step - warmup) / max(1, steps - warmup)
        return config.learning_rate * (1 + math.cos(math.pi * done)) / 2
    decay = round(steps * config.decay)
    return config.learning_rate * min(1.0, (steps - step) / max(1, decay))


def clip(model: nn.Module, largest: float) -> Tensor:
    """Scale the gradient down to the norm `largest` (0: leave it); returns the norm it had."""
    return nn.utils.clip_grad_norm_(model.parameters(), largest or math.inf)
