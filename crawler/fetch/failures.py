"""Why a fetch failed, in words that are counted, and whose failure it is: the host's, the URL's, our own."""

import errno
import logging
import os
import socket
import ssl
import time
from collections.abc import Iterator

import aiohttp
from aiohttp.http_exceptions import ContentLengthError
from scrapy.exceptions import (
    CannotResolveHostError,
    DownloadCancelledError,
    DownloadTimeoutError,
    IgnoreRequest,
    ResponseDataLossError,
    UnsupportedURLSchemeError,
)

from crawler.errors import NetworkForbidden, OwnFault
from crawler.message import Truncated

# Reasons that say more about the host than about the URL: all of it rests longer each time. Nothing was sent.
OF_THE_HOST = frozenset({"dns", "refused", "unreachable", "tls", "connect_timeout"})

# The first that is found anywhere in the chain of causes names the reason.
_REASONS: tuple[tuple[str, tuple[type[BaseException], ...]], ...] = (
    ("forbidden_network", (NetworkForbidden,)),
    ("too_large", (DownloadCancelledError, IgnoreRequest)),
    ("dns", (CannotResolveHostError, socket.gaierror)),
    ("tls", (ssl.SSLError, ssl.CertificateError, aiohttp.ClientSSLError)),
    ("timeout", (DownloadTimeoutError, TimeoutError)),
    ("refused", (ConnectionRefusedError,)),
    ("reset", (ConnectionResetError, BrokenPipeError)),
    ("closed", (aiohttp.ServerDisconnectedError,)),
    ("truncated", (Truncated, ContentLengthError, aiohttp.http_exceptions.TransferEncodingError)),
    ("bad_url", (UnsupportedURLSchemeError,)),
    ("unreachable", (aiohttp.ClientConnectorError,)),
    ("bad_response", (ResponseDataLossError,)),
)
# What the same is called when it came before the request.
_BEFORE_THE_REQUEST = {"timeout": "connect_timeout", "reset": "unreachable", "closed": "unreachable"}

_DISK = "make room on that disk, or repair it"
_DESCRIPTORS = "allow more open files (ulimit -n), or set concurrency lower"
_MEMORY = "give it more memory or processes, or set concurrency and extractors lower"
_NETWORK = "see to this machine's network"
# What the system says when it is this machine that has run out of something, whatever was asked of it.
_OURS = {
    errno.ENOSPC: _DISK,
    errno.EDQUOT: _DISK,
    errno.EIO: _DISK,
    errno.EROFS: _DISK,
    errno.EMFILE: _DESCRIPTORS,
    errno.ENFILE: _DESCRIPTORS,
    errno.ENOBUFS: _MEMORY,
    errno.ENOMEM: _MEMORY,
    errno.EAGAIN: _MEMORY,  # of fork
    errno.ENETDOWN: _NETWORK,
}
# Their numbers are not the system's: 5 is no EIO there.
_NUMBERED_OTHERWISE = (ssl.SSLError, aiohttp.ClientSSLError, socket.gaierror)
# The name servers know that there is no such name, or no address of it.
_NO_SUCH_NAME = (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME))

# That a host rests which a fault of ours kept from being asked: without, it would be leased again at once.
FAULT_SECONDS = 1.0
# Seconds without new leases after a fault, doubled while nothing works: half would ask a full disk twice as
# often, double notice later that it is over.
_SHORTEST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0
# Seconds in which nothing worked, after which somebody has to see to it. Half may be a router that restarts.
_PATIENCE = 600.0
# Seconds without another after which a fault is over, though nothing was there to show it: several pauses.
_FORGOTTEN = 120.0

log = logging.getLogger(__name__)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """`error` and its causes."""
    while error is not None:
        yield error
        # aiohttp keeps what the system said beside the cause.
        if isinstance(inner := getattr(error, "os_error", None), BaseException):
            yield inner
        error = error.__cause__


