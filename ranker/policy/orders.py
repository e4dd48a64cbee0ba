"""The crawl orders of the literature, with which `tinylm` (`ranker.policy.promise`) is compared.

Their promises are what they order by, mapped to numbers from 0 to 1.
"""

import math
from array import array
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranker.graph import Fetch, LinkGraph, Rows
from ranker.links.centrality import Graph, pagerank
from ranker.policy.policy import Floats, Moves

_AMONG_EQUALS = 1e-3
"""Weight of the order within a host where hosts alone are compared."""
_UCB = 0.5
_RANK_TOLERANCE = 1e-4


class Order:
    """A policy that learns nothing but what the graph knows anyway."""

    name = ""
    batch = 1
    moves = Moves.LINKED

    def __init__(self, graph: LinkGraph) -> None:
        self._graph = graph

    def observe(self, fetch: Fetch) -> None:
        """Nothing to learn."""

    def learn(self) -> None:
        """Nothing to learn."""

    def promise(self, rows: Rows) -> Floats:
        """(n,) What the queued URLs of (n,) rows promise."""
        raise NotImplementedError

    def explain(self, rows: Rows) -> list[tuple[str, Floats]]:
        """The order itself."""
        return [(self.name, self.promise(rows))]

    def host_bonus(self, hosts: Rows) -> Floats:
        """Hosts are compared by their best URL."""
        return np.zeros(len(hosts))

    def state(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Nothing to go on from."""


class Random(Order):
    """Uniform, once and for all."""

    name = "random"

    def promise(self, rows: Rows) -> Floats:
        order = self._graph.order[rows].astype(np.uint64)
        return _mix(order) / 2.0**64


class BreadthFirst(Order):
    """Najork & Wiener 2001."""

    name = "bfs"

    def promise(self, rows: Rows) -> Floats:
        return 1 / (1.0 + self._graph.depth[rows])


class DepthFirst(Order):
    """The latest discovery first."""

    name = "dfs"

    def promise(self, rows: Rows) -> Floats:
        return _bounded(self._graph.order[rows])


class InDegree(Order):
    """Links seen so far (Cho, Garcia-Molina & Page 1998)."""

    name = "indegree"

    def promise(self, rows: Rows) -> Floats:
        return _bounded(self._graph.inlinks[rows])


class Opic(Order):
    """Cash that links brought (Abiteboul, Preda & Cobena 2003)."""

    name = "opic"

    def promise(self, rows: Rows) -> Floats:
        return _bounded(self._graph.equity[rows])


class ParentFirst(Order):
    """Worth of the page that discovered it (QFirst, Pezzuti et al. 2025)."""

    name = "parent-first"

    def promise(self, rows: Rows) -> Floats:
        return _bounded(self._graph.first_parent[rows])


class ParentMin(Order):
    """Least worth of the pages that link to it (QMin, Pezzuti et al. 2025)."""

    name = "parent-min"

    def promise(self, rows: Rows) -> Floats:
        return _bounded(self._graph.worst_parent[rows])


class ParentMean(Order):
    """Mean worth of the pages that link to it."""

    name = "parent-mean"

    def promise(self, rows: Rows) -> Floats:
        return _bounded(self._graph.parents_worth[rows] / np.maximum(1, self._graph.inlinks[rows]))


class ParentSum(Order):
    """Sum of the worth of the pages that link to it."""

    name = "parent-sum"

    def promise(self, rows: Rows) -> Floats:
        return _bounded(self._graph.parents_worth[rows])


class LargerSites(Order):
    """The host with the longest queue first (Baeza-Yates et al. 2005); within it breadth first."""

    name = "larger-sites"

    def promise(self, rows: Rows) -> Floats:
        return _AMONG_EQUALS / (1 + self._graph.depth[rows].astype(np.float64))

    def host_bonus(self, hosts: Rows) -> Floats:
        return self._graph.waiting[hosts].astype(np.float64)


class HostBandit(Order):
    """UCB1 (Auer et al. 2002) with hosts as arms, their means shrunk; within a host breadth first."""

    name = "host-bandit"

    def __init__(self, graph: LinkGraph) -> None:
        super().__init__(graph)
        self._worth, self._fetches, self._squares = np.zeros(0), np.zeros(0), 0.0

    def observe(self, fetch: Fetch) -> None:
        host = int(self._graph.host[fetch.row])
        self._reach(host + 1)
        self._worth[host] += fetch.worth
        self._fetches[host] += 1
        self._squares += fetch.worth**2

    def promise(self, rows: Rows) -> Floats:
        return _AMONG_EQUALS / (1 + self._graph.depth[rows].astype(np.float64))

    def host_bonus(self, hosts: Rows) -> Floats:
        self._reach(int(hosts.max(initial=-1)) + 1)
        fetches, worth = self._fetches[hosts], self._worth[hosts]
        count = max(1.0, self._fetches.sum())
        typical = math.sqrt(self._squares / count) or 1.0
        mean = (worth + self._worth.sum() / count) / (fetches + 1) / typical
        return _bounded(mean + _UCB * np.sqrt(math.log(1 + count) / (1 + fetches)))

    def _reach(self, hosts: int) -> None:
        missing = np.zeros(max(0, hosts - len(self._worth)))
        self._worth, self._fetches = np.append(self._worth, missing), np.append(self._fetches, missing)

    def state(self) -> dict[str, Any]:
        return {"worth": self._worth, "fetches": self._fetches, "squares": self._squares}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._worth, self._fetches = np.array(state["worth"]), np.array(state["fetches"])
        self._squares = float(state["squares"])


class PageRank(Order):
    """PageRank of the graph seen so far, computed again and again (Cho, Garcia-Molina & Page 1998).

    Memory: 8 bytes a link that was seen, about 100 a page that was met.
    """

    name = "pagerank"
    batch = 500
    moves = Moves.ALL

    def __init__(self, graph: LinkGraph) -> None:
        super().__init__(graph)
        self._node: dict[int, int] = {}
        self._sources, self._targets = array("i"), array("i")
        self._rank = np.zeros(0)

    def observe(self, fetch: Fetch) -> None:
        source = int(self._graph.order[fetch.row])
        self._node[int(self._graph.key[fetch.row])] = source
        for target in fetch.targets:
            row = self._graph.queued(target.key)
            node = self._node.get(target.key) if row is None else int(self._graph.order[row])
            if node is not None:
                self._node[target.key] = node
                self._sources.append(source)
                self._targets.append(node)

    def learn(self) -> None:
        if not self._sources:
            return
        sources, targets = np.array(self._sources, np.int32), np.array(self._targets, np.int32)
        nodes = 1 + max(sources.max(), targets.max())
        self._rank = pagerank(Graph.of(int(nodes), sources, targets), tolerance=_RANK_TOLERANCE)

    def promise(self, rows: Rows) -> Floats:
        unknown = len(self._rank)
        return np.append(self._rank, 0.0)[np.minimum(self._graph.order[rows], unknown)]

    def state(self) -> dict[str, Any]:
        return {
            "keys": np.fromiter(self._node, np.uint64, len(self._node)),
            "nodes": np.fromiter(self._node.values(), np.int64, len(self._node)),
            "sources": np.array(self._sources, np.int32),
            "targets": np.array(self._targets, np.int32),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self._node = dict(zip(map(int, state["keys"]), map(int, state["nodes"]), strict=True))
        self._sources, self._targets = array("i", state["sources"]), array("i", state["targets"])
        self.learn()


def _bounded(values: NDArray[Any]) -> Floats:
    """From 0 to 1, in the same order."""
    numbers: Floats = values.astype(np.float64)
    return numbers / (1 + numbers)


def _mix(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Pseudo-random 64 bits of each number (SplitMix64, Steele et al. 2014)."""
    z = (numbers + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


ORDERS: tuple[type[Order], ...] = (
    Random, BreadthFirst, DepthFirst, InDegree, Opic, PageRank, LargerSites,
    ParentFirst, ParentMin, ParentMean, ParentSum, HostBandit,
)  # fmt: skip
