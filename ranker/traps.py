"""Sites without end: which links lead nowhere new.

Two mechanisms. A URL's shape can tell by itself: too long, too many parameters, a path that repeats itself.
Everything else is learned from what was fetched: a URL belongs to groups (its host, its path with any query,
its shape with numbers taken out, its folder), and a group that has been tried often enough and brought almost
nothing worth keeping is closed, a folder only valued less. So calendars, sessions in the path, sorted and
filtered lists, and pages about nothing end when their pages stop being worth it, whatever they look like; and
a large index is queued whole as long as nothing speaks against it. Contents that many URLs of a host share
are its answer to nonsense.

Names are free: with a wildcard in DNS one page could fill every table of hosts. So a page, and a domain, may
be the first to name only so many.
"""

import hashlib
import re
from collections import Counter, OrderedDict
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np

from crawler.urls import domain, locate

_MOST_CHARACTERS = 600
_MOST_PARAMETERS = 10
# URLs of a host that may have one content; the next with it is a soft 404.
_SAME_CONTENTS = 5
# Remembered, some 150 bytes each.
_MOST_GROUPS = 200_000
# Decimal numbers, and hexadecimal ones of 8 digits or more that stand alone: ids, dates, hashes.
_NUMBER = re.compile(r"(?<=[/=_.-])[0-9a-f]{8,}(?=[/?&_.-])|[0-9]+")


class _Kind(NamedTuple):
    """When a group is closed: after this many fetches, if the share worth keeping is less."""

    reason: str
    fetches: int
    share: float


# Fetches that say enough, and the share kept that is too little: of a host a hundredth, else a tenth. Caps by
# number alone failed: an index of 5,000 stories looks like a trap until its pages are read.
_HOST = _Kind("trap_host", 1000, 0.01)
_QUERIES = _Kind("trap_parameters", 40, 0.1)
_SHAPE = _Kind("trap_pattern", 60, 0.1)
_FOLDER = _Kind("", 30, 0.1)
# What remains of the promise of a link into a poor group.
_OF_A_POOR_GROUP = 0.2


class Quota(NamedTuple):
    """How many a page, and how many all pages of a registrable domain, may be the first to name."""

    what: str
    page: int
    domain: int
    kept_page: int
    """And more for each page of the domain that was worth keeping."""


# Of 44,000 pages of documentation and blogs none named over 142 hosts, of 22 whole sites none over 388. Half
# cuts off directories; with twice as many a domain of 1,000 kept pages costs the server 30 MB.
HOSTS = Quota("hosts", 500, 2000, 20)
# At 300 bytes of the walker's memory each, 2,000 on a page. Most pages of a site name what others have named.
URLS = Quota("urls", 2000, 50_000, 100)


def trap_of_shape(url: str) -> str:
    """The reason not to follow `url`, whatever is known of its host; empty if there is none."""
    if len(url) > _MOST_CHARACTERS:
        return "trap_length"
    _, _, rest = url.partition("://")
    path, _, query = rest.partition("?")
    if query.count("&") >= _MOST_PARAMETERS:
        return "trap_parameters"
    return "trap_repeats" if _repeats(path.split("/")[1:]) else ""


def _repeats(segments: list[str]) -> bool:
    """Up to four segments three times in a row, or one segment four times anywhere; numbers may."""
    names = Counter(segment for segment in segments if segment and not segment.isdigit())
    if not names or max(names.values()) < 3:
        return False
    return max(names.values()) > 3 or any(
        segments[start : start + n]
        == segments[start + n : start + 2 * n]
        == segments[start + 2 * n : start + 3 * n]
        for n in range(1, 5)
        for start in range(len(segments) - 3 * n + 1)
        if any(segment in names for segment in segments[start : start + n])
    )


class Traps:
    """What the groups of URLs have been worth so far: at most 200,000 of them, the latest used, 30 MB."""

    def __init__(self) -> None:
        self._groups: OrderedDict[int, tuple[int, int]] = OrderedDict()

    def fetched(self, url: str, content: str, *, kept: bool) -> bool:
        """Learn from a fetch; `content` is a digest, empty if there is none.

        What a closed group explains does not count against the host. Returns whether the content is what the
        host answers to many URLs: a soft 404.
        """
        groups = _groups(url)
        if kept:
            for quota in (HOSTS, URLS):
                self._add(_key(f"{domain(locate(url).host)} {quota.what}"), 0, kept=True)
        explained = any(
            kind.reason and kind is not _HOST and self._is_poor(kind, key) for kind, key in groups
        )
        for kind, key in groups:
            if kept or not (explained and kind is _HOST):
                self._add(key, kept=kept)
        return (
            bool(content) and self._add(_key(f"{urlsplit(url).netloc} {content}"), kept=kept) > _SAME_CONTENTS
        )

    def left(self, quota: Quota, source: str) -> int:
        """How many of `quota` a page of the domain `source` may be the first to name."""
        named, kept = self._groups.get(_key(f"{source} {quota.what}"), (0, 0))
        return max(0, min(quota.page, quota.domain + quota.kept_page * kept - named))

    def named(self, quota: Quota, source: str, count: int) -> None:
        """Count that a page of the domain `source` was the first to name so many."""
        if count:
            self._add(_key(f"{source} {quota.what}"), count, kept=False)

    def _add(self, key: int, times: int = 1, *, kept: bool) -> int:
        fetches, worthy = self._groups.get(key, (0, 0))
        self._groups[key] = fetches + times, worthy + kept
        self._groups.move_to_end(key)
        if len(self._groups) > _MOST_GROUPS:
            self._groups.popitem(last=False)
        return fetches + times

    def reason(self, url: str) -> str:
        """Why a link is not followed; empty if it is."""
        return trap_of_shape(url) or next(
            (kind.reason for kind, key in _groups(url) if kind.reason and self._is_poor(kind, key)), ""
        )

    def weight(self, url: str) -> float:
        """What the promise of a link is to be multiplied with."""
        poor = any(self._is_poor(kind, key) for kind, key in _groups(url))
        return _OF_A_POOR_GROUP if poor else 1.0

    def _is_poor(self, kind: _Kind, key: int) -> bool:
        fetches, worthy = self._groups.get(key, (0, 0))
        return fetches >= kind.fetches and worthy < kind.share * fetches

    def state(self) -> dict[str, Any]:
        """What is needed to go on later, as arrays."""
        return {
            "keys": np.fromiter(self._groups, dtype=np.uint64, count=len(self._groups)),
            "counts": np.array(list(self._groups.values()), dtype=np.uint32).reshape(-1, 2),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        counts = map(tuple, state["counts"].tolist())
        self._groups = OrderedDict(zip(map(int, state["keys"]), counts, strict=True))


@lru_cache(1 << 14)
def _groups(url: str) -> list[tuple[_Kind, int]]:
    """What a URL is judged with, each with its key."""
    _, host, path, query, _ = urlsplit(url)
    names = "&".join(sorted({parameter.partition("=")[0] for parameter in query.split("&")}))
    shape, numbers = _NUMBER.subn("0", f"{path}?{names}")
    groups = [(_HOST, _key(host)), (_FOLDER, _key(f"{host}{path.rpartition('/')[0]}/"))]
    if query:
        groups.append((_QUERIES, _key(f"{host}{path}?")))
    if numbers or query:
        groups.append((_SHAPE, _key(f"{host}{shape} ")))
    return groups


def _key(group: str) -> int:
    return int.from_bytes(hashlib.blake2b(group.encode(), digest_size=8).digest(), "big")
