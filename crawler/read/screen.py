"""The first look at a page: what of its text, found fast, says that the slow extraction is not worth it.

The fast text (resiliparse's main content) is not the text that is kept, so each rule is one of
shards/text/filters.py with a threshold that leaves room for the difference. `python -m bench.crawl` shows
what is skipped, and how much of it would have been kept.
"""

import hashlib
from collections import OrderedDict
from typing import NamedTuple

from crawler.read.language import detect_language
from shards.text.filters import Rule, judge

_LENIENCE = 0.75
_LOOKED_AT = 20_000
_MOST_REMEMBERED = 100_000

RULES: tuple[Rule, ...] = (
    ("pre_short", lambda s: len(s.words) < 30),
    ("pre_stop_words", lambda s: s.stop_words < 2),
    ("pre_few_sentences", lambda s: s.sentences < 1),
    ("pre_alphabetic", lambda s: s.alphabetic_fraction < 0.65),
    ("pre_line_punctuation", lambda s: s.terminated_line_fraction < 0.08),
    ("pre_short_lines", lambda s: s.short_line_fraction > 0.75),
)


DUPLICATE = "pre_duplicate"


class Wanted(NamedTuple):
    """What a walker keeps, as far as a worker can tell."""

    languages: tuple[str, ...] = ()
    """ISO 639 codes; empty wants all."""
    language_score: float = 0.0


class Screen:
    """Judges fast texts, and remembers the recent ones: 100,000 of them, in 25 MB at the most."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._first: OrderedDict[bytes, str] = OrderedDict()

    def reason(self, text: str, url: str) -> str:
        """Why `text` is not worth extracting; empty if it may be."""
        reason = judge(text[:_LOOKED_AT], RULES).reason
        if not reason and self._is_foreign(text):
            reason = "pre_language"
        if not reason and self._is_known(text, url):
            reason = DUPLICATE
        return reason

    def _is_foreign(self, text: str) -> bool:
        languages, least = self._wanted
        if not languages:
            return False
        language, score = detect_language(text)
        return language not in languages or score < _LENIENCE * least

    def _is_known(self, text: str, url: str) -> bool:
        """Met at another URL; the same URL may be fetched again."""
        digest = hashlib.blake2b(" ".join(text.lower().split()).encode("utf-8", "replace"), digest_size=8)
        first = self._first.setdefault(digest.digest(), url)
        self._first.move_to_end(digest.digest())
        if len(self._first) > _MOST_REMEMBERED:
            self._first.popitem(last=False)
        return first != url
