"""Policies compared: many simulated crawls of one recorded web, and what can be said of them with confidence.

The area under the harvest curve (AUC) is the mean, over the fetches of the budget, of the worth gathered so
far; a crawl that ends before its budget keeps what it has. Percent of oracle is how far a policy is on the
way from random order to the greedy oracle. Recall is of the worth of all pages that links lead to. Intervals
are paired bootstraps over the draws of start pages (Efron 1979).
"""

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranker.graph import LinkGraph
from ranker.policy import POLICIES, Policy
from ranker.policy.orders import RANDOM
from ranker.replay.simulator import Clock, Craw4LLMOracle, GreedyOracle, Simulation
from ranker.replay.web import RecordedWeb
from tinylm.config import require
from tinylm.errors import ConfigError

# Shares of the budget at which recall is given.
RECALL_AT = (0.01, 0.05, 0.1, 0.2, 0.5, 1.0)
# Points of a curve in the result, whatever the budget.
CURVE_POINTS = 200
# Of the bootstrap: 50 of them lie beyond each end of a 95 % interval.
_RESAMPLES = 2000
Make = Callable[[LinkGraph], Policy]


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """What is compared, on which web, and how."""

    web: RecordedWeb
    policies: Mapping[str, Make]
    """Those to compare, by name; random order and the greedy oracle are always with them."""
    starts: Sequence[NDArray[np.int64]]
    """The pages each draw starts from."""
    budget: int
    """Fetches; it is cut to the number of pages."""
    clock: Clock | None = None
    exploration: float = 0.0

    def __post_init__(self) -> None:
        require(self, "budget", self.budget >= 1, "must be at least 1")
        if not self.starts:
            raise ConfigError("draws = 0: must be at least 1")
        require(self, "exploration", 0 <= self.exploration <= 1, "a share from 0 to 1")

    @property
    def compared(self) -> dict[str, Make]:
        """All that are run."""
        return {
            RANDOM: POLICIES[RANDOM],
            **self.policies,
            GreedyOracle.name: partial(GreedyOracle, worth=self.web.worth),
        }


@dataclass(frozen=True)
class Run:
    """One crawl of an experiment."""

    policy: str
    draw: int
    curve: NDArray[np.float64]
    """(budget,) Worth gathered after each fetch."""
    reachable: float
    """Worth of all pages that links lead to from the start."""
    seconds: float
    """When it was over: simulated, or the number of fetches."""
    policy_seconds: float


def policies(names: Sequence[str], web: RecordedWeb, budget: int) -> dict[str, Make]:
    """By name, oracles too; raises ConfigError for one that does not exist."""
    known: dict[str, Make] = {
        **POLICIES,
        GreedyOracle.name: partial(GreedyOracle, worth=web.worth),
        Craw4LLMOracle.name: partial(Craw4LLMOracle, worth=web.worth, budget=budget),
    }
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(f"policy = {unknown[0]!r}: there is {', '.join(known)}")
    return {name: known[name] for name in names}


def draw_starts(
    web: RecordedWeb, pages: int, draws: int, seed: int, *, of_hosts: bool
) -> list[NDArray[np.int64]]:
    """For each draw the pages to start from: this many of all, or one of each host.

    Raises ConfigError if that are none.
    """
    if pages < 1:
        raise ConfigError(f"seeds = {pages}: must be at least 1")
    random = np.random.default_rng(seed)
    if not of_hosts:
        return [random.choice(len(web.urls), min(pages, len(web.urls)), replace=False) for _ in range(draws)]
    hosts = np.unique(np.array(web.hosts), return_inverse=True)[1]
    order = [random.permutation(len(hosts)) for _ in range(draws)]
    return [shuffled[np.unique(hosts[shuffled], return_index=True)[1]] for shuffled in order]


