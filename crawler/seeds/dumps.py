"""Reddit's public dumps: one JSON object a line, of every year since 2005, compressed with long windows."""

import math
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from crawler.archives.packed import lines

# Hours after which a score hardly changes any more.
SETTLED_HOURS = 24.0
# What is linked most and is no text, by the end of its path and by its host.
_MEDIA = (".jpg", ".jpeg", ".png", ".gif", ".gifv", ".webp", ".mp4", ".webm", ".mp3", ".pdf", ".zip", ".svg")
NOT_TEXT = (
    "reddit.com", "redd.it", "imgur.com", "youtube.com", "youtu.be", "twitter.com", "x.com", "facebook.com",
    "instagram.com", "tiktok.com", "twitch.tv", "vimeo.com", "gfycat.com", "flickr.com", "soundcloud.com",
    "spotify.com", "amazon.com", "ebay.com", "streamable.com", "giphy.com", "redgifs.com", "gyazo.com",
)  # fmt: skip
# Of five posts of a month four say by their domain that they are no link to a text: to look for that takes a
# tenth of parsing. In a string its quotes would be escaped, and of a crosspost it is what its parent shows.
_DOMAIN = b'"domain":"'
_SELF = b"self."
_SAYS = (_SELF, b'i.redd.it"', b'v.redd.it"', b'reddit.com"')
# Hosts may begin like that too: self.com, self.example.org. A subreddit's name has no dot, and few are as
# short as the end of a host's: those are parsed.
_SHORT_NAME = 5

Number = bool | int | float | str | None
Text = bool | int | float | str | None


class _Meta(msgspec.Struct):
    was_deleted_later: Number = None
    retrieved_2nd_on: Number = None


class Submission(msgspec.Struct):
    """What is looked at of a post, whatever type a year's dumps gave it."""

    url: Text = None
    url_overridden_by_dest: Text = None
    score: Number = None
    domain: Text = None
    subreddit: Text = None
    author: Text = None
    is_self: Number = None
    over_18: Number = None
    promoted: Number = None
    is_gallery: Number = None
    # Removed: since 2018 by whom or why, before that whether at all, or that no search engine may show it.
    removed_by_category: Text = None
    removed_by: Text = None
    removal_reason: Text = None
    banned_by: Text = None
    spam: Number = None
    removed: Number = None
    is_robot_indexable: Number = None
    created_utc: Number = None
    created: Number = None
    retrieved_on: Number = None
    retrieved_utc: Number = None
    crosspost_parent_list: "list[Submission] | None" = None
    meta: _Meta | None = msgspec.field(name="_meta", default=None)


class Post(NamedTuple):
    """A link that somebody posted, as it is summed."""

    url: str
    subreddit: str
    author: int
    """A hash of 32 bits."""
    month: int
    """Since the year 0."""
    score: float
    age: float | None
    """Hours that the score had to settle in; None if they were enough, or nobody says."""


_decode = msgspec.json.Decoder(Submission).decode


def posts_of(
    path: Path,
    start: int,
    dropped: Counter[str],
    tell: Callable[[int], object],
    media: Iterable[str] = (),
) -> Iterator[tuple[Post | None, int]]:
    """Each post of a dump from the decompressed byte `start` on, None if it says nothing, and where it ends.

    `dropped` counts why not; `media` are further hosts of what is no text. `tell` hears how many bytes of the
    file were read. Raises SeedError if it cannot be read to its end.
    """
    not_text = is_no_text(media)
    at = start
    for line in lines(path, start, tell):
        at += len(line)
        if (domain := line.find(_DOMAIN)) >= 0:
            said = line[domain + len(_DOMAIN) : domain + len(_DOMAIN) + 32]
            of_text = said.startswith(_SELF)
            name = said[len(_SELF) :].partition(b'"')[0] if of_text else b""
            if said.startswith(_SAYS) and not (of_text and (len(name) <= _SHORT_NAME or b"." in name)):
                dropped["self_post" if of_text else "not_text"] += 1
                yield None, at
                continue
        try:
            found = post_of(_decode(line), not_text)
        except msgspec.ValidationError:
            found = _of_other_types(line, not_text)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            found = "bad_line"
        if isinstance(found, str):
            dropped[found] += 1
            yield None, at
        else:
            yield found, at


