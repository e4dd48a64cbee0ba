"""`QualityModel`: the learned worth of a text.

The supervision is what people chose, as in WebText and GPT-3's filter: pages with karma are positive, the
rest of the crawl is negative, though much of it is only unlabelled (PU learning), so the two classes are
given equal total weight. The model is a logistic regression on hashed words and word pairs, trained online
by AdaGrad (Duchi et al. 2011). Cost: about 0.3 ms a page to score or to learn, 2 MB.
"""

import math
import re
from collections import Counter
from itertools import pairwise
from typing import Any, Protocol
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

_DIMENSIONS = 1 << 18
_MOST_WORDS = 600
_LEARNING_RATE = 0.1
_FEWEST_POSITIVES = 8
_FIRST_SQUARE = np.float32(1e-3)
_WORD = re.compile(r"\w+")

Features = tuple[NDArray[np.int64], NDArray[np.float32]]


class QualityModel(Protocol):
    """Anything that can say what a text is worth, from 0 to 1."""

    def score(self, text: str) -> float:
        """The worth of `text`."""


class HashedLinear:
    """The quality model a crawl trains while it runs."""

    def __init__(self) -> None:
        self._weights = np.zeros(_DIMENSIONS, dtype=np.float32)
        self._squares = np.full(_DIMENSIONS, _FIRST_SQUARE)
        self._bias = 0.0
        self._mass = {True: 0.0, False: 0.0}
        self._positives = 0

    def score(self, text: str) -> float:
        """Probability that `text` is of the chosen kind were both kinds equally frequent.

        0.5 until enough chosen pages have been seen to know.
        """
        if self._positives < _FEWEST_POSITIVES:
            return 0.5
        return _sigmoid(self._margin(_features(text)))

    def learn(self, text: str, *, chosen: bool, weight: float = 1.0) -> None:
        """One page of the crawl: chosen by people, or only met.

        A page that was only met is passed over while such pages weigh as much as the chosen ones: else a
        crawl that has run out of votes would slowly come to find everything bad.
        """
        if not chosen and self._mass[False] >= self._mass[True]:
            return
        self._mass[chosen] += weight
        self._positives += chosen
        index, value = features = _features(text)
        error = (_sigmoid(self._margin(features)) - chosen) * min(weight, 10.0)
        gradient = error * value
        self._squares[index] += gradient**2
        self._weights[index] -= _LEARNING_RATE * gradient / np.sqrt(self._squares[index])
        self._bias -= _LEARNING_RATE * 0.1 * error

    def _margin(self, features: Features) -> float:
        index, value = features
        return float(self._weights[index] @ value) + self._bias

    def state(self) -> dict[str, Any]:
        """What is needed to go on later: arrays and plain values."""
        used = np.flatnonzero(self._squares != _FIRST_SQUARE)
        return {
            "index": used,
            "weights": self._weights[used],
            "squares": self._squares[used],
            "scalars": [self._bias, self._mass[True], self._mass[False], self._positives],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        used = np.asarray(state["index"])
        self._weights[:], self._squares[:] = 0.0, _FIRST_SQUARE
        self._weights[used] = state["weights"]
        self._squares[used] = state["squares"]
        bias, positive, negative, count = map(float, state["scalars"])
        self._bias, self._mass, self._positives = bias, {True: positive, False: negative}, int(count)


def _features(text: str) -> Features:
    words = [word.lower() for word in _WORD.findall(text[: 20 * _MOST_WORDS])][:_MOST_WORDS]
    pairs = [f"{first} {second}" for first, second in pairwise(words)]
    counts = Counter(crc32(gram.encode()) % _DIMENSIONS for gram in (*words, *pairs))
    value = np.sqrt(np.fromiter(counts.values(), dtype=np.float32, count=len(counts)))
    value /= max(1e-6, float(np.linalg.norm(value)))
    return np.fromiter(counts.keys(), dtype=np.int64, count=len(counts)), value


def _sigmoid(margin: float) -> float:
    return 1 / (1 + math.exp(-max(-30.0, min(30.0, margin))))