def run(experiment: Experiment, processes: int | None = None) -> Iterator[Run]:
    """Crawl once for each policy and draw, in as many processes as there are cores; yields draw by draw."""
    jobs = [(name, draw) for draw in range(len(experiment.starts)) for name in experiment.compared]
    # Forked processes share the web without a copy.
    context = get_context("fork")
    with ProcessPoolExecutor(processes or os.cpu_count(), context, _begin, (experiment,)) as pool:
        yield from pool.map(_crawl, jobs)


_simulation: Simulation
_experiment: Experiment


def _begin(experiment: Experiment) -> None:
    global _simulation, _experiment
    _simulation, _experiment = Simulation(experiment.web), experiment


def _crawl(job: tuple[str, int]) -> Run:
    name, draw = job
    web, start = _experiment.web, _experiment.starts[draw]
    budget = min(_experiment.budget, len(web.urls))
    harvest = _simulation.crawl(
        _experiment.compared[name],
        start,
        budget,
        clock=_experiment.clock,
        exploration=_experiment.exploration,
        seed=draw,
    )
    gathered = np.cumsum(harvest.worth)
    curve = np.append(gathered, np.full(budget - len(gathered), gathered[-1] if len(gathered) else 0.0))
    reachable = float(web.worth[web.reachable(start)].sum())
    end = float(harvest.at[-1]) if len(harvest.at) else 0.0
    return Run(name, draw, curve, reachable, end, harvest.policy_seconds)


def summarize(experiment: Experiment, runs: Sequence[Run]) -> dict[str, Any]:
    """The result as JSON values; a percent of oracle is nan where random order is as good."""
    names = list(dict.fromkeys(one.policy for one in runs))
    ordered = sorted(runs, key=lambda one: one.draw)
    of = {name: [one for one in ordered if one.policy == name] for name in names}
    curves = {name: np.stack([one.curve for one in of[name]]) for name in names}
    draws, fetches = curves[names[0]].shape
    areas = {name: curve.mean(1) for name, curve in curves.items()}
    reachable = np.array([one.reachable for one in of[names[0]]])[:, None]
    recalls = {name: curve / np.where(reachable > 0, reachable, 1.0) for name, curve in curves.items()}
    resampled = np.random.default_rng(0).integers(draws, size=(_RESAMPLES, draws))
    at = np.unique(np.linspace(0, fetches - 1, CURVE_POINTS).astype(int))

    def percent(name: str, chosen: NDArray[np.int64]) -> NDArray[np.float64]:
        low, high = areas[RANDOM][chosen].mean(-1), areas[GreedyOracle.name][chosen].mean(-1)
        return np.asarray(
            100 * (areas[name][chosen].mean(-1) - low) / np.where(high > low, high - low, np.nan)
        )

    return {
        "graph": experiment.web.name,
        "pages": len(experiment.web.urls),
        "links": len(experiment.web.targets),
        "budget": fetches,
        "draws": draws,
        "policies": {
            name: {
                "auc": float(areas[name].mean()),
                "auc_ci": _interval(areas[name][resampled].mean(-1)),
                "percent_of_oracle": float(percent(name, np.arange(draws))),
                "percent_of_oracle_ci": _interval(percent(name, resampled)),
                "recall": {
                    str(share): float(recalls[name][:, max(0, round(share * fetches) - 1)].mean())
                    for share in RECALL_AT
                },
                "us_per_decision": 1e6 * sum(one.policy_seconds for one in of[name]) / (draws * fetches),
                # When the policy's crawls were over, in simulated seconds: their mean.
                **(
                    {"seconds": float(np.mean([one.seconds for one in of[name]]))} if experiment.clock else {}
                ),
                "curve": [round(float(value), 5) for value in recalls[name][:, at].mean(0)],
            }
            for name in names
        },
    }


def _interval(values: NDArray[np.float64]) -> list[float]:
    """Of those resamples that say anything; nan if none does."""
    defined = values[np.isfinite(values)]
    if not len(defined):
        return [math.nan, math.nan]
    return [float(value) for value in np.quantile(defined, (0.025, 0.975))]
