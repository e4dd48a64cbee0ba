"""Evidence: cash is conserved, rows are reused without a trace, what was fetched never comes back."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

import ranker.graph
from ranker.features import SLOTS
from ranker.graph import PARENTS, Known, LinkGraph, Target
from tests.conftest import saved

KEYS = st.integers(0, 30) | st.just((1 << 64) - 1)
WORTH = st.floats(0, 1, width=32)
SOURCES = st.sampled_from(["", "search:brave:otters", "reddit:programming"])


def target(key):
    """Always the same URL of one of three hosts."""
    return Target(key, f"http://h{key % 3}.example/{key}/page.html")


def host(key):
    return f"h{key % 3}.example"


class Crawling(RuleBasedStateMachine):
    """Seeds, fetches, lists and redirects in any order, against plain dicts of what must be known."""

    def __init__(self):
        super().__init__()
        self.graph = LinkGraph()
        self.queued: dict[int, dict] = {}
        self.fetched: set[int] = set()
        self.entered = 0.0

    def discover(self, key, depth, source="", hops=0):
        new = key not in self.queued
        found = self.queued.setdefault(
            key,
            {"karma": 0.0, "equity": 0.0, "depth": depth, "parents": [], "precision": 0.0}
            | {"source": source, "hops": hops},
        )
        found["depth"] = min(found["depth"], depth)
        return new

    def take(self, key, source=""):
        if key not in self.queued:
            self.discover(key, 0)
        known = self.queued.pop(key)
        if source:  # it was brought
            known |= {"source": source, "hops": 0, "depth": 0}
        self.fetched.add(key)
        row = self.graph.take(target(key), source)
        *numbers, of, hops = self.graph.evidence(row)
        expected = known["karma"], known["equity"], len(known["parents"]), known["depth"]
        assert numbers == pytest.approx(expected, rel=1e-5)
        assert (of, hops) == ((known["source"], known["hops"]) if known["source"] else (None, None))
        return row, known

    @rule(key=KEYS, karma=st.floats(0, 100), cash=st.floats(0, 10), source=SOURCES, precision=WORTH)
    def seed(self, key, karma, cash, source, precision):
        row = self.graph.seed(target(key), karma, cash, source, precision)
        assert (row is None) == (key in self.fetched)
        if row is not None:
            self.discover(key, 0)
            seeded = self.queued[key]
            seeded["karma"] += karma
            seeded["equity"] += cash
            seeded["precision"] = max(seeded["precision"], precision)
            # Whoever led to it first keeps it.
            seeded["source"] = seeded["source"] or source
            self.entered += cash

    @rule(key=KEYS, worth=st.none() | WORTH, links=st.lists(KEYS), source=SOURCES)
    def fetch(self, key, worth, links, source):
        row, page = self.take(key, source)
        linked, discovered = self.graph.link(row, target(key).url, worth, [target(link) for link in links])
        links = list(dict.fromkeys(links))
        found = page["depth"] + 1, page["source"], page["hops"] + 1
        new = [link for link in links if link not in self.fetched and self.discover(link, *found)]
        assert self.keys(linked) == [link for link in links if link not in self.fetched]
        assert self.keys(discovered) == new
        for link in self.keys(linked):
            self.queued[link]["equity"] += 0.85 * page["equity"] / len(links)
            if worth is not None:
                self.queued[link]["parents"].append((worth, len(links)))
        self.graph.release([row])

    @rule(key=KEYS, to=KEYS)
    def redirect(self, key, to):
        row, page = self.take(key)
        moved = self.graph.redirect(row, target(to))
        assert (moved is None) == (to in self.fetched)
        if moved is not None:
            self.discover(to, page["depth"] + 1, page["source"], page["hops"])
            self.queued[to]["precision"] = max(self.queued[to]["precision"], page["precision"])
            for name in ("karma", "equity", "parents"):
                self.queued[to][name] += page[name]
        self.graph.release([row])

    @rule()
    def restart(self):
        graph = LinkGraph()
        graph.restore(saved(self.graph.state()))
        assert_equal(graph.state(), self.graph.state())
        self.graph = graph

    def keys(self, rows):
        return self.graph.key[rows].tolist()

    @invariant()
    def all_is_known_that_must_be_and_nothing_else(self):
        graph = self.graph
        rows = np.array([graph.queued(key) for key in self.queued], np.int64)
        assert len(graph) == len(rows) == len(set(rows.tolist()))
        assert self.keys(rows) == list(self.queued)
        known = list(self.queued.values())
        parents = [[worth for worth, _ in each["parents"]] for each in known]
        for column, expected in (
            (graph.karma, [each["karma"] for each in known]),
            (graph.equity, [each["equity"] for each in known]),
            (graph.depth, [each["depth"] for each in known]),
            (graph.precision, [each["precision"] for each in known]),
            (graph.source_hops, [each["hops"] for each in known]),
            (graph.inlinks, [len(each) for each in parents]),
            (graph.parents_worth, [sum(each) for each in parents]),
            (graph.best_parent, [max(each, default=0) for each in parents]),
            (graph.worst_parent, [min(each, default=0) for each in parents]),
            (graph.share, [sum(1 / links for _, links in each["parents"]) for each in known]),
            (graph.flow, [sum(worth / links for worth, links in each["parents"]) for each in known]),
            (graph.letters, [len(target(key).url) for key in self.queued]),
        ):
            assert column[rows] == pytest.approx(np.array(expected), rel=1e-4, abs=1e-6)

    @invariant()
    def no_cash_is_made(self):
        cash = sum(float(self.graph.equity[self.graph.queued(key)]) for key in self.queued)
        assert cash <= self.entered * (1 + 1e-5) + 1e-6

    @invariant()
    def what_was_fetched_never_comes_back(self):
        assert all(self.graph.queued(key) is None for key in self.fetched)
        assert set(self.graph.state()["fetched"].tolist()) == self.fetched

    @invariant()
    def every_host_knows_how_many_wait(self):
        waiting = Counter(map(host, self.queued))
        for name in {host(key) for key in [*self.queued, *self.fetched]}:
            assert self.graph.waiting[self.graph.host_number(name)] == waiting[name]
        assert self.graph.waiting.sum() == len(self.queued)


def assert_equal(state, other):
    assert state.keys() == other.keys()
    for name, array in state.items():
        assert np.asarray(array).dtype == np.asarray(other[name]).dtype, name
        assert np.array_equal(array, other[name]), name


Crawling.TestCase.settings = settings(max_examples=40, stateful_step_count=20)
TestCrawling = Crawling.TestCase


def link(graph, page, worth, keys, *, depth=0, cash=1.0):
    """Page `page` is a seed, is fetched, and links to `keys`; the rows of those."""
    graph.seed(target(page), 0.0, cash)
    row = graph.take(target(page))
    graph.depth[row] = depth
    return graph.link(row, target(page).url, worth, [target(key) for key in keys])[0]


def test_the_cash_of_a_page_is_split_among_its_links():
    graph = LinkGraph()
    rows = link(graph, 1, 0.5, [2, 3, 2], cash=2.0)
    assert graph.equity[rows].tolist() == pytest.approx([0.85, 0.85])
    assert graph.evidence(rows[0])[:4] == pytest.approx((0.0, 0.85, 1, 1))


def test_evidence_gathers_over_parents_and_depth_is_the_nearest():
    graph = LinkGraph()
    [row] = link(graph, 1, 0.25, [7], depth=5)
    assert graph.depth[row] == 6
    assert link(graph, 2, 0.75, [7, 8], depth=1)[0] == row
    link(graph, 3, 0.5, [7], depth=9)
    assert graph.evidence(row)[:4] == pytest.approx((0.0, 0.85 * 2.5, 3, 2))
    columns = (graph.parents_worth, graph.best_parent, graph.worst_parent, graph.first_parent)
    assert [column[row] for column in columns] == pytest.approx([1.5, 0.75, 0.25, 0.25])
    assert graph.share[row] == pytest.approx(2.5)
    assert graph.flow[row] == pytest.approx(0.25 + 0.375 + 0.5)


def test_a_list_brings_cash_but_is_no_inlink():
    graph = LinkGraph()
    [row] = link(graph, 1, None, [7])
    assert graph.evidence(row)[:4] == pytest.approx((0.0, 0.85, 0, 1))
    assert graph.parents[row].tolist() == [-1] * PARENTS
    assert graph.domains[row] == 0
    [row] = link(graph, 2, 0.5, [7])
    assert graph.inlinks[row] == 1
    assert graph.first_parent[row] == graph.worst_parent[row] == 0.5


def test_only_the_first_parents_are_remembered_and_all_their_children_are_told():
    graph = LinkGraph()
    for page in range(PARENTS + 4):
        [row] = link(graph, page, 0.5, [100])
    assert graph.inlinks[row] == PARENTS + 4
    assert graph.parents[row].tolist() == list(range(PARENTS))
    rows = link(graph, 50, 0.5, [101, 102])
    graph.child(np.array([row, *rows]), np.array([0.5, 0.25, 1.0]))
    assert graph.children_worth[:PARENTS].tolist() == [0.5] * PARENTS
    assert graph.children_worth[PARENTS : PARENTS + 4].tolist() == [0.0] * 4
    last = graph.parents[rows[0], 0]
    assert (graph.children_worth[last], graph.children_fetched[last], graph.links[last]) == (1.25, 2, 2)


def test_referring_domains_are_counted_once_however_many_hosts_they_have():
    graph = LinkGraph()
    graph.seed(target(1), 0.0, 1.0)
    for number, name in enumerate(("www.one.org", "docs.one.org", "one.org", "two.org")):
        page = Target(10 + number, f"http://{name}/")
        row = graph.take(page)
        graph.link(row, page.url, 0.5, [target(1)])
    assert np.bitwise_count(graph.domains[graph.queued(1)]) == 2


def test_a_row_that_is_used_again_remembers_nothing():
    graph = LinkGraph()
    link(graph, 1, 1.0, [2, 3])
    graph.seed(Target(2, target(2).url), 9.0, 9.0)
    old = graph.take(target(2))
    graph.link(old, target(2).url, 1.0, [target(4)])
    graph.release([old])
    row = graph.seed(Target(5, "http://other.example/"), 0.0, 0.0)
    assert row == old
    fresh = LinkGraph()
    like = fresh.seed(Target(5, "http://other.example/"), 0.0, 0.0)
    for name in graph.state():
        if name.startswith("row.") and name not in ("row.order", "row.host"):
            column = name.removeprefix("row.")
            assert np.array_equal(getattr(graph, column)[row], getattr(fresh, column)[like]), name
    assert graph.words[row].tolist() == [SLOTS] * len(graph.words[row])


def test_rows_of_fetches_are_kept_until_they_are_released():
    graph = LinkGraph()
    link(graph, 1, 1.0, [2, 3])
    row = graph.take(target(2))
    assert graph.seed(target(9), 0.0, 0.0) != row
    assert graph.inlinks[row] == 1
    graph.release([row])
    assert graph.seed(target(10), 0.0, 0.0) == row


def test_a_seed_given_twice_gathers_its_votes():
    graph = LinkGraph()
    row = graph.seed(target(1), 3.0, 1.0)
    assert graph.seed(target(1), 4.0, 1.0) == row
    assert graph.evidence(row)[:4] == (7.0, 2.0, 0, 0)


def test_what_was_known_of_a_page_that_moved_is_known_of_where_it_is_now():
    graph = LinkGraph()
    graph.seed(target(1), 500.0, 6.0)
    link(graph, 8, 0.5, [1, 2], depth=2)
    page = graph.take(target(1))
    parents = graph.parents[page].tolist()
    row = graph.redirect(page, target(3))
    assert graph.evidence(row)[:4] == pytest.approx((500.0, 6.425, 1, 1))
    assert graph.parents[row].tolist() == parents
    assert graph.first_parent[row] == 0.5
    row = graph.redirect(page, target(2))
    assert graph.evidence(row)[:4] == pytest.approx((500.0, 6.85, 2, 1))
    graph.take(target(2))
    assert graph.redirect(page, target(2)) is None


def test_a_page_that_moved_brings_its_best_and_worst_parent():
    graph = LinkGraph()
    link(graph, 1, 0.5, [5, 6])
    link(graph, 2, 0.125, [5])
    link(graph, 3, 1.0, [5])
    row = graph.redirect(graph.take(target(5)), target(6))
    assert (graph.best_parent[row], graph.worst_parent[row], graph.first_parent[row]) == (1.0, 0.125, 0.5)
    row = graph.redirect(graph.take(target(40)), target(6))  # nobody linked to that
    assert (graph.best_parent[row], graph.worst_parent[row], graph.inlinks[row]) == (1.0, 0.125, 4)


def test_it_grows_and_loses_nothing():
    graph = LinkGraph()
    keys = range(100, 3100)
    for page in range(3):
        rows = link(graph, page, 0.5, keys, cash=3000.0)
    assert len(graph) == 3000
    assert graph.equity[rows].tolist() == pytest.approx([2.55] * 3000)
    for number in range(200):
        graph.seed(Target(9000 + number, f"http://many{number}.example/"), 0.0, 0.0)
    assert graph.hosts == 203
    assert graph.waiting.sum() == 3200


def test_an_empty_graph_survives_a_restart():
    graph = LinkGraph()
    graph.restore(saved(LinkGraph().state()))
    assert_equal(graph.state(), LinkGraph().state())
    assert len(graph) == 0


@given(KEYS)
@settings(max_examples=20)
def test_a_page_does_not_pay_itself(key):
    graph = LinkGraph()
    graph.seed(target(key), 1.0, 1.0)
    row = graph.take(target(key))
    linked, discovered = graph.link(row, target(key).url, 1.0, [target(key)])
    assert not len(linked)
    assert not len(discovered)
    assert len(graph) == 0


# Known: a set of 64-bit numbers


NUMBERS = st.integers(0, (1 << 64) - 1) | st.integers(0, 20) | st.integers((1 << 64) - 20, (1 << 64) - 1)


@given(st.lists(NUMBERS), st.lists(NUMBERS), st.lists(NUMBERS), st.integers(1, 5))
def test_it_is_a_set_whenever_it_merges(first, added, asked, merge_at):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranker.graph, "_MERGE_AT", merge_at)
        known, model = Known(first), set(first)
        for number in added:
            known.add(number)
            model.add(number)
            assert number in known
            assert len(known) == len(model)
        for number in [*asked, *first]:
            assert (number in known) == (number in model)
        assert known.to_array().tolist() == sorted(model)
        assert known.to_array().dtype == np.uint64


@given(st.lists(NUMBERS))
def test_its_array_is_all_it_needs_to_go_on(given_numbers):
    known = Known(given_numbers)
    again = Known(map(int, known.to_array()))
    assert again.to_array().tolist() == known.to_array().tolist()
    assert Known(known.to_array()).to_array().tolist() == known.to_array().tolist()
