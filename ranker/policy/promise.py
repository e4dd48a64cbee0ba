"""The policy `tinylm`: what a fetch promises, learned while crawling from what fetches brought.

Two linear models on a few dozen ingredients known before a fetch, both Bayesian linear regressions (ridge
regressions updated a batch at a time, as in LinUCB, Li et al. 2010): one of a page's own worth, one of its
gain, which is how much its links promise beyond what the queue has anyway. Most ingredients are themselves
empirical Bayes means: of the groups a URL is in, each shrunk towards the wider one; of its words; of its
parents; of its siblings, the other links of its parents that were fetched. The models learn which of these to
trust. Every example is what was known before its fetch, so nothing is learned from a page about itself.

Worth is often heavy-tailed, and where more is expected, more varies. So an example of worth counts by
1 / (1 + expected)^2, as if its standard deviation grew with what was expected of it (weighted least squares);
otherwise a few very good pages would make the weights. For the same reason the parents' sum and the best
parent enter by their roots.
"""

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ranker.features import GROUPS, SLOTS
from ranker.graph import Fetch, LinkGraph, Rows
from ranker.policy.policy import Floats, Moves, Policy

# Observations of the wider group that a group begins with: after 3 fetches its own count for a half; at twice
# that number for a third.
_SHRINKAGE = 3.0
# The same of a word, which begins with no effect.
_WORD_SHRINKAGE = 2.0
# Worth is measured in so many times the root of the mean square of what fetches were worth so far: a typical
# fetch is then 2/3, and all priors below are in that unit. At half of it they would count half as much.
_UNIT = 1.5
# Mean worth of a fetch before there was one, in that unit, and how many fetches that counts for.
_PRIOR_WORTH, _PRIOR_FETCHES = 0.2, 2.0
_PRIOR_GAIN, _PRIOR_GAIN_FETCHES = 0.05, 2.0
# Of the priors of the weights, in observations.
_WORTH_PRECISION, _GAIN_PRECISION = 1.0, 3.0
# What a gain counts beside a worth, and the most that counts as one. At 0 indexes and hubs of unknown hosts
# are fetched late; on the documentation web that costs nothing (docs/search-and-rank.md, "discovery").
_GAIN_SHARE, _MOST_GAIN = 0.2, 3.0
# Share of the hurdle (what is expected of fetches of late) that a batch leaves: half is gone after 7 batches.
_HURDLE_MEMORY = 0.9
# The first groups of GROUPS lie each within the one before.
_NESTED = 6
# The part of a promise that is no worth of its own.
DISCOVERY = "discovery"


class Ingredient(NamedTuple):
    """What a worth is expected from: the part it belongs to, and the weight it has before it is learned."""

    part: str
    prior: float
    words: str
    """For people: `tinylm why`."""


INGREDIENTS = {
    "one": Ingredient("level", 0.0, "what is added to every page"),
    "all": Ingredient("level", 1.0, "mean worth of all pages so far"),
    # Differences from the wider group: with weights of 1 they add up to the mean of the narrowest.
    "host": Ingredient("host", 1.0, "its host"),
    GROUPS[1]: Ingredient("directories", 1.0, "its first directory"),
    GROUPS[2]: Ingredient("directories", 1.0, "its second directory"),
    GROUPS[3]: Ingredient("directories", 1.0, "its third directory"),
    GROUPS[4]: Ingredient("file", 1.0, "files there that begin with the same word"),
    GROUPS[5]: Ingredient("file", 1.0, "files there that begin with the same two words"),
    GROUPS[6]: Ingredient("file", 0.0, "files of the host with a name of the same form"),
    GROUPS[7]: Ingredient("shapes", 0.0, "directories of the same name anywhere"),
    GROUPS[8]: Ingredient("shapes", 0.0, "files anywhere that begin with the same word"),
    GROUPS[9]: Ingredient("shapes", 0.0, "files anywhere that end the same way"),
    "fetches in the group": Ingredient("unknown", 0.0, "how little is known of its group"),
    "fetches of the host": Ingredient("unknown", 0.0, "how little is known of its host"),
    "parents, mean": Ingredient("parents", 0.3, "mean worth of the pages that link to it"),
    "parents, best": Ingredient("parents", 0.0, "the best of the pages that link to it"),
    "parents, sum": Ingredient("parents", 1.0, "worth of all pages that link to it"),
    "siblings": Ingredient("siblings", 0.5, "other links of those pages that were fetched"),
    "siblings, a parent": Ingredient("siblings", 0.0, "the same, each of those pages for itself"),
    "inlinks": Ingredient("inlinks", 0.0, "how many pages link to it"),
    "referring domains": Ingredient("inlinks", 0.0, "how many domains link to it"),
    "share": Ingredient("flow", 0.0, "how few links those pages have"),
    "flow": Ingredient("flow", 0.0, "worth of those pages, split among their links"),
    "flow, root": Ingredient("flow", 0.0, "the same, of which little counts too"),
    "equity": Ingredient("equity", 0.0, "what flowed to it from seeds (OPIC)"),
    "votes": Ingredient("karma", 0.5, "people's votes for it"),
    "depth": Ingredient("place", 0.0, "how far it is from a seed"),
    "segments": Ingredient("place", 0.0, "how deep its path is"),
    "letters": Ingredient("place", 0.0, "how long its URL is"),
    "words, sum": Ingredient("words", 0.0, "words of its URL and its link"),
    "words, best": Ingredient("words", 0.0, "the best of these words"),
    "words, worst": Ingredient("words", 0.0, "the worst of these words"),
}
WORDS = {name: each.words for name, each in INGREDIENTS.items()} | {
    DISCOVERY: "what it is expected to lead to"
}
PARTS = frozenset(each.part for each in INGREDIENTS.values()) - {"level"} | {DISCOVERY}
# Beside the groups: fetches of host and group, one, the expected worth, and 1 / (1 + inlinks).
_GAIN_INGREDIENTS = len(GROUPS) + 5


