"""How a crawl goes: one reading of it, for the terminal here and for the dashboard."""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from rich.console import Group
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table

from crawler.frontier import Frontier, Limits
from crawler.read.pool import Times
from deploy.console import Console
from deploy.summary import (
    PAUSED,
    QUIET_SECONDS,
    REASONS_SAID,
    elsewhere,
    not_fetched,
    pages_and_links,
    waiting_for,
    when,
)  # fmt: skip
from ranker.config import ONLINE
from tinylm.terminal import tally

# Seconds the rate is averaged over: half of it jumps with every slow host, double shows a standstill late.
_RATE_SECONDS = 10.0
# Between two lines where the output is no terminal: a crawl of 12 hours is 8,640 lines of log.
_LINE_SECONDS = 5.0
# Hosts that may be asked now: more than one worker has requests in flight (16).
_MANY_READY = 20


class Status(NamedTuple):
    """What a crawl has done and what it does."""

    counts: Mapping[str, int]  # of the frontier, since the crawl began
    walker: Mapping[str, Any]  # what it published last; empty before it has
    idle: Mapping[str, Any]  # hosts by what they wait for
    extraction: Mapping[str, Any]  # how long it takes, and how often it failed
    limits: Limits | None
    reached: str  # the limit that stopped the crawl; empty while none has
    paused: bool  # the crawl as a whole, by a person
    waiting_for: str  # what a worker's own machine lacks; empty while none says so
    rate: float | None  # pages a second, of late; None while that cannot be told
    quiet: float  # seconds since a fetch last ended


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
        return Status(
            counts=counts,
            walker=frontier.published("walker"),
            idle=frontier.why_idle(),
            extraction=Times.of_all(workers).summary(),
            limits=frontier.limits(),
            reached=frontier.reached(),
            paused=frontier.paused(),
            waiting_for=waiting_for(workers),
            rate=rate,
            quiet=time.monotonic() - self._moved_at,
        )

    def _rate(self, fetched: int) -> float | None:
        now = time.monotonic()
        # A robots.txt or a failure is a fetch too: whatever ends shows that workers are alive.
        if not self._fetched or fetched != self._fetched[-1][1]:
            self._moved_at = now
        self._fetched.append((now, fetched))
        while now - self._fetched[0][0] > _RATE_SECONDS:
            self._fetched.popleft()
        then, before = self._fetched[0]
        # In a moment without a fetch a crawl may have stood still or not: 0 is said of some seconds only.
        if fetched == before and now - then < _RATE_SECONDS / 2:
            return None
        # A server that lost its last second counts less than before: that is no negative rate.
        return max(0, fetched - before) / (now - then)


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
    if status.paused:
        return Verdict("wait", PAUSED)
    if status.rate:
        pace = "The delays of the hosts set the pace"
        if idle["ready"] >= _MANY_READY:
            pace = f"{idle['ready']:,} hosts are ready: more workers would be faster"
        return Verdict("good", f"Fetching {status.rate:.1f} pages a second. {pace}.")
    return _why_nothing_moves(idle, status.quiet)


def next_turn(idle: Mapping[str, Any]) -> str:
    """When the next host may be asked, and which: a rest may be of a second or of a year."""
    return f"the next, {idle['next_wake'] or 'one of them'}, may be asked {when(idle['next_wake_seconds'])}"


def _why_nothing_moves(idle: Mapping[str, Any], quiet: float) -> Verdict:
    if idle["in_flight"]:
        if quiet > QUIET_SECONDS:
            out = f"{idle['in_flight']:,} requests are out and none ended for {quiet:.0f} s"
            return Verdict("bad", f"{out}: are the workers alive?")
        return Verdict("good", f"Waiting for {idle['in_flight']:,} answers.")
    if idle["next_wake_seconds"] == 0:
        if quiet <= _RATE_SECONDS:
            return Verdict(
                "wait",
                "Hosts may be asked; workers take some seconds to begin, or is no `tinylm worker` running?",
            )
        return Verdict("bad", "Hosts may be asked and nobody asks them: is a `tinylm worker` running?")
    if idle["cooling"]:
        return Verdict("wait", f"Every host with something queued rests; {next_turn(idle)}.")
    if idle["paused"]:
        return Verdict("wait", f"Hosts that were paused: {idle['paused']:,}; nothing else is queued.")
    if idle["budget_spent"]:
        spent = f"hosts that have spent their budget: {idle['budget_spent']:,}"
        return Verdict("done", f"Nothing more may be fetched: {spent}; the others have nothing queued.")
    return Verdict("done", "Nothing left to fetch.")


