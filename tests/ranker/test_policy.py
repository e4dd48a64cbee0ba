"""The policies by name: all that users can select, all with what the protocol asks for."""

import inspect

import pytest

from ranker.graph import LinkGraph
from ranker.policy import POLICIES, Moves, Policy
from ranker.policy.promise import LearnedPromise

NAMES = (
    "random bfs dfs indegree opic pagerank larger-sites parent-first parent-min parent-mean parent-sum "
    "host-bandit tinylm"
)


def test_policies_are_found_by_their_names():
    assert set(POLICIES) == set(NAMES.split())
    assert POLICIES["tinylm"] is LearnedPromise


@pytest.mark.parametrize("name", NAMES.split())
def test_all_are_policies(name):
    policy = POLICIES[name](LinkGraph())
    assert policy.name == name
    assert policy.batch >= 1
    assert isinstance(policy.moves, Moves)
    for method in ("observe", "learn", "promise", "explain", "host_bonus", "state", "restore"):
        asked = list(inspect.signature(getattr(Policy, method)).parameters)[1:]
        assert list(inspect.signature(getattr(policy, method)).parameters) == asked
