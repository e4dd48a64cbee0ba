"""Extraction in child processes with hard limits: a page that hangs, swells or kills one costs only itself.

Each child has a pipe of its own, so that exactly the one that misbehaves is killed; an executor of the
standard library cannot do that. Within a child a page is given up by an alarm, and what exceeds the memory
limit is a MemoryError; a child that hears no alarm, deep in a library's C code, is killed from here.

Nor does one party's slow pages stop the extraction of others. Domains come in turn. A page first gets one
second; what needs more goes to a child of its own at low priority, and so does, at once, every page of a
domain that wasted more than a second on pages which came to nothing. That halves in five minutes, so a domain
takes at most 0.23 % of the others' time after its first second (ln 2 / 300 s).
"""

import asyncio
import gc
import math
import os
import resource
import sys
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, Self

from crawler.page import Extracted
from tinylm.processes import Child

# A child's writable memory, all told (Linux; elsewhere only time is limited). One at rest has about 40; of
# a page its tree takes many times its size.
_MEGABYTES = 512
# Of that: what a child keeps between pages a library has leaked, and the next page needs room.
_REPLACED_AT = 0.6
# That a page gets on the children all share. Of 888 real pages none took half of it, of the 56 largest of 22
# sites 6 took more, and 25 more than half. At double a stranger's page stops the others for twice as long.
_FIRST_SECONDS = 1.0
# What one turn of a domain is worth: a page that takes ten times as long lets others pass ten times.
_USUAL_SECONDS = 0.03
# Beyond a page's own time, for the alarm in the child to be heard: half as much again, at most 2 seconds.
_GRACE_SHARE, _GRACE_SECONDS = 0.5, 2.0
# What children have imported when they begin, once for all; it takes about a second on an idle machine.
_TEMPLATE = "crawler.read.extract"
_START_SECONDS = 60.0
# That a domain may have wasted before it has to use the slow child; in how long half of it is forgotten.
_TOLERATED_SECONDS, _HALF_LIFE_SECONDS = 1.0, 300.0
_MOST_DOMAINS = 10_000  # remembered, in 3 MB; those that were not extracted from for longest go
# Pages that may wait for the slow child: each may take `extract_timeout` and a worker's slot meanwhile. One
# more, and that of the domain that wasted most is given up.
_MOST_SLOW = 3
_NICENESS = 10  # of the slow child: a tenth of a core where others want all of it
_OF_A_PROCESS = ("extract_timeout", "extract_crash", "extract_memory")


class Extractors:
    """Children that call `extract(*task, seconds)`, each for one page at a time, of so many `seconds`.

    `processes` of them, and one for what is slow, from the first such page on; with `all_slow` none, for who
    has all the time there is. They die with this process, and ignore Ctrl-C. What they take and return is
    pickled.
    """

    def __init__(
        self,
        extract: Callable[..., Extracted],
        processes: int,
        seconds: float,
        megabytes: int = _MEGABYTES,
        *,
        all_slow: bool = False,
    ) -> None:
        self._seconds, self._first_seconds = seconds, seconds if all_slow else min(seconds, _FIRST_SECONDS)
        self._tolerated = math.inf if all_slow else _TOLERATED_SECONDS
        self._domains: OrderedDict[str, _Domain] = OrderedDict()
        self._first = _Children([_Extractor(extract, megabytes) for _ in range(processes)])
        # Made when it is needed, which in most crawls is late: it takes as much memory as another extractor.
        self._slow: _Children | None = None
        self._make_slow = partial(_Extractor, extract, megabytes, _NICENESS)
        self.times = Times()

    async def __call__(self, domain: str, *task: Any, until: float = math.inf) -> tuple[Extracted, float]:
        """Extract a page of `domain`: what `extract` returns, and the seconds that it took beyond the first.

        The reason may be `extract_timeout` or `extract_crash`. A child may have died of something else,
        before or beside: the page is tried on a new one first. Raises TimeoutError if the page could not be
        begun early enough to be done `until` then (monotonic time), and its domain is not to blame.
        """
        known = self._domains.setdefault(domain, _Domain())
        self._domains.move_to_end(domain)
        if len(self._domains) > _MOST_DOMAINS:
            self._domains.popitem(last=False)
        found, seconds = None, 0.0
        if known.wasted() <= self._tolerated:
            found, seconds = await self._ask(self._first, known, task, self._first_seconds, until)
        if not found or (found.reason == "extract_timeout" and self._seconds > self._first_seconds):
            self._slow = self._slow or _Children([self._make_slow()], _MOST_SLOW)
            try:
                found, more = await self._ask(self._slow, known, task, self._seconds, until)
                seconds += more
            except TimeoutError:
                found = Extracted(reason="extract_timeout")
        self.times.add(seconds, found.reason if found.reason in _OF_A_PROCESS else "")
        return found, max(0.0, seconds - self._first_seconds)

    async def _ask(
        self, among: "_Children", known: "_Domain", task: tuple[Any, ...], seconds: float, until: float
    ) -> tuple[Extracted, float]:
        latest = until - seconds - _GRACE_SECONDS
        if latest < asyncio.get_running_loop().time():
            raise TimeoutError
        async with asyncio.timeout_at(latest if latest < math.inf else None):
            child = await among.take(known)
        child.seconds = 0.0
        try:
            found = (
                await child.ask(task, seconds)
                or await child.ask(task, seconds)
                or Extracted(reason="extract_crash")
            )
        finally:
            among.put(child)
        known.turn += child.seconds / _USUAL_SECONDS
        if found.reason in _OF_A_PROCESS:
            known.waste(child.seconds)
        return found, child.seconds

    def close(self) -> None:
        """End all, at once."""
        for children in (self._first, self._slow):
            if children:
                children.close()