class Ridge:
    """Linear regression with a normal prior of the weights, exact after every batch."""

    def __init__(self, prior: Floats, precision: float) -> None:
        self.precision = np.eye(len(prior)) * precision
        self.moment: Floats = prior * precision
        self.weights: Floats = prior

    def learn(self, x: Floats, y: Floats) -> None:
        """Examples: (n, weights) and (n,)."""
        self.precision += x.T @ x
        self.moment = self.moment + x.T @ y
        self.weights = np.linalg.solve(self.precision, self.moment).astype(np.float64)


class LearnedPromise(Policy):
    """Memory does not grow with the crawl: 20 bytes a slot that was met, and two small matrices.

    `without` names parts of `PARTS` to leave out, to measure what each is worth.
    """

    name = "tinylm"
    # With 20, seven webs of many hosts came 0.8 points of the oracle less far, within the error.
    batch = 10
    moves = Moves.BEST

    def __init__(self, graph: LinkGraph, *, without: frozenset[str] = frozenset()) -> None:
        super().__init__(graph)
        self._discovers = DISCOVERY not in without
        self._kept = np.array([each.part not in without for each in INGREDIENTS.values()])
        self._worth, self._gain, self._fetches, self._residual, self._word_fetches = (
            np.zeros(SLOTS + 1, np.float32) for _ in range(5)
        )
        self._count, self._total, self._squares, self._total_gain, self._hurdle = 0, 0.0, 0.0, 0.0, 0.0
        self._of_worth = Ridge(np.array([each.prior for each in INGREDIENTS.values()]), _WORTH_PRECISION)
        # At first a page leads to half of what those of its narrowest group led to.
        self._of_gain = Ridge(np.eye(_GAIN_INGREDIENTS)[_NESTED - 1] / 2, _GAIN_PRECISION)
        self._observed: list[Fetch] = []

    # Learning

    def observe(self, fetch: Fetch) -> None:
        self._observed.append(fetch)

    def learn(self) -> None:
        if not self._observed:
            return
        rows = np.array([fetch.row for fetch in self._observed])
        worth = np.array([fetch.worth for fetch in self._observed])
        self._count += len(rows)
        self._squares += float(worth @ worth)
        unit = self._unit
        x, expected = self._expect(rows)
        z = self._gain_ingredients(rows, expected)
        gain = self._gains([fetch.discovered for fetch in self._observed])
        self._hurdle = _HURDLE_MEMORY * self._hurdle + (1 - _HURDLE_MEMORY) * float(expected.mean())
        # The root of an example's weight, as both sides of the regression are multiplied with it.
        sure = 1 / (1 + np.maximum(0.0, expected))
        self._of_worth.learn(x * sure[:, None], worth / unit * sure)
        self._of_gain.learn(z, gain)
        self._remember(rows, worth, worth / unit - expected, gain)
        self._graph.child(rows, worth)
        self._observed = []

    def _gains(self, discovered: list[Rows]) -> Floats:
        """What each page's links promise beyond what was to be had without them."""
        owner = np.repeat(np.arange(len(discovered)), [len(rows) for rows in discovered])
        if not len(owner):
            return np.zeros(len(discovered))
        _, expected = self._expect(np.concatenate(discovered))
        beyond = np.maximum(0.0, expected - self._hurdle)
        return np.minimum(_MOST_GAIN, np.bincount(owner, beyond, len(discovered)))

    def _remember(self, rows: Rows, worth: Floats, residual: Floats, gain: Floats) -> None:
        groups, words = self._graph.groups[rows], self._graph.words[rows]
        for table, slots, value in (
            (self._fetches, groups, np.ones_like(worth)),
            (self._worth, groups, worth),
            (self._gain, groups, gain),
            (self._word_fetches, words, np.ones_like(worth)),
            (self._residual, words, residual),
        ):
            np.add.at(table, slots, value[:, None].astype(np.float32))
        # The slot of "no word" knows nothing.
        self._residual[SLOTS] = 0
        self._total += float(worth.sum())
        self._total_gain += float(gain.sum())

    # Pricing

    def promise(self, rows: Rows) -> Floats:
        _, expected = self._expect(rows)
        return (expected + self._discovery(rows, expected)) * self._unit

    def _discovery(self, rows: Rows, expected: Floats) -> Floats:
        """(n,) What is added for the gain of (n,) rows, of which this worth is expected."""
        if not self._discovers:
            return np.zeros(len(rows))
        gain: Floats = self._gain_ingredients(rows, expected) @ self._of_gain.weights
        return _GAIN_SHARE * np.maximum(0.0, gain)

    @property
    def _unit(self) -> float:
        return _UNIT * math.sqrt(self._squares / self._count) if self._squares else 1.0

    def explain(self, rows: Rows) -> list[tuple[str, Floats]]:
        """By ingredient: (n,) what it adds to the promise of each of (n,) rows."""
        x, expected = self._expect(rows)
        added = x * self._of_worth.weights * self._unit
        discovery = self._discovery(rows, expected) * self._unit
        return [*zip(INGREDIENTS, added.T, strict=True), (DISCOVERY, discovery)]

    def _expect(self, rows: Rows) -> tuple[Floats, Floats]:
        """The ingredients of the worth of (n,) rows, (n, INGREDIENTS), and what is expected, (n,)."""
        x = np.stack(self._ingredients(rows), axis=1) * self._kept
        return x, x @ self._of_worth.weights

    def _ingredients(self, rows: Rows) -> list[Floats]:
        """(n,) each, in the order of INGREDIENTS; differences from the more general, so that they add up.

        Factors bring each to the order of 1, as all weights have one prior: at half the factor an ingredient
        needs twice the weight, and the prior holds that back four times as much.
        """
        graph, n, unit = self._graph, len(rows), self._unit
        overall = (self._total / unit + _PRIOR_WORTH * _PRIOR_FETCHES) / (self._count + _PRIOR_FETCHES)
        means, fetches = self._means(graph.groups[rows], self._worth, unit, overall)
        host, likely = means[0], means[_NESTED - 1]
        inlinks = graph.inlinks[rows]
        parents = graph.parents_worth[rows] / unit
        best = np.sqrt(graph.best_parent[rows] / unit)
        # A page of worth 1 with ten links gives 1 to each.
        flow = 10.0 / unit * graph.flow[rows]
        siblings, a_parent = self._siblings(graph.parents[rows], unit, likely)
        karma = np.log1p(np.maximum(0.0, graph.karma[rows]))
        words = graph.words[rows]
        effects = self._residual[words] / (self._word_fetches[words] + _WORD_SHRINKAGE)
        effects[words == SLOTS] = 0
        return [
            np.ones(n),
            np.full(n, overall),
            host - overall,
            *(inner - outer for outer, inner in pairwise(means[:_NESTED])),
            means[_NESTED] - host,
            *(mean - overall for mean in means[_NESTED + 1 :]),
            1 / np.sqrt(1 + fetches[:, 4]),
            1 / np.sqrt(1 + fetches[:, 0]),
            (parents + host) / (inlinks + 1) - host,
            np.where(inlinks > 0, best - np.sqrt(np.maximum(0.0, host)), 0.0),
            np.sqrt(parents),
            siblings,
            a_parent,
            # Logarithms by 5: e^5 = 148 inlinks are 1. Domains are 64 at most, 0.83.
            np.log1p(inlinks) / 5,
            np.log1p(np.bitwise_count(graph.domains[rows])) / 5,
            # One link of a page with 1,000 is added, so that none is -1.4 and not minus infinity.
            np.log(1e-3 + graph.share[rows]) / 5,
            np.log1p(flow),
            np.sqrt(flow),
            # The same, of cash, of which a seed with one vote brings 0.69: none is -1.8.
            np.log(1e-4 + graph.equity[rows]) / 5,
            1 - 1 / (1 + karma),
            # Ten links from a seed are 1, and so are ten segments, and e^5 = 148 letters.
            graph.depth[rows] / 10,
            graph.segments[rows] / 10,
            np.log(graph.letters[rows]) / 5,
            effects.sum(1) / np.sqrt(1 + (words < SLOTS).sum(1)),
            effects.max(1),
            effects.min(1),
        ]

    def _gain_ingredients(self, rows: Rows, expected: Floats) -> Floats:
        """(n, _GAIN_INGREDIENTS)"""
        graph = self._graph
        overall = (self._total_gain + _PRIOR_GAIN * _PRIOR_GAIN_FETCHES) / (self._count + _PRIOR_GAIN_FETCHES)
        means, fetches = self._means(graph.groups[rows], self._gain, 1.0, overall)
        inlinks = graph.inlinks[rows]
        unknown = 1 / np.sqrt(1 + fetches[:, 0]), 1 / np.sqrt(1 + fetches[:, 4])
        return np.stack([*means, *unknown, np.ones(len(rows)), expected, 1 / (1 + inlinks)], axis=1)

    def _means(
        self, groups: NDArray[np.int32], table: NDArray[np.float32], unit: float, overall: float
    ) -> tuple[list[Floats], NDArray[np.float32]]:
        """Of each of GROUPS, (n,), shrunk towards the wider one; and fetches in it, (n, GROUPS)."""
        totals, fetches = table[groups] / unit, self._fetches[groups]
        means: list[Floats] = []
        for number in range(len(GROUPS)):
            if number == 0 or number > _NESTED:
                wider: Floats | float = overall
            else:
                wider = means[0] if number == _NESTED else means[-1]
            total, count = totals[:, number], fetches[:, number]
            means.append((total + _SHRINKAGE * wider) / (count + _SHRINKAGE))
        return means, fetches

    def _siblings(self, parents: NDArray[np.int32], unit: float, likely: Floats) -> tuple[Floats, Floats]:
        """How far the fetched links of a URL's parents are from what its group is worth: all, a parent."""
        known = parents >= 0
        # -1, for none, reads the last page's numbers, which `known` makes 0.
        worth = self._graph.children_worth[parents] / unit * known
        fetched = self._graph.children_fetched[parents] * known
        together = (worth.sum(1) + _SHRINKAGE * likely) / (fetched.sum(1) + _SHRINKAGE) - likely
        each = (worth + _SHRINKAGE * likely[:, None]) / (fetched + _SHRINKAGE) - likely[:, None]
        return together, (each * known).sum(1) / (known.sum(1) + 1)

    # State

    def state(self) -> dict[str, Any]:
        """What is needed to go on later, as arrays: of the tables only what is not zero."""
        used = np.flatnonzero(self._fetches)
        words = np.flatnonzero(self._word_fetches)
        return {
            "groups": used,
            "tables": np.stack([self._fetches[used], self._worth[used], self._gain[used]]),
            "words": words,
            "word_tables": np.stack([self._word_fetches[words], self._residual[words]]),
            "sums": np.array([self._count, self._total, self._squares, self._total_gain, self._hurdle]),
            **{
                f"{name}.{part}": getattr(model, part)
                for name, model in (("of_worth", self._of_worth), ("of_gain", self._of_gain))
                for part in ("precision", "moment", "weights")
            },
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        used, words = state["groups"], state["words"]
        self._fetches[used], self._worth[used], self._gain[used] = state["tables"]
        self._word_fetches[words], self._residual[words] = state["word_tables"]
        count, self._total, self._squares, self._total_gain, self._hurdle = map(float, state["sums"])
        self._count = int(count)
        for name, model in (("of_worth", self._of_worth), ("of_gain", self._of_gain)):
            for part in ("precision", "moment", "weights"):
                setattr(model, part, np.array(state[f"{name}.{part}"]))