def line(status: Status, backlog: int) -> str:
    """One line of text; what is wrong, or waited for, at its end."""
    counts, walker, limits = status.counts, status.walker, status.limits
    rate = "" if status.rate is None else f" ({status.rate:.0f}/s)"
    how = verdict(status, backlog)
    return (
        f"fetched {counts['fetched']:,} of {limits.pages if limits else 0:,}{rate}  "
        f"hosts {counts['hosts']:,}  queued {counts['queued']:,}  kept {walker.get('kept', 0):,}  "
        f"text {walker.get('text_bytes', 0) / 1e6:.1f} MB  quality {walker.get('quality', 0):.2f}"
        + ("" if how.level == "good" or status.quiet < _LINE_SECONDS else f"  {how.text}")
    )


def table(status: Status, now: str = "") -> Group:
    """The live view: a bar, and a line for each fact, however narrow the terminal is; `now` is the last."""
    counts, walker, idle, extraction = status.counts, status.walker, status.idle, status.extraction
    pages = status.limits.pages if status.limits else 0
    rate = "" if status.rate is None else f", {status.rate:.1f} pages/s"
    failed = sum(extraction["failed"].values())
    times = f"99 % below {extraction['p99_ms']:,} ms, {failed:,} failed"
    dropped, links = pages_and_links(walker.get("dropped", {}))
    facts = {
        "fetched": f"{counts['fetched']:,} of {pages:,}{rate}, {counts['bytes'] / 1e6:.1f} MB",
        "elsewhere": elsewhere(counts["fetched"], counts["fetched_elsewhere"]),
        "queued": f"{counts['queued']:,} of {counts['discovered']:,} discovered",
        "kept": f"{walker.get('kept', 0):,} in {walker.get('shards', 0):,} shards, "
        f"{walker.get('text_bytes', 0) / 1e6:.1f} MB of text",
        "quality": _quality(walker),
        "hosts": f"{counts['hosts']:,} ({idle['ready']} ready, {idle['cooling']} resting, "
        f"{idle['in_flight']} asked), no connection to {counts['failed_connections']:,}",
        "set aside": f"{counts['set_aside']:,}" if counts["set_aside"] else "",
        "clock jumps": f"{counts['clock_jumps']:,}" if counts["clock_jumps"] else "",
        "extraction": times if extraction["extracted"] else "nothing yet",
        "dropped": tally(dropped + not_fetched(counts), REASONS_SAID) or "nothing yet",
        "unfollowed": tally(links, REASONS_SAID),
        "now": now,
    }
    rows = Table.grid(padding=(0, 2))
    for name, fact in facts.items():
        if fact:
            rows.add_row(name, fact)
    bar = ProgressBar(total=max(1, pages), completed=counts["fetched"], width=60)
    # Padded, since a bar alone ends without a new line.
    return Group(Padding(bar, 0), rows)


def _quality(walker: Mapping[str, Any]) -> str:
    """The mean of what is kept, and how far to trust it; ECE and PSI are explained in docs/quality.md."""
    if "quality_model" not in walker:
        return "no walker yet"
    if walker["quality_model"] == ONLINE and (missing := walker["votes_missing"]):
        return f"tells nothing before people's votes: {missing} pages with some are missing, or see --quality"
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
    console, reader, backlog = Console(), StatusReader(frontier), frontier.config.backlog
    if console.is_terminal:

        def view() -> Group:
            status = reader.read()
            return table(status, verdict(status, backlog).text)

        with Live(view(), console=console, transient=True, auto_refresh=False) as live:
            yield lambda: live.update(view(), refresh=True)
        return
    shown = 0.0

    def refresh() -> None:
        nonlocal shown
        if time.monotonic() - shown >= _LINE_SECONDS:
            shown = time.monotonic()
            console.print(line(reader.read(), backlog), soft_wrap=True, highlight=False)

    yield refresh
