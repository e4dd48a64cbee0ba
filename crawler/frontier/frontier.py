"""`Frontier`: the verbs of a crawl.

They are URLFrontier's, persisted: put, lease, ack, nack, skip, reap. A crawl has S partitions; a registrable
domain lives in one of them, with all its hosts. A transition is a script (`lua/`), complete or without
effect; a call costs one round trip a partition, whatever the batch.
"""

import hashlib
import json
import logging
import math
import random
import secrets
import sys
import time
import zlib
from collections import Counter, deque
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from itertools import chain, groupby, islice
from typing import Any

from crawler.config import FrontierConfig
from crawler.errors import FrontierError, LeaseLost, PageError, SeedError, WalkerLost
from crawler.frontier.batch import Ack, Batch, End, Ends, ms, rules_as_told
from crawler.frontier.records import ASIDE, SEED, Asker, Discovered, Entry, HostFacts, Lease, Limits, uptime
from crawler.frontier.store import Call, Client, RedisStore
from crawler.page import Page, inflated
from crawler.scope import LIST_MARK, marks_of, scope_of
from crawler.seeds.seed import Seed, checked
from crawler.urls import Address, canonical, domain, fingerprint, locate, url_at
from tinylm.config import without_password
from tinylm.errors import ConfigError

# Raise it when keys, what is in them, or the canonical form of URLs (and so their fingerprints) change.
STATE_VERSION = 7
# Begun by version 4 and gone on with: its hosts are in partitions by their own names, not by their domains,
# and its set of URLs seen is not keyed. From version 6 on it is by domains and keyed; version 6 queued URLs
# in their canonical form, which is an address too.
_TAKEN_OVER = 5
_GOES_ON_AS = {4: _TAKEN_OVER, 6: STATE_VERSION}
# What a promise of 1 is for the server: a whole number costs a listpack 3 bytes, its decimals 8.
_PROMISE = 10_000
# Sets of URLs seen, over all partitions: of 10 million URLs each holds 300 numbers, a sorted array. With half
# of them twice as many are wrongly taken for seen, and 100 million outgrow set-max-intset-entries.
_SEEN_SHARDS = 1 << 15
# What a server that loses power may forget: the log is synced each second, and a sync may take another.
_LOST_SECONDS = 2.0
# What is told again after a restart: the time in which one is noticed, at most so many links of it.
_SAID_AGAIN_SECONDS, _SAID_AGAIN_LINKS = 30.0, 100_000
# How long another walker waits for one that says nothing, and a crawl stands still when its walker's host is
# lost. Half of it is near the 10 s of a large commit.
_CLAIM_SECONDS = 30.0
# Of one call: the server answers nobody else meanwhile.
_PUSH_BATCH = 500
_REAP_BATCH = 1000
_SEED_BATCH = 1000
# Hosts of one call, of 20 µs each.
_LOOKED_AT_AT_ONCE = 200
# Keys of one call of a scan: the server takes half a millisecond for them.
_SCANNED_AT_ONCE = 2000
# What is read of the stream at once, as bytes on the server and in memory, and one entry more: 64 usual pages
# have 1 MB and 4. At half, hostile pages come in smaller parts; at double, the walker holds twice as much.
_READ_BYTES, _HELD_BYTES = 8 << 20, 64 << 20
# Of a link beside its characters: four objects.
_LINK_BYTES = 300
# A server's clock that is so far ahead of ours jumped, as in lua/common.lua.
_JUMP_AHEAD_MS = 2000
# Lua's stack holds 8,000 values, and a lease wakes four hosts for each that it takes, with their ranks.
_LEASED_AT_ONCE = 500
# Leases asked for again in place of those that were out of scope, until somebody has to wait: 50 ms.
_MOST_OUT_OF_SCOPE = 50
# What a zlib stream of usual strength begins with; no text does.
_PACKED = b"\x78\x9c"
# Of the secret that the numbers of seen URLs are keyed with. As text it is longer than 64 bytes, so that the
# server keeps `meta`, which every script reads many fields of, as a hash table and not as a list.
_SECRET_BYTES = 36
# Behind a member that waits as an errand; and that the script says so when the text is there already.
_ERRAND, _KNOWN = b"#robots", 2
# The keys of what concerns every crawl of the server.
_EVERYTHING = "tinylm:{everything}:"
_CAUSES = (
    "ready", "cooling", "blocked", "in_flight", "budget_spent", "paused", "on_disk", "no_robots",
    "domain_busy",
)  # fmt: skip


def _strings(stored: bytes) -> tuple[str, ...]:
    return tuple(json.loads(stored))


# What all read of `FrontierConfig`: stored with the crawl, so that its workers cannot disagree.
RULES: dict[str, Callable[[bytes], Any]] = {
    "delay": float, "latency_factor": float, "longest_delay": float, "backoff": float, "attempts": int,
    "pages_per_host": int, "pages_per_found_host": int, "pages_per_referring_domain": int,
    "pages_per_domain": int, "hosts_per_domain": int, "domain_concurrency": int,
    "recrawl_days": float, "hot_per_host": int, "exploration": float, "backlog": int,
    "delay_of": _strings, "pages_of": _strings,
    "scope": bytes.decode, "include": _strings, "exclude": _strings,
}  # fmt: skip
# Who gives another of these means to ask hosts sooner, or has asked somebody not to.
_DELAYS = {"delay", "delay_of"}

