"""Evidence: cash is conserved, and what was fetched is forgotten for good."""

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ranker.evidence import Evidence, LinkGraph

KEYS = st.integers(0, 30) | st.just((1 << 64) - 1)
WORTH = st.floats(0, 1)


class Crawling(RuleBasedStateMachine):
    """Seeds, fetches and links in any order, against plain sets and sums."""

    def __init__(self) -> None:
        super().__init__()
        self.graph = LinkGraph()
        self.fetched: set[int] = set()
        self.entered = 0.0

    @rule(key=KEYS, karma=st.floats(0, 100), cash=st.floats(0, 10))
    def seed(self, key, karma, cash):
        evidence = self.graph.seed(key, karma, cash)
        assert (evidence is None) == (key in self.fetched)
        if evidence:
            self.entered += cash
            assert evidence.depth == 0

    @rule(key=KEYS, worth=WORTH, outlinks=st.lists(KEYS))
    def fetch(self, key, worth, outlinks):
        page = self.graph.fetched(key)
        self.fetched.add(key)
        before = self.cash()
        found = self.graph.link(page, worth, outlinks)
        assert set(found) == set(outlinks) - self.fetched
        assert self.cash() - before <= 0.85 * page.equity + 1e-9
        share = 0.85 * page.equity / max(1, len(set(outlinks)))
        assert self.cash() - before == pytest.approx(share * len(found), abs=1e-9)

    @rule()
    def restart(self):
        graph = LinkGraph()
        graph.restore(saved(self.graph))
        assert contents(graph) == contents(self.graph)
        self.graph = graph

    def cash(self):
        return sum(evidence.equity for evidence in contents(self.graph)[0].values())

    @invariant()
    def no_cash_is_made(self):
        assert self.cash() <= self.entered * (1 + 1e-9) + 1e-9

    @invariant()
    def what_was_fetched_never_comes_back(self):
        queued, fetched = contents(self.graph)
        assert fetched == self.fetched
        assert not fetched & set(queued)
        assert len(self.graph) == len(queued)
        assert all(self.graph.queued(key) is None for key in fetched)


def saved(graph):
    """The state as it comes back from disk."""
    buffer = io.BytesIO()
    np.savez(buffer, **graph.state())
    buffer.seek(0)
    with np.load(buffer) as arrays:
        return dict(arrays)


def contents(graph):
    return dict(graph._queued), set(graph._fetched.to_array().tolist())


Crawling.TestCase.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)
TestCrawling = Crawling.TestCase


def test_the_cash_of_a_page_is_split_among_its_links():
    graph = LinkGraph()
    graph.seed(1, karma=50.0, cash=2.0)
    page = graph.fetched(1)
    found = graph.link(page, worth=0.5, keys=[2, 3, 2])
    assert {key: evidence.equity for key, evidence in found.items()} == {2: 0.85, 3: 0.85}
    assert found[2] == Evidence(equity=0.85, inlinks=1, parent_worth=0.5, depth=1, karma=0.0)


def test_evidence_gathers_over_parents_and_depth_is_the_nearest():
    graph = LinkGraph()
    graph.link(Evidence(equity=1.0, depth=5), worth=0.2, keys=[7])
    found = graph.link(Evidence(equity=1.0, depth=1), worth=0.6, keys=[7])[7]
    assert found.inlinks == 2
    assert found.mean_parent == pytest.approx(0.4)
    assert found.depth == 2
    assert found.equity == pytest.approx(1.7)
    assert graph.link(Evidence(depth=9), worth=0.0, keys=[7])[7].depth == 2


def test_nobody_links_to_a_seed_yet():
    assert Evidence().mean_parent is None


def test_a_seed_given_twice_gathers_its_votes():
    graph = LinkGraph()
    graph.seed(1, 3.0, 1.0)
    again = graph.seed(1, 4.0, 1.0)
    assert again is not None
    assert (again.karma, again.equity) == (7.0, 2.0)


def test_what_was_known_of_a_page_that_moved_is_known_of_where_it_is_now():
    graph = LinkGraph()
    graph.seed(1, karma=500.0, cash=6.0)
    graph.link(Evidence(equity=1.0, depth=2), worth=0.5, keys=[1, 2])
    page = graph.fetched(1)
    assert graph.redirect(page, [2]) == {2: Evidence(6.85, 2, 1.0, 1, 500.0)}
    graph.fetched(2)
    assert graph.redirect(page, [2]) == {}


def test_an_empty_graph_survives_a_restart():
    graph = LinkGraph()
    graph.restore(saved(LinkGraph()))
    assert contents(graph) == ({}, set())


@given(KEYS)
def test_a_page_does_not_pay_itself(key):
    graph = LinkGraph()
    graph.seed(key, 1.0, 1.0)
    assert graph.link(graph.fetched(key), 1.0, [key]) == {}
