"""What hosts say about the use of their pages, beyond whether they may be fetched.

Each signal is recorded with the document as `where:what`: `meta:noai`, `header:noindex`,
`robots:ai-train=no`, `header:train-ai=n`, `meta:tdm-reservation=1`. Whether to obey is the walker's setting;
which of them mean "not for training" is said here, in one place. Understood are the robots directives
(`meta name=robots`; X-Robots-Tag, also several, also addressed to one crawler), Content Signals and the
IETF's Content-Usage (the header here, the lines in robots.txt by `crawler.fetch.robots`), and TDMRep's header
and `meta`. TDMRep's file under `/.well-known/` is not asked for: that would be a second fetch of every host,
to find it absent on nearly all.
"""

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

_DIRECTIVE = re.compile(r"\b(noindex|noai|noimageai|noarchive|none)\b")
_NOFOLLOW = re.compile(r"\b(nofollow|none)\b")
_WITH_VALUE = frozenset(("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"))
_AGENT = re.compile(r"[a-z*_][a-z0-9_.*-]*")
# A category is a word: the longest that anybody proposed has 16 letters.
_STATEMENT = re.compile(r"([a-z*][a-z0-9_.*-]{0,63})\s*=\s*(yes|no|y|n)")
# Statements of one robots.txt, response or page, which stand in its document: a dozen are known.
MOST_SIGNALS = 16
_TRAINING = ("ai-train", "train-ai", "train-genai", "genai", "ai", "tdm", "bots")
# `ai-input` and `search` are other uses; `noarchive` is about copies shown to people.
_NOT_FOR_TRAINING = {"noindex", "noai", "none", "tdm-reservation=1"}.union(
    f"{category}={refusal}" for category in _TRAINING for refusal in ("n", "no")
)


def forbids_training(signals: Iterable[str]) -> bool:
    """Whether any of a document's recorded signals says that no model may be trained on it."""
    return any(signal.partition(":")[2] in _NOT_FOR_TRAINING for signal in signals)


class Heard(NamedTuple):
    """The statements of a page or of its response."""

    signals: tuple[str, ...] = ()
    """Against its use, each once."""
    nofollow: bool = False
    """Whether it asks not to follow its links."""


def from_headers(headers: Iterable[tuple[str, str]], agent: str) -> Heard:
    """Collect what a response's headers (names in lower case) say to the crawler with this product token."""
    robots: list[str] = []
    others: list[str] = []
    for name, value in headers:
        if name == "x-robots-tag":
            robots.append(addressed(value, agent))
        elif name == "content-usage":
            others += [statement for _, statement, refused in usage(value) if refused]
        elif name == "tdm-reservation" and value.strip() == "1":
            others.append("tdm-reservation=1")
    return _heard("header", robots, others)


def from_metas(metas: Iterable[tuple[str, str]], agent: str) -> Heard:
    """Collect what a page's `meta` elements (name, content) say to the crawler with this product token."""
    said = [(name.strip().lower(), content.strip().lower()) for name, content in metas]
    robots = [content for name, content in said if name in ("robots", agent.lower())]
    others = ["tdm-reservation=1" for meta in said if meta == ("tdm-reservation", "1")]
    return _heard("meta", robots, others)


def _heard(where: str, robots: list[str], others: list[str]) -> Heard:
    directives = ", ".join(robots)
    found = dict.fromkeys(f"{where}:{what}" for what in [*_DIRECTIVE.findall(directives), *others])
    return Heard(tuple(found)[:MOST_SIGNALS], _NOFOLLOW.search(directives) is not None)


def addressed(robots_tag: str, agent: str) -> str:
    """The part of an X-Robots-Tag that is for `agent`: what stands after its name, `*`, or no name."""
    kept, ours = [], True
    for part in robots_tag.lower().split(","):
        name, colon, directive = part.partition(":")
        name = name.strip()
        if colon and name not in _WITH_VALUE and _AGENT.fullmatch(name):
            ours, part = name in ("*", agent.lower()), directive
        if ours:
            kept.append(part.strip())
    return ", ".join(kept)


def usage(preferences: str) -> Iterator[tuple[str, str, bool]]:
    """(category, statement, whether it refuses) of `search=yes, ai-train=no` or `train-ai=n;x=1`."""
    for member in preferences.lower().split(","):
        if match := _STATEMENT.fullmatch(member.partition(";")[0].strip()):
            yield match[1], f"{match[1]}={match[2]}", match[2].startswith("n")
