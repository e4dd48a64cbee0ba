"""The crawl orders of the literature, with which `tinylm` (`ranker.policy.promise`) is compared.

Their promises are what they order by, mapped to numbers from 0 to 1.
"""

import math
from array import array
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranker.graph import Fetch, LinkGraph, Rows
from ranker.links.centrality import Graph, pagerank
from ranker.policy.policy import Floats, Moves, Policy
from shards.text.dedup import mixed
from shards.text.signals import GOLDEN

# Weight of the order within a host where hosts are compared: too little to change which host is next.
_AMONG_EQUALS = 1e-3
# Of the bonus for hosts that were seldom asked, beside a mean worth of about 1: at 0 none is tried again.
_UCB = 0.5
# Of PageRank, in L1: it is computed every 500 fetches, and only its order counts.
_RANK_TOLERANCE = 1e-4
RANDOM = "random"


class Simple(Policy):
    """The order of `_BY` called `name`."""

    def __init__(self, graph: LinkGraph, name: str) -> None:
        super().__init__(graph)
        self.name = name

    def promise(self, rows: Rows) -> Floats:
        return _BY[self.name](self._graph, rows)


class LargerSites(Policy):
    """The host with the longest queue first (Baeza-Yates et al. 2005); within it breadth first."""

    name = "larger-sites"

    def promise(self, rows: Rows) -> Floats:
        return _AMONG_EQUALS / (1 + self._graph.depth[rows].astype(np.float64))

    def host_bonus(self, hosts: Rows) -> Floats:
        return self._graph.waiting[hosts].astype(np.float64)


class HostBandit(Policy):
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
        # Shrunk by one fetch of the mean of all hosts.
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


class PageRank(Policy):
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


# What the simple orders order by, from 0 to 1.
_BY: dict[str, Callable[[LinkGraph, Rows], Floats]] = {
    # Uniform, once and for all: SplitMix64 (Steele et al. 2014) of the number of the discovery.
    RANDOM: lambda graph, rows: (
        mixed((graph.order[rows].astype(np.uint64) + np.uint64(1)) * np.uint64(GOLDEN)) / 2.0**64
    ),
    # Breadth first (Najork & Wiener 2001), and the latest discovery first.
    "bfs": lambda graph, rows: 1 / (1.0 + graph.depth[rows]),
    "dfs": lambda graph, rows: _bounded(graph.order[rows]),
    # Links seen so far (Cho, Garcia-Molina & Page 1998), and the cash they brought (Abiteboul et al. 2003).
    "indegree": lambda graph, rows: _bounded(graph.inlinks[rows]),
    "opic": lambda graph, rows: _bounded(graph.equity[rows]),
    # Worth of the page that discovered it, the least of those that link to it (QFirst and QMin, Pezzuti et
    # al. 2025), their mean and their sum.
    "parent-first": lambda graph, rows: _bounded(graph.first_parent[rows]),
    "parent-min": lambda graph, rows: _bounded(graph.worst_parent[rows]),
    "parent-mean": lambda graph, rows: _bounded(
        graph.parents_worth[rows] / np.maximum(1, graph.inlinks[rows])
    ),
    "parent-sum": lambda graph, rows: _bounded(graph.parents_worth[rows]),
}
ORDERS: dict[str, Callable[[LinkGraph], Policy]] = {
    **{name: partial(Simple, name=name) for name in _BY},
    **{each.name: each for each in (PageRank, LargerSites, HostBandit)},
}
