"""What a crawl shows while it runs: a live table on a terminal, a line every few seconds elsewhere."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from crawler.frontier import Frontier
from crawler.read.pool import Times

_RATE_SECONDS = 10.0
_LINE_SECONDS = 5.0
_REASONS_SHOWN = 8


class CrawlDisplay:
    """Reads the frontier's counts and what walker and workers published; asks nothing else of anybody."""

    def __init__(self, frontier: Frontier) -> None:
        self._frontier = frontier
        self._history: deque[tuple[float, int]] = deque()

    def snapshot(self) -> dict[str, Any]:
        """The figures of this moment."""
        counts = self._frontier.counts()
        now = time.monotonic()
        self._history.append((now, counts["fetched"]))
        while now - self._history[0][0] > _RATE_SECONDS:
            self._history.popleft()
        then, before = self._history[0]
        limits = self._frontier.limits()
        return {
            "counts": counts,
            "walker": self._frontier.published("walker"),
            "extraction": Times.of_all(self._frontier.published_by_workers()).summary(),
            "idle": self._frontier.why_idle(),
            "rate": (counts["fetched"] - before) / max(now - then, 1e-9),
            "limit": limits.pages if limits else 0,
        }

    def line(self) -> str:
        """One line of text."""
        shot = self.snapshot()
        counts, walker = shot["counts"], shot["walker"]
        return (
            f"fetched {counts['fetched']:,} of {shot['limit']:,} ({shot['rate']:.0f}/s)  "
            f"hosts {counts['hosts']:,}  queued {counts['queued']:,}  kept {walker.get('kept', 0):,}  "
            f"text {walker.get('text_bytes', 0) / 1e6:.1f} MB  quality {walker.get('quality', 0):.2f}"
        )

    def table(self) -> Group:
        """The live view."""
        shot = self.snapshot()
        counts, walker, idle = shot["counts"], shot["walker"], shot["idle"]
        table = Table.grid(padding=(0, 3))
        table.add_row("fetched", f"{counts['fetched']:,}", "pages/s", f"{shot['rate']:.1f}")
        table.add_row("queued", f"{counts['queued']:,}", "discovered", f"{counts['discovered']:,}")
        table.add_row("kept", f"{walker.get('kept', 0):,}", "shards", f"{walker.get('shards', 0):,}")
        text, downloaded = walker.get("text_bytes", 0) / 1e6, counts["bytes"] / 1e6
        table.add_row("text", f"{text:.1f} MB", "downloaded", f"{downloaded:.1f} MB")
        table.add_row("quality", _quality(walker), "hosts", _hosts(counts["hosts"], idle))
        table.add_row("extraction", _extraction(shot["extraction"]))
        bar = ProgressBar(total=max(1, shot["limit"]), completed=counts["fetched"], width=60)
        return Group(bar, table, Text(f"dropped  {_reasons(counts, walker)}", style="dim"))


def _hosts(known: int, idle: dict[str, Any]) -> str:
    return f"{known:,} ({idle['ready']} ready, {idle['cooling']} resting, {idle['in_flight']} asked)"


def _extraction(found: dict[str, Any]) -> str:
    failed = sum(found["failed"].values())
    return f"99 % below {found['p99_ms']:,} ms, {failed:,} failed" if found["extracted"] else "nothing yet"


def _quality(walker: dict[str, Any]) -> str:
    """The mean of what is kept, and how far to trust it; ECE and PSI are explained in docs/quality.md."""
    if "quality_model" not in walker:
        return "no walker yet"
    error = walker["calibration_error"]
    parts = [
        walker["quality_model"],
        "no votes yet" if error is None else f"ECE {error:.2f}",
        f"PSI {walker['drift']:.2f}",
        f"{walker['novelty']:.0%} of kept text new",
    ]
    return f"{walker['quality']:.2f} ({', '.join(parts)})"


def _reasons(counts: dict[str, int], walker: dict[str, Any]) -> str:
    reasons = dict(walker.get("dropped", {}))
    for name, value in counts.items():
        kind, colon, reason = name.partition(":")
        if colon and kind in ("skipped", "failed"):
            reasons[reason] = reasons.get(reason, 0) + value
    top = sorted(reasons.items(), key=lambda item: -item[1])[:_REASONS_SHOWN]
    return "  ".join(f"{reason} {count:,}" for reason, count in top) or "nothing yet"


@contextmanager
def show_crawl(frontier: Frontier) -> Iterator[Callable[[], None]]:
    """Within, calling what this yields refreshes the display."""
    console = Console()
    display = CrawlDisplay(frontier)
    if console.is_terminal:
        with Live(display.table(), console=console, transient=True, auto_refresh=False) as live:
            yield lambda: live.update(display.table(), refresh=True)
        return
    shown = 0.0

    def refresh() -> None:
        nonlocal shown
        if time.monotonic() - shown >= _LINE_SECONDS:
            shown = time.monotonic()
            console.print(display.line(), soft_wrap=True, highlight=False)

    yield refresh
