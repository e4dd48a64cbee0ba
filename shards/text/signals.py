"""`Signals`: what the rules and the quality model measure of a text, each once, by its published name.

The names are those of RedPajama-V2 (Weber et al. 2024), most of whose signals are Gopher's (Rae et al. 2021)
and C4's (Raffel et al. 2020). Three things are otherwise than there. Words are what white space parts, as
in Gopher, and in scripts without spaces what shards/text/languages.py says. Structure is measured outside
code fences: a listing has other statistics than prose, and a page that explains code is not worse for it.
And what RedPajama-V2 keeps line by line is the share of lines here. All of them cost about 0.6 ms for 700
words.
"""

import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING
from zlib import crc32

from shards.text.languages import PUNCTUATION, Language, language, words_of

# Imported where it is used: the first look at a page, in extraction children, needs none of that, and a child
# without numpy weighs 73 MB less.
if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# What C4 takes for the end of a line of prose, in all scripts, and what ends one before a listing, in
# brackets or in code.
_TERMINAL = tuple(".!?\"'”’»:;)`。．！？：；）」』।॥؟؛۔።၊။។")
_FENCE = re.compile(r"^```.*?^```[^\n]*$", re.MULTILINE | re.DOTALL)
_LETTER = re.compile(r"[^\W\d_]")
# Of a hash at the beginning of a word; headings of Markdown are hashes alone.
_HASHTAG = re.compile(r"#+[^#]")
# Stops of scripts in which nothing but the next sentence follows them need no white space.
_SENTENCE_END = re.compile(r"""[.!?]["'”’»)\]]*(?:\s|$)|[。．！？।॥؟۔።။។]+""")
_BULLETS = ("•", "‣", "▪", "・", "*", "-")
_ELLIPSES = ("...", "…")
# Of FineWeb's short lines, in characters.
_SHORT_LINE = 30
# 2^64 over the golden ratio, odd and without a pattern: multiples of it are spread evenly over 64 bits.
GOLDEN = 0x9E3779B97F4A7C15


def _share_of_lines(test: Callable[[str], bool]) -> "cached_property[float]":
    return cached_property(lambda signals: sum(map(test, signals.lines)) / max(1, len(signals.lines)))


def _per_word(amount: Callable[["Signals"], float]) -> "cached_property[float]":
    return cached_property(lambda signals: amount(signals) / max(1, len(signals.words)))


