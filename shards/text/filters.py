"""Rules that say of a text whether it is worth training on, and why not.

The rules and thresholds are the published ones, so that counts compare: Gopher (Rae et al. 2021, table A1),
C4 (Raffel et al. 2020, section 2.2), FineWeb (Penedo et al. 2024, section 3.6). Structure is judged outside
code fences: a listing has other statistics than prose, and a page that explains code is not worse for it.

A first look, at the text that was found fast, decides whether a page is worth the slow extraction. That text
is not the one which is kept, so there some of the rules hold with a threshold that leaves room for the
difference. `python -m bench.crawl` shows what is skipped, and how much of it would have been kept.
"""

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

from shards.text.signals import Signals


class Verdict(NamedTuple):
    """Whether a page is kept; if not, the reason it is counted under."""

    keep: bool
    reason: str = ""


class Rule(NamedTuple):
    """A text breaks it that measures less than `least`, or more than `most`."""

    name: str
    """The reason it is counted under."""
    measure: Callable[[Signals], float]
    least: float = -math.inf
    most: float = math.inf
    first_look: float | None = None
    """The one of the two that it has, in the first look; None: it is not asked there."""

    def breaks(self, signals: Signals) -> bool:
        return not self.least <= self.measure(signals) <= self.most


RULES = (
    Rule("gopher_short", lambda s: len(s.words), least=50, first_look=30),
    Rule("gopher_long", lambda s: len(s.words), most=100_000),
    Rule("gopher_mean_word_length", lambda s: s.mean_word_length, least=3, most=10),
    Rule("gopher_symbols", lambda s: s.symbol_to_word_ratio, most=0.1),
    Rule("gopher_bullets", lambda s: s.bullet_line_fraction, most=0.9),
    Rule("gopher_ellipsis", lambda s: s.ellipsis_line_fraction, most=0.3),
    Rule("gopher_alphabetic", lambda s: s.alphabetic_fraction, least=0.8, first_look=0.65),
    # No less in the first look: with one of the eight words a text may be of another language.
    Rule("gopher_stop_words", lambda s: s.stop_words, least=2, first_look=2),
    Rule("gopher_duplicate_lines", lambda s: s.duplicate_line_fraction, most=0.3),
    Rule("gopher_duplicate_characters", lambda s: s.duplicate_line_characters, most=0.2),
    Rule("gopher_top_2_gram", lambda s: s.top_ngram_characters(2), most=0.20),
    Rule("gopher_top_3_gram", lambda s: s.top_ngram_characters(3), most=0.18),
    Rule("gopher_top_4_gram", lambda s: s.top_ngram_characters(4), most=0.16),
    Rule("c4_lorem_ipsum", lambda s: "lorem ipsum" in s.text.lower(), most=False),
    Rule("c4_few_sentences", lambda s: s.sentences, least=3, first_look=1),
    Rule("fineweb_line_punctuation", lambda s: s.terminated_line_fraction, least=0.12, first_look=0.08),
    Rule("fineweb_short_lines", lambda s: s.short_line_fraction, most=0.67, first_look=0.75),
)


FIRST_LOOK = tuple(
    rule._replace(
        name="pre_" + rule.name.partition("_")[2],
        least=rule.first_look if rule.least > -math.inf else rule.least,
        most=rule.first_look if rule.most < math.inf else rule.most,
    )
    for rule in RULES
    if rule.first_look is not None
)


def judge(text: str | Signals, rules: Iterable[Rule] = RULES) -> Verdict:
    """The first rule that a text breaks, or keep; `Signals` spare measuring it again. O(words)."""
    signals = text if isinstance(text, Signals) else Signals(text)
    for rule in rules:
        if rule.breaks(signals):
            return Verdict(False, rule.name)
    return Verdict(True)
