"""Comparisons: figures as defined, computed by hand on a tiny web."""

from functools import partial

import numpy as np
import pytest

from ranker.policy import POLICIES
from ranker.replay.experiment import RECALL_AT, Experiment, Run, draw_starts, policies, run, summarize
from ranker.replay.simulator import Clock, GreedyOracle
from tests.ranker.test_simulator import make_web, random_web
from tinylm.errors import ConfigError

STAR = make_web({0: [1, 2, 3]}, [0.0, 1.0, 5.0, 2.0, 9.0])
"""Its last page is not linked to."""
ZERO = np.array([0])


def experiment(web=STAR, names=("bfs",), starts=(ZERO,), budget=4, **options):
    chosen = policies(names, web, budget)
    return Experiment(web=web, policies=chosen, starts=list(starts), budget=budget, **options)


def result(asked, **options):
    return summarize(asked, list(run(asked, 1, **options)))


def test_a_harvest_is_summed_up_as_defined():
    found = result(experiment())
    bfs, oracle = found["policies"]["bfs"], found["policies"]["oracle-greedy"]
    assert bfs["auc"] == pytest.approx((0 + 1 + 6 + 8) / 4)
    assert oracle["auc"] == pytest.approx((0 + 5 + 7 + 8) / 4)
    assert bfs["recall"] == pytest.approx(
        {"0.01": 0, "0.05": 0, "0.1": 0, "0.2": 0, "0.5": 1 / 8, "1.0": 1.0}
    )
    assert bfs["curve"] == pytest.approx([0, 1 / 8, 6 / 8, 1])
    random = found["policies"]["random"]["auc"]
    assert bfs["percent_of_oracle"] == pytest.approx(100 * (3.75 - random) / (5 - random))
    assert oracle["percent_of_oracle"] == pytest.approx(100)
    assert found["policies"]["random"]["percent_of_oracle"] == pytest.approx(0)
    assert (found["pages"], found["links"], found["budget"], found["draws"]) == (5, 3, 4, 1)


def made(name, draw, curve, reachable=10.0):
    return Run(name, draw, np.array(curve, np.float64), reachable, float(len(curve)), 2e-6)


def test_percents_are_of_the_mean_areas_and_recalls_the_mean_of_draws():
    runs = [
        made("random", 0, [1, 1, 1, 1]), made("bfs", 0, [2, 2, 2, 2]), made("oracle-greedy", 0, [3, 3, 3, 3]),
        made("random", 1, [2, 2, 2, 2], 20), made("bfs", 1, [8, 8, 8, 8], 20),
        made("oracle-greedy", 1, [10, 10, 10, 10], 20),
    ]  # fmt: skip
    found = summarize(experiment(starts=[ZERO, ZERO]), runs[::-1])["policies"]["bfs"]
    assert found["auc"] == 5
    assert found["percent_of_oracle"] == pytest.approx(100 * (5 - 1.5) / (6.5 - 1.5))
    assert found["recall"]["1.0"] == pytest.approx((0.2 + 0.4) / 2)
    assert found["auc_ci"] == [2, 8]
    assert found["percent_of_oracle_ci"] == pytest.approx([50, 75])
    assert found["us_per_decision"] == pytest.approx(0.5)


def test_draws_where_random_is_as_good_as_an_oracle_say_nothing():
    runs = [
        made(name, draw, [value] * 4)
        for draw, values in enumerate([(1, 1, 1), (1, 2, 3)])
        for name, value in zip(("random", "bfs", "oracle-greedy"), values, strict=True)
    ]
    found = summarize(experiment(starts=[ZERO, ZERO]), runs)["policies"]["bfs"]
    assert found["percent_of_oracle"] == pytest.approx(50)
    assert found["percent_of_oracle_ci"] == pytest.approx([50, 50])
    found = summarize(experiment(), runs[:3])["policies"]["bfs"]
    assert np.isnan([found["percent_of_oracle"], *found["percent_of_oracle_ci"]]).all()


def test_a_crawl_that_ends_early_keeps_what_it_has():
    found = result(experiment(starts=[np.array([1])]))["policies"]["bfs"]
    assert found["auc"] == pytest.approx(1.0)
    assert found["curve"] == [1, 1, 1, 1]