@dataclass(frozen=True)
class Signals:
    """The measurements of one text."""

    text: str
    language: str = ""
    """ISO 639 code; if it is not known which, what depends on it is not measured."""

    @cached_property
    def known(self) -> Language | None:
        """What is known of its language."""
        return language(self.language)

    @cached_property
    def prose(self) -> str:
        return _FENCE.sub("", self.text) if "```" in self.text else self.text

    @cached_property
    def words(self) -> list[str]:
        return words_of(self.prose)

    @cached_property
    def lines(self) -> list[str]:
        return [line.strip() for line in self.prose.splitlines() if line.strip()]

    @cached_property
    def hashes(self) -> "NDArray[np.uint32]":
        """The words of the text, those of code too, in small letters and without the punctuation around them.

        Hashed, the same in every process: shape (n,).
        """
        import numpy as np

        words = words_of(self.text.lower())
        hashed = dict.fromkeys(words, 0)
        for word in hashed:
            hashed[word] = crc32(word.strip(PUNCTUATION).encode("utf-8", "replace"))
        numbers = np.fromiter(map(hashed.__getitem__, words), dtype=np.uint32, count=len(words))
        found: NDArray[np.uint32] = numbers[numbers != 0]
        return found

    @cached_property
    def _counts(self) -> Counter[str]:
        """How often each word occurs, as it is written."""
        return Counter(self.words)

    @cached_property
    def _lower_counts(self) -> dict[str, int]:
        """How often each word occurs, in small letters."""
        counts: dict[str, int] = {}
        for word, count in self._counts.items():
            lower = word.lower()
            counts[lower] = counts.get(lower, 0) + count
        return counts

    mean_word_length = _per_word(lambda s: sum(map(len, s.words)))
    alphabetic_fraction = _per_word(
        lambda s: sum(count for word, count in s._counts.items() if word.isalpha() or _LETTER.search(word))
    )
    unique_word_fraction = _per_word(lambda s: len(s._lower_counts))

    @cached_property
    def symbol_to_word_ratio(self) -> float:
        symbols = sum(
            count for word, count in self._counts.items() if word[0] == "#" and _HASHTAG.match(word)
        )
        return (symbols + self.prose.count("...") + self.prose.count("…")) / max(1, len(self.words))

    @cached_property
    def stop_words(self) -> int:
        """Distinct stop words present; 0 in a language of which none are known."""
        return len(self.known.stop_words.intersection(self._lower_counts)) if self.known else 0

    @cached_property
    def stop_word_fraction(self) -> float | None:
        """None in a language of which none are known."""
        if not self.known:
            return None
        return sum(self._lower_counts.get(word, 0) for word in self.known.stop_words) / max(
            1, len(self.words)
        )

    @cached_property
    def unigram_entropy(self) -> float:
        """Of the words, in nats."""
        total = max(1, len(self.words))
        return math.log(total) - sum(n * math.log(n) for n in self._lower_counts.values()) / total

    @cached_property
    def sentences(self) -> int:
        return len(_SENTENCE_END.findall(self.prose))

    terminated_line_fraction = _share_of_lines(lambda line: line.endswith(_TERMINAL))
    short_line_fraction = _share_of_lines(lambda line: len(line) < _SHORT_LINE)
    bullet_line_fraction = _share_of_lines(lambda line: line.startswith(_BULLETS))
    ellipsis_line_fraction = _share_of_lines(lambda line: line.endswith(_ELLIPSES))

    @cached_property
    def duplicate_line_fraction(self) -> float:
        return (len(self.lines) - len(set(self.lines))) / max(1, len(self.lines))

    @cached_property
    def duplicate_line_characters(self) -> float:
        """Share of characters in lines that stood before."""
        repeated = sum(len(line) * (count - 1) for line, count in Counter(self.lines).items())
        return repeated / max(1, sum(map(len, self.lines)))

    # As it would be in English, for thresholds.

    @cached_property
    def english_words(self) -> float:
        """How many words the text would have."""
        return len(self.words) / (self.known.words if self.known else 1)

    @cached_property
    def english_word_length(self) -> float:
        """Mean length of a word in characters."""
        return self.mean_word_length / (self.known.word_length if self.known else 1)

    @cached_property
    def english_short_lines(self) -> float:
        """Share of lines that would be short."""
        if not self.known:
            return self.short_line_fraction
        short = _SHORT_LINE * self.known.characters
        return sum(len(line) < short for line in self.lines) / max(1, len(self.lines))

    @cached_property
    def top_ngrams(self) -> dict[int, float]:
        """For n from 2 to 4, the share of characters covered by the most frequent n-gram of words.

        Of several as frequent it is the first; 0 if none recurs.
        """
        import numpy as np

        ids = {word: number for number, word in enumerate(self._counts)}
        words = np.fromiter(map(ids.__getitem__, self.words), dtype=np.uint64, count=len(self.words))
        found = {2: 0.0, 3: 0.0, 4: 0.0}
        grams = words
        for n in found:
            grams = grams[:-1] * GOLDEN + words[n - 1 :]
            ordered = np.sort(grams)
            starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
            counts = np.diff(starts, append=len(ordered))
            most = int(counts.max(initial=0))
            if most <= 1:
                break
            at = int(np.isin(grams, ordered[starts[counts == most]]).argmax())
            found[n] = most * len(" ".join(self.words[at : at + n])) / max(1, len(self.prose))
        return found

    @cached_property
    def columns(self) -> dict[str, float | None]:
        """What is written with a document, by column; None for what cannot be measured in its language."""
        found = {name: measure(self) for name, measure in COLUMNS.items()}
        return {name: None if value is None else float(value) for name, value in found.items()}


# What is written with a document of its text, by name: `punctution` as published. The quality model knows
# them by their order: add at the end, and say in shards/schema.py which version brought it.
COLUMNS: dict[str, Callable[[Signals], float | None]] = {
    "rps_doc_word_count": lambda s: len(s.words),
    "rps_doc_mean_word_length": lambda s: s.mean_word_length,
    "rps_doc_num_sentences": lambda s: s.sentences,
    "rps_doc_symbol_to_word_ratio": lambda s: s.symbol_to_word_ratio,
    "rps_doc_frac_no_alph_words": lambda s: 1 - s.alphabetic_fraction if s.words else 0.0,
    "rps_doc_frac_unique_words": lambda s: s.unique_word_fraction,
    "rps_doc_unigram_entropy": lambda s: s.unigram_entropy,
    "rps_doc_stop_word_fraction": lambda s: s.stop_word_fraction,
    "rps_doc_frac_chars_top_2gram": lambda s: s.top_ngrams[2],
    "rps_doc_frac_chars_top_3gram": lambda s: s.top_ngrams[3],
    "rps_doc_frac_chars_top_4gram": lambda s: s.top_ngrams[4],
    "rps_doc_frac_lines_end_with_ellipsis": lambda s: s.ellipsis_line_fraction,
    "rps_lines_start_with_bulletpoint": lambda s: s.bullet_line_fraction,
    "rps_lines_ending_with_terminal_punctution_mark": lambda s: s.terminated_line_fraction,
    "gopher_duplicate_line_fraction": lambda s: s.duplicate_line_fraction,
    "gopher_duplicate_line_character_fraction": lambda s: s.duplicate_line_characters,
    "fineweb_short_line_fraction": lambda s: s.short_line_fraction,
}
