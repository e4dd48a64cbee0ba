"""`QualityModel`: the learned worth of a text. `HashedLinear` is the one that a crawl trains while it runs,
`FastText` a classifier that others trained; what needs torch is opened elsewhere and handed to the walker.

The supervision is what people chose, as in WebText and GPT-3's filter: pages with karma are positive, the
rest is not negative but unlabelled. Learned against the unlabelled with both classes of equal total weight,
the score says how much likelier a text is among the chosen than in the crawl, which puts texts in the same
order as the probability of being good does if the chosen are a fair sample of the good (Elkan & Noto 2008).
The unbiased, non-negative estimator (Kiryo et al. 2017) needs the share of good pages, which a crawl does
not know and changes by its own steering: with a wrong one it was worse (docs/quality.md).

The model is a logistic regression on hashed words, word pairs and ranges of the rule signals, trained online
by AdaGrad (Duchi et al. 2011). Cost: about 0.2 ms a page to score or to learn, 2 MB.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ranker.config import ONLINE
from shards.text.dedup import mixed
from shards.text.signals import COLUMNS, GOLDEN, Signals
from tinylm.errors import ConfigError

# Weights of words and pairs, 8 bytes each with their squares; a page has at most 1,199 of them.
_HASHED = 1 << 18
# Weights of each signal, one a range of its values.
_RANGES = 64
_DIMENSIONS = _HASHED + _RANGES * len(COLUMNS)
# Of a text the first words are read: what a page costs does not grow with its length.
_MOST_WORDS = 600
# Value of a signal's range, beside words and pairs of norm 1 together; 0.3 cost 0.019 of AUC on known hosts.
_SIGNAL_VALUE = np.float32(0.1)
_LEARNING_RATE = 0.1
# Chosen pages that have to be learned before a score says anything.
FEWEST_VOTES = 8
# The most a page weighs, reached at 8,100 votes; one that was only met weighs 1.
_MOST_WEIGHT = 10.0
# AdaGrad's sum of squares before the first; a weight that still has it was never learned, and is not saved.
_FIRST_SQUARE = np.float32(1e-3)

Features = tuple[NDArray[np.int64], NDArray[np.float32]]
# From what `quality` and `quality_label` say to a model; raises ConfigError if there is none.
Open = Callable[[str, str], "QualityModel"]


class QualityModel(Protocol):
    """Anything that can say what a text is worth, from 0 to 1."""

    name: str
    """What is written with the documents it scored."""

    def score(self, text: str) -> float:
        """The worth of `text`."""

    def close(self) -> None:
        """It is not needed any more."""


class HashedLinear:
    """The model a crawl trains while it runs; `Signals` in place of a text spare measuring it again."""

    name = "online"

    def __init__(self) -> None:
        self._weights = np.zeros(_DIMENSIONS, dtype=np.float32)
        self._squares = np.full(_DIMENSIONS, _FIRST_SQUARE)
        self._bias = 0.0
        self._mass = {True: 0.0, False: 0.0}
        self.votes = 0

    def score(self, text: str | Signals) -> float:
        """Probability that `text` is of the chosen kind were both kinds equally frequent.

        0.5 until enough chosen pages have been seen to know.
        """
        if self.votes < FEWEST_VOTES:
            return 0.5
        return sigmoid(self._margin(_features(text)))

    def learn(self, text: str | Signals, *, chosen: bool, weight: float = 1.0) -> bool:
        """One page of the crawl: chosen by people, or only met. Returns whether it was learned.

        A page that was only met is passed over while such pages weigh as much as the chosen ones: else a
        crawl that has run out of votes would slowly come to find everything bad.
        """
        if not chosen and self._mass[False] >= self._mass[True]:
            return False
        weight = min(weight, _MOST_WEIGHT)
        self._mass[chosen] += weight
        self.votes += chosen
        index, value = features = _features(text)
        error = self._error(self._margin(features), chosen=chosen) * weight
        gradient = error * value
        self._squares[index] += gradient**2
        self._weights[index] -= _LEARNING_RATE * gradient / np.sqrt(self._squares[index])
        # A tenth as fast: AdaGrad does not slow the bias down, and every page moves it.
        self._bias -= _LEARNING_RATE * 0.1 * error
        return True

    def close(self) -> None:
        """Nothing is open."""

    def _error(self, margin: float, *, chosen: bool) -> float:
        """How much too high the margin is: the gradient of the loss."""
        return sigmoid(margin) - chosen

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
            "scalars": [self._bias, self._mass[True], self._mass[False], self.votes],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        used = np.asarray(state["index"])
        self._weights[:], self._squares[:] = 0.0, _FIRST_SQUARE
        self._weights[used] = state["weights"]
        self._squares[used] = state["squares"]
        bias, positive, negative, count = map(float, state["scalars"])
        self._bias, self._mass, self.votes = bias, {True: positive, False: negative}, int(count)


def _features(text: str | Signals) -> Features:
    """Distinct indices and their values: words and pairs, of norm 1 all together, and each signal's range."""
    signals = text if isinstance(text, Signals) else Signals(text)
    words = signals.hashes[:_MOST_WORDS].astype(np.uint64)
    grams = np.concatenate((words, mixed(words[:-1] * np.uint64(GOLDEN) + words[1:])))
    index, counts = np.unique(grams % _HASHED, return_counts=True)
    value = np.sqrt(counts, dtype=np.float32)
    value /= max(1e-6, float(np.linalg.norm(value)))
    # Ranges: twentieths of what is a share, and half powers of e of anything else.
    ranges = [
        _HASHED + n * _RANGES + min(_RANGES - 1, int(20 * each if each <= 1 else 20 + 2 * math.log(each)))
        for n, each in enumerate(signals.columns.values())
        if each is not None
    ]
    return (
        np.concatenate((index.astype(np.int64), ranges), dtype=np.int64),
        np.concatenate((value, np.full(len(ranges), _SIGNAL_VALUE))),
    )