def _of_other_types(line: bytes, not_text: Callable[[str], bool]) -> Post | str:
    """A post one of whose fields has a type that nothing can be told from."""
    try:
        return post_of_fields(msgspec.json.decode(line, type=dict[str, Any]), not_text)
    except (msgspec.MsgspecError, RecursionError):
        return "bad_line"


def post_of_fields(fields: dict[str, Any], not_text: Callable[[str], bool]) -> Post | str:
    """What a submission says whose fields are these: one that has another type counts as not there."""
    try:
        for name in [*fields]:
            try:
                msgspec.convert({name: fields[name]}, Submission)
            except msgspec.ValidationError:
                del fields[name]
        return post_of(msgspec.convert(fields, Submission), not_text)
    except (msgspec.MsgspecError, TypeError, AttributeError, RecursionError):
        return "bad_line"


def post_of(submission: Submission, not_text: Callable[[str], bool]) -> Post | str:
    """What a submission says of the page it shows, or why it says nothing."""
    if reason := why_not(submission):
        return reason
    url = linked_url(submission)
    if not url:
        return "no_url"
    if not_text(url):
        return "not_text"
    score, created = _number(submission.score), _number(submission.created_utc) or _number(submission.created)
    if score is None:
        return "bad_line"
    author = str(submission.author or "").encode("utf-8", "replace")
    return Post(
        url,
        str(submission.subreddit or "").lower(),
        zlib.crc32(author),
        _month(int((created or 0) // 86400)),
        score,
        _age(submission, created),
    )


def why_not(submission: Submission) -> str:
    """Why a submission says nothing of the worth of a page; empty if it may."""
    domain = str(submission.domain or "")
    of_subreddit = f"self.{submission.subreddit}".lower()
    if submission.is_self is True or domain.lower() == of_subreddit:
        return "self_post"
    if submission.over_18 is True:
        return "adult"
    if submission.promoted is True:
        return "advertisement"
    by = (
        submission.removed_by_category,
        submission.removed_by,
        submission.removal_reason,
        submission.banned_by,
    )
    later = submission.meta and submission.meta.was_deleted_later
    if any(by) or submission.removed or submission.spam or submission.is_robot_indexable is False or later:
        return "removed"
    return "not_text" if submission.is_gallery is True or domain in ("i.redd.it", "v.redd.it") else ""


def linked_url(submission: Submission) -> str:
    """The page a submission shows: for a crosspost, its parent's. Dumps have URLs as in Reddit's HTML."""
    shown = submission.crosspost_parent_list[0] if submission.crosspost_parent_list else submission
    url = str(shown.url_overridden_by_dest or shown.url or "")
    return url.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&") if "&" in url else url


def _age(submission: Submission, created: float | None) -> float | None:
    # All of some months in the dumps are scores taken seconds after posting: about 1, whatever came later.
    retrieved = _number(submission.retrieved_on) or _number(submission.retrieved_utc)
    if not retrieved or not created or (submission.meta and submission.meta.retrieved_2nd_on):
        return None
    hours = (retrieved - created) / 3600
    return max(0.0, hours) if hours < SETTLED_HOURS else None


def _number(value: Number) -> float | None:
    """The number that a dump has, in quotes or not; None if it is none."""
    try:
        number = float(value) if value is not None else 0.0
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) and abs(number) < 1e12 else None


@lru_cache(1 << 16)
def _month(day: int) -> int:
    """Of a day since 1970."""
    year, month = time.gmtime(day * 86400)[:2] if 0 <= day < 1 << 20 else (1970, 1)
    return 12 * year + month - 1


def is_no_text(media: Iterable[str]) -> Callable[[str], bool]:
    """Whether a URL is of one of these hosts, or of those known, or ends as no text does."""
    known = frozenset(name.lower().removeprefix("www.") for name in (*NOT_TEXT, *media))

    @lru_cache(1 << 16)
    def is_of_these(host: str) -> bool:
        host = host.rpartition("@")[2].partition(":")[0].removeprefix("www.")
        labels = host.split(".")
        return any(".".join(labels[n:]) in known for n in range(len(labels)))

    def judge(url: str) -> bool:
        address = url.partition("#")[0].partition("?")[0].lower()
        return address.endswith(_MEDIA) or is_of_these(address.partition("://")[2].partition("/")[0])

    return judge
