"""What every training run does besides training: end at once if it is done, write its result, be a command.

A run is done when its last checkpoint is of the last step and evaluation.json is there, which is written
last. What decides what it computes is one dictionary, its identity: settings (`trainer.config.identity`),
text, first weights. It is compared here, as far as it is known before text is read, and again in full when
the checkpoint is restored.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cyclopts import App
from torch.distributed.elastic.multiprocessing.errors import record

from tinylm.config import layers
from tinylm.errors import exit_on_error
from tinylm.files import alone, write_json
from tinylm.terminal import say
from trainer.config import TrainConfig
from trainer.run import checkpoint
from trainer.run.checkpoint import CheckpointError
from trainer.run.distributed import environment
from trainer.run.metrics import METRICS
from trainer.run.optim import before_decay

EVALUATION = "evaluation.json"
_LOCK = "run.lock"


def finished(config: TrainConfig, identity: Mapping[str, Any], steps: int | None = None) -> bool:
    """Whether `config.out` holds this run, complete; says so then.

    Raises `CheckpointError` if it holds another, which differs in a field of `identity`. A run of `steps` may
    be given more of them, with wsd.
    """
    state = checkpoint.last_state(config.out)
    if state is None:
        return False
    checkpoint.check_identity(config.out, state["identity"], identity)
    planned = state["steps"]
    if steps and not (config.can_grow and steps > planned):
        checkpoint.check_identity(config.out, {"steps": planned}, {"steps": steps})
    # A run killed after its last step goes on without a step, to write its evaluation.
    if state["step"] < (steps or planned) or not (config.out / EVALUATION).exists():
        return False
    if environment("RANK", 0) == 0:  # the ranks are not connected yet
        more = "give it more --steps, or " if config.can_grow else ""
        say(f"{config.out}: finished, {planned} steps; {more}start another run with another --out")
    return True


def grow(config: TrainConfig, steps: int) -> None:
    """Put a run that was planned with fewer than `steps` back to where its learning rate had not fallen.

    What it was stays as `RUN/end_NNNNNN`, with its evaluation. Raises `CheckpointError` where that is not to
    be done.
    """
    found, state = checkpoint.newest_first(config.out), checkpoint.last_state(config.out)
    if state is None or state["steps"] == steps:
        return
    kept = checkpoint.up_to(before_decay(state["steps"], config), found)
    if kept == found:  # it goes on from where it is, and so its evaluation is of before
        (config.out / EVALUATION).unlink(missing_ok=True)
        return
    if not kept:
        raise CheckpointError(
            f"{config.out}: its checkpoints are from after its learning rate began to fall: train it further "
            f"with --init-from {config.out} and another --out"
        )
    checkpoint.read_state(kept[0])  # raises, before anything is moved, if it is damaged
    last, *others = found[: -len(kept)]
    for other in others:
        checkpoint.discard(other)
    checkpoint.discard(end := last.with_name(last.name.replace("step", "end")))
    if (config.out / EVALUATION).exists():
        (config.out / EVALUATION).rename(last / EVALUATION)
    last.rename(end)
    say(f"more steps: from {kept[0].name} on, before the learning rate fell; {end} is what it was")


@contextmanager
def holding(out: Path) -> Iterator[None]:
    """The folder of a run, ours alone: rank 0 holds it for all. A start that is refused leaves none behind.

    Raises `FileError` naming the process that trains there.
    """
    if environment("RANK", 0) > 0:
        yield
        return
    new = not out.exists()
    with alone(out, out / _LOCK):
        try:
            yield
        except BaseException:
            if new and not (out / METRICS).exists():  # what was written before the first step takes seconds
                shutil.rmtree(out)
            raise


def finish(config: TrainConfig, found: Mapping[str, Any]) -> None:
    """Write what was `found` at the end to evaluation.json, which marks the run as finished."""
    write_json(config.out / EVALUATION, found)


@record  # torchrun shows the traceback of the rank that failed first
def command(train: Callable[..., None], config: type[TrainConfig], text: str | None) -> None:
    """Be `python -m trainer.TRAIN`: the settings of `config` as flags, `text` as help."""
    with exit_on_error():
        name = train.__name__
        # Ctrl-C is for `exit_on_error`, which says what it means.
        app = App(
            name=f"python -m trainer.{name}",
            help=text,
            config=layers(**{name: config}),
            suppress_keyboard_interrupt=False,
        )
        app.default(train)
        app()
