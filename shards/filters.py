"""Rules that say of a text whether it is worth training on, and why not.

The rules and thresholds are the published ones, so that counts compare: Gopher (Rae et al. 2021, table A1),
C4 (Raffel et al. 2020, section 2.2), FineWeb (Penedo et al. 2024, section 3.6). Structure is judged outside
code fences: a listing has other statistics than prose, and a page that explains code is not worse for it.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

STOP_WORDS = frozenset({"the", "be", "to", "of", "and", "that", "have", "with"})
_TERMINAL = (".", "!", "?", '"', "'", ":", ";", ")", "`")
_FENCE = re.compile(r"^```.*?^```[^\n]*$", re.MULTILINE | re.DOTALL)
_LETTER = re.compile(r"[^\W\d_]")
_HASHTAG = re.compile(r"#+[^#]")
_SENTENCE_END = re.compile(r"""[.!?]["'”’)\]]*(?:\s|$)""")
_BULLETS = ("•", "‣", "▪", "*", "-")


class Verdict(NamedTuple):
    """Whether a page is kept; if not, the reason it is counted under."""

    keep: bool
    reason: str = ""


@dataclass(frozen=True)
class Signals:
    """The measurements the rules share, each computed once."""

    text: str

    @cached_property
    def prose(self) -> str:
        return _FENCE.sub("", self.text)

    @cached_property
    def words(self) -> list[str]:
        return self.prose.split()

    @cached_property
    def lines(self) -> list[str]:
        return [line.strip() for line in self.prose.splitlines() if line.strip()]

    @cached_property
    def mean_word_length(self) -> float:
        return sum(map(len, self.words)) / max(1, len(self.words))

    @cached_property
    def symbol_to_word_ratio(self) -> float:
        symbols = sum(_HASHTAG.match(word) is not None for word in self.words)
        return (symbols + self.prose.count("...") + self.prose.count("…")) / max(1, len(self.words))

    @cached_property
    def alphabetic_fraction(self) -> float:
        return sum(_LETTER.search(word) is not None for word in self.words) / max(1, len(self.words))

    @cached_property
    def stop_words(self) -> int:
        """Distinct stop words present."""
        return len(STOP_WORDS.intersection(word.lower() for word in self.words))

    @cached_property
    def sentences(self) -> int:
        return len(_SENTENCE_END.findall(self.prose))

    @cached_property
    def terminated_line_fraction(self) -> float:
        return self.line_fraction(lambda line: line.endswith(_TERMINAL))

    @cached_property
    def short_line_fraction(self) -> float:
        return self.line_fraction(lambda line: len(line) < 30)

    def line_fraction(self, test: Callable[[str], bool]) -> float:
        return sum(map(test, self.lines)) / max(1, len(self.lines))

    @cached_property
    def duplicate_line_fraction(self) -> float:
        return (len(self.lines) - len(set(self.lines))) / max(1, len(self.lines))

    @cached_property
    def duplicate_line_characters(self) -> float:
        """Share of characters in lines that stood before."""
        repeated = sum(len(line) * (count - 1) for line, count in Counter(self.lines).items())
        return repeated / max(1, sum(map(len, self.lines)))

    def top_ngram_characters(self, n: int) -> float:
        """Share of characters covered by the most frequent word n-gram."""
        grams = Counter(zip(*(self.words[i:] for i in range(n)), strict=False))
        if not grams:
            return 0.0
        gram, count = grams.most_common(1)[0]
        return count * len(" ".join(gram)) / max(1, len(self.prose)) if count > 1 else 0.0


Rule = tuple[str, Callable[[Signals], bool]]

GOPHER_QUALITY: tuple[Rule, ...] = (
    ("gopher_short", lambda s: len(s.words) < 50),
    ("gopher_long", lambda s: len(s.words) > 100_000),
    ("gopher_mean_word_length", lambda s: not 3 <= s.mean_word_length <= 10),
    ("gopher_symbols", lambda s: s.symbol_to_word_ratio > 0.1),
    ("gopher_bullets", lambda s: s.line_fraction(lambda line: line.startswith(_BULLETS)) > 0.9),
    ("gopher_ellipsis", lambda s: s.line_fraction(lambda line: line.endswith(("...", "…"))) > 0.3),
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


def judge(text: str, rules: Iterable[Rule] = RULES) -> Verdict:
    """The first rule that `text` breaks, or keep. O(words)."""
    signals = Signals(text)
    for reason, breaks in rules:
        if breaks(signals):
            return Verdict(False, reason)
    return Verdict(True)
