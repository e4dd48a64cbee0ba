"""The simulator: honest, exact in its budget and its clock, and the same every time."""

from collections import Counter
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ranker.graph import LinkGraph, Target
from ranker.policy import POLICIES
from ranker.replay.simulator import Clock, Craw4LLMOracle, GreedyOracle, Queue, Simulation
from ranker.replay.web import build
from tests.ranker.recordings import make_web

BUDGET = 60
START = np.array([0, 7])


def random_web(pages=300, hosts=6, links=5, seed=0):
    random = np.random.default_rng(seed)
    ends = random.integers(0, pages, (pages, links))
    worth = random.integers(0, 4, pages) * random.random(pages)
    names = [f"h{host}" for host in random.integers(0, hosts, pages)]
    return make_web(dict(enumerate(ends.tolist())), worth, names)


def crawl(web, name, budget=BUDGET, start=START, **options):
    return Simulation(web).crawl(POLICIES[name], start, budget, **options)


WEB = random_web()
CLOCK = Clock(delay=1.0, latency=0.25, workers=4)
# Of the policies two that learn, one from pages and one from hosts: they stand for all where the simulator is
# what is tested.
LEARNING = ("tinylm", "host-bandit")


# Honesty


def with_other_columns(web, fetched, how, random):
    """The same web, but pages that were not fetched are worth something else and link elsewhere."""
    unfetched = np.setdiff1d(np.arange(len(web.urls)), fetched)
    worth = web.worth.copy()
    if how == "shuffled":
        worth[unfetched] = random.permutation(worth[unfetched])
    else:
        worth[unfetched] = 1e6 * random.random(len(unfetched))
    links = {page: web.links(page).tolist() for page in range(len(web.urls))}
    for page in unfetched.tolist():
        links[page] = random.integers(0, len(web.urls), random.integers(0, 9)).tolist()
    ends = np.array([(source, target) for source in links for target in links[source]], np.int64)
    ids = np.arange(len(web.urls))
    return build("other", ids, list(web.urls), ends[:, 0], ends[:, 1], {"worth": worth}, "worth")


@pytest.mark.parametrize(
    ("name", "clock", "how"),
    [
        *((name, None, "noise") for name in POLICIES),
        *((name, CLOCK, "noise") for name in LEARNING),
        *((name, None, "shuffled") for name in LEARNING),
    ],
)
def test_no_policy_sees_anything_of_a_page_before_its_fetch(name, clock, how):
    """Whatever the pages are worth that it did not fetch, and wherever they link: it fetches the same."""
    harvest = crawl(WEB, name, clock=clock)
    assert len(harvest.pages) == BUDGET
    other = with_other_columns(WEB, harvest.pages, how, np.random.default_rng(5))
    assert not np.array_equal(other.worth, WEB.worth)
    again = crawl(other, name, clock=clock)
    assert np.array_equal(again.pages, harvest.pages)
    assert np.array_equal(again.worth, harvest.worth)


def test_an_oracle_does_see_it():
    make = partial(GreedyOracle, worth=WEB.worth)
    pages = Simulation(WEB).crawl(make, START, BUDGET).pages
    other = with_other_columns(WEB, pages, "noise", np.random.default_rng(5))
    again = Simulation(other).crawl(partial(GreedyOracle, worth=other.worth), START, BUDGET).pages
    assert not np.array_equal(again, pages)


