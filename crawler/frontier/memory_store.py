"""`MemoryStore`: the frontier's transitions in Python, to be read and to be compared with.

The executable specification: a method a script, with the script's name, arguments and answers (`lua/*.lua`
say what they are). It has no queue that overflows, so nothing ever goes to disk; it dies with its process.
"""

import json
import math
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_LATER, _SOONER, _WIDEST = 1.4, 0.8, 64
_LONGEST_BACKOFF = 24 * 3600 * 1000
_FULL_MS, _LONGEST_LINE_MS = 250, 60_000


@dataclass(slots=True)
class Host:
    """One host; times in milliseconds. In flight: its `inflight` is the token of its lease."""

    next: int = 0
    index: float = 0.0
    queue: dict[str, int] = field(default_factory=dict)
    fetched: int = 0
    inflight: int | None = None
    ready: bool = False
    spent: bool = False
    strikes: int = 0
    blocked: int = 0
    paused: bool = False
    gone: bool = False
    chosen: bool = False
    referrers: set[int] = field(default_factory=set)
    robots: bytes = b""
    robots_until: int = 0
    no_robots: bool = False
    crawl_delay: int = 0

    @property
    def best(self) -> str:
        """The member that promises most; of equals the last by name, as a Redis ZSET has it."""
        return max(self.queue, key=lambda member: (self.queue[member], member))

    @property
    def rank(self) -> int:
        """In millionths."""
        return math.floor(self.queue[self.best] * 100 + self.index * 1_000_000 + 0.5)


Url = tuple[str, str]
Lease = dict[str, Any]


