"""How a crawl goes: one reading of it, for the terminal here and for the dashboard."""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from crawler.frontier import Frontier, Limits
from crawler.read.pool import Times
from deploy.console import Console

# Seconds the rate is averaged over: half of it jumps with every slow host, double shows a standstill late.
_RATE_SECONDS = 10.0
# Without an answer for two timeouts of a response, workers are asked after.
_QUIET_SECONDS = 60.0
# How old a worker's word may be: it speaks every 2 seconds, and the clocks of machines differ.
_SAID_SECONDS = 30.0
# Between two lines where the output is no terminal: a crawl of 12 hours is 8,640 lines of log.
_LINE_SECONDS = 5.0
# Hosts that may be asked now: more than one worker has requests in flight (16).
_MANY_READY = 20
# As many as fit on about two lines of a terminal; the dashboard and `shards list` have more.
_REASONS_SHOWN = 8


class Status(NamedTuple):
    """What a crawl has done and what it does."""

    counts: Mapping[str, int]  # of the frontier, since the crawl began
    walker: Mapping[str, Any]  # what it published last; empty before it has
    idle: Mapping[str, Any]  # hosts by what they wait for
    extraction: Mapping[str, Any]  # how long it takes, and how often it failed
    limits: Limits | None
    reached: str  # the limit that stopped the crawl; empty while none has
    rate: float  # pages a second, of late
    quiet: float  # seconds since a fetch last ended
    waiting_for: str = (
        ""  # what a worker's machine lacks, and what to do about it; empty while it lacks nothing
    )

    @property
    def not_fetched(self) -> Counter[str]:
        """Attempts without a page, by reason: refused by a rule of ours or the host's, or failed."""
        reasons: Counter[str] = Counter()
        for name, count in self.counts.items():
            kind, colon, reason = name.partition(":")
            if colon and kind in ("skipped", "failed"):
                reasons[reason] += count
        return reasons


class StatusReader:
    """Reads the frontier and what walker and workers published; remembers enough to know the rate."""

    def __init__(self, frontier: Frontier) -> None:
        self.frontier = frontier
        self._fetched: deque[tuple[float, int]] = deque()
        self._moved_at = time.monotonic()

    def read(self) -> Status:
        """The status of this moment; raises ServerError if the server does not answer."""
        frontier = self.frontier
        counts = frontier.counts()
        rate = self._rate(counts["fetched"])
        workers = frontier.published_by_workers()
        lately = [each for each in workers if time.time() - each.get("at", 0.0) < _SAID_SECONDS]
        return Status(
            counts=counts,
            walker=frontier.published("walker"),
            idle=frontier.why_idle(),
            extraction=Times.of_all(workers).summary(),
            limits=frontier.limits(),
            reached=frontier.reached(),
            rate=rate,
            quiet=time.monotonic() - self._moved_at,
            waiting_for=next((each["waiting_for"] for each in lately if each["waiting_for"]), ""),
        )

    def _rate(self, fetched: int) -> float:
        now = time.monotonic()
        # A robots.txt or a failure is a fetch too: whatever ends shows that workers are alive.
        if not self._fetched or fetched != self._fetched[-1][1]:
            self._moved_at = now
        self._fetched.append((now, fetched))
        while now - self._fetched[0][0] > _RATE_SECONDS:
            self._fetched.popleft()
        then, before = self._fetched[0]
        # A server that lost its last second counts less than before: that is no negative rate.
        return max(0, fetched - before) / (now - then) if now > then else 0.0


class Verdict(NamedTuple):
    """How it goes in one sentence; `level` is good, wait, done or bad."""

    level: str
    text: str


def verdict(status: Status, backlog: int) -> Verdict:
    """Whether the crawl goes well and, if not, why; workers pause at `backlog` pages in the stream."""
    counts, idle = status.counts, status.idle
    if status.reached:
        return Verdict("done", f"Stopped: {status.reached}. It goes on when limits are set higher.")
    if not counts["discovered"]:
        if counts["backlog"]:
            return Verdict("wait", "The seeds wait for the walker: is `tinylm walk` running?")
        return Verdict("wait", "No crawl yet: give it seeds with `tinylm crawl URL` or `tinylm seed URL`.")
    if status.waiting_for:
        return Verdict("bad", f"A worker waits, nothing is lost: {status.waiting_for}.")
    # Before the rate: requests in flight still end when workers have paused.
    if counts["backlog"] >= backlog:
        waiting = f"{counts['backlog']:,} pages wait to be judged"
        return Verdict("bad", f"Workers pause because {waiting}: is `tinylm walk` running and keeping up?")
    if status.rate:
        pace = "The delays of the hosts set the pace"
        if idle["ready"] >= _MANY_READY:
            pace = f"{idle['ready']:,} hosts are ready: more workers would be faster"
        return Verdict("good", f"Fetching {status.rate:.1f} pages a second. {pace}.")
    return _why_nothing_moves(idle, status.quiet)


