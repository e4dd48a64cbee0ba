"""What the dashboard shows, read by threads of its own, whoever and however many look at it.

Three sources, none of which knows of the page: the frontier's counts, the corpus's manifest, and the
metrics.jsonl of training runs. A reading is about ten commands to the server, one `stat` of the manifest and
the new lines of each metrics file; curves are thinned to at most 500 points, so a long run costs no more than
a short one.
"""

import json
import logging
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from crawler.frontier import Frontier
from crawler.read.times import Times
from deploy.crawl import NoServer
from shards.manifest import FILE_NAME, Manifest
from tinylm.errors import TinylmError

_READ_SECONDS = 1.0
_RATE_SECONDS = 10.0
_HISTORY_SECONDS = 600
_QUIET_SECONDS = 60.0
_CURVE_POINTS = 500
_MANY_READY = 20
_AT_HOSTS_PACE = "The delays of the hosts set the pace"
_HOSTS_SHOWN = 60

log = logging.getLogger(__name__)
Figures = dict[str, Any]


class Sampled:
    """The latest result of `read`, called once a second in a thread between `start()` and `stop()`.

    If `read` hangs or fails, the last result stays, and `age_seconds` and `error` say so.
    """

    def __init__(self, read: Callable[[], Figures]) -> None:
        self._read = read
        self._latest: tuple[float, Figures] = (time.monotonic(), {})
        self._error = ""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="sample")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ask the thread to end; one that waits for a server is not waited for."""
        self._stopping.set()
        self._thread.join(_READ_SECONDS)

    def latest(self) -> Figures:
        """The last result with its `age_seconds` and the `error` since then, if any."""
        at, figures = self._latest
        return {**figures, "age_seconds": time.monotonic() - at, "error": self._error}

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                figures = self._read()
                self._latest, self._error = (time.monotonic(), figures), ""
            except TinylmError as error:
                self._error = str(error)
            except Exception as error:
                log.exception("a reading for the dashboard failed")
                self._error = f"{type(error).__name__}: {error}"
            self._stopping.wait(_READ_SECONDS)


# The crawl


class Verdict(NamedTuple):
    """How it goes in one sentence; `level` is good, wait, done or bad."""

    level: str
    text: str


class CrawlReader:
    """Reads the frontier, once `attach` finds it, and remembers enough of the last minutes to know speeds."""

    def __init__(self, attach: Callable[[], Frontier]) -> None:
        self._attach = attach
        self._frontier: Frontier | None = None
        self._fetched: deque[tuple[float, int]] = deque()
        self._rates: deque[tuple[float, float]] = deque(maxlen=int(_HISTORY_SECONDS / _READ_SECONDS))
        self._moved_at = time.monotonic()

    def read(self) -> Figures:
        """Everything the page says of the crawl. Raises ServerError if the server does not answer."""
        try:
            frontier = self._frontier = self._frontier or self._attach()
        except NoServer as error:
            return {"verdict": Verdict("wait", f"No crawl yet: {error}.")._asdict()}
        counts, walker, idle = frontier.counts(), frontier.published("walker"), frontier.why_idle()
        limits, reached = frontier.limits(), frontier.reached()
        rate = self._rate(counts["fetched"])
        quiet = time.monotonic() - self._moved_at
        return {
            "crawl_id": frontier.config.crawl_id,
            "verdict": verdict(counts, idle, reached, rate, quiet, frontier.config.backlog)._asdict(),
            "fetched": counts["fetched"],
            "bytes": counts["bytes"],
            "pages_per_second": rate,
            "rates": list(self._rates),
            "queued": counts["queued"],
            "discovered": counts["discovered"],
            "hosts": counts["hosts"],
            "dead_letters": counts["dead"],
            "backlog": counts["backlog"],
            "backlog_limit": frontier.config.backlog,
            "idle": idle,
            "walker": walker,
            "extraction": Times.of_all(frontier.published_by_workers()).summary(),
            "not_kept": walker.get("dropped", {}),
            "not_fetched": not_fetched(counts),
            "limits": None
            if limits is None
            else {"pages": limits.pages, "bytes": limits.bytes, "seconds_left": limits.until - time.time()},
            "reached": reached,
        }

    def _rate(self, fetched: int) -> float:
        now = time.monotonic()
        if not self._fetched or fetched != self._fetched[-1][1]:
            self._moved_at = now
        self._fetched.append((now, fetched))
        while now - self._fetched[0][0] > _RATE_SECONDS:
            self._fetched.popleft()
        then, before = self._fetched[0]
        rate = max(0, fetched - before) / (now - then) if now > then else 0.0
        self._rates.append((round(time.time(), 1), round(rate, 2)))
        return rate


def not_fetched(counts: Mapping[str, int]) -> dict[str, int]:
    """Attempts without a page, by reason: refused by a rule of ours or the host's, or failed."""
    reasons: Counter[str] = Counter()
    for name, count in counts.items():
        kind, colon, reason = name.partition(":")
        if colon and kind in ("skipped", "failed"):
            reasons[reason] += count
    return dict(reasons)


