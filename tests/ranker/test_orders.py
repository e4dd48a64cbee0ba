"""The orders of the literature: each does on a small graph what its source says."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ranker.graph import Fetch, LinkGraph, Target
from ranker.links.centrality import Graph, pagerank
from ranker.policy import POLICIES
from ranker.policy.orders import ORDERS, HostBandit
from ranker.replay.simulator import Simulation
from tests.conftest import saved
from tests.ranker.recordings import make_web

ROOT, GOOD, BAD = 0, 1, 2


def order_of(name, of, budget=None, start=(ROOT,)):
    budget = budget or len(of.urls)
    return Simulation(of).crawl(POLICIES[name], np.array(start), budget).pages.tolist()


TREE = make_web({0: [1, 2], 1: [3, 4], 2: [5], 3: [6]}, [1.0] * 7)


def test_breadth_first_goes_by_depth_and_then_by_discovery():
    assert order_of("bfs", TREE) == [0, 1, 2, 3, 4, 5, 6]


def test_breadth_first_moves_up_what_turns_out_to_be_nearer():
    of = make_web({0: [2], 2: [3, 4], 1: [4, 5]}, [1.0] * 6)
    assert order_of("bfs", of, start=(0, 1)) == [0, 1, 2, 4, 5, 3]


def test_depth_first_takes_the_latest_discovery():
    assert order_of("dfs", TREE) == [0, 2, 5, 1, 4, 3, 6]


def test_in_degree_takes_what_most_links_lead_to():
    of = make_web({0: [1, 2, 3], 1: [4, 5], 2: [5], 3: [5]}, [1.0] * 6)
    assert order_of("indegree", of) == [0, 1, 2, 5, 3, 4]  # 5 has two links once 2 is fetched


def test_opic_takes_what_most_cash_flowed_to():
    # 1 passes 0.85 * 0.425 to one page, 2 the same to three of which two get cash of both.
    of = make_web({0: [1, 2], 1: [3], 2: [4, 5, 6], 3: [5], 7: []}, [1.0] * 8)
    assert order_of("opic", of) == [0, 1, 2, 3, 5, 4, 6]


def test_random_is_an_order_of_its_own_and_always_the_same():
    of = make_web({0: range(1, 60)}, [1.0] * 60)
    found = order_of("random", of)
    assert sorted(found) == list(range(60))
    assert found == order_of("random", of)
    assert found[1:] != sorted(found[1:])
    graph = LinkGraph()
    rows = np.array([graph.seed(Target(key, f"http://h/{key}"), 0.0, 0.0) for key in range(2000)])
    promise = ORDERS["random"](graph).promise(rows)
    assert len(np.unique(promise)) == 2000
    assert np.histogram(promise, 10, (0, 1))[0] == pytest.approx(200, abs=60)


PARENTS = make_web(
    # 4 is found by the bad page and linked from the good one; 5 by the good one alone; 6 by both bad ones.
    {0: [1, 2, 3], 1: [4, 6], 2: [4, 5], 3: [6]},
    [0.0, 0.25, 0.75, 0.5, 0, 0, 0],
)


@pytest.mark.parametrize(
    ("name", "promises"),
    [
        ("parent-first", [0.25, 0.75, 0.25]),
        ("parent-min", [0.25, 0.75, 0.25]),
        ("parent-mean", [0.5, 0.75, 0.375]),
        ("parent-sum", [1.0, 0.75, 0.75]),
    ],
)
def test_parents_are_first_least_mean_or_sum(name, promises):
    graph = LinkGraph()
    for page in range(4):
        row = graph.take(Target(page, PARENTS.urls[page]))
        targets = [Target(to, PARENTS.urls[to]) for to in PARENTS.links(page).tolist() if to > 3]
        graph.link(row, PARENTS.urls[page], float(PARENTS.worth[page]), targets)
    rows = np.array([graph.queued(key) for key in (4, 5, 6)])
    found = ORDERS[name](graph).promise(rows)
    assert found == pytest.approx([value / (1 + value) for value in promises])
    assert order_of(name, PARENTS)[:1] == [0]


@pytest.mark.parametrize("pages", [2, 2000])
def test_larger_sites_takes_the_host_with_the_longest_queue_however_deep(pages):
    graph = LinkGraph()
    rows = [graph.seed(Target(key, f"http://small.example/{key}"), 0.0, 0.0) for key in range(pages)]
    keys = range(pages, 2 * pages + 1)
    rows += [graph.seed(Target(key, f"http://large.example/{key}"), 0.0, 0.0) for key in keys]
    graph.depth[rows[pages:]] = 50
    policy = ORDERS["larger-sites"](graph)
    index = policy.promise(np.array(rows)) + policy.host_bonus(graph.host[rows])
    assert index[:pages].max() < index[pages:].min()


def test_within_a_host_larger_sites_goes_breadth_first():
    assert order_of("larger-sites", TREE) == [0, 1, 2, 3, 4, 5, 6]


def test_the_host_bandit_tries_every_host_and_stays_with_the_best():
    hosts = ["h0", *(f"h{number}" for number in range(5) for _ in range(100))]
    worth = np.array([0.0] + [float(number == 3) for number in range(5) for _ in range(100)])
    of = make_web({0: range(1, 501)}, worth, hosts)
    pages = order_of("host-bandit", of, budget=120)
    tried = [hosts[page] for page in pages]
    assert set(tried) == set(hosts)
    assert tried.count("h3") > 80
    assert min(tried.count(host) for host in set(hosts)) >= 2


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=20), st.integers(1, 6))
def test_pagerank_is_that_of_the_graph_seen(ends, fetches):
    """Fetch some pages of a random graph: promises are the ranks of all pages met, of the links seen."""
    graph, links = LinkGraph(), {}
    for source, target in ends:
        links.setdefault(source, []).append(target)
    policy = ORDERS["pagerank"](graph)
    urls = [f"http://h.example/{page}" for page in range(6)]
    graph.seed(Target(0, urls[0]), 0.0, 1.0)
    met, seen, fetched = [0], [], []
    for page in range(fetches):
        if page not in met:
            continue
        fetched.append(page)
        row = graph.take(Target(page, urls[page]))
        targets = [Target(to, urls[to]) for to in links.get(page, [])]
        _, discovered = graph.link(row, urls[page], 0.5, targets)
        policy.observe(Fetch(row, 0.5, targets, discovered))
        met += [key for key in graph.key[discovered].tolist() if key not in met]
        seen += [(met.index(page), met.index(to)) for to in links.get(page, [])]
    policy.learn()
    queued = [page for page in met if page not in fetched]
    sources, targets = np.array(seen, np.int64).reshape(-1, 2).T
    nodes = 1 + max([0, *sources.tolist(), *targets.tolist()])
    expected = pagerank(Graph.of(nodes, sources, targets))
    rows = np.array([graph.queued(page) for page in queued], np.int64)
    assert policy.promise(rows) == pytest.approx(expected[[met.index(page) for page in queued]], abs=6e-4)


# All of them


def crawled(name, pages=40):
    """A policy that has seen part of a web of three hosts, its graph, and the rows that wait."""
    random = np.random.default_rng(3)
    hosts = [f"h{page % 3}" for page in range(pages)]
    of = make_web(
        {page: random.integers(0, pages, 5).tolist() for page in range(pages)},
        random.random(pages) * 9,
        hosts,
    )
    graph = LinkGraph()
    policy = POLICIES[name](graph)
    graph.seed(Target(0, of.urls[0]), 3.0, 1.0)
    page = 0
    for _ in range(pages // 4):
        row = graph.take(Target(page, of.urls[page]))
        targets = [Target(to, of.urls[to]) for to in of.links(page).tolist()]
        _, discovered = graph.link(row, of.urls[page], float(of.worth[page]), targets)
        policy.observe(Fetch(row, float(of.worth[page]), targets, discovered))
        policy.learn()
        graph.release([row])
        page = min(key for key in range(pages) if graph.queued(key) is not None)
    rows = np.array([graph.queued(key) for key in range(pages) if graph.queued(key) is not None])
    return policy, graph, rows


@pytest.mark.parametrize("name", ORDERS)
def test_promises_are_between_0_and_1_and_explained(name):
    policy, graph, rows = crawled(name)
    promise = policy.promise(rows)
    assert promise.shape == rows.shape
    assert np.all((promise >= 0) & (promise <= 1))
    [(explained, added)] = policy.explain(rows)
    assert explained == policy.name == name
    assert np.array_equal(added, promise)
    bonus = policy.host_bonus(np.arange(graph.hosts))
    assert bonus.shape == (graph.hosts,)
    assert np.all(np.isfinite(bonus))
    assert policy.promise(rows[:0]).shape == policy.host_bonus(rows[:0]).shape == (0,)


@pytest.mark.parametrize("name", POLICIES)
def test_what_a_policy_knows_survives_a_restart(name):
    policy, graph, rows = crawled(name)
    graph_again = LinkGraph()
    graph_again.restore(saved(graph.state()))
    again = POLICIES[name](graph_again)
    again.restore(saved(policy.state()))
    there = np.array([graph_again.queued(key) for key in graph.key[rows].tolist()])
    assert np.array_equal(again.promise(there), policy.promise(rows))
    hosts = np.arange(graph.hosts)
    assert np.array_equal(again.host_bonus(hosts), policy.host_bonus(hosts))


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_that_has_seen_nothing_survives_a_restart_and_prices_all(name):
    graph = LinkGraph()
    rows = np.array([graph.seed(Target(key, f"http://h{key}.example/"), 1.0, 1.0) for key in range(5)])
    policy, again = POLICIES[name](graph), POLICIES[name](graph)
    policy.learn()
    again.restore(saved(policy.state()))
    assert np.array_equal(again.promise(rows), policy.promise(rows))
    assert np.all(np.isfinite(policy.promise(rows)))


def test_the_host_bandit_prefers_hosts_asked_less_often():
    graph = LinkGraph()
    policy = HostBandit(graph)
    for number in range(31):
        name = "often" if number < 30 else "once"
        policy.observe(Fetch(graph.take(Target(number, f"http://{name}.example/{number}")), 0.5))
    graph.seed(Target(99, "http://never.example/"), 0.0, 0.0)
    often, once, never = policy.host_bonus(np.arange(3))
    assert often < once < never
