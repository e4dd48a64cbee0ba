"""What is known of URLs before they are fetched: who links to them, what those were worth, what people said.

Equity is OPIC's cash (Abiteboul et al. 2003), personalised: it enters with the karma of seeds and flows along
links, so a page far from anything chosen has little of it (RankMass, Cho & Schonfeld 2007).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crawler.urls import domain, locate
from ranker import features
from ranker.known import Known

Rows = NDArray[np.int64]
"""(n,): rows of a `LinkGraph`, one a queued URL."""

PARENTS = 8
"""Of the pages that link to a URL so many are remembered, the first ones."""
_KEPT_BY_LINKS = 0.85
"""Share of a page's cash that flows on; the rest returns to the seeds, where it entered."""
_FIRST_ROWS, _FIRST_HOSTS = 1024, 64
_ROW: dict[str, tuple[type, tuple[int, ...]]] = {
    "key": (np.uint64, ()),
    "equity": (np.float32, ()),
    "karma": (np.float32, ()),
    "depth": (np.int32, ()),
    "order": (np.int64, ()),
    "inlinks": (np.int32, ()),
    "parents_worth": (np.float32, ()),
    "best_parent": (np.float32, ()),
    "worst_parent": (np.float32, ()),
    "first_parent": (np.float32, ()),
    "flow": (np.float32, ()),
    "share": (np.float32, ()),
    "domains": (np.uint64, ()),
    "host": (np.int32, ()),
    "letters": (np.int32, ()),
    "segments": (np.int32, ()),
    "parents": (np.int32, (PARENTS,)),
    "groups": (np.int32, (len(features.GROUPS),)),
    "words": (np.int32, (features.WORDS,)),
}
_PAGE: dict[str, tuple[type, tuple[int, ...]]] = {
    "children_worth": (np.float32, ()),
    "children_fetched": (np.float32, ()),
    "links": (np.int32, ()),
}


class Evidence(NamedTuple):
    """What a document remembers of how it was found."""

    karma: float
    equity: float
    inlinks: int
    depth: int


class Target(NamedTuple):
    """Where a link leads, and how it stands in its page."""

    key: int
    url: str
    anchor: str = ""
    tag_path: str = ""


class Fetch(NamedTuple):
    """A page that was fetched, as a policy learns of it."""

    row: int
    worth: float
    targets: Sequence[Target] = ()
    """Where it links to."""
    discovered: Rows = np.zeros(0, np.int64)
    """Rows of those of them that nobody had met."""


def describe(target: Target) -> features.Features:
    """What is known of a URL when it is discovered."""
    return features.describe(target.url, locate(target.url).host, target.anchor, target.tag_path)


