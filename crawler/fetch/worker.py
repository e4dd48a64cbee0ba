"""One worker process: leases in, finished fetches out. Every lease ends in ack, nack, skip or give back.

All of this runs in one event loop, where nothing may block: the frontier is asked in threads, pages are
extracted in other processes.
"""

import asyncio
import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

from scrapy import Request, Spider
from scrapy.crawler import AsyncCrawlerProcess

from crawler.archives.records import Archived
from crawler.archives.warc import WarcWriter
from crawler.config import EXTRACTION_MARGIN, CrawlConfig, product_token
from crawler.errors import AddressBusy, LeaseLost, OwnFault, RulesMissing
from crawler.fetch.failures import FAULT_SECONDS, OF_THE_HOST, OwnFaults, classify, no_such_name, own_fault
from crawler.fetch.handler import AddressCap, Permit
from crawler.fetch.robots import MOST_BYTES, HostRules, retry_at
from crawler.fetch.roundtrips import Ending, P, RoundTrips
from crawler.frontier import Frontier, Lease
from crawler.frontier.batch import Batch
from crawler.frontier.records import uptime
from crawler.message import header_url
from crawler.page import Extracted, Link, Page
from crawler.read.extract import Extractor
from crawler.read.pages import answered, leads_to
from crawler.read.pool import Extractors
from crawler.urls import canonical, domain
from tinylm.errors import TinylmError
from tinylm.processes import beat

# Seconds between two questions for leases when there are none, doubled each time.
_SHORTEST_POLL, _LONGEST_POLL = 0.02, 0.5
_REAP_SECONDS = 2.0
# Leases are taken several at a time: a script's round trip costs as much for one as for many.
_FILLED_UP_AT = 0.75
_HEADERS = {
    "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "Accept-Encoding": "gzip, deflate, br, zstd",
    "Accept-Language": "en",
}


def run(frontier: Frontier, config: CrawlConfig, extract: Callable[..., Extracted] | None = None) -> None:
    """Fetch until SIGTERM or SIGINT; then finish what is in flight and give the rest back.

    `extract` is what the extraction processes call (default: an `Extractor` that extracts every page).

    Raises ConfigError for a setting that cannot work and ServerError if the frontier's server stays away.
    """
    config.check_user_agent()
    process = AsyncCrawlerProcess(_settings(config), install_root_handler=False)
    logging.getLogger("scrapy").setLevel(logging.getLogger().level)
    crawler = process.create_crawler(LeaseSpider)
    extract = extract or Extractor(agent=product_token(config.user_agent))
    process.crawl(crawler, frontier=frontier, config=config, extract=extract)
    process.start()
    if isinstance(crawler.spider, LeaseSpider) and crawler.spider.fatal:
        raise crawler.spider.fatal


