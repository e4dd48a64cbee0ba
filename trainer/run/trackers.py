"""Where metrics go besides metrics.jsonl, if asked for and installed: TensorBoard, Weights & Biases."""

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

from tinylm.config import require
from trainer.config import TrainConfig, as_json

Tracker = Callable[[int, dict[str, Any]], None]
"""Takes a step and what was measured at it."""


def check_installed(config: TrainConfig) -> None:
    """Raise `ConfigError` naming the field that asks for a package which is not there."""
    for field in ("tensorboard", "wandb"):
        there = not getattr(config, field) or find_spec(field) is not None
        require(config, field, there, f"the package is not installed: pip install {field}")


@contextlib.contextmanager
def trackers(config: TrainConfig, step: int) -> Iterator[list[Tracker]]:
    """Those of a run that goes on after `step`; what TensorBoard was sent past it is taken back.

    They are closed with the block, and W&B is told whether it failed.
    """
    with contextlib.ExitStack() as stack:
        found = []
        if config.tensorboard:
            found.append(stack.enter_context(_tensorboard(config, step)))
        if config.wandb:
            found.append(stack.enter_context(_wandb(config)))
        yield found


@contextlib.contextmanager
def _tensorboard(config: TrainConfig, step: int) -> Iterator[Tracker]:
    from torch.utils.tensorboard import SummaryWriter  # fails without the package

    with SummaryWriter(str(config.out / "tensorboard"), purge_step=step + 1) as writer:

        def track(step: int, values: dict[str, Any]) -> None:
            for name, value in values.items():
                if isinstance(value, str):
                    writer.add_text(name, value, step)
                elif name not in ("step", "steps", "time"):
                    writer.add_scalar(name, value, step)
            writer.flush()

        yield track


@contextlib.contextmanager
def _wandb(config: TrainConfig) -> Iterator[Tracker]:
    import wandb

    name = hashlib.sha256(str(config.out.resolve()).encode()).hexdigest()[:16]
    run = wandb.init(project=config.wandb, id=name, resume="allow", dir=config.out, config=as_json(config))
    # As its own step it would have to grow, which it does not when a run goes back to a checkpoint.
    run.define_metric("*", step_metric="step")
    try:
        yield lambda _, values: run.log(values)
    except BaseException:  # its own context manager prints the traceback too
        run.finish(exit_code=1)
        raise
    run.finish()
