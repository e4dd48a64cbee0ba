"""Extraction in child processes with hard limits: a page that hangs, swells or kills one costs only itself.

Each child has a pipe of its own, so that exactly the one that misbehaves is killed; an executor of the
standard library cannot do that. Within a child a page is given up by an alarm, and what exceeds the memory
limit is a MemoryError; a child that hears no alarm, deep in a library's C code, is killed from here.
"""

import asyncio
import gc
import os
import resource
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, Self

from crawler.page import Extracted
from tinylm.processes import Child

# A child's writable memory, all told (Linux; elsewhere only time is limited). One at rest has about 40; of
# a page its tree takes many times its size.
_MEGABYTES = 512
# Of that: what a child keeps between pages a library has leaked, and the next page needs room.
_REPLACED_AT = 0.6
# Beyond a page's own time, for the alarm in the child to be heard.
_GRACE_SECONDS = 2.0
# To import the libraries, which takes about 1 on an idle machine.
_START_SECONDS = 60.0
_OF_A_PROCESS = ("extract_timeout", "extract_crash", "extract_memory")


class Extractors:
    """Children that call `extract(*task, seconds)`, each for one page at a time, of so many `seconds`.

    They die with this process, and ignore Ctrl-C. What they take and return is pickled.
    """

    def __init__(
        self, extract: Callable[..., Extracted], processes: int, seconds: float, megabytes: int = _MEGABYTES
    ) -> None:
        self._idle: asyncio.LifoQueue[_Extractor] = asyncio.LifoQueue()
        self._children = [_Extractor(extract, seconds, megabytes) for _ in range(processes)]
        for child in self._children:
            self._idle.put_nowait(child)
        self._closed = False
        self.times = Times()

    async def __call__(self, *task: Any) -> Extracted:
        """Extract one page: what `extract` returns, or `extract_timeout` or `extract_crash` as the reason.

        A child may have died of something else, before or beside: the page is tried on a new one first.
        """
        child = await self._idle.get()
        try:
            found = await child.ask(task) or await child.ask(task) or Extracted(reason="extract_crash")
        finally:
            if not self._closed:
                self._idle.put_nowait(child)
        self.times.add(child.seconds, found.reason if found.reason in _OF_A_PROCESS else "")
        return found

    def close(self) -> None:
        """End all, at once."""
        self._closed = True
        for child in self._children:
            child.end()


class _Extractor(Child):
    """One process at a time, replaced when it fails."""

    def __init__(self, extract: Callable[..., Extracted], seconds: float, megabytes: int) -> None:
        self._patience = seconds + _GRACE_SECONDS
        super().__init__("extractor", _serve, extract, seconds, megabytes, megabytes=megabytes)

    def start(self) -> None:
        super().start()
        self._greeted = False
        self.seconds = 0.0  # that the last answer took

    async def ask(self, task: tuple[Any, ...]) -> Extracted | None:
        """The answer; None if the process died, or was found dead: there is another one then."""
        try:
            if not self._greeted:
                await self._readable(_START_SECONDS)
                self._greeted = self.pipe.recv() is None
            began = asyncio.get_running_loop().time()
            self.pipe.send(task)
            await self._readable(self._patience)
            found: Extracted = self.pipe.recv()
            self.seconds = asyncio.get_running_loop().time() - began
        except (EOFError, OSError, asyncio.CancelledError) as error:
            # Closed: it was ended for good, by `Extractors.close`.
            if not self.pipe.closed:
                self.end()
                self.start()
            if isinstance(error, asyncio.CancelledError):
                raise
            return Extracted(reason="extract_timeout") if isinstance(error, TimeoutError) else None
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


def _serve(pipe: Connection, extract: Callable[..., Extracted], seconds: float, megabytes: int) -> None:
    """The child: greets, then answers until its parent is gone, or until it has grown too large."""
    gc.freeze()  # what was imported stays: no collection has to look at it again
    pipe.send(None)
    weigh = _scale()
    with suppress(EOFError, OSError):
        while True:
            found = extract(*pipe.recv(), seconds).fitted()
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
