"""Bad steps: a loss or gradient that is no number, or far above what it lately was.

Such a step is left out (OLMo 2, arXiv 2501.00656, leaves out what is 6 deviations above the
mean); several in a row, and the run goes back to its last checkpoint and reads on behind them (PaLM,
arXiv 2204.02311). What is decided follows from the numbers of the run alone, so a restart decides the same.
"""

import math
from collections import deque
from typing import Any

from trainer.config import TrainConfig

# Good steps that are remembered. With 128, OLMo 2's, the steep beginning stays in the mean so long that noise
# after 70 steps passed for normal.
_WINDOW = 64
_LEAST = 32  # good steps below which mean and deviation say nothing: until then only what is no number is bad
# As a share of the mean: a deviation counts as at least this, so at 6 deviations no loss below 1.3 times the
# mean is bad, and no norm below 2.8 times. Norms of healthy gradients jump: without this the demo left out 3
# steps of 360.
_LEAST_DEVIATION = {"loss": 0.05, "grad_norm": 0.3}


class Guard:
    """Remembers the losses and gradient norms of the last good steps; counts bad ones in a row."""

    def __init__(self, config: TrainConfig) -> None:
        self._sigmas = config.spike_sigmas
        self._recent: dict[str, deque[float]] = {}
        self.bad = 0
        self.reason = ""

    def accepts(self, **values: float) -> bool:
        """Whether a step with these values may be taken; they are remembered then, else `reason` says why."""
        objections = []
        for name, value in values.items():
            limit = self._limit(name)
            if not math.isfinite(value):
                objections.append(f"{name} is {value}")
            elif value > limit:
                objections.append(f"{name} is {value:.3g}, above {limit:.3g}")
        self.reason = objections[0] if objections else ""
        if self.reason:
            self.bad += 1
            return False
        for name, value in values.items():
            self._recent.setdefault(name, deque(maxlen=_WINDOW)).append(value)
        self.bad = 0
        return True

    def _limit(self, name: str) -> float:
        """mean + sigmas * standard deviation of the last good steps; inf with fewer than _LEAST of them."""
        seen = self._recent.get(name, ())
        if not self._sigmas or len(seen) < _LEAST:
            return math.inf
        mean = sum(seen) / len(seen)
        deviation = math.sqrt(sum((value - mean) ** 2 for value in seen) / len(seen))
        return mean + self._sigmas * max(deviation, _LEAST_DEVIATION[name] * mean)

    def state(self) -> dict[str, Any]:
        """What it remembers, as JSON values."""
        recent = {name: list(seen) for name, seen in self._recent.items()}
        return {"recent": recent, "bad": self.bad}

    def restore(self, state: dict[str, Any]) -> None:
        self._recent = {name: deque(seen, maxlen=_WINDOW) for name, seen in state["recent"].items()}
        self.bad = state["bad"]
