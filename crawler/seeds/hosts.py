"""Hosts as sources: lists of them, what is known of each, and a probe of those of which nothing is.

Know before you knock: Common Crawl's Host Index says which hosts refused it, or write other languages; these
cost no request. The others are asked in a random order, so that no network hears from us much at once (ZMap),
at one pace for all and a slower one for each /24; by whom and why says the User-Agent (RFC 9511).
"""

import asyncio
import re
import socket
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import closing
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import duckdb
import pyarrow as pa

from crawler.archives.packed import lines
from crawler.config import CrawlConfig, parse_network, product_token
from crawler.errors import NetworkForbidden, SeedError
from crawler.fetch.client import AskError, Client
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
_READ, _GIVEN = 50_000, 500
# Of a list, lines after which one of no known form is given up.
_TRIED = 1000
# Addresses of one range: more is no list of hosts but a scan.
_MOST_ADDRESSES = 1 << 16
# Days that an answer to a probe holds.
_FRESH_SECONDS = 30 * 86400.0
# Seconds between two probes of one /24 or /48; bytes of a front page that are looked at; seconds of a probe.
_GROUP_SECONDS, _LOOKED_AT, _PATIENCE = 1.0, 1 << 18, 10.0
_AT_ONCE = 32
_FEED = re.compile(rb"""\btype=["']?application/(?:rss|atom)\+xml""", re.IGNORECASE)
_TAGS = re.compile(r"<[^<>]*>")
_TABLES = """
create table if not exists probed (
    host text primary key, at real, scheme text, robots integer, sitemaps integer, feed integer,
    language text, why text
) without rowid
"""
# What the Host Index (a row a host and crawl) says of each host that is listed.
_KNOWN = """
create or replace temp table known as
select array_to_string(list_reverse(string_split(surt_host_name, ',')), '.') host, max(hcrank10) rank10,
       sum(fetch_200) pages, sum(fetch_200 * fetch_200_lote_pct) / nullif(sum(fetch_200), 0) others,
       sum(robots_200 + robots_gone) reads, sum(robots_4xx + robots_5xx) walls,
       sum(fetch_4xx + fetch_5xx) refused
from read_parquet(?, union_by_name = true) group by surt_host_name
"""
_LISTED = "create or replace temp table listed (host text, rank bigint)"
_NOTHING_KNOWN = """
create or replace temp table known
(host text, rank10 double, pages int, others double, reads int, walls int, refused int)
"""
# A host's turn is a hash of its name, so that the order is random, and the same each time.
_ORDER = """
select host, rank, rank10, case when known.host is null or pages + walls + refused = 0 then 'unknown'
    when reads = 0 and walls > 0 or pages = 0 and refused >= 3 then 'refuses'
    when pages >= 5 and others > 80 and ? then 'language' else 'alive' end verdict, turn
from (select host, min(rank) rank, hash(host) turn from listed group by host) left join known using (host)
where turn > ? order by turn
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
    with (
        TemporaryDirectory(prefix="hosts-", dir=spill) as own,
        closing(duckdb.connect(config={"temp_directory": own, "memory_limit": "500MB"})) as db,
    ):
        db.execute(_LISTED)
        for name in lists:
            _list(db, name, crawl, progress)
        # Another DuckDB may hash otherwise.
        job = f"hosts {duckdb.__version__} {config.probe} {' '.join(sorted(lists))}"
        position = ledger.position(job)
        progress.unit = "hosts"
        [(total,)] = db.execute("select count(distinct host) from listed").fetchall()
        progress.total = total
        if config.known:
            db.execute(_KNOWN, [[str(path) for path in config.known]])
        else:
            db.execute(_NOTHING_KNOWN)
        source = f"hosts:{Path(lists[0]).name}"[:LONGEST_SOURCE]
        found = db.execute(_ORDER, [tuple(languages) == ("en",), int(position or 0)])
        while rows := found.fetchmany(_GIVEN):
            yield Batch(*_judged(rows, source, config, crawl, languages, ledger, progress, clock))
            progress.done += len(rows)
            ledger.settle(job, str(rows[-1][-1]))


def _judged(
    rows: list[Any],
    source: str,
    config: HostsConfig,
    crawl: CrawlConfig,
    languages: Sequence[str],
    ledger: Ledger,
    progress: Progress,
    clock: Any,
) -> tuple[list[Seed], dict[str, list[Any]]]:
    """Seeds of hosts that are alive, by what is known or what a probe says, and what that was."""
    unknown = [host for host, _, _, verdict, _ in rows if verdict == "unknown" and config.probe]
    answers = _probed(unknown, source, config, crawl, ledger, clock)
    seeds: list[Seed] = []
    facts: dict[str, list[Any]] = defaultdict(list)
    for host, rank, rank10, verdict, _ in rows:
        reason = "" if verdict in ("alive", "unknown") else verdict
        probe = answers.get(host, Probe("https", 0, 0, 0, "", reason))
        if why := probe.why or (
            "language" if probe.language and languages and probe.language not in languages else ""
        ):
            progress.dropped[why] += 1
            continue
        # Centrality, of 0 to 10, or the place in a list of all; of one that has none, a vote.
        prior = rank10 or (1.0 + 9.0 / rank**0.2 if rank else 1.0)
        seeds.append(Seed(f"{probe.scheme}://{host}/", float(prior), source, 0.0))
        facts["known"].append(verdict)
        for name in ("robots", "sitemaps", "feed", "language"):
            facts[name].append(getattr(probe, name))
    return seeds, facts


def _list(db: duckdb.DuckDBPyConnection, name: str, crawl: CrawlConfig, progress: Progress) -> None:
    """Bring the hosts of a list, or the addresses of a range, into the table, each with its turn."""
    hosts = iter(_range(name, crawl)) if _RANGE.fullmatch(name) else _hosts(Path(name), progress)
    while part := list(islice(hosts, _READ)):
        ranks = pa.array([rank for _, rank in part], pa.int64())
        db.register("batch", pa.table({"host": [host for host, _ in part], "rank": ranks}))
        db.execute("insert into listed select * from batch")
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


def _probed(
    hosts: list[str], source: str, config: HostsConfig, crawl: CrawlConfig, ledger: Ledger, clock: Any
) -> dict[str, Probe]:
    """What hosts answered, now or within the last 30 days."""
    answers: dict[str, Probe] = {}
    since = time.time() - _FRESH_SECONDS
    for host in hosts:
        row = ledger.db.execute("select * from probed where host = ? and at > ?", (host, since)).fetchone()
        if row:
            answers[host] = Probe(*row[2:])
    left = [host for host in hosts if host not in answers]
    if left:
        asyncio.run(_probe_all(left, source, config, crawl, ledger, answers, clock))
    return answers


async def _probe_all(
    hosts: list[str],
    source: str,
    config: HostsConfig,
    crawl: CrawlConfig,
    ledger: Ledger,
    answers: dict[str, Probe],
    clock: Any,
) -> None:
    now, sleep = clock
    agent = crawl.user_agent + (f" (+{config.description})" if config.description else "")
    next_at, group_at = now(), defaultdict[str, float](float)
    slots = asyncio.Semaphore(_AT_ONCE)

    async with Client(crawl) as client:

        async def ask(url: str) -> Any:
            """Wait for the turn of all and of the network, and send one request."""
            nonlocal next_at
            async with asyncio.timeout(_PATIENCE):
                group = _network_of(await client.address_of(url))
            at = max(now(), next_at, group_at[group])
            next_at, group_at[group] = max(now(), next_at) + 1 / config.rate, at + _GROUP_SECONDS
            await sleep(at - now())
            ledger.spend(source, "probes")
            headers = {"User-Agent": agent or "tinylm"}
            return await client.get(url, headers=headers, most_bytes=_LOOKED_AT, timeout=_PATIENCE, cut=True)

        async def one(host: str) -> None:
            async with slots:
                answers[host] = answer = await _probe(host, ask, product_token(crawl.user_agent))
                row = host, time.time(), *answer
                ledger.db.execute("insert or replace into probed values (?, ?, ?, ?, ?, ?, ?, ?)", row)

        await asyncio.gather(*map(one, hosts))


def _network_of(address: str) -> str:
    """The /24 of an address, or the /48 of one of IPv6."""
    at = ip_address(address.strip("[]"))
    return str(ip_network(f"{at}/{24 if at.version == 4 else 48}", strict=False))


async def _probe(host: str, ask: Callable[[str], Awaitable[Any]], token: str) -> Probe:
    """robots.txt by https, else by http; then the front page, if that allows it."""
    for scheme in ("https", "http"):
        try:
            answer = await ask(f"{scheme}://{host}/robots.txt")
        except NetworkForbidden:
            return Probe("", 0, 0, 0, "", "forbidden_network")
        except socket.gaierror:
            return Probe("", 0, 0, 0, "", "no_name")
        except (AskError, OSError):
            continue
        text = interpret(answer.status, answer.body) if not 300 <= answer.status < 400 else ""
        rules = Rules(text or "", token)
        sitemaps = len(rules.sitemaps(answer.url))
        if text is None or not rules.allow(f"{scheme}://{host}/"):
            return Probe(scheme, answer.status, sitemaps, 0, "", "refuses")
        try:
            page = await ask(f"{scheme}://{host}/")
        except (AskError, OSError):
            return Probe(scheme, answer.status, sitemaps, 0, "", "dead")
        if page.status >= 400:
            return Probe(scheme, answer.status, sitemaps, 0, "", f"status_{page.status}")
        html, _ = decode(page.body, page.headers.get("Content-Type", ""))
        language = detect_language(_TAGS.sub(" ", html))[0] if html.strip() else ""
        return Probe(scheme, answer.status, sitemaps, int(bool(_FEED.search(page.body))), language, "")
    return Probe("", 0, 0, 0, "", "dead")
