"""What the dashboard shows: three threads read it once a second, however many browsers look.

The sources are the frontier, the corpus's manifest, and the metrics.jsonl of training runs; none of them
knows of the page. A reading is about ten commands to the server, one `stat` of the manifest and the new lines
of each metrics file. Curves are thinned to at most 500 points, so that a long run costs no more than a short
one.
"""

import json
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from crawler.config import CrawlPlace
from crawler.frontier import Frontier
from deploy.crawl import NoServer
from deploy.sources.show import figures, found_in
from deploy.status import StatusReader, Verdict, verdict
from deploy.summary import Summary, moment, not_fetched, pages_and_links
from ranker.sources import Sources
from shards.manifest import FILE_NAME, HeldOut, Manifest
from tinylm.errors import TinylmError

# The page asks as often. Half would be ten commands to the server twice a second that nobody sees.
_READ_SECONDS = 1.0
# Missing three readings in turn is no accident.
_STALE_SECONDS = 3.0
# Of the chart of speed: a point a reading, so 600 of them in every answer.
_HISTORY_SECONDS = 600
# A run is silent that logs nothing for a minute, or, with long steps, for five of its own pauses.
_SILENT_SECONDS, _SILENT_PAUSES = 60.0, 5
# More than a chart of the page has pixels. All of them are sent every second.
_CURVE_POINTS = 500
# Names of held-out hosts, some lines of text on the page; more end in an ellipsis.
_HOSTS_SHOWN = 60
_LARGEST = 1e30  # nothing that is measured is larger; means of what is would not be numbers

log = logging.getLogger(__name__)
Figures = dict[str, Any]


class Sampled:
    """The latest result of `read`, called once a second in a thread inside the block: a context manager.

    If `read` hangs or fails, the last result stays, and `age_seconds` and `error` say so.
    """

    def __init__(self, read: Callable[[], Figures]) -> None:
        self._read = read
        self._latest: tuple[float, Figures] = (time.monotonic(), {})
        self._error = ""
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="sample")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join(_READ_SECONDS)  # one that waits for a server is not waited for

    def latest(self) -> Figures:
        """The last result with its `age_seconds` and the `error` since then, if any.

        A verdict of before is none on what cannot be read any more, unless all was done.
        """
        at, figures = self._latest
        age, verdict = time.monotonic() - at, figures.get("verdict")
        if (self._error or age > _STALE_SECONDS) and verdict and verdict["level"] != "done":
            text = self._error or f"Nothing was heard for {age:.0f} s."
            figures = {**figures, "verdict": Verdict("bad", text)._asdict()}
        return {**figures, "age_seconds": age, "error": self._error}

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                figures = self._read()
                self._latest, self._error = (time.monotonic(), figures), ""
            except (TinylmError, OSError) as error:
                self._error = str(error)
            # A bug in one reading must not end the thread: the page would show old figures without a word.
            except Exception as error:
                log.exception("a reading for the dashboard failed")
                self._error = f"{type(error).__name__}: {error}"
            self._stopping.wait(_READ_SECONDS)


