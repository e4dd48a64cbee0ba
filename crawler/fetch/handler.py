"""Scrapy's aiohttp download handler behind the address guard, the cap by address, and limits of its own."""

import asyncio
import errno
import socket
import uuid
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from itertools import count
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.helpers import BaseTimerContext
from aiohttp.http import HttpVersion, RawResponseMessage
from aiohttp.streams import StreamReader
from multidict import CIMultiDict, CIMultiDictProxy
from scrapy import Request
from scrapy.core.downloader.handlers._aiohttp import AiohttpDownloadHandler, _ClientResponse
from scrapy.exceptions import (
    CannotResolveHostError,
    DownloadConnectionRefusedError,
    DownloadFailedError,
    DownloadTimeoutError,
)
from scrapy.http import Headers, Response

from crawler.archives.warc import Exchange
from crawler.errors import AddressBusy, LeaseLost, OwnFault
from crawler.fetch.addresses import AddressGuard, ForbiddenAddress, Resolver, unwrap
from crawler.fetch.failures import system_errors
from crawler.fetch.roundtrips import RoundTrips
from crawler.frontier.records import uptime
from crawler.message import Answer, Head, MessageError, Truncated, content_type, decoded, ends
from crawler.read.sitemaps import MOST_LIST_BYTES, SNIFFED, may_list

if TYPE_CHECKING:
    from scrapy.crawler import Crawler

# Beyond a request's timeout: then what a worker that died holds is free again.
_HOLD_MARGIN_SECONDS = 5.0
# That a connection is kept for the host's next request. As many descriptors are held as pages are fetched in
# that time: double would be 1,000 at 100 pages a second, half would be over before most hosts' next turn.
_KEPT_SECONDS = 5.0
# Bytes of a body that tell whether it is a list, if it is packed; few of what they unpack to are looked at.
_BEGUN = 4096
# In which an address is connected to if its name has others: the first packet is sent again after 1 and 3 s.
_CONNECT_SECONDS = 5.0
_NO_ANSWER = (DownloadConnectionRefusedError, DownloadFailedError, DownloadTimeoutError, TimeoutError)
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
    connecting: asyncio.Timeout | None = None
    """Until when there has to be a connection."""
    empty_query: bool = False
    """Whether what is asked for has a query, and nothing in it."""

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
        if permit.connecting:
            permit.connecting.reschedule(None)
        if permit.empty_query:
            # yarl leaves it out; of the URL nothing else is written.
            self.url = cast("Any", SimpleNamespace(raw_path_qs=f"{url.raw_path_qs}?"))
        try:
            return await super().send(conn)
        finally:
            self.url = url


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


class _Parser:
    """What aiohttp asks of its parser, by `Answer`: its own gives up answers that can be read."""

    def __init__(self, protocol: ResponseHandler, payload: StreamReader) -> None:
        self.answer = Answer()
        self._protocol, self._payload = protocol, payload
        self._is_told = False

    def feed_data(self, data: bytes) -> tuple[list[tuple[RawResponseMessage, StreamReader]], bool, bytes]:
        if data and self.answer.over:
            # Behind an answer that was read: nobody asked for it, and the next would be taken for its rest.
            self._protocol.close()
            return [], False, b""
        return self._found(self.answer.feed(data)), False, b""

    def feed_eof(self) -> None:
        for message in self._found(self.answer.end()):
            self._protocol.feed_data(message, 0)

    def pause_reading(self) -> None:
        """Nothing is held back here."""

    def _found(self, body: bytes) -> list[tuple[RawResponseMessage, StreamReader]]:
        """Hand over what was found of the body; the head, once."""
        head, found = self.answer.head, list[tuple[RawResponseMessage, StreamReader]]()
        if head and not self._is_told:
            self._is_told, none = True, CIMultiDictProxy(CIMultiDict[str]())
            version, closes = HttpVersion(*head.version), not self.answer.persistent
            message = RawResponseMessage(
                version, head.status, "", none, head.headers, closes, None, False, False
            )
            found = [(message, self._payload)]
        if not self._payload.is_eof():
            self._payload.feed_data(body)
            if self.answer.over:
                if not self.answer.persistent:
                    self._protocol.force_close()
                self._payload.feed_eof()
        return found


