"""Archives where they lie: a path, an fsspec URL, or a file on a web server, which is asked for parts of it.

A web server gets one request at a time: Common Crawl's answers 403 to who asks with two threads. What it
refuses for now, and what breaks off, is waited for longer each time, until that is an error.
"""

import asyncio
import io
import logging
import os
import re
import threading
import time
from collections.abc import Coroutine
from concurrent.futures import wait
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Self, TypeVar

from crawler.config import CrawlConfig
from crawler.errors import CrawlError
from crawler.fetch.client import Answered, AskError, Client
from crawler.fetch.robots import retry_at
from shards.files import is_url, open_bytes

# Bytes that are asked for at once of a file that is read from end to end: about 400 pages. Half of it is
# twice as many requests; of double more is lost when a connection breaks.
_BLOCK, _LEAST = 8 << 20, 1 << 16
# Of a file that a server sends as a whole, whatever part was asked for.
_WHOLE = 64 << 20
# Seconds that a part may take (8 MiB at 140 kB/s), and between two requests, whichever.
_SECONDS, _REST = 60.0, 0.25
# Seconds to wait after a refusal, the first time and at most: it doubles, to ten minutes in all. Half as many
# tries give up while a busy bucket of S3 recovers; of double nobody wants to wait for the end.
_FIRST_WAIT, _LONGEST_WAIT, _TRIES = 10.0, 300.0, 7
# Of a Retry-After that is slept through: beyond an hour whoever started this wants to know.
_LONGEST_RETRY_AFTER = 3600.0
_POLL_SECONDS = 0.5  # between looks for Ctrl-C
_RANGE = re.compile(r"bytes (?:(\d+)-\d+|\*)/(\d+)")
_REFUSED, _GONE = (403, 408, 425, 429, 500, 502, 503, 504), (404, 410)

log = logging.getLogger(__name__)
T = TypeVar("T")


class _Refused(AskError):
    """Not now; perhaps in so many `seconds`."""

    def __init__(self, why: str, seconds: float) -> None:
        super().__init__(why)
        self.seconds = seconds


