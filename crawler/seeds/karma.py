"""Karma as a prior: what people up-voted, summed over all submissions of a page.

The rule is WebText's (Radford et al. 2019: at least 3 votes) on the unit OpenWebText2 uses (all submissions
of one URL), with what both leave out: URLs are made canonical before they are summed, a crosspost counts for
the page it shows, and scores captured before anybody could vote are not believed.
"""

import gzip
import json
import lzma
import math
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from backports import zstd

from crawler.errors import SeedError
from crawler.seeds.seed import Seed
from crawler.urls import address, canonical
from tinylm.records import MALFORMED

# WebText's.
FEWEST_VOTES = 3
# Scores taken sooner are not believed.
_SETTLED_SECONDS = 24 * 3600
# The dumps are compressed with windows of up to 2 GiB.
_LONG_WINDOW: Any = {zstd.DecompressionParameter.window_log_max: 31}
# What is linked most and is no text, by the end of its path and by its host.
_MEDIA = (".jpg", ".jpeg", ".png", ".gif", ".gifv", ".webp", ".mp4", ".webm", ".mp3", ".pdf", ".zip", ".svg")
_NOT_TEXT = (
    "reddit.com", "redd.it", "imgur.com", "youtube.com", "youtu.be", "twitter.com", "x.com", "facebook.com",
    "instagram.com", "tiktok.com", "twitch.tv", "vimeo.com", "gfycat.com", "flickr.com", "soundcloud.com",
    "spotify.com", "amazon.com", "ebay.com",
)  # fmt: skip


def seeds_of_dump(path: Path) -> Iterator[Seed]:
    """Seeds of one dump, most votes first. Raises SeedError if it is damaged or holds no submissions."""
    votes, dropped = count_votes(path)
    if not votes and dropped.total() == dropped["bad_line"]:
        raise SeedError(
            f"{path}: no line is a submission in the public dumps' format (one JSON object a line)"
        )
    for url, total in sorted(votes.items(), key=lambda item: (-item[1], item[0])):
        if total >= FEWEST_VOTES:
            yield Seed(url, total, path.name)


def count_votes(path: Path) -> tuple[dict[str, float], Counter[str]]:
    """Votes over all submissions of a page by its first address, and how many were left out, by reason.

    Raises SeedError if the file cannot be read to its end.
    """
    votes: dict[str, float] = {}
    asked: dict[str, str] = {}  # of pages whose first address is not the canonical one
    dropped: Counter[str] = Counter()
    for line in _lines(path):
        try:
            post = json.loads(line)
            reason = why_not(post)
            url = None if reason else address(str(linked_url(post)))
            score = float(post.get("score") or 0)
            if not math.isfinite(score):
                raise ValueError(score)
        # Each line is somebody's JSON: whatever type a field has must cost no more than its line.
        except MALFORMED:
            dropped["bad_line"] += 1
            continue
        if url is None:
            dropped[reason or "bad_url"] += 1
            continue
        page = canonical(url)
        if page not in votes and page != url:
            asked[page] = url
        votes[page] = votes.get(page, 0.0) + score
    return {asked.get(page, page): total for page, total in votes.items()}, dropped


def why_not(post: dict[str, Any]) -> str:
    """Why a submission says nothing about the worth of a page; empty if it does."""
    flags = {"is_self": "self_post", "over_18": "adult", "promoted": "advertisement"}
    if flag := next(filter(post.get, flags), ""):
        return flags[flag]
    if post.get("removed_by_category") or (post.get("_meta") or {}).get("was_deleted_later"):
        return "removed"
    if _captured_early(post):
        return "captured_early"
    if not linked_url(post):
        return "no_url"
    return "not_text" if _not_text(post) else ""


def linked_url(post: dict[str, Any]) -> str:
    """The page a submission shows: for a crosspost, its parent's. Dumps have URLs as in Reddit's HTML."""
    parents = post.get("crosspost_parent_list")
    shown = parents[0] if parents else post
    url = str(shown.get("url_overridden_by_dest") or shown.get("url") or "")
    return url.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


def _captured_early(post: dict[str, Any]) -> bool:
    # All of some months in the dumps are scores taken seconds after posting: about 1, whatever came later.
    retrieved, created = post.get("retrieved_on"), post.get("created_utc")
    if not retrieved or not created or (post.get("_meta") or {}).get("retrieved_2nd_on"):
        return False
    return float(retrieved) - float(created) < _SETTLED_SECONDS


def _not_text(post: dict[str, Any]) -> bool:
    parts = urlsplit(address(linked_url(post)) or "")
    host = (parts.hostname or "").removeprefix("www.")
    return parts.path.lower().endswith(_MEDIA) or any(
        host == name or host.endswith("." + name) for name in _NOT_TEXT
    )


def _lines(path: Path) -> Iterator[bytes]:
    openers: dict[str, Callable[[Path], Any]] = {
        ".zst": lambda dump: zstd.open(dump, "rb", options=_LONG_WINDOW),
        ".xz": lzma.open,
        ".gz": gzip.open,
    }
    opener: Callable[[Path], Any] = openers.get(path.suffix, lambda dump: dump.open("rb"))
    try:
        with opener(path) as stream:
            yield from stream
    except (EOFError, zstd.ZstdError, lzma.LZMAError, zlib.error, OSError) as error:
        raise SeedError(
            f"{path}: unreadable, cut off or damaged ({error}); nothing of it was used: get it again"
        ) from error
