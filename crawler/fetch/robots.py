"""What a server asks of crawlers: robots.txt (RFC 9309) by protego, Location and Retry-After (RFC 9110)."""

import asyncio
import codecs
import re
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC
from email.utils import parsedate_to_datetime

from protego import Protego
from scrapy.http import Response

from crawler.frontier import Frontier, Lease
from crawler.read.optout import usage
from crawler.urls import canonicalize, locate

# RFC 9309 allows no longer.
VALID_SECONDS = 24 * 3600.0
# RFC 9309 asks for at least 500 KiB; what is longer is cut there.
MOST_BYTES = 512 * 1024
# Uses, each of which costs a parse of all the file.
_MOST_CATEGORIES = 16
_MOST_USAGE_LINES = 1000
# They are links of a page of the stream, which has to stay small.
_MOST_SITEMAPS = 1000
# Hosts whose rules are kept parsed.
_MOST_REMEMBERED = 10_000
_MOST_FILES_OF_OTHERS = 1000
# Seconds between two looks whether another host's turn has come, with a delay of none.
_SHORTEST_WAIT = 0.02
# As RFC 9309 asks.
_MOST_HOPS = 5
_AGENT_LINE = re.compile(r"user[- ]?agent\b", re.IGNORECASE)
_SITE_LINE = re.compile(r"(site-?maps?|host)\b", re.IGNORECASE)
_USAGE_LINE = re.compile(r"\s*content-(?:usage|signal)\s*:\s*(?:(/\S*)\s+)?([^#\n]*)", re.IGNORECASE)
# Refuses nothing, as nothing else says so; and ends a group's list of agents.
_OTHER_RULE = "Disallow: /"
_SECONDS = re.compile(r"^[0-9]{1,9}$")


class Rules:
    """One host's robots.txt, as one crawler must read it."""

    def __init__(self, text: str, user_agent: str) -> None:
        self._parsed = Protego.parse(text)
        self._agent = product_token(user_agent)
        self._refusals = _refusals(text)

    def allow(self, url: str) -> bool:
        """Whether `url` may be fetched."""
        return bool(self._parsed.can_fetch(url, self._agent))

    @property
    def crawl_delay(self) -> float:
        """Seconds between requests that the host asks for; 0 if it does not."""
        return float(self._parsed.crawl_delay(self._agent) or 0.0)

    def opt_out(self, url: str) -> tuple[str, ...]:
        """Uses that are refused for `url`, by lines Content-Usage and Content-Signal: `robots:train-ai=n`."""
        return tuple(
            f"robots:{statement}"
            for statement, rules in self._refusals.items()
            if rules.can_fetch(url, self._agent)
        )

    def sitemaps(self, url: str) -> tuple[str, ...]:
        """The sitemaps that the robots.txt at `url` names, of whatever host: it vouches for them."""
        named = (canonicalize(sitemap, url) for sitemap in self._parsed.sitemaps)
        return tuple(dict.fromkeys(sitemap for sitemap in named if sitemap))[:_MOST_SITEMAPS]


def _refusals(text: str) -> dict[str, Protego]:
    """For each use that is refused anywhere: rules that "allow" exactly the URLs that are not for it.

    Groups and longest matches are those of Allow and Disallow, so protego is asked about lines put in their
    words. At equal length it is Allow that wins, and here the refusal. Lines before any group are for all.
    """
    lines: list[str | re.Match[str]] = ["User-agent: *", _OTHER_RULE]
    uses: dict[str, str] = {}
    stated = 0
    for line in text.splitlines():
        line = line.partition("#")[0].strip()
        match = _USAGE_LINE.match(line)
        if match and stated < _MOST_USAGE_LINES:
            stated += 1
            uses |= {category: use for category, use, refused in usage(match[2]) if refused}
            lines.append(match)
        elif _AGENT_LINE.match(line):
            lines.append(line)
        elif ":" in line and not _SITE_LINE.match(line) and lines[-1] != _OTHER_RULE:
            lines.append(_OTHER_RULE)
    return {
        use: Protego.parse("\n".join(_in_words_of_robots(lines, category)))
        for category, use in list(uses.items())[:_MOST_CATEGORIES]
    }


def _in_words_of_robots(lines: Iterable[str | re.Match[str]], category: str) -> Iterator[str]:
    for line in lines:
        if isinstance(line, str):
            yield line
        else:
            yield _OTHER_RULE
            for named, _, refused in usage(line[2]):
                if named == category:
                    yield f"{'Allow' if refused else 'Disallow'}: {line[1] or '/'}"


