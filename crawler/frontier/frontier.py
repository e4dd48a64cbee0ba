"""`Frontier`: the verbs of a crawl over one Redis (>= 7) or Valkey server.

The verbs are URLFrontier's, persisted: put, lease, ack, nack, skip, reap. A crawl has S partitions, each
under its own hash tag; a host lives in one of them. A call costs one round trip a partition, whatever
the batch.
"""

import hashlib
import json
import logging
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from crawler.config import FrontierConfig
from crawler.errors import FrontierError, FrontierFull, LeaseLost, ServerError
from crawler.page import Page
from crawler.seeds import Seed
from crawler.urls import fingerprint, locate, url_at

STATE_VERSION = 1
_SEEN_SHARDS = 1 << 16
_RECONNECT_SECONDS = 20.0
_LOST_SECONDS = 2.0
_PUSH_BATCH = 500
_REAP_BATCH = 1000
_SEED_BATCH = 1000
_UNKNOWN_HOST_INDEX = 0.3

log = logging.getLogger(__name__)
T = TypeVar("T")
Client = Any
"""A `redis.Redis`; its type hints cannot say that replies are bytes."""


class Discovered(NamedTuple):
    """A URL somebody links to, and what the policy expects of it."""

    url: str
    """Canonical."""
    promise: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right and the duty to fetch one URL before `deadline`."""

    token: int
    partition: int
    host: str
    url: str
    kind: str
    """`page`, or `robots` for the host's robots.txt."""
    promise: float
    propensity: float
    attempt: int
    robots_until: int
    """Identifies the host's robots rules in force (server milliseconds)."""
    deadline: float
    """On this process's monotonic clock."""
    fetch_no: int = 1
    etag: str = ""
    """Validators of the fetch before this one, for a conditional request."""
    last_modified: str = ""

    @property
    def key(self) -> tuple[int, int]:
        """Of this lease alone: each partition counts its tokens."""
        return self.partition, self.token