def _why_nothing_moves(idle: Mapping[str, Any], quiet: float) -> Verdict:
    if idle["in_flight"]:
        if quiet > _QUIET_SECONDS:
            out = f"{idle['in_flight']:,} requests are out and none ended for {quiet:.0f} s"
            return Verdict("bad", f"{out}: are the workers alive?")
        return Verdict("good", f"Waiting for {idle['in_flight']:,} answers.")
    if idle["next_wake_seconds"] == 0:
        # Workers take some seconds to start and to ask: bad only if it stays so.
        level = "bad" if quiet > _RATE_SECONDS else "wait"
        return Verdict(level, "Hosts may be asked and nobody asks them: is a `tinylm worker` running?")
    if idle["cooling"]:
        seconds = f"{idle['next_wake_seconds']:.0f} s"
        return Verdict("wait", f"Every host with something queued rests; the next may be asked in {seconds}.")
    if idle["budget_spent"]:
        spent = f"{idle['budget_spent']:,} hosts have spent their budget"
        return Verdict("done", f"Nothing left to fetch: {spent}, and the others have nothing queued.")
    return Verdict("done", "Nothing left to fetch.")


def line(status: Status) -> str:
    """One line of text."""
    counts, walker, limits = status.counts, status.walker, status.limits
    return (
        f"fetched {counts['fetched']:,} of {limits.pages if limits else 0:,} ({status.rate:.0f}/s)  "
        f"hosts {counts['hosts']:,}  queued {counts['queued']:,}  kept {walker.get('kept', 0):,}  "
        f"text {walker.get('text_bytes', 0) / 1e6:.1f} MB  quality {walker.get('quality', 0):.2f}"
    )


def table(status: Status) -> Group:
    """The live view."""
    counts, walker, idle, extraction = status.counts, status.walker, status.idle, status.extraction
    rows = Table.grid(padding=(0, 3))
    rows.add_row("fetched", f"{counts['fetched']:,}", "pages/s", f"{status.rate:.1f}")
    rows.add_row("queued", f"{counts['queued']:,}", "discovered", f"{counts['discovered']:,}")
    rows.add_row("kept", f"{walker.get('kept', 0):,}", "shards", f"{walker.get('shards', 0):,}")
    text, downloaded = walker.get("text_bytes", 0) / 1e6, counts["bytes"] / 1e6
    rows.add_row("text", f"{text:.1f} MB", "downloaded", f"{downloaded:.1f} MB")
    hosts = f"{idle['ready']} ready, {idle['cooling']} resting, {idle['in_flight']} asked"
    rows.add_row("quality", _quality(walker), "hosts", f"{counts['hosts']:,} ({hosts})")
    failed = sum(extraction["failed"].values())
    times = f"99 % below {extraction['p99_ms']:,} ms, {failed:,} failed"
    rows.add_row(
        "no connection", f"{counts['failed_connections']:,}", "set aside", f"{counts['set_aside']:,}"
    )
    if counts["clock_jumps"]:
        rows.add_row("clock jumps", f"{counts['clock_jumps']:,}")
    rows.add_row("extraction", times if extraction["extracted"] else "nothing yet")
    reasons = (Counter(walker.get("dropped", {})) + status.not_fetched).most_common(_REASONS_SHOWN)
    dropped = "  ".join(f"{reason} {count:,}" for reason, count in reasons) or "nothing yet"
    pages = status.limits.pages if status.limits else 0
    bar = ProgressBar(total=max(1, pages), completed=counts["fetched"], width=60)
    return Group(bar, rows, Text(f"dropped  {dropped}", style="dim"))


def _quality(walker: Mapping[str, Any]) -> str:
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


@contextmanager
def show_crawl(frontier: Frontier) -> Iterator[Callable[[], None]]:
    """Yield what refreshes the display: a live table on a terminal, elsewhere a line every few seconds."""
    console, reader = Console(), StatusReader(frontier)
    if console.is_terminal:
        with Live(table(reader.read()), console=console, transient=True, auto_refresh=False) as live:
            yield lambda: live.update(table(reader.read()), refresh=True)
        return
    shown = 0.0

    def refresh() -> None:
        nonlocal shown
        if time.monotonic() - shown >= _LINE_SECONDS:
            shown = time.monotonic()
            console.print(line(reader.read()), soft_wrap=True, highlight=False)

    yield refresh