class _Protocol(ResponseHandler):
    """A connection whose answers `_Parser` reads."""

    answer: Answer | None = None

    def connection_lost(self, exc: BaseException | None) -> None:
        if exc and self.answer:
            self.answer.broken = True
        super().connection_lost(exc)

    def set_response_params(self, *, timer: BaseTimerContext | None = None, **others: Any) -> None:
        came, self._tail = self._tail, b""  # before anything was asked
        super().set_response_params(timer=timer, **others)
        limit = others.get("read_bufsize", 1 << 16)
        parser = _Parser(self, StreamReader(self, limit, timer=timer, loop=self._loop))
        self.answer, self._parser = parser.answer, cast("Any", parser)
        if came:
            self.data_received(came)


class _Response(_ClientResponse):
    answer: Answer
    head: Head
    address = ""

    async def start(self, connection: aiohttp.connector.Connection) -> aiohttp.ClientResponse:
        self.answer = cast("Answer", cast("_Protocol", connection.protocol).answer)
        if connection.transport:  # not if the server has closed it behind its answer
            self.address = connection.transport.get_extra_info("peername")[0]
        await aiohttp.ClientResponse.start(self, connection)
        self.head = cast("Head", self.answer.head)
        return self


class GuardedDownloadHandler(AiohttpDownloadHandler):
    """Every connection's address is checked as its socket is made; no proxy, no cookies, no redirects.

    A request is sent by the `permit` in its `meta`; `cut_at` there is where its body is cut instead of given
    up.
    """

    experimental = False

    def __init__(self, crawler: "Crawler") -> None:
        super().__init__(crawler)
        self._spider: Any = crawler.spider  # that which has the `cap` and, if files are kept, the `warc`
        self._guard = AddressGuard(tuple(crawler.settings.getlist("TINYLM_ALLOWED_NETWORKS")))
        self._resolver = Resolver(tuple(crawler.settings.getlist("TINYLM_RESOLVE")), self._guard)
        self._reached: tuple[str, int] | None = None  # the last address and port that answered
        connector = aiohttp.TCPConnector(
            resolver=self._resolver,
            socket_factory=self._make_socket,
            limit=self._pool_size_total,
            keepalive_timeout=_KEPT_SECONDS,
            # Names are remembered in the resolver, which knows which address it gave away.
            use_dns_cache=False,
        )
        connector._factory = cast("Any", partial(_Protocol, loop=connector._loop))
        # Scrapy's own session, without a guard, is replaced before it is used; detached, it warns of nothing.
        unguarded, self._session = (
            self._session,
            aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                # `decoded` unpacks, within bounds; WARC files keep what was sent.
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
        over, tried = loop.time() + timeout, dict[str, Exception]()
        parts = urlsplit(request.url)
        name, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        permit: Permit = request.meta["permit"]
        hold = timeout + _HOLD_MARGIN_SECONDS
        while True:
            found = await self._addresses(name, port, over - loop.time())
            address, at_port = found[0]
            if address in tried:  # no route leads to the others
                raise tried[address]
            is_last, answered = {other for other, _ in found} <= {address, *tried}, False
            try:
                async with self._spider.cap.held(address, hold), asyncio.timeout(None) as permit.connecting:
                    permit.deadline = min(permit.deadline, uptime() + hold)
                    permit.empty_query = request.url.partition("?")[1:] == ("?", "")
                    _permit.set(permit)
                    if not is_last:
                        permit.connecting.reschedule(loop.time() + _CONNECT_SECONDS)
                    # What lookups and the cap took is part of the timeout; 0 seconds would be no limit.
                    async with super()._make_request(request, max(0.001, over - loop.time())) as response:
                        self._reached, answered = (address, at_port), True
                        cast("_Response", response).address = cast("_Response", response).address or address
                        yield response
                return
            except _NO_ANSWER as error:
                tried[address] = error
                if not permit.sent:
                    self._blame_network(error, address, at_port)
                if not answered:
                    self._resolver.next_address(name, address)
                # One lease is one request; this was none.
                if permit.sent or is_last or loop.time() >= over:
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

    async def _read_response(self, response: _ClientResponse, request: Request) -> Response:
        """What came, unpacked if it is needed; flagged `too_large` if that is not all, for its size.

        So is a whole list that is more than a page may be: it might turn out to be no list. Of an answer
        whose head suffices the body may be anything: it is kept as it came, as far as it came.
        """
        response = cast("_Response", response)
        head = response.head
        cut_at = request.meta.get("cut_at", 0)
        raw, most, too_large, error = await self._come(response, request.url, cut_at)
        sent = body = bytes(raw[:most])
        is_list, fault = most > (cut_at or self._default_maxsize), None
        if not head.suffices:
            try:
                body, whole = decoded(sent, head.codings, most)
                if not (whole or cut_at or is_list) and _may_list(request.url, head, body, ()):
                    body, whole = decoded(sent, head.codings, max(most, MOST_LIST_BYTES))
                too_large = too_large or not whole
            except MessageError as cannot:
                fault = cannot
            if error and not ends(body):
                raise error
        fits = is_list or len(raw) <= most
        if (warc := self._spider.warc) and (head.suffices or cut_at or fits):
            truncated = "length" if too_large else "time" if isinstance(error, TimeoutError) else "disconnect"
            exchange = _exchange(response, request, sent, truncated if too_large or error else "")
            try:
                await asyncio.to_thread(warc.write, exchange)
            except OSError as failure:  # whatever it is, it is in our files
                where = f"{warc.directory}: {failure.strerror or failure}"
                raise OwnFault(f"{where}: make room there, or crawl without warc") from failure
        if fault:
            raise fault
        headers = Headers()  # as they came: decoded and encoded again, some bytes would be an error
        for name, value in head.headers:
            headers.appendlist(name, value)
        too_large = too_large or (not cut_at and len(body) > self._default_maxsize)
        flags = ["too_large"] if too_large else []
        return Response(request.url, head.status, headers, body, flags)

    async def _come(
        self, response: _Response, url: str, cut_at: int
    ) -> tuple[bytearray, int, bool, Exception | None]:
        """Read a body up to `cut_at` bytes or, without, to what a page may have, or a list.

        Of what is announced to be larger only the beginning is read, unless that is a list's. Returns what
        came, how much of it may be used, whether there was more, and else why there is no more.
        """
        raw, most, too_large, is_list = bytearray(), cut_at or self._default_maxsize, False, False
        announced = 0 if cut_at else response.answer.length or 0
        try:
            while not too_large and (chunk := await response.content.readany()):
                raw += chunk
                if max(announced, len(raw)) > most and not (cut_at or is_list):
                    is_list = _may_list(url, response.head, bytes(raw[:_BEGUN]), response.head.codings)
                    most = max(most, MOST_LIST_BYTES) if is_list else most
                too_large = len(raw) > most or (announced > most and not is_list)
        except TimeoutError as timeout:
            return raw, most, too_large, timeout
        cut = not too_large and not response.answer.whole
        error = Truncated(f"{len(raw):,} bytes, of {response.answer.length or 'some'}") if cut else None
        return raw, most, too_large, error

    async def _addresses(self, name: str, port: int, timeout: float) -> list[tuple[str, int]]:
        """The address and the port that the connection will go to, and those that come next."""
        try:
            return [(str(ip_address(name)), port)]
        except ValueError:
            pass
        try:
            async with asyncio.timeout(timeout):
                return [(found["host"], found["port"]) for found in await self._resolver.choices(name, port)]
        except ForbiddenAddress:
            raise
        except (OSError, UnicodeError) as error:
            raise CannotResolveHostError(f"{name}: {error}") from error

    async def close(self) -> None:
        await super().close()
        await self._resolver.close()


def _may_list(url: str, head: Head, begun: bytes, codings: Iterable[str]) -> bool:
    """Whether an answer that begins so may be a list."""
    with suppress(MessageError):
        begun, _ = decoded(begun, codings, SNIFFED)
    said = (value.decode("latin-1") for name, value in head.headers if name.lower() == b"content-type")
    return may_list(begun, url, content_type(said, begun).partition(";")[0])


def _exchange(response: _Response, request: Request, body: bytes, truncated: str) -> Exchange:
    sent, head = response.request_info, response.head
    return Exchange(
        url=request.url,
        address=response.address,
        request_line=f"{sent.method} {sent.url.raw_path_qs} HTTP/1.1".encode(),
        request_headers=tuple((name.encode(), value.encode()) for name, value in sent.headers.items()),
        status_line=b"HTTP/%d.%d %d %s" % (*head.version, head.status, head.reason),
        headers=head.headers,
        body=body,
        truncated=truncated,
    )
