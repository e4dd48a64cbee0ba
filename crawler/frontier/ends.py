"""The verbs that end a lease, and `Batch`, which says many of them at once."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from crawler.config import FrontierConfig
from crawler.frontier.records import Lease
from crawler.page import Page


class Ends(ABC):
    """ack, nack, skip and give back; each is one transition of the frontier."""

    _config: FrontierConfig

    @abstractmethod
    def _finish(self, script: str, lease: Lease, *args: Any) -> None: ...

    def ack(self, lease: Lease, page: Page | None, *, latency: float, size: int) -> None:
        """The URL was fetched: its page, if any, goes to the walker and the host rests. Raises LeaseLost."""
        body, digest, etag, modified = b"", "", "", ""
        if page:
            body, etag, modified = page.to_bytes(), page.etag, page.last_modified
            digest = "" if page.unchanged else page.content_sha256[:16] or page.reason
        again = ms(self._config.recrawl_days * 86400)
        self._finish("ack", lease, ms(self._rest(latency)), size, body, again, digest, etag, modified)

    def ack_robots(
        self,
        lease: Lease,
        rules: str,
        *,
        valid: float,
        crawl_delay: float,
        latency: float,
        size: int,
        page: Page | None = None,
    ) -> None:
        """The host's robots rules, for every worker, for `valid` seconds. Raises LeaseLost.

        `page`, if there is one, goes to the walker: the sitemaps that robots.txt names are its links.
        """
        body = page.to_bytes() if page else b""
        self._finish("robots", lease, ms(self._rest(latency)), size, body, rules, ms(valid), ms(crawl_delay))

    def nack(
        self,
        lease: Lease,
        reason: str,
        *,
        latency: float = 0.0,
        size: int = 0,
        retry_at: float | None = None,
        back_off: bool = False,
        sent: bool = True,
    ) -> None:
        """Not fetched this time; counted under `reason`, retried, in the end a dead letter. Raises LeaseLost.

        `retry_at` (epoch seconds) is when the host said it may be asked again; `back_off` when it refused
        without saying.
        """
        config = self._config
        base = ms(config.backoff) if back_off else 0
        asked = max(1, ms(retry_at - time.time())) if retry_at else 0
        rest = ms(self._rest(latency))
        self._finish("nack", lease, reason, rest, asked, base, config.attempts, int(sent), size)

    def skip(self, lease: Lease, reason: str) -> None:
        """Not wanted, and no request was sent: the URL is done with. Raises LeaseLost.

        Skipping a host's robots.txt does away with all that the host has queued.
        """
        self._finish("skip", lease, reason, 0)

    def give_back(self, lease: Lease, *, wait: float = 0.0) -> None:
        """Not begun: the URL returns as it was, the host rests for `wait` seconds. Raises LeaseLost."""
        self._finish("skip", lease, "", ms(wait))

    def _rest(self, latency: float) -> float:
        config = self._config
        return max(config.delay, min(config.latency_factor * latency, config.longest_delay))


Call = tuple[str, int, tuple[Any, ...]]
"""A script, its partition and its arguments."""


class Batch(Ends):
    """Ends of many leases in one round trip: each is a transition of its own, none waits for another."""

    def __init__(self, config: FrontierConfig, send: Callable[[list[Call]], list[Any]]) -> None:
        self._config = config
        self._send = send
        self._leases: list[Lease] = []
        self._calls: list[Call] = []

    def _finish(self, script: str, lease: Lease, *args: Any) -> None:
        self._leases.append(lease)
        self._calls.append((script, lease.partition, (lease.token, *args)))

    def send(self) -> list[Lease]:
        """Say all of it; returns the leases that were no longer ours."""
        held = self._send(self._calls) if self._calls else []
        lost = [lease for lease, was_ours in zip(self._leases, held, strict=True) if not was_ours]
        self._leases, self._calls = [], []
        return lost


def ms(seconds: float) -> int:
    """Milliseconds, as the scripts count."""
    return int(seconds * 1000)