class Places:
    """Opens archives by path or URL; a context manager. Web servers are asked behind the crawl's guard."""

    def __init__(self, config: CrawlConfig) -> None:
        self._config = config
        self._client: Client | None = None
        self._lock = threading.Lock()  # DuckDB asks from threads of its own
        self._rested = 0.0
        self._known: dict[str, tuple[int, str]] = {}  # size and ETag of files on web servers

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._client:
            self._run(self._client.__aexit__())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def open(self, place: str, *, buffered: bool = True) -> BinaryIO:
        """The file, for reading, with a position. Raises OSError, ShardError or CrawlError."""
        if place.startswith(("http://", "https://")):
            raw: Any = _WebFile(self, place)
            return io.BufferedReader(raw, _BLOCK) if buffered else raw
        if re.search(r"\bhttps?:", place):
            raise CrawlError(f"{place}: a web server's file is read by its URL, through no other file system")
        opened: BinaryIO = open_bytes(place if is_url(place) else Path(place))
        return opened

    def size(self, url: str) -> int:
        """Bytes of a file on a web server."""
        if url not in self._known:
            self.part(url, 0, 1)
        return self._known[url][0]

    def part(self, url: str, start: int, size: int) -> bytes:
        """Bytes `start` up to `start + size` of a file on a web server; fewer at its end only.

        Raises FileNotFoundError; AskError if they are not to be had now; CrawlError if they never will be.
        """
        came, failed, most = b"", 0, size
        with self._lock:
            while len(came) < min(size, self._known.get(url, (start + size, ""))[0] - start):
                try:
                    answer = self._asked(url, start + len(came), min(most, size - len(came)))
                except AskError as error:
                    # Less at once: a connection that always breaks would never get far enough.
                    failed, most = failed + 1, max(_LEAST, most // 2)
                    self._wait(url, failed, error)
                    continue
                failed, came = 0, came + answer.body
        return came

    def _wait(self, url: str, failed: int, error: AskError) -> None:
        seconds = error.seconds if isinstance(error, _Refused) else 0.0
        if failed == _TRIES or seconds > _LONGEST_RETRY_AFTER:
            when = f"in {seconds / 3600:.1f} hours" if seconds > 0 else "later"
            raise AskError(f"{url}: not to be had now: {error}; start again {when}, and it goes on from here")
        seconds = max(seconds, min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** (failed - 1)))
        log.warning("%s: %s; asked again in %.0f s", url, error, seconds)
        self._run(asyncio.sleep(seconds))

    def _asked(self, url: str, start: int, size: int) -> Answered:
        """An answer whose body is of the file from `start` on. Raises as `part` does."""
        if not self._client:
            client = Client(self._config)
            # In a thread of its own: whoever reads may be within a loop.
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
            self._thread.start()
            self._client = self._run(client.__aenter__())
        self._run(asyncio.sleep(self._rested - time.monotonic()))
        body = bytearray()

        def into(status: int, chunk: bytes) -> None:
            body.extend(chunk)
            if status == 200 and len(body) > _WHOLE:
                raise CrawlError(f"{url}: its server sends no parts of files: download it, and read the copy")

        # Not packed on the way: parts of what is packed are no parts of the file.
        header = {"Range": f"bytes={start}-{start + size - 1}", "Accept-Encoding": "identity"}
        how: dict[str, Any] = {"headers": header, "timeout": _SECONDS, "redirects": 3, "into": into}
        try:
            answer = self._run(self._client.get(url, most_bytes=_WHOLE + _BLOCK, **how))
        finally:
            self._rested = time.monotonic() + _REST
        status, said = answer.status, answer.headers.get("Content-Range", "")
        found = _RANGE.fullmatch(said.strip()) if status in (206, 416) else None
        if status in _GONE:
            raise FileNotFoundError(2, f"the server has no such file ({status})", url)
        # A page instead of the file is how a proxy, or a provider, says no.
        page = status == 200 and "text/html" in answer.headers.get("Content-Type", "")
        if status in _REFUSED or page or (status == 206 and not body):
            at = retry_at(answer.headers.get("Retry-After", ""))
            raise _Refused(f"it answered {status}: {_words(body)}", at - time.time() if at else 0.0)
        if status == 200:
            total, body = len(body), body[start : start + size]
        elif found and (status == 416 or int(found[1] or -1) == start):
            total = int(found[2])
        else:
            raise CrawlError(f"{url}: it answered {status} {said}, and not with that part: {_words(body)}")
        tag = answer.headers.get("ETag", "")
        known = self._known.setdefault(url, (total, tag))
        if known[0] != total or (tag and known[1] not in ("", tag)):
            raise CrawlError(f"{url}: it is another file than when reading began: begin anew")
        return answer._replace(body=b"" if status == 416 else bytes(body[:size]))

    def _run(self, what: Coroutine[Any, Any, T]) -> T:
        """Wait for it, and for Ctrl-C: that does not interrupt who is within a loop, but cancels its task."""
        asked = asyncio.run_coroutine_threadsafe(what, self._loop)
        try:
            while not wait([asked], _POLL_SECONDS).done:
                with suppress(RuntimeError):  # there is no loop
                    if (task := asyncio.current_task()) and task.cancelling():
                        raise asyncio.CancelledError
            return asked.result()
        finally:
            asked.cancel()


class _WebFile(io.RawIOBase):
    """A file on a web server."""

    def __init__(self, places: Places, url: str) -> None:
        self._places, self._url, self._at = places, url, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + (self._places.size(self._url) if whence == os.SEEK_END else self._at * whence)
        return self._at

    def readinto(self, buffer: Any) -> int:
        part = self._places.part(self._url, self._at, len(buffer))
        buffer[: len(part)] = part
        self._at += len(part)
        return len(part)


def _words(body: bytes | bytearray) -> str:
    """What a page says to people, its beginning."""
    return " ".join(re.sub(r"<[^<>]*>", " ", body[:2000].decode("utf-8", "replace")).split())[:200]
