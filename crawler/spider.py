"""The worker's spider: leases in, finished fetches out. Every lease ends in ack, nack, skip or give back."""

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from scrapy import Request, Spider
from scrapy.http import Response
from twisted.python.failure import Failure

from crawler.config import CrawlConfig
from crawler.errors import AddressBusy, LeaseLost
from crawler.extract import Extracted
from crawler.extractors import Extractors, Limits
from crawler.failures import OF_THE_HOST, classify
from crawler.frontier import Frontier, Lease
from crawler.handler import AddressCap
from crawler.optout import from_headers
from crawler.page import Link, Page
from crawler.robots import MOST_BYTES, VALID_SECONDS, Elsewhere, Rules, interpret, product_token, retry_at
from crawler.roundtrips import RoundTrips
from crawler.sitemaps import Reader, is_text, may_list
from crawler.urls import canonicalize
from crawler.warc import WarcWriter
from tinylm.errors import TinylmError
from tinylm.heartbeat import beat

_SHORTEST_POLL, _LONGEST_POLL = 0.02, 0.5
_REAP_SECONDS = 2.0
_FILLED_UP_AT = 0.75
"""Leases are taken several at a time: a script's round trip costs as much for one as for many."""
_ROBOTS_REDIRECTS = 5
_MOST_CACHED_RULES = 10_000
_LONGEST_VALIDATOR = 512


