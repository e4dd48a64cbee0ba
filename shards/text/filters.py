"""Rules that say of a text whether it is worth training on, and why not.

The rules and thresholds are the published ones, so that counts compare: Gopher (Rae et al. 2021, table A1),
C4 (Raffel et al. 2020, section 2.2), FineWeb (Penedo et al. 2024, section 3.6). Structure is judged outside
code fences: a listing has other statistics than prose, and a page that explains code is not worse for it.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from shards.text.signals import Signals


class Verdict(NamedTuple):
    """Whether a page is kept; if not, the reason it is counted under."""

    keep: bool
    reason: str = ""


Rule = tuple[str, Callable[[Signals], bool]]

GOPHER_QUALITY: tuple[Rule, ...] = (
    ("gopher_short", lambda s: len(s.words) < 50),
    ("gopher_long", lambda s: len(s.words) > 100_000),
    ("gopher_mean_word_length", lambda s: not 3 <= s.mean_word_length <= 10),
    ("gopher_symbols", lambda s: s.symbol_to_word_ratio > 0.1),
    ("gopher_bullets", lambda s: s.bullet_line_fraction > 0.9),
    ("gopher_ellipsis", lambda s: s.ellipsis_line_fraction > 0.3),
    ("gopher_alphabetic", lambda s: s.alphabetic_fraction < 0.8),
    ("gopher_stop_words", lambda s: s.stop_words < 2),
)

GOPHER_REPETITION: tuple[Rule, ...] = (
    ("gopher_duplicate_lines", lambda s: s.duplicate_line_fraction > 0.3),
    ("gopher_duplicate_characters", lambda s: s.duplicate_line_characters > 0.2),
    ("gopher_top_2_gram", lambda s: s.top_ngram_characters(2) > 0.20),
    ("gopher_top_3_gram", lambda s: s.top_ngram_characters(3) > 0.18),
    ("gopher_top_4_gram", lambda s: s.top_ngram_characters(4) > 0.16),
)

C4: tuple[Rule, ...] = (
    ("c4_lorem_ipsum", lambda s: "lorem ipsum" in s.text.lower()),
    ("c4_few_sentences", lambda s: s.sentences < 3),
)

FINEWEB: tuple[Rule, ...] = (
    ("fineweb_line_punctuation", lambda s: s.terminated_line_fraction < 0.12),
    ("fineweb_short_lines", lambda s: s.short_line_fraction > 0.67),
)

RULES: tuple[Rule, ...] = (*GOPHER_QUALITY, *GOPHER_REPETITION, *C4, *FINEWEB)


def judge(text: str | Signals, rules: Iterable[Rule] = RULES) -> Verdict:
    """The first rule that a text breaks, or keep; `Signals` spare measuring it again. O(words)."""
    signals = text if isinstance(text, Signals) else Signals(text)
    for reason, breaks in rules:
        if breaks(signals):
            return Verdict(False, reason)
    return Verdict(True)
