"""`FrontierScheduler`: tinylm's frontier as the scheduler of any Scrapy spider.

    SCHEDULER = "crawler.scheduler.FrontierScheduler"
    TINYLM_FRONTIER = "redis://127.0.0.1:6379/0#my-crawl"

Requests wait in the frontier with all they carry and are leased, one a host, within its delay and robots.txt.
A lease ends when Scrapy is through with its request: callbacks and pipelines have ended, and what they asked
for is queued. What a killed process had in hand is leased again when its leases expire; nothing is lost.
"""

import asyncio
import logging
import pickle
import threading
import time
import uuid
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import urldefrag

from scrapy import Request, Spider, signals
from scrapy.core.scheduler import BaseScheduler
from scrapy.crawler import Crawler
from scrapy.http import Response
from scrapy.utils.request import request_from_dict
from twisted.python.failure import Failure

from crawler.config import FrontierConfig
from crawler.errors import LeaseLost, RulesMissing
from crawler.fetch.failures import FAULT_SECONDS, OF_THE_HOST, OwnFaults, classify, no_such_name, own_fault
from crawler.fetch.robots import HostRules, retry_at
from crawler.frontier import Lease, connect
from crawler.frontier.frontier import RULES
from crawler.frontier.records import uptime
from crawler.frontier.requests import RequestFrontier
from crawler.message import header_url
from crawler.urls import address

_POLL_SECONDS = 0.05
_REAP_SECONDS = 2.0
# Between two questions whether all processes are through.
_FINISHED_SECONDS = 0.5
# Beyond DOWNLOAD_TIMEOUT, for callbacks and pipelines, before a lease expires.
_PROCESSING_SECONDS = 60.0
# Of a request with its body and `meta`, which a page's text may get into. A GET has some 500.
_MOST_REQUEST_BYTES = 1 << 20

log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Held:
    """A lease, the request that was made of it, and what is known of its end."""

    lease: Lease
    request: Request
    begun: float = 0.0
    """When the engine took it (of time.monotonic); 0 before."""
    too_late: bool = False
    """Whether its lease ran out before that."""
    cost: dict[str, Any] = field(default_factory=lambda: {"latency": 0.0, "size": 0})