def test_a_budget_is_at_most_all_pages():
    found = result(experiment(budget=1000))
    assert found["budget"] == 5
    assert found["policies"]["bfs"]["curve"] == pytest.approx([0, 1 / 8, 6 / 8, 1, 1])


def test_where_nothing_is_to_be_had_recall_is_nothing():
    poor = make_web({0: [1, 2]}, [0.0] * 3)
    found = result(experiment(poor, budget=3))["policies"]["bfs"]
    assert found["auc"] == 0
    assert set(found["recall"].values()) == {0.0}


def test_intervals_contain_the_mean_and_are_the_same_every_time():
    web = random_web()
    starts = draw_starts(web, 3, 6, 0, of_hosts=False)
    asked = experiment(web, ("bfs", "parent-mean"), starts, 60)
    found = result(asked)
    for of in found["policies"].values():
        for name in ("auc", "percent_of_oracle"):
            low, high = of[f"{name}_ci"]
            assert low <= of[name] <= high
        assert list(of["recall"]) == [str(share) for share in RECALL_AT]
        assert of["curve"] == sorted(of["curve"])
    low, high = found["policies"]["bfs"]["auc_ci"]
    assert low < high
    again = summarize(asked, list(run(asked, 2)))
    for name, of in again["policies"].items():
        assert {**of, "us_per_decision": 0} == {**found["policies"][name], "us_per_decision": 0}


def test_runs_are_all_policies_from_all_starts():
    asked = experiment(names=("tinylm", "oracle-craw4llm"), starts=[ZERO, np.array([1])])
    runs = list(run(asked, 1))
    names = ["random", "tinylm", "oracle-craw4llm", "oracle-greedy"]
    assert [(one.policy, one.draw) for one in runs] == [(name, draw) for draw in (0, 1) for name in names]
    assert [one.reachable for one in runs[::4]] == [8.0, 1.0]
    assert all(one.policy_seconds >= 0 for one in runs)


def test_a_clock_and_exploration_reach_the_simulator():
    [*_, oracle] = run(experiment(clock=Clock(delay=1.0, latency=0.5, workers=1)), 1)
    assert oracle.seconds == pytest.approx(5.0)
    plain, explored = (
        np.stack([one.curve for one in run(experiment(random_web(), budget=50, exploration=share), 1)])
        for share in (0.0, 0.5)
    )
    assert not np.array_equal(plain, explored)


def test_policies_are_found_by_name_oracles_too():
    found = policies(["oracle-craw4llm", "bfs", "oracle-greedy"], STAR, 4)
    assert list(found) == ["oracle-craw4llm", "bfs", "oracle-greedy"]
    assert found["bfs"] is POLICIES["bfs"]
    assert isinstance(found["oracle-greedy"], partial)
    assert found["oracle-greedy"].func is GreedyOracle
    with pytest.raises(ConfigError, match=r"policy = 'best': there is tinylm, .*bfs.*oracle-craw4llm"):
        policies(["bfs", "best"], STAR, 4)


# Where crawls start


def test_starts_are_drawn_apart_and_again_the_same():
    web = random_web()
    starts = draw_starts(web, 20, 3, 7, of_hosts=False)
    assert [len(set(start.tolist())) for start in starts] == [20] * 3
    assert not np.array_equal(starts[0], starts[1])
    again = draw_starts(web, 20, 3, 7, of_hosts=False)
    assert all(np.array_equal(start, same) for start, same in zip(starts, again, strict=True))
    assert not np.array_equal(starts[0], draw_starts(web, 20, 3, 8, of_hosts=False)[0])
    assert sorted(draw_starts(STAR, 99, 1, 0, of_hosts=False)[0]) == [0, 1, 2, 3, 4]


def test_a_start_of_hosts_is_a_page_of_each():
    web = random_web()
    starts = draw_starts(web, 2, 40, 0, of_hosts=True)
    for start in starts:
        assert sorted(web.hosts[page] for page in start.tolist()) == sorted(set(web.hosts))
    assert len({int(start[0]) for start in starts}) > 10
