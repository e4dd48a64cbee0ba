"""`Policy`: what a queued URL promises, from nothing but URLs and pages already fetched.

One protocol for the crawl and the simulator. Of promises the higher is fetched earlier; of equal ones the URL
that was discovered first.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranker.graph import Fetch, LinkGraph, Rows

Floats = NDArray[np.float64]


class Moves(Enum):
    """Which queued URLs promise something else once a page was learned from."""

    LINKED = "those it links to"
    BEST = "any; of those that are far from being fetched some are priced again now and then"
    ALL = "any"


class Policy:
    """Decides what is next. All but `promise` is of one that learns nothing but what the graph knows."""

    name = ""
    batch = 1
    """Pages that may be fetched before they are learned from."""
    moves = Moves.LINKED

    def __init__(self, graph: LinkGraph) -> None:
        self._graph = graph

    def observe(self, fetch: Fetch) -> None:
        """A fetch is over."""

    def learn(self) -> None:
        """Learn from what was observed since last time."""

    def promise(self, rows: Rows) -> Floats:
        """(n,) What fetching the queued URLs of (n,) rows is expected to bring."""
        raise NotImplementedError

    def explain(self, rows: Rows) -> list[tuple[str, Floats]]:
        """What the promises of (n,) rows are made of: names, and (n,) what each adds."""
        return [(self.name, self.promise(rows))]

    def host_bonus(self, hosts: Rows) -> Floats:
        """(n,) What is added to the best promise of each of (n,) hosts, by number, to compare them."""
        return np.zeros(len(hosts))

    def state(self) -> dict[str, Any]:
        """What is needed to go on later beside the graph, as arrays."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