class FrontierScheduler(BaseScheduler):
    """Scrapy's engine on one side, the leases of one process on the other.

    `TINYLM_FRONTIER` is a server's URL with the crawl's name as fragment, or fields of `FrontierConfig`.
    """

    def __init__(self, crawler: Crawler, frontier: RequestFrontier) -> None:
        self._crawler = crawler
        self._frontier = frontier
        self._agent = crawler.settings["USER_AGENT"]
        self._concurrency = crawler.settings.getint("CONCURRENT_REQUESTS")
        self._ready: deque[Request] = deque()
        self._held: dict[Request, _Held] = {}
        self._rules = HostRules(frontier, self._agent)
        self._faults = OwnFaults(self._concurrency)
        self._enqueued = 0
        self._finished = False
        self._closing = False
        self._taking = threading.Lock()

    @classmethod
    def from_crawler(cls, crawler: Crawler) -> Self:
        setting = crawler.settings.get("TINYLM_FRONTIER")
        if isinstance(setting, str):
            url, crawl_id = urldefrag(setting)
            setting = {"redis_url": url, "crawl_id": crawl_id or "scrapy"}
        seconds = crawler.settings.getfloat("DOWNLOAD_TIMEOUT") + _PROCESSING_SECONDS
        defaults = {"exploration": 0.0, "pages_per_host": 1 << 31, "lease_seconds": seconds}
        config = FrontierConfig(**(defaults | setting))
        frontier = RequestFrontier(connect(config.redis_url), config)
        # A spider started with another setting changes it for all processes, and nothing it does not name.
        frontier.set_rules(config, setting.keys() & RULES.keys())
        return cls(crawler, frontier)

    # What the engine calls

    def open(self, spider: Spider) -> None:
        self._spider = spider
        self._crawler.signals.connect(self._on_response, signals.response_downloaded)
        self._pump = asyncio.ensure_future(self._run())
        self._pump.add_done_callback(self._pump_ended)

    def close(self, reason: str) -> None:  # noqa: ARG002 (Scrapy's signature)
        """End the leases whose requests were begun; give the others back."""
        self._pump.cancel()
        with self._taking:
            self._closing = True
        for held in list(self._held.values()):
            self._end(held)

    def has_pending_requests(self) -> bool:
        """Whether anything is queued or in flight, in whichever process."""
        return not self._finished

    def enqueue_request(self, request: Request) -> bool:
        url = address(request.url)
        if url is None:
            log.error("%s cannot be queued: it has no http(s) URL", request)
            return False
        try:
            kept = pickle.dumps(request.to_dict(spider=self._spider), protocol=4)
        except Exception as error:
            log.error("%s cannot be kept: %s", request, error)
            return False
        if len(kept) > _MOST_REQUEST_BYTES:
            log.error(
                "%s is not queued: it has %d bytes, %d at most", request, len(kept), _MOST_REQUEST_BYTES
            )
            return False
        self._enqueued += 1
        self._finished = False
        return self._frontier.put_request(f"{url}#{self._identity(request)}", kept, request.priority)

    def next_request(self) -> Request | None:
        if not self._ready:
            return None
        request = self._ready.popleft()
        held = self._held[request]
        # As late as a scheduler can look: what the engine has is sent in the order of its own queues.
        if held.lease.deadline <= uptime():
            held.too_late = True
            return None
        held.begun = time.monotonic()
        return request

    def _identity(self, request: Request) -> str:
        """Equal for requests of which one is enough; of start requests one is, for all processes and runs."""
        digest = self._crawler.request_fingerprinter.fingerprint(request).hex()[:16]
        first = request.meta.get("is_start_request") and not request.meta.get("retry_times")
        return f"{digest}-{uuid.uuid4().hex[:8]}" if request.dont_filter and not first else digest

    # Leases in and out

    async def _run(self) -> None:
        reaped = checked = 0.0
        while True:
            await self._settle()
            now = time.monotonic()
            if now - reaped > _REAP_SECONDS:
                await asyncio.to_thread(self._frontier.reap)
                reaped = now
            free = self._faults.free(len(self._held))
            for held in await asyncio.to_thread(self._take, free) if free > 0 else []:
                self._offer(held)
            if not self._held and now - checked > _FINISHED_SECONDS:
                await self._check_finished()
                checked = now
            await asyncio.sleep(_POLL_SECONDS)

    def _pump_ended(self, pump: "asyncio.Future[None]") -> None:
        """Without leases there is nothing to do: the spider ends, and says why."""
        if not pump.cancelled() and (error := pump.exception()):
            log.error("the frontier cannot be used: %s", error, exc_info=error)
            engine = self._crawler.engine
            if engine:
                self._stopping = asyncio.ensure_future(engine.close_spider_async(reason="frontier_failed"))

    def _take(self, n: int) -> list[_Held]:
        """In one step of a thread: a scheduler that is closed meanwhile gives back what came too late."""
        with self._taking:
            leases = [] if self._closing else self._frontier.lease(n)
            leases = [lease for lease in leases if lease.kind == "robots" or self._allowed(lease)]
            pages = [lease for lease in leases if lease.kind == "page"]
            made = [_Held(lease, self._robots_request(lease)) for lease in leases if lease.kind != "page"]
            kept = zip(pages, self._frontier.requests(pages), strict=True)
            for lease, pickled in kept:
                if pickled is None:  # somebody put the URL
                    request = Request(urldefrag(lease.url).url, dont_filter=True)
                else:
                    request = request_from_dict(pickle.loads(pickled), spider=self._spider)  # noqa: S301
                made.append(_Held(lease, request))
            return made

    def _allowed(self, lease: Lease) -> bool:
        with suppress(LeaseLost):
            try:
                if self._rules.read(lease).allow(urldefrag(lease.url).url):
                    return True
                self._rules.tell(lease.robots_for, "")
                self._frontier.refuse(lease, "robots")
            except RulesMissing as missing:
                self._frontier.give_back(lease, wait=missing.seconds)
        return False

    def _offer(self, held: _Held) -> None:
        self._held[held.request] = held
        self._ready.append(held.request)
        self._wake()

    def _wake(self) -> None:
        if self._crawler.engine and self._crawler.engine._slot:
            self._crawler.engine._slot.nextcall.schedule()

    async def _settle(self) -> None:
        """End the leases whose requests the engine is through with."""
        engine = self._crawler.engine
        in_progress = engine._slot.inprogress if engine and engine._slot else set()
        for held in list(self._held.values()):
            if held.too_late or (held.begun and held.request not in in_progress):
                await asyncio.to_thread(self._end, held)

    def _end(self, held: _Held) -> None:
        """Give back what was not begun; all else is done, but a robots.txt that no callback has seen."""
        try:
            if not held.begun:
                self._frontier.give_back(held.lease)
            elif held.lease.kind != "page":
                self._rules.tell(held.lease.robots_for, None)
                self._frontier.nack(held.lease, "robots_unreachable", back_off=True)
            else:
                self._frontier.done(held.lease, **held.cost)
        except LeaseLost as error:
            log.warning("%s", error)
        finally:
            self._held.pop(held.request, None)

    async def _check_finished(self) -> None:
        enqueued = self._enqueued
        finished = await asyncio.to_thread(self._frontier.finished)
        self._finished = finished and enqueued == self._enqueued and not self._held
        if self._finished:
            self._wake()

    def _on_response(self, response: Response, request: Request) -> None:
        """Before any middleware sees it: what the host asks of us, and what it cost."""
        if held := self._held.get(request):
            self._faults.passed(held.begun)
            latency = request.meta.get("download_latency", 0.0)
            held.cost = {"latency": latency, "size": len(response.body)}
            if response.status in (429, 503):
                at = retry_at((response.headers.get("Retry-After") or b"").decode("latin-1"))
                held.cost |= {"retry_at": at, "back_off": at is None}

    # Robots

    def _robots_request(self, lease: Lease) -> Request:
        return Request(
            lease.url,
            callback=self._on_robots,
            errback=self._on_robots_failure,
            cb_kwargs={"lease": lease},
            meta=dict.fromkeys(("handle_httpstatus_all", "dont_redirect", "dont_retry", "dont_cache"), True),
            dont_filter=True,
        )

    async def _on_robots(self, response: Response, lease: Lease) -> None:
        held = self._held.pop(response.request)  # type: ignore[arg-type]
        moved = header_url((response.headers.get("Location") or b"").decode("latin-1"))
        settled = await self._rules.settled(lease, response.url, response.status, moved, response.body)
        with suppress(LeaseLost):
            await asyncio.to_thread(settled.end, self._frontier, lease, **held.cost)

    async def _on_robots_failure(self, failure: Failure) -> None:
        request: Request = failure.request  # type: ignore[attr-defined]
        if held := self._held.pop(request, None):
            await asyncio.to_thread(self._rules.tell, held.lease.robots_for, None)
            with suppress(LeaseLost):
                await asyncio.to_thread(self._without_robots, held.lease, failure.value)

    def _without_robots(self, lease: Lease, error: BaseException | None) -> None:
        """End a lease whose request was not answered; of which reason tells that it was not sent either."""
        if fault := own_fault(error):
            self._faults.met(fault)
            self._frontier.give_back(lease, wait=FAULT_SECONDS, latency=0.0)
            return
        reason = classify(error)
        sent, final = reason not in OF_THE_HOST, no_such_name(error)
        self._frontier.nack(lease, reason, back_off=True, sent=sent, final=final)
