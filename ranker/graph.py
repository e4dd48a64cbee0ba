"""What is known of URLs before they are fetched: who links to them, what those were worth, what people said.

Equity is OPIC's cash (Abiteboul et al. 2003), personalised: it enters with the karma of seeds and flows along
links, so a page far from anything chosen has little of it (RankMass, Cho & Schonfeld 2007).
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from crawler.urls import domain, locate
from ranker import features

# (n,): rows of a `LinkGraph`, one a queued URL.
Rows = NDArray[np.int64]
Kind = TypeVar("Kind", bound=np.generic)

# Of the pages that link to a URL the first so many are remembered, for its siblings: 4 bytes a URL for each.
PARENTS = 8
# Share of a page's cash that flows on, PageRank's damping; the rest returns to the seeds, where it entered.
_KEPT_BY_LINKS = 0.85
# Arrays begin with so many entries and double when they are full.
_FIRST_ROWS, _FIRST_HOSTS = 1024, 64
# Recent numbers a `Known` gathers in a set, of some 60 bytes each, before it sorts them into its array.
_MERGE_AT = 50_000


class Known:
    """A growing set of 64-bit numbers at 8 bytes each: a sorted array, and a set of the most recent ones."""

    def __init__(self, numbers: Iterable[int] = ()) -> None:
        self._sorted: NDArray[np.uint64] = np.unique(np.fromiter(numbers, dtype=np.uint64))
        self._recent: set[int] = set()

    def __contains__(self, number: int) -> bool:
        if number in self._recent:
            return True
        at = int(np.searchsorted(self._sorted, np.uint64(number)))
        return at < len(self._sorted) and int(self._sorted[at]) == number

    def __len__(self) -> int:
        return len(self._sorted) + len(self._recent)

    def add(self, number: int) -> None:
        if number not in self:
            self._recent.add(number)
            if len(self._recent) >= _MERGE_AT:
                self.to_array()

    def to_array(self) -> NDArray[np.uint64]:
        """All numbers, ascending; the recent ones are merged into the array."""
        recent = np.fromiter(self._recent, dtype=np.uint64, count=len(self._recent))
        self._sorted = np.union1d(self._sorted, recent)
        self._recent = set()
        return self._sorted


class Evidence(NamedTuple):
    """What a document remembers of how it was found."""

    karma: float
    equity: float
    inlinks: int
    depth: int
    source: str | None
    source_hops: int | None


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


class _Column(Generic[Kind]):
    """Declares an array of the graph: what allocates, grows, saves and type-checks it reads this alone.

    `of`: what its first axis counts, a "row" or a "page". Entries are numbers, or `width` numbers each.
    """

    def __init__(self, kind: type[Kind], *width: int, of: str = "row") -> None:
        self.kind, self.width, self.of = kind, width, of

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, graph: object, owner: type) -> NDArray[Kind]:
        # Only for the type checker: as there is no `__set__`, the array in a graph's own `__dict__` comes
        # before this, at the speed of any attribute.
        raise AttributeError(self.name)


class LinkGraph:
    """Evidence of every queued URL, in rows: about 300 bytes each; 8 once it was fetched, 20 if it had links.

    Columns are arrays, most of them indexed by row; those of pages by the page's number.
    """

    key = _Column(np.uint64)  # fingerprint of the URL
    equity = _Column(np.float32)
    karma = _Column(np.float32)
    precision = _Column(np.float32)  # of that; 0 of a URL that was never a seed
    source = _Column(np.int32)  # number of its source, 0 if unknown
    source_hops = _Column(np.int32)  # links from the seed of that source
    depth = _Column(np.int32)  # links from the nearest seed
    order = _Column(np.int64)  # of discovery
    inlinks = _Column(np.int32)
    # Worth of the pages that link to it: the sum, and those of three of them.
    parents_worth = _Column(np.float32)
    best_parent = _Column(np.float32)
    worst_parent = _Column(np.float32)
    first_parent = _Column(np.float32)
    # Sums over the inlinks: worth of the page / its links, and 1 / its links.
    flow = _Column(np.float32)
    share = _Column(np.float32)
    domains = _Column(np.uint64)  # a bit for each domain that refers to it, modulo 64
    host = _Column(np.int32)  # number of its host
    letters = _Column(np.int32)
    segments = _Column(np.int32)
    parents = _Column(np.int32, PARENTS)  # numbers of the first pages that link to it; -1 for none
    groups = _Column(np.int32, len(features.GROUPS))
    words = _Column(np.int32, features.WORDS)  # SLOTS for none
    # Of a page's links those that were fetched since: the sum of their worth, and how many they are.
    children_worth = _Column(np.float32, of="page")
    children_fetched = _Column(np.float32, of="page")
    links = _Column(np.int32, of="page")  # how many it has

    def __init__(self, describe: Callable[[Target], features.Features] = describe) -> None:
        self._describe = describe
        self._row_of: dict[int, int] = {}
        self._fetched = Known()
        self._number_of_host: dict[str, int] = {}
        self._sources: dict[str, int] = {"": 0}
        self._names_of_sources = [""]
        # (hosts,): queued URLs of each host, by its number.
        self.waiting = np.zeros(_FIRST_HOSTS, np.int64)
        self._met = 0
        self._free: list[int] = []
        self._rows_used = 0
        self._pages = 0
        self._allocate("row", _FIRST_ROWS)
        self._allocate("page", _FIRST_ROWS)

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

    def knows(self, host: str) -> bool:
        """Whether a URL of `host` was met; to ask changes nothing."""
        return host in self._number_of_host

    @property
    def hosts(self) -> int:
        """How many were met."""
        return len(self._number_of_host)

    def evidence(self, row: int) -> Evidence:
        """What a document remembers of its row."""
        source = self._names_of_sources[self.source[row]] or None
        return Evidence(
            float(self.karma[row]),
            float(self.equity[row]),
            int(self.inlinks[row]),
            int(self.depth[row]),
            source,
            int(self.source_hops[row]) if source else None,
        )

    # What happens

    def seed(
        self, target: Target, karma: float, cash: float, source: str = "", precision: float = 1.0
    ) -> int | None:
        """A seed: people's votes for it, and the cash they are worth; None if it was fetched before."""
        if target.key in self._fetched:
            return None
        row = self._row(target, 0)
        self.karma[row] += karma
        self.precision[row] = max(self.precision[row], precision)
        self.equity[row] += cash
        self.depth[row] = 0
        self._found_by(row, source)
        return row

    def _found_by(self, row: int, source: str) -> None:
        """The first source that leads to a URL keeps it."""
        if not self.source[row] and source:
            self.source[row] = number = self._sources.setdefault(source, len(self._sources))
            if number == len(self._names_of_sources):
                self._names_of_sources.append(source)

    def take(self, target: Target, source: str = "") -> int:
        """A fetch: the row of the evidence that led to it, which is kept until it is released.

        One that was brought by a `source` has that as its own, and is no link away from it.
        """
        row = self._row(target, 0)
        if source:
            self.source[row] = self.depth[row] = self.source_hops[row] = 0
            self._found_by(row, source)
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
        self.source[found], self.source_hops[found] = self.source[page], self.source_hops[page] + 1
        if worth is not None:
            self._refer(url, worth, rows, len(unique))
        return rows, found

    def _refer(self, url: str, worth: float, rows: Rows, links: int) -> None:
        """A page at `url` with so many `links` gets a number, and is a parent of `rows`."""
        page = self._pages
        if page == len(self.links):
            self._allocate("page", 2 * page)
        self._pages += 1
        self.links[page] = links
        before = self.inlinks[rows]
        first = before == 0
        self.inlinks[rows] += 1
        self.parents_worth[rows] += worth
        self.best_parent[rows] = np.maximum(self.best_parent[rows], worth)
        self.worst_parent[rows] = np.where(first, worth, np.minimum(self.worst_parent[rows], worth))
        self.first_parent[rows[first]] = worth
        self.share[rows] += 1 / links
        self.flow[rows] += worth / links
        self.domains[rows] |= np.uint64(1 << (features.slot(domain(locate(url).host)) % 64))
        remembered = before < PARENTS
        self.parents[rows[remembered], before[remembered]] = page

    def redirect(self, page: int, target: Target) -> int | None:
        """A page turned out to be elsewhere: what was known of it is known of `target`, a step deeper.

        None if that was fetched before. Depth ends a chain that would never end.
        """
        if target.key in self._fetched:
            return None
        met, depth = self._met, int(self.depth[page]) + 1
        row = self._row(target, depth)
        if self.order[row] >= met:
            self.source[row], self.source_hops[row] = self.source[page], self.source_hops[page]
        self.precision[row] = max(self.precision[row], self.precision[page])
        taken: tuple[NDArray[Any], ...] = (
            self.best_parent, self.worst_parent, self.first_parent, self.parents,
        )  # fmt: skip
        added = (self.equity, self.karma, self.inlinks, self.parents_worth, self.share, self.flow)
        if not self.inlinks[row]:
            for column in taken:
                column[row] = column[page]
        elif self.inlinks[page]:
            self.best_parent[row] = max(self.best_parent[row], self.best_parent[page])
            self.worst_parent[row] = min(self.worst_parent[row], self.worst_parent[page])
        for column in added:
            column[row] += column[page]
        self.domains[row] |= self.domains[page]
        self.depth[row] = min(self.depth[row], depth)
        return row

    def child(self, rows: Rows, worth: NDArray[np.float64]) -> None:
        """Rows (n,) were fetched and were worth (n,) this: their parents' pages are told."""
        parents = self.parents[rows]
        known = parents >= 0
        # `add.at`, as several of the rows may have one parent.
        np.add.at(self.children_worth, parents[known], np.repeat(worth, known.sum(1)).astype(np.float32))
        np.add.at(self.children_fetched, parents[known], np.float32(1))

    # Rows

    def _row(self, target: Target, depth: int) -> int:
        """The row of a URL; a new one, filled with what its letters say, if nobody had met it."""
        row = self._row_of.get(target.key)
        if row is not None:
            return row
        row = self._row_of[target.key] = self._blank_row()
        found = self._describe(target)
        self.key[row] = target.key
        self.depth[row] = depth
        self.order[row] = self._met
        self._met += 1
        self.parents[row] = -1
        self.host[row] = number = self.host_number(found.host)
        self.waiting[number] += 1
        self.groups[row] = found.groups
        self.words[row] = features.SLOTS
        self.words[row, : len(found.words)] = found.words
        self.letters[row] = found.letters
        self.segments[row] = found.segments
        return row

    def _blank_row(self) -> int:
        """One that is zero in all columns."""
        if self._free:
            row = self._free.pop()
            for column in _COLUMNS["row"]:
                vars(self)[column.name][row] = 0
            return row
        row = self._rows_used
        self._rows_used += 1
        if row == len(self.order):
            self._allocate("row", 2 * row)
        return row

    def _allocate(self, of: str, count: int, state: Mapping[str, Any] | None = None) -> None:
        """Make room for `count` rows or pages: zeros, after what `state` holds, or what there is now."""
        for column in _COLUMNS[of]:
            held = vars(self).get(column.name) if state is None else state.get(f"{of}.{column.name}")
            array = np.zeros((count, *column.width), column.kind)
            if held is not None:
                array[: len(held)] = held
            vars(self)[column.name] = array

    # State

    def state(self) -> dict[str, Any]:
        """What is needed to go on later, as arrays."""
        rows = np.fromiter(self._row_of.values(), np.int64, len(self._row_of))
        return {
            "fetched": self._fetched.to_array(),
            "hosts": np.array(list(self._number_of_host), np.str_),
            # Not as the hosts, each as wide as the longest: queries are 200 characters, names of lists ten.
            "sources": np.frombuffer(json.dumps(self._names_of_sources).encode(), np.uint8),
            "met": np.int64(self._met),
            **{f"row.{column.name}": vars(self)[column.name][rows] for column in _COLUMNS["row"]},
            **{f"page.{column.name}": vars(self)[column.name][: self._pages] for column in _COLUMNS["page"]},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self._fetched = Known(map(int, state["fetched"]))
        self._row_of = {int(key): row for row, key in enumerate(state["row.key"])}
        self._number_of_host = {}
        for host in state["hosts"].tolist():
            self.host_number(host)
        if "sources" in state:
            self._names_of_sources = json.loads(state["sources"].tobytes())
        self._sources = {name: number for number, name in enumerate(self._names_of_sources)}
        self._met = int(state["met"])
        self._free = []
        self._rows_used = len(self._row_of)
        self._pages = len(state["page.links"])
        self._allocate("row", max(_FIRST_ROWS, self._rows_used), state)
        self._allocate("page", max(_FIRST_ROWS, self._pages), state)
        if "row.precision" not in state:  # of a version that believed all priors
            self.precision = (self.karma > 0).astype(np.float32)
        self.waiting = np.bincount(self.host[: self._rows_used], minlength=len(self.waiting))


_COLUMNS = {
    of: [each for each in vars(LinkGraph).values() if isinstance(each, _Column) and each.of == of]
    for of in ("row", "page")
}
