"""Scrapy's aiohttp download handler behind the address guard, the cap by address, and limits of its own."""

import asyncio
import errno
import socket
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from ipaddress import ip_address
from itertools import count
from typing import TYPE_CHECKING, Any, Protocol, cast
from urllib.parse import urlsplit

import aiohttp
from scrapy import Request
from scrapy.core.downloader.handlers._aiohttp import AiohttpDownloadHandler, _ClientResponse
from scrapy.downloadermiddlewares.httpcompression import HttpCompressionMiddleware
from scrapy.exceptions import CannotResolveHostError, DownloadConnectionRefusedError, DownloadTimeoutError
from scrapy.http import Headers, Response

from crawler.errors import AddressBusy, LeaseLost, OwnFault
from crawler.fetch.addresses import AddressGuard, ForbiddenAddress, Resolver, unwrap
from crawler.fetch.failures import system_errors
from crawler.fetch.roundtrips import RoundTrips
from crawler.frontier.records import uptime
from crawler.warc import Exchange, WarcWriter

if TYPE_CHECKING:
    from scrapy.crawler import Crawler
    from yarl import URL

# Content encodings on each other: a bomb that is packed 20 times grows at each.
_MOST_ENCODINGS = 3
# Beyond a request's timeout: then what a worker that died holds is free again.
_HOLD_MARGIN_SECONDS = 5.0
# That a connection is kept for the host's next request. As many descriptors are held as pages are fetched in
# that time: double would be 1,000 at 100 pages a second, half would be over before most hosts' next turn.
_KEPT_SECONDS = 5.0
# What connect() says of a machine without network, but of hosts out of reach too.
_NO_WAY = {errno.ENETUNREACH, errno.EHOSTUNREACH}


@dataclass
class Permit:
    """The right to send one request until `deadline`, by `uptime`.

    It is looked at as late as can be: as the socket is made, and as the request is written, on a connection
    that was kept too. What is left is a process that is stopped within the microseconds between the last look
    and the system call, and bytes that wait in the machine's own buffers.
    """

    deadline: float
    sent: bool = False
    """Whether the request was written: it counts, whatever became of it."""
    empty_query: bool = False
    """Whether what is asked for ends in a question mark."""

    def check(self) -> None:
        """Raise LeaseLost if it is over."""
        if uptime() >= self.deadline:
            raise LeaseLost("the lease ran out before its request was sent")


_permit: ContextVar[Permit] = ContextVar("permit")


class _Request(aiohttp.ClientRequest):
    """Written only while it is permitted."""

    async def send(self, conn: aiohttp.connector.Connection) -> aiohttp.ClientResponse:
        permit = _permit.get()
        permit.check()
        permit.sent, url = True, self.url
        if permit.empty_query:
            self.url = cast("URL", _EmptyQuery(url))
        try:
            return await super().send(conn)
        finally:
            self.url = url


class _EmptyQuery:
    """A URL that is written with its empty query, which yarl leaves out."""

    def __init__(self, url: "URL") -> None:
        self._url = url

    @property
    def raw_path_qs(self) -> str:
        return f"{self._url.raw_path_qs}?"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._url, name)


class AddressCap:
    """At most `most` connections to an address at once and `gap` seconds between them, by all workers."""

    def __init__(self, trips: RoundTrips, most: int, gap: float) -> None:
        self._trips, self._most, self._gap = trips, most, gap
        self._name, self._holds = uuid.uuid4().hex, count()

    @asynccontextmanager
    async def held(self, address: str, seconds: float) -> AsyncIterator[None]:
        """Within, one connection may be made, for `seconds` at most. Raises AddressBusy."""
        if not self._most and not self._gap:
            yield
            return
        group, holder = address_group(address), f"{self._name}:{next(self._holds)}"
        if wait := await self._trips.hold(group, holder, most=self._most, gap=self._gap, seconds=seconds):
            raise AddressBusy(address, wait)
        try:
            yield
        finally:
            self._trips.release(group, holder)


def address_group(address: str) -> str:
    """The addresses that one server is taken to own: an IPv4 address, or an IPv6 /64."""
    judged = unwrap(ip_address(address.partition("%")[0]))
    if judged.version == 4:
        return str(judged)
    return f"{type(judged)(int(judged) >> 64 << 64)}/64"


class BoundedCompression(HttpCompressionMiddleware):
    """Each encoding's output is bounded by Scrapy, the number of encodings on each other here."""

    def _handle_encoding(
        self, body: bytes, content_encoding: list[bytes], max_size: int
    ) -> tuple[bytes, list[bytes]]:
        if sum(value.count(b",") + 1 for value in content_encoding) > _MOST_ENCODINGS:
            raise ValueError(f"more than {_MOST_ENCODINGS} content encodings")
        return super()._handle_encoding(body, content_encoding, max_size)


class _Careful(Protocol):
    """What the handler needs of the spider."""

    cap: AddressCap
    warc: WarcWriter | None


class _Response(_ClientResponse):
    """`cut_at` is how many bytes of the body are read at most; 0 for all."""

    cut_at = 0


