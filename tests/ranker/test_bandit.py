"""The bandit over sources draws from what pays, and leaves what no longer does."""

import numpy as np
import pytest

from ranker.bandit import Bandit


def shares(worth, steps=200, seed=0, lump=5):
    """How often each arm is drawn; `worth(arm, step)` are tokens of ten fetches, told in lumps."""
    random = np.random.default_rng(seed)
    names = ["a", "b", "c"]
    bandit, totals, told = Bandit(names, random), dict.fromkeys(names, (0.0, 0.0)), {}
    drawn = []
    for step in range(steps):
        if step % lump == 0:
            told = dict(totals)
        bandit.look(told)
        name = bandit.choose(names)
        drawn.append(name)
        cost, tokens = totals[name]
        totals[name] = cost + 10, tokens + max(0.0, random.normal(worth(name, step), 100))
    return {name: drawn.count(name) / steps for name in names}, drawn


@pytest.mark.parametrize("seed", range(5))
def test_most_draws_go_to_the_source_that_pays_most(seed):
    found, _ = shares(lambda name, _: {"a": 1000, "b": 300, "c": 50}[name], seed=seed)
    assert found["a"] > 0.7
    assert found["c"] < 0.15


def test_a_source_that_runs_dry_is_left():
    _, drawn = shares(lambda name, step: {"a": 2000 if step < 60 else 0, "b": 500, "c": 50}[name], seed=1)
    assert drawn[30:60].count("a") > 20
    assert drawn[140:].count("b") > drawn[140:].count("a")


def test_what_was_seen_before_is_not_learned_twice():
    bandit = Bandit(["a"], np.random.default_rng(0))
    bandit.look({"a": (10.0, 100.0)})
    before = bandit.arms["a"].cost, bandit.arms["a"].tokens
    bandit.look({"a": (10.0, 100.0)})
    assert (bandit.arms["a"].cost, bandit.arms["a"].tokens) == before == (10, 100)


def test_only_those_that_may_be_drawn_are():
    bandit = Bandit(["a", "b"], np.random.default_rng(0))
    bandit.look({"a": (100.0, 9e6)})
    assert {bandit.choose(["b"]) for _ in range(9)} == {"b"}
