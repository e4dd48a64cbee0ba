"""Where metrics go besides metrics.jsonl, if asked for and installed: TensorBoard, Weights & Biases."""

import hashlib
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from trainer.config import TrainConfig, as_json, require

Tracker = Callable[[int, dict[str, Any]], None]
"""Takes a step and what was measured at it."""


def check_installed(config: TrainConfig) -> None:
    """Raise `ConfigError` naming the field that asks for a package which is not there."""
    for field in ("tensorboard", "wandb"):
        there = not getattr(config, field) or find_spec(field) is not None
        require(config, field, there, f"the package is not installed: pip install {field}")


def trackers(config: TrainConfig, step: int) -> list[Tracker]:
    """Those of a run that goes on after `step`; what TensorBoard was sent past it is taken back."""
    found = []
    if config.tensorboard:
        found.append(_tensorboard(config, step))
    if config.wandb:
        found.append(_wandb(config))
    return found


def _tensorboard(config: TrainConfig, step: int) -> Tracker:
    from torch.utils.tensorboard import SummaryWriter  # fails without the package

    writer = SummaryWriter(str(config.out / "tensorboard"), purge_step=step + 1)

    def track(step: int, values: dict[str, Any]) -> None:
        for name, value in values.items():
            if isinstance(value, str):
                writer.add_text(name, value, step)
            elif name not in ("step", "steps", "time"):
                writer.add_scalar(name, value, step)
        writer.flush()

    return track


def _wandb(config: TrainConfig) -> Tracker:
    import wandb

    name = hashlib.sha256(str(config.out.resolve()).encode()).hexdigest()[:16]
    run = wandb.init(project=config.wandb, id=name, resume="allow", dir=config.out, config=as_json(config))
    # As its own step it would have to grow, which it does not when a run goes back to a checkpoint.
    run.define_metric("*", step_metric="step")
    return lambda _, values: run.log(values)
