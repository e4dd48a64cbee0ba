"""Crawls of a recorded web under any policy: what would have been fetched when, and what it was worth.

The policy is the one that steers a real crawl, with the same evidence: the simulator shows it a page's worth
and links once it was fetched, and never before. A budget counts fetches. With a clock, time is simulated too:
a host rests after each fetch, and a policy has the choice of those hosts that may be asked.
"""

import heapq
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from ranker.graph import Fetch, LinkGraph, Rows, Target, describe
from ranker.policy import Moves, Policy
from ranker.replay.web import RecordedWeb
from tinylm.config import require

# Queued URLs that are priced again where any may have moved: half of them the best, the rest in turn.
_PRICED_AGAIN = 2000


@dataclass(frozen=True, kw_only=True)
class Clock:
    """Simulated time: seconds a host rests after a fetch, a fetch takes, and how many go on at once."""

    delay: float = 1.0
    latency: float = 0.1
    workers: int = 16

    def __post_init__(self) -> None:
        for name, least in (("delay", 0), ("latency", 0), ("workers", 1)):
            require(self, name, getattr(self, name) >= least, f"must be at least {least}")


@dataclass(frozen=True)
class Harvest:
    """A simulated crawl."""

    pages: NDArray[np.int64]
    """(fetches,) In the order they were fetched."""
    worth: NDArray[np.float64]
    """(fetches,)"""
    at: NDArray[np.float64]
    """(fetches,) When each fetch was over, in simulated seconds; without a clock its number."""
    policy_seconds: float
    """Time spent in the policy. Not CPU time: asking for that can cost more than the policy does."""


class Simulation:
    """Crawls of one recorded web; keeps what is known of its URLs from one crawl to the next."""

    def __init__(self, web: RecordedWeb) -> None:
        self.web = web
        self._describe = cache(describe)

    def crawl(
        self,
        make: Callable[[LinkGraph], Policy],
        start: NDArray[np.int64],
        budget: int,
        *,
        clock: Clock | None = None,
        exploration: float = 0.0,
        seed: int = 0,
        worth: Callable[[int], float] | None = None,
    ) -> Harvest:
        """Fetch at most `budget` pages, from `start` on, in the order of the policy that `make` makes.

        `worth`: of a page at the moment it is fetched, if that depends on what was fetched before; it is
        called once a fetch, and without it a page is worth what the recording says.
        """
        queue = Queue(LinkGraph(self._describe))
        worth = worth or self.web.worth.__getitem__
        crawl = _Crawl(self.web, worth, queue, make(queue.graph), exploration, np.random.default_rng(seed))
        crawl.begin(start)
        done = list(crawl.timed(budget, clock) if clock else crawl.one_by_one(budget))
        pages = np.array([page for page, _ in done], np.int64)
        at = np.array([moment for _, moment in done], np.float64)
        return Harvest(pages, np.array(crawl.worth, np.float64), at, crawl.policy_seconds)


class Queue:
    """What queued URLs promise, by row of the graph."""

    def __init__(self, graph: LinkGraph) -> None:
        self.graph = graph
        self.promise = np.zeros(0)
        self._turn = 0

    def add(self, rows: Rows) -> None:
        """URLs are queued, and promise nothing yet."""
        missing = len(self.graph.order) - len(self.promise)
        self.promise = np.append(self.promise, np.full(missing, -np.inf))
        self.promise[rows] = 0.0

    def remove(self, row: int) -> None:
        """A URL is being fetched."""
        self.promise[row] = -np.inf

    def rows(self) -> Rows:
        """All of them."""
        return np.flatnonzero(self.promise > -np.inf)

    def some(self, count: int) -> Rows:
        """The best and, in turn, some of the others; all of them if there are no more than `count`."""
        rows = self.rows()
        if len(rows) <= count:
            return rows
        half = count // 2
        best = rows[np.argpartition(-self.promise[rows], half)[:half]]
        turn = rows[self._turn % len(rows) :][:half]
        self._turn = 0 if self._turn + half >= len(rows) else self._turn + half
        return np.union1d(best, turn)

    def best(self, index: NDArray[np.float64], count: int) -> list[int]:
        """Rows of the highest index, best first; of equal ones the first discovered first."""
        count = min(count, int(np.sum(index > -np.inf)))
        if not count:
            return []
        least = index.max() if count == 1 else np.partition(index, -count)[-count]
        rows = np.flatnonzero(index >= least)
        ordered: list[int] = rows[np.lexsort((self.graph.order[rows], -index[rows]))][:count].tolist()
        return ordered