def verdict(
    counts: Mapping[str, int], idle: Mapping[str, Any], reached: str, rate: float, quiet: float, backlog: int
) -> Verdict:
    """Whether the crawl goes well and, if not, what keeps it.

    `rate` is in pages a second, `quiet` the seconds since a fetch last ended, `backlog` the pages in the
    stream at which workers pause.
    """
    if reached:
        return Verdict("done", f"Stopped: {reached}. It goes on when limits are set higher.")
    if not counts["discovered"]:
        if counts["backlog"]:
            return Verdict("wait", "The seeds wait for the walker: is `tinylm walk` running?")
        return Verdict("wait", "No crawl yet: give it seeds with `tinylm crawl URL` or `tinylm seed URL`.")
    if counts["backlog"] >= backlog:
        waiting = f"{counts['backlog']:,} pages wait to be judged"
        return Verdict("bad", f"Workers pause because {waiting}: is `tinylm walk` running and keeping up?")
    if rate:
        workers = idle["ready"] >= _MANY_READY
        pace = (
            f"{idle['ready']:,} hosts are ready: more workers would be faster" if workers else _AT_HOSTS_PACE
        )
        return Verdict("good", f"Fetching {rate:.1f} pages a second. {pace}.")
    return _why_nothing_moves(idle, quiet)


def _why_nothing_moves(idle: Mapping[str, Any], quiet: float) -> Verdict:
    if idle["in_flight"]:
        if quiet > _QUIET_SECONDS:
            out = f"{idle['in_flight']:,} requests are out and none ended for {quiet:.0f} s"
            return Verdict("bad", f"{out}: are the workers alive?")
        return Verdict("good", f"Waiting for {idle['in_flight']:,} answers.")
    if idle["next_wake_seconds"] == 0:
        level = "bad" if quiet > _RATE_SECONDS else "wait"
        return Verdict(level, "Hosts may be asked and nobody asks them: is a `tinylm worker` running?")
    if idle["cooling"]:
        seconds = f"{idle['next_wake_seconds']:.0f} s"
        return Verdict("wait", f"Every host with something queued rests; the next may be asked in {seconds}.")
    if idle["budget_spent"]:
        spent = f"{idle['budget_spent']:,} hosts have spent their pages_per_host"
        return Verdict("done", f"Nothing left to fetch: {spent}, and the others have nothing queued.")
    return Verdict("done", "Nothing left to fetch.")


# The corpus


