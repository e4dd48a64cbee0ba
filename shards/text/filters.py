"""Rules that say of a text whether it is worth training on, and why not.

The rules and thresholds are the published ones, so that counts compare: Gopher (Rae et al. 2021, table A1),
C4 (Raffel et al. 2020, section 2.2), FineWeb (Penedo et al. 2024, section 3.6). They are for English: words,
their length and lines are compared as they would be there (shards/text/languages.py), and of a language that
is not known only what holds in any is asked. Structure is judged outside code fences: a listing has other
statistics than prose, and a page that explains code is not worse for it.

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
    in_any_language: bool = True
    """Whether it is asked of a text in a language of which nothing is known."""

    def breaks(self, signals: Signals) -> bool:
        if not self.in_any_language and not signals.known:
            return False
        return not self.least <= self.measure(signals) <= self.most


RULES = (
    Rule("gopher_short", lambda s: s.english_words, least=50, first_look=30),
    Rule("gopher_long", lambda s: s.english_words, most=100_000),
    Rule("gopher_mean_word_length", lambda s: s.english_word_length, 3, 10, in_any_language=False),
    Rule("gopher_symbols", lambda s: s.symbol_to_word_ratio, most=0.1),
    Rule("gopher_bullets", lambda s: s.bullet_line_fraction, most=0.9),
    Rule("gopher_ellipsis", lambda s: s.ellipsis_line_fraction, most=0.3),
    Rule("gopher_alphabetic", lambda s: s.alphabetic_fraction, least=0.8, first_look=0.65),
    # No less in the first look: with one of the eight words a text may be of another language.
    Rule("gopher_stop_words", lambda s: s.stop_words, least=2, first_look=2, in_any_language=False),
    Rule("gopher_duplicate_lines", lambda s: s.duplicate_line_fraction, most=0.3),
    Rule("gopher_duplicate_characters", lambda s: s.duplicate_line_characters, most=0.2),
    Rule("gopher_top_2_gram", lambda s: s.top_ngrams[2], most=0.20),
    Rule("gopher_top_3_gram", lambda s: s.top_ngrams[3], most=0.18),
    Rule("gopher_top_4_gram", lambda s: s.top_ngrams[4], most=0.16),
    Rule("c4_lorem_ipsum", lambda s: "lorem ipsum" in s.text.lower(), most=False),
    # Thai has no full stops: whether a language has some is known of those that are known.
    Rule("c4_few_sentences", lambda s: s.sentences, least=3, first_look=1, in_any_language=False),
    Rule(
        "fineweb_line_punctuation",
        lambda s: s.terminated_line_fraction,
        least=0.12,
        first_look=0.08,
        in_any_language=False,
    ),
    Rule("fineweb_short_lines", lambda s: s.english_short_lines, most=0.67, first_look=0.75),
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


def judge(signals: Signals, rules: Iterable[Rule] = RULES) -> Verdict:
    """The first rule that a text breaks, or keep. O(words)."""
    for rule in rules:
        if rule.breaks(signals):
            return Verdict(False, rule.name)
    return Verdict(True)
