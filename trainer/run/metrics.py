"""What a run says about itself: `metrics.jsonl` for programs, one line of progress for people.

And, if asked for: TensorBoard and Weights & Biases, and torch's profiler over a few early steps.
"""

import contextlib
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch.profiler import profile, schedule

from tinylm.config import require
from tinylm.errors import FileError
from tinylm.files import replacing
from tinylm.records import typed
from tinylm.terminal import clean, say
from trainer.config import TrainConfig, as_json

METRICS = "metrics.jsonl"
_SECONDS_BETWEEN_LINES = 10.0  # where lines are not rewritten in place: in a file of a run of a day, 8,640
# Steps of a profile: the first are slow for reasons of their own, one warms the profiler up, four are kept
# (5 to 8 of docs/training.md). A trace grows with each of them.
_WAIT, _WARMUP, _ACTIVE = 3, 1, 4

Tracker = Callable[[int, dict[str, Any]], None]  # takes a step and what was measured at it


class Record(contextlib.ExitStack[bool | None]):
    """What the main rank writes of a run that goes on after `step`: metrics.jsonl, and what was asked for.

    Each line of metrics.jsonl is a JSON object, one a step. What a killed run wrote past `step` is cut off.
    """

    def __init__(self, config: TrainConfig, step: int) -> None:
        super().__init__()
        self._path = config.out / METRICS
        self.cut(step)
        asked = [(config.tensorboard, _tensorboard), (config.wandb, _wandb)]
        self._trackers = [self.enter_context(track(config, step)) for wanted, track in asked if wanted]

    def write(self, values: dict[str, Any]) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(values) + "\n")
        for track in self._trackers:
            track(values["step"], values)

    def cut(self, step: int) -> None:
        """Drop the lines past `step`, to which the run went back; trackers keep both courses."""
        kept = []
        lines = self._path.read_bytes().splitlines() if self._path.exists() else []
        for number, line in enumerate(lines, 1):
            try:
                values = typed(dict[str, Any], json.loads(line), "it")
                if typed(int, values.get("step"), "step") <= step:
                    kept.append(line.decode() + "\n")
            except (ValueError, RecursionError) as error:
                if number < len(lines):  # only the last may be cut, by a crash; the others would be lost
                    raise FileError(
                        f"{self._path}, line {number}: not what a run measured ({error}): move the file away"
                    ) from error
        with replacing(self._path) as temporary:
            temporary.write_text("".join(kept))


class Meter:
    """Speed since the last reading, and the time left at the average speed of this process.

    `peak` is the speed, in tokens a second, that the devices' peak in FLOPs would allow.
    """

    def __init__(self, step: int, steps: int, tokens: int, peak: float) -> None:
        self._peak = peak
        self._first_step, self._steps = step, steps
        self._started = self._read_at = time.monotonic()
        self._tokens = tokens

    def read(self, step: int, tokens: int) -> dict[str, float]:
        """`tokens_per_second`, `mfu`, `eta_seconds`, the `time` (Unix seconds), after `step` > the first.

        `mfu` is the share of the devices' peak that the model's own arithmetic uses (PaLM, arXiv 2204.02311).
        """
        now = time.monotonic()
        speed = (tokens - self._tokens) / max(1e-9, now - self._read_at)  # a coarse clock may stand still
        a_step = (now - self._started) / (step - self._first_step)
        self._read_at, self._tokens = now, tokens
        left = a_step * (self._steps - step)
        return {
            "tokens_per_second": round(speed),
            "mfu": round(speed / self._peak, 4),
            "eta_seconds": round(left, 1),
            "time": time.time(),
        }


class Progress:
    """One line rewritten in place on a terminal; elsewhere a plain line every ten seconds."""

    def __init__(self) -> None:
        self._in_place = sys.stdout.isatty()
        self._last = 0.0

    def show(self, text: str, *, last: bool = False) -> None:
        """Show `text`; the `last` one stays."""
        if self._in_place:
            width = shutil.get_terminal_size().columns - 1
            sys.stdout.write("\r" + clean(text)[:width].ljust(width) + ("\n" if last else ""))
            sys.stdout.flush()
        elif last or time.monotonic() - self._last >= _SECONDS_BETWEEN_LINES:
            self._last = time.monotonic()
            say(text)


def describe(values: dict[str, Any]) -> str:
    """One line for people out of what is logged; measurements are what is called val_ something."""
    measured = [f"{name} {value:.3f}" for name, value in values.items() if name.startswith("val_")]
    parts = [
        f"step {values['step']:>{len(str(values['steps']))}}/{values['steps']}",
        f"loss {values['loss']:.3f}" if "loss" in values else "left out",
        *measured,
        f"{values['tokens_per_second']:,} tokens/s",
        f"ETA {duration(values['eta_seconds'])}",
    ]
    return "  ".join(parts)


def duration(seconds: float) -> str:
    """1:02:03, or 2:03 below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def check_installed(config: TrainConfig) -> None:
    """Raise `ConfigError` naming the field that asks for a package which is not there."""
    for field in ("tensorboard", "wandb"):
        there = not getattr(config, field) or find_spec(field) is not None
        require(config, field, there, f"the package is not installed: pip install {field}")


@contextlib.contextmanager
def _tensorboard(config: TrainConfig, step: int) -> Iterator[Tracker]:
    from torch.utils.tensorboard import SummaryWriter  # fails without the package

    # What an earlier process sent past `step` is taken back.
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
def _wandb(config: TrainConfig, _: int) -> Iterator[Tracker]:
    import wandb

    # The run's id there: the same at each start in this folder, so that a resumed run goes on in its curves.
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


@contextlib.contextmanager
def profiled(folder: Path | None, rank: int) -> Iterator[Callable[[], None]]:
    """Yields what is to be called after each step; None for `folder` makes that do nothing.

    After the eighth, `folder` holds rank_R.txt, a table by operator, and rank_R.json, a trace for
    https://ui.perfetto.dev.
    """
    if folder is None:
        yield lambda: None
        return
    folder.mkdir(parents=True, exist_ok=True)

    def write(found: profile) -> None:
        table = found.key_averages().table(sort_by="self_cpu_time_total", row_limit=30)  # slowest first
        (folder / f"rank_{rank}.txt").write_text(table)
        found.export_chrome_trace(str(folder / f"rank_{rank}.json"))

    steps = schedule(wait=_WAIT, warmup=_WARMUP, active=_ACTIVE, repeat=1)
    with profile(schedule=steps, on_trace_ready=write) as running:
        yield running.step