class LinkGraph:
    """Evidence of every queued URL, in rows: about 300 bytes each; 8 once it was fetched, 20 if it had links.

    Columns are arrays, most of them indexed by row; those of pages by the page's number.
    """

    key: NDArray[np.uint64]
    """Fingerprint of the URL."""
    host: NDArray[np.int32]
    """Number of its host."""
    order: NDArray[np.int64]
    """Of discovery."""
    depth: NDArray[np.int32]
    """Links from the nearest seed."""
    karma: NDArray[np.float32]
    equity: NDArray[np.float32]
    inlinks: NDArray[np.int32]
    parents_worth: NDArray[np.float32]
    """Sum over the inlinks."""
    best_parent: NDArray[np.float32]
    worst_parent: NDArray[np.float32]
    first_parent: NDArray[np.float32]
    share: NDArray[np.float32]
    """Sum over the inlinks of 1 / links of the page."""
    flow: NDArray[np.float32]
    """The same, times the worth of the page."""
    domains: NDArray[np.uint64]
    """A bit for each domain that refers to it, modulo 64."""
    letters: NDArray[np.int32]
    segments: NDArray[np.int32]
    parents: NDArray[np.int32]
    """(rows, PARENTS): numbers of the first pages that link to it; -1 for none."""
    groups: NDArray[np.int32]
    """(rows, GROUPS): see `ranker.features`."""
    words: NDArray[np.int32]
    """(rows, WORDS): SLOTS for none."""
    children_worth: NDArray[np.float32]
    """Of a page: of those of its links that were fetched since."""
    children_fetched: NDArray[np.float32]
    """Of a page: how many they are."""
    links: NDArray[np.int32]
    """Of a page."""

    def __init__(self, describe: Callable[[Target], features.Features] = describe) -> None:
        self._describe = describe
        self._row_of: dict[int, int] = {}
        self._fetched = Known()
        self._number_of_host: dict[str, int] = {}
        self.waiting = np.zeros(_FIRST_HOSTS, np.int64)
        """(hosts,): queued URLs of each host, by its number."""
        self._met = 0
        self._free: list[int] = []
        self._rows_used = 0
        self._pages = 0
        _allocate(self, _ROW, _FIRST_ROWS)
        _allocate(self, _PAGE, _FIRST_ROWS)

    def __len__(self) -> int:
        return len(self._row_of)

    def queued(self, key: int) -> int | None:
        """The row of a URL that waits; None if it was fetched or never met."""
        return self._row_of.get(key)

    def host_number(self, host: str) -> int:
        """The number of a host, given to it now if it is new."""
        number = self._number_of_host.setdefault(host, len(self._number_of_host))
        if number == len(self.waiting):
            self.waiting = np.concatenate([self.waiting, np.zeros_like(self.waiting)])
        return number

    @property
    def hosts(self) -> int:
        """How many were met."""
        return len(self._number_of_host)

    def evidence(self, row: int) -> Evidence:
        """What a document remembers of its row."""
        return Evidence(
            float(self.karma[row]), float(self.equity[row]), int(self.inlinks[row]), int(self.depth[row])
        )

    # What happens

    def seed(self, target: Target, karma: float, cash: float) -> int | None:
        """A seed: people's votes for it, and the cash they are worth; None if it was fetched before."""
        if target.key in self._fetched:
            return None
        row = self._row(target, 0)
        self.karma[row] += karma
        self.equity[row] += cash
        self.depth[row] = 0
        return row

    def take(self, target: Target) -> int:
        """A fetch: the row of the evidence that led to it, which is kept until it is released."""
        row = self._row(target, 0)
        self._fetched.add(target.key)
        del self._row_of[target.key]
        self.waiting[self.host[row]] -= 1
        return row

    def release(self, rows: Iterable[int]) -> None:
        """Forget the rows of fetches that were learned from."""
        self._free.extend(rows)

    def link(self, page: int, url: str, worth: float | None, targets: Sequence[Target]) -> tuple[Rows, Rows]:
        """The page of row `page`, at `url`, links to `targets`: its cash is split among them.

        A `worth` of None is that of a list, such as a sitemap: nobody chose them, so they are no inlinks.
        Returns the rows of those that were not fetched before, and of those that nobody had met.
        """
        unique = {target.key: target for target in targets}
        met = self._met
        depth = int(self.depth[page]) + 1
        rows = np.array(
            [self._row(target, depth) for key, target in unique.items() if key not in self._fetched], np.int64
        )
        if not len(rows):
            return rows, rows
        found = rows[self.order[rows] >= met]
        self.equity[rows] += _KEPT_BY_LINKS * self.equity[page] / len(unique)
        self.depth[rows] = np.minimum(self.depth[rows], depth)
        if worth is not None:
            self._refer(self._page(len(unique)), url, worth, rows, len(unique))
        return rows, found

    def _refer(self, page: int, url: str, worth: float, rows: Rows, links: int) -> None:
        before = self.inlinks[rows]
        first = before == 0
        self.inlinks[rows] += 1
        self.parents_worth[rows] += worth
        self.best_parent[rows] = np.maximum(self.best_parent[rows], worth)
        self.worst_parent[rows] = np.where(first, worth, np.minimum(self.worst_parent[rows], worth))
        self.first_parent[rows[first]] = worth
        self.share[rows] += 1 / links
        self.flow[rows] += worth / links
        self.domains[rows] |= _domain_bit(url)
        remembered = before < PARENTS
        self.parents[rows[remembered], before[remembered]] = page

    def redirect(self, page: int, target: Target) -> int | None:
        """A page turned out to be elsewhere: what was known of it is known of `target`, a step deeper.

        None if that was fetched before. Depth ends a chain that would never end.
        """
        if target.key in self._fetched:
            return None
        depth = int(self.depth[page]) + 1
        row = self._row(target, depth)
        if not self.inlinks[row]:
            for name in ("best_parent", "worst_parent", "first_parent", "parents"):
                getattr(self, name)[row] = getattr(self, name)[page]
        elif self.inlinks[page]:
            self.best_parent[row] = max(self.best_parent[row], self.best_parent[page])
            self.worst_parent[row] = min(self.worst_parent[row], self.worst_parent[page])
        for name in ("equity", "karma", "inlinks", "parents_worth", "share", "flow"):
            getattr(self, name)[row] += getattr(self, name)[page]
        self.domains[row] |= self.domains[page]
        self.depth[row] = min(self.depth[row], depth)
        return row

    def child(self, rows: Rows, worth: NDArray[np.float64]) -> None:
        """Rows (n,) were fetched and were worth (n,) this: their parents' pages are told."""
        parents = self.parents[rows]
        known = parents >= 0
        np.add.at(self.children_worth, parents[known], np.repeat(worth, known.sum(1)).astype(np.float32))
        np.add.at(self.children_fetched, parents[known], np.float32(1))

    # Rows

    def _row(self, target: Target, depth: int) -> int:
        row = self._row_of.get(target.key)
        if row is not None:
            return row
        row = self._row_of[target.key] = self._blank_row()
        self.key[row] = target.key
        self.depth[row] = depth
        self.order[row] = self._met
        self.parents[row] = -1
        self._met += 1
        self._note(row, target)
        return row

    def _blank_row(self) -> int:
        """One that is zero in all columns."""
        if self._free:
            row = self._free.pop()
            for name in _ROW:
                getattr(self, name)[row] = 0
            return row
        row = self._rows_used
        self._rows_used += 1
        if row == len(self.order):
            _grow(self, _ROW)
        return row

    def _note(self, row: int, target: Target) -> None:
        found = self._describe(target)
        self.host[row] = number = self.host_number(found.host)
        self.waiting[number] += 1
        self.groups[row] = found.groups
        self.words[row] = features.SLOTS
        self.words[row, : len(found.words)] = found.words
        self.letters[row] = found.letters
        self.segments[row] = found.segments

    def _page(self, links: int) -> int:
        page = self._pages
        if page == len(self.links):
            _grow(self, _PAGE)
        self._pages += 1
        self.links[page] = links
        return page

    # State

    def state(self) -> dict[str, Any]:
        """What is needed to go on later, as arrays."""
        rows = np.fromiter(self._row_of.values(), np.int64, len(self._row_of))
        return {
            "fetched": self._fetched.to_array(),
            "hosts": np.array(list(self._number_of_host), np.str_),
            "met": np.int64(self._met),
            **{f"row.{name}": getattr(self, name)[rows] for name in _ROW},
            **{f"page.{name}": getattr(self, name)[: self._pages] for name in _PAGE},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self._fetched = Known(map(int, state["fetched"]))
        self._row_of = {int(key): row for row, key in enumerate(state["row.key"])}
        self._number_of_host = {}
        for host in state["hosts"].tolist():
            self.host_number(host)
        self._met = int(state["met"])
        self._free = []
        self._rows_used = len(self._row_of)
        self._pages = len(state["page.links"])
        _allocate(self, _ROW, max(_FIRST_ROWS, self._rows_used))
        _allocate(self, _PAGE, max(_FIRST_ROWS, self._pages))
        for name in _ROW:
            getattr(self, name)[: self._rows_used] = state[f"row.{name}"]
        for name in _PAGE:
            getattr(self, name)[: self._pages] = state[f"page.{name}"]
        self.waiting = np.bincount(self.host[: self._rows_used], minlength=len(self.waiting))


def _allocate(graph: LinkGraph, columns: Mapping[str, tuple[type, tuple[int, ...]]], rows: int) -> None:
    for name, (dtype, shape) in columns.items():
        setattr(graph, name, np.zeros((rows, *shape), dtype))


def _grow(graph: LinkGraph, columns: Mapping[str, tuple[type, tuple[int, ...]]]) -> None:
    for name in columns:
        column = getattr(graph, name)
        setattr(graph, name, np.concatenate([column, np.zeros_like(column)]))


def _domain_bit(url: str) -> np.uint64:
    return np.uint64(1 << (features.slot(domain(locate(url).host)) % 64))