log = logging.getLogger(__name__)


class Frontier(Ends):
    """One crawl's frontier.

    Its `config` is the given one with the rules in force: those that are stored with the crawl, which are the
    given ones only if nobody began it before. `set_rules` changes them; `check_rules` refuses others. Who
    only looks, or brings seeds, does not `begin`: a crawl that is new then has no rules yet. Raises
    ServerError if the server does not answer or is too old, FrontierError if the crawl on it was begun with
    other partitions or by another version of tinylm.
    """

    has_scope = True

    def __init__(self, store: RedisStore, config: FrontierConfig, *, begin: bool = True) -> None:
        self._store = store
        self.config = config
        self._random = random.Random()
        self._recent: deque[tuple[float, list[Discovered]]] = deque()
        self._links_recent = 0
        self._restarts = store.restarts
        self._claimed: dict[str, Any] = {}
        self._held = 0.0
        self.has_disk = False
        """Whether somebody takes what does not fit into the queues to disk (`Spill`)."""
        self.prefixes = [f"tinylm:{{{config.crawl_id}/{s}}}:" for s in range(config.partitions)]
        store.check()
        self._version, self._secret = STATE_VERSION, b""
        # By partition: what time its last lease told, and when that was asked for and given on our clock.
        self._told: dict[int, tuple[str, float, float]] = {}
        # And how many ms the time told since then is ahead of our clock.
        self._ahead: dict[int, int] = {}
        self._heed_identity()
        if begin:
            # Of two that begin a crawl at once, one is first in partition 0; its rules go to the others.
            self._store_rules(self.prefixes[:1], keep=True)
            self._heed_identity()
        self.heed_rules()
        if begin:
            self._store_rules(self.prefixes[1:], keep=True)
            # A server that lost its last second may have lost them, and no script goes on without.
            store.after_restart = partial(self._store_rules, self.prefixes, keep=True)

    def _heed_identity(self) -> None:
        """Take over what the crawl was begun with. Raises FrontierError if it is not one to go on with."""
        version, partitions, secret = self._run("HMGET", 0, "meta", "version", "partitions", "secret")
        crawl, config = f"crawl {self.config.crawl_id!r}", self.config
        if version is not None:
            self._version = int(version)
        if self._version in _GOES_ON_AS:
            self._version = _GOES_ON_AS[self._version]
            self._everywhere("note", "meta", 0, "version", self._version)
            self._store_rules(self.prefixes, keep=True)  # those that the other did not know
        if self._version not in (_TAKEN_OVER, STATE_VERSION):
            raise FrontierError(
                f"{crawl} has version {self._version}, not {STATE_VERSION}: finish it with the tinylm that "
                "began it (its commit or release), or begin anew with another crawl_id and data directory"
            )
        if partitions is not None and int(partitions) != config.partitions:
            raise FrontierError(
                f"{crawl} has partitions {int(partitions)}, not {config.partitions}: "
                "use what it was begun with, or another crawl_id"
            )
        self._secret = bytes.fromhex(secret.decode()) if secret else self._secret

    def heed_rules(self) -> None:
        """Take over the rules that are stored; `reap` does so too."""
        stored = zip(RULES.items(), self._run("HMGET", 0, "meta", *RULES), strict=True)
        in_force = {name: kind(value) for (name, kind), value in stored if value is not None}
        self.config = replace(self.config, **in_force)

    def set_rules(self, config: FrontierConfig, names: Collection[str] = tuple(RULES)) -> None:
        """From now on all workers of the crawl go by the rules `names` of `config`, those that run too."""
        self.config = replace(self.config, **{name: getattr(config, name) for name in names})
        self._store_rules(self.prefixes, keep=False)

    def check_rules(self, config: FrontierConfig, names: Collection[str]) -> None:
        """Raise ConfigError if a delay among the rules `names` is another in `config` than the crawl's.

        Of other rules that differ only a warning tells: who gave them, they do no harm to hosts.
        """
        ours, theirs = asdict(self.config), asdict(config)
        if not (others := [name for name in RULES if name in names and theirs[name] != ours[name]]):
            return
        at = f"--data {config.data}"
        if url := without_password(config.redis_url):
            at = f"--redis-url {url} --crawl-id {config.crawl_id}"
        values = {name: v if isinstance(v := theirs[name], tuple) else (v,) for name in others}
        flags = [f"--{name.replace('_', '-')} {value}" for name in others for value in values[name]]
        message = (
            "; ".join(f"{name} = {theirs[name]}, not {ours[name]}" for name in others)
            + f": all workers of crawl {config.crawl_id!r} go by its rules. Leave that out, or change it "
            f"for all of them: `tinylm begin {at} {' '.join(flags)}`"
        )
        if not _DELAYS.isdisjoint(others):
            raise ConfigError(message)
        log.warning("%s", message)

    def _store_rules(self, prefixes: Sequence[str], *, keep: bool) -> None:
        """Write what every script may read, if `keep` only what is not there."""
        if self._version == STATE_VERSION:
            self._secret = self._secret or secrets.token_bytes(_SECRET_BYTES)
        meta = {"version": self._version, "partitions": self.config.partitions, "secret": self._secret.hex()}
        rules = {name: getattr(self.config, name) for name in RULES}
        meta |= {name: json.dumps(rule) if isinstance(rule, tuple) else rule for name, rule in rules.items()}
        arguments = "meta", int(keep), *chain.from_iterable(meta.items())
        self._store.run_all([Call("note", prefix, arguments) for prefix in prefixes])

    def close(self) -> None:
        """Give up the connection."""
        self._store.close()

    @property
    def client(self) -> Client:
        """The server's client, for what no verb says."""
        return self._store.client

    @property
    def restarts(self) -> int:
        """How often the server was seen to have been restarted."""
        return self._store.restarts

    def _prefix(self, of: int | str) -> str:
        """What the keys of a partition, or of an address, begin with."""
        return self.prefixes[of] if isinstance(of, int) else f"tinylm:{{{self.config.crawl_id}/ip:{of}}}:"

    def _run(self, name: str, partition: int, *args: Any) -> Any:
        return self._store.run(Call(name, self.prefixes[partition], args))

    def _everywhere(self, name: str, *args: Any) -> list[Any]:
        return self._store.run_all([Call(name, prefix, args) for prefix in self.prefixes])

    def partition_of(self, host: str) -> int:
        """The partition that `host` lives in, with all hosts of its registrable domain."""
        name = host if self._version == _TAKEN_OVER else domain(host)
        digest = hashlib.blake2b(name.encode(), digest_size=4).digest()
        return int.from_bytes(digest, "big") % self.config.partitions

    def locate(self, url: str) -> Address:
        """Where a URL lives: a port is part of its member, but of its host in a crawl that was taken over."""
        host, member = address = locate(url)
        if self._version != _TAKEN_OVER:
            return address
        origin, _, path = member.partition("/")
        scheme, _, port = origin.partition(":")
        return Address(f"{host}:{port}", f"{scheme and 'http:'}/{path}") if port else address

    def _seen(self, url: str) -> tuple[int, int]:
        """The shard of the seen set that a URL belongs to, and its number there: a signed one of 32 bits.

        They are 47 bits: without the crawl's secret nobody can make a URL whose numbers are those of another.
        An intset keeps all its numbers in 8 bytes as soon as one does not fit into 4.
        """
        if not self._secret and self._version == STATE_VERSION:  # who takes a URL down may be first
            self._run("note", 0, "meta", 1, "secret", secrets.token_hex(_SECRET_BYTES))
            self._heed_identity()
        high, low = divmod(fingerprint(url, self._secret), 1 << 32)
        return high % max(1, _SEEN_SHARDS // self.config.partitions), low - (1 << 31)

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
        links = list(links)
        if self.has_scope:
            seeds = (link.url for link in links if link.referrer == SEED)
            self.marked(dict.fromkeys(mark for seed in seeds for mark in marks_of(seed)), add=True)
        return sum(self._store.run_all(list(self._pushes(links))))

    def _pushes(self, links: Iterable[Discovered]) -> Iterator[Call]:
        """The calls that push `links`: hosts together until a call has enough, a large host in parts."""
        batches: dict[int, tuple[list[Any], int]] = {}
        for host, (referrers, arguments) in self._by_host(links).items():
            for start in range(0, len(arguments), 4 * _PUSH_BATCH):
                part = arguments[start : start + 4 * _PUSH_BATCH]
                partition = self.partition_of(host)
                batch, size = batches.pop(partition, ([int(self.has_disk)], 0))
                batch += [host, domain(host), len(referrers), *referrers, len(part) // 4, *part]
                size += len(part) // 4
                if size >= _PUSH_BATCH:
                    yield Call("push", self.prefixes[partition], tuple(batch))
                else:
                    batches[partition] = batch, size
        for partition, (batch, _) in batches.items():
            yield Call("push", self.prefixes[partition], tuple(batch))

    def _by_host(self, links: Iterable[Discovered]) -> dict[str, tuple[set[Any], list[Any]]]:
        """Referrers and the arguments of links, by host."""
        hosts: dict[str, tuple[set[Any], list[Any]]] = {}
        for url, promise, referrer in links:
            if not math.isfinite(promise):
                raise FrontierError(f"{url}: its promise is {promise}, not a number to compare by")
            host, member = self.locate(url)
            referrers, arguments = hosts.setdefault(host, (set(), []))
            arguments += (member, round(promise * _PROMISE), *self._seen(url))
            if referrer:
                digest = hashlib.blake2b(referrer.encode(), digest_size=8).digest()
                referrers.add(SEED if referrer == SEED else int.from_bytes(digest[4:], "big"))
        return hosts

    def lease(self, n: int) -> list[Lease]:
        """Up to `n` URLs of different hosts, 500 at the most, best first, none of a host that must rest.

        Fewer, or none, when nothing is ready, when the limits are reached, or when the walker lags.
        """
        n = min(n, self._remaining(), _LEASED_AT_ONCE)
        leases: list[Lease] = []
        for _ in range(_MOST_OUT_OF_SCOPE):
            found = self._lease_any(n - len(leases))
            leases += (within := self._within_scope(found))
            if len(within) == len(found):
                break
        return leases

    def _lease_any(self, n: int) -> list[Lease]:
        leases: list[Lease] = []
        partitions, seconds = self.config.partitions, self.config.lease_seconds
        first = self._random.randrange(partitions)
        for step in range(partitions):
            if len(leases) >= n:
                break
            partition, seed = (first + step) % partitions, self._random.getrandbits(31)
            asked, clock = uptime(), self._clock(partition)
            now, *found = self._run("lease", partition, n - len(leases), ms(seconds), seed, *clock)
            told, given = now.decode(), uptime()
            self._heed_time(partition, told, asked, given)
            times = {"given": given, "took": given - asked, "deadline": asked + seconds}
            leases += [_lease(json.loads(lease), partition, told=told, **times) for lease in found]
        return self._not_taken_down(leases)

    def _not_taken_down(self, leases: list[Lease]) -> list[Lease]:
        """Skip those of a page that was taken down under another address; the script knows its own."""
        others = [(lease, page) for lease in leases if (page := canonical(lease.url)) != lease.url]
        if not others:
            return leases
        names = [f"{lease.host} {self.locate(page).member}" for lease, page in others]
        calls = [
            Call("SISMEMBER", self.prefixes[lease.partition], ("gone", name))
            for (lease, _), name in zip(others, names, strict=True)
        ]
        gone = [lease for (lease, _), found in zip(others, self._store.run_all(calls), strict=True) if found]
        for lease in gone:
            with suppress(LeaseLost):
                self.skip(lease, "taken_down")
        return [lease for lease in leases if lease not in gone]

    def _within_scope(self, leases: list[Lease]) -> list[Lease]:
        """Skip those whose page is not, since the scope is narrower than when it was queued.

        Of a robots.txt the page that it was leased for goes, before anything is asked of the host.
        """
        out = self.out_of_scope({lease.sought for lease in leases if lease.sought})
        calls = []
        for lease in leases:
            if reason := out.get(lease.sought):
                shard, low = self._seen(lease.sought)
                facts = {"reason": reason, "wait": 0, "sought": self.locate(lease.sought).member}
                calls.append(End("skip", lease, facts | {"shard": shard, "low": low}).call(self._prefix))
        self._store.run_all(calls)
        return [lease for lease in leases if lease.sought not in out]

    def _clock(self, partition: int) -> tuple[Any, ...]:
        """What a partition told us as the time, how many ms ago, after how many, and how far it is ahead."""
        if partition not in self._told:
            return ()
        told, asked, given = self._told[partition]
        return told, ms(uptime() - given), ms(given - asked), self._ahead.get(partition, 0)

    def _heed_time(self, partition: int, now: str, asked: float, given: float) -> None:
        """Remember what a partition told us as the time, unless its clock jumped ahead since last time.

        More than from one question to the other's answer cannot have passed: beyond, it is no slow network.
        """
        if partition in self._told:
            told, before, _ = self._told[partition]
            (then, jumps), (at, jumps_now) = told.split(), now.split()
            ahead = int(at) - int(then) - ms(given - before)
            if jumps == jumps_now and ahead >= _JUMP_AHEAD_MS:
                self._ahead[partition] = ahead
                return
        self._told[partition] = now, asked, given
        self._ahead.pop(partition, None)

    def _remaining(self) -> int:
        """Fetches left until a limit, 0 if nothing may be leased."""
        [stopped, stored, paused], everything, *counts = self._store.run_all(
            [
                Call("HMGET", self.prefixes[0], ("meta", "stopped", "limits", "paused")),
                Call("HGET", _EVERYTHING, ("meta", "paused")),
                *(Call("counts", prefix) for prefix in self.prefixes),
            ]
        )
        if stopped or paused or everything:
            return 0
        if not stored:
            return 1 << 30
        limits, totals = Limits(**json.loads(stored)), _totals(counts)
        return 0 if limits.reached(totals) else max(0, limits.pages - totals["fetched"] - totals["leased"])

    def _finish(self, end: Ack | End) -> None:
        if self._store.run(end.call(self._prefix)) in (0, [0]):
            raise LeaseLost(f"{end.lease.url}: lease {end.lease.token} is no longer ours")

    def batch(self) -> Batch:
        """What is to be said together: one round trip for all of it."""
        return Batch(self._prefix, self._store.run_all)

    def reap(self) -> int:
        """Return the URLs of expired leases to their queues, and how many there were; heed new rules."""
        self.heed_rules()
        calls = [
            Call("reap", prefix, (_REAP_BATCH, *self._clock(s)[:3])) for s, prefix in enumerate(self.prefixes)
        ]
        return sum(self._store.run_all(calls))

    # Scope

    def out_of_scope(self, urls: Collection[str], lists: Container[str] = ()) -> dict[str, str]:
        """Of `urls` those that do not belong to the crawl, and why; `lists` are sitemaps among them."""
        config = self.config
        scope = scope_of(config.scope, config.include, config.exclude) if self.has_scope and urls else None
        if scope is None:
            return {}
        known: dict[str, bool] = {}
        asked: set[str] = set()

        def knows(mark: str) -> bool:
            asked.add(mark)
            return known.get(mark, False)

        while True:
            reasons = {url: scope.why_not(url, knows, is_list=url in lists) for url in urls}
            if not (unknown := asked - known.keys()):
                break
            known |= self.marked(unknown)
        self.marked((url + LIST_MARK for url in urls if url in lists and not reasons[url]), add=True)
        return {url: reason for url, reason in reasons.items() if reason}

    def marked(self, marks: Iterable[str], *, add: bool = False) -> dict[str, bool]:
        """Whether each of `marks` (of crawler.scope) is set; or set them."""
        every, found = iter(marks), dict[str, bool]()
        while batch := list(islice(every, _PUSH_BATCH)):
            parts: dict[int, list[str]] = {}
            for mark in batch:
                parts.setdefault(self.partition_of(locate(mark).host), []).append(mark)
            calls = [
                Call("marks", self.prefixes[s], (int(add), *chain.from_iterable(map(self._seen, part))))
                for s, part in parts.items()
            ]
            for part, answer in zip(parts.values(), self._store.run_all(calls), strict=True):
                found |= dict(zip(part, map(bool, answer), strict=True))
        return found

    # Hosts

    def best_ready(self, n: int) -> list[str]:
        """Up to `n` hosts of each partition that will be leased from next."""
        return [host.decode() for hosts in self._everywhere("ZREVRANGE", "ready", 0, n - 1) for host in hosts]

    def best_queued(self, hosts: Iterable[str], n: int) -> list[str]:
        """The `n` URLs of each of `hosts` that promise most, of those in its queue."""
        names = list(hosts)
        found = self._store.run_all(
            [
                Call("ZREVRANGE", self.prefixes[self.partition_of(host)], (f"q:{host}", 0, n - 1))
                for host in names
            ]
        )
        return [
            url_at(host, member.decode())
            for host, members in zip(names, found, strict=True)
            for member in members
            if not member.endswith(_ERRAND)
        ]

    def steer(self, indices: Mapping[str, float]) -> None:
        """Set what is added to each host's best promise when hosts are compared: the higher, the sooner."""
        batches: dict[int, list[Any]] = {}
        for host, index in indices.items():
            batches.setdefault(self.partition_of(host), []).extend((host, f"{index:.6g}"))
        self._store.run_all(
            [Call("steer", self.prefixes[s], tuple(arguments)) for s, arguments in batches.items()]
        )

    def robots(self, host: str, origin: str = "") -> str | None:
        """The text of the robots.txt of a host's origin as last stored; empty if there is none.

        None if it is gone, as a server that is short of memory may do: then it will be leased again.
        """
        prefix, field = self.prefixes[self.partition_of(host)], f" {origin}" if origin else ""
        packed, size = self._store.run_all(
            [
                Call("GET", prefix, (f"r:{host}{field}",)),
                Call("HGET", prefix, (f"h:{host}", f"robots_bytes{field}")),
            ]
        )
        if packed:
            # Unless a version stored it that did not pack: text never begins so.
            packs = packed.startswith(_PACKED)
            return str((zlib.decompress(packed) if packs else packed).decode())
        if not size or int(size) == 0:
            return ""
        self._store.run(Call("HDEL", prefix, (f"h:{host}", f"robots_until{field}")))
        return None

    def errand(self, url: str, askers: Sequence[Asker]) -> str | None:
        """Ask for the robots.txt at `url` in the turn of its host, for `askers`, who are told by `answer`.

        Returns its text if it is known: it is its host's own, or may never be asked for, which is none.
        """
        host, member = self.locate(url)
        told = self._run(
            "errand", self.partition_of(host), host, domain(host), member, *chain.from_iterable(askers)
        )
        if told != _KNOWN:
            return None if told else ""
        text = self.robots(host, member.partition("/")[0])
        return self.errand(url, askers) if text is None else text

    def take_errands(self, host: str) -> list[Asker]:
        """Take all errands from `host`; returns who is to be told about them."""
        found = self._run("errand", self.partition_of(host), host, domain(host))
        return [Asker(*asker) for askers in found for asker in json.loads(askers)]

    def answer(self, asker: Asker, rules: str | None, *, valid: float, crawl_delay: float) -> bool:
        """Tell who waits what its robots.txt says, None if nobody could be asked; returns whether it did."""
        facts = {"host": asker.host, "origin": asker.origin, "known": int(rules is not None)}
        facts |= rules_as_told(rules or "", valid, crawl_delay)
        arguments = chain.from_iterable(facts.items())
        return bool(self._run("answer", self.partition_of(asker.host), *arguments))

    def waiting(self, host: str) -> int | None:
        """URLs of `host` that are queued, on disk too; None if the host was never met."""
        partition, h = self.partition_of(host), f"h:{host}"
        met, *lists = self._run("HMGET", partition, h, "next", "tail", "cold")
        best = int(self._run("ZCARD", partition, f"q:{host}"))
        return None if met is None else best + sum(int(count or 0) for count in lists)

    def hosts(self) -> Iterator[str]:
        """Every host that was met, in no order: of all keys of the server in turn, some thousands a call."""
        for prefix in self.prefixes:
            start = f"{prefix}h:"
            for key in self.client.scan_iter(match=f"{start}*", count=_SCANNED_AT_ONCE):
                yield key.decode().removeprefix(start)

    def facts(self, hosts: Iterable[str]) -> Iterator[HostFacts]:
        """What is known of those of `hosts` that were met."""
        iterator = iter(hosts)
        while names := list(islice(iterator, _LOOKED_AT_AT_ONCE)):
            together = [(s, tuple(hosts)) for s, hosts in groupby(names, self.partition_of)]
            answers = self._store.run_all([Call("facts", self.prefixes[s], hosts) for s, hosts in together])
            for host, told in zip(names, chain.from_iterable(answers), strict=True):
                if told:
                    yield HostFacts.read(host, json.loads(told))

    def place(self, url: str) -> tuple[str, int]:
        """Where a URL is: `asked`, `queued` behind so many of its host, `due` in so many seconds, or ""."""
        host, member = self.locate(url)
        prefix, name = self.prefixes[self.partition_of(host)], f"{host} {member}"
        token, behind, due = self._store.run_all(
            [
                Call("HGET", prefix, (f"h:{host}", "inflight")),
                Call("ZREVRANK", prefix, (f"q:{host}", member)),
                Call("ZSCORE", prefix, ("due", name)),
            ]
        )
        lease = self._store.run(Call("HGET", prefix, ("leases", token))) if token else None
        if lease and json.loads(lease)["member"] == member:
            return "asked", 0
        if behind is not None:
            return "queued", int(behind)
        return ("due", int(due / 1000 - time.time())) if due else ("", 0)

    def block_until(self, host: str, at: float) -> None:
        """Ask nothing of `host` before `at` (epoch seconds); if that is over, nothing it was told holds."""
        wait = ms(at - time.time())
        self._tell_host(host, *(("block", wait) if wait > 0 else ("unblock",)))

    def pause(self, host: str = "", *, everything: bool = False) -> None:
        """Lease nothing of `host`, of this crawl, or of `everything` on the server, until it is resumed."""
        if host:
            self._tell_host(host, "pause")
        else:
            self._store.run(Call("note", self._pausing(everything), ("meta", 0, "paused", 1)))

    def resume(self, host: str = "", *, everything: bool = False) -> None:
        """Go on with what was paused in the same words."""
        if host:
            self._tell_host(host, "resume")
        else:
            self._store.run(Call("HDEL", self._pausing(everything), ("meta", "paused")))

    def paused(self) -> bool:
        """Whether this crawl, or everything on its server, is paused; a host alone does not count."""
        calls = [Call("HGET", self._pausing(every), ("meta", "paused")) for every in (False, True)]
        return any(self._store.run_all(calls))

    def _pausing(self, everything: bool) -> str:
        return _EVERYTHING if everything else self.prefixes[0]

    def take_down(self, host_or_url: str) -> bool:
        """Never fetch a host, or the page at a URL, again; returns whether it was known.

        What was queued of it goes; a fetch under way does not count: its end is refused with LeaseLost. The
        walker adds it to the corpus's tombstones at its next commit.
        """
        is_url = "://" in host_or_url
        name = canonical(host_or_url) if is_url else host_or_url
        self._run("note", 0, "tombstones", 0, name, 1)
        if is_url:
            return self._tell_url(name, "take_down")
        # Of a corpus of before, a host may have its port.
        return self._tell_host(self.locate(f"https://{name}/").host, "take_down")

    def taken_down(self) -> set[str]:
        """All hosts and URLs that were taken down."""
        return {what.decode() for what in self._run("HKEYS", 0, "tombstones")}

    def _tell_host(self, host: str, *what: str | int) -> bool:
        return bool(self._run("host", self.partition_of(host), host, domain(host), *what))

    def _tell_url(self, url: str, what: str | int) -> bool:
        host, member = self.locate(url)
        partition = self.partition_of(host)
        return bool(self._run("url", partition, host, domain(host), member, *self._seen(url), what))

    # Dead letters

    def dead_letters(self) -> list[tuple[str, str]]:
        """URLs given up after too many attempts, or that a rule refused, and why; entries set aside."""
        letters = []
        for s, found in enumerate(self._everywhere("HGETALL", "aside")):
            for entry_id, value in found.items():
                letters.append((f"{ASIDE}{s}/{entry_id.decode()}", json.loads(value)["reason"]))
        for found in [*self._everywhere("HGETALL", "dead"), *self._everywhere("HGETALL", "refused")]:
            for key, value in found.items():
                host, _, member = key.decode().partition(" ")
                letters.append((url_at(host, member), json.loads(value)["reason"]))
        return letters

    def retry(self, url: str, promise: float = 0.5) -> bool:
        """Queue a dead letter again, its host as chosen as it was; returns whether it was one that may be."""
        if url.startswith(ASIDE):
            return self._tell_entry(url, "retry")
        return self._tell_url(url, round(promise * _PROMISE))

    def drop(self, url: str) -> bool:
        """Forget a dead letter, but not that its URL was met; returns whether it was one."""
        if url.startswith(ASIDE):
            return self._tell_entry(url, "drop")
        return self._tell_url(url, "drop")

    def _tell_entry(self, name: str, what: str) -> bool:
        partition, _, entry_id = name.removeprefix(ASIDE).partition("/")
        if not (partition.isdecimal() and int(partition) < len(self.prefixes)):
            raise FrontierError(f"{name} is no entry: `tinylm frontier dead` lists them")
        return bool(self._run("aside", int(partition), entry_id, what))

    # Limits

    def set_limits(self, limits: Limits) -> None:
        """Set when the crawl stops, and look again at hosts that had spent their budget."""
        self._run("note", 0, "meta", 0, "limits", json.dumps(asdict(limits)))
        self._run("HDEL", 0, "meta", "stopped")
        for prefix in self.prefixes:
            left = int(self._store.run(Call("SCARD", prefix, ("spent",))))
            for _ in range(0, left, _REAP_BATCH):
                self._store.run(Call("wake", prefix, (_REAP_BATCH,)))

    def set_limits_if_none(self, limits: Limits) -> bool:
        """Set `limits` unless some are set already, by whomever; returns whether they were."""
        return bool(self._run("note", 0, "meta", 1, "limits", json.dumps(asdict(limits))))

    def limits(self) -> Limits | None:
        """What was last set."""
        stored = self._run("HGET", 0, "meta", "limits")
        return Limits(**json.loads(stored)) if stored else None

    def stop(self, reason: str) -> None:
        """Lease nothing any more, until limits are set again."""
        self._run("note", 0, "meta", 0, "stopped", reason)

    def reached(self) -> str:
        """Why nothing more will be leased, in words; empty while something may be."""
        if stopped := self._run("HGET", 0, "meta", "stopped"):
            return str(stopped.decode())
        limits = self.limits()
        return limits.reached(self.counts()) if limits else ""

    # The one walker

    def claim(self, lock: str, at: str) -> str:
        """Become the crawl's one walker, who writes to the place `at`; returns where another does, or "".

        What a walker before us says is refused from then on, with WalkerLost; and so is what we say once
        another claims, which it can when we have not called `hold` for `_CLAIM_SECONDS`. `lock` names a
        lock that we hold: whoever claimed with the same one before is gone.
        """
        self._store.walker = ""
        number, *other = self._claim(self.prefixes[:1], 0, lock=lock, at=at, hold=ms(_CLAIM_SECONDS))
        if not other:
            self._store.walker = number
            self.hold(now=True)
        return "".join(where.decode() for where in other)

    def _claim(self, prefixes: Sequence[str], number: int | str, **facts: Any) -> list[Any]:
        self._claimed |= facts
        arguments = tuple(chain.from_iterable(({"number": number} | self._claimed).items()))
        self._held = time.monotonic()
        return list(self._store.run_all([Call("claim", prefix, arguments) for prefix in prefixes])[0])

    def hold(self, *, now: bool = False) -> None:
        """Go on being the one walker, if this is one. Raises WalkerLost if another is.

        The server is asked now and then, or `now`.
        """
        if self._store.walker and (now or time.monotonic() - self._held >= _CLAIM_SECONDS / 10):
            self._claim(self.prefixes, self._store.walker)

    def give_up_claim(self) -> None:
        """Let another walker go on at once."""
        if self._store.walker:
            with suppress(WalkerLost):
                self._claim(self.prefixes, self._store.walker, hold=0)
        self._store.walker = ""

    def walked(self) -> tuple[str, dict[str, str]]:
        """Where the last walker wrote, if there was one; by partition, the first entry not forgotten."""
        found = [self._run("HMGET", s, "meta", "walker_at", "trimmed") for s in range(self.config.partitions)]
        trimmed = {str(s): at.decode() for s, (_, at) in enumerate(found) if at}
        return (found[0][0] or b"").decode(), trimmed

    # The stream, for the walker

    def put_seeds(self, seeds: Iterable[Seed]) -> int:
        """Hand seeds to the walker, who knows what a prior is worth; returns how many.

        Raises FrontierFull if the server is at its memory limit, SeedError for a seed beyond its bounds.
        """
        total = 0
        iterator = iter(seeds)
        while batch := list(islice(iterator, _SEED_BATCH)):
            self._run("XADD", 0, "pages", "*", "seeds", json.dumps(checked(batch)))
            total += len(batch)
        return total

    def bring(self, pages: Iterable[Page]) -> int:
        """Hand pages that nobody fetched to the walker, in their order; returns how many URLs were new.

        Their URLs are not asked for any more. To bring some again changes nothing. Raises FrontierFull if the
        server is at its memory limit: then some of them may not be brought.
        """
        parts: dict[int, tuple[bytearray, list[Any]]] = {}
        for page in pages:
            host, member = self.locate(page.url)
            held, arguments = parts.setdefault(self.partition_of(host), (bytearray(), []))
            packed = page.to_bytes()
            arguments += (host, member, *self._seen(page.url), f"{len(held)} {len(packed)}")
            held += packed
        calls = [
            Call(
                "bring",
                self.prefixes[at],
                (f"brought-{secrets.token_hex(6)}", *arguments),
                beside=bytes(held),
            )
            for at, (held, arguments) in parts.items()
        ]
        return sum(self._store.run_all(calls))

    def read_stream(self, positions: Mapping[str, str], n: int, wait: float = 0.0) -> list[Entry]:
        """Up to `n` entries a partition after `positions`, oldest first; waits up to `wait` seconds.

        Fewer if they are large. An entry that cannot be read has a fault, and is to be `set_aside`.
        """
        after = {prefix: positions.get(str(s), "0-0") for s, prefix in enumerate(self.prefixes)}
        entries: list[Entry] = []
        held = 0
        for prefix, entry_id, fields in self._store.read(after, n, wait, _READ_BYTES):
            if held > _HELD_BYTES:
                break
            entry = Entry(str(self.prefixes.index(prefix)), entry_id, [])
            try:
                content, size = _decode(fields)
                entry, held = entry._replace(content=content), held + size
            except (PageError, SeedError, ValueError, RecursionError) as error:
                entry = entry._replace(fault=str(error)[:300])
            except MemoryError:
                if entries:
                    break  # it is tried by itself
                entry = entry._replace(fault="there is no memory for it")
            entries.append(entry)
        return entries

    def set_aside(self, entry: Entry, reason: str) -> bool:
        """Keep an entry that cannot be judged among the dead letters, for the stream to go on without it.

        False if it is there already, or there is no room: then it is only counted.
        """
        return bool(self._run("aside", int(entry.partition), entry.id, "keep", reason))

    def trim_stream(self, positions: Mapping[str, str]) -> None:
        """Forget the pages up to and including `positions`: they are in the corpus, or judged."""
        for partition, position in positions.items():
            milliseconds, _, sequence = position.partition("-")
            self._run("trim", int(partition), f"{milliseconds}-{int(sequence) + 1}")

    # What is going on

    def publish(self, part: str, status: Mapping[str, Any]) -> None:
        """Leave what a part of the system wants shown."""
        self._run("note", 0, "status", 0, part, json.dumps(status))

    def published(self, part: str) -> dict[str, Any]:
        """What `part` last published; empty if it never did."""
        stored = self._run("HGET", 0, "status", part)
        return dict(json.loads(stored)) if stored else {}

    def published_by_workers(self) -> list[dict[str, Any]]:
        """What each worker that ever was last published, under a name that begins with `worker:`."""
        found = self._run("HGETALL", 0, "status").items()
        return [dict(json.loads(status)) for part, status in found if part.startswith(b"worker:")]

    def counts(self) -> Counter[str]:
        """Totals over all partitions: discovered, queued, leased, fetched, pages, bytes, failed:…, …"""
        return _totals(self._everywhere("counts"))

    def why_idle(self) -> dict[str, Any]:
        """Hosts by why they give nothing now, and in how many seconds which one wakes next (None: never).

        `blocked` are those of `cooling` that asked for their rest; `on_disk` wait for what was spilled;
        `no_robots` for a robots.txt that answers; `domain_busy` are domains with hosts that wait for a turn.
        """
        causes: Counter[str] = Counter()
        wakes: list[tuple[float, str]] = []
        for *found, wake, which in self._everywhere("idle"):
            causes.update(dict(zip(_CAUSES, found, strict=True)))
            wakes += [(wake / 1000, which.decode().partition(" ")[0])] if wake >= 0 else []
        seconds, host = min(wakes, default=(None, ""))
        return {
            **{cause: causes[cause] for cause in _CAUSES},
            "next_wake_seconds": seconds,
            "next_wake": host,
        }

    def finished(self) -> bool:
        """Whether there is nothing left to do: nothing queued that may be asked, nothing in flight."""
        idle = self.why_idle()
        waiting = ("ready", "cooling", "in_flight", "paused", "on_disk", "domain_busy")
        return not any(idle[cause] for cause in waiting) and idle["next_wake_seconds"] is None

    # The disk, for `Spill`

    def spooled(
        self, partition: int, written: Sequence[tuple[str, int, str]], n: int
    ) -> list[tuple[str, int, str]]:
        """The next `n` (host, promise, member) on their way to disk, after those that are `written`."""
        first = " ".join(map(str, written[0])) if written else ""
        found = self._run("spool", partition, len(written), first, n)
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


def _totals(answers: Iterable[list[Any]]) -> Counter[str]:
    """The sum of what the partitions answered to `counts`."""
    totals: Counter[str] = Counter()
    for found in answers:
        totals.update({name.decode(): int(n) for name, n in zip(found[::2], found[1::2], strict=True)})
    return totals


def _lease(found: dict[str, Any], partition: int, **times: Any) -> Lease:
    askers = [Asker(*asker) for asker in found.get("robots_for", ())]
    own = Asker(found["host"], found["origin"], found.get("hops", 0)) if "origin" in found else None
    # A host that was sent back to itself has come as far as that.
    own = max([own, *(asker for asker in askers if asker[:2] == own[:2])]) if own else None
    sought = found["member"] if found["kind"] == "page" else found.get("sought")
    return Lease(
        token=int(found["token"]),
        partition=partition,
        host=found["host"],
        member=found["member"],
        url=url_at(found["host"], found["member"]),
        kind=found["kind"],
        promise=float(found["promise"]) / _PROMISE,
        propensity=found["propensity"],
        attempt=found["attempt"],
        robots_until=int(found["robots_until"]),
        **times,
        fetch_no=found.get("fetch_no", 1),
        etag=found.get("etag", ""),
        last_modified=found.get("last_modified", ""),
        robots_for=tuple(asker for asker in askers if not own or asker[:2] != own[:2]),
        robots_of=own,
        sought=url_at(found["host"], sought) if sought else "",
    )


def _decode(fields: Mapping[bytes, bytes]) -> tuple[Page | list[Seed], int]:
    """What an entry holds, and the bytes that takes."""
    if b"page" in fields:
        plain = inflated(fields[b"page"])
        page = Page.parsed(plain)
        return page, sys.getsizeof(plain) + _LINK_BYTES * len(page.links)
    if b"seeds" in fields:
        return checked(json.loads(fields[b"seeds"])), len(fields[b"seeds"])
    raise PageError("the entry has neither a page nor seeds, or its page is not where it says")