class _Domain:
    """How a registrable domain stands with the children: its turn, and what it wasted lately."""

    def __init__(self) -> None:
        self.turn = 0.0
        self._wasted, self._at = 0.0, 0.0

    def wasted(self) -> float:
        """Seconds that went into pages which came to nothing; half of them are forgotten in a while."""
        return self._wasted * math.exp2((self._at - time.monotonic()) / _HALF_LIFE_SECONDS)

    def waste(self, seconds: float) -> None:
        self._wasted, self._at = self.wasted() + seconds, time.monotonic()


class _Waiting(NamedTuple):
    domain: _Domain
    turn: float
    child: "asyncio.Future[_Extractor]"


class _Children:
    """Children that serve domains in turn (start-time fair queueing), those that wasted much last."""

    def __init__(self, children: "list[_Extractor]", most: float = math.inf) -> None:
        self._children, self._idle, self._most = children, [*children], most
        self._waiting: list[_Waiting] = []
        self._turn, self._closed = 0.0, False

    async def take(self, domain: _Domain) -> "_Extractor":
        """A child, to be put back; raises TimeoutError if more wait than may, and this domain wasted most."""
        # One later than what is served now, and than what the domain waits for already.
        domain.turn = max(self._turn, domain.turn) + 1
        waiting = _Waiting(domain, domain.turn, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._serve()
        if len(self._waiting) > self._most:
            worst = max(self._waiting, key=lambda one: one.domain.wasted())
            self._waiting.remove(worst)
            worst.child.set_exception(TimeoutError())
        try:
            return await waiting.child
        except asyncio.CancelledError:
            if not waiting.child.cancelled() and not waiting.child.exception():
                self.put(waiting.child.result())
            raise

    def put(self, child: "_Extractor") -> None:
        if not self._closed:
            self._idle.append(child)
            self._serve()

    def _serve(self) -> None:
        self._waiting = [one for one in self._waiting if not one.child.done()]  # whose task was cancelled
        while self._idle and self._waiting:
            first = min(
                self._waiting, key=lambda one: (max(_TOLERATED_SECONDS, one.domain.wasted()), one.turn)
            )
            self._waiting.remove(first)
            self._turn = max(self._turn, first.turn)
            first.child.set_result(self._idle.pop())

    def close(self) -> None:
        self._closed = True
        for child in self._children:
            child.ended = True
            child.end()


class _Extractor(Child):
    """One process at a time, replaced when it fails."""

    def __init__(self, extract: Callable[..., Extracted], megabytes: int, niceness: int = 0) -> None:
        self.seconds = 0.0  # that answers took, and what was no answer
        self.ended = False  # for good
        super().__init__(
            "extractor", _serve, extract, megabytes, niceness, megabytes=megabytes, template=_TEMPLATE
        )

    def start(self) -> None:
        super().start()
        self._greeted = False

    async def ask(self, task: tuple[Any, ...], seconds: float) -> Extracted | None:
        """The answer; None if the process died, or was found dead: there is another one then."""
        loop = asyncio.get_running_loop()
        if self.pipe.closed and not self.ended:
            self.start()  # which failed the last time
        began = 0.0
        try:
            if not self._greeted:
                await self._readable(_START_SECONDS)
                self._greeted = self.pipe.recv() is None
            began = loop.time()
            self.pipe.send((*task, seconds))
            await self._readable(seconds + min(_GRACE_SECONDS, _GRACE_SHARE * seconds))
            found: Extracted = self.pipe.recv()
        except (EOFError, OSError, asyncio.CancelledError) as error:
            if not self.ended:
                self.end()
                self.start()
            if isinstance(error, asyncio.CancelledError):
                raise
            return Extracted(reason="extract_timeout") if isinstance(error, TimeoutError) else None
        finally:
            self.seconds += loop.time() - began if began else 0.0
        return found

    async def _readable(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        descriptor = self.pipe.fileno()
        loop.add_reader(descriptor, ready.set)
        try:
            async with asyncio.timeout(seconds):
                await ready.wait()
        finally:
            loop.remove_reader(descriptor)


def _serve(pipe: Connection, extract: Callable[..., Extracted], megabytes: int, niceness: int) -> None:
    """The child: greets, then answers until its parent is gone, or until it has grown too large."""
    os.nice(niceness)
    gc.freeze()  # what was imported stays: no collection has to look at it again
    pipe.send(None)
    weigh = _scale()
    with suppress(EOFError, OSError):
        while True:
            found = extract(*pipe.recv()).fitted()
            pipe.send(found)
            if found.reason == "extract_memory" or weigh() > _REPLACED_AT * megabytes:
                break


def _scale() -> Callable[[], float]:
    """Return a function that measures the memory that counts towards RLIMIT_DATA, in megabytes."""
    if sys.platform != "linux":
        return lambda: 0.0
    # Not getrusage: its peak begins with the parent's. The sixth figure is data and stack, in pages.
    statm = os.open("/proc/self/statm", os.O_RDONLY)
    return lambda: int(os.pread(statm, 256, 0).split()[5]) * resource.getpagesize() / (1 << 20)


class Times:
    """How long pages took, in a histogram of powers of two, and what became of those that failed.

    Of one worker or of all.
    """

    def __init__(self) -> None:
        self._buckets: Counter[int] = Counter()
        self.failed: Counter[str] = Counter()

    def add(self, seconds: float, failure: str) -> None:
        self._buckets[int(seconds * 1000).bit_length()] += 1
        if failure:
            self.failed[failure] += 1

    def quantile(self, share: float) -> int:
        """Milliseconds that at least this share of the pages stayed below; rounded up to a power of two."""
        wanted = share * self._buckets.total()
        for bits in sorted(self._buckets):
            wanted -= self._buckets[bits]
            if wanted <= 0:
                return 1 << bits
        return 0

    def state(self) -> dict[str, dict[str, int]]:
        """The form in which a worker publishes them."""
        return {
            "buckets": {str(bits): pages for bits, pages in self._buckets.items()},
            "failed": dict(self.failed),
        }

    @classmethod
    def of_all(cls, states: Iterable[Mapping[str, Mapping[str, int]]]) -> Self:
        """The sum of what several workers published."""
        times = cls()
        for state in states:
            times._buckets.update({int(bits): pages for bits, pages in state["buckets"].items()})
            times.failed.update(state["failed"])
        return times

    def summary(self) -> dict[str, Any]:
        """For a status display."""
        return {
            "extracted": self._buckets.total(),
            "p50_ms": self.quantile(0.5),
            "p99_ms": self.quantile(0.99),
            "failed": dict(self.failed),
        }
