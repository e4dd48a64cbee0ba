"""`Frontier`: the verbs of a crawl.

They are URLFrontier's, persisted: put, lease, ack, nack, skip, reap. A crawl has S partitions; a host lives
in one of them. A transition is a script (`lua/`), complete or without effect; a call costs one round trip a
partition, whatever the batch.
"""

import hashlib
import json
import math
import random
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from crawler.config import FrontierConfig
from crawler.errors import FrontierError, LeaseLost
from crawler.frontier.batch import Batch, Call, Ends, call_for, ms
from crawler.frontier.records import SEED, Discovered, Entry, Lease, Limits
from crawler.frontier.store import Client, RedisStore
from crawler.page import Page
from crawler.seeds.read import Seed
from crawler.urls import fingerprint, locate, url_at

STATE_VERSION = 3
_PROMISE = 10_000
_SEEN_SHARDS = 1 << 15
_LOST_SECONDS = 2.0
_SAID_AGAIN_SECONDS, _SAID_AGAIN_LINKS = 30.0, 100_000
_PUSH_BATCH = 500
_LEASED_AT_ONCE = 500
"""Lua's stack holds 8,000 values, and a lease wakes four hosts for each that it takes, with their ranks."""
_REAP_BATCH = 1000
_SEED_BATCH = 1000
_UNKNOWN_HOST_INDEX = 0.3
_EVERYTHING = "tinylm:{everything}:"
_CAUSES = (
    "ready", "cooling", "blocked", "in_flight", "budget_spent", "paused", "on_disk", "no_robots"
)  # fmt: skip