def classify(error: BaseException | None, *, sent: bool = True) -> str:
    """The reason under which `error` is counted; `bad_response` for what is no HTTP.

    `sent` tells whether it came after the request.
    """
    chain = list(_chain(error))
    for reason, kinds in _REASONS:
        if any(isinstance(link, kinds) for link in chain):
            return reason if sent else _BEFORE_THE_REQUEST.get(reason, reason)
    return "bad_response"


def system_errors(error: BaseException) -> set[int | None]:
    """What the system said, wherever in the chain of causes."""
    return {link.errno for link in _chain(error) if isinstance(link, OSError)} - {None}


def no_such_name(error: BaseException | None) -> bool:
    """Whether `error` says that a name does not exist, rather than that nobody could tell."""
    return any(
        isinstance(link, UnicodeError) or (isinstance(link, socket.gaierror) and link.errno in _NO_SUCH_NAME)
        for link in _chain(error)
    )


def without_descriptors() -> OSError | None:
    """What the system says if none is left: its resolver then says that there is no such name."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return error
    return None


def own_fault(error: BaseException | None) -> OwnFault | None:
    """What of this machine's own is behind `error`, and what to do about it; None if a host or URL is."""
    for link in _chain(error):
        if isinstance(link, OwnFault):
            return link
        no_thread = isinstance(link, RuntimeError) and "start new thread" in str(link)
        if no_thread or isinstance(link, MemoryError):
            return OwnFault(f"{link or 'out of memory'}: {_MEMORY}")
        if isinstance(link, socket.gaierror) and link.errno == socket.EAI_MEMORY:
            return OwnFault(f"{link.strerror}: {_MEMORY}")
        if isinstance(link, CannotResolveHostError | socket.gaierror) and (lacking := without_descriptors()):
            return own_fault(lacking)
        # Twisted has the system's number too, in an error of its own.
        number = link.errno if isinstance(link, OSError) else getattr(link, "osError", None)
        if number in _OURS and not isinstance(link, _NUMBERED_OTHERWISE):
            name = getattr(link, "filename", None)
            where = f" ({name})" if name else ""
            return OwnFault(f"{os.strerror(number)}{where}: {_OURS[number]}")
    return None


class OwnFaults:
    """How a process that fetches goes on while its own machine fails it: less, then nothing, then not at all.

    A fault halves what may be in flight and stops new leases for a while; each fetch that began after it and
    met none allows one more. So with too few descriptors a worker goes on with as many
    as it has, and on a full disk it tries a single URL now and then.
    """

    def __init__(self, most: int) -> None:
        self._most, self._allowed = most, float(most)
        self._worked = self._met = self._until = 0.0
        self._pause = _SHORTEST_PAUSE
        self.waiting_for = ""
        """What is wrong and what to do about it; empty while nothing is."""

    def met(self, fault: OwnFault) -> None:
        """Heed a fault; those that come together count once."""
        now = time.monotonic()
        if not self.waiting_for:
            log.warning("waiting, nothing is lost: %s", fault)
            self._worked = now
        self.waiting_for, self._met = str(fault), now
        if now >= self._until:
            self._allowed = max(1.0, self._allowed / 2)
            self._until = now + self._pause
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    def passed(self, begun: float) -> None:
        """Heed that what was begun then (of time.monotonic) met no fault."""
        if not self.waiting_for or begun < self._met:
            return
        self._worked, self._pause = time.monotonic(), _SHORTEST_PAUSE
        self._allowed += 1
        if self._allowed >= self._most:
            self._is_over()

    def _is_over(self) -> None:
        log.info("over, and going on: %s", self.waiting_for)
        self._allowed, self._pause, self.waiting_for = float(self._most), _SHORTEST_PAUSE, ""

    def free(self, in_flight: int) -> int:
        """How many may be begun now. Raises OwnFault if nothing has worked for too long."""
        now = time.monotonic()
        if self.waiting_for and now - self._met > _FORGOTTEN:
            self._is_over()
        if not self.waiting_for:
            return self._most - in_flight
        if now - self._worked > _PATIENCE:
            raise OwnFault(f"gave up after {_PATIENCE / 60:g} minutes, nothing is lost: {self.waiting_for}")
        return 0 if now < self._until else int(self._allowed) - in_flight