class Entry(NamedTuple):
    """One entry of the stream to the walker."""

    partition: str
    id: str
    content: Page | list[Seed]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When the whole crawl stops, shared by all workers."""

    pages: int
    bytes: int
    until: float
    """Epoch seconds."""


@cache
def _source(name: str) -> str:
    folder = Path(__file__).parent / "lua"
    shebang, body = (folder / f"{name}.lua").read_text().split("\n", 1)
    return f"{shebang}\n{(folder / 'common.lua').read_text()}\n{body}"


def connect(url: str) -> Client:
    """A client without silent retries: the frontier must notice when the server was restarted."""
    return redis.Redis.from_url(url, retry=Retry(NoBackoff(), 0), health_check_interval=0)


class Frontier:
    """One crawl's frontier.

    Raises ServerError if the server does not answer or is too old, FrontierError if the crawl on it was begun
    with other partitions or by another version of tinylm.
    """

    def __init__(self, client: Client, config: FrontierConfig) -> None:
        self._client = client
        self._config = config
        self._scripts = {
            name: client.register_script(_source(name))
            for name in (
                "push",
                "lease",
                "ack",
                "nack",
                "skip",
                "reap",
                "steer",
                "wake",
                "open",
                "note",
                "defer",
                "hold_ip",
                "release_ip",
            )
        }
        self._random = random.Random()
        self.prefixes = [f"tinylm:{{{config.crawl_id}/{s}}}:" for s in range(config.partitions)]
        self._attempt(self._open)

    # Connection

    def _open(self) -> None:
        info = self._client.info("server")
        version = str(info.get("valkey_version", info["redis_version"]))
        if int(version.split(".")[0]) < 7:
            raise ServerError(f"the server is version {version}; Redis >= 7 or Valkey is needed")
        for name, value in (("version", STATE_VERSION), ("partitions", self._config.partitions)):
            stored = int(self._scripts["open"]([self.prefixes[0]], [name, value]))
            if stored != value:
                raise FrontierError(
                    f"crawl {self._config.crawl_id!r} has {name} {stored}, not {value}: "
                    "use what it was begun with, or another crawl_id"
                )

    def _attempt(self, action: Callable[[], T]) -> T:
        """Do `action`; wait for a server that went away, then do it again."""
        give_up = time.monotonic() + _RECONNECT_SECONDS
        while True:
            try:
                return action()
            except redis.exceptions.OutOfMemoryError as error:
                raise FrontierFull("the frontier's server is at its memory limit; it drains first") from error
            except (redis.ConnectionError, redis.TimeoutError) as error:
                if time.monotonic() > give_up:
                    raise ServerError(f"the frontier's server does not answer: {error}") from error
                log.warning("the frontier's server is away: %s", error)
                time.sleep(0.2)
            except redis.ResponseError as error:
                raise ServerError(f"the frontier's server refuses: {error}") from error

    def _run(self, script: str, partition: int, *args: Any) -> Any:
        return self._attempt(lambda: self._scripts[script]([self.prefixes[partition]], args))

    def _partition(self, host: str) -> int:
        digest = hashlib.blake2b(host.encode(), digest_size=4).digest()
        return int.from_bytes(digest, "big") % self._config.partitions

    # URLs

    def put(self, discovered: Iterable[Discovered]) -> int:
        """Add URLs, or give a queued one its new promise; returns how many were new.

        Raises FrontierFull if the server is at its memory limit, FrontierError if a promise is no number.
        """
        batches: dict[int, list[Any]] = {}
        for url, promise in discovered:
            if not math.isfinite(promise):
                raise FrontierError(f"{url}: its promise is {promise}, not a number to compare by")
            host, member = locate(url)
            shard, low = divmod(fingerprint(url), 1 << 32)
            batches.setdefault(self._partition(host), []).extend(
                (host, member, f"{promise:.6g}", shard % _SEEN_SHARDS, low)
            )
        new = 0
        for partition, arguments in batches.items():
            for start in range(0, len(arguments), 5 * _PUSH_BATCH):
                chunk = arguments[start : start + 5 * _PUSH_BATCH]
                new += sum(self._run("push", partition, _UNKNOWN_HOST_INDEX, *chunk))
        return new

    def lease(self, n: int) -> list[Lease]:
        """Up to `n` URLs of different hosts, best first, none of a host that must rest.

        Fewer, or none, when nothing is ready, when the limits are reached, or when the walker lags.
        """
        n = min(n, self._remaining())
        leases: list[Lease] = []
        first = self._random.randrange(self._config.partitions)
        for step in range(self._config.partitions):
            if len(leases) >= n:
                break
            leases += self._lease_from((first + step) % self._config.partitions, n - len(leases))
        return leases

    def _lease_from(self, partition: int, n: int) -> list[Lease]:
        config = self._config
        asked = time.monotonic()
        found = self._run(
            "lease",
            partition,
            n,
            _ms(config.lease_seconds),
            config.exploration,
            config.pages_per_host,
            max(1, config.backlog // config.partitions),
            self._random.getrandbits(31),
            _ms(config.delay),
            _ms(_LOST_SECONDS),
        )
        return [
            Lease(
                token=lease["token"],
                partition=partition,
                host=lease["host"],
                url=url_at(lease["host"], lease["member"]),
                kind=lease["kind"],
                promise=float(lease["promise"]),
                propensity=lease["propensity"],
                attempt=lease["attempt"],
                robots_until=lease["robots_until"],
                deadline=asked + config.lease_seconds,
            )
            for lease in map(json.loads, found)
        ]

    def ack(self, lease: Lease, page: Page, *, latency: float, size: int) -> None:
        """The page was fetched: it goes to the walker and the host rests. Raises LeaseLost."""
        self._finish("ack", lease, _ms(self._rest(latency)), size, page.to_bytes())

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
        self._finish("ack", lease, _ms(self._rest(latency)), size, body, rules, _ms(valid), _ms(crawl_delay))

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
        base = _ms(config.backoff) if back_off else 0
        asked = max(1, _ms(retry_at - time.time())) if retry_at else 0
        rest = _ms(self._rest(latency))
        self._finish("nack", lease, reason, rest, asked, base, config.attempts, int(sent), size)

    def skip(self, lease: Lease, reason: str) -> None:
        """Not wanted, and no request was sent: the URL is done with. Raises LeaseLost.

        Skipping a host's robots.txt does away with all that the host has queued.
        """
        self._finish("skip", lease, reason)

    def give_back(self, lease: Lease) -> None:
        """Not begun: the URL returns to its queue as it was. Raises LeaseLost."""
        self._finish("skip", lease, "")

    def _finish(self, script: str, lease: Lease, *args: Any) -> None:
        if not self._run(script, lease.partition, lease.token, *args):
            raise LeaseLost(f"{lease.url}: lease {lease.token} is no longer ours")

    def reap(self) -> int:
        """Return the URLs of expired leases to their queues; returns how many there were."""
        config = self._config
        return sum(
            self._run("reap", s, _ms(config.delay), config.attempts, _REAP_BATCH)
            for s in range(config.partitions)
        )

    @property
    def crawl_id(self) -> str:
        """Name of the crawl."""
        return self._config.crawl_id

    @property
    def delay(self) -> float:
        """Seconds between requests to a host that asks for nothing else."""
        return self._config.delay

    @property
    def backlog(self) -> int:
        """Entries of the stream at which workers pause."""
        return self._config.backlog

    def _rest(self, latency: float) -> float:
        config = self._config
        return max(config.delay, min(config.latency_factor * latency, config.longest_delay))

    # Hosts

    def best_ready(self, n: int) -> list[str]:
        """Up to `n` hosts of each partition that will be leased from next."""
        found = [
            self._attempt(partial(self._client.zrevrange, f"{prefix}ready", 0, n - 1))
            for prefix in self.prefixes
        ]
        return [host.decode() for hosts in found for host in hosts]

    def best_queued(self, hosts: Iterable[str], n: int) -> list[str]:
        """The `n` queued URLs of each of `hosts` that promise most."""
        names = list(hosts)

        def read() -> Any:
            pipe = self._client.pipeline(transaction=False)
            for host in names:
                pipe.zrevrange(f"{self.prefixes[self._partition(host)]}q:{host}", 0, n - 1)
            return pipe.execute()

        queues = zip(names, self._attempt(read), strict=True)
        return [url_at(host, member.decode()) for host, members in queues for member in members]

    def steer(self, indices: Mapping[str, float]) -> None:
        """Set what is added to each host's best promise when hosts are compared: the higher, the sooner."""
        batches: dict[int, list[Any]] = {}
        for host, index in indices.items():
            batches.setdefault(self._partition(host), []).extend((host, f"{index:.6g}"))
        for partition, arguments in batches.items():
            self._run("steer", partition, *arguments)

    def robots(self, host: str) -> str:
        """The text of the host's robots.txt as last stored; empty if there is none."""
        key = f"{self.prefixes[self._partition(host)]}h:{host}"
        return (self._attempt(lambda: self._client.hget(key, "robots")) or b"").decode()

    # Limits

    def set_limits(self, limits: Limits) -> None:
        """Set when the crawl stops, and look again at hosts that had spent their budget."""
        self._run("note", 0, "meta", "limits", json.dumps(asdict(limits)))
        self._run("note", 0, "meta", "stopped", "")
        for partition in range(self._config.partitions):
            self._run("wake", partition)

    def set_limits_if_none(self, limits: Limits) -> bool:
        """Set `limits` unless some are set already, by whomever; returns whether they were."""
        meta = self.prefixes[0] + "meta"
        return bool(self._attempt(lambda: self._client.hsetnx(meta, "limits", json.dumps(asdict(limits)))))

    def limits(self) -> Limits | None:
        """What was last set."""
        stored = self._attempt(lambda: self._client.hget(self.prefixes[0] + "meta", "limits"))
        return Limits(**json.loads(stored)) if stored else None

    def stop(self, reason: str) -> None:
        """Lease nothing any more, until limits are set again."""
        self._run("note", 0, "meta", "stopped", reason)

    def reached(self) -> str:
        """Why nothing more will be leased, in words; empty while something may be."""
        stopped = self._attempt(lambda: self._client.hget(self.prefixes[0] + "meta", "stopped"))
        if stopped:
            return str(stopped.decode())
        limits = self.limits()
        counts = self.counts()
        if limits and counts["fetched"] >= limits.pages:
            return f"{limits.pages:,} pages fetched"
        if limits and counts["bytes"] >= limits.bytes:
            return f"{limits.bytes / 1e9:g} GB fetched"
        if limits and time.time() >= limits.until:
            return "its time is up"
        return ""

    def _remaining(self) -> int:
        stopped, stored = self._attempt(
            lambda: self._client.hmget(self.prefixes[0] + "meta", "stopped", "limits")
        )
        if stopped:
            return 0
        if stored is None:
            return 1 << 30
        limits = Limits(**json.loads(stored))
        counts = self.counts()
        if counts["bytes"] >= limits.bytes or time.time() >= limits.until:
            return 0
        return max(0, limits.pages - counts["fetched"] - counts["leased"])

    # The stream, for the walker

    def put_seeds(self, seeds: Iterable[Seed]) -> int:
        """Hand seeds to the walker, who knows what a prior is worth; returns how many.

        Raises FrontierFull if the server is at its memory limit.
        """
        total = 0
        iterator = iter(seeds)
        while batch := list(islice(iterator, _SEED_BATCH)):
            entry = {"seeds": json.dumps(batch)}
            self._attempt(partial(self._client.xadd, self.prefixes[0] + "pages", entry))
            total += len(batch)
        return total

    def read_stream(self, positions: Mapping[str, str], n: int, wait: float = 0.0) -> list[Entry]:
        """Up to `n` entries a partition after `positions`, oldest first; waits up to `wait` seconds."""
        streams = {f"{prefix}pages": positions.get(str(s), "0-0") for s, prefix in enumerate(self.prefixes)}
        partition_of = {name.encode(): str(s) for s, name in enumerate(streams)}
        block = _ms(wait) or None
        found = self._attempt(lambda: self._client.xread(streams, count=n, block=block)) or []
        return [
            Entry(partition_of[stream], entry_id.decode(), _decode(fields))
            for stream, entries in found
            for entry_id, fields in entries
        ]

    def trim_stream(self, positions: Mapping[str, str]) -> None:
        """Forget the pages up to and including `positions`: they are in the corpus, or judged."""
        for partition, position in positions.items():
            milliseconds, _, sequence = position.partition("-")
            after = f"{milliseconds}-{int(sequence) + 1}"
            stream = f"{self.prefixes[int(partition)]}pages"
            self._attempt(partial(self._client.xtrim, stream, minid=after, approximate=False))

    # What is going on

    def publish(self, part: str, status: Mapping[str, Any]) -> None:
        """Leave what a part of the system wants shown."""
        self._run("note", 0, "status", part, json.dumps(status))

    def published(self, part: str) -> dict[str, Any]:
        """What `part` last published; empty if it never did."""
        stored = self._attempt(lambda: self._client.hget(self.prefixes[0] + "status", part))
        return dict(json.loads(stored)) if stored else {}

    def counts(self) -> Counter[str]:
        """Totals over all partitions: discovered, queued, leased, fetched, pages, bytes, failed:…, …"""
        return self._attempt(self._counts)

    def _counts(self) -> Counter[str]:
        totals: Counter[str] = Counter()
        pipe = self._client.pipeline(transaction=False)
        for prefix in self.prefixes:
            pipe.hgetall(f"{prefix}counts")
            pipe.zcard(f"{prefix}deadlines")
            pipe.xlen(f"{prefix}pages")
        answers = pipe.execute()
        for counts, leased, backlog in zip(answers[::3], answers[1::3], answers[2::3], strict=True):
            totals.update({name.decode(): int(value) for name, value in counts.items()})
            totals.update(leased=leased, backlog=backlog)
        return totals

    def why_idle(self) -> dict[str, Any]:
        """Hosts by why they give nothing now, and in how many seconds the next one wakes (None: never)."""
        return self._attempt(self._why_idle)

    def _why_idle(self) -> dict[str, Any]:
        causes: Counter[str] = Counter()
        wakes: list[float] = []
        for prefix in self.prefixes:
            pipe = self._client.pipeline(transaction=False)
            pipe.zcard(f"{prefix}ready")
            pipe.zcard(f"{prefix}cooling")
            pipe.zcard(f"{prefix}deadlines")
            pipe.scard(f"{prefix}spent")
            pipe.zrange(f"{prefix}cooling", 0, 0, withscores=True)
            ready, cooling, in_flight, spent, first = pipe.execute()
            causes.update(ready=ready, cooling=cooling, in_flight=in_flight, budget_spent=spent)
            wakes += [at / 1000 - time.time() for _, at in first] + [0.0] * bool(ready)
        return {**causes, "next_wake_seconds": max(0.0, min(wakes)) if wakes else None}

    def finished(self) -> bool:
        """Whether there is nothing left to do: nothing queued that may be asked, nothing in flight."""
        idle = self.why_idle()
        return not (idle["ready"] or idle["cooling"] or idle["in_flight"])

    def dead_letters(self) -> list[tuple[str, str]]:
        """URLs given up after too many attempts, with the last reason."""
        letters = []
        for prefix in self.prefixes:
            for key, value in self._attempt(partial(self._client.hgetall, f"{prefix}dead")).items():
                host, _, member = key.decode().partition(" ")
                letters.append((url_at(host, member), json.loads(value)["reason"]))
        return letters

    # Addresses that hosts share

    def hold_ip(self, address: str, holder: str, *, most: int, gap: float, seconds: float) -> float:
        """Take one of the `most` connections to `address` that all workers share; 0 if it is taken.

        Otherwise the seconds until it is the holder's turn to ask again. After `seconds` a hold ends by
        itself.
        """
        arguments = [holder, most, _ms(gap), _ms(seconds)]
        return float(self._run_at("hold_ip", address, *arguments)) / 1000

    def release_ip(self, address: str, holder: str) -> None:
        """The connection is over."""
        self._run_at("release_ip", address, holder)

    def _run_at(self, script: str, address: str, *args: Any) -> Any:
        prefix = f"tinylm:{{{self._config.crawl_id}/ip:{address}}}:"
        return self._attempt(lambda: self._scripts[script]([prefix], args))

    def defer(self, lease: Lease, seconds: float) -> None:
        """Not begun: the URL returns to its queue as it was, the host waits `seconds`. Raises LeaseLost."""
        self._finish("defer", lease, _ms(seconds))

    @property
    def data(self) -> Path:
        """Directory of this crawl."""
        return self._config.data

    @property
    def attempts(self) -> int:
        """Failures after which a URL is given up."""
        return self._config.attempts


def _decode(fields: Mapping[bytes, bytes]) -> Page | list[Seed]:
    if b"page" in fields:
        return Page.from_bytes(fields[b"page"])
    return [Seed(*seed) for seed in json.loads(fields[b"seeds"])]


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
