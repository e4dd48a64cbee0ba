"""What differs from language to language: what a word is, how many a text has, and which are in any text.

The published rules were made for English. As FineWeb2 has it (Penedo et al. 2025), each language has stop
words and thresholds that follow from its own statistics: languages.toml holds them, `measured` makes them of
text. A language that is not there is judged without the rules that need them.
"""

import os
import re
import string
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tinylm.errors import ConfigError

# Scripts that put no spaces between words. The first two as Unicode segments them (UAX #29): an ideograph or
# a hiragana is a word, and so is a run of katakana. The others need a dictionary there; here a letter with
# its marks is one.
_IDEOGRAPHS = "\u3005-\u3007\u3041-\u309f\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_KATAKANA = "\u30a1-\u30ff\u31f0-\u31ff\uff66-\uff9f"
_LETTERS = (
    "\u0e01-\u0e30\u0e32\u0e33\u0e40-\u0e46\u0e81-\u0eb0\u0eb2\u0eb3\u0ebd-\u0ec6\u1000-\u102a\u1780-\u17b3"
)
_MARKS = "\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ece\u102b-\u103e\u17b4-\u17d3"
_UNSPACED = re.compile(f"[{_IDEOGRAPHS}{_KATAKANA}{_LETTERS}]")
# Punctuation goes with the word before it, as it does where there are spaces.
_WORD = re.compile(
    rf"(?:[{_IDEOGRAPHS}]|[{_KATAKANA}]+|[{_LETTERS}][{_MARKS}]*)[^\w\s{_MARKS}]*"
    rf"|[^\s{_IDEOGRAPHS}{_KATAKANA}{_LETTERS}]+"
)
PUNCTUATION = string.punctuation + "“”‘’«»…–—‹›„‚¡¿。，、；：？！「」『』（）《》〈〉【】・．।॥؟،؛۔።၊။។"
# A table of a user's own beside ours, for every process: it has to reach extraction children too.
TABLE = "TINYLM_LANGUAGES"
# FineWeb2's lists are about as long; the words of English are Gopher's.
_STOP_WORDS = 15
_GOPHERS = frozenset({"the", "be", "to", "of", "and", "that", "have", "with"})
_FEWEST_TEXTS = 50


def words_of(text: str) -> list[str]:
    """The words of `text`, with their punctuation: at white space, and within scripts that have none."""
    return _WORD.findall(text) if not text.isascii() and _UNSPACED.search(text) else text.split()


class Language(NamedTuple):
    """A language beside English, as the same text has it in both."""

    stop_words: frozenset[str]
    words: float
    """For each English one."""
    word_length: float
    """Mean length of its words in characters, for each character of an English one's."""

    @property
    def characters(self) -> float:
        """For each English one."""
        return self.words * self.word_length


def language(code: str) -> Language | None:
    """What is known of the language with this ISO 639 code; None if that is nothing.

    Raises ConfigError for a table that cannot be read.
    """
    return _table().get(code)


@cache
def _table() -> Mapping[str, Language]:
    found = _read(Path(__file__).with_name("languages.toml"))
    try:
        return found | _read(Path(path)) if (path := os.environ.get(TABLE)) else found
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(
            f"{TABLE}={path}: no table of languages ({error!r}); `tinylm shards language` makes one"
        ) from error


def _read(path: Path) -> dict[str, Language]:
    return {
        code: Language(frozenset(row["stop_words"].split()), float(row["words"]), float(row["word_length"]))
        for code, row in tomllib.loads(path.read_text(encoding="utf-8")).items()
    }


def row(code: str, of: Language) -> str:
    """The line of a language in a table."""
    words = " ".join(sorted(of.stop_words))
    return (
        f'{code} = {{ words = {of.words:.2f}, word_length = {of.word_length:.2f}, stop_words = "{words}" }}'
    )


def measured(code: str, texts: Mapping[str, str], english: Mapping[str, str]) -> Language:
    """A language from texts in it, by name; what has the same name in `english` is the same text there.

    The stop words are those that most texts have. Without a text in common as many characters are taken to
    say the same. Raises ConfigError for fewer than fifty texts of either.
    """
    for name, those in ((code, texts), ("en", english)):
        if len(those) < _FEWEST_TEXTS:
            raise ConfigError(
                f"{len(those)} texts in {name!r}: its words cannot be known from fewer than fifty"
            )
    having = Counter[str]()
    for text in texts.values():
        bare = {word.strip(PUNCTUATION) for word in words_of(text.lower())}
        having.update(word for word in bare if any(map(str.isalpha, word)))
    stop_words = [word for word, _ in having.most_common(_STOP_WORDS)]
    length, english_length = _length(texts.values()), _length(english.values())
    both = texts.keys() & english.keys()
    words = sum(len(words_of(texts[name])) for name in both)
    words_in_english = sum(len(words_of(english[name])) for name in both)
    return Language(
        _GOPHERS if code == "en" else frozenset(stop_words),
        words / words_in_english if both else (english_length + 1) / (length + 1),
        length / english_length,
    )


def _length(texts: Iterable[str]) -> float:
    """Mean length of a word in characters."""
    words = [word for text in texts for word in words_of(text)]
    return sum(map(len, words)) / max(1, len(words))
