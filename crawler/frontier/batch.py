"""The verbs that end a lease, and `Batch`, which says many of them at once."""

import secrets
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
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
        self._finish("ack", lease, again, ms(self._rest(latency)), size, body, digest, etag, modified)

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
        rest, attempts = ms(self._rest(latency)), self._config.attempts
        asked, base = self._refusal(retry_at, back_off=back_off)
        self._finish("nack", lease, reason, rest, asked, base, attempts, int(sent), size)

    def skip(self, lease: Lease, reason: str) -> None:
        """Not wanted, and no request was sent: the URL is done with. Raises LeaseLost.

        Skipping a host's robots.txt does away with all that the host has queued.
        """
        self._finish("skip", lease, reason, 0)

    def give_back(self, lease: Lease, *, wait: float = 0.0) -> None:
        """Not begun: the URL returns as it was, the host rests for `wait` seconds. Raises LeaseLost."""
        self._finish("skip", lease, "", ms(wait))

    def _refusal(self, retry_at: float | None, *, back_off: bool) -> tuple[int, int]:
        """The rest a host asked for, and what a growing one begins with, in milliseconds; 0 for neither."""
        asked = max(1, ms(retry_at - time.time())) if retry_at else 0
        return asked, ms(self._config.backoff) if back_off else 0

    def _rest(self, latency: float) -> float:
        config = self._config
        return max(config.delay, min(config.latency_factor * latency, config.longest_delay))


_ACKS_AT_ONCE = 64
_BYTES_AT_ONCE = 8 << 20
"""Of the pages of acks that go together, unless a single one is larger."""
Call = tuple[str, int | str, tuple[Any, ...]]
"""A script, its partition or the address it is about, and its arguments."""
End = tuple[Lease, tuple[Any, ...]]


def call_for(script: str, partition: int, ends: list[End]) -> Call:
    """The call that ends leases of one partition: as many as there are for ack, one for the others."""
    if script != "ack":
        [(lease, args)] = ends
        return script, partition, (lease.token, *args)
    again, pages = ends[0][1][0], b""
    parts: list[Any] = []
    for lease, (_, rest, size, page, *facts) in ends:
        parts += (lease.token, rest, size, f"{len(pages)} {len(page)}" if page else "", *facts)
        pages += page
    name = f"{ends[0][0].token}-{secrets.token_hex(6)}"
    return script, partition, (again, name, pages, *parts)


def _together(script: str, ends: list[End]) -> Iterator[list[End]]:
    """Ends of one script and partition, as many together as one call may end."""
    part: list[End] = []
    size = 0
    for end in ends:
        more = len(end[1][3]) if script == "ack" else _BYTES_AT_ONCE
        if part and (len(part) == _ACKS_AT_ONCE or size + more > _BYTES_AT_ONCE):
            yield part
            part, size = [], 0
        part.append(end)
        size += more
    yield part


class Batch(Ends):
    """Ends of many leases, and connections to addresses that many hosts share, in one round trip.

    Each is a transition of its own, none waits for another.
    """

    def __init__(self, config: FrontierConfig, send: Callable[[list[Call]], list[Any]]) -> None:
        self._config = config
        self._send = send
        self._ends: dict[tuple[str, int], list[End]] = {}
        self._releases: list[Call] = []
        self._holds: dict[str, Call] = {}
        self.waits: dict[str, float] = {}
        """By holder: 0 if it holds the connection it asked for, or in how many seconds to ask again."""

    def hold_ip(self, address: str, holder: str, *, most: int, gap: float, seconds: float) -> None:
        """Take one of the `most` connections to `address` that all workers share, `gap` seconds apart.

        Whether it was to be had is in `waits`, once sent; who is refused is told a turn of its own. After
        `seconds` a hold ends by itself.
        """
        self._holds[holder] = "hold_ip", address, (holder, most, ms(gap), ms(seconds))

    def release_ip(self, address: str, holder: str) -> None:
        """The connection is over; who asks for one in the same batch may have it."""
        self._releases.append(("release_ip", address, (holder,)))

    def _finish(self, script: str, lease: Lease, *args: Any) -> None:
        self._ends.setdefault((script, lease.partition), []).append((lease, args))

    def send(self) -> list[Lease]:
        """Say all of it; returns the leases that were no longer ours."""
        ends, self._ends = self._ends, {}
        calls: list[Call] = []
        leases: list[list[Lease]] = []
        for (script, partition), group in ends.items():
            for part in _together(script, group):
                calls.append(call_for(script, partition, part))
                leases.append([lease for lease, _ in part])
        calls += [*self._releases, *self._holds.values()]
        answers = self._send(calls) if calls else []
        waits = answers[len(calls) - len(self._holds) :]
        self.waits = {holder: wait / 1000 for holder, wait in zip(self._holds, waits, strict=True)}
        self._releases, self._holds = [], {}
        return [
            lease
            for group, answer in zip(leases, answers, strict=False)
            for lease, was_ours in zip(group, answer if isinstance(answer, list) else [answer], strict=True)
            if not was_ours
        ]


def ms(seconds: float) -> int:
    """Milliseconds, as the scripts count."""
    return int(seconds * 1000)
