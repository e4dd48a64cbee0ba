"""Policies: what a link promises and which host is asked first.

`tinylm`, the default, is an empirical-Bayes one. A page's worth is predicted from its host, from the shape of
its URL (first path segment, stem of the file name) and from its parents as additive effects, since a list of
contents is a list of contents on every host; the pages met so far under the same path prefixes of the same
host correct that, the longer prefix the more; what people said of it is blended in as so many more
observations; and the equity it holds raises it. Every mean is shrunk towards the more general
one by the pseudo-observations stated below. A host's index adds the upper-confidence bonus of a discounted
bandit (Garivier & Moulines 2011), so that no host is given up for good.
"""

import math
import re
from typing import Any, Protocol

from ranker.evidence import Evidence

_HOST_SHRINKAGE = 6.0
_SHAPE_SHRINKAGE = 6.0
_PREFIX_SHRINKAGE = 3.0
_PARENT_EFFECT = 0.3
_KARMA_WEIGHT = 4.0
_EQUITY_SHARE = 0.2
_UCB = 0.1
_DISCOUNT = 0.98
_GLOBAL_PRIOR = (0.4, 10.0)
_LONGEST_PREFIX = 3
_DIGITS = re.compile(r"\d+")
_STEM = re.compile(r"[-_.]")
_SEPARATOR = re.compile(r"[/.]")


class Policy(Protocol):
    """Decides what is next, from nothing but URLs and pages already fetched."""

    name: str

    def observe(self, url: str, host: str, worth: float, evidence: Evidence) -> None:
        """A fetch is over and was worth this, 0 to 1."""

    def promise(self, url: str, host: str, evidence: Evidence) -> float:
        """Expected worth of fetching `url`, 0 to 1."""

    def host_index(self, host: str) -> float:
        """What is added to the best promise of `host`'s queue when hosts are compared."""


class Mean:
    """A mean of values in [0, 1] that can forget."""

    __slots__ = ("n", "total")

    def __init__(self, n: float = 0.0, total: float = 0.0) -> None:
        self.n = n
        self.total = total

    def add(self, value: float, discount: float = 1.0) -> None:
        self.n = self.n * discount + 1
        self.total = self.total * discount + value

    def shrunk(self, towards: float, weight: float) -> float:
        """The mean with `weight` pseudo-observations of `towards`."""
        return (self.total + weight * towards) / (self.n + weight)


class PosteriorPolicy:
    """The policy `tinylm`. Memory: about 150 bytes for each host, URL shape and path prefix met."""

    name = "tinylm"

    def __init__(self) -> None:
        self._means: dict[str, Mean] = {"": Mean()}
        self._fetches = 0
        self._mean_equity = Mean()

    def observe(self, url: str, host: str, worth: float, evidence: Evidence) -> None:
        self._fetches += 1
        self._means[""].add(worth)
        self._means.setdefault(host, Mean()).add(worth, _DISCOUNT)
        for key in (*_shapes(url, host), *_prefixes(url, host)):
            self._means.setdefault(key, Mean()).add(worth)
        self._mean_equity.add(evidence.equity, _DISCOUNT)

    def promise(self, url: str, host: str, evidence: Evidence) -> float:
        overall = self._means[""].shrunk(*_GLOBAL_PRIOR)
        expected = self._mean(host).shrunk(overall, _HOST_SHRINKAGE)
        for shape in _shapes(url, host):
            expected += self._mean(shape).shrunk(overall, _SHAPE_SHRINKAGE) - overall
        if evidence.mean_parent is not None:
            expected += _PARENT_EFFECT * (evidence.mean_parent - overall)
        expected = min(1.0, max(0.0, expected))
        known = 1.0
        for prefix in _prefixes(url, host):
            local = self._mean(prefix)
            expected = local.shrunk(expected, _PREFIX_SHRINKAGE)
            known = 1.0 + local.n
        weight, total = known, known * expected
        if evidence.karma > 0:
            votes = 1 - 1 / (1 + math.log1p(evidence.karma))
            weight, total = weight + _KARMA_WEIGHT, total + _KARMA_WEIGHT * votes
        typical = self._mean_equity.shrunk(1e-6, 1.0)
        share = evidence.equity / (evidence.equity + typical)
        return total / weight * (1 - _EQUITY_SHARE + _EQUITY_SHARE * share)

    def host_index(self, host: str) -> float:
        return _UCB * math.sqrt(math.log(2 + self._fetches) / (1 + self._mean(host).n))

    def _mean(self, key: str) -> Mean:
        return self._means.get(key) or Mean()

    def state(self) -> dict[str, Any]:
        """What is needed to go on later."""
        return {
            "means": {key: (mean.n, mean.total) for key, mean in self._means.items()},
            "fetches": self._fetches,
            "equity": (self._mean_equity.n, self._mean_equity.total),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from `state`."""
        self._means = {key: Mean(*fields) for key, fields in state["means"].items()}
        self._fetches = state["fetches"]
        self._mean_equity = Mean(*state["equity"])


def _path(url: str, host: str) -> tuple[str, str]:
    _, _, rest = url.partition(f"://{host}/")
    path, _, query = rest.partition("?")
    return path, query


def _shapes(url: str, host: str) -> tuple[str, str]:
    """The first path segment, and the stem of the file name, of any host: `/src/`, `*genindex?`."""
    path, query = _path(url, host)
    first, slash, _ = path.partition("/")
    stem = _STEM.split(path.rpartition("/")[2], maxsplit=1)[0]
    return f"/{first if slash else ''}/", f"*{_DIGITS.sub('0', stem)}{'?' if query else ''}"


def _prefixes(url: str, host: str) -> list[str]:
    """The path's beginnings on its host, shortest first; a dot separates as a slash does."""
    parts = _SEPARATOR.split(_path(url, host)[0])[:-1][:_LONGEST_PREFIX]
    return [f"{host}/{'/'.join(parts[: n + 1])}" for n in range(len(parts))]


POLICIES = {PosteriorPolicy.name: PosteriorPolicy}
"""By the name a user selects."""
