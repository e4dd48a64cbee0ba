"""`Judge`: of a fetched page, whether it is kept, how good it is, how much of it is new, and so what it was
worth.

The reward of a fetch is good new tokens: worth = quality x length x share of new text, and nothing for what
is dropped. A text is measured once; rules, model and columns share it. Cost with the online model: about 1.3
ms for 700 words.
"""

import json
import logging
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from crawler.page import Page
from crawler.read.optout import forbids_training
from ranker.config import ONLINE, WalkConfig
from ranker.graph import Known
from ranker.judge.calibration import Calibration, Drift
from ranker.judge.quality import FEWEST_VOTES, HashedLinear, Open, QualityModel, open_model, vote_weight
from ranker.state import joined, part_of
from shards.text.dedup import Novelty, sketch
from shards.text.filters import Verdict, judge
from shards.text.signals import Signals
from tinylm.errors import TinylmError

# Words from which a text's length counts in full: one of 150 is worth a half.
_FULL_WORTH_WORDS = 300
_REPEATED = ("duplicate", "near_duplicate")
# Share of the last page in the moving means that are published: half of them is of the last 34.
_RECENT = 0.02

log = logging.getLogger(__name__)


class Judged(NamedTuple):
    """What was found about a page."""

    verdict: Verdict
    quality: float = 0.0
    """Probability that people would choose the text, chosen and other pages being as many."""
    novelty: float = 1.0
    """Share of the text that no kept page had before."""
    worth: float = 0.0
    """What the fetch brought, 0 to 1."""
    model: str = ""
    """What scored it."""
    signals: Mapping[str, float | None] = {}
    """Columns of the rule signals."""


class Judge:
    """The one judge of a crawl: it learns from what it judges, and its state is the walker's.

    Raises ConfigError for a model that cannot be opened.
    """

    def __init__(self, config: WalkConfig, open_model: Open = open_model) -> None:
        self._config = config
        self._open = open_model
        self.online = HashedLinear()
        self.novelty = Novelty()
        self._contents = Known()
        self._recent: dict[str, float] = {}
        self._said: dict[str, Any] = {}
        self._use(config.quality, config.quality_label)

    # Which model

    def _use(self, quality: str, label: str) -> None:
        """Score with another model from now on; how the last one was calibrated says nothing of it."""
        self.model: QualityModel = self.online if quality == ONLINE else self._open(quality, label)
        self.calibration, self.drift = Calibration(), Drift()

    def heed(self, said: Mapping[str, Any]) -> None:
        """Take the `model` (and `label`) that a person asked for while the crawl runs, once each time.

        One that cannot be opened changes nothing, and is a warning in the log.
        """
        if not said or said == self._said:
            return
        self._said = dict(said)
        before = self.model
        try:
            self._use(said["model"], said["label"])
        except TinylmError as error:
            log.warning("%s; %s goes on judging", error, before.name)
            return
        before.close()
        log.info("%s judges from now on, no longer %s", self.model.name, before.name)

    def close(self) -> None:
        """End what the model has open."""
        self.model.close()

    # Judging

    def __call__(self, page: Page, karma: float = 0.0, precision: float = 1.0) -> Judged:
        """Judge a page and learn from it; `karma`: people's votes for it, believed as far as `precision`."""
        signals = Signals(page.text, page.language)
        verdict = self._refusal(page) or judge(signals)
        novelty, content = 1.0, 0
        if verdict.keep:
            content, found = _content(page.content_sha256), sketch(signals)
            novelty = self.novelty.new_share(found)
            if self.novelty.near_duplicate(found):
                verdict = Verdict(False, "near_duplicate")
        if not page.text:
            return Judged(verdict)
        # The crawl's own model needs not measure the text again.
        score = self.online.score(signals) if self.model is self.online else self.model.score(signals.text)
        # Only now, as a text that was not scored is judged again.
        if verdict.keep:
            self.novelty.add(found)
            self._contents.add(content)
        quality = self.calibration(score)
        self._learn(signals, verdict, score, karma, precision)
        self.drift.add(quality)
        worth = 0.0
        if verdict.keep:
            worth = quality * min(1.0, len(signals.hashes) / _FULL_WORTH_WORDS) * novelty
            self._note(kept=quality, novelty=novelty)
        return Judged(verdict, quality, novelty, worth, self.model.name, signals.columns)

    def _refusal(self, page: Page) -> Verdict | None:
        """Why a page is dropped whatever its text is like."""
        config = self._config
        if page.reason:
            return Verdict(False, page.reason)
        if config.obey_opt_out and forbids_training(page.opt_out):
            return Verdict(False, "opt_out")
        if config.languages and (
            page.language not in config.languages or page.language_score < config.language_score
        ):
            return Verdict(False, "language")
        if _content(page.content_sha256) in self._contents:
            return Verdict(False, "duplicate")
        return None

    def _learn(
        self, signals: Signals, verdict: Verdict, score: float, karma: float, precision: float
    ) -> None:
        """Votes are for a text, wherever it stands; a text met again without votes teaches nothing."""
        if karma > 0 and not precision:
            return  # somebody's seed, and nobody's choice: neither good nor met by chance
        repeated = verdict.reason in _REPEATED
        chosen = karma > 0 and (verdict.keep or repeated)
        if repeated and not chosen:
            return
        weight = precision * vote_weight(karma) if chosen else 1.0
        if self.online.learn(signals, chosen=chosen, weight=weight):
            quality = self.calibration(score)
            self._note(**{"chosen" if chosen else "unchosen": quality})
            self.calibration.learn(score, chosen=chosen, weight=weight)

    def _note(self, **values: float) -> None:
        for name, value in values.items():
            before = self._recent.get(name, value)
            self._recent[name] = before + _RECENT * (value - before)

    def status(self) -> dict[str, Any]:
        """For a display: moving means, and how far the figures can be trusted."""
        return {
            "quality": self._recent.get("kept", 0.0),
            "novelty": self._recent.get("novelty", 1.0),
            "quality_model": self.model.name,
            "votes_missing": max(0, FEWEST_VOTES - self.online.votes),
            "quality_chosen": self._recent.get("chosen"),
            "quality_unchosen": self._recent.get("unchosen"),
            "calibration_error": self.calibration.error,
            "drift": self.drift.index,
        }

    # State

    def state(self) -> dict[str, Any]:
        """What is needed to go on later, as arrays."""
        plain = {"said": self._said, "model": self.model.name, "recent": self._recent}
        parts: dict[str, Any] = {
            "online": self.online,
            "novelty": self.novelty,
            "calibration": self.calibration,
            "drift": self.drift,
        }
        arrays = joined({owner: part.state() for owner, part in parts.items()})
        arrays["contents"] = self._contents.to_array()
        arrays["plain"] = np.frombuffer(json.dumps(plain).encode(), np.uint8)
        return arrays

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`, with the model that was asked for last."""
        plain = json.loads(state["plain"].tobytes())
        self.heed(plain["said"])
        self._recent = plain["recent"]
        self._contents = Known(map(int, state["contents"]))
        parts: dict[str, Any] = {"online": self.online, "novelty": self.novelty}
        if plain["model"] == self.model.name:
            parts |= {"calibration": self.calibration, "drift": self.drift}
        for owner, part in parts.items():
            part.restore(part_of(state, owner))


def _content(sha256: str) -> int:
    return int(sha256[:16], 16)