class GuardedDownloadHandler(AiohttpDownloadHandler):
    """Every connection's address is checked as its socket is made; no proxy, no cookies, no redirects.

    A request is sent by the `permit` in its `meta`; `cut_at` there is where its body is cut instead of given
    up.
    """

    experimental = False

    def __init__(self, crawler: "Crawler") -> None:
        super().__init__(crawler)
        self._guard = AddressGuard(tuple(crawler.settings.getlist("TINYLM_ALLOWED_NETWORKS")))
        self._resolver = Resolver(tuple(crawler.settings.getlist("TINYLM_RESOLVE")), self._guard)
        self._reached: tuple[str, int] | None = None  # the last address and port that answered
        # Scrapy's own session, without a guard, is replaced before it is used; detached, it warns of nothing.
        unguarded, self._session = (
            self._session,
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    resolver=self._resolver,
                    socket_factory=self._make_socket,
                    limit=self._pool_size_total,
                    keepalive_timeout=_KEPT_SECONDS,
                    # Names are remembered in the resolver, which knows which address it gave away.
                    use_dns_cache=False,
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                # The middleware unpacks, within bounds; WARC files keep what was sent.
                auto_decompress=False,
                request_class=_Request,
                response_class=_Response,
                skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
                trust_env=False,
            ),
        )
        unguarded.detach()
        # One lease is one request: one that failed on a kept connection is the frontier's to send again.
        self._session._retry_connection = False

    def _make_socket(self, info: Any) -> socket.socket:
        _permit.get().check()
        return self._guard.make_socket(info)

    @asynccontextmanager
    async def _make_request(self, request: Request, timeout: float) -> AsyncIterator[_ClientResponse]:
        loop = asyncio.get_running_loop()
        over = loop.time() + timeout
        parts = urlsplit(request.url)
        name, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        address, port = await self._address(name, port, timeout)
        permit: Permit = request.meta["permit"]
        hold = timeout + _HOLD_MARGIN_SECONDS
        async with self._spider.cap.held(address, hold):
            permit.deadline = min(permit.deadline, uptime() + hold)
            permit.empty_query = request.url.endswith("?")
            _permit.set(permit)
            # What the lookup and the cap took is part of the timeout; 0 seconds would be no limit.
            try:
                async with super()._make_request(request, max(0.001, over - loop.time())) as response:
                    self._reached = address, port
                    response.cut_at = request.meta.get("cut_at", 0)  # type: ignore[attr-defined]
                    yield response
            except (DownloadConnectionRefusedError, DownloadTimeoutError) as error:
                if not permit.sent:
                    self._blame_network(error, address, port)
                    self._resolver.next_address(name, address)
                raise

    def _blame_network(self, error: Exception, address: str, port: int) -> None:
        """Raise OwnFault if this machine has no route: neither to `address` nor to what it reached last.

        If it has none to `address` alone, for want of IPv6 say, that is a failure of its host.
        """
        said = system_errors(error)
        if errno.EADDRNOTAVAIL in said and self._guard.has_route(address, port):
            raise OwnFault(f"no local port is left ({address}): see to this machine's network") from error
        if said & _NO_WAY and not self._guard.has_route(*(self._reached or (address, port))):
            raise OwnFault(f"no route leads anywhere ({address}): see to this machine's network") from error

    @property
    def _spider(self) -> _Careful:
        return self.crawler.spider  # type: ignore[return-value]

    async def _read_response(self, response: _ClientResponse, request: Request) -> Response:
        finished = await super()._read_response(response, request)
        if warc := self._spider.warc:
            try:
                await asyncio.to_thread(warc.write, _exchange(response, request, finished))
            except OSError as error:  # whatever it is, it is in our files
                where = f"{warc.directory}: {error.strerror or error}"
                raise OwnFault(f"{where}: make room there, or crawl without warc") from error
        return finished

    async def _address(self, name: str, port: int, timeout: float) -> tuple[str, int]:
        """The address and the port that the connection will go to."""
        try:
            return str(ip_address(name)), port
        except ValueError:
            pass
        try:
            async with asyncio.timeout(timeout):
                [found] = await self._resolver.resolve(name, port)
                return found["host"], found["port"]
        except ForbiddenAddress:
            raise
        except (OSError, UnicodeError) as error:
            raise CannotResolveHostError(f"{name}: {error}") from error

    @staticmethod
    def _extract_headers(response: _ClientResponse) -> Headers:
        # As they came: decoded and encoded again, bytes that are no UTF-8 would be an error.
        headers = Headers()
        for name, value in response.raw_headers:
            headers.appendlist(name, value)
        # By the announced length Scrapy would give up a body that is to be cut.
        if getattr(response, "cut_at", 0):
            headers.pop("Content-Length", None)
        return headers

    @staticmethod
    async def _iter_body_chunks(response: _ClientResponse) -> AsyncIterator[bytes]:
        left = getattr(response, "cut_at", 0)
        async for chunk in response.content.iter_any():
            yield chunk[:left] if left else chunk
            if left:
                left -= len(chunk)
                if left <= 0:
                    response.close()
                    return

    async def close(self) -> None:
        await super().close()
        await self._resolver.close()


def _exchange(response: _ClientResponse, request: Request, finished: Response) -> Exchange:
    sent = response.request_info
    version = response.version or aiohttp.HttpVersion11
    status_line = f"HTTP/{version.major}.{version.minor} {response.status} {response.reason or ''}"
    cut_at = getattr(response, "cut_at", 0)
    return Exchange(
        url=request.url,
        address=str(finished.ip_address),
        request_line=f"{sent.method} {sent.url.raw_path_qs} HTTP/1.1".encode(),
        request_headers=tuple((name.encode(), value.encode()) for name, value in sent.headers.items()),
        status_line=status_line.encode("utf-8", "surrogateescape"),
        headers=response.raw_headers,
        body=finished.body,
        cut=bool(cut_at) and len(finished.body) >= cut_at,
    )
