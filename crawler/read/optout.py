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

# What a word of robots directives looks like, those of later years too; of them, what is recorded.
_DIRECTIVE = re.compile("no[a-z]+|all|index|follow|indexifembedded")
_RECORDED = frozenset(("noindex", "noai", "noimageai", "noarchive", "none"))
_WITH_VALUE = frozenset(("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"))
_VALUED = re.compile(rf"({'|'.join(_WITH_VALUE)}):.")
_AGENT = re.compile(r"[a-z*_][^\s:]*")
# Of a name that addresses a crawler: where it goes on, it is another's (RFC 9309, section 2.2.1).
_IDENTIFIER = re.compile("[a-z_-]")
_MEMBERS = re.compile("[,;]")
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*+"?')
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
            robots += addressed(value, agent)
        elif name == "content-usage":
            others += [statement for _, statement, refused in usage(value) if refused]
        elif name == "tdm-reservation" and value.strip() == "1":
            others.append("tdm-reservation=1")
    return _heard("header", robots, others)


def from_metas(metas: Iterable[tuple[str, str]], agent: str) -> Heard:
    """Collect what a page's `meta` elements (name, content) say to the crawler with this product token."""
    said = [(name.strip().lower(), content.strip().lower()) for name, content in metas]
    robots = [
        directive
        for name, content in said
        if name == "robots" or addresses(name, agent.lower())
        for member in _MEMBERS.split(content)
        for directive in _directives(member)
    ]
    others = ["tdm-reservation=1" for meta in said if meta == ("tdm-reservation", "1")]
    return _heard("meta", robots, others)


def _heard(where: str, directives: list[str], others: list[str]) -> Heard:
    robots = [directive for directive in directives if directive in _RECORDED]
    found = dict.fromkeys(f"{where}:{what}" for what in [*robots, *others])
    return Heard(tuple(found)[:MOST_SIGNALS], "nofollow" in directives or "none" in directives)


def addresses(name: str, agent: str) -> bool:
    """Whether `name` is the crawler's: its token, `agent`, to the first character that no token has.

    So Google's parser cuts it: a version, or more words, are no part of a name. Both are in lower case.
    """
    return name.startswith(agent) and not _IDENTIFIER.match(name, len(agent))


def addressed(robots_tag: str, agent: str) -> list[str]:
    """The directives of an X-Robots-Tag for `agent`: those behind its name, `*`, or no name."""
    kept: list[str] = []
    ours = True
    for member in _MEMBERS.split(robots_tag.lower()):
        name, colon, said = (part.strip() for part in member.partition(":"))
        valued = said.partition(":")[0].rstrip() in _WITH_VALUE
        if colon and name not in _WITH_VALUE and _AGENT.fullmatch(name) and (valued or _directives(said)):
            ours, member = name in ("*", "robots") or addresses(name, agent.lower()), said
        kept += _directives(member) if ours else ()
    return kept


def _directives(member: str) -> list[str]:
    """Those of a member of a list: all its words, if all are directives; some write no commas."""
    words = [word for word in member.split() if not _VALUED.match(word)]
    return words if all(map(_DIRECTIVE.fullmatch, words)) else []


def usage(preferences: str) -> Iterator[tuple[str, str, bool]]:
    """(category, statement, whether it refuses) of `search=yes, ai-train=no` or `train-ai=n;x="a, b"`."""
    for member in _QUOTED.sub("", preferences.lower()).split(","):
        if match := _STATEMENT.fullmatch(member.partition(";")[0].strip()):
            yield match[1], f"{match[1]}={match[2]}", match[2].startswith("n")
