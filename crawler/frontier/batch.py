"""The verbs that end a lease, and `Batch`, which says many of them at once."""

import secrets
import time
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any, NamedTuple

from crawler.frontier.records import Lease, uptime
from crawler.frontier.store import Call
from crawler.page import Page

# Acks of one call: the server answers nobody else meanwhile.
_ACKS_AT_ONCE = 64
# Bytes of the pages of one call, unless a single page is larger: they become one string of the server.
_BYTES_AT_ONCE = 8 << 20

Prefix = Callable[[int | str], str]
"""What the keys of a partition, or of an address, begin with."""


class Ack(NamedTuple):
    """The end of a lease whose URL was fetched. Acks go many in a call, their pages in one string."""

    lease: Lease
    latency: float
    size: int
    page: bytes
    digest: str
    etag: str
    last_modified: str

    def call(self, prefix: Prefix) -> Call:
        return call_of_acks([self], prefix)


class End(NamedTuple):
    """Any other end of a lease: a script, and what it is told beside the token."""

    script: str
    lease: Lease
    facts: dict[str, Any]

    def call(self, prefix: Prefix) -> Call:
        facts = {"token": self.lease.token, **_clock(self.lease), **self.facts}
        return Call(self.script, prefix(self.lease.partition), tuple(chain.from_iterable(facts.items())))


def call_of_acks(acks: list[Ack], prefix: Prefix) -> Call:
    """The call that ends leases of one partition."""
    pages = b""
    parts: list[Any] = []
    for ack in acks:
        span = f"{len(pages)} {len(ack.page)}" if ack.page else ""
        parts += (ack.lease.token, ack.latency, ack.size, span, ack.digest, ack.etag, ack.last_modified)
        pages += ack.page
    name = f"{acks[0].lease.token}-{secrets.token_hex(6)}"
    arguments = (name, *_clock(acks[0].lease).values(), *parts)
    return Call("ack", prefix(acks[0].lease.partition), arguments, beside=pages)


class Ends(ABC):
    """ack, nack, skip, give back and so on; each is one transition of the frontier."""

    @abstractmethod
    def _finish(self, end: Ack | End) -> None: ...

    def ack(self, lease: Lease, page: Page | None, *, latency: float, size: int) -> None:
        """The URL was fetched: its page, if any, goes to the walker and the host rests. Raises LeaseLost."""
        body, digest, etag, modified = b"", "", "", ""
        if page:
            body, etag, modified = page.to_bytes(), page.etag, page.last_modified
            digest = "" if page.unchanged else page.content_sha256[:16] or page.reason
        self._finish(Ack(lease, _fine_ms(latency), size, body, digest, etag, modified))

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
        facts = cost(latency, size) | rules_as_told(rules, valid, crawl_delay)
        self._finish(End("robots", lease, facts | {"page": page.to_bytes() if page else b""}))

    def moved(self, lease: Lease, to: str, *, latency: float, size: int) -> None:
        """The robots.txt of the origin is at `to`, a member of the same host, or else an errand of another.

        The host waits until it is told what that says, for ten minutes. Raises LeaseLost.
        """
        hops = lease.robots_of.hops + 1 if lease.robots_of else 0
        self._finish(End("moved", lease, cost(latency, size) | {"to": to, "hops": hops}))

    def respelled(self, lease: Lease, to: str, *, latency: float, size: int) -> None:
        """The page is at `to`, another address of its own, and waits there: an attempt. Raises LeaseLost."""
        member = f"{lease.origin}/{to.split('/', 3)[3]}"
        self._finish(End("respell", lease, cost(latency, size) | {"to": member}))

    def done(
        self,
        lease: Lease,
        *,
        latency: float,
        size: int,
        retry_at: float | None = None,
        back_off: bool = False,
    ) -> None:
        """Fetched, and no page for the walker; the host rests, as long as it asked for. Raises LeaseLost."""
        self._finish(End("done", lease, cost(latency, size) | refusal(retry_at, back_off=back_off)))

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
        final: bool = False,
    ) -> None:
        """Not fetched this time; counted under `reason`, retried, in the end a dead letter. Raises LeaseLost.

        `retry_at` (epoch seconds) is when the host said it may be asked again; `back_off` when it refused
        without saying. If no request was `sent`, since no connection could be made, that is a failure of the
        host and no fetch; if it is `final` too, since there is no such host, it is given up at once.
        """
        facts = cost(latency, size) | refusal(retry_at, back_off=back_off)
        said = {"reason": reason, "sent": int(sent), "final": int(final)}
        self._finish(End("nack", lease, facts | said))

    def skip(self, lease: Lease, reason: str) -> None:
        """Not wanted, and no request was sent: the URL is done with. Raises LeaseLost.

        Skipping a host's robots.txt does away with all that the host has queued.
        """
        self._finish(End("skip", lease, {"reason": reason, "wait": 0}))

    def give_back(self, lease: Lease, *, wait: float = 0.0, latency: float | None = None) -> None:
        """Not begun: the URL returns as it was, the host rests for `wait` seconds. Raises LeaseLost.

        `latency`, if a request was sent all the same and its answer lost here: the host rests as after any.
        """
        facts: dict[str, Any] = {"reason": "", "wait": ms(wait)}
        self._finish(End("skip", lease, facts if latency is None else facts | {"latency": _fine_ms(latency)}))


