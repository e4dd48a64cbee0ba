"""Hosts as sources: lists of them, what is known of each, and a probe of those of which nothing is.

Know before you knock: Common Crawl's Host Index says which hosts refused it, or write other languages; these
cost no request. The others are asked in a random order, so that no network hears from us much at once (ZMap),
at one pace for all and a slower one for each /24; by whom and why says the User-Agent (RFC 9511).
"""

import asyncio
import hashlib
import re
import socket
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple
from urllib.parse import urljoin

import duckdb
import pyarrow as pa

from crawler.archives.packed import lines
from crawler.config import CrawlConfig, parse_network, product_token
from crawler.errors import NetworkForbidden, SeedError
from crawler.fetch.client import Answered, AskError, Client
from crawler.fetch.robots import Rules, interpret
from crawler.read.encoding import decode
from crawler.read.language import detect_language
from crawler.seeds.config import HostsConfig
from crawler.seeds.ledger import Ledger
from crawler.seeds.seed import LONGEST_SOURCE, Batch, Progress, Seed
from crawler.urls import address

_HOST = re.compile(r"(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)+[a-z0-9-]{2,63}", re.ASCII)
_RANGE = re.compile(r"[0-9A-Fa-f.:]+/\d+")
_RANKED = re.compile(r"(\d{1,12})[,;\t]\s*(\S+)")
# Names in a zone file that say where a host is; the others are of mail and keys.
_RECORDS = {"a", "aaaa", "ns", "cname"}
# Hosts that are read, given, and probed together.
_READ, _GIVEN, _PROBED = 50_000, 500, 100
# Of a list, lines after which one of no known form is given up.
_TRIED = 1000
# Addresses of one range: more is no list of hosts but a scan.
_MOST_ADDRESSES = 1 << 16
# Days that an answer to a probe holds.
_FRESH_SECONDS = 30 * 86400.0
# Seconds between two probes of one /24 or /48; bytes of a front page that are looked at; seconds of a probe.
_GROUP_SECONDS, _LOOKED_AT, _PATIENCE = 1.0, 1 << 18, 10.0
_AT_ONCE = 32
# Redirects of a robots.txt that are followed (RFC 9309, section 2.3.1.2).
_REDIRECTS = 5
# Networks whose last probe is remembered, before those that may be asked again are forgotten.
_REMEMBERED = 100_000
_FEED = re.compile(rb"""\btype=["']?application/(?:rss|atom)\+xml""", re.IGNORECASE)
_TAGS = re.compile(r"<[^<>]*>")
_TABLES = """
create table if not exists probed (
    host text primary key, at real, scheme text, robots integer, sitemaps integer, feed integer,
    language text, why text
) without rowid
"""
_KNOWN = """
create or replace temp table known (
    host text, rank10 double, place bigint, pages bigint, others double, reads bigint, walls bigint,
    refused bigint
)
"""
# What Common Crawl says of hosts that are listed, by a column that only one kind of its files has: the Host
# Index (a row a host and crawl), and ranks of its web graph. Columns are called as there.
_KINDS = {
    "surt_host_name": """
        select host, max(hcrank10) rank10, null place, sum(fetch_200) pages,
            sum(fetch_200 * fetch_200_lote_pct) / nullif(sum(fetch_200), 0) others,
            sum(robots_200 + robots_gone) reads, sum(robots_4xx + robots_5xx) walls,
            sum(fetch_4xx + fetch_5xx) refused
        from (
            select *, array_to_string(list_reverse(string_split(surt_host_name, ',')), '.') host
            from read_parquet($path)
        ) semi join listed using (host) group by host""",
    "host_rev": """
        select host, null rank10, harmonicc_pos place, 0 pages, null others, 0 reads, 0 walls, 0 refused
        from (
            select *, array_to_string(list_reverse(string_split(host_rev, '.')), '.') host
            from read_parquet($path)
        ) semi join listed using (host)""",
}
_LISTED = "create or replace temp table listed (host text, rank bigint, list integer)"
# A host's turn is a hash of its name, so that the order is random, and the same each time.
_ORDER = """
select host, coalesce(rank, place) rank, rank10, list,
    case when known.host is null or pages + walls + refused = 0 then 'unknown'
    when reads = 0 and walls > 0 or pages = 0 and refused >= 3 then 'refuses'
    when pages >= 5 and others > 80 and $english then 'language' else 'alive' end verdict, turn
from (select host, min(rank) rank, min(list) list, hash(host) turn from listed group by host)
left join (
    select host, max(rank10) rank10, min(place) place, sum(pages) pages,
        sum(pages * others) / nullif(sum(pages), 0) others, sum(reads) reads, sum(walls) walls,
        sum(refused) refused
    from known group by host
) known using (host)
where turn > $turn order by turn
"""