class CorpusReader:
    """Reads the manifest of `directory` when it has changed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._seen: tuple[int, ...] = ()
        self._figures: Figures = {}

    def read(self) -> Figures:
        """What the corpus consists of; {} if there is none yet; `damage` if its manifest cannot be read."""
        try:
            stat = (self._directory / FILE_NAME).stat()
        except FileNotFoundError:
            return {}
        identity = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        if identity != self._seen:
            self._figures = self._describe(stat.st_mtime)
            self._seen = identity
        return self._figures

    def _describe(self, committed_at: float) -> Figures:
        try:
            manifest = Manifest.load(self._directory)
        except TinylmError as error:
            return {"damage": str(error)}
        held_out = manifest.held_out
        return {
            "directory": str(self._directory),
            "documents": manifest.rows,
            "text_bytes": manifest.text_bytes,
            "file_bytes": sum(shard.bytes for shard in manifest.shards),
            "shards": len(manifest.shards),
            "version": manifest.version,
            "fingerprint": manifest.fingerprint,
            "committed_at": committed_at,
            "held_out_hosts": sorted(held_out.hosts)[:_HOSTS_SHOWN] if held_out else [],
            "held_out": len(held_out.hosts) if held_out else 0,
            "excluded": len(held_out.excluded) if held_out else 0,
        }


# Training


class Curve:
    """A series of (step, value), thinned to `most` points by averaging neighbours."""

    def __init__(self, most: int = _CURVE_POINTS) -> None:
        self._most = most
        self._width = 1
        self._means: list[tuple[int, float]] = []
        self._pending: list[tuple[int, float]] = []

    @property
    def points(self) -> list[tuple[int, float]]:
        """Oldest first; the last one may average fewer values than the others."""
        return [*self._means, _mean(self._pending)] if self._pending else list(self._means)

    def add(self, step: int, value: float) -> None:
        self._pending.append((step, value))
        if len(self._pending) < self._width:
            return
        self._means.append(_mean(self._pending))
        self._pending = []
        if len(self._means) >= self._most:
            pairs = zip(self._means[::2], self._means[1::2], strict=False)
            self._means = [_mean(list(pair)) for pair in pairs]
            self._width *= 2


def _mean(points: list[tuple[int, float]]) -> tuple[int, float]:
    return points[-1][0], sum(value for _, value in points) / len(points)


class RunReader:
    """Follows the metrics.jsonl of a training run: each line is read once, a half-written one later."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._begin(0)

    def _begin(self, inode: int) -> None:
        self._inode, self._offset = inode, 0
        self._curves: dict[str, Curve] = {}
        self._last: Figures = {}
        self._seconds_a_line = 0.0

    def read(self) -> Figures:
        """The run's last line, its curves by name, its `state` and, once it is finished, its evaluation."""
        try:
            self._follow()
        except FileNotFoundError:
            self._begin(0)
        return {
            "name": self._directory.name,
            "directory": str(self._directory),
            "state": self._state(),
            "last": self._last,
            "curves": {name: curve.points for name, curve in self._curves.items()},
            "evaluation": self._evaluation(),
        }

    def _follow(self) -> None:
        with (self._directory / "metrics.jsonl").open("rb") as file:
            stat = os.fstat(file.fileno())
            if stat.st_ino != self._inode or stat.st_size < self._offset:
                self._begin(stat.st_ino)
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._offset += len(line)
                self._take(line)

    def _take(self, line: bytes) -> None:
        values = _parse(line)
        step = values.get("step")
        if not isinstance(step, int):
            return
        for name, value in values.items():
            if (name == "loss" or name.startswith("val_")) and isinstance(value, int | float):
                self._curves.setdefault(name, Curve()).add(step, value)
        self._seconds_a_line = values.get("time", 0.0) - self._last.get("time", values.get("time", 0.0))
        self._last = values

    def _state(self) -> str:
        """waiting (nothing logged yet), training, silent (no new line for long), or finished."""
        last = self._last
        if not last:
            return "waiting"
        if last["step"] >= last.get("steps", float("inf")):
            return "finished"
        patience = max(_QUIET_SECONDS, 5 * self._seconds_a_line)
        return "silent" if time.time() - last.get("time", 0.0) > patience else "training"

    def _evaluation(self) -> Figures:
        try:
            return _parse((self._directory / "evaluation.json").read_bytes())
        except FileNotFoundError:
            return {}


def _parse(text: bytes) -> Figures:
    """A JSON object with NaN and infinities as None (the page's JSON has none); {} for anything else."""
    try:
        found = json.loads(text, parse_constant=lambda _: None)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
