"""Settings of the crawl: where it is kept, how hosts are treated, when it stops."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from cyclopts import Parameter

from tinylm.config import listed, require, require_positive, require_within
from tinylm.errors import ConfigError
from tinylm.terminal import entered

_CONTACT = re.compile(r"https?://\S+|\S+@\S+")
# Names in the User-Agent of browsers, and of crawlers that pass for one.
_BROWSERS = re.compile(
    "mozilla|compatible|applewebkit|khtml|gecko|chrome|chromium|headlesschrome|safari|mobile|version|firefox|edge|edg|"
    "opr|opera|presto|trident|msie|build",
    re.IGNORECASE,
)
_PRODUCTS = re.compile(r"[^\s();,]+")
_COMPATIBLE = re.compile(r"\bcompatible[;,]\s*([^\s();,]+)", re.IGNORECASE)
# RFC 9309 has letters, `_` and `-` only; crawlers have digits and dots too, and sites name them so.
_TOKEN = re.compile(r"[\w.-]*[a-z_][\w.-]*", re.ASCII | re.IGNORECASE)
_MEMORY = re.compile(r"(?i)\d+([kmg]b?|b)?")
_CRAWL_ID = re.compile(r"[A-Za-z0-9_.-]+")
_HIGHEST_PORT = 65535
_SERVERS = ("redis", "rediss", "unix", "redis+cluster")
# Of http and https, and customary beside them. With more, pages could make a scanner of ports of the crawl;
# one more is allowed by "public:PORT".
_WEB_PORTS = (80, 443, 8080, 8443)
# Of what is measured (seconds, hours, gigabytes): 31 years of seconds. The server counts in milliseconds,
# which far beyond would be no whole ones.
_MOST = 1e9
# Of pages: as many as the frontier's scripts can count without a fraction.
_MOST_PAGES = 10**15
_MOST_AT_ONCE = 10_000
# Seconds of a lease that are left when its page has been extracted or given up: for its end to be said.
EXTRACTION_MARGIN = 5.0
# And 10 more: for the first second of an extraction, the end of its child and the start of another.
_LEASE_MARGIN = 10.0 + EXTRACTION_MARGIN


def parse_network(entry: str) -> tuple[IPv4Network | IPv6Network | None, Sequence[int]]:
    """The addresses (None: all public ones) and ports that an entry of `allowed_networks` stands for.

    It is "public" or CIDR, with :PORT or :PORT-PORT behind it or without; a CIDR without has all ports,
    "public" those of the web. Raises ConfigError if it is neither.
    """
    if entry == "public":
        return None, _WEB_PORTS
    text, colon, ports = entry.rpartition(":")
    if not colon or "/" in ports:
        text, ports = entry, f"1-{_HIGHEST_PORT}"
    try:
        network = None if text == "public" else ip_network(text)
        first, dash, last = ports.partition("-")
        lowest, highest = _port(first), _port(last if dash else first)
    except ValueError:
        lowest, highest = 1, 0
    if lowest > highest:
        raise ConfigError(
            f"allowed_networks: {entry!r} is neither public[:PORT[-PORT]] nor CIDR[:PORT[-PORT]]"
        )
    return network, range(lowest, highest + 1)


def parse_address(entry: str) -> tuple[str, tuple[str, int]]:
    """The name, and the address and port that an entry HOST=ADDRESS:PORT of `resolve` gives it.

    Raises ConfigError if it is none.
    """
    host, _, target = entry.partition("=")
    address, _, port = target.rpartition(":")
    try:
        numeric = ip_address(address[1:-1] if address.startswith("[") and address.endswith("]") else address)
        found = str(numeric), _port(port)
    except ValueError:
        host, found = "", ("", 0)
    if not host:
        raise ConfigError(f"resolve: {entry!r} is not HOST=ADDRESS:PORT, such as a.example=192.0.2.1:80")
    return host.lower(), found


def parse_own(setting: str, entry: str, most: float) -> str:
    """An entry HOST=NUMBER of `setting`, with the host as in URLs; `*.` before it: and of all below it.

    Raises ConfigError if it is none, or the number is not from 0 to `most`.
    """
    from crawler.urls import canonicalize  # when it is first needed: its parser takes 30 ms to load

    name, _, number = entry.rpartition("=")
    below = "*." if name.startswith("*.") else ""
    host = (canonicalize(f"http://{name.removeprefix('*.')}/") or "")[len("http://") : -1]
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    whole = setting == "pages_of"
    within = 0 <= value <= most and (value.is_integer() or not whole)
    if not host or re.search(r"[/\\@?#\s]|:[0-9]*$", name) or not within:
        kind = "whole number" if whole else "number"
        raise ConfigError(
            f"{setting}: {entry!r} is not HOST=NUMBER or *.HOST=NUMBER, with a {kind} from 0 to {most:g}, "
            "such as docs.example.org=5"
        )
    return f"{below}{host}={value:.15g}"


def own(entries: Iterable[str], host: str) -> float | None:
    """What `host` has of its own, by the entry of `parse_own` that names it most closely."""
    given = dict(entry.rsplit("=", 1) for entry in entries)
    labels = host.split(".")
    names = [host, *(f"*.{'.'.join(labels[start:])}" for start in range(len(labels)))]
    return next((float(given[name]) for name in names if name in given), None)


def _port(text: str) -> int:
    """A port's number; raises ValueError if it is none: `int` takes signs, blanks and the world's digits."""
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= _HIGHEST_PORT):
        raise ValueError(text)
    return int(text)


def product_token(user_agent: str) -> str:
    """The name by which robots.txt, headers and pages address a crawler; "*" if none can be told.

    Of a User-Agent that begins as browsers' do it is what follows `compatible;`, or else the one name with a
    version that is no browser's; of any other the first word, without its version.
    """
    words: list[str] = _PRODUCTS.findall(user_agent)
    versioned = [word for word in words if "/" in word]
    for named in (words[:1], _COMPATIBLE.findall(user_agent), versioned):
        names = {word.partition("/")[0] for word in named}
        found = [name for name in names if _TOKEN.fullmatch(name) and not _BROWSERS.fullmatch(name)]
        if len(found) == 1:
            return found[0]
    return "*"


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class CrawlPlace:
    """Where a crawl is: all that who looks at one, or tells it something, has to say."""

    redis_url: str = ""
    """Server to use, such as redis://host:6379/0, unix:///path or, of a cluster, redis+cluster://host:6379;
    empty starts the embedded one in `data`."""
    data: Path = Path("runs/crawl")
    """Directory of this crawl: the embedded server's files, the shards, the logs."""
    crawl_id: str = "main"
    """Name of the crawl: several can share a server."""
    partitions: int = 1
    """Hash-tagged partitions of the frontier; more only for Redis Cluster. Fixed once a crawl has begun."""

    def __post_init__(self) -> None:
        require(self, "crawl_id", bool(_CRAWL_ID.fullmatch(self.crawl_id)), "letters, digits and _ . - only")
        try:
            parts = urlsplit(self.redis_url)
            is_server = not self.redis_url or (parts.scheme in _SERVERS and parts.port != 0)
        except ValueError:
            is_server = False
        # It becomes part of a URL, and of a file of settings.
        require(self, "data", entered(str(self.data)) == str(self.data), "a path whose bytes are UTF-8")
        rule = f"a URL that begins with {', '.join(f'{scheme}://' for scheme in _SERVERS)}, or empty"
        require(self, "redis_url", is_server, rule)
        require_within(self, 1, 4096, "partitions")

    @property
    def shards(self) -> Path:
        """Where the corpus goes."""
        return self.data / "shards"


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class FrontierConfig(CrawlPlace):
    """Where the crawl's state is kept, and the rules every worker shares."""

    delay: float = 1.0
    """Seconds between the end of one request to a host and the start of the next, by all workers together."""
    delay_of: tuple[str, ...] = ()
    """HOST=SECONDS, a host's own delay; *.HOST=SECONDS, of all below it too. A Crawl-delay may be longer."""
    latency_factor: float = 5.0
    """A host also rests this many times as long as it took to answer (Heritrix)."""
    longest_delay: float = 30.0
    """Seconds that the latency may add at most; Crawl-delay and Retry-After are obeyed beyond it."""
    backoff: float = 60.0
    """Seconds a host rests after a bare 429, 503 or a failed connection; doubles each time."""
    pages_per_host: int = 10_000
    """Most fetches of one host: of one that was chosen as a seed, or whose domain many others refer to."""
    pages_per_domain: int = 100_000
    """Most fetches of all hosts of one registrable domain, if one was chosen or many others refer to it."""
    pages_per_found_host: int = 1000
    """Fetches of a host, or of a domain, that nobody chose and nobody else refers to (IRLbot's STAR)."""
    pages_per_referring_domain: int = 100
    """And more for each other domain that refers to its domain."""
    pages_of: tuple[str, ...] = ()
    """HOST=PAGES, most fetches of a host, whoever refers to it; *.HOST=PAGES, of each below it too."""
    hosts_per_domain: int = 1000
    """Most hosts of a registrable domain that are known at a time; links to others are counted and left."""
    domain_concurrency: int = 4
    """Hosts of a registrable domain that are asked at a time, and requests to them within one `delay`."""
    recrawl_days: float = 0.0
    """Fetch a page again after so many days, sooner if it changes, later if not; 0: never."""
    hot_per_host: int = 48
    """URLs of a host that the server compares; what promises less waits in lists, or on the walker's disk."""
    scope: Literal["any", "domains", "hosts", "prefix"] = "any"
    """What is followed: any link, or those that stay in the seeds' domains, hosts, or folders."""
    include: tuple[str, ...] = ()
    """Of these only what a pattern matches: HOST/PATH, *.HOST/PATH, /PATH or *; * is any characters."""
    exclude: tuple[str, ...] = ()
    """Of these nothing that one of such patterns matches."""
    spill: bool = True
    """Whether the walker takes what waits to disk, to bound the server's memory."""
    attempts: int = 3
    """Failures after which a URL is a dead letter."""
    lease_seconds: float = 120.0
    """Time a worker has to finish a URL before another may take it; well above its two timeouts."""
    exploration: float = 0.05
    """Share of leases drawn at random, with their propensity logged, so that the policy keeps learning."""
    backlog: int = 20_000
    """Pages not yet in a shard at which workers pause; half of it commits a shard."""
    memory: str = "1gb"
    """Memory limit of the embedded server: at it, new URLs are refused and the rest drains."""

    def __post_init__(self) -> None:
        CrawlPlace.__post_init__(self)  # by its name: a class with slots is made twice
        require(self, "memory", bool(_MEMORY.fullmatch(self.memory)), "bytes, or a number with kb, mb or gb")
        require_within(self, 0, 1, "exploration")
        require(self, "exploration", 0 <= self.exploration < 1, "a share from 0 to below 1")
        budgets = "pages_per_host", "pages_per_domain", "pages_per_found_host", "hosts_per_domain"
        require_within(self, 1, _MOST_PAGES, "attempts", "backlog", "domain_concurrency", *budgets)
        require_within(self, 0, _MOST_PAGES, "pages_per_referring_domain")
        require_within(self, 0, _MOST, "delay", "latency_factor", "longest_delay", "backoff", "recrawl_days")
        require_within(self, 5, _MOST, "lease_seconds")
        for name, most in (("delay_of", _MOST), ("pages_of", _MOST_PAGES)):
            entries = tuple(parse_own(name, entry, most) for entry in listed(getattr(self, name)))
            object.__setattr__(self, name, entries)
        for name in ("include", "exclude"):
            object.__setattr__(self, name, listed(getattr(self, name)))
        if (self.scope, self.include, self.exclude) != ("any", (), ()):
            from crawler.scope import scope_of  # it needs the parser of URLs, as `parse_own`

            scope_of(self.scope, self.include, self.exclude)
        require_within(self, 1, 128, "hot_per_host")  # a listpack


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class CrawlConfig:
    """What may be fetched, how, and when to stop."""

    user_agent: str = ""
    """Sent to servers: a name, by which robots.txt may address the crawler, and a contact, such as
    "mylab-crawler/1.0 (+https://lab.example/crawler)"."""
    pages: int = 10_000
    """Stop after this many fetches; robots.txt, redirects and errors count."""
    failed_connections: int = 100_000
    """Stop after so many hosts to which no connection could be made; names without address are such."""
    gigabytes: float = 10.0
    """Stop after this much was downloaded."""
    hours: float = 12.0
    """Stop after this long."""
    disk_reserve_gigabytes: float = 5.0
    """Stop when less than this is free where the crawl is kept."""
    allowed_networks: tuple[str, ...] = ("public",)
    """Networks that may be contacted: public[:PORT[-PORT]] (else the web's ports) and CIDR[:PORT[-PORT]]."""
    resolve: tuple[str, ...] = ()
    """HOST=ADDRESS:PORT, looked up before DNS."""
    workers: int = 2
    """Worker processes that `tinylm crawl` starts."""
    concurrency: int = 16
    """Requests in flight in one worker."""
    extractors: int = 1
    """Extraction processes of one worker."""
    ip_concurrency: int = 4
    """Most connections of all workers to one IPv4 address or IPv6 /64 at a time; 0 for any number."""
    ip_delay: float = 0.1
    """Seconds between the starts of two requests to one of these, whatever their hosts."""
    timeout: float = 30.0
    """Seconds a response may take, from the name's lookup to the last byte."""
    extract_timeout: float = 10.0
    """Seconds the extraction of one page may take."""
    prescreen: bool = True
    """Extract only pages whose fast text says they may be worth it; the others are counted as `pre_…`."""
    megabytes_per_page: float = 4.0
    """Larger bodies are given up; of a sitemap or feed up to 10.5 are read."""
    warc: bool = False
    """Keep every exchange with a server as WARC files too, in `data`/warc, for replay."""
    deepest: int = 30
    """Links from a seed beyond which nothing is followed."""

    def __post_init__(self) -> None:
        require_within(self, 1, _MOST_PAGES, "pages", "failed_connections")
        require_within(self, 1, _MOST_AT_ONCE, "workers", "concurrency", "extractors")
        require_within(self, 0, _MOST, "disk_reserve_gigabytes", "deepest", "ip_concurrency", "ip_delay")
        above = "gigabytes", "hours", "megabytes_per_page", "timeout", "extract_timeout"
        require_within(self, 0, _MOST, *above)
        require_positive(self, *above)
        agent_rule = "what can be sent in a header: one line, without control characters"
        require(self, "user_agent", self.user_agent.isprintable(), agent_rule)
        for name in ("allowed_networks", "resolve"):
            object.__setattr__(self, name, listed(getattr(self, name)))
        for entry in self.allowed_networks:
            parse_network(entry)
        for entry in self.resolve:
            parse_address(entry)

    def check_user_agent(self) -> None:
        """Check that `user_agent` has a name and a contact; needed unless only loopback may be contacted.

        Raises ConfigError.
        """
        networks = [parse_network(entry)[0] for entry in self.allowed_networks]
        loopback = all(network is not None and network.is_loopback for network in networks)
        rule = (
            'a crawl of other people\'s servers needs a contact in it: "NAME (+https://…)" or "NAME (you@…)"'
        )
        require(self, "user_agent", loopback or bool(_CONTACT.search(self.user_agent)), rule)
        rule = (
            "robots.txt could address the crawler by no name in it: "
            'write "NAME/1.0 (+https://…)" or "Mozilla/5.0 (compatible; NAME/1.0; +https://…)"'
        )
        require(self, "user_agent", loopback or product_token(self.user_agent) != "*", rule)

    def check_lease(self, lease_seconds: float) -> None:
        """Raise ConfigError if a lease could run out while its request is out: that would go out twice."""
        least = self.timeout + self.extract_timeout + _LEASE_MARGIN
        if lease_seconds <= least:
            raise ConfigError(
                f"lease_seconds = {lease_seconds!r}: must be above {least:g}: timeout = {self.timeout:g}, "
                f"extract_timeout = {self.extract_timeout:g} and {_LEASE_MARGIN:g} more"
            )
