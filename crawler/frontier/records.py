"""What the frontier takes and gives: `Discovered`, `Lease`, `Entry`, `Limits`."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from crawler.page import Page
from crawler.seeds.seed import Seed

# Goes on while the machine sleeps, as the server's does; CLOCK_MONOTONIC, where there is no other, does not.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

ASIDE = "entry:"
"""What the names of entries that were set aside begin with, among URLs that are dead letters."""
SEED = "seed"
"""The referrer of a URL that a person chose: its host has the full budget."""


def uptime() -> float:
    """Seconds on a clock that goes on while this process is stopped and, on Linux, while the machine sleeps.

    A virtual machine that was paused knows nothing of it: there only the frontier notices.
    """
    return time.clock_gettime(_CLOCK)


class Discovered(NamedTuple):
    """A URL somebody links to, and what the policy expects of it."""

    url: str
    """An address: of several of a page, the first is asked for."""
    promise: float
    """Kept to four decimals."""
    referrer: str = ""
    """The domain that links to it, if it is another than its own (see `crawler.urls.domain`), or `SEED`."""


class Asker(NamedTuple):
    """An origin whose robots.txt is somewhere else, after so many redirects."""

    host: str
    origin: str
    hops: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right and the duty to fetch one URL before `deadline`."""

    token: int
    partition: int
    host: str
    member: str
    """What the URL is called at its host, see `crawler.urls.Address`."""
    url: str
    kind: str
    """`page`, `robots` for the host's robots.txt, or `errand` for one that other hosts were sent here for."""
    promise: float
    propensity: float
    attempt: int
    robots_until: int
    """Identifies the robots rules in force of the URL's origin (server milliseconds)."""
    deadline: float
    """By `uptime`, counted from before the lease was asked for: the frontier lets it run out no sooner."""
    told: str
    """The crawl's time when it was given, in milliseconds, and after how many jumps of it."""
    given: float
    """When it was received, on the same clock."""
    took: float
    """Seconds from asking to receiving: its time was told somewhere between."""
    fetch_no: int = 1
    """Which fetch of the URL this is; the same again if its end was lost."""
    etag: str = ""
    """Validators of the fetch before this one, for a conditional request."""
    last_modified: str = ""
    robots_for: tuple[Asker, ...] = ()
    """Who is to be told what the robots.txt at this URL says, beside the host itself."""
    robots_of: Asker | None = None
    """The origin whose robots.txt it is, if not an errand."""
    sought: str = ""
    """The page that it is leased for, itself or one whose robots.txt it is; empty of an errand."""

    @property
    def key(self) -> tuple[int, int]:
        """Of this lease alone: each partition counts its tokens."""
        return self.partition, self.token

    @property
    def origin(self) -> str:
        """Scheme and port of the URL as its member has them: robots rules are an origin's."""
        return self.member.partition("/")[0]


class Entry(NamedTuple):
    """One entry of the stream to the walker."""

    partition: str
    id: str
    content: Page | list[Seed]
    fault: str = ""
    """Why it cannot be read; then it has no content."""

    @property
    def name(self) -> str:
        """Under which it is set aside."""
        return f"{ASIDE}{self.partition}/{self.id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """What the frontier knows of a host."""

    host: str
    domain: str
    queued: int
    """With what waits in lists or on disk."""
    deferred: int
    """Of these, what waits there."""
    fetched: int
    failed: int
    """Attempts without an answer that counts, so far; of the last one `failure` is the reason."""
    failure: str
    unreached: int
    """Failed connections since one was made."""
    crawl_delay: float
    next: float
    """Seconds until it may be asked; below 0 it may."""
    told_off: bool
    """Whether that is for its Retry-After, a back-off, or a person's word."""
    state: str
    """`asked`, `paused`, `gone`, `spent`, `moved` (its robots.txt is asked for elsewhere), `on_disk`,
    `domain` (another host's turn), `resting`, `ready`, or `idle`: nothing is queued."""

    @classmethod
    def read(cls, host: str, told: Mapping[str, Any]) -> "HostFacts":
        """What lua/facts.lua told."""
        now, at, blocked = (float(told.get(name, 0)) for name in ("now", "next", "blocked"))
        deferred = int(told.get("tail", 0)) + int(told.get("cold", 0))
        states = {
            "gone": told.get("gone"),
            "asked": told.get("inflight"),
            "paused": told.get("paused"),
            "spent": told["spent"],
            "moved": told.get("awaits"),
            "on_disk": not told["best"] and deferred,
            "idle": not told["best"],
            "domain": told.get("busy"),
            "resting": "cooling" in told and at > now,
        }
        return cls(
            host=host,
            domain=told.get("domain", host),
            queued=told["best"] + deferred,
            deferred=deferred,
            **{name: int(told.get(name, 0)) for name in ("fetched", "failed", "unreached")},
            failure=told.get("failure", ""),
            crawl_delay=float(told.get("crawl_delay", 0)) / 1000,
            next=(at - now) / 1000,
            told_off=blocked > now,
            state=next((name for name, holds in states.items() if holds), "ready"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When the whole crawl stops, shared by all workers."""

    pages: int
    bytes: int
    until: float
    """Epoch seconds."""
    failed_connections: int = 1 << 53
    """Hosts to which no connection could be made."""

    def reached(self, counts: Mapping[str, int]) -> str:
        """Which limit the crawl's counts have reached, in words; empty while none is."""
        if counts["fetched"] >= self.pages:
            return f"the limit of {self.pages:,} pages is reached"
        if counts["bytes"] >= self.bytes:
            return f"{self.bytes / 1e9:g} GB fetched"
        if counts["failed_connections"] >= self.failed_connections:
            return f"{self.failed_connections:,} connections failed"
        return "its time is up" if time.time() >= self.until else ""
