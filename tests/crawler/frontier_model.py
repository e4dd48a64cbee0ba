"""What a frontier must do, as sets of URLs: what the stores are driven against in `test_frontier_machine`.

Nothing is stored here as the scripts store it. A URL that was met is in exactly one of: queued at its host,
leased, `done`, `dead` or `refused` (with its reason), `skipped`, `gone` (taken down). A host has one lease at
a time.
"""

from dataclasses import dataclass, field
from math import floor

from crawler.frontier import SEED

OF_A_REACHED_HOST = 3  # times as many failed connections until a host is given up that was reached before


@dataclass
class Host:
    index: float
    queued: dict = field(default_factory=dict)  # url -> promise
    lease: object = None
    robots: bool = False  # whether its robots.txt was fetched
    robots_failures: int = 0
    unreached: int = 0  # failed connections since one was made
    no_robots: bool = False
    referrers: set = field(default_factory=set)
    chosen: bool = False
    fetched: int = 0
    paused: bool = False
    gone: bool = False
    rests_until: int = 0  # server's milliseconds, at the least
    unranked: bool = False  # its best URL was taken away while it was ready: its rank is of before

    @property
    def rank(self):
        return max(self.queued.values()) + self.index


class Model:
    """The sets, and the verbs that move URLs between them."""

    def __init__(self, settings):
        self._settings = settings
        self._delay = int(1000 * settings["delay"])
        self.hosts = {}
        self.forgotten = set()  # hosts given up before they were reached: as if they had not been met
        self.met = set()  # whatever may not be discovered again
        self.done, self.brought, self.skipped, self.gone = [], [], set(), set()
        self.dead, self.refused = {}, {}
        self.of_chosen = set()  # of these what is of a host that was chosen
        self.failures = {}
        self.leases = {}  # key -> lease
        self.requests = self.robots = self.discovered = self.failed_connections = 0
        skipped = ("robots", "dropped", "taken_down", "host_given_up")
        self.counted = {f"skipped:{reason}": 0 for reason in skipped}

    def _host(self, name, index=0.0):
        self.forgotten.discard(name)
        return self.hosts.setdefault(name, Host(index))

    def budget(self, host):
        settings = self._settings
        if host.chosen:
            return settings["pages_per_host"]
        earned = settings["pages_per_referring_domain"] * len(host.referrers)
        return min(settings["pages_per_host"], settings["pages_per_found_host"] + earned)

    def eligible(self):
        """Hosts that may be asked as soon as they have rested."""
        return {
            name: host
            for name, host in self.hosts.items()
            if host.queued and not host.lease and not host.paused and host.fetched < self.budget(host)
        }

    # Verbs

    def put(self, name, url, promise, referrer):
        """Returns how many were new."""
        if name in self.forgotten and referrer != SEED:
            self.counted["skipped:host_given_up"] += 1
            return 0
        host = self._host(name)
        if host.gone:
            self.counted["skipped:taken_down"] += 1
            return 0
        if referrer == SEED:
            host.chosen = True
        elif referrer:
            host.referrers.add(referrer)
        new = url not in self.met
        if new or url in host.queued:
            host.queued[url] = promise
        self.met.add(url)
        self.discovered += new
        return int(new)

    def bring(self, name, url):
        """A page that nobody fetched, of a URL that was never asked for; returns how many were new."""
        new = url not in self.met
        self.met.add(url)
        self.discovered += new
        if not new:
            del self.hosts[name].queued[url]
            self.hosts[name].unranked = True
        self.brought.append(url)
        return int(new)

    def lease(self, leases, n, partition_of, at, *, rested):
        """Check what was leased at the server's time `at`; all of what may be, if all hosts have `rested`."""
        eligible = self.eligible()
        names = [lease.host for lease in leases]
        assert len(set(names)) == len(names), "a host twice at once"
        assert set(names) <= set(eligible), "a host that is asked, paused, over its budget or taken down"
        if rested:
            assert len(names) == min(n, len(eligible)), "a host that may be asked is lost"
            self._best_first(names, eligible, partition_of)
        for lease in leases:
            host = self.hosts[lease.host]
            assert at >= host.rests_until, "a host that rests"
            assert lease.key not in self.leases
            assert lease.kind == ("page" if host.robots else "robots")
            failures = self.failures.get(lease.url, 0) if host.robots else host.robots_failures
            assert (lease.attempt, lease.propensity, lease.fetch_no) == (failures + 1, 1, 1)
            if lease.kind == "page":
                assert lease.promise == max(host.queued.values()) == host.queued.pop(lease.url)
            host.lease = self.leases[lease.key] = lease
            host.unranked = False

    def _best_first(self, names, eligible, partition_of):
        """Of each partition the best hosts are taken, the best of them first."""
        for partition in map(partition_of, names):
            here = [name for name in eligible if partition_of(name) == partition]
            if not any(eligible[name].unranked for name in here):
                taken = [eligible[name].rank for name in names if name in here]
                assert taken == sorted((eligible[name].rank for name in here), reverse=True)[: len(taken)]

    def _end(self, lease, at, rest=0, *, sent=False):
        """The lease is over; `at` is the server's time in ms, before that."""
        host = self.hosts[lease.host]
        del self.leases[lease.key]
        host.lease = None
        host.rests_until = max(host.rests_until, at + rest)
        host.fetched += sent
        self.requests += sent
        if sent:
            host.unreached = 0
        return host

    def ack(self, lease, at):
        host = self._end(lease, at, self._delay, sent=True)
        if lease.kind == "page":
            self.done.append(lease.url)
        else:
            host.robots, host.robots_failures, host.no_robots = True, 0, False
            self.robots += 1

    def nack(self, lease, reason, at, *, sent):
        host = self._end(lease, at, self._delay, sent=sent)
        host.no_robots = host.no_robots or lease.kind == "robots"
        if sent:
            self._fail(host, lease, reason, floor(lease.promise * 10_000 / 2) / 10_000)
            return
        if lease.kind == "page":
            host.queued[lease.url] = lease.promise
        host.unreached += 1
        self.failed_connections += host.unreached == 1
        if host.unreached >= self._settings["attempts"] * (OF_A_REACHED_HOST if host.fetched else 1):
            self._bury(host, host.queued, self.dead, reason)
            host.queued.clear()
            host.unreached = 0
            self._forget(lease.host)

    def _forget(self, name):
        """A host that was never reached, and has nothing queued any more, is as if it had not been met."""
        host = self.hosts[name]
        if not host.fetched and not host.paused and not host.queued:
            del self.hosts[name]
            self.forgotten.add(name)

    def expire(self, lease, at):
        host = self._end(lease, at, self._delay)
        self._fail(host, lease, "lease_expired", lease.promise)

    def _fail(self, host, lease, reason, promise):
        if lease.kind == "robots":
            host.robots_failures += 1
            if host.robots_failures >= self._settings["attempts"]:
                self._bury(host, host.queued, self.dead, reason)
                host.queued.clear()
                self._forget(lease.host)
            return
        self.failures[lease.url] = self.failures.get(lease.url, 0) + 1
        if self.failures[lease.url] < self._settings["attempts"]:
            host.queued[lease.url] = promise
        else:
            self._bury(host, [lease.url], self.dead, reason)
            del self.failures[lease.url]

    def _bury(self, host, urls, letters, reason):
        letters |= dict.fromkeys(urls, reason)
        self.of_chosen.difference_update(urls)
        self.of_chosen.update(urls if host.chosen else ())

    def _letter(self, url):
        """Whether there was one of this URL; it is none any more."""
        refused = self.refused.pop(url, None)
        self.counted["skipped:robots"] -= refused is not None
        return refused is not None or self.dead.pop(url, None) is not None

    def skip(self, lease, at):
        host = self._end(lease, at)
        over = {lease.url}
        if lease.kind == "robots":
            over = set(host.queued)
            host.queued.clear()
        self._bury(host, over, self.refused, "robots")
        if lease.kind == "robots":
            self._forget(lease.host)
        self.failures.pop(lease.url, None)
        self.counted["skipped:robots"] += len(over)

    def give_back(self, lease, at):
        host = self._end(lease, at)
        if lease.kind == "page":
            host.queued[lease.url] = lease.promise

    def steer(self, name, index):
        if name in self.hosts:
            self.hosts[name].index = index

    def pause(self, name, *, paused):
        self._host(name).paused = paused

    def take_down_host(self, name):
        """Returns whether it was met."""
        known = name in self.hosts
        host = self._host(name)
        host.gone = True
        urls = list(host.queued)
        if host.lease:
            urls += [host.lease.url] * (host.lease.kind == "page")
            del self.leases[host.lease.key]
            host.lease = None
        host.queued.clear()
        self.gone.update(urls)
        self.counted["skipped:taken_down"] += len(urls)
        return known

    def take_down_url(self, name, url):
        """Returns whether it was queued, leased, or dead."""
        self.met.add(url)
        letter = self._letter(url)
        if url not in (*self.done, *self.brought, *self.skipped):
            self.gone.add(url)
        host = self.hosts.get(name)
        if host is None:
            self.counted["skipped:taken_down"] += letter
            return letter
        leased = host.lease is not None and host.lease.url == url
        if leased:
            del self.leases[host.lease.key]
            host.lease = None
        queued = host.queued.pop(url, None) is not None
        host.unranked = host.unranked or queued
        self.counted["skipped:taken_down"] += leased or queued or letter
        return leased or queued or letter

    def retry(self, name, url, promise):
        """Returns whether it is queued again."""
        if not self._letter(url):
            return False
        host = self._host(name)
        if host.gone:
            self.gone.add(url)
            self.counted["skipped:taken_down"] += 1
            return False
        host.chosen |= url in self.of_chosen
        host.queued[url] = promise
        return True

    def drop(self, url):
        """Returns whether it was a dead letter."""
        if not self._letter(url):
            return False
        self.skipped.add(url)
        self.counted["skipped:dropped"] += 1
        return True

    # What must be so at any time

    def counts(self):
        return self.counted | {
            "discovered": self.discovered,
            "queued": sum(len(host.queued) for host in self.hosts.values()),
            "leased": len(self.leases),
            "fetched": self.requests,
            "failed_connections": self.failed_connections,
            "robots": self.robots,
            "pages": len(self.done),
            "backlog": len(self.done) + len(self.brought),
            "brought": len(self.brought),
            "dead": len(self.dead),
            "refused": len(self.refused),
        }

    def check(self):
        """Nothing that was met is lost, and nothing is in two places."""
        queued = [url for host in self.hosts.values() for url in host.queued]
        leased = [lease.url for lease in self.leases.values() if lease.kind == "page"]
        where = [
            *queued,
            *leased,
            *self.done,
            *self.brought,
            *self.dead,
            *self.refused,
            *self.skipped,
            *self.gone,
        ]
        assert sorted(where) == sorted(self.met)
