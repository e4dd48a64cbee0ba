"""From a model's score to a probability that means what it says, and figures that show whether it still does.

Every page is scored before anything learns from it, so each labelled one is a held-back example once
(prequential evaluation, Dawid 1984): nothing has to be set aside, and what is published is of pages the
model did not know.
"""

import logging
import math
from typing import Any

import numpy as np

from ranker.judge.quality import sigmoid

# Examples that the identity counts for.
_PRIOR = 20.0
# Share of an example that is left at the next one: half of it after 230.
_REMEMBERED = 0.997
# Never 0 or less, which would turn the order of the scores around.
_LEAST_SLOPE = 0.1
_BINS = 10
# The same of the two histograms, a page: half after 350, and after 1,400.
_SHORT, _LONG = 0.998, 0.9995
# PSI (Siddiqi 2006): above 0.25 it is another distribution. A warning comes again once it fell below 0.1.
_WARN_ABOVE, _CALM_BELOW = 0.25, 0.1
# Pages in the longer histogram, which holds 2,000 at most, before the index says anything.
_FEWEST = 1000

log = logging.getLogger(__name__)


class Calibration:
    """Platt's scaling (1999), online: the log-odds of a score, scaled and shifted, as votes say.

    Two parameters, fitted by a recursive Newton step that forgets with a half-life of about 230 examples,
    and held to the identity by as much as 20 examples say: without votes a score stays what it is. The order
    of the scores is never turned around.
    """

    def __init__(self) -> None:
        self._slope, self._shift = 1.0, 0.0
        self._curvature = np.eye(2) * _PRIOR / 4
        self._seen = np.zeros((_BINS, 3))

    def __call__(self, score: float) -> float:
        """Probability that a text with this score is of the chosen kind were both kinds equally frequent."""
        return sigmoid(self._slope * _log_odds(score) + self._shift)

    def learn(self, score: float, *, chosen: bool, weight: float) -> None:
        """A text had this score before the model learned it. Both kinds should weigh the same in the end."""
        said = self(score)
        self._seen *= _REMEMBERED
        self._seen[min(_BINS - 1, int(said * _BINS))] += (weight, weight * said, weight * chosen)
        point = np.array([_log_odds(score), 1.0])
        self._curvature = _REMEMBERED * self._curvature + weight * said * (1 - said) * np.outer(point, point)
        # What is forgotten is forgotten towards the identity, so the curvature never falls below the prior's.
        self._curvature += (1 - _REMEMBERED) * np.eye(2) * _PRIOR / 4
        slope, shift = np.linalg.solve(self._curvature, weight * (chosen - said) * point)
        self._slope = max(_LEAST_SLOPE, self._slope + float(slope))
        self._shift += float(shift)

    @property
    def error(self) -> float | None:
        """Expected calibration error (Naeini et al. 2015) in ten bins, of the last few hundred examples."""
        total, said, chosen = self._seen.T
        return float(np.abs(said - chosen).sum() / total.sum()) if total.sum() else None

    def state(self) -> dict[str, Any]:
        """What is needed to go on later."""
        return {
            "line": np.array([self._slope, self._shift]),
            "curvature": self._curvature,
            "seen": self._seen,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self._slope, self._shift = map(float, state["line"])
        self._curvature, self._seen = np.array(state["curvature"]), np.array(state["seen"])


class Drift:
    """Whether the scores of late are distributed otherwise than before: the population stability index.

    Two histograms of the scores of all pages, one that forgets half in 350 pages, one in 1,400. Their index
    is 0 for the same distribution; by the rule of thumb of credit scoring (Siddiqi 2006) above 0.25 it is
    another. A model that drifts and a crawl that comes to other pages look alike here: it says that one
    should look.
    """

    def __init__(self) -> None:
        self._late, self._early = np.zeros(_BINS), np.zeros(_BINS)
        self._warned = False

    def add(self, score: float) -> None:
        """The score of one more page; logs a warning when the index rises above 0.25."""
        where = min(_BINS - 1, int(score * _BINS))
        for histogram, remembered in ((self._late, _SHORT), (self._early, _LONG)):
            histogram *= remembered
            histogram[where] += 1
        index = self.index
        if self._warned:
            self._warned = index > _CALM_BELOW
        elif index > _WARN_ABOVE:
            self._warned = True
            log.warning("quality drifts: its distribution has moved by %.2f (PSI; above 0.25 is much)", index)

    @property
    def index(self) -> float:
        """0 until there are enough pages to say."""
        if self._early.sum() < _FEWEST:
            return 0.0
        late, early = ((histogram + 0.5) / (histogram.sum() + _BINS / 2) for histogram in
                       (self._late, self._early))  # fmt: skip
        return float(((late - early) * np.log(late / early)).sum())

    def state(self) -> dict[str, Any]:
        """What is needed to go on later."""
        return {"late": self._late, "early": self._early, "warned": self._warned}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self._late, self._early = np.array(state["late"]), np.array(state["early"])
        self._warned = bool(state["warned"])


def _log_odds(score: float) -> float:
    score = min(1 - 1e-6, max(1e-6, score))
    return math.log(score / (1 - score))