class Frontier(Ends):
    """One crawl's frontier.

    Raises ServerError if the server does not answer or is too old, FrontierError if the crawl on it was begun
    with other partitions or by another version of tinylm.
    """

    def __init__(self, store: RedisStore, config: FrontierConfig) -> None:
        self._store = store
        self._config = config
        self._random = random.Random()
        self._recent: deque[tuple[float, list[Discovered]]] = deque()
        self._links_recent = 0
        self._restarts = store.restarts
        self.has_disk = False
        """Whether somebody takes what does not fit into the queues to disk (`Spill`)."""
        self.prefixes = [f"tinylm:{{{config.crawl_id}/{s}}}:" for s in range(config.partitions)]
        store.check()
        for name, value in (("version", STATE_VERSION), ("partitions", config.partitions)):
            stored = int(self._run("open", 0, name, value))
            if stored != value:
                raise FrontierError(
                    f"crawl {config.crawl_id!r} has {name} {stored}, not {value}: "
                    "use what it was begun with, or another crawl_id"
                )

    def close(self) -> None:
        """Give up the connection."""
        self._store.close()

    def _run(self, script: str, partition: int, *args: Any) -> Any:
        return self._store.run(script, self.prefixes[partition], *args)

    def _run_all(self, calls: Sequence[Call]) -> list[Any]:
        return self._store.run_all([(script, self._prefix(place), args) for script, place, args in calls])

    def _prefix(self, place: int | str) -> str:
        """That the keys of a partition, or of an address, begin with."""
        if isinstance(place, int):
            return self.prefixes[place]
        return f"tinylm:{{{self._config.crawl_id}/ip:{place}}}:"

    def _everywhere(self, script: str, *args: Any) -> list[Any]:
        return self._run_all([(script, s, args) for s in range(self._config.partitions)])

    @property
    def client(self) -> Client:
        """The server's client, for what no verb says."""
        return self._store.client

    @property
    def restarts(self) -> int:
        """How often the server was seen to have been restarted."""
        return self._store.restarts

    def partition_of(self, host: str) -> int:
        """The partition that `host` lives in."""
        digest = hashlib.blake2b(host.encode(), digest_size=4).digest()
        return int.from_bytes(digest, "big") % self._config.partitions

    def _seen(self, url: str) -> tuple[int, int]:
        """The shard of the seen set that a URL belongs to, and its number there: a signed one of 32 bits.

        An intset keeps all its numbers in 8 bytes as soon as one does not fit into 4.
        """
        high, low = divmod(fingerprint(url), 1 << 32)
        return high % max(1, _SEEN_SHARDS // self._config.partitions), low - (1 << 31)

    # URLs

    def put(self, discovered: Iterable[Discovered]) -> int:
        """Add URLs, or give a queued one its new promise; returns how many were new.

        Raises FrontierFull if the server is at its memory limit, FrontierError if a promise is no number.
        """
        links = list(discovered)
        self._say_again()
        new = self._push(links)
        self._recent.append((time.monotonic(), links))
        self._links_recent += len(links)
        self._forget()
        return new

    def recent(self, seconds: float = 2 * _LOST_SECONDS) -> list[Discovered]:
        """What was put within the last `seconds`: a server that loses power may not know it any more."""
        since = time.monotonic() - seconds
        return [link for at, links in self._recent if at >= since for link in links]

    def _say_again(self) -> None:
        """A restarted server may have lost what it was told last; to tell it twice changes nothing."""
        if self._store.restarts != self._restarts:
            self._restarts = self._store.restarts
            self._push(self.recent(_SAID_AGAIN_SECONDS))

    def _forget(self) -> None:
        since = time.monotonic() - _SAID_AGAIN_SECONDS
        while len(self._recent) > 1 and (
            self._recent[0][0] < since or self._links_recent > _SAID_AGAIN_LINKS
        ):
            self._links_recent -= len(self._recent.popleft()[1])

    def _push(self, links: Iterable[Discovered]) -> int:
        calls = [("push", s, args) for s, args in self._pushes(links)]
        return sum(self._run_all(calls)) if calls else 0

    def _pushes(self, links: Iterable[Discovered]) -> Iterator[tuple[int, tuple[Any, ...]]]:
        config = self._config
        growth = config.pages_per_host - config.pages_per_found_host
        most_referrers = max(0, -(-growth // max(1, config.pages_per_referring_domain)))
        head = (_UNKNOWN_HOST_INDEX, config.hot_per_host, int(self.has_disk), most_referrers)
        batches: dict[int, tuple[list[Any], int]] = {}
        for host, (referrers, arguments) in _by_host(links, self._seen).items():
            for start in range(0, len(arguments), 4 * _PUSH_BATCH):
                part = arguments[start : start + 4 * _PUSH_BATCH]
                partition = self.partition_of(host)
                batch, size = batches.pop(partition, ([*head], 0))
                batch += [host, len(referrers), *referrers, len(part) // 4, *part]
                size += len(part) // 4
                if size >= _PUSH_BATCH:
                    yield partition, tuple(batch)
                else:
                    batches[partition] = batch, size
        for partition, (batch, _) in batches.items():
            yield partition, tuple(batch)

    def lease(self, n: int) -> list[Lease]:
        """Up to `n` URLs of different hosts, best first, none of a host that must rest.

        Fewer, or none, when nothing is ready, when the limits are reached, or when the walker lags; 500 at
        the most.
        """
        n = min(n, self._remaining(), _LEASED_AT_ONCE)
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
            ms(config.lease_seconds),
            config.exploration,
            max(1, config.backlog // config.partitions),
            self._random.getrandbits(31),
            ms(config.delay),
            ms(_LOST_SECONDS),
            config.hot_per_host,
            config.pages_per_host,
            config.pages_per_found_host,
            config.pages_per_referring_domain,
        )
        return [_lease(json.loads(lease), partition, asked + config.lease_seconds) for lease in found]

    def _remaining(self) -> int:
        """Fetches left until a limit, 0 if nothing may be leased."""
        [stopped, stored, paused], [everything] = self._store.run_all(
            [
                ("noted", self.prefixes[0], ("meta", "stopped", "limits", "paused")),
                ("noted", _EVERYTHING, ("meta", "paused")),
            ]
        )
        if stopped or paused or everything:
            return 0
        if not stored:
            return 1 << 30
        limits = Limits(**json.loads(stored))
        counts = self.counts()
        if counts["bytes"] >= limits.bytes or time.time() >= limits.until:
            return 0
        return max(0, limits.pages - counts["fetched"] - counts["leased"])

    def _finish(self, script: str, lease: Lease, *args: Any) -> None:
        answer = self._run_all([call_for(script, lease.partition, [(lease, args)])])[0]
        if answer in (0, [0]):
            raise LeaseLost(f"{lease.url}: lease {lease.token} is no longer ours")

    def batch(self) -> Batch:
        """What is to be said together: one round trip for all of it."""
        return Batch(self._config, self._run_all)

    def reap(self) -> int:
        """Return the URLs of expired leases to their queues; returns how many there were."""
        config = self._config
        return sum(self._everywhere("reap", ms(config.delay), config.attempts, _REAP_BATCH))

    @property
    def crawl_id(self) -> str:
        """Name of the crawl."""
        return self._config.crawl_id

    @property
    def data(self) -> Path:
        """Directory of the crawl."""
        return self._config.data

    @property
    def delay(self) -> float:
        """Seconds between requests to a host that asks for nothing else."""
        return self._config.delay

    @property
    def backlog(self) -> int:
        """Entries of the stream at which workers pause."""
        return self._config.backlog

    # Hosts

    def best_ready(self, n: int) -> list[str]:
        """Up to `n` hosts of each partition that will be leased from next."""
        return [host.decode() for hosts in self._everywhere("best", n) for host in hosts]

    def best_queued(self, hosts: Iterable[str], n: int) -> list[str]:
        """The `n` URLs of each of `hosts` that promise most, of those in its queue."""
        by_partition: dict[int, list[str]] = {}
        for host in hosts:
            by_partition.setdefault(self.partition_of(host), []).append(host)
        found = self._run_all([("best", s, (n, *names)) for s, names in by_partition.items()])
        return [
            url_at(host, member.decode())
            for names, queues in zip(by_partition.values(), found, strict=True)
            for host, members in zip(names, queues, strict=True)
            for member in members
        ]

    def steer(self, indices: Mapping[str, float]) -> None:
        """Set what is added to each host's best promise when hosts are compared: the higher, the sooner."""
        batches: dict[int, list[Any]] = {}
        for host, index in indices.items():
            batches.setdefault(self.partition_of(host), []).extend((host, f"{index:.6g}"))
        self._run_all([("steer", s, tuple(arguments)) for s, arguments in batches.items()])

    def robots(self, host: str) -> str:
        """The text of the host's robots.txt as last stored; empty if there is none."""
        return (self._run("rules", self.partition_of(host), host) or b"").decode()

    def block_until(self, host: str, at: float) -> None:
        """Ask nothing of `host` before `at` (epoch seconds)."""
        self._run("host", self.partition_of(host), host, "block", max(0, ms(at - time.time())))

    def pause(self, host: str = "", *, everything: bool = False) -> None:
        """Lease nothing of `host`, of this crawl, or of `everything` on the server, until it is resumed."""
        self._set_paused("1", host, everything=everything)

    def resume(self, host: str = "", *, everything: bool = False) -> None:
        """Go on with what was paused in the same words."""
        self._set_paused("", host, everything=everything)

    def _set_paused(self, paused: str, host: str, *, everything: bool) -> None:
        if host:
            self._run("host", self.partition_of(host), host, "pause" if paused else "resume")
        else:
            prefix = _EVERYTHING if everything else self.prefixes[0]
            self._store.run("note", prefix, "meta", "paused", paused)

    def take_down(self, host_or_url: str) -> bool:
        """Never fetch a host, or one canonical URL, again; returns whether it was known.

        What was queued of it goes; a fetch under way does not count: its end is refused with LeaseLost. The
        walker adds it to the corpus's tombstones at its next commit.
        """
        self._run("note", 0, "tombstones", host_or_url, "1")
        if "://" not in host_or_url:
            return bool(self._run("host", self.partition_of(host_or_url), host_or_url, "take_down"))
        return self._tell_url(host_or_url, "take_down")

    def taken_down(self) -> set[str]:
        """All hosts and URLs that were taken down."""
        return {what.decode() for what in self._run("noted", 0, "tombstones")[::2]}

    def _tell_url(self, url: str, *what: Any) -> bool:
        host, member = locate(url)
        return bool(self._run("url", self.partition_of(host), host, member, *self._seen(url), *what))

    # Dead letters

    def dead_letters(self) -> list[tuple[str, str]]:
        """URLs given up after too many attempts, with the last reason."""
        letters = []
        for found in self._everywhere("dead"):
            for key, value in zip(found[::2], found[1::2], strict=True):
                host, _, member = key.decode().partition(" ")
                letters.append((url_at(host, member), json.loads(value)["reason"]))
        return letters

    def retry(self, url: str, promise: float = 0.5) -> bool:
        """Queue a dead letter again; returns whether it was one."""
        return self._tell_url(url, "retry", round(promise * _PROMISE))

    def drop(self, url: str) -> bool:
        """Forget a dead letter, but not that its URL was met; returns whether it was one."""
        return self._tell_url(url, "drop")

    # Limits

    def set_limits(self, limits: Limits) -> None:
        """Set when the crawl stops, and look again at hosts that had spent their budget."""
        self._run("note", 0, "meta", "limits", json.dumps(asdict(limits)))
        self._run("note", 0, "meta", "stopped", "")
        self._everywhere("wake")

    def set_limits_if_none(self, limits: Limits) -> bool:
        """Set `limits` unless some are set already, by whomever; returns whether they were."""
        return bool(self._run("note", 0, "meta", "limits", json.dumps(asdict(limits)), 1))

    def limits(self) -> Limits | None:
        """What was last set."""
        [stored] = self._run("noted", 0, "meta", "limits")
        return Limits(**json.loads(stored)) if stored else None

    def stop(self, reason: str) -> None:
        """Lease nothing any more, until limits are set again."""
        self._run("note", 0, "meta", "stopped", reason)

    def reached(self) -> str:
        """Why nothing more will be leased, in words; empty while something may be."""
        [stopped] = self._run("noted", 0, "meta", "stopped")
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

    # The stream, for the walker

    def put_seeds(self, seeds: Iterable[Seed]) -> int:
        """Hand seeds to the walker, who knows what a prior is worth; returns how many.

        Raises FrontierFull if the server is at its memory limit.
        """
        total = 0
        iterator = iter(seeds)
        while batch := list(islice(iterator, _SEED_BATCH)):
            self._run("seeds", 0, json.dumps(batch))
            total += len(batch)
        return total

    def read_stream(self, positions: Mapping[str, str], n: int, wait: float = 0.0) -> list[Entry]:
        """Up to `n` entries a partition after `positions`, oldest first; waits up to `wait` seconds."""
        after = {prefix: positions.get(str(s), "0-0") for s, prefix in enumerate(self.prefixes)}
        found = self._store.read(after, n, wait)
        return [
            Entry(str(self.prefixes.index(prefix)), entry_id, _decode(fields))
            for prefix, entry_id, fields in found
        ]

    def trim_stream(self, positions: Mapping[str, str]) -> None:
        """Forget the pages up to and including `positions`: they are in the corpus, or judged."""
        for partition, position in positions.items():
            milliseconds, _, sequence = position.partition("-")
            self._run("trim", int(partition), f"{milliseconds}-{int(sequence) + 1}")

    # What is going on

    def publish(self, part: str, status: Mapping[str, Any]) -> None:
        """Leave what a part of the system wants shown."""
        self._run("note", 0, "status", part, json.dumps(status))

    def published(self, part: str) -> dict[str, Any]:
        """What `part` last published; empty if it never did."""
        [stored] = self._run("noted", 0, "status", part)
        return dict(json.loads(stored)) if stored else {}

    def published_by_workers(self) -> list[dict[str, Any]]:
        """What each worker that ever was last published, under a name that begins with `worker:`."""
        found = self._run("noted", 0, "status")
        pairs = zip(found[::2], found[1::2], strict=True)
        return [dict(json.loads(status)) for part, status in pairs if part.startswith(b"worker:")]

    def counts(self) -> Counter[str]:
        """Totals over all partitions: discovered, queued, leased, fetched, pages, bytes, failed:…, …"""
        totals: Counter[str] = Counter()
        for found in self._everywhere("counts"):
            pairs = zip(found[::2], found[1::2], strict=True)
            totals.update({name.decode(): int(value) for name, value in pairs})
        return totals

    def why_idle(self) -> dict[str, Any]:
        """Hosts by why they give nothing now, and in how many seconds the next one wakes (None: never).

        `blocked` are those of `cooling` that asked for their rest; `on_disk` wait for what was spilled;
        `no_robots` for a robots.txt that answers.
        """
        causes: Counter[str] = Counter()
        wakes: list[float] = []
        for *found, wake in self._everywhere("idle"):
            causes.update(dict(zip(_CAUSES, found, strict=True)))
            wakes += [wake / 1000] if wake >= 0 else []
        return {**{cause: causes[cause] for cause in _CAUSES}, "next_wake_seconds": min(wakes, default=None)}

    def finished(self) -> bool:
        """Whether there is nothing left to do: nothing queued that may be asked, nothing in flight."""
        idle = self.why_idle()
        waiting = ("ready", "cooling", "in_flight", "paused", "on_disk")
        return not any(idle[cause] for cause in waiting) and idle["next_wake_seconds"] is None

    # The disk, for `Spill`

    def spooled(self, partition: int, written: int, n: int) -> list[tuple[str, int, str]]:
        """The next `n` (host, promise, member) on their way to disk, after `written` of them got there."""
        found = self._run("spool", partition, written, n)
        fields = (entry.decode().split(" ", 2) for entry in found)
        return [(host, int(promise), member) for host, promise, member in fields]

    def thirsty(self, partition: int, n: int) -> list[tuple[str, int]]:
        """Up to `n` hosts that need what is on disk, and the number of the last batch each was given."""
        found = self._run("thirst", partition, n)
        return [(host.decode(), int(batch)) for host, batch in zip(found[::2], found[1::2], strict=True)]

    def refill(
        self, partition: int, host: str, batch: int, urls: Sequence[tuple[str, int]], best_left: int
    ) -> None:
        """Give `host` (member, promise) of `urls` back; `best_left` is the best promise still on disk."""
        links = [part for url in urls for part in url]
        self._run("refill", partition, host, batch, tenth(best_left), *links)


def tenth(promise: int) -> int:
    """The list that a promise (in ten-thousandths) belongs to; -1 for none."""
    return -1 if promise < 0 else min(9, promise // 1000)


def _by_host(links: Iterable[Discovered], seen: Any) -> dict[str, tuple[set[Any], list[Any]]]:
    """Referrers and the arguments of links, by host."""
    hosts: dict[str, tuple[set[Any], list[Any]]] = {}
    for url, promise, referrer in links:
        if not math.isfinite(promise):
            raise FrontierError(f"{url}: its promise is {promise}, not a number to compare by")
        host, member = locate(url)
        referrers, arguments = hosts.setdefault(host, (set(), []))
        arguments += (member, round(promise * _PROMISE), *seen(url))
        if referrer:
            referrers.add(referrer if referrer == SEED else fingerprint(referrer) & 0xFFFFFFFF)
    return hosts


def _lease(found: dict[str, Any], partition: int, deadline: float) -> Lease:
    return Lease(
        token=int(found["token"]),
        partition=partition,
        host=found["host"],
        url=url_at(found["host"], found["member"]),
        kind=found["kind"],
        promise=float(found["promise"]) / _PROMISE,
        propensity=found["propensity"],
        attempt=found["attempt"],
        robots_until=int(found["robots_until"]),
        deadline=deadline,
        fetch_no=found.get("fetch_no", 1),
        etag=found.get("etag", ""),
        last_modified=found.get("last_modified", ""),
    )


def _decode(fields: Mapping[bytes, bytes]) -> Page | list[Seed]:
    if b"page" in fields:
        return Page.from_bytes(fields[b"page"])
    return [Seed(*seed) for seed in json.loads(fields[b"seeds"])]