class HostRules:
    """The rules of hosts, as the frontier keeps them, parsed once while they are valid."""

    def __init__(self, frontier: Frontier, user_agent: str) -> None:
        self._frontier, self._agent = frontier, user_agent
        self._parsed: dict[tuple[str, str, int], Rules] = {}

    def read(self, lease: Lease) -> Rules | None:
        """The rules of the lease's origin; asks the frontier for those not known. None: they are gone."""
        key = lease.host, lease.origin, lease.robots_until
        rules = self._parsed.get(key)
        if rules is None:
            text = self._frontier.robots(lease.host, lease.origin)
            if text is None:
                return None
            if len(self._parsed) >= _MOST_REMEMBERED:
                self._parsed.clear()
            rules = self._parsed[key] = Rules(text, self._agent)
        return rules

    async def get(self, lease: Lease) -> Rules | None:
        """`read`, in a thread if it takes long."""
        if rules := self._parsed.get((lease.host, lease.origin, lease.robots_until)):
            return rules
        return await asyncio.to_thread(self.read, lease)


class RobotsRedirects:
    """robots.txt files that live on another host than the one whose rules they are.

    RFC 9309 asks crawlers to follow redirects of robots.txt, also to other hosts. Such a request cannot be
    leased: the lease is the redirecting host's. So a worker asks the other host for one thing at a time, with
    the usual rest between, and for each file once while it is valid, however many hosts (the blogs of a
    provider, say) point to it: the price is one unleased request a worker and day, to a host pointed to.
    """

    def __init__(self, delay: Callable[[], float], patience: float) -> None:
        self._delay = delay
        self._patience = patience
        self._known: dict[str, tuple[float, str]] = {}
        self._next: dict[str, float] = {}

    async def read(
        self, url: str, status: int, location: str, body: bytes, *, host: str, hops: int
    ) -> tuple[str | None, str]:
        """Interpret the answer from `url`, after `hops` moves: the rules of `host`, and where to ask now.

        Without rules, and with nowhere to ask, nothing may be fetched until the host answers. Waits until the
        next URL may be asked for.
        """
        own = locate(url).host
        if own in self._next:
            self._next[own] = time.monotonic() + self._delay()
        moved = 300 <= status < 400
        target = canonicalize(location, url) if moved and location and hops < _MOST_HOPS else None
        text = await self.turn(target, host) if target else interpret(404 if moved else status, body)
        if target and text is None:
            return None, target
        if text is not None and own != host:  # another host's file
            if len(self._known) >= _MOST_FILES_OF_OTHERS:
                self._known.clear()
            self._known[url] = time.monotonic() + VALID_SECONDS, text
        return text, ""

    async def turn(self, url: str, host: str) -> str | None:
        """Wait until `url` may be asked for on behalf of `host`; its text if that is known by then."""
        target = locate(url).host
        if target == host:
            await asyncio.sleep(self._delay())
            return None
        while True:
            now = time.monotonic()
            valid_until, text = self._known.get(url, (0.0, ""))
            if valid_until > now:
                return text
            wait = self._next.get(target, now) - now
            if wait <= 0:
                # Until it answers nobody else asks; if it never does, until `patience` is over.
                self._next = {name: at for name, at in self._next.items() if at > now}
                self._next[target] = now + self._patience
                return None
            await asyncio.sleep(min(wait, max(self._delay(), _SHORTEST_WAIT)))


def interpret(status: int, body: bytes) -> str | None:
    """The rules an answer to robots.txt stands for (RFC 9309, section 2.3.1), of at most `MOST_BYTES`.

    2xx is the rules, 4xx allows all; None (5xx, 429): nothing may be fetched until the host answers.
    """
    if 200 <= status < 300:
        encoding = "utf-16" if body.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
        text = body.decode(encoding, "replace")
        # A character is four bytes at most: a shorter text needs no count.
        if len(text) <= MOST_BYTES // 4 or len(data := text.encode()) <= MOST_BYTES:
            return text
        # After a complete line: a rule cut in half could allow what all of it does not.
        return data[: max(data.rfind(b"\n", 0, MOST_BYTES), data.rfind(b"\r", 0, MOST_BYTES), 0)].decode()
    if 400 <= status < 500 and status != 429:
        return ""
    return None


def product_token(user_agent: str) -> str:
    """The name by which robots.txt addresses a crawler: the first word of its User-Agent, without version."""
    return "".join(user_agent.partition("/")[0].split()[:1]) or "*"


def location(response: Response) -> str:
    """Where a redirect leads, as browsers read it: in UTF-8, or else byte by byte."""
    raw = response.headers.get("Location") or b""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "".join(chr(byte) if byte < 128 else f"%{byte:02X}" for byte in raw)


def retry_at(header: str) -> float | None:
    """Epoch seconds that a Retry-After header names, in seconds or as a date; None if it names none."""
    text = header.strip()
    if _SECONDS.match(text):
        return time.time() + int(text)
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError):
        return None
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