def test_worth_may_depend_on_what_was_fetched_before_and_steers_as_the_recorded_one():
    """It is asked for once a fetch, in the order of the fetches."""
    asked = []

    def worth(page):
        asked.append(page)
        return float(WEB.worth[page]) if len(asked) < BUDGET / 2 else 0.5

    harvest = crawl(WEB, "tinylm", worth=worth)
    assert harvest.pages.tolist() == asked
    assert harvest.worth[-BUDGET // 2 :].tolist() == [0.5] * (BUDGET // 2)
    assert np.array_equal(crawl(WEB, "tinylm", worth=WEB.worth.__getitem__).pages, crawl(WEB, "tinylm").pages)
    assert not np.array_equal(harvest.pages, crawl(WEB, "tinylm").pages)


# Order and budget


@pytest.mark.parametrize(
    ("name", "clock"), [*((name, None) for name in POLICIES), *((name, CLOCK) for name in LEARNING)]
)
def test_each_page_is_fetched_once_and_after_it_was_discovered(name, clock):
    for budget in (1, BUDGET, 10_000):
        harvest = crawl(WEB, name, budget, clock=clock)
        pages = harvest.pages.tolist()
        assert len(pages) == min(budget, int(WEB.reachable(START).sum()))
        assert len(set(pages)) == len(pages)
        discovered = set(START.tolist())
        for page in pages:
            assert page in discovered
            discovered |= set(WEB.links(page).tolist())
        assert np.array_equal(harvest.worth, WEB.worth[harvest.pages])
        assert np.all(np.diff(harvest.at) >= 0)
    assert set(pages) == set(np.flatnonzero(WEB.reachable(START)).tolist())


@pytest.mark.parametrize("name", POLICIES)
def test_the_same_crawl_is_the_same(name):
    simulation = Simulation(WEB)
    options = {"exploration": 0.1, "seed": 4}
    first, second = (simulation.crawl(POLICIES[name], START, BUDGET, **options) for _ in range(2))
    assert np.array_equal(first.pages, second.pages)
    assert np.array_equal(first.pages, crawl(WEB, name, **options).pages)
    assert not np.array_equal(first.pages, crawl(WEB, name, exploration=0.1, seed=5).pages)


def test_the_number_of_a_fetch_is_its_time_without_a_clock():
    assert crawl(WEB, "bfs", 5).at.tolist() == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_a_start_given_twice_is_one_and_no_start_is_no_crawl():
    assert crawl(make_web({}, [1.0, 2.0]), "bfs", 9, np.array([1, 1])).pages.tolist() == [1]
    for clock in (None, CLOCK):
        assert len(crawl(WEB, "tinylm", 9, np.zeros(0, np.int64), clock=clock).pages) == 0


@settings(max_examples=20)
@given(st.integers(0, 1000), st.sampled_from(sorted(POLICIES)), st.integers(1, 50))
def test_nobody_harvests_more_of_a_star_than_the_greedy_oracle(seed, name, budget):
    worth = np.random.default_rng(seed).random(50)
    star = make_web({0: range(1, 50)}, worth, [f"h{page % 4}" for page in range(50)])
    simulation, start = Simulation(star), np.array([0])
    best = simulation.crawl(partial(GreedyOracle, worth=star.worth), start, budget)
    honest = simulation.crawl(POLICIES[name], start, budget)
    assert np.all(np.cumsum(best.worth) >= np.cumsum(honest.worth) - 1e-12)
    assert best.worth[1:].tolist() == sorted(worth[1:], reverse=True)[: budget - 1]


def test_craw4llm_is_the_greedy_oracle_in_batches():
    make = partial(Craw4LLMOracle, worth=WEB.worth, budget=8000)
    assert make(LinkGraph()).batch == 4
    greedy = Simulation(WEB).crawl(partial(GreedyOracle, worth=WEB.worth), START, BUDGET)
    small = Simulation(WEB).crawl(partial(Craw4LLMOracle, worth=WEB.worth, budget=BUDGET), START, BUDGET)
    assert np.array_equal(greedy.pages, small.pages)
    large = Simulation(WEB).crawl(make, START, BUDGET)
    assert not np.array_equal(greedy.pages, large.pages)


# Exploration


@pytest.mark.parametrize("name", ["bfs", "pagerank"])
def test_the_share_of_fetches_drawn_at_random_is_as_asked_whatever_the_batch(name):
    """Pages of the rare host: by chance every second draw, by the policy last."""
    hosts = ["a"] + ["b"] * 2000 + ["rare"] * 600
    star = make_web({0: range(1, 2601)}, [0.0] + [1.0] * 2000 + [0.0] * 600, hosts)
    harvest = crawl(star, name, 1500, np.array([0]), exploration=0.1, seed=1)
    rare = int(np.sum(harvest.pages > 2000))
    none = int(np.sum(crawl(star, name, 1500, np.array([0])).pages > 2000))
    assert rare - none == pytest.approx(1500 * 0.1 / 2, rel=0.35)


def test_all_drawn_at_random_is_a_crawl_too():
    pages = crawl(WEB, "tinylm", 10_000, exploration=1.0).pages
    assert sorted(pages) == np.flatnonzero(WEB.reachable(START)).tolist()


# The clock


@pytest.mark.parametrize(("name", "workers"), [("bfs", 1), ("bfs", 16), *((name, 2) for name in LEARNING)])
def test_hosts_rest_and_workers_are_no_more_than_there_are(name, workers):
    clock = Clock(delay=1.0, latency=0.25, workers=workers)
    harvest = crawl(WEB, name, 10_000, clock=clock, exploration=0.1)
    ended = dict.fromkeys(WEB.hosts, -np.inf)
    for page, end in zip(harvest.pages.tolist(), harvest.at.tolist(), strict=True):
        assert end - clock.latency >= ended[WEB.hosts[page]] + clock.delay - 1e-9
        ended[WEB.hosts[page]] = end
    begins = harvest.at - clock.latency
    at_once = [(begins <= moment + 1e-9) & (harvest.at > moment + 1e-9) for moment in begins]
    assert max(int(under_way.sum()) for under_way in at_once) <= workers


@pytest.mark.parametrize(
    ("hosts", "clock", "ends"),
    [
        # One host: it rests 1 s after each fetch of 0.5 s.
        ("aaaa", Clock(delay=1.0, latency=0.5, workers=9), [0.5, 2.0, 3.5, 5.0]),
        # Three hosts and workers enough: the links are there at 0.5, and a rests until 1.5.
        ("abca", Clock(delay=1.0, latency=0.5, workers=9), [0.5, 1.0, 1.0, 2.0]),
        # The same with one worker.
        ("abca", Clock(delay=1.0, latency=0.5, workers=1), [0.5, 1.0, 1.5, 2.0]),
        # No rests: as fast as the workers are.
        ("aaaa", Clock(delay=0.0, latency=0.5, workers=9), [0.5, 1.0, 1.5, 2.0]),
        ("abcd", Clock(delay=0.0, latency=0.5, workers=2), [0.5, 1.0, 1.0, 1.5]),
    ],
)
def test_time_is_as_computed_by_hand(hosts, clock, ends):
    star = make_web({0: [1, 2, 3]}, [1.0] * 4, list(hosts))
    harvest = crawl(star, "bfs", 4, np.array([0]), clock=clock)
    assert harvest.at.tolist() == pytest.approx(ends)
    assert harvest.pages.tolist() == [0, 1, 2, 3]


def test_with_a_clock_and_nobody_to_wait_for_the_order_is_the_same():
    clock = Clock(delay=0.0, latency=1.0, workers=1)
    for name in ("bfs", "dfs", "opic", "parent-mean"):
        assert np.array_equal(crawl(WEB, name, clock=clock).pages, crawl(WEB, name).pages)


def test_a_budget_is_not_overrun_by_what_is_under_way():
    clock = Clock(delay=0.0, latency=1.0, workers=16)
    assert len(crawl(WEB, "tinylm", 37, clock=clock).pages) == 37


# The queue


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0, -1.0]), min_size=1, max_size=30), st.integers(1, 40))
def test_the_best_are_the_best_and_the_first_discovered_of_equal_ones(promises, count):
    graph = LinkGraph()
    queue = Queue(graph)
    rows = [graph.seed(Target(key, f"http://h/{key}"), 0.0, 0.0) for key in range(len(promises))]
    queue.add(np.array(rows))
    queue.promise[rows] = promises
    expected = sorted(rows, key=lambda row: (-promises[row], row))
    assert queue.best(queue.promise, count) == expected[:count]
    queue.remove(expected[0])
    assert queue.best(queue.promise, count) == expected[1:][:count]
    assert queue.rows().tolist() == sorted(expected[1:])


def test_some_are_the_best_and_in_turn_all_of_the_others():
    graph = LinkGraph()
    queue = Queue(graph)
    rows = np.array([graph.seed(Target(key, f"http://h/{key}"), 0.0, 0.0) for key in range(100)])
    queue.add(rows)
    queue.promise[rows] = np.random.default_rng(0).permutation(100)
    best = set(rows[queue.promise[rows] >= 95].tolist())
    met = Counter()
    for _ in range(20):
        some = queue.some(10).tolist()
        assert best <= set(some)
        assert len(some) <= 10
        met.update(some)
    assert set(met) == set(rows.tolist())
    assert queue.some(100).tolist() == rows.tolist()


# Recorded webs that it crawls


def test_reachable_is_what_links_lead_to():
    web = make_web({0: [1], 1: [2], 2: [0], 3: [0, 4], 5: []}, [1.0] * 6)
    assert web.reachable(np.array([0])).tolist() == [True, True, True, False, False, False]
    assert web.reachable(np.array([3, 5])).tolist() == [True] * 6
    assert web.reachable(np.zeros(0, np.int64)).sum() == 0
    assert replace(web, name="x").reachable(np.array([4])).sum() == 1