class Probe(NamedTuple):
    """What a host answered."""

    scheme: str
    """`https` or `http`; "" if nobody did."""
    robots: int
    """Status of its robots.txt."""
    sitemaps: int
    feed: int
    language: str
    why: str
    """Why it is no seed; "" if it is."""


def seeds_of_hosts(
    lists: Sequence[str],
    config: HostsConfig,
    crawl: CrawlConfig,
    languages: Sequence[str],
    spill: Path,
    ledger: Ledger,
    progress: Progress,
    clock: tuple[Callable[[], float], Callable[[float], Awaitable[object]]] = (time.monotonic, asyncio.sleep),
) -> Iterator[Batch]:
    """Seeds of the hosts in `lists`, or of ranges of addresses, in a random order that is the same each time.

    What of long lists memory does not hold is in the directory `spill` meanwhile. Raises SeedError for a list
    of no known form, or a range that may not be asked.
    """
    ledger.db.executescript(_TABLES)
    spill.mkdir(parents=True, exist_ok=True)
    crawl.check_user_agent()
    prober = _Prober(config, crawl, ledger, clock)
    with (
        TemporaryDirectory(prefix="hosts-", dir=spill) as own,
        closing(duckdb.connect(config={"temp_directory": own, "memory_limit": "500MB"})) as db,
    ):
        db.execute(_LISTED)
        for number, name in enumerate(lists):
            _list(db, number, name, crawl, progress)
        db.execute(_KNOWN)
        for path in config.known:
            _know(db, path)
        job = _job(lists, config, languages)
        now = time.time()
        turn, begun = ledger.position(job).split() or ("0", now)
        if config.probe and float(begun) < now - _FRESH_SECONDS:
            turn, begun = "0", now
        progress.unit = "hosts"
        [(progress.total,)] = db.execute("select count(distinct host) from listed").fetchall()
        sources = [f"hosts:{Path(name).name}"[:LONGEST_SOURCE] for name in lists]
        found = db.execute(_ORDER, {"english": tuple(languages) == ("en",), "turn": int(turn)})
        while rows := found.fetchmany(_PROBED if config.probe else _GIVEN):
            unknown = {row[0]: sources[row[3]] for row in rows if row[4] == "unknown" and config.probe}
            answers = prober.answers(unknown)
            yield Batch(*_judged(rows, sources, answers, languages, progress))
            progress.done += len(rows)
            ledger.settle(job, f"{rows[-1][-1]} {begun}")


def _job(lists: Sequence[str], config: HostsConfig, languages: Sequence[str]) -> str:
    """What is settled as one: these files as they are now, by what another DuckDB may hash otherwise."""
    paths = [*map(Path, lists), *config.known]
    files = [(str(path), *_identity(path)) for path in paths]
    whole = repr((duckdb.__version__, files, config.probe, *languages))
    return f"hosts {hashlib.sha256(whole.encode()).hexdigest()[:32]}"


def _identity(path: Path) -> tuple[int, int]:
    """Size and time of a file; of a range of addresses, none."""
    return (path.stat().st_size, path.stat().st_mtime_ns) if path.is_file() else (0, 0)


def _judged(
    rows: list[Any],
    sources: list[str],
    answers: dict[str, Probe],
    languages: Sequence[str],
    progress: Progress,
) -> tuple[list[Seed], dict[str, list[Any]]]:
    """Seeds of hosts that are alive, by what is known or what a probe says, and what that was."""
    seeds: list[Seed] = []
    facts: dict[str, list[Any]] = defaultdict(list)
    for host, rank, rank10, number, verdict, _ in rows:
        reason = "" if verdict in ("alive", "unknown") else verdict
        probe = answers.get(host, Probe("https", 0, 0, 0, "", reason))
        if why := probe.why or (
            "language" if probe.language and languages and probe.language not in languages else ""
        ):
            progress.dropped[why] += 1
            continue
        # Centrality, of 0 to 10, or the place in a list of all; of one that has none, a vote.
        prior = rank10 or (1.0 + 9.0 / rank**0.2 if rank else 1.0)
        seeds.append(Seed(f"{probe.scheme}://{host}/", float(prior), sources[number], 0.0))
        facts["known"].append(verdict)
        for name in ("robots", "sitemaps", "feed", "language"):
            facts[name].append(getattr(probe, name))
    return seeds, facts