class CrawlReader:
    """Reads the status of the crawl, once `attach` finds it, and remembers the rates of the last minutes.

    Until then, what the last run left in `directory`.
    """

    def __init__(self, attach: Callable[[], Frontier], directory: Path) -> None:
        self._attach, self._directory = attach, directory
        self._reader: StatusReader | None = None
        self._rates: deque[tuple[float, float]] = deque(maxlen=int(_HISTORY_SECONDS / _READ_SECONDS))

    def read(self) -> Figures:
        """Everything the page says of the crawl. Raises ServerError if the server does not answer."""
        if self._reader is None:
            try:
                self._reader = StatusReader(self._attach())
            except NoServer as error:
                if not (last := Summary.load(self._directory)):
                    return {"verdict": Verdict("wait", f"No crawl yet: {error}.")._asdict()}
                ended = last.ended or "it did not say why"
                text = f"No crawl runs. Its end, {moment(last.at)}: {ended}; {last.kept:,} documents."
                return {"verdict": Verdict("done" if last.ended else "wait", text)._asdict()}
        status, frontier = self._reader.read(), self._reader.frontier
        counts, limits = status.counts, status.limits
        self._rates.append((round(time.time(), 1), round(status.rate or 0.0, 2)))
        dropped, links = pages_and_links(status.walker.get("dropped", {}))
        counted = ("fetched", "bytes", "queued", "discovered", "hosts", "backlog")
        return {name: counts[name] for name in counted} | {
            "crawl_id": frontier.config.crawl_id,
            "verdict": verdict(status, frontier.config.backlog)._asdict(),
            "pages_per_second": status.rate or 0.0,
            "rates": list(self._rates),
            "dead_letters": counts["dead"],
            "backlog_limit": frontier.config.backlog,
            "idle": status.idle,
            "walker": status.walker,
            "extraction": status.extraction,
            "not_kept": dropped,
            "not_fetched": not_fetched(counts) + links,
            "limits": limits
            and {"pages": limits.pages, "bytes": limits.bytes, "seconds_left": limits.until - time.time()},
            "reached": status.reached,
        }


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
        # A commit renames a new file into place. Reading a manifest of thousands of shards takes longer.
        identity = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        if identity != self._seen:
            self._figures, self._seen = self._describe(stat.st_mtime), identity
        return self._figures

    def _describe(self, committed_at: float) -> Figures:
        try:
            manifest = Manifest.load(self._directory)
        except TinylmError as error:
            return {"damage": str(error)}
        held_out = manifest.held_out or HeldOut(hosts=())
        return {
            "directory": str(self._directory),
            "documents": manifest.rows,
            "text_bytes": manifest.text_bytes,
            "file_bytes": sum(shard.bytes for shard in manifest.shards),
            "shards": len(manifest.shards),
            "version": manifest.version,
            "fingerprint": manifest.fingerprint,
            "committed_at": committed_at,
            "held_out_hosts": sorted(held_out.hosts)[:_HOSTS_SHOWN],
            "held_out": len(held_out.hosts),
            "excluded": len(held_out.excluded),
        }


class SourcesReader:
    """Reads what sources of seeds brought, by kind, when the manifest in `place` has changed."""

    def __init__(self, place: CrawlPlace) -> None:
        self._place, self._sums = place, Sources(place.shards)
        self._seen = 0
        self._figures: Figures = {}

    def read(self) -> Figures:
        """`sources`, what pays most first; {} if there is no corpus yet. Raises ShardError, SeedError."""
        try:
            changed = (self._place.shards / FILE_NAME).stat().st_mtime_ns
        except FileNotFoundError:
            return {}
        if changed != self._seen:
            found = found_in(self._place, "kind", self._sums)
            self._figures, self._seen = (
                {"sources": [{"name": each.name} | figures(each) for each in found]},
                changed,
            )
        return self._figures


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
        # From now on half as many points of twice the width.
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
        evaluation = self._directory / "evaluation.json"
        return {
            "name": self._directory.name,
            "directory": str(self._directory),
            "state": self._state(),
            "last": self._last,
            "curves": {name: curve.points for name, curve in self._curves.items()},
            "evaluation": _parse(evaluation.read_bytes()) if evaluation.exists() else {},
        }

    def _follow(self) -> None:
        with (self._directory / "metrics.jsonl").open("rb") as file:
            stat = os.fstat(file.fileno())
            # A run that goes on from a checkpoint writes its file anew without the lines after it.
            if stat.st_ino != self._inode or stat.st_size < self._offset:
                self._begin(stat.st_ino)
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):  # half of it: read again next time
                    break
                self._offset += len(line)
                self._take(line)

    def _take(self, line: bytes) -> None:
        # A line is what a run measured: numbers, whoever wrote it.
        values = {
            name: value for name, value in _parse(line).items() if isinstance(value, int | float | None)
        }
        step = values.get("step")
        if not isinstance(step, int):
            return
        for name, value in values.items():
            if (name == "loss" or name.startswith("val_")) and isinstance(value, int | float):
                self._curves.setdefault(name, Curve()).add(step, value)
        now = values.get("time") or 0.0
        self._seconds_a_line = now - (self._last.get("time") or now)
        self._last = values

    def _state(self) -> str:
        """waiting (nothing logged yet), training, silent (no new line for long), or finished."""
        last = self._last
        if not last:
            return "waiting"
        if last["step"] >= (last.get("steps") or float("inf")):
            return "finished"
        patience = max(_SILENT_SECONDS, _SILENT_PAUSES * self._seconds_a_line)
        return "silent" if time.time() - (last.get("time") or 0.0) > patience else "training"


def _parse(text: bytes) -> Figures:
    """A JSON object with what is no number, or too large a one, as None; {} for anything else."""
    try:
        found = json.loads(text, parse_constant=_number, parse_float=_number, parse_int=_number)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _number(text: str) -> int | float | None:
    number = float(text)
    if not abs(number) < _LARGEST:
        return None
    return int(text) if text.lstrip("-").isdigit() else number