class Partition:
    """The state of one partition, and its transitions."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self._now = clock
        self._random = random.Random()
        self.hosts: dict[str, Host] = {}
        self.seen: set[tuple[int, int]] = set()
        self.gone: set[Url] = set()
        self.leases: dict[int, tuple[int, Lease]] = {}
        self.attempts: Counter[Url] = Counter()
        self.dead_urls: dict[Url, bytes] = {}
        self.revisits: dict[Url, dict[str, Any]] = {}
        self.due: dict[Url, float] = {}
        self.counted: Counter[str] = Counter()
        self.hashes: dict[str, dict[str, bytes]] = {}
        self.stream: list[tuple[str, dict[bytes, bytes]]] = []
        self.token = 0
        self.held: dict[str, int] = {}
        self.free_at, self.line = 0, 0.0

    # Discovery

    def push(self, index: float, _hot: int, _disk: int, most_referrers: int, *links: Any) -> int:
        total, rest = 0, list(links)
        while rest:
            name, referrers = rest[0], rest[2 : 2 + rest[1]]
            first = 3 + rest[1]
            count = rest[first - 1]
            part, rest = rest[first : first + 4 * count], rest[first + 4 * count :]
            host = self.hosts.get(name)
            if host is None:
                host = self.hosts[name] = Host(next=self._now(), index=float(index))
                self.counted["hosts"] += 1
            if host.gone:
                self.counted["skipped:taken_down"] += count
                continue
            self._refer(host, referrers, most_referrers)
            total += self._queue(host, part)
        self.counted["discovered"] += total
        self.counted["queued"] += total
        return total

    def _refer(self, host: Host, referrers: Sequence[Any], most: int) -> None:
        before = host.chosen, len(host.referrers)
        for referrer in referrers:
            if referrer == "seed":
                host.chosen = True
            elif len(host.referrers) < most:
                host.referrers.add(referrer)
        if before != (host.chosen, len(host.referrers)):
            host.spent = False

    def _queue(self, host: Host, links: Sequence[Any]) -> int:
        new = 0
        for member, promise, shard, low in zip(*(links[n::4] for n in range(4)), strict=True):
            if (shard, low) not in self.seen:
                self.seen.add((shard, low))
                host.queue[member] = promise
                new += 1
            elif member in host.queue:
                host.queue[member] = promise
        return new

    # Leasing

    def lease(
        self, n: int, ttl: int, exploration: float, limit: int, seed: int,
        _delay: int, _margin: int, _hot: int, most: int, found: int, each: int,
    ) -> list[bytes]:  # fmt: skip
        if len(self.stream) >= limit:
            return []
        self._random.seed(seed)
        self._requeue_due()
        for host in self.hosts.values():
            if self._cools(host) and host.next <= self._now():
                budget = most if host.chosen else min(most, found + each * len(host.referrers))
                host.spent = host.fetched >= budget
                host.ready = not host.spent
        leases: list[bytes] = []
        while len(leases) < n and (ready := self._ready()):
            name, explored = self._choose_host(ready, exploration)
            host = self.hosts[name]
            lease = self._choose_url(name, explored, exploration, ready)
            host.ready = False
            if lease is None:
                continue
            self.token += 1
            lease["token"] = host.inflight = self.token
            self.leases[self.token] = self._now() + ttl, lease
            leases.append(json.dumps(lease).encode())
        return leases

    def _ready(self) -> list[str]:
        """Ready hosts, best first; of equals the last by name."""
        names = [name for name, host in self.hosts.items() if host.ready and host.queue]
        return sorted(names, key=lambda name: (self.hosts[name].rank, name), reverse=True)

    def _cools(self, host: Host) -> bool:
        idle = host.inflight is None and not (host.ready or host.spent or host.paused)
        return idle and bool(host.queue)

    def _choose_host(self, ready: list[str], exploration: float) -> tuple[str, bool]:
        explored = exploration > 0 and self._random.random() < exploration
        return (self._random.choice(ready) if explored else ready[0]), explored

    def _choose_url(self, name: str, explored: bool, exploration: float, ready: list[str]) -> Lease | None:
        host = self.hosts[name]
        lease: Lease = {"host": name, "kind": "page", "robots_until": host.robots_until}
        best = host.best
        if host.robots_until <= self._now():
            member = re.match(r"[^/]*", best)[0] + "/robots.txt"  # type: ignore[index]
            attempt = 1 + self.attempts[name, member]
            return lease | {
                "kind": "robots", "member": member, "promise": 0, "propensity": 1, "attempt": attempt
            }  # fmt: skip
        member = self._random.choice(sorted(host.queue)) if explored else best
        propensity = exploration / (len(ready) * len(host.queue))
        if name == ready[0] and member == best:
            propensity += 1 - exploration
        promise = host.queue.pop(member)
        self.counted["queued"] -= 1
        if (name, member) in self.gone:
            self.counted["skipped:taken_down"] += 1
            return None
        lease |= {"member": member, "promise": promise, "propensity": propensity}
        lease["attempt"] = 1 + self.attempts[name, member]
        if before := self.revisits.get((name, member)):
            lease["fetch_no"] = before["fetch_no"] + 1
            lease |= {name: before[name] for name in ("etag", "last_modified")}
        return lease

    def _requeue_due(self) -> None:
        for (name, member), at in list(self.due.items()):
            if at <= self._now():
                del self.due[name, member]
                self.hosts[name].queue[member] = self.revisits[name, member]["promise"]
                self.counted["queued"] += 1

    # Ends of a lease

    def _take(self, token: int) -> tuple[Lease, Host] | None:
        """The fence: None if the lease was reaped or finished before."""
        if token not in self.leases:
            return None
        _, lease = self.leases.pop(token)
        host = self.hosts[lease["host"]]
        host.inflight = None
        return lease, host

    def _place(self, host: Host, at: int) -> None:
        host.next = max(at, host.blocked)
        host.ready = host.spent = False

    def _rest(self, host: Host, wanted: int) -> int:
        return self._now() + max(host.crawl_delay, wanted)

    def _count_request(self, host: Host, size: int) -> None:
        host.fetched += 1
        self.counted.update({"fetched": 1, "bytes": size})

    def _append(self, kind: bytes, content: bytes) -> None:
        last = self.stream[-1][0].split("-") if self.stream else ["0", "0"]
        entry_id = f"{self._now()}-0"
        if self._now() <= int(last[0]):
            entry_id = f"{last[0]}-{int(last[1]) + 1}"
        self.stream.append((entry_id, {kind: content}))

    def ack(self, again: int, _name: str, pages: bytes, *ends: Any) -> list[int]:
        return [self._ack(again, pages, *end) for end in zip(*(ends[n::7] for n in range(7)), strict=True)]

    def _ack(
        self, again: int, pages: bytes, token: int, rest: int, size: int,
        part: str, digest: str, etag: str, modified: str,
    ) -> int:  # fmt: skip
        if not (taken := self._take(token)):
            return 0
        lease, host = taken
        url = lease["host"], lease["member"]
        host.strikes = 0
        del self.attempts[url]
        self._count_request(host, size)
        if part:
            first, length = map(int, part.split())
            self._append(b"page", pages[first : first + length])
        self.counted["pages"] += 1
        if again:
            before = self.revisits.get(url, {})
            every: float = again
            if before:
                every = before["every"] * (_LATER if digest in ("", before["digest"]) else _SOONER)
                every = max(again / _WIDEST, min(again * _WIDEST, every))
            self.revisits[url] = {
                "fetch_no": lease.get("fetch_no", 1),
                "every": every,
                "digest": digest or before.get("digest", ""),
                "promise": lease["promise"],
                "etag": etag,
                "last_modified": modified,
            }
            self.due[url] = self._now() + every
        self._place(host, self._rest(host, rest))
        return 1

    def robots(
        self, token: int, rest: int, size: int, page: bytes, rules: str, valid: int, crawl_delay: int
    ) -> int:
        if not (taken := self._take(token)):
            return 0
        lease, host = taken
        host.strikes, host.no_robots = 0, False
        del self.attempts[lease["host"], lease["member"]]
        self._count_request(host, size)
        self.counted["robots"] += 1
        if page:
            self._append(b"page", page)
            self.counted["pages"] += 1
        host.robots, host.robots_until, host.crawl_delay = rules.encode(), self._now() + valid, crawl_delay
        self._place(host, self._rest(host, rest))
        return 1

    def nack(
        self, token: int, reason: str, rest: int, asked: int, base: int, limit: int, sent: int, size: int
    ) -> int:
        if not (taken := self._take(token)):
            return 0
        lease, host = taken
        host.no_robots |= lease["kind"] == "robots"
        if sent:
            self._count_request(host, size)
        self._back_off(host, asked, base)
        self._fail(lease, host, reason, limit, math.floor(lease["promise"] / 2))
        self._place(host, self._rest(host, rest))
        return 1

    def _back_off(self, host: Host, asked: int, base: int) -> bool:
        if asked:
            host.blocked = self._now() + asked
        elif base:
            host.strikes += 1
            host.blocked = self._now() + min(base * 2 ** (host.strikes - 1), _LONGEST_BACKOFF)
        return bool(asked or base)

    def done(self, token: int, rest: int, asked: int, base: int, size: int) -> int:
        if not (taken := self._take(token)):
            return 0
        lease, host = taken
        del self.attempts[lease["host"], lease["member"]]
        self.hashes.get("requests", {}).pop(f"{lease['host']} {lease['member']}", None)
        self._count_request(host, size)
        self.counted["done"] += 1
        if not self._back_off(host, asked, base):
            host.strikes = 0
        self._place(host, self._rest(host, rest))
        return 1

    def skip(self, token: int, reason: str, wait: int) -> int:
        if not (taken := self._take(token)):
            return 0
        lease, host = taken
        if not reason:
            self._requeue(lease, host, lease["promise"])
        elif lease["kind"] == "robots":
            self.counted["skipped:" + reason] += len(self._take_queue(host))
        else:
            del self.attempts[lease["host"], lease["member"]]
            self.counted["skipped:" + reason] += 1
        self._place(host, max(host.next, self._now() + wait))
        return 1

    def reap(self, rest: int, limit: int, most: int) -> int:
        expired = [token for token, (deadline, _) in self.leases.items() if deadline <= self._now()][:most]
        for token in expired:
            lease, host = self._take(token)  # type: ignore[misc]
            self._fail(lease, host, "lease_expired", limit, lease["promise"])
            self._place(host, self._rest(host, rest))
        return len(expired)

    def _requeue(self, lease: Lease, host: Host, promise: int) -> None:
        if lease["kind"] == "page":
            host.queue[lease["member"]] = promise
            self.counted["queued"] += 1

    def _fail(self, lease: Lease, host: Host, reason: str, limit: int, promise: int) -> None:
        name, url = lease["host"], (lease["host"], lease["member"])
        self.attempts[url] += 1
        self.counted["failed:" + reason] += 1
        if self.attempts[url] < limit:
            self._requeue(lease, host, promise)
        elif lease["kind"] == "page":
            del self.attempts[url]
            self._bury(url, reason)
        else:
            for member in self._take_queue(host):
                self._bury((name, member), reason)

    def _take_queue(self, host: Host) -> list[str]:
        members, host.queue = list(host.queue), {}
        self.counted["queued"] -= len(members)
        return members

    def _bury(self, url: Url, reason: str) -> None:
        self.dead_urls[url] = json.dumps({"reason": reason, "at": self._now()}).encode()
        self.counted["dead"] += 1

    # What people say

    def host(self, name: str, what: str, wait: int = 0) -> int:
        known = name in self.hosts
        host = self.hosts.setdefault(name, Host(next=self._now()))
        if what in ("pause", "resume"):
            host.paused = what == "pause"
        elif what == "block":
            host.blocked = self._now() + wait
        else:
            host.gone = True
            if host.inflight and (taken := self._take(host.inflight)):
                self.counted["skipped:taken_down"] += taken[0]["kind"] == "page"
            self.counted["skipped:taken_down"] += len(self._take_queue(host))
        if host.inflight is None:
            self._place(host, host.next)
        return int(known)

    def url(self, name: str, member: str, shard: int, low: int, what: str, promise: int = 0) -> int:
        url = name, member
        if what in ("retry", "drop"):
            if self.dead_urls.pop(url, None) is None:
                return 0
            self.counted["dead"] -= 1
            if what == "retry":
                self.hosts[name].queue[member] = promise
                self.counted["queued"] += 1
            else:
                self.counted["skipped:dropped"] += 1
            return 1
        self.seen.add((shard, low))
        self.gone.add(url)
        self.due.pop(url, None)
        self.revisits.pop(url, None)
        host = self.hosts.get(name, Host())
        dead, queued = self.dead_urls.pop(url, None), host.queue.pop(member, None)
        self.counted.update({"dead": -(dead is not None), "queued": -(queued is not None)})
        leased = host.inflight is not None and self.leases[host.inflight][1]["member"] == member
        if leased and host.inflight:
            self._take(host.inflight)
            self._place(host, host.next)
        was = dead is not None or queued is not None or leased
        self.counted["skipped:taken_down"] += was
        return int(was)

    # The policy's and the walker's

    def steer(self, *indices: str) -> int:
        for name, index in zip(indices[::2], indices[1::2], strict=True):
            if name in self.hosts:
                self.hosts[name].index = float(index)
        return 1

    def wake(self) -> int:
        for host in self.hosts.values():
            host.spent = False
        return 1

    def best(self, n: int, *names: str) -> list[Any]:
        if not names:
            return [name.encode() for name in self._ready()[:n]]
        queues = [self.hosts.get(name, Host()).queue for name in names]
        return [
            [member.encode() for _, member in sorted(((p, m) for m, p in queue.items()), reverse=True)[:n]]
            for queue in queues
        ]

    def seeds(self, content: str) -> int:
        self._append(b"seeds", content.encode())
        return 1

    def trim(self, after: str) -> int:
        self.stream = [entry for entry in self.stream if _order(entry[0]) >= _order(after)]
        return 1

    # Notes and figures

    def open(self, name: str, value: Any) -> bytes:
        return self.hashes.setdefault("meta", {}).setdefault(name, _bytes(value))

    def note(self, hash_name: str, name: str, value: str, keep: int = 0) -> int:
        notes = self.hashes.setdefault(hash_name, {})
        if value == "":
            notes.pop(name, None)
        elif keep and name in notes:
            return 0
        else:
            notes[name] = _bytes(value)
        return 1

    def noted(self, hash_name: str, *names: str) -> list[bytes | None]:
        notes = self.hashes.get(hash_name, {})
        if not names:
            return [part for name, value in notes.items() for part in (name.encode(), value)]
        return [notes.get(name) for name in names]

    def rules(self, name: str) -> bytes | None:
        return self.hosts[name].robots if name in self.hosts else None

    def dead(self) -> list[bytes]:
        return [
            part for (name, m), value in self.dead_urls.items() for part in (f"{name} {m}".encode(), value)
        ]

    def counts(self) -> list[Any]:
        found = self.counted | Counter(leased=len(self.leases), backlog=len(self.stream))
        return [part for name, value in found.items() for part in (name.encode(), value)]

    def idle(self) -> list[int]:
        hosts = self.hosts.values()
        cooling = [host for host in hosts if self._cools(host)]
        wakes = [*(host.next for host in cooling), *map(int, self.due.values())]
        ready = len(self._ready())
        wake = max(0, min(wakes) - self._now()) if wakes else -1
        return [
            ready,
            len(cooling),
            sum(host.blocked >= self._now() for host in hosts),
            len(self.leases),
            sum(host.spent for host in hosts),
            sum(host.paused and host.inflight is None for host in hosts),
            0,
            sum(host.no_robots for host in hosts),
            0 if ready else wake,
        ]

    # Requests of spiders without a walker, and addresses

    def keep(self, url: str, request: bytes, shard: int, low: int) -> int:
        if (shard, low) in self.seen:
            return 0
        self.hashes.setdefault("requests", {}).setdefault(url, request)
        return 1

    def hold_ip(self, holder: str, most: int, gap: int, longest: int) -> int:
        now = self._now()
        self.held = {name: until for name, until in self.held.items() if until > now}
        full = most > 0 and len(self.held) >= most
        if full or self.free_at > now:
            step = max(gap, _FULL_MS / most) if full else gap
            self.line = min(max(self.line, self.free_at, now) + step, now + _LONGEST_LINE_MS)
            return math.ceil(self.line - step) - now + 1
        self.held[holder] = now + longest
        self.free_at = now + gap
        return 0

    def release_ip(self, holder: str) -> int:
        return int(self.held.pop(holder, None) is not None)

    # Nothing is ever on disk

    def spool(self, _written: int, _n: int) -> list[bytes]:
        return []

    def thirst(self, _n: int) -> list[bytes]:
        return []

    def refill(self, *_: Any) -> int:
        return 0


class MemoryStore:
    """Partitions by prefix; `clock` gives epoch seconds."""

    restarts = 0

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._partitions: dict[str, Partition] = {}

    def _partition(self, prefix: str) -> Partition:
        return self._partitions.setdefault(prefix, Partition(lambda: int(self._clock() * 1000)))

    def check(self) -> None:
        """There is always a store."""

    def close(self) -> None:
        """Nothing is held."""

    def run(self, script: str, prefix: str, *args: Any) -> Any:
        """What `script` returns for a partition."""
        return getattr(self._partition(prefix), script)(*args)

    def run_all(self, calls: Sequence[tuple[str, str, tuple[Any, ...]]]) -> list[Any]:
        """The results of many (script, prefix, arguments)."""
        return [self.run(script, prefix, *args) for script, prefix, args in calls]

    def read(
        self, prefixes: Mapping[str, str], n: int, wait: float
    ) -> list[tuple[str, str, dict[bytes, bytes]]]:
        """Up to `n` stream entries a partition after the id given for its prefix."""
        give_up = time.monotonic() + wait
        while True:
            found = [
                (prefix, entry_id, fields)
                for prefix, after in prefixes.items()
                for entry_id, fields in [
                    entry for entry in self._partition(prefix).stream if _order(entry[0]) > _order(after)
                ][:n]
            ]
            if found or time.monotonic() >= give_up:
                return found
            time.sleep(0.005)


def _order(entry_id: str) -> tuple[int, int]:
    milliseconds, _, sequence = entry_id.partition("-")
    return int(milliseconds), int(sequence or 0)


def _bytes(value: Any) -> bytes:
    return str(value).encode()
