"""The learned promise: what it learns, that scale does not matter to it, and that it can say why."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ranker.graph import Fetch, LinkGraph, Target
from ranker.policy.promise import DISCOVERY, INGREDIENTS, PARTS, LearnedPromise, Ridge
from tests.conftest import saved

ROOT = Target(1 << 40, "http://root.example/")


class Web:
    """A graph and a policy; every page that is fetched here was queued, links, and is learned from."""

    def __init__(self, **options):
        self.graph = LinkGraph()
        self.policy = LearnedPromise(self.graph, **options)
        self._keys = {}

    def target(self, url):
        return Target(self._keys.setdefault(url, len(self._keys)), url)

    def queue(self, *urls, karma=0.0):
        return np.array([self.graph.seed(self.target(url), karma, 1.0) for url in urls], np.int64)

    def observe(self, url, worth, links=()):
        row = self.graph.take(self.target(url))
        targets = [self.target(link) for link in links]
        linked, discovered = self.graph.link(row, url, worth, targets)
        self.policy.observe(Fetch(row, worth, targets, discovered))
        return linked

    def fetch(self, url, worth, links=()):
        linked = self.observe(url, worth, links)
        self.policy.learn()
        return linked

    def promise(self, *urls):
        return self.policy.promise(self.queue(*urls)).tolist()


@pytest.fixture
def web():
    return Web()


# What it learns


def test_a_directory_of_good_pages_is_preferred_after_some_fetches(web):
    for number in range(6):
        web.fetch(f"http://h.example/good/{number}/x.html", 0.9)
        web.fetch(f"http://h.example/bad/{number}/x.html", 0.1)
    good, bad = web.promise("http://h.example/good/z", "http://h.example/bad/z")
    assert good > bad + 0.2


def test_a_host_of_good_pages_is_preferred(web):
    for number in range(6):
        web.fetch(f"http://good.example/{number}", 0.9)
        web.fetch(f"http://bad.example/{number}", 0.1)
    good, new, bad = web.promise("http://good.example/z", "http://new.example/z", "http://bad.example/z")
    assert good > new > bad


@pytest.mark.parametrize("listing", ["genindex.html", "genindex-A.html", "genindex?page=2"])
def test_a_list_of_contents_that_was_bad_on_some_hosts_promises_less_on_another(web, listing):
    for number in range(8):
        web.fetch(f"http://h{number}.example/{listing}", 0.0)
        web.fetch(f"http://h{number}.example/tutorial.html", 0.8)
    bad, good = web.promise(f"http://new.example/{listing}", "http://new.example/tutorial.html")
    assert bad < good - 0.1


def test_a_word_that_was_good_on_some_hosts_promises_more_on_another(web):
    for number in range(12):
        web.fetch(f"http://h{number}.example/{number}a/essay/p{number}x/", 0.9)
        web.fetch(f"http://h{number}.example/{number}a/cart/q{number}y/", 0.0)
    good, bad = web.promise("http://new.example/w/essay/deep/", "http://new.example/w/cart/deep/")
    assert good > bad + 0.05


def test_links_of_a_page_whose_other_links_were_good_promise_more(web):
    for side, worth in (("a", 0.9), ("b", 0.1)):
        links = [f"http://{side}{number}.example/" for number in range(12)]
        web.fetch(f"http://list-{side}.example/", 0.5, links)
        for link in links[:8]:
            web.fetch(link, worth)
    good, bad = web.promise("http://a11.example/", "http://b11.example/")
    assert good > bad + 0.1


def test_links_of_good_pages_promise_more(web):
    for number in range(10):
        for side, worth in (("good", 0.9), ("bad", 0.1)):
            link = f"http://of-{side}{number}.example/"
            web.fetch(f"http://{side}{number}.example/", worth, [link, f"http://2{link[7:]}"])
            web.fetch(link, worth)
    good, bad = web.promise("http://2of-good9.example/", "http://2of-bad9.example/")
    assert good > bad + 0.1


def test_a_page_that_leads_to_good_ones_promises_more_than_its_own_worth():
    with_gain, without = Web(), Web(without=frozenset({DISCOVERY}))
    for web in (with_gain, without):
        for number in range(10):
            good = [f"http://h.example/good/{number}-{page}" for page in range(5)]
            web.fetch(f"http://h.example/list/{number}", 0.1, good)
            web.fetch(f"http://h.example/end/{number}", 0.1)
            web.fetch(good[0], 1.0)
    hub, end = with_gain.promise("http://h.example/list/z", "http://h.example/end/z")
    assert hub > end + 0.05
    hub_alone, end_alone = without.promise("http://h.example/list/z", "http://h.example/end/z")
    assert hub - end > hub_alone - end_alone


def test_karma_promises_more_before_anything_was_learned(web):
    [voted] = web.policy.promise(web.queue("http://h.example/a", karma=100.0))
    assert voted > web.promise("http://h.example/b")[0]


def test_nothing_is_learned_of_a_page_from_itself_before_its_fetch(web):
    """Each page is the first of its directory: that its directory is worth what it is says nothing of it."""
    prior = dict(zip(INGREDIENTS, web.policy._of_worth.weights, strict=True))
    worth = np.random.default_rng(0).random(60)
    for number, value in enumerate(worth.tolist()):
        web.fetch(f"http://h.example/d{number}/{number}q.html", value)
    learned = dict(zip(INGREDIENTS, web.policy._of_worth.weights, strict=True))
    assert learned["directory, 1 deep"] == pytest.approx(prior["directory, 1 deep"])
    assert learned["siblings"] == pytest.approx(prior["siblings"])
    assert learned["host"] != pytest.approx(prior["host"])


@pytest.mark.parametrize("worth", [0.0, 0.5, 1e6])
def test_a_fetch_changes_no_promise_until_it_is_learned_from(web, worth):
    rows = web.fetch("http://h.example/a", 0.5, ["http://h.example/b", "http://h.example/c"])
    before = web.policy.promise(rows)
    web.observe("http://h.example/b", worth)
    assert np.array_equal(web.policy.promise(rows), before)
    web.policy.learn()
    assert not np.array_equal(web.policy.promise(rows[1:]), before[1:])


# A history of any kind

PAGES = st.builds(
    "http://{}.example/{}{}".format,
    st.sampled_from("abc"),
    st.sampled_from(["", "src/", "guide/deep/", "2024/01/"]),
    st.sampled_from(["", "x.html", "index.html", "genindex-A.html", "p?id=1", "p?id=2"]),
)
LINKS = st.lists(PAGES, max_size=5)
WORTH = st.just(0.0) | st.floats(1e-9, 1e6)


def histories(worth):
    return st.lists(st.tuples(PAGES, worth, LINKS), min_size=1, max_size=12, unique_by=lambda fetch: fetch[0])


def taught(history, scale=1.0, **options):
    """Pages are learned from three at a time; the rows that still wait, in their order."""
    web = Web(**options)
    for number, (url, worth, links) in enumerate(history):
        web.observe(url, worth * scale, links)
        if number % 3 == 0:
            web.policy.learn()
    web.policy.learn()
    web.queue("http://a.example/src/new.html")
    waiting = web.graph.state()["row.key"].tolist()
    return web, np.array([web.graph.queued(key) for key in waiting])


@settings(max_examples=50)
@given(histories(st.integers(0, 50).map(float)))
def test_scale_does_not_matter(history):
    (small, rows), (large, same) = taught(history), taught(history, scale=1000.0)
    assert np.array_equal(rows, same)
    if not any(worth for _, worth, _ in history):
        return
    low, high = small.policy.promise(rows), large.policy.promise(rows)
    typical = np.abs(low).max() + 1e-9
    assert high / 1000 == pytest.approx(low, rel=1e-4, abs=1e-4 * typical)
    apart = np.abs(low[:, None] - low) > 1e-3 * typical
    assert np.array_equal(np.sign(high[:, None] - high)[apart], np.sign(low[:, None] - low)[apart])


@settings(max_examples=50)
@given(histories(WORTH))
def test_what_a_promise_is_made_of_adds_up_to_it(history):
    web, rows = taught(history)
    names, added = zip(*web.policy.explain(rows), strict=True)
    assert names == (*INGREDIENTS, DISCOVERY)
    promise = web.policy.promise(rows)
    tolerance = 1e-9 * (1 + np.abs(np.array(added)).sum(0).max())
    assert np.sum(added, axis=0) == pytest.approx(promise, abs=tolerance)


@settings(max_examples=30)
@given(histories(WORTH))
def test_what_was_learned_survives_a_restart_bit_by_bit(history):
    web, rows = taught(history)
    again = LearnedPromise(web.graph)
    again.restore(saved(web.policy.state()))
    assert np.array_equal(again.promise(rows), web.policy.promise(rows))
    for other in (web.policy, again):  # and goes on alike
        other.observe(Fetch(int(rows[0]), 3.0))
    children = web.graph.children_worth.copy(), web.graph.children_fetched.copy()
    web.policy.learn()
    web.graph.children_worth[:], web.graph.children_fetched[:] = children
    again.learn()
    assert np.array_equal(again.promise(rows), web.policy.promise(rows))


@settings(max_examples=50)
@given(histories(st.sampled_from([0.0, 1e-30, 1.0, 1e12])), st.floats(-1e9, 1e9))
def test_promises_are_numbers_whatever_was_seen(history, karma):
    web, rows = taught(history)
    web.graph.karma[rows] = karma
    assert np.all(np.isfinite(web.policy.promise(rows)))
    assert all(np.all(np.isfinite(added)) for _, added in web.policy.explain(rows))
    assert np.all(np.isfinite(web.policy.host_bonus(np.arange(web.graph.hosts))))


@pytest.mark.parametrize("worth", [0.0, 1.0])
def test_pages_that_are_all_alike_promise_what_they_are(worth, web):
    for number in range(60):
        web.fetch(f"http://h{number % 3}.example/{number}", worth)
    assert web.promise("http://h1.example/z") == pytest.approx([worth], abs=0.1)


def test_negative_karma_promises_no_less_than_none(web):
    plain, disliked = (web.queue(f"http://h{karma}.example/", karma=-karma) for karma in (0.0, 50.0))
    assert web.policy.promise(plain) == pytest.approx(web.policy.promise(disliked), abs=0.02)


def test_nothing_to_price_and_nothing_to_learn(web):
    web.policy.learn()
    assert web.policy.promise(np.zeros(0, np.int64)).shape == (0,)
    web.fetch("http://alone.example/", 1.0)
    assert web.policy.promise(np.zeros(0, np.int64)).shape == (0,)


# Parts left out


@pytest.mark.parametrize("part", sorted(PARTS))
def test_a_part_that_is_left_out_adds_nothing(part):
    urls = [f"http://h{page % 4}.example/{'src' if page % 3 else 'guide'}/{page}.html" for page in range(40)]
    history = [(url, float(page % 3), urls[page + 1 : page + 6]) for page, url in enumerate(urls[:30])]
    (whole, rows), (less, same) = taught(history), taught(history, without=frozenset({part}))
    assert np.array_equal(rows, same)
    for web in (whole, less):
        web.graph.karma[rows] = 5.0
    assert not np.array_equal(less.policy.promise(rows), whole.policy.promise(rows))
    of_part = [name for name, each in INGREDIENTS.items() if each.part == part] or [DISCOVERY]
    assert not any(dict(less.policy.explain(rows))[name].any() for name in of_part)
    assert any(dict(whole.policy.explain(rows))[name].any() for name in of_part)


# Regression


@settings(max_examples=30)
@given(st.integers(0, 1000), st.integers(1, 40), st.integers(1, 6), st.floats(0.5, 10))
def test_ridge_is_the_closed_form_however_it_is_cut_into_batches(seed, examples, weights, precision):
    random = np.random.default_rng(seed)
    x, y = random.normal(size=(examples, weights)), random.normal(size=examples)
    prior = random.normal(size=weights)
    ridge = Ridge(prior, precision)
    assert np.array_equal(ridge.weights, prior)
    for part in np.array_split(np.arange(examples), 3):
        ridge.learn(x[part], y[part])
    augmented = np.concatenate([x, np.sqrt(precision) * np.eye(weights)])
    aims = np.concatenate([y, np.sqrt(precision) * prior])
    expected = np.linalg.lstsq(augmented, aims, rcond=None)[0]
    assert ridge.weights == pytest.approx(expected, abs=1e-8)
