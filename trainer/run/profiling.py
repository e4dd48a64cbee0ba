"""Where the time of a step goes: torch's profiler over a few early steps."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from torch.profiler import profile, schedule

_WAIT, _WARMUP, _ACTIVE = 3, 1, 4


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
        table = found.key_averages().table(sort_by="self_cpu_time_total", row_limit=30)
        (folder / f"rank_{rank}.txt").write_text(table)
        found.export_chrome_trace(str(folder / f"rank_{rank}.json"))

    steps = schedule(wait=_WAIT, warmup=_WARMUP, active=_ACTIVE, repeat=1)
    with profile(schedule=steps, on_trace_ready=write) as running:
        yield running.step
