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
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

from crawler.page import Extracted
from crawler.read.times import Times
from tinylm.processes import die_with_parent, ignore_interrupts

_GRACE_SECONDS = 2.0
_START_SECONDS = 60.0
_REPLACED_AT = 0.6
_OF_A_PROCESS = ("extract_timeout", "extract_crash", "extract_memory")

Task = tuple[Any, ...]
"""Picklable arguments of one call."""


class Limits(NamedTuple):
    """What one page may cost."""

    seconds: float
    megabytes: int
    """Of a child's writable memory, all told (Linux; elsewhere only time is limited)."""


class Extractors:
    """Children that call `extract(*task, seconds)`, each for one page at a time.

    They die with this process, and ignore Ctrl-C.
    """

    def __init__(self, extract: Callable[..., Extracted], processes: int, limits: Limits) -> None:
        self._idle: asyncio.LifoQueue[_Child] = asyncio.LifoQueue()
        self._children = [_Child(extract, limits) for _ in range(processes)]
        for child in self._children:
            self._idle.put_nowait(child)
        self._closed = False
        self.times = Times()

    async def __call__(self, *task: Any) -> Extracted:
        """What `extract` returns, or a reason: `extract_timeout`, or `extract_crash` if the child died of it.

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


class _Child:
    """One process at a time, started when it is needed."""

    def __init__(self, extract: Callable[..., Extracted], limits: Limits) -> None:
        self._extract = extract
        self._limits = limits
        self._start()

    def _start(self) -> None:
        context = get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, self._extract, self._limits), daemon=True, name="extractor"
        )
        self._process.start()
        theirs.close()
        self._greeted = False
        self.seconds = 0.0
        """That the last answer took."""

    async def ask(self, task: Task) -> Extracted | None:
        """The answer; None if the process died, or was found dead: there is another one then."""
        try:
            if not self._greeted:
                await self._readable(_START_SECONDS)
                self._greeted = self._ours.recv() is None
            began = asyncio.get_running_loop().time()
            self._ours.send(task)
            await self._readable(self._limits.seconds + _GRACE_SECONDS)
            found: Extracted = self._ours.recv()
            self.seconds = asyncio.get_running_loop().time() - began
        except TimeoutError:
            self._replace()
            return Extracted(reason="extract_timeout")
        except (EOFError, OSError):
            self._replace()
            return None
        except asyncio.CancelledError:
            self._replace()
            raise
        return found

    def _replace(self) -> None:
        """Unless it was ended for good, from here."""
        if not self._ours.closed:
            self.end()
            self._start()

    async def _readable(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        descriptor = self._ours.fileno()
        loop.add_reader(descriptor, ready.set)
        try:
            async with asyncio.timeout(seconds):
                await ready.wait()
        finally:
            loop.remove_reader(descriptor)

    def end(self) -> None:
        self._process.kill()
        self._process.join()
        self._process.close()
        self._ours.close()


def _serve(connection: Connection, extract: Callable[..., Extracted], limits: Limits) -> None:
    """The child: greets, then answers until its parent is gone, or until it has grown too large."""
    die_with_parent()
    ignore_interrupts()
    _limit_memory(limits.megabytes)
    gc.freeze()
    connection.send(None)
    megabytes = _scale()
    with suppress(EOFError, OSError):
        while True:
            found = extract(*connection.recv(), limits.seconds)
            connection.send(found)
            if found.reason == "extract_memory" or megabytes() > _REPLACED_AT * limits.megabytes:
                break


def _limit_memory(megabytes: int) -> None:
    """RLIMIT_DATA, not RLIMIT_AS: what libraries reserve and never touch does no harm."""
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_DATA, (megabytes << 20, megabytes << 20))


def _scale() -> Callable[[], float]:
    """Weighs, in megabytes, what counts towards RLIMIT_DATA; getrusage's peak begins with the parent's."""
    if sys.platform != "linux":
        return lambda: 0.0
    statm = os.open("/proc/self/statm", os.O_RDONLY)
    return lambda: int(os.pread(statm, 256, 0).split()[5]) * resource.getpagesize() / (1 << 20)