def _settings(config: CrawlConfig) -> dict[str, object]:
    """Of Scrapy a worker uses the engine's life cycle and the download handler; all else is off.

    Its scheduler, scraper and spider middlewares see no request. What they and the downloader middlewares do
    (delays, robots.txt, retries, redirects, cookies, caching) the frontier does for all workers together, or
    nobody.
    """
    handler = "crawler.fetch.handler.GuardedDownloadHandler"
    return {
        "TINYLM_ALLOWED_NETWORKS": list(config.allowed_networks),
        "TINYLM_RESOLVE": list(config.resolve),
        "DOWNLOAD_HANDLERS": {"http": handler, "https": handler},
        "DOWNLOAD_VERIFY_CERTIFICATES": True,
        "TWISTED_REACTOR": "twisted.internet.asyncioreactor.AsyncioSelectorReactor",
        "CONCURRENT_REQUESTS": config.concurrency,
        "DOWNLOAD_MAXSIZE": int(config.megabytes_per_page * 1e6),
        "DOWNLOAD_WARNSIZE": 0,
        # Empty instead of one by one, so that nothing a later Scrapy adds is on.
        "DOWNLOAD_HANDLERS_BASE": {},  # no file:, ftp:, s3: or data: URL can be fetched
        "DOWNLOADER_MIDDLEWARES_BASE": {},  # no proxy of the environment, no second request for one lease
        "SPIDER_MIDDLEWARES_BASE": {},
        "EXTENSIONS_BASE": {},  # no telnet console, no remote control: a worker listens nowhere
    }


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
        self.warc = WarcWriter(frontier.config.data / "warc", config.user_agent) if config.warc else None
        self._open: dict[tuple[int, int], Lease] = {}
        self._faults = OwnFaults(config.concurrency)
        self._something_finished = asyncio.Event()
        self._rules = HostRules(frontier, config.user_agent)
        self._token = product_token(config.user_agent)
        self._extract = Extractors(extract, config.extractors, config.extract_timeout)
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

        So a page goes through Scrapy's handler, but not through its scheduler, downloader, middlewares and
        scraper, which have nothing to do here and cost a dozen tasks and deferreds a page. It ends only when
        the frontier cannot be used any more.
        """
        try:
            await self._work()
        except TinylmError as error:
            self._fatal = error
        for request in tuple[Request, ...]():
            yield request

    async def _work(self) -> None:
        poll, reaped = _SHORTEST_POLL, 0.0
        while not self.fatal:
            free = self._faults.free(len(self._open))
            leases: list[Lease] = []
            try:
                if time.monotonic() - reaped > _REAP_SECONDS:
                    await asyncio.to_thread(self._reap)
                    reaped = time.monotonic()
                if free > 0:
                    leases = await asyncio.to_thread(self._lease, free)
            except Exception as error:
                if not (fault := own_fault(error)):
                    raise
                self._faults.met(fault)
            for lease in leases:
                task = asyncio.create_task(self._serve(lease))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            if free > 0 or self._faults.waiting_for:  # not while all that is in flight hangs
                beat()
            poll = _SHORTEST_POLL if leases else min(2 * poll, _LONGEST_POLL)
            self._something_finished.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._something_finished.wait(), poll)

    def _reap(self) -> None:
        """End what expired, in the frontier and among ours; say how extraction goes."""
        self.frontier.reap()
        waiting = {"waiting_for": self._faults.waiting_for, "at": time.time()}
        self.frontier.publish(self._name, self._extract.times.state() | waiting)
        now = uptime()
        for lease in [lease for lease in self._open.values() if lease.deadline < now]:
            self._open.pop(lease.key, None)

    def _lease(self, n: int) -> list[Lease]:
        """In one step of a thread, so that a spider that is stopped meanwhile knows what to give back."""
        leases = self.frontier.lease(n)
        self._open.update((lease.key, lease) for lease in leases)
        return leases

    async def _serve(self, lease: Lease) -> None:
        """Bring one lease to its end. One that a mistake in here leaves open expires."""
        try:
            rules = None if lease.kind == "robots" else await self._rules.get(lease)
            if rules is None or rules.allow(lease.url):
                await self._fetch(lease, rules.opt_out(lease.url) if rules else ())
            else:
                await self._tell(lease, "")
                await self._finish(lease, Batch.skip, "robots")
        except RulesMissing as missing:
            await self._finish(lease, Batch.give_back, wait=missing.seconds)
        except Exception as error:
            if fault := own_fault(error):
                await self._after_fault(fault, lease, latency=0.0)
            elif isinstance(error, TinylmError):
                self._fatal = error
            else:
                self.logger.exception("%s", lease.url)

    async def _after_fault(self, fault: OwnFault, lease: Lease, latency: float | None) -> None:
        """Give back what our own machine kept from its end; `latency` if a request was, or may be, sent."""
        self._faults.met(fault)
        if lease.key in self._open:
            with suppress(TinylmError):  # the server is away too: the lease expires
                await self._finish(lease, Batch.give_back, wait=FAULT_SECONDS, latency=latency)

    async def _fetch(self, lease: Lease, opt_out: tuple[str, ...]) -> None:
        # Asks for the page only if it is not the one we have (RFC 9110, section 13.1).
        conditions = {"If-None-Match": lease.etag, "If-Modified-Since": lease.last_modified}
        headers = {"User-Agent": self.config.user_agent, **_HEADERS, **conditions}
        permit, begun = Permit(lease.deadline), time.monotonic()
        meta: dict[str, Any] = {
            "verbatim_url": True,
            "download_timeout": self.config.timeout,
            "permit": permit,
        }
        if lease.kind != "page":
            # One byte more than is read of robots.txt, so that it shows when there was more.
            meta["cut_at"] = MOST_BYTES + 1
        request = Request(
            lease.url, headers={name: value for name, value in headers.items() if value}, meta=meta
        )
        try:
            response = await self.crawler.engine.downloader.handlers.download_request_async(request)
        except Exception as error:
            if fault := own_fault(error):
                latency = request.meta.get("download_latency", 0.0) if permit.sent else None
                await self._after_fault(fault, lease, latency)
            else:
                await self._on_failure(error, lease, sent=permit.sent)
        else:
            cost = {"latency": request.meta["download_latency"], "size": len(response.body)}
            answer = Archived(
                url=response.url,
                status=response.status,
                headers=tuple(
                    (name.decode("latin-1").lower(), value.decode("latin-1"))
                    for name in response.headers
                    for value in response.headers.getlist(name)
                ),
                body=response.body,
                too_large="too_large" in response.flags,
            )
            if lease.kind != "page" and answer.status not in (429, 503):
                await self._on_robots(answer, lease, cost)
            else:
                await self._on_answer(answer, lease, opt_out, cost)
            self._faults.passed(begun)

    # Finished fetches out

    async def _on_answer(
        self, answer: Archived, lease: Lease, opt_out: tuple[str, ...], cost: dict[str, Any]
    ) -> None:
        """End the lease of a request that was answered, with whatever status."""
        if answer.status in (429, 503):
            at = retry_at(answer.header("retry-after"))
            reason = f"status_{answer.status}"
            await self._tell(lease, None)
            await self._finish(lease, Batch.nack, reason, retry_at=at, back_off=at is None, **cost)
        elif answer.status >= 500:
            await self._finish(lease, Batch.nack, f"status_{answer.status}", **cost)
        elif (to := leads_to(answer)) and to != lease.url and canonical(to) == canonical(lease.url):
            await self._finish(lease, Batch.respelled, to, **cost)
        else:
            try:
                page = await self._page(answer, lease, opt_out, cost)
            except TimeoutError:
                # Extraction is behind with other pages, which is no fault of this one: it comes again.
                await self._finish(lease, Batch.give_back, wait=self.config.timeout)
            else:
                await self._finish(lease, Batch.ack, page, **cost)

    async def _on_failure(self, error: Exception, lease: Lease, *, sent: bool) -> None:
        """End the lease of a request that was not answered, or not `sent`."""
        reason = classify(error, sent=sent)
        if isinstance(error, AddressBusy):
            await self._finish(lease, Batch.give_back, wait=error.seconds)
        elif isinstance(error, LeaseLost):
            self.logger.warning("%s: %s", lease.url, error)
            await self._finish(lease, Batch.give_back)  # refused, if somebody else has it
        elif reason == "forbidden_network":
            if lease.kind != "page":
                await asyncio.to_thread(self._rules.forbid, lease)
            await self._finish(lease, Batch.skip, reason)
        else:
            self.logger.debug("%s: %s: %r", lease.url, reason, error)
            await self._tell(lease, None)
            of_the_host = reason in OF_THE_HOST
            # What failed before and says nothing of the host, a URL that cannot be sent, counts as any other.
            sent = sent or not of_the_host
            await self._finish(
                lease,
                Batch.nack,
                reason,
                back_off=of_the_host or lease.kind != "page",
                # How long it took nobody knows: at the usual latency factor, 5, the host rests one timeout.
                latency=self.config.timeout / 5 if sent else 0.0,
                sent=sent,
                final=no_such_name(error),
            )

    async def _on_robots(self, answer: Archived, lease: Lease, cost: dict[str, Any]) -> None:
        moved = header_url(answer.header("location"))
        settled = await self._rules.settled(lease, answer.url, answer.status, moved, answer.body)
        links = tuple(Link(url, "", "robots/sitemap", False) for url in settled.rules.sitemaps(answer.url))
        page = _page(lease, answer.status, reason="robots", links=links) if links else None
        await self._finish(lease, settled.end, page=page, **cost)

    async def _tell(self, lease: Lease, text: str | None) -> None:
        """Tell the hosts that a robots.txt was asked for what it says; None if it could not be had."""
        if lease.robots_for:
            await asyncio.to_thread(self._rules.tell, lease.robots_for, text)

    async def _page(
        self, answer: Archived, lease: Lease, opt_out: tuple[str, ...], cost: dict[str, Any]
    ) -> Page:
        """Make a page of an answer below 500: its text and links, or the reason why there is no text.

        `opt_out` is what the host's robots.txt says of its use. What its extraction takes beyond a usual
        page's adds to the latency of `cost`: the host rests for it, as it does for an answer that took long.
        Raises TimeoutError if the extractors have no time for it.
        """
        found = answered(answer, self._token, asked_if_changed=bool(lease.etag or lease.last_modified))
        if found.fields.get("unchanged"):  # what a 304 does not repeat stays (RFC 9111, section 4.3.4)
            ours = {"etag": lease.etag, "last_modified": lease.last_modified}
            return _page(lease, answer.status, **ours | found.fields)
        if found.task is None:
            return _page(lease, answer.status, **found.fields)
        until = lease.deadline - EXTRACTION_MARGIN
        extracted, slow = await self._extract(domain(lease.host), *found.task, until=until)
        cost["latency"] += slow
        fields = found.with_extracted(extracted)
        return _page(lease, answer.status, **fields | {"opt_out": (*fields["opt_out"], *opt_out)})

    async def _finish(self, lease: Lease, how: Ending[P], *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            await self._trips.end(lease, how, *args, **kwargs)
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
            self.logger.info("waits for %d responses under way, then gives back the rest", len(self._tasks))
            await asyncio.wait(self._tasks)
        self._extract.close()
        self._trips.give_back(list(self._open.values()))
        if self.warc:
            try:
                self.warc.close()
            except OSError as error:
                self._fatal = self.fatal or OwnFault(f"{self.warc.directory}: {error}: see to that disk")


def _page(lease: Lease, status: int, **found: Any) -> Page:
    return Page(
        url=lease.url,
        fetch_no=lease.fetch_no,
        fetched_at=int(time.time() * 1000),
        status=status,
        promise=lease.promise,
        propensity=lease.propensity,
        **found,
    )
