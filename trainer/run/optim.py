"""AdamW and Muon, the course of the learning rate, and the length of the gradient.

Both optimisers give a matrix an update of the same size, so one learning rate and one weight decay fit both.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate

from trainer.config import TrainConfig
from trainer.run.distributed import World
from trainer.run.preflight import has_bf16

_BETAS = (0.9, 0.95)  # as language models have them: the second moment forgets within 20 steps, not 1,000
_MOMENTUM = 0.95  # Muon's, Keller Jordan's: forgets within 20 steps, like AdamW's second moment
# Keller Jordan's: of singular values in (0, 1], five steps make values around 1, not exactly 1.
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
_NEWTON_SCHULZ_STEPS = 5


class Optimizer:
    """AdamW, or Muon for the matrices inside the layers and AdamW for the rest; `updates` counts steps.

    What both remember lies in `tensors` from the beginning, so that a checkpoint can be read
    into it.
    """

    def __init__(self, model: nn.Module, config: TrainConfig, world: World) -> None:
        named = dict(model.named_parameters())
        inside = {name for name, p in named.items() if name.startswith("layers.") and p.dim() == 2}
        muon = inside if config.optimizer == "muon" else set()
        self.updates = 0
        self._adamw = adamw({name: p for name, p in named.items() if name not in muon}, config)
        self._all: list[torch.optim.Optimizer] = [self._adamw]
        if muon:
            self._all.append(Muon([named[name] for name in sorted(muon)], config, world))
        self._names = {id(p): name for name, p in named.items()}
        for group in self._adamw.param_groups:
            for p in group["params"]:
                zero = torch.zeros((), dtype=torch.float32, device=p.device)
                moments = {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
                self._adamw.state[p] = {"step": zero, **moments}

    def tensors(self) -> dict[str, Tensor]:
        """Moments by kind and parameter, `exp_avg.layers.0.self_attn.q_proj.weight`; sharded as those are."""
        return {
            f"{kind}.{self._names[id(p)]}": tensor
            for optimizer in self._all
            for p, state in optimizer.state.items()
            for kind, tensor in state.items()
            if kind != "step"
        }

    def goes_on_after(self, updates: int) -> None:
        """Take up the count of steps, after what `tensors` gave was read back."""
        self.updates = updates
        for state in self._adamw.state.values():
            state["step"].fill_(updates)

    def step(self, rate: float) -> None:
        """Follow the gradients, at the learning rate `rate`."""
        for optimizer in self._all:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
        self.updates += 1

    def zero_grad(self) -> None:
        for optimizer in self._all:
            optimizer.zero_grad()


def adamw(named: Mapping[str, nn.Parameter], config: TrainConfig) -> torch.optim.AdamW:
    """AdamW (arXiv 1711.05101), fused: a quarter of the time of the default. Norms are not decayed."""
    groups = [
        {"params": [p for p in named.values() if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in named.values() if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=_BETAS, fused=True)


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised (Keller Jordan 2024), at the size of AdamW's updates (arXiv 2502.16982).

    Each matrix is orthogonalised whole, by one rank, and its update sent to all: the result does not depend
    on the number of ranks or on how parameters are sharded. Every rank holds all updates for a moment.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], config: TrainConfig, world: World) -> None:
        defaults = {"lr": config.learning_rate, "weight_decay": config.weight_decay, "momentum": _MOMENTUM}
        super().__init__(parameters, defaults)
        self._world = world
        self._dtype = torch.bfloat16 if has_bf16(world.device) else torch.float32
        for p in parameters:
            self.state[p]["momentum"] = torch.zeros_like(p)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Follow the gradients of the parameters that have one."""
        del closure
        (group,) = self.param_groups
        moved = [p for p in group["params"] if p.grad is not None]
        directions = []
        for p in moved:
            momentum = self.state[p]["momentum"]
            momentum.lerp_(p.grad, 1 - group["momentum"])
            directions.append(_whole(p.grad.lerp(momentum, group["momentum"])))
        for p, update in zip(moved, self._orthogonalised(directions), strict=True):
            p.mul_(1 - group["lr"] * group["weight_decay"])
            # An orthogonal matrix has entries of 1 / sqrt(the longer side) on average; AdamW's updates, 0.2.
            size = 0.2 * math.sqrt(max(update.shape))
            p.add_(_like(p, update), alpha=-group["lr"] * size)

    def _orthogonalised(self, matrices: Sequence[Tensor]) -> list[Tensor]:
        """All of `matrices`, each done by one rank; those of one shape together."""
        flat = matrices[0].new_zeros(sum(matrix.numel() for matrix in matrices))
        parts = torch.split(flat, [matrix.numel() for matrix in matrices])
        whole = [part.view_as(matrix) for part, matrix in zip(parts, matrices, strict=True)]
        mine: dict[torch.Size, list[int]] = {}
        # Largest first and by turns, so that the ranks have about equal work.
        by_size = sorted(range(len(matrices)), key=lambda number: -matrices[number].numel())
        for number in by_size[self._world.rank :: self._world.size]:
            mine.setdefault(matrices[number].shape, []).append(number)
        for numbers in mine.values():
            stack = torch.stack([matrices[number] for number in numbers])
            for number, done in zip(numbers, newton_schulz(stack, self._dtype), strict=True):
                whole[number].copy_(done)
        self._world.sum(flat)  # each rank's own part is zero on all others
        return whole


def newton_schulz(matrices: Tensor, dtype: torch.dtype) -> Tensor:
    """Roughly U V^T of each of `matrices` (n, rows, columns) = U S V^T, by five steps in `dtype`."""
    a, b, c = _NEWTON_SCHULZ
    wide = matrices.size(1) <= matrices.size(2)
    x = (matrices if wide else matrices.mT).to(dtype)
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)  # singular values at most 1; no division by zero
    for _ in range(_NEWTON_SCHULZ_STEPS):
        gram = x @ x.mT
        x = a * x + torch.baddbmm(gram, gram, gram, beta=b, alpha=c) @ x
    done: Tensor = (x if wide else x.mT).to(matrices.dtype)
    return done


def _whole(tensor: Tensor) -> Tensor:
    whole: Tensor = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return whole


def _like(parameter: Tensor, whole: Tensor) -> Tensor:
    """`whole`, which all ranks have, as `parameter` is sharded."""
    if not isinstance(parameter, DTensor):
        return whole
    copies = [Replicate()] * parameter.device_mesh.ndim
    return DTensor.from_local(whole, parameter.device_mesh, copies, run_check=False).redistribute(
        placements=parameter.placements
    )


def learning_rate(step: int, steps: int, warmup: int, config: TrainConfig) -> float:
    """The learning rate of `step`, counted from 0, of a run of `steps`, `warmup` of them for it to rise."""
    if step < warmup:  # from 1 / warmup: a step at rate 0 would be text for nothing
        return config.learning_rate * (step + 1) / warmup
    if config.schedule == "cosine":
        done = (step - warmup) / max(1, steps - warmup)
        return config.learning_rate * (1 + math.cos(math.pi * done)) / 2
    return config.learning_rate * min(1.0, (steps - step) / max(1, steps - before_decay(steps, config)))


def before_decay(steps: int, config: TrainConfig) -> int:
    """How many of `steps` come before a wsd's learning rate falls; from there a longer run goes on."""
    return steps - round(steps * config.decay)


def clip(model: nn.Module, largest: float) -> Tensor:
    """Scale the gradient down to the norm `largest` (0: leave it); returns the norm it had, of all ranks."""
    return _whole(nn.utils.clip_grad_norm_(model.parameters(), largest or math.inf))
