"""The worker's spider: leases in, finished fetches out. Every lease ends in ack, nack, skip or give back."""

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any, cast

from scrapy import Request, Spider
from scrapy.http import Response

from crawler.config import CrawlConfig
from crawler.errors import AddressBusy, LeaseLost
from crawler.fetch.failures import OF_THE_HOST, classify
from crawler.fetch.handler import AddressCap
from crawler.fetch.robots import MOST_BYTES, VALID_SECONDS, Elsewhere, Moved, Rules, product_token, retry_at
from crawler.fetch.roundtrips import RoundTrips
from crawler.frontier import Frontier, Lease
from crawler.page import Extracted, Link, Page
from crawler.read.optout import from_headers
from crawler.read.pool import Extractors, Limits
from crawler.read.sitemaps import Reader, is_text, may_list
from crawler.urls import canonicalize
from crawler.warc import WarcWriter
from shards.text.content import values
from tinylm.errors import TinylmError
from tinylm.processes import beat

_SHORTEST_POLL, _LONGEST_POLL = 0.02, 0.5
_REAP_SECONDS = 2.0
_FILLED_UP_AT = 0.75
"""Leases are taken several at a time: a script's round trip costs as much for one as for many."""
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
            WarcWriter(frontier.config.data / "warc", int(config.warc_megabytes * 1e6), config.user_agent)
            if config.warc
            else None
        )
        self._open: dict[tuple[int, int], Lease] = {}
        self._something_finished = asyncio.Event()
        self._rules: dict[tuple[str, int], Rules] = {}
        self._token = product_token(config.user_agent)
        self._elsewhere = Elsewhere(frontier.config.delay, config.timeout)
        limits = Limits(config.extract_timeout, config.extract_megabytes)
        self._extract = Extractors(Reader(extract), config.extractors, limits)
        self._name = f"worker:{socket.gethostname()}:{os.getpid()}"
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False
        self._fatal: TinylmError | None = None

    @property
    def fatal(self) -> TinylmError | None:
        """Why the frontier cannot be used any more."""
        return self._fatal or self._trips.fatal

    # Leases in

    async def start(self) -> AsyncIterator[Request]:
        """Scrapy's source of requests yields none: each lease is a task that downloads and ends it.

        So a page goes through Scrapy's downloader middlewares and handler, but not through its scheduler,
        downloader and scraper, whose queues have nothing to do here and cost a dozen tasks and deferreds a
        page. It ends only when the frontier cannot be used any more.
        """
        try:
            await self._work()
        except TinylmError as error:
            self._fatal = error
        none: tuple[Request, ...] = ()
        for request in none:
            yield request

    async def _work(self) -> None:
        poll = _SHORTEST_POLL
        reaped = 0.0
        while not self.fatal:
            if time.monotonic() - reaped > _REAP_SECONDS:
                await asyncio.to_thread(self._reap)
                reaped = time.monotonic()
            leases = await asyncio.to_thread(self._lease)
            for lease in leases:
                task = asyncio.create_task(self._serve(lease))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            poll = _SHORTEST_POLL if leases else min(2 * poll, _LONGEST_POLL)
            await self._wait(poll)

    async def _serve(self, lease: Lease) -> None:
        """From a lease to its end. What is not ended by a mistake in here expires."""
        try:
            if lease.kind == "robots" or await self._allowed(lease):
                await self._fetch(lease, lease.url)
        except TinylmError as error:
            self._fatal = error
        except Exception:
            self.logger.exception("%s", lease.url)

    async def _fetch(self, lease: Lease, url: str, hops: int = 0) -> None:
        downloader = self.crawler.engine.downloader
        request = self._request(lease, url)
        try:
            response = await downloader.middleware.download_async(
                downloader.handlers.download_request_async, request
            )
        except Exception as error:
            await self._on_failure(error, lease, hops)
        else:
            cost = {"latency": request.meta["download_latency"], "size": len(response.body)}
            await self._on_response(cast("Response", response), lease, hops, cost)

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

    def _request(self, lease: Lease, url: str) -> Request:
        # One byte more than is read of robots.txt, so that it shows when there was more.
        cut = {"cut_at": MOST_BYTES + 1} if lease.kind == "robots" else {}
        return Request(url, headers=_conditions(lease), meta={"verbatim_url": True, **cut})

    # Finished fetches out

    async def _on_response(self, response: Response, lease: Lease, hops: int, cost: dict[str, Any]) -> None:
        """Whatever the status."""
        if response.status in (429, 503):
            at = retry_at(_header(response, "Retry-After"))
            reason = f"status_{response.status}"
            await self._finish(lease, "nack", reason, retry_at=at, back_off=at is None, **cost)
        elif lease.kind == "robots":
            await self._on_robots(response, lease, hops, cost)
        elif response.status >= 500:
            await self._finish(lease, "nack", f"status_{response.status}", **cost)
        else:
            page = replace(await self._page_or_unchanged(response, lease), **_validators(response))
            await self._finish(lease, "ack", page, **cost)

    async def _on_failure(self, error: Exception, lease: Lease, hops: int) -> None:
        """No response. A robots.txt moved to where nobody may go is no robots.txt."""
        reason = classify(error)
        if isinstance(error, AddressBusy):
            await self._finish(lease, "give_back", wait=error.seconds)
        elif reason == "forbidden_network" and hops:
            nowhere = {"valid": VALID_SECONDS, "crawl_delay": 0.0, "latency": 0.0, "size": 0}
            await self._finish(lease, "ack_robots", "", **nowhere)
        elif reason == "forbidden_network":
            await self._finish(lease, "skip", reason)
        elif reason == "too_large" and lease.kind == "page":
            page = self._empty_page(lease, 0, reason)
            most = int(self.config.megabytes_per_page * 1e6)
            await self._finish(lease, "ack", page, latency=0.0, size=most)
        else:
            self.logger.debug("%s: %s: %r", lease.url, reason, error)
            back_off = reason in OF_THE_HOST or lease.kind == "robots"
            await self._finish(lease, "nack", reason, back_off=back_off, latency=self.config.timeout / 5)

    async def _on_robots(self, response: Response, lease: Lease, hops: int, cost: dict[str, Any]) -> None:
        location = _header(response, "Location")
        text = await self._elsewhere.read(
            response.url, response.status, location, response.body, host=lease.host, hops=hops
        )
        if isinstance(text, Moved):
            # A lease that is not ended is given back when the spider closes.
            if not self._closing:
                await self._fetch(lease, text.url, hops + 1)
            return
        if text is None:
            await self._finish(lease, "nack", "robots_unreachable", back_off=True, **cost)
            return
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
        found = values(Extracted, extracted)
        found["opt_out"] = (*extracted.opt_out, *heard.signals, *of_host)
        return Page(**self._base(lease, response.status), **found)

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

    async def closed(self, reason: str) -> None:  # noqa: ARG002 (Scrapy's signature)
        """Scrapy's last call: what is downloaded is ended, what was not begun goes back at once."""
        self._closing = True
        if self._tasks:
            await asyncio.wait(self._tasks)
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
