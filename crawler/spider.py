"""The worker's spider: leases in, finished fetches out. Every lease ends in ack, nack, skip or give back."""

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

from scrapy import Request, Spider
from scrapy.exceptions import (
    CannotResolveHostError,
    DownloadCancelledError,
    DownloadConnectionRefusedError,
    DownloadTimeoutError,
    IgnoreRequest,
    UnsupportedURLSchemeError,
)
from scrapy.http import Response
from twisted.python.failure import Failure

from crawler.config import CrawlConfig
from crawler.errors import LeaseLost, NetworkForbidden
from crawler.extract import Extracted
from crawler.extractors import Extractors, Limits
from crawler.frontier import Frontier, Lease
from crawler.page import Link, Page
from crawler.robots import MOST_BYTES, VALID_SECONDS, Rules, interpret, retry_at
from crawler.urls import canonicalize
from tinylm.errors import TinylmError

_SHORTEST_POLL, _LONGEST_POLL = 0.02, 0.5
_REAP_SECONDS = 2.0
_FILLED_UP_AT = 0.75
"""Leases are taken several at a time: a script's round trip costs as much for one as for many."""
_ROBOTS_REDIRECTS = 5
_MOST_CACHED_RULES = 10_000
_TEXT_TYPES = ("text/html", "application/xhtml+xml", "text/plain")