def _know(db: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Bring what a file says of hosts into the table."""
    try:
        columns = {row[0] for row in db.execute("describe from read_parquet(?)", [str(path)]).fetchall()}
        kind = next((kind for kind in _KINDS if kind in columns), None)
        if not kind:
            raise SeedError(f"{path}: neither Common Crawl's Host Index nor ranks of its web graph")
        db.execute(f"insert into known by name {_KINDS[kind]}", {"path": str(path)})
    except duckdb.Error as error:
        raise SeedError(f"{path}: {' '.join(str(error).split())[:300]}") from error


def _list(
    db: duckdb.DuckDBPyConnection, number: int, name: str, crawl: CrawlConfig, progress: Progress
) -> None:
    """Bring the hosts of a list, or the addresses of a range, into the table."""
    hosts = iter(_range(name, crawl)) if _RANGE.fullmatch(name) else _hosts(Path(name), progress)
    while part := list(islice(hosts, _READ)):
        ranks = pa.array([rank for _, rank in part], pa.int64())
        db.register("batch", pa.table({"host": [host for host, _ in part], "rank": ranks}))
        db.execute("insert into listed select host, rank, ? from batch", [number])
        db.unregister("batch")


def _range(name: str, crawl: CrawlConfig) -> list[tuple[str, None]]:
    try:
        network = ip_network(name)
    except ValueError as error:
        raise SeedError(f"{name}: no range of addresses ({error})") from error
    allowed = [known for known, _ in map(parse_network, crawl.allowed_networks) if known is not None]
    if not any(known.version == network.version and _within(network, known) for known in allowed):
        raise SeedError(f"{name}: a range of addresses has to be in one that allowed_networks names")
    if network.num_addresses > _MOST_ADDRESSES:
        raise SeedError(
            f"{name}: {network.num_addresses:,} addresses; a range has at most {_MOST_ADDRESSES:,}"
        )
    return [(f"[{at}]" if network.version == 6 else str(at), None) for at in network.hosts()]


def _within(network: Any, known: IPv4Network | IPv6Network) -> bool:
    return bool(network.subnet_of(known))


def _hosts(path: Path, progress: Progress) -> Iterator[tuple[str, int | None]]:
    """Hosts of a list of any form: ranked (Tranco), ranks of a web graph, a zone, certificates, plain."""
    if not path.is_file():
        raise SeedError(f"{path}: no such file; a list of hosts is needed")
    found, reverse, at = 0, -1, 0
    for number, line in enumerate(lines(path, 0, lambda _: None)):
        text = line.decode("utf-8", "replace").strip().lower()
        if text.startswith("#") and "host_rev" in text:
            columns = [name.lstrip("#") for name in text.split("\t")]
            if "harmonicc_pos" not in columns:
                raise SeedError(f"{path}, line {number + 1}: ranks without a column harmonicc_pos")
            reverse, at = columns.index("host_rev"), columns.index("harmonicc_pos")
            continue
        if not text or text[0] in "#;$":
            continue
        progress.read += 1
        host, rank = _host_of(text, reverse, at)
        if host is None:
            progress.dropped["no_host"] += 1
            if not found and number >= _TRIED:
                break
            continue
        found += 1
        yield host, rank
    if not found:
        forms = "Tranco's CSV, Common Crawl's ranks, zone files, names of certificates, and a host a line"
        raise SeedError(f"{path}: none of its lines names a host; known are {forms}")


def _host_of(text: str, reverse: int, at: int) -> tuple[str | None, int | None]:
    rank = None
    if reverse >= 0:
        fields = text.split("\t")
        name = ".".join(reversed(fields[reverse].split("."))) if len(fields) > reverse else ""
        rank = int(fields[at]) if fields[at].isdigit() else None
    elif ranked := _RANKED.fullmatch(text):
        name, rank = ranked[2], int(ranked[1])
    else:
        name, *record = text.split()
        if record and not _RECORDS.intersection(record[:4]):
            return None, None
    name = name.removeprefix("*.").strip(".")
    found = address(f"http://{name}/") if _HOST.fullmatch(name) else None
    return (name, rank) if found else (None, None)


class _Prober:
    """Asks hosts, all at one pace and each network at a slower one."""

    def __init__(self, config: HostsConfig, crawl: CrawlConfig, ledger: Ledger, clock: Any) -> None:
        self._config, self._crawl, self._ledger = config, crawl, ledger
        self._now, self._sleep = clock
        about = f" (+{config.description})" if config.description else ""
        self._agent = (crawl.user_agent or "tinylm") + about
        self._token = product_token(crawl.user_agent)
        self._next_at = 0.0
        self._group_at: dict[str, float] = {}

    def answers(self, hosts: dict[str, str]) -> dict[str, Probe]:
        """What `hosts` (with their sources) answered, now or within the last 30 days."""
        answers: dict[str, Probe] = {}
        since = time.time() - _FRESH_SECONDS
        query = "select * from probed where host = ? and at > ?"
        for host in hosts:
            if row := self._ledger.db.execute(query, (host, since)).fetchone():
                answers[host] = Probe(*row[2:])
        if left := [host for host in hosts if host not in answers]:
            asyncio.run(self._ask_all(left, hosts, answers))
        return answers

    async def _ask_all(self, left: list[str], sources: dict[str, str], answers: dict[str, Probe]) -> None:
        slots = asyncio.Semaphore(_AT_ONCE)

        async def one(host: str) -> None:
            async with slots:
                answers[host] = answer = await _probe(
                    host, partial(self._ask, client, sources[host]), self._token
                )
                row = host, time.time(), *answer
                self._ledger.db.execute("insert or replace into probed values (?, ?, ?, ?, ?, ?, ?, ?)", row)

        async with Client(self._crawl) as client:
            await asyncio.gather(*map(one, left))

    async def _ask(self, client: Client, source: str, url: str) -> Answered:
        """Wait for the turn of all and of the network, and send one request."""
        async with asyncio.timeout(_PATIENCE):
            group = _network_of(await client.address_of(url))
        now = self._now()
        if len(self._group_at) > _REMEMBERED:
            self._group_at = {name: at for name, at in self._group_at.items() if at > now}
        at = max(now, self._next_at, self._group_at.get(group, 0.0))
        self._next_at = max(now, self._next_at) + 1 / self._config.rate
        self._group_at[group] = at + _GROUP_SECONDS
        await self._sleep(at - now)
        self._ledger.spend(source, "probes")
        headers = {"User-Agent": self._agent}
        return await client.get(url, headers=headers, most_bytes=_LOOKED_AT, timeout=_PATIENCE, cut=True)


def _network_of(address: str) -> str:
    """The /24 of an address, or the /48 of one of IPv6."""
    at = ip_address(address.strip("[]"))
    return str(ip_network(f"{at}/{24 if at.version == 4 else 48}", strict=False))


async def _probe(host: str, ask: Callable[[str], Awaitable[Answered]], token: str) -> Probe:
    """robots.txt by https, else by http; then the front page, if that allows it."""
    for scheme in ("https", "http"):
        try:
            answer = await _robots(f"{scheme}://{host}/robots.txt", ask)
        except NetworkForbidden:
            return Probe("", 0, 0, 0, "", "forbidden_network")
        except socket.gaierror:
            return Probe("", 0, 0, 0, "", "no_name")
        except (AskError, OSError):
            continue
        # Beyond the last redirect nobody looks: there are no rules then (RFC 9309).
        text = interpret(answer.status, answer.body) if not 300 <= answer.status < 400 else ""
        rules = Rules(text or "", token)
        sitemaps = len(rules.sitemaps(answer.url))
        if text is None or not rules.allow(f"{scheme}://{host}/"):
            return Probe(scheme, answer.status, sitemaps, 0, "", "refuses")
        try:
            page = await ask(f"{scheme}://{host}/")
        except NetworkForbidden:
            return Probe(scheme, answer.status, sitemaps, 0, "", "forbidden_network")
        except (AskError, OSError):
            return Probe(scheme, answer.status, sitemaps, 0, "", "dead")
        if page.status >= 400:
            return Probe(scheme, answer.status, sitemaps, 0, "", f"status_{page.status}")
        html, _ = decode(page.body, page.headers.get("Content-Type", ""))
        language = detect_language(_TAGS.sub(" ", html))[0] if html.strip() else ""
        return Probe(scheme, answer.status, sitemaps, int(bool(_FEED.search(page.body))), language, "")
    return Probe("", 0, 0, 0, "", "dead")


async def _robots(url: str, ask: Callable[[str], Awaitable[Answered]]) -> Answered:
    """The answer at the end of its redirects, each of which waits for its turn."""
    answer = await ask(url)
    for _ in range(_REDIRECTS):
        if not (300 <= answer.status < 400 and (location := answer.headers.get("Location"))):
            break
        answer = await ask(urljoin(answer.url, location))
    return answer