def vote_weight(karma: float) -> float:
    """How much a chosen page with these votes weighs; one that was only met weighs 1."""
    return min(_MOST_WEIGHT, 1 + math.log1p(karma))


def sigmoid(margin: float) -> float:
    """The probability whose log-odds are `margin`."""
    return 1 / (1 + math.exp(-max(-30.0, min(30.0, margin))))


class FastText:
    """A supervised fastText model (`.bin`, `.ftz`), as DCLM's: the probability it gives to one label.

    About 0.1 ms for 700 words. Raises ConfigError if `path` is no such model or does not know `label`.
    """

    def __init__(self, path: Path, label: str) -> None:
        import fasttext

        try:
            self._model = fasttext.load_model(str(path))
            labels = sorted(self._predict("x"))
        except (ValueError, MemoryError, OSError) as error:
            raise ConfigError(
                f"quality = {str(path)!r}: not a supervised fastText model ({error})"
            ) from error
        if label not in labels:
            known = ", ".join(labels[:8]) + (", …" if len(labels) > 8 else "")
            raise ConfigError(f"quality_label = {label!r}: {path} knows {known}")
        self.name = f"fasttext {path.name} {label}"
        self._label = label

    def score(self, text: str) -> float:
        """The probability of the label for `text`, read as one line."""
        return min(1.0, self._predict(text).get(self._label, 0.0))

    def _predict(self, text: str) -> dict[str, float]:
        line = " ".join(text.encode("utf-8", "replace").decode().splitlines())
        return dict(zip(*self._model.predict(line, k=-1), strict=True))

    def close(self) -> None:
        """Nothing is open."""


def open_model(quality: str, label: str) -> QualityModel:
    """The model at the path `quality`; raises ConfigError if there is none that can be opened here."""
    path = Path(quality)
    if path.suffix in (".bin", ".ftz") and path.is_file():
        return FastText(path, label)
    raise ConfigError(
        f"quality = {quality!r}: there is no model at this path, fastText's or a checkpoint's; {ONLINE!r} is "
        "the one the crawl trains itself"
    )