class Batch(Ends):
    """Ends of many leases, and connections to addresses that many hosts share, in one round trip.

    Each is a transition of its own, none waits for another.
    """

    def __init__(self, prefix: Prefix, send: Callable[[list[Call]], list[Any]]) -> None:
        self._prefix = prefix
        self._send = send
        self._acks: dict[int, list[Ack]] = {}
        self._ends: list[End] = []
        self._releases: list[Call] = []
        self._holds: dict[str, Call] = {}
        self.waits: dict[str, float] = {}
        """By holder: 0 if it holds the connection it asked for, or in how many seconds to ask again."""

    def hold_ip(self, address: str, holder: str, *, most: int, gap: float, seconds: float) -> None:
        """Take one of the `most` connections to `address` that all workers share, `gap` seconds apart.

        Whether it was to be had is in `waits`, once sent; who is refused is told a turn of its own. After
        `seconds` a hold ends by itself.
        """
        self._holds[holder] = Call("hold_ip", self._prefix(address), (holder, most, ms(gap), ms(seconds)))

    def release_ip(self, address: str, holder: str) -> None:
        """The connection is over; who asks for one in the same batch may have it."""
        self._releases.append(Call("ZREM", self._prefix(address), ("held", holder)))

    def _finish(self, end: Ack | End) -> None:
        if isinstance(end, Ack):
            self._acks.setdefault(end.lease.partition, []).append(end)
        else:
            self._ends.append(end)

    def send(self) -> list[Lease]:
        """Say all of it; returns the leases that were no longer ours."""
        groups = [group for acks in self._acks.values() for group in _together(acks)]
        leases = [[ack.lease for ack in group] for group in groups] + [[end.lease] for end in self._ends]
        calls = [call_of_acks(group, self._prefix) for group in groups]
        calls += [end.call(self._prefix) for end in self._ends]
        # Releases before holds: who asks in the same round trip may have what became free.
        calls += [*self._releases, *self._holds.values()]
        self._acks, self._ends, self._releases = {}, [], []
        holders, self._holds = list(self._holds), {}
        answers = self._send(calls) if calls else []
        waits = answers[len(calls) - len(holders) :]
        self.waits = {holder: wait / 1000 for holder, wait in zip(holders, waits, strict=True)}
        return [
            lease
            for group, answer in zip(leases, answers, strict=False)
            for lease, was_ours in zip(group, answer if isinstance(answer, list) else [answer], strict=True)
            if not was_ours
        ]


def _together(acks: list[Ack]) -> Iterator[list[Ack]]:
    """Acks of one partition, as many together as one call may end."""
    part: list[Ack] = []
    size = 0
    for ack in acks:
        if part and (len(part) == _ACKS_AT_ONCE or size + len(ack.page) > _BYTES_AT_ONCE):
            yield part
            part, size = [], 0
        part.append(ack)
        size += len(ack.page)
    yield part


def refusal(retry_at: float | None, *, back_off: bool) -> dict[str, int]:
    """What a host that refused asked for: a rest in ms (0: it did not say), and whether it refused at all."""
    asked = max(1, ms(retry_at - time.time())) if retry_at else 0
    return {"asked": asked, "back_off": int(back_off)}


def rules_as_told(rules: str, valid: float, crawl_delay: float) -> dict[str, Any]:
    """Rules as the scripts keep them."""
    packed = zlib.compress(rules.encode()) if rules else b""
    return {"rules": packed, "valid": ms(valid), "crawl_delay": ms(crawl_delay)}


def cost(latency: float, size: int) -> dict[str, float]:
    """Of a request: milliseconds until the host answered, bytes that came."""
    return {"latency": _fine_ms(latency), "size": size}


def _fine_ms(seconds: float) -> float:
    """Milliseconds to three decimals: latency is multiplied before it is a rest in whole ones."""
    return round(1000 * seconds, 3)


def _clock(lease: Lease) -> dict[str, Any]:
    """What a lease told us as the time, how many ms ago by our clock, and after how many: scripts compare."""
    return {"told": lease.told, "elapsed": ms(uptime() - lease.given), "took": ms(lease.took)}


def ms(seconds: float) -> int:
    """Milliseconds, as the scripts count."""
    return int(seconds * 1000)
