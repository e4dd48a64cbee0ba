"""What strangers wrote, made safe to print: pages, models, hosts and their robots.txt speak to no terminal.

A rule of the house (tests/tinylm/test_terminal.py): text leaves by `say`, by `deploy.console`, or by the log.
"""

import io
import re
import sys
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from typing import IO

# Never shown, and each used to deceive: C0 but tab and line feed, DEL and C1 (terminals obey them: clipboard,
# title, cursor), surrogates (no terminal can take them), and of Unicode what is invisible itself and changes
# how the rest is seen: line separators, all of Bidi_Control, deprecated format characters, annotations, tags.
# Joiners (U+200C, U+200D) stay: Persian and emoji are written with them; and so do soft hyphens.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u180e\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e0fff]"
)


def clean(text: str) -> str:
    """The characters of `text` that a terminal shows and does not obey; of CR LF the line feed.

    Each character is judged by itself: a sequence that comes in pieces is broken like any other.
    """
    return _UNSEEN.sub("", text)


def say(text: object = "", *, end: str = "\n", file: IO[str] | None = None) -> None:
    """Print the clean `text` at once, to stdout or `file`."""
    print(clean(str(text)), end=end, file=file, flush=True)


def tally(counts: Mapping[str, int], most: int | None = None) -> str:
    """How often what was counted, the most frequent first; `most` of them."""
    frequent = Counter(counts).most_common(most)
    return ", ".join(f"{name} {count:,}" for name, count in frequent if count)


def entered(text: str) -> str:
    """What a person wrote, as an argument or on stdin: U+FFFD where its bytes are not UTF-8."""
    # Python gives half surrogates for bytes that it cannot decode: for all but ASCII, where it knows no more.
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def let_streams_take_anything() -> None:
    """Let no character end this process: what stdout cannot show is `?`, stdin's are for `entered`."""
    # Python's stderr writes escapes, always. What is no such wrapper is closed, or a test's.
    for stream, errors in ((sys.stdin, "surrogateescape"), (sys.stdout, "replace")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)


def say_at_once(text: str) -> None:
    """`say` to stderr, out of a signal handler: where that interrupted another print it says nothing."""
    with suppress(RuntimeError):
        say(text, file=sys.stderr)