class LeaseSpider(Spider):
    """Fetches what the frontier leases, within each host's rules, and hands the pages over."""

    name = "lease"

    def __init__(
        self, frontier: Frontier, config: CrawlConfig, extract: Callable[..., Extracted], **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.frontier = frontier
        self.config = config
        self._open: dict[tuple[int, int], Lease] = {}
        self._something_finished = asyncio.Event()
        self._rules: dict[tuple[str, int], Rules] = {}
        limits = Limits(config.extract_timeout, config.extract_megabytes)
        self._extract = Extractors(extract, config.extractors, limits)
        self._name = f"worker:{socket.gethostname()}:{os.getpid()}"
        self.fatal: TinylmError | None = None

    # Leases in

    async def start(self) -> AsyncIterator[Request]:
        """Scrapy's source of requests; it ends only when the frontier cannot be used any more."""
        try:
            async for request in self._requests():
                yield request
        except TinylmError as error:
            self.fatal = error

    async def _requests(self) -> AsyncIterator[Request]:
        poll = _SHORTEST_POLL
        reaped = 0.0
        while True:
            if time.monotonic() - reaped > _REAP_SECONDS:
                await asyncio.to_thread(self._reap)
                reaped = time.monotonic()
            leases = await asyncio.to_thread(self._lease)
            for lease in leases:
                if lease.kind == "robots" or await self._allowed(lease):
                    yield self._request(lease, lease.url)
            poll = _SHORTEST_POLL if leases else min(2 * poll, _LONGEST_POLL)
            await self._wait(poll)

    def _reap(self) -> None:
        """What expired is nobody's: neither in the frontier nor among ours. Also says how extraction goes."""
        self.frontier.reap()
        self.frontier.publish(self._name, self._extract.times.summary())
        now = time.monotonic()
        for lease in [lease for lease in self._open.values() if lease.deadline < now]:
            self._open.pop(lease.key, None)

    def _lease(self) -> list[Lease]:
        """In one step of a thread, so that a spider that is stopped meanwhile knows what to give back."""
        free = self.config.concurrency - len(self._open)
        leases = self.frontier.lease(free) if free > 0 else []
        self._open.update((lease.key, lease) for lease in leases)
        return leases

    async def _wait(self, seconds: float) -> None:
        self._something_finished.clear()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._something_finished.wait(), seconds)

    async def _allowed(self, lease: Lease) -> bool:
        key = lease.host, lease.robots_until
        if key not in self._rules:
            if len(self._rules) >= _MOST_CACHED_RULES:
                self._rules.clear()
            text = await asyncio.to_thread(self.frontier.robots, lease.host)
            self._rules[key] = Rules(text, self.config.user_agent)
        if self._rules[key].allow(lease.url):
            return True
        await self._finish(lease, self.frontier.skip, "robots")
        return False

    def _request(self, lease: Lease, url: str, hops: int = 0) -> Request:
        return Request(
            url,
            callback=self.on_response,
            errback=self.on_failure,
            meta={"lease": lease, "hops": hops, "verbatim_url": True},
            dont_filter=True,
            priority=1,
        )

    # Finished fetches out

    async def on_response(self, response: Response) -> AsyncIterator[Request]:
        """Scrapy's callback: whatever the status."""
        lease: Lease = response.meta["lease"]
        cost = {"latency": response.meta["download_latency"], "size": len(response.body)}
        if response.status in (429, 503):
            at = retry_at(_header(response, "Retry-After"))
            await self._finish(
                lease,
                self.frontier.nack,
                f"status_{response.status}",
                retry_at=at,
                back_off=at is None,
                **cost,
            )
        elif lease.kind == "robots":
            async for request in self._on_robots(response, lease, cost):
                yield request
        elif response.status >= 500:
            await self._finish(lease, self.frontier.nack, f"status_{response.status}", **cost)
        else:
            await self._finish(lease, self.frontier.ack, await self._page(response, lease), **cost)

    async def on_failure(self, failure: Failure) -> None:
        """Scrapy's errback: no response."""
        lease: Lease = failure.request.meta["lease"]  # type: ignore[attr-defined]
        error = failure.value
        if _is_forbidden(error):
            await self._finish(lease, self.frontier.skip, "forbidden_network")
        elif _is_too_large(error) and lease.kind == "page":
            page = self._empty_page(lease, 0, "too_large")
            most = int(self.config.megabytes_per_page * 1e6)
            await self._finish(lease, self.frontier.ack, page, latency=0.0, size=most)
        else:
            reason, of_the_host = _classify(error)
            back_off = of_the_host or lease.kind == "robots"
            await self._finish(
                lease, self.frontier.nack, reason, back_off=back_off, latency=self.config.timeout / 5
            )

    async def _on_robots(
        self, response: Response, lease: Lease, cost: dict[str, Any]
    ) -> AsyncIterator[Request]:
        target = self._redirect_target(response)
        if target and response.meta["hops"] < _ROBOTS_REDIRECTS and _same_host(target, lease.url):
            await asyncio.sleep(self.frontier.delay)
            yield self._request(lease, target, response.meta["hops"] + 1)
            return
        status = 404 if 300 <= response.status < 400 else response.status
        text = interpret(status, response.body)
        if text is None:
            await self._finish(lease, self.frontier.nack, "robots_unreachable", back_off=True, **cost)
            return
        delay = Rules(text, self.config.user_agent).crawl_delay
        await self._finish(
            lease, self.frontier.ack_robots, text[:MOST_BYTES], valid=VALID_SECONDS, crawl_delay=delay, **cost
        )

    def _redirect_target(self, response: Response) -> str | None:
        location = _header(response, "Location")
        return canonicalize(location, response.url) if 300 <= response.status < 400 and location else None

    async def _page(self, response: Response, lease: Lease) -> Page:
        if 300 <= response.status < 400:
            target = self._redirect_target(response)
            links = (Link(target, "", "", False),) if target else ()
            return self._empty_page(lease, response.status, "redirect", links)
        if response.status >= 400:
            return self._empty_page(lease, response.status, f"status_{response.status}")
        media_type = _header(response, "Content-Type").split(";")[0].strip().lower()
        if media_type and media_type not in _TEXT_TYPES:
            return self._empty_page(lease, response.status, "media_type")
        extracted = await self._extract(
            response.body, response.url, _header(response, "Content-Type"), _header(response, "X-Robots-Tag")
        )
        return Page(
            **self._base(lease, response.status),
            **{name: getattr(extracted, name) for name in Extracted.__slots__},
        )

    def _empty_page(self, lease: Lease, status: int, reason: str, links: tuple[Link, ...] = ()) -> Page:
        return Page(**self._base(lease, status), reason=reason, links=links)

    def _base(self, lease: Lease, status: int) -> dict[str, Any]:
        return {
            "url": lease.url,
            "fetch_no": lease.fetch_no,
            "fetched_at": int(time.time() * 1000),
            "status": status,
            "promise": lease.promise,
            "propensity": lease.propensity,
        }

    async def _finish(self, lease: Lease, verb: Callable[..., None], *args: Any, **kwargs: Any) -> None:
        try:
            await asyncio.to_thread(verb, lease, *args, **kwargs)
        except LeaseLost as error:
            self.logger.warning("%s", error)
        finally:
            self._open.pop(lease.key, None)
            if len(self._open) <= self.config.concurrency * _FILLED_UP_AT:
                self._something_finished.set()

    # Stopping

    def closed(self, reason: str) -> None:  # noqa: ARG002 (Scrapy's signature)
        """Scrapy's last call: what was not begun goes back at once."""
        self._extract.close()
        for lease in list(self._open.values()):
            with suppress(TinylmError):
                self.frontier.give_back(lease)


def _header(response: Response, name: str) -> str:
    return (response.headers.get(name) or b"").decode("latin-1")


def _same_host(url: str, other: str) -> bool:
    return url.split("/")[2] == other.split("/")[2]


def _is_forbidden(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, NetworkForbidden) or isinstance(
            getattr(error, "os_error", None), NetworkForbidden
        ):
            return True
        error = error.__cause__
    return False


def _is_too_large(error: BaseException | None) -> bool:
    """As it came, or as it would have been decompressed."""
    return isinstance(error, DownloadCancelledError | IgnoreRequest)


def _classify(error: BaseException | None) -> tuple[str, bool]:
    """A counted reason, and whether the failure is the host's rather than the URL's."""
    if isinstance(error, CannotResolveHostError):
        return "dns", True
    if isinstance(error, DownloadTimeoutError):
        return "timeout", False
    if isinstance(error, UnsupportedURLSchemeError):
        return "bad_url", False
    if isinstance(error, DownloadConnectionRefusedError):
        return "connection", True
    return "too_large" if _is_too_large(error) else "bad_response", False
