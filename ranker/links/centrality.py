"""Centrality of the nodes of a link graph: PageRank, personalised or not, and harmonic centrality.

All of it is passes over one array, the sources of all links in the order of their targets: a pass gathers
what is known of the sources and reduces it to the targets. Memory: 4 bytes a link and 8 a node for the graph,
and while it is computed 8 bytes a link more for PageRank, 256 bytes a node more for harmonic centrality.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Share of a page's rank that its links pass on.
DAMPING = 0.85
# Nodes up to which harmonic centrality is exact; every 1,024 of them cost as much as the estimate of all.
EXACT_UP_TO = 10_000
# HyperLogLog's standard deviation is 1.04 / their root: 9 %; four times as many would halve it.
_REGISTERS = 128
# Searches at once, a bit each: 128 bytes a node.
_SOURCES_AT_ONCE = 1024
# Links whose balls are gathered at once: 2 MB of them.
_LINKS_AT_ONCE = 1 << 14


@dataclass(frozen=True)
class Graph:
    """Directed links between `nodes` numbered nodes, each at most once and none to itself."""

    nodes: int
    sources: NDArray[np.int32]
    """(links,): where each link comes from, those to node 0 first."""
    starts: Ints
    """(nodes + 1,): the links to node i are those from starts[i] up to starts[i + 1]."""

    @classmethod
    def of(cls, nodes: int, sources: NDArray[Any], targets: NDArray[Any]) -> Self:
        """The graph of these links, (links,) each; repeated links and links to oneself are left out."""
        if nodes >= 1 << 31:
            raise ValueError(f"{nodes} nodes: 2^31 - 1 is the most")
        apart = sources != targets
        links = targets[apart].astype(np.int64) * nodes + sources[apart]
        links.sort()
        links = links[np.diff(links, prepend=-1) != 0]
        counts = np.bincount(links // nodes, minlength=nodes) if nodes else np.zeros(0, np.int64)
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
        return cls(nodes, (links % max(1, nodes)).astype(np.int32), starts)

    @cached_property
    def targets(self) -> NDArray[np.int32]:
        """(links,): where each link goes."""
        return np.repeat(np.arange(self.nodes, dtype=np.int32), np.diff(self.starts))

    def grouped(self, group: NDArray[Any], groups: int) -> "Graph":
        """The graph of groups of nodes; node i is in `group[i]`, and in none if that is negative."""
        sources, targets = group[self.sources], group[self.targets]
        known = (sources >= 0) & (targets >= 0)
        return Graph.of(groups, sources[known], targets[known])

    def among(self, chosen: NDArray[np.bool_]) -> "Graph":
        """The chosen nodes, numbered anew in their order, and the links among them."""
        return self.grouped(np.where(chosen, np.cumsum(chosen) - 1, -1), int(chosen.sum()))


def pagerank(graph: Graph, teleport: Floats | None = None, *, tolerance: float = 1e-9) -> Floats:
    """The share of time a random surfer spends at each node (Page et al. 1999): (nodes,), summing to 1.

    With `teleport`, (nodes,) and not negative, it is personalised: jumps end at a node in proportion to it
    instead of anywhere (Jeh & Widom 2003). A node without links jumps too. Power iteration until a round
    moves less than `tolerance` (L1); the result is then within 6 tolerances (L1) of the limit.
    """
    if not graph.nodes:
        return np.zeros(0)
    jump = np.full(graph.nodes, 1.0) if teleport is None else teleport.astype(np.float64)
    jump /= jump.sum()
    degrees = np.bincount(graph.sources, minlength=graph.nodes)  # links that leave each node
    passed_on = DAMPING / np.maximum(1, degrees)
    ends = degrees == 0
    # Only nodes with links to them: of an empty range `reduceat` gives the next range's first element.
    linked = np.flatnonzero(np.diff(graph.starts))
    first = graph.starts[linked]
    rank, moved = jump, math.inf
    while moved >= tolerance:
        before = rank
        rank = jump * (1 - DAMPING + DAMPING * before[ends].sum())
        rank[linked] += np.add.reduceat((before * passed_on)[graph.sources], first)
        moved = float(np.abs(rank - before).sum())
    return rank


def harmonic(graph: Graph) -> Floats:
    """Sum over all other nodes of 1 / (their distance to this one), 0 if there is no way: (nodes,).

    Exact for at most EXACT_UP_TO nodes. Beyond, the number of nodes within each distance is estimated from
    128 HyperLogLog registers (HyperBall, Boldi & Vigna 2013), with a relative standard deviation of 9 %.
    Balls that overlap err alike, so the order is better than that.
    """
    return _exact(graph) if graph.nodes <= EXACT_UP_TO else _hyperball(graph)


def _exact(graph: Graph) -> Floats:
    """By breadth-first search from 1,024 nodes at once, a bit each."""
    total = np.zeros(graph.nodes)
    for first in range(0, graph.nodes, _SOURCES_AT_ONCE):
        bits = np.arange(min(_SOURCES_AT_ONCE, graph.nodes - first))
        balls = np.zeros((graph.nodes, -(-len(bits) // 64)), dtype=np.uint64)
        balls[first + bits, bits // 64] = np.uint64(1) << (bits % 64).astype(np.uint64)
        total += _grow(
            graph, balls, np.bitwise_or, lambda found: np.bitwise_count(found).sum(axis=1, dtype=np.float64)
        )
    return total


def _hyperball(graph: Graph) -> Floats:
    random = np.random.default_rng(graph.nodes)
    balls = np.zeros((graph.nodes, _REGISTERS), dtype=np.uint8)
    register = random.integers(_REGISTERS, size=graph.nodes)
    balls[np.arange(graph.nodes), register] = np.minimum(random.geometric(0.5, graph.nodes), 63)
    return _grow(graph, balls, np.maximum, _estimate)


def _grow(
    graph: Graph, balls: NDArray[Any], union: np.ufunc, size: Callable[[NDArray[Any]], Floats]
) -> Floats:
    """Harmonic centrality from the nodes that `balls`, (nodes, width), hold at distance 0.

    Each round a node's ball becomes the `union` with those of the nodes that link to it, as they were.
    Only what grew in the last round is looked at in the next.
    """
    total = np.zeros(graph.nodes)
    sizes = size(balls)
    after = balls.copy()
    grew = np.ones(graph.nodes, dtype=np.bool_)
    distance = 0
    while (live := np.flatnonzero(grew[graph.sources])).size:
        distance += 1
        grew = np.zeros(graph.nodes, dtype=np.bool_)
        for begin in range(0, live.size, _LINKS_AT_ONCE):
            links = live[begin : begin + _LINKS_AT_ONCE]
            targets = graph.targets[links]
            first = np.flatnonzero(np.diff(targets, prepend=-1))
            rows = targets[first]
            joined = union(after[rows], union.reduceat(balls[graph.sources[links]], first))
            grew[rows] |= (joined != after[rows]).any(axis=1)
            after[rows] = joined
        grown = np.flatnonzero(grew)
        for part in np.array_split(grown, 1 + grown.size // _LINKS_AT_ONCE):
            balls[part] = after[part]
            larger = np.maximum(sizes[part], size(balls[part]))
            total[part] += (larger - sizes[part]) / distance
            sizes[part] = larger
    return total


def _sigma(empty: int) -> float:
    """Ertl's correction for `empty` registers of all."""
    power, weight = empty / _REGISTERS, 0.5
    total, before = power, -1.0
    while empty < _REGISTERS and total != before:
        power, weight, before = power * power, weight * 2, total
        total += power * weight
    return total


_EMPTY = np.array([_REGISTERS * _sigma(empty) for empty in range(_REGISTERS + 1)])
_SHARE = np.array([0.0, *(2.0**-value for value in range(1, 64))], dtype=np.float32)


def _estimate(balls: NDArray[np.uint8]) -> Floats:
    """Distinct elements of HyperLogLog counters (Ertl 2017, arXiv 1702.01284): one formula for all sizes."""
    empty = (balls == 0).sum(axis=1)
    shares: Floats = _SHARE[balls].sum(axis=1, dtype=np.float64) + _EMPTY[empty]
    return _REGISTERS**2 / (2 * math.log(2)) / shares
