"""The policy: shrinkage, promises between 0 and 1, and what it learns across hosts."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler.urls import canonicalize, locate
from ranker.evidence import Evidence
from ranker.policy import POLICIES, Mean, PosteriorPolicy

WORTH = st.floats(0, 1)
URLS = st.builds(
    "http://{}.example/{}".format,
    st.sampled_from("abc"),
    st.text("ab/.-?=%0\u00e9", max_size=12)
    | st.sampled_from(["src/a.html", "genindex.html", "2024/01/x", ""]),
).map(lambda url: canonicalize(url) or "http://a.example/")
EVIDENCE = st.builds(
    Evidence,
    equity=st.floats(0, 1e12),
    inlinks=st.integers(0, 1000),
    parent_worth=st.just(0.0),
    depth=st.integers(0, 100),
    karma=st.floats(-1e9, 1e9),
).flatmap(
    lambda evidence: WORTH.map(
        lambda mean: Evidence(
            evidence.equity, evidence.inlinks, mean * evidence.inlinks, evidence.depth, evidence.karma
        )
    )
)
HISTORY = st.lists(st.tuples(URLS, WORTH, EVIDENCE), max_size=15)


def host(url):
    return locate(url).host


def taught(history):
    policy = PosteriorPolicy()
    for url, worth, evidence in history:
        policy.observe(url, host(url), worth, evidence)
    return policy


def promise(policy, url, evidence=None):
    return policy.promise(url, host(url), evidence or Evidence(equity=1.0))


@given(HISTORY, URLS, EVIDENCE)
def test_a_promise_is_between_0_and_1_whatever_was_seen(history, url, evidence):
    policy = taught(history)
    assert 0 <= promise(policy, url, evidence) <= 1
    assert 0 < policy.host_index(host(url)) < math.inf


@pytest.mark.parametrize("worth", [0.0, 1.0])
def test_effects_that_add_up_stay_between_0_and_1(worth):
    policy = PosteriorPolicy()
    for number in range(50):
        policy.observe(
            f"http://h{number % 5}.example/x/a{number}.html", f"h{number % 5}.example", worth, Evidence()
        )
        policy.observe(f"http://o.example/y/b{number}.html", "o.example", 1 - worth, Evidence())
    evidence = Evidence(equity=1e9, inlinks=3, parent_worth=3 * worth)
    assert 0 <= policy.promise("http://h1.example/x/a.html", "h1.example", evidence) <= 1


@given(HISTORY, URLS, EVIDENCE)
def test_what_was_learned_survives_a_restart_exactly(history, url, evidence):
    policy = taught(history)
    again = PosteriorPolicy()
    again.restore(json.loads(json.dumps(policy.state())))
    assert again.state() == policy.state()
    assert promise(again, url, evidence) == promise(policy, url, evidence)
    assert again.host_index(host(url)) == policy.host_index(host(url))


@given(WORTH, st.floats(0.1, 100), st.lists(WORTH, min_size=1))
def test_a_mean_is_shrunk_between_its_values_and_its_prior(towards, weight, values):
    mean = Mean()
    assert mean.shrunk(towards, weight) == pytest.approx(towards)
    for value in values:
        mean.add(value)
    low, high = min(towards, *values), max(towards, *values)
    assert low - 1e-9 <= mean.shrunk(towards, weight) <= high + 1e-9


def test_many_observations_outweigh_the_prior_and_few_do_not():
    few, many = Mean(), Mean()
    few.add(1.0)
    for _ in range(10_000):
        many.add(1.0)
    assert few.shrunk(0.0, 6.0) == pytest.approx(1 / 7)
    assert many.shrunk(0.0, 6.0) > 0.999


def test_a_discounted_mean_forgets():
    mean = Mean()
    for value in [0.0] * 1000 + [1.0] * 200:
        mean.add(value, 0.98)
    assert mean.shrunk(0.0, 1e-9) > 0.95
    assert mean.n <= 50


@pytest.mark.parametrize("listing", ["genindex.html", "genindex-A.html", "genindex?page=2"])
def test_a_list_of_contents_that_was_bad_on_three_hosts_promises_less_on_a_fourth(listing):
    policy = PosteriorPolicy()
    for number in range(3):
        site = f"http://h{number}.example"
        policy.observe(f"{site}/{listing}", host(site), 0.0, Evidence(equity=1.0))
        policy.observe(f"{site}/tutorial.html", host(site), 0.8, Evidence(equity=1.0))
    assert (
        promise(policy, f"http://new.example/{listing}")
        < promise(policy, "http://new.example/chapter.html") - 0.1
    )


def test_a_directory_that_was_bad_on_three_hosts_promises_less_on_a_fourth():
    policy = PosteriorPolicy()
    for number in range(3):
        site = f"http://h{number}.example"
        for page in range(3):
            policy.observe(f"{site}/_src/p{page}a.html", host(site), 0.0, Evidence(equity=1.0))
            policy.observe(f"{site}/guide/q{page}b.html", host(site), 0.8, Evidence(equity=1.0))
    bad, good = (
        promise(policy, "http://new.example/_src/x.html"),
        promise(policy, "http://new.example/guide/x.html"),
    )
    assert bad < good - 0.2


def test_pages_beside_good_ones_promise_more():
    policy = PosteriorPolicy()
    for page in "abcdefgh":
        policy.observe(f"http://h.example/good/{page}/x.html", "h.example", 0.9, Evidence(equity=1.0))
        policy.observe(f"http://h.example/bad/{page}/x.html", "h.example", 0.1, Evidence(equity=1.0))
    assert promise(policy, "http://h.example/good/z") > promise(policy, "http://h.example/bad/z") + 0.2


@given(HISTORY, URLS, st.floats(0.01, 1e6), st.floats(0, 1e3))
def test_more_karma_never_promises_less(history, url, karma, more):
    policy = taught(history)
    low = promise(policy, url, Evidence(equity=1.0, karma=karma))
    assert promise(policy, url, Evidence(equity=1.0, karma=karma + more)) >= low - 1e-12


def test_karma_equity_and_good_parents_raise_a_promise():
    policy, url = PosteriorPolicy(), "http://h.example/a"
    policy.observe("http://o.example/", "o.example", 0.4, Evidence(equity=1.0))
    plain = promise(policy, url)
    assert promise(policy, url, Evidence(equity=1.0, karma=1000)) > plain
    assert promise(policy, url, Evidence(equity=10.0)) > plain
    assert promise(policy, url, Evidence(equity=1.0, inlinks=2, parent_worth=2.0)) > plain
    assert promise(policy, url, Evidence(equity=1.0, inlinks=2, parent_worth=0.0)) < plain


def test_a_host_asked_less_often_has_the_higher_index():
    policy = PosteriorPolicy()
    for number in range(30):
        policy.observe(f"http://often.example/{number}", "often.example", 0.5, Evidence())
    policy.observe("http://once.example/", "once.example", 0.5, Evidence())
    indices = [policy.host_index(name) for name in ("often.example", "once.example", "never.example")]
    assert indices == sorted(indices)
    assert len(set(indices)) == 3


def test_policies_are_found_by_their_names():
    assert {name: policy.name for name, policy in POLICIES.items()} == {name: name for name in POLICIES}
    assert POLICIES["tinylm"] is PosteriorPolicy
