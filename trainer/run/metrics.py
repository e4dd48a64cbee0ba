"""What a run says about itself: `metrics.jsonl` for programs, one line of progress for people."""

import contextlib
import json
import shutil
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from tinylm.files import replacing
from trainer.config import TrainConfig
from trainer.run.trackers import trackers

_SECONDS_BETWEEN_LINES = 10.0


class MetricsLog:
    """Appends one JSON object a line to `path`, after cutting off what a killed run wrote past `step`."""

    def __init__(self, path: Path, step: int) -> None:
        self._path = path
        self._file = self._cut(step)

    def cut(self, step: int) -> None:
        """Drop what was written past `step`."""
        self._file.close()
        self._file = self._cut(step)

    def _cut(self, step: int) -> TextIO:
        kept = [line for line in _lines(self._path) if line["step"] <= step]
        with replacing(self._path) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
        return self._path.open("a")

    def write(self, values: dict[str, Any]) -> None:
        self._file.write(json.dumps(values) + "\n")
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


class Record(contextlib.ExitStack[bool | None]):
    """What the main rank writes of a run that goes on after `step`: metrics.jsonl, and what was asked for."""

    def __init__(self, config: TrainConfig, step: int) -> None:
        super().__init__()
        self._log = self.enter_context(MetricsLog(config.out / "metrics.jsonl", step))
        self._trackers = self.enter_context(trackers(config, step))

    def write(self, values: dict[str, Any]) -> None:
        self._log.write(values)
        for track in self._trackers:
            track(values["step"], values)

    def cut(self, step: int) -> None:
        """Drop the lines past `step`, to which the run went back; trackers keep both courses."""
        self._log.cut(step)


def _lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a metrics file; the last may be cut by a crash."""
    lines = path.read_text().splitlines() if path.exists() else []
    found = []
    for line in lines:
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return found


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
        speed = (tokens - self._tokens) / max(1e-9, now - self._read_at)
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
            sys.stdout.write("\r" + text[:width].ljust(width) + ("\n" if last else ""))
            sys.stdout.flush()
        elif last or time.monotonic() - self._last >= _SECONDS_BETWEEN_LINES:
            self._last = time.monotonic()
            print(text, flush=True)


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
