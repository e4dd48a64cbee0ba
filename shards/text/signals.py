"""`Signals`: what the rules and the quality model measure of a text, each once, by its published name.

The names are those of RedPajama-V2 (Weber et al. 2024), most of whose signals are Gopher's (Rae et al. 2021)
and C4's (Raffel et al. 2020). Two things are otherwise than there. Structure is measured outside code
fences: a listing has other statistics than prose, and a page that explains code is not worse for it. And
what RedPajama-V2 keeps line by line is the share of lines here. All of them cost about 0.6 ms for 700 words.

numpy is imported where it is used: the first look at a page, in extraction children, needs none of that, and
a child without numpy weighs 73 MB less.
"""

import math
import re
import string
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING
from zlib import crc32

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Gopher's: a page of English prose has at least two of them.
STOP_WORDS = frozenset({"the", "be", "to", "of", "and", "that", "have", "with"})
# What C4 takes for the end of a line of prose, and what ends one before a listing, in brackets or in code.
_TERMINAL = (".", "!", "?", '"', "'", ":", ";", ")", "`")
_FENCE = re.compile(r"^```.*?^```[^\n]*$", re.MULTILINE | re.DOTALL)
_LETTER = re.compile(r"[^\W\d_]")
# Of a hash at the beginning of a word; headings of Markdown are hashes alone.
_HASHTAG = re.compile(r"#+[^#]")
_SENTENCE_END = re.compile(r"""[.!?]["'”’)\]]*(?:\s|$)""")
_PUNCTUATION = string.punctuation + "“”‘’«»…–—"
_BULLETS = ("•", "‣", "▪", "*", "-")
_ELLIPSES = ("...", "…")
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

    @cached_property
    def prose(self) -> str:
        return _FENCE.sub("", self.text) if "```" in self.text else self.text

    @cached_property
    def words(self) -> list[str]:
        return self.prose.split()

    @cached_property
    def lines(self) -> list[str]:
        return [line.strip() for line in self.prose.splitlines() if line.strip()]

    @cached_property
    def hashes(self) -> "NDArray[np.uint32]":
        """The words of the text, those of code too, in small letters and without the punctuation around them.

        Hashed, the same in every process: shape (n,).
        """
        import numpy as np

        words = self.text.lower().split()
        hashed = dict.fromkeys(words, 0)
        for word in hashed:
            hashed[word] = crc32(word.strip(_PUNCTUATION).encode("utf-8", "replace"))
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
    stop_word_fraction = _per_word(lambda s: sum(s._lower_counts.get(word, 0) for word in STOP_WORDS))
    unique_word_fraction = _per_word(lambda s: len(s._lower_counts))

    @cached_property
    def symbol_to_word_ratio(self) -> float:
        symbols = sum(
            count for word, count in self._counts.items() if word[0] == "#" and _HASHTAG.match(word)
        )
        return (symbols + self.prose.count("...") + self.prose.count("…")) / max(1, len(self.words))

    @cached_property
    def stop_words(self) -> int:
        """Distinct stop words present."""
        return len(STOP_WORDS.intersection(self._lower_counts))

    @cached_property
    def unigram_entropy(self) -> float:
        """Of the words, in nats."""
        total = max(1, len(self.words))
        return math.log(total) - sum(n * math.log(n) for n in self._lower_counts.values()) / total

    @cached_property
    def sentences(self) -> int:
        return len(_SENTENCE_END.findall(self.prose))

    terminated_line_fraction = _share_of_lines(lambda line: line.endswith(_TERMINAL))
    # Of fewer than 30 characters, as FineWeb has it.
    short_line_fraction = _share_of_lines(lambda line: len(line) < 30)
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

    @cached_property
    def _top_ngrams(self) -> dict[int, float]:
        """For n from 2 to 4, the share of characters covered by the most frequent n-gram of words, if any
        recurs.

        Of several as frequent it is the first.
        """
        import numpy as np

        ids = {word: number for number, word in enumerate(self._counts)}
        words = np.fromiter(map(ids.__getitem__, self.words), dtype=np.uint64, count=len(self.words))
        found: dict[int, float] = {}
        grams = words
        for n in (2, 3, 4):
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

    def top_ngram_characters(self, n: int) -> float:
        """Share of characters covered by the most frequent word n-gram, n from 2 to 4; 0 if none repeats."""
        return self._top_ngrams.get(n, 0.0)

    @cached_property
    def columns(self) -> dict[str, float]:
        """What is written with a document, by column."""
        return {name: float(measure(self)) for name, measure in COLUMNS.items()}


# What is written with a document of its text, by name: `punctution` as published. The quality model knows
# them by their order: add at the end, and say in shards/schema.py which version brought it.
COLUMNS: dict[str, Callable[[Signals], float]] = {
    "rps_doc_word_count": lambda s: len(s.words),
    "rps_doc_mean_word_length": lambda s: s.mean_word_length,
    "rps_doc_num_sentences": lambda s: s.sentences,
    "rps_doc_symbol_to_word_ratio": lambda s: s.symbol_to_word_ratio,
    "rps_doc_frac_no_alph_words": lambda s: 1 - s.alphabetic_fraction if s.words else 0.0,
    "rps_doc_frac_unique_words": lambda s: s.unique_word_fraction,
    "rps_doc_unigram_entropy": lambda s: s.unigram_entropy,
    "rps_doc_stop_word_fraction": lambda s: s.stop_word_fraction,
    "rps_doc_frac_chars_top_2gram": lambda s: s.top_ngram_characters(2),
    "rps_doc_frac_chars_top_3gram": lambda s: s.top_ngram_characters(3),
    "rps_doc_frac_chars_top_4gram": lambda s: s.top_ngram_characters(4),
    "rps_doc_frac_lines_end_with_ellipsis": lambda s: s.ellipsis_line_fraction,
    "rps_lines_start_with_bulletpoint": lambda s: s.bullet_line_fraction,
    "rps_lines_ending_with_terminal_punctution_mark": lambda s: s.terminated_line_fraction,
    "gopher_duplicate_line_fraction": lambda s: s.duplicate_line_fraction,
    "gopher_duplicate_line_character_fraction": lambda s: s.duplicate_line_characters,
    "fineweb_short_line_fraction": lambda s: s.short_line_fraction,
}
