"""What a server asks of crawlers: robots.txt (RFC 9309) by protego, Location and Retry-After (RFC 9110).

A stranger wrote it, and a worker reads it in its own process. So one pass over the text finds the group that
is ours, no line costs more than its length, and protego sees that group only: however many agents a file
names, its rules are there once.
"""

import asyncio
import codecs
import math
import re
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC
from email.utils import parsedate_to_datetime
from itertools import islice
from typing import Any, NamedTuple
from urllib.parse import quote

from protego import Protego

from crawler.config import product_token
from crawler.errors import RulesMissing
from crawler.frontier import Frontier, Lease
from crawler.frontier.batch import Ends
from crawler.frontier.records import Asker
from crawler.message import MessageError, decoded
from crawler.page import Page
from crawler.read.optout import MOST_SIGNALS, addresses, usage
from crawler.urls import MOST_CHARACTERS, address

# RFC 9309 allows no longer.
VALID_SECONDS = 24 * 3600.0
# RFC 9309 asks for at least 500 KiB; what is longer is cut there. That is 47,000 rules that differ, at most:
# reading them takes 0.2 s and 15 MB, and holding a URL against them 6 ms.
MOST_BYTES = 512 * 1024
# Characters of rules with a `*` in them: to hold a URL against all takes 25 ms at the worst. Of 4,231 real
# files one has 24,780, all others less than half of that.
_MOST_OF_WILDCARDS = 32 * 1024
# Statements of Content-Usage and Content-Signal that are read of a file; one has a dozen.
_MOST_STATEMENTS = 1000
# They are links of a page of the stream, which has to stay small.
_MOST_SITEMAPS = 1000
# Bytes of the rules that a worker keeps parsed: of 1,300 hosts of the real ones, or of the one that has most.
_MOST_REMEMBERED = 32_000_000
# Characters of a text that takes up to 35 ms to parse; one real file in seventy is larger. What does not stay
# remembered is parsed at every lease: for files that large it may take a fifth of a worker's time.
_LARGE, _REST_AFTER_LARGE = 32 * 1024, 4
# Bytes that rules take, measured: of a host that has none (or a use), and for each rule and each of its
# characters. protego makes two of one with a `$` or an index.html.
_OF_A_HOST, _OF_A_RULE, _OF_A_CHARACTER = 2000, 300, 10
# As RFC 9309 asks.
_MOST_HOPS = 5
# The names of lines that are heard, typos included as protego knows them, and what they are to us.
_FIELDS = {
    name: kind
    for kind, names in {
        "agent": ("user-agent", "useragent", "user agent"),
        "allow": ("allow",),
        "disallow": ("disallow", "dissallow", "dissalow", "disalow", "diasllow", "disallaw"),
        "delay": ("crawl-delay", "crawl delay"),
        "sitemap": ("sitemap", "sitemaps", "site-map"),
        "use": ("content-usage", "content-signal"),
    }.items()
    for name in names
}
# What ends a line for Python, and so for protego, but not by RFC 9309 (section 2.2).
_NO_LINE_ENDS = re.compile("[\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
_SECONDS = re.compile(r"^[0-9]{1,9}$")


@dataclass
class _Group:
    """The lines of a robots.txt that are for one crawler."""

    rules: list[tuple[bool, str]] = field(default_factory=list)
    """Whether it forbids, and its pattern."""
    uses: list[str] = field(default_factory=list)
    delay: float = 0.0
    sitemaps: list[str] = field(default_factory=list)


def _group(text: str, token: str) -> _Group:
    """Read what is for `token` in `text`: all groups with its name or, if there is none, all with `*`.

    As RFC 9309 has it, only Allow and Disallow end the list of agents of a group (section 2.2.4: no other
    line interferes); a line that it does not know is for the agents named since the last one of its kind.
    """
    groups = {name: _Group() for name in ("*", token)}
    # Which of them a line is for. Before any group a line about use is for all, and any other for nobody.
    heard: dict[str, set[str]] = {"rule": set(), "use": set(groups), "delay": set()}
    ended, named, sitemaps = {"use"}, {"*"}, list[str]()
    for line in filter(None, text.replace("\ufeff", "").replace("\r", "\n").split("\n")):
        kind, value = _directive(line.partition("#")[0].strip())
        if kind == "agent":
            agents = {name for name in groups if addresses(value.lower(), name)}
            named |= agents
            heard = {about: agents if about in ended else agents | heard[about] for about in heard}
            ended = set()
        elif kind == "sitemap":
            if 0 < len(value) <= MOST_CHARACTERS and len(sitemaps) < _MOST_SITEMAPS:
                sitemaps.append(value)
        elif kind in ("allow", "disallow"):
            ended = set(heard)
            for group in (groups[name] for name in heard["rule"] if value):
                group.rules.append((kind == "disallow", _NO_LINE_ENDS.sub(lambda end: quote(end[0]), value)))
        elif kind:
            ended.add(kind)
            for group in (groups[name] for name in heard[kind] if value):
                if kind == "use":
                    group.uses.append(value)
                    continue
                with suppress(ValueError):
                    seconds = float(value)
                    group.delay = seconds if 0 <= seconds < math.inf else group.delay
    return replace(groups[token if token in named else "*"], sitemaps=sitemaps)


def _directive(line: str) -> tuple[str, str]:
    """What a line is to us, by the names in `_FIELDS`, and its value; "" and "" if it says nothing."""
    name, colon, value = line.partition(":")
    if colon and (known := _FIELDS.get(name.strip().lower())):
        return known, value.strip()
    if not colon or value[:1].strip():  # Disallow /x, or Sitemap https://h/s.xml
        words = line.split(None, 2)
        for count in (1, 2):
            if known := _FIELDS.get(" ".join(words[:count]).lower()):
                return known, " ".join(" ".join(words[count:]).split())
    return "", ""


def _affordable(rules: Iterable[tuple[bool, str]]) -> Iterator[str]:
    """The patterns of rules (whether it forbids, pattern), each at a price that we pay.

    What is too much is cut if it forbids, which forbids more, and otherwise left out ("").
    """
    left = _MOST_OF_WILDCARDS
    for forbids, pattern in rules:
        # No URL is longer, and what is cut must not become an anchor.
        cut = pattern if len(pattern) <= MOST_CHARACTERS else pattern[:MOST_CHARACTERS].rstrip("$")
        if "*" in cut and len(cut) > left:
            cut = cut.partition("*")[0] or "/"
        elif "*" in cut:
            left -= len(cut)
        yield cut if forbids or cut == pattern else ""


class Rules:
    """One host's robots.txt, as one crawler must read it."""

    def __init__(self, text: str, user_agent: str) -> None:
        group = _group(text, product_token(user_agent).lower())
        self.crawl_delay = group.delay
        """Seconds between requests that the host asks for; 0 if it does not."""
        self._sitemaps = group.sitemaps
        words = (("Allow", "Disallow")[forbids] for forbids, _ in group.rules)
        lines = [f"{word}: {cut}" for word, cut in zip(words, _affordable(group.rules), strict=True)]
        self._rules = Protego.parse("\n".join(["User-agent: *", *dict.fromkeys(lines)]))
        refusals = _refusals(group.uses)
        self._refusals = {use: Protego.parse("\n".join(lines)) for use, lines in refusals.items()}
        kept = [*lines, *self._sitemaps, *(line for lines in refusals.values() for line in lines)]
        rules = len(kept) + sum("$" in line or "/index.html" in line for line in kept)
        self.size = (
            _OF_A_HOST * (1 + len(refusals)) + _OF_A_RULE * rules + _OF_A_CHARACTER * sum(map(len, kept))
        )
        """Bytes of memory, about."""

    def allow(self, url: str) -> bool:
        """Whether `url` may be fetched."""
        return bool(self._rules.can_fetch(url, "*"))

    def opt_out(self, url: str) -> tuple[str, ...]:
        """Uses that are refused for `url`, by lines Content-Usage and Content-Signal: `robots:train-ai=n`."""
        return tuple(f"robots:{use}" for use, rules in self._refusals.items() if rules.can_fetch(url, "*"))

    def sitemaps(self, url: str) -> tuple[str, ...]:
        """The sitemaps that the robots.txt at `url` names, of whatever host: it vouches for them."""
        named = (address(sitemap, url) for sitemap in self._sitemaps)
        return tuple(dict.fromkeys(sitemap for sitemap in named if sitemap))


def _refusals(uses: Iterable[str]) -> dict[str, list[str]]:
    """For each use that is refused anywhere: a robots.txt that "allows" exactly the URLs that are not for it.

    Longest matches are those of Allow and Disallow, so protego is asked about lines put in their words. At
    equal length it is Allow that wins, and here the refusal.
    """
    stated = list(islice(_statements(uses), _MOST_STATEMENTS))
    patterns = _affordable((refused, path) for path, _, _, refused in stated)
    said = [(*statement, pattern) for statement, pattern in zip(stated, patterns, strict=True)]
    refusals = {category: use for _, category, use, refused in stated if refused}
    return {
        use: ["User-agent: *", "Disallow: /"]
        + [f"{'Allow' if refused else 'Disallow'}: {pattern}" for _, about, _, refused, pattern in said
           if about == category]
        for category, use in islice(refusals.items(), MOST_SIGNALS)
    }  # fmt: skip


def _statements(uses: Iterable[str]) -> Iterator[tuple[str, str, str, bool]]:
    """(path, category, statement, whether it refuses) of `/path train-ai=n, search=y`."""
    for line in uses:
        path, preferences = (*line.split(None, 1), "")[:2] if line.startswith("/") else ("/", line)
        for statement in usage(preferences):
            yield path, *statement


class HostRules:
    """The rules of hosts, as the frontier keeps them, parsed once while they are valid and there is room."""

    def __init__(self, frontier: Frontier, user_agent: str) -> None:
        self._frontier, self._agent = frontier, user_agent
        self._parsed: dict[tuple[str, str, int], Rules] = {}
        self._size = 0
        self._next_large = 0.0
        # Two at once would take twice the memory, and no less time.
        self._one_at_a_time = asyncio.Lock()

    def read(self, lease: Lease) -> Rules:
        """The rules of the lease's origin; asks the frontier for those not known. Raises RulesMissing."""
        return self._known(lease) or self._keep(lease, self._ask(lease))

    async def get(self, lease: Lease) -> Rules:
        """`read`, in a thread if it takes long. Raises RulesMissing."""
        if rules := self._known(lease):
            return rules
        async with self._one_at_a_time:
            return self._known(lease) or self._keep(lease, await asyncio.to_thread(self._ask, lease))

    def _ask(self, lease: Lease) -> Rules:
        text, began = self._frontier.robots(lease.host, lease.origin), time.monotonic()
        if text is None:  # gone: the frontier leases the robots.txt again
            raise RulesMissing(lease.host, 0.0)
        if len(text) > _LARGE and began < self._next_large:
            raise RulesMissing(lease.host, self._next_large - began)
        rules = Rules(text, self._agent)
        if len(text) > _LARGE:
            ended = time.monotonic()
            self._next_large = ended + _REST_AFTER_LARGE * (ended - began)
        return rules

    def _known(self, lease: Lease) -> Rules | None:
        key = lease.host, lease.origin, lease.robots_until
        if rules := self._parsed.pop(key, None):
            self._parsed[key] = rules  # behind all that were asked for longer ago
        return rules

    def _keep(self, lease: Lease, rules: Rules) -> Rules:
        self._parsed[lease.host, lease.origin, lease.robots_until] = rules
        self._size += rules.size
        while self._size > _MOST_REMEMBERED:
            self._size -= self._parsed.pop(next(iter(self._parsed))).size
        return rules

    # A robots.txt that was leased, for its host or for others that were sent to it

    async def settled(self, lease: Lease, url: str, status: int, location: str, body: bytes) -> "Settled":
        """Read the answer to a robots.txt; tell the hosts that wait for it what it says, or send them on.

        RFC 9309 asks crawlers to follow redirects, also to other hosts. No request goes to those but in their
        own turn: they are asked by a lease of theirs, as an errand, if they may be asked at all.
        """
        async with self._one_at_a_time:
            return await asyncio.to_thread(self._settled, lease, url, status, location, body)

    def _settled(self, lease: Lease, url: str, status: int, location: str, body: bytes) -> "Settled":
        moved = 300 <= status < 400
        target = address(location, url) if moved and location else None
        if target is None:
            text = interpret(404 if moved else status, body)
            rules = Rules(text or "", self._agent)
            self.tell(lease.robots_for, text, rules.crawl_delay)
            return Settled(text, rules)
        host, member = self._frontier.locate(target)
        askers = [asker._replace(hops=asker.hops + 1) for asker in lease.robots_for]
        own = lease.robots_of and lease.robots_of._replace(hops=lease.robots_of.hops + 1)
        # Within the host it is the next lease of the host itself.
        waiting = [*askers, own] if own and host != lease.host else askers
        text = self._frontier.errand(target, [asker for asker in waiting if asker.hops <= _MOST_HOPS])
        rules = Rules(text or "", self._agent)
        for asker in askers:
            if text is not None or asker.hops > _MOST_HOPS:
                self.tell([asker], text or "", rules.crawl_delay)
        if text is not None or (own and own.hops > _MOST_HOPS):
            return Settled(text or "", rules)
        return Settled(None, rules, member if host == lease.host else "")

    def tell(self, askers: Iterable[Asker], text: str | None, crawl_delay: float = 0.0) -> None:
        """Tell who waits what their robots.txt says; None if that could not be asked."""
        for asker in askers:
            self._frontier.answer(asker, text, valid=VALID_SECONDS, crawl_delay=crawl_delay)

    def forbid(self, lease: Lease) -> None:
        """Nobody may ask the host of a lease: a robots.txt that moved there is none."""
        self.tell([*lease.robots_for, *self._frontier.take_errands(lease.host)], "")


class Settled(NamedTuple):
    """What the answer to a robots.txt says of the host that was asked."""

    text: str | None
    """None: nothing may be fetched until the host answers or, if it `moved`, until that is read."""
    rules: Rules
    moved: str | None = None
    """Where it is now: a member of the same host, or "" if another host is asked."""

    def end(self, ends: Ends, lease: Lease, /, *, page: Page | None = None, **cost: Any) -> None:
        """End the lease accordingly; `page` has the sitemaps. Raises LeaseLost."""
        if self.text is None and self.moved is None:
            ends.nack(lease, "robots_unreachable", **({"back_off": True} | cost))
        elif lease.kind == "errand":
            ends.done(lease, **cost)
        elif self.text is None:
            ends.moved(lease, self.moved or "", **cost)
        else:
            delay = self.rules.crawl_delay
            ends.ack_robots(lease, self.text, valid=VALID_SECONDS, crawl_delay=delay, page=page, **cost)


def interpret(status: int, body: bytes) -> str | None:
    """The rules an answer to robots.txt stands for (RFC 9309, section 2.3.1), of at most `MOST_BYTES`.

    2xx is the rules, 4xx allows all; None (5xx, 429): nothing may be fetched until the host answers.
    """
    if 200 <= status < 300:
        if body.startswith(b"\x1f\x8b"):  # a file of gzip, and nobody says so
            with suppress(MessageError):
                body, _ = decoded(body, ("gzip",), MOST_BYTES + 1)
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