class LeaseSpider(Spider):
    """Fetches what the frontier leases, within each host's rules, and hands the pages over."""

    name = "lease"

    def __init__(
        self, frontier: Frontier, config: CrawlConfig, extract: Callable[..., Extracted], **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.frontier = frontier
        self.config = config
        self._trips = RoundTrips(frontier)
        self.cap = AddressCap(self._trips, config.ip_concurrency, config.ip_delay)
        self.warc = (
            WarcWriter(frontier.data / "warc", int(config.warc_megabytes * 1e6), config.user_agent)
            if config.warc
            else None
        )
        self._open: dict[tuple[int, int], Lease] = {}
        self._something_finished = asyncio.Event()
        self._rules: dict[tuple[str, int], Rules] = {}
        self._token = product_token(config.user_agent)
        self._elsewhere = Elsewhere(frontier.delay, config.timeout)
        limits = Limits(config.extract_timeout, config.extract_megabytes)
        self._extract = Extractors(Reader(extract), config.extractors, limits)
        self._name = f"worker:{socket.gethostname()}:{os.getpid()}"
        self._fatal: TinylmError | None = None

    @property
    def fatal(self) -> TinylmError | None:
        """Why the frontier cannot be used any more."""
        return self._fatal or self._trips.fatal

    # Leases in

    async def start(self) -> AsyncIterator[Request]:
        """Scrapy's source of requests; it ends only when the frontier cannot be used any more."""
        try:
            async for request in self._requests():
                yield request
        except TinylmError as error:
            self._fatal = error

    async def _requests(self) -> AsyncIterator[Request]:
        poll = _SHORTEST_POLL
        reaped = 0.0
        while not self.fatal:
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
        self.frontier.publish(self._name, self._extract.times.state())
        now = time.monotonic()
        for lease in [lease for lease in self._open.values() if lease.deadline < now]:
            self._open.pop(lease.key, None)

    def _lease(self) -> list[Lease]:
        """In one step of a thread, so that a spider that is stopped meanwhile knows what to give back."""
        free = self.config.concurrency - len(self._open)
        if free <= 0:
            return []
        leases = self.frontier.lease(free)
        self._open.update((lease.key, lease) for lease in leases)
        beat()
        return leases

    async def _wait(self, seconds: float) -> None:
        self._something_finished.clear()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._something_finished.wait(), seconds)

    async def _allowed(self, lease: Lease) -> bool:
        if (await self._rules_of(lease)).allow(lease.url):
            return True
        await self._finish(lease, "skip", "robots")
        return False

    async def _rules_of(self, lease: Lease) -> Rules:
        key = lease.host, lease.robots_until
        if key not in self._rules:
            if len(self._rules) >= _MOST_CACHED_RULES:
                self._rules.clear()
            text = await asyncio.to_thread(self.frontier.robots, lease.host)
            self._rules[key] = Rules(text, self.config.user_agent)
        return self._rules[key]

    def _request(self, lease: Lease, url: str, hops: int = 0) -> Request:
        # One byte more than is read of robots.txt, so that it shows when there was more.
        cut = {"cut_at": MOST_BYTES + 1} if lease.kind == "robots" else {}
        return Request(
            url,
            headers=_conditions(lease),
            callback=self.on_response,
            errback=self.on_failure,
            meta={"lease": lease, "hops": hops, "verbatim_url": True, **cut},
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
                "nack",
                f"status_{response.status}",
                retry_at=at,
                back_off=at is None,
                **cost,
            )
        elif lease.kind == "robots":
            async for request in self._on_robots(response, lease, cost):
                yield request
        elif response.status >= 500:
            await self._finish(lease, "nack", f"status_{response.status}", **cost)
        else:
            page = replace(await self._page_or_unchanged(response, lease), **_validators(response))
            await self._finish(lease, "ack", page, **cost)

    async def on_failure(self, failure: Failure) -> None:
        """Scrapy's errback: no response. A robots.txt moved to where nobody may go is no robots.txt."""
        lease: Lease = failure.request.meta["lease"]  # type: ignore[attr-defined]
        error = failure.value
        reason = classify(error)
        if isinstance(error, AddressBusy):
            await self._finish(lease, "give_back", wait=error.seconds)
        elif reason == "forbidden_network" and failure.request.meta["hops"]:  # type: ignore[attr-defined]
            nowhere = {"valid": VALID_SECONDS, "crawl_delay": 0.0, "latency": 0.0, "size": 0}
            await self._finish(lease, "ack_robots", "", **nowhere)
        elif reason == "forbidden_network":
            await self._finish(lease, "skip", reason)
        elif reason == "too_large" and lease.kind == "page":
            page = self._empty_page(lease, 0, reason)
            most = int(self.config.megabytes_per_page * 1e6)
            await self._finish(lease, "ack", page, latency=0.0, size=most)
        else:
            self.logger.debug("%s: %s: %r", failure.request.url, reason, error)  # type: ignore[attr-defined]
            back_off = reason in OF_THE_HOST or lease.kind == "robots"
            await self._finish(lease, "nack", reason, back_off=back_off, latency=self.config.timeout / 5)

    async def _on_robots(
        self, response: Response, lease: Lease, cost: dict[str, Any]
    ) -> AsyncIterator[Request]:
        target = self._redirect_target(response)
        text = None
        self._elsewhere.answered(response.url)
        if target and response.meta["hops"] < _ROBOTS_REDIRECTS:
            text = await self._elsewhere.turn(target, lease.host)
            if text is None:
                yield self._request(lease, target, response.meta["hops"] + 1)
                return
        if text is None:
            status = 404 if 300 <= response.status < 400 else response.status
            text = interpret(status, response.body)
        if text is None:
            await self._finish(lease, "nack", "robots_unreachable", back_off=True, **cost)
            return
        self._elsewhere.remember(response.url, lease.host, text)
        rules = Rules(text, self.config.user_agent)
        links = tuple(Link(url, "", "robots/sitemap", False) for url in rules.sitemaps(response.url))
        await self._finish(
            lease,
            "ack_robots",
            text[:MOST_BYTES],
            valid=VALID_SECONDS,
            crawl_delay=rules.crawl_delay,
            page=self._empty_page(lease, response.status, "robots", links) if links else None,
            **cost,
        )

    def _redirect_target(self, response: Response) -> str | None:
        location = _header(response, "Location")
        return canonicalize(location, response.url) if 300 <= response.status < 400 and location else None

    async def _page_or_unchanged(self, response: Response, lease: Lease) -> Page:
        if response.status != 304 or not (lease.etag or lease.last_modified):
            return await self._page(response, lease)
        return replace(
            self._empty_page(lease, 304, "not_modified"),
            etag=lease.etag,
            last_modified=lease.last_modified,
            unchanged=True,
        )

    async def _page(self, response: Response, lease: Lease) -> Page:
        if 300 <= response.status < 400:
            target = self._redirect_target(response)
            links = (Link(target, "", "", False),) if target else ()
            return self._empty_page(lease, response.status, "redirect", links)
        if response.status >= 400:
            return self._empty_page(lease, response.status, f"status_{response.status}")
        media_type = _header(response, "Content-Type").split(";")[0].strip().lower()
        if not is_text(media_type) and not may_list(response.body, lease.url, media_type):
            return self._empty_page(lease, response.status, "media_type")
        heard = from_headers(_headers(response), self._token)
        extracted = await self._extract(
            response.body, response.url, _header(response, "Content-Type"), heard.nofollow
        )
        of_host = (await self._rules_of(lease)).opt_out(lease.url)
        fields = {name: getattr(extracted, name) for name in Extracted.__slots__}
        fields["opt_out"] = (*extracted.opt_out, *heard.signals, *of_host)
        return Page(**self._base(lease, response.status), **fields)

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

    async def _finish(self, lease: Lease, verb: str, *args: Any, **kwargs: Any) -> None:
        try:
            await self._trips.end(lease, verb, *args, **kwargs)
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
        if self.warc:
            self.warc.close()
        self._trips.give_back(list(self._open.values()))


def _header(response: Response, name: str) -> str:
    return (response.headers.get(name) or b"").decode("latin-1")


def _headers(response: Response) -> list[tuple[str, str]]:
    return [
        (name.decode("latin-1").lower(), value.decode("latin-1"))
        for name in response.headers
        for value in response.headers.getlist(name)
    ]


def _conditions(lease: Lease) -> dict[str, str]:
    """Headers that ask for the page only if it is not the one we have (RFC 9110, section 13.1)."""
    headers = {"If-None-Match": lease.etag, "If-Modified-Since": lease.last_modified}
    return {name: value for name, value in headers.items() if value}


def _validators(response: Response) -> dict[str, Any]:
    found = {"etag": _header(response, "ETag"), "last_modified": _header(response, "Last-Modified")}
    return {name: value for name, value in found.items() if value.isascii() and _is_short(value)}


def _is_short(validator: str) -> bool:
    return 0 < len(validator) <= _LONGEST_VALIDATOR