class _Crawl:
    """The state of one simulated crawl."""

    def __init__(
        self,
        web: RecordedWeb,
        worth_of: Callable[[int], float],
        queue: Queue,
        policy: Policy,
        exploration: float,
        random: np.random.Generator,
    ) -> None:
        self._web, self._worth_of, self._queue, self._policy = web, worth_of, queue, policy
        self._graph = queue.graph
        self._exploration, self._random = exploration, random
        self._linked: list[Rows] = []
        self._learned: list[int] = []
        self._bonus = np.zeros(0)
        self.worth: list[float] = []
        """Of the fetches that are over."""
        self.policy_seconds = 0.0

    def begin(self, start: NDArray[np.int64]) -> None:
        """Queue the pages to start from."""
        rows = (self._graph.seed(self._target(page), 0.0, 1.0) for page in start.tolist())
        self._linked.append(np.array([row for row in rows if row is not None], np.int64))
        self._queue.add(self._linked[0])

    def one_by_one(self, budget: int) -> Iterator[tuple[int, float]]:
        """Fetch the best, without any rests; yields pages and their number."""
        while len(self.worth) < budget:
            self._price()
            rows = self._choose(min(self._batch(), budget - len(self.worth)), None)
            if not rows:
                return
            for row in rows:
                page = self._take(row)
                self._finish(row, page)
                yield page, float(len(self.worth))

    def timed(self, budget: int, clock: Clock) -> Iterator[tuple[int, float]]:
        """Fetch the best of the hosts that may be asked; yields pages and when they were there."""
        now, rests = 0.0, np.zeros(0)  # (hosts,): until when each may not be asked
        under_way: list[tuple[float, int, int, int]] = []
        begun = unlearned = 0
        self._price()
        while begun < budget or under_way:
            waiting = self._graph.waiting
            rests = np.append(rests, np.zeros(len(waiting) - len(rests)))
            idle = begun < budget and len(under_way) < clock.workers
            if idle and (rows := self._choose(1, rests <= now)):
                begun += 1
                rests[self._graph.host[rows[0]]] = np.inf
                heapq.heappush(under_way, (now + clock.latency, begun, rows[0], self._take(rows[0])))
                continue
            wakes = float(np.min(rests[waiting > 0], initial=np.inf)) if idle else np.inf
            if not under_way and wakes == np.inf:
                return
            if under_way and under_way[0][0] <= wakes:
                now, _, row, page = heapq.heappop(under_way)
                rests[self._graph.host[row]] = now + clock.delay
                self._finish(row, page)
                yield page, now
                unlearned += 1
                if unlearned >= self._batch():
                    self._price()
                    unlearned = 0
            else:
                now = wakes

    def _target(self, page: int) -> Target:
        return Target(page, self._web.urls[page])

    def _batch(self) -> int:
        """Pages between two lessons: few at first, one more every 20 fetches."""
        return min(self._policy.batch, 1 + len(self.worth) // 20)

    def _price(self) -> None:
        began = time.perf_counter()
        self._policy.learn()
        self._graph.release(self._learned)
        self._learned = []
        queued = self._queue
        rows = np.unique(np.concatenate([*self._linked, np.zeros(0, np.int64)]))
        self._linked = []
        rows = rows[queued.promise[rows] > -np.inf]
        if self._policy.moves is Moves.BEST:
            rows = np.union1d(rows, queued.some(_PRICED_AGAIN))
        elif self._policy.moves is Moves.ALL:
            rows = queued.rows()
        queued.promise[rows] = self._policy.promise(rows)
        self._bonus = self._policy.host_bonus(np.arange(self._graph.hosts))
        self.policy_seconds += time.perf_counter() - began

    def _choose(self, count: int, ready: NDArray[np.bool_] | None) -> list[int]:
        """Rows to fetch next, of hosts that are ready."""
        promise, host = self._queue.promise, self._graph.host[: len(self._queue.promise)]
        index = promise
        if self._bonus.any():
            index = promise + np.append(self._bonus, np.zeros(len(self._graph.waiting)))[host]
        if ready is not None:
            index = np.where(ready[host], index, -np.inf)
        drawn = int(self._random.binomial(count, self._exploration))
        rows = self._queue.best(index, count - drawn)
        return rows + self._draw(index, rows, drawn) if drawn else rows

    def _draw(self, index: NDArray[np.float64], taken: list[int], count: int) -> list[int]:
        """Rows at random: a host of those that may be asked, and one of its URLs."""
        left = index > -np.inf
        left[taken] = False
        drawn: list[int] = []
        while len(drawn) < count and left.any():
            rows = np.flatnonzero(left)
            hosts = self._graph.host[rows]
            drawn.append(int(self._random.choice(rows[hosts == self._random.choice(np.unique(hosts))])))
            left[drawn[-1]] = False
        return drawn

    def _take(self, row: int) -> int:
        page = int(self._graph.key[row])
        self._queue.remove(row)
        self._graph.take(self._target(page))
        return page

    def _finish(self, row: int, page: int) -> None:
        """A page is there: what it is worth and where it links to becomes known."""
        worth = float(self._worth_of(page))
        self.worth.append(worth)
        targets = [self._target(target) for target in self._web.links(page).tolist()]
        linked, discovered = self._graph.link(row, self._web.urls[page], worth, targets)
        self._queue.add(discovered)
        self._linked.append(linked)
        self._learned.append(row)
        began = time.perf_counter()
        self._policy.observe(Fetch(row, worth, targets, discovered))
        self.policy_seconds += time.perf_counter() - began


class GreedyOracle(Policy):
    """Not honest: it knows the worth of every page that was discovered, as if that cost nothing."""

    name = "oracle-greedy"

    def __init__(self, graph: LinkGraph, worth: NDArray[np.float64]) -> None:
        super().__init__(graph)
        self._worth = worth

    def promise(self, rows: Rows) -> NDArray[np.float64]:
        return self._worth[self._graph.key[rows].astype(np.int64)]


class Craw4LLMOracle(GreedyOracle):
    """Not honest: the same, a batch of 1/2000 of the budget at a time (Craw4LLM, Yu et al. 2025)."""

    name = "oracle-craw4llm"

    def __init__(self, graph: LinkGraph, worth: NDArray[np.float64], budget: int) -> None:
        super().__init__(graph, worth)
        self.batch = max(1, budget // 2000)
