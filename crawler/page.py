"""`Link`, `Extracted` and `Page`: what a worker found, on its way through the stream to the walker.

Whatever a stranger's page says, what the walker holds of it is bounded: see `BOUNDS`.
"""

import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self, TypeVar

from crawler.errors import PageError
from crawler.read.optout import forbids_training
from crawler.seeds.seed import LONGEST_SOURCE
from crawler.urls import MOST_CHARACTERS
from shards.text.content import Content, values
from tinylm.records import MALFORMED

# Reasons of fetches that are lists: no documents, and no judges of what they list.
LISTS = ("robots", "sitemap", "feed")
# Tag paths of links to sitemaps.
PATHS_TO_SITEMAPS = ("robots/sitemap", "sitemapindex/sitemap/loc")
PATH_OF_REFRESH = "html/head/meta"
# Characters of a link's text, and of its tag path: 64 names of 7 (real ones are 20 names of 4).
MOST_ANCHOR_CHARACTERS, MOST_PATH_CHARACTERS = 200, 512
MOST_TITLE_CHARACTERS = 500
# Of a page before it is compressed. The text of the largest body (4 MB), in an encoding of one byte a
# character that takes three in UTF-8, has 12 MB, its links at most 4.
MOST_BYTES = 16 << 20
_TOO_LARGE = "too_large"
# Without spaces, and without looking for circles: it saves what checking a page costs.
_JSON = json.JSONEncoder(ensure_ascii=False, check_circular=False, separators=(",", ":"))

T = TypeVar("T")


class Several(NamedTuple):
    """The bound of a field with many values."""

    entries: int
    size: int
    """Of all of them together, in bytes."""


Bound = int | range | tuple[float, float] | Several | type[bool]
_OPT_OUT = Several(100, 4000)
# Of a sitemap's 5,000 links each may have 200. At half, long lists of long URLs are cut; at double, a page of
# links may weigh more than the largest of text.
_LINKS = Several(5000, 1 << 20)
# What a page may hold, by field: a string so many characters, a whole number one of a range, any other number
# one between two. Held to where a page becomes bytes and where it is read; what has no bound is refused.
BOUNDS: dict[str, Bound] = {
    "url": MOST_CHARACTERS,
    "fetch_no": range(1 << 31),
    "fetched_at": range(1 << 48),  # the year 10889
    "status": range(1000),  # a corpus has 16 bits for it
    "promise": (-1e6, 1e6),  # it is one of 0 to 1, but `Frontier.put` takes any
    "propensity": (0.0, 1.0),
    "content_sha256": 64,
    "language": 16,
    "language_score": (0.0, 1.1),  # fastText says 1.00005 of what it is sure of
    "title": MOST_TITLE_CHARACTERS,
    "text": 1 << 22,  # a body of 4 MB (megabytes_per_page) has no more
    "extractor": 100,
    "opt_out": _OPT_OUT,
    "links": _LINKS,
    "reason": 100,
    "etag": 512,
    "last_modified": 512,
    "unchanged": bool,
    "source": LONGEST_SOURCE,
}


class Link(NamedTuple):
    """An outgoing link as it stands in the page; its URL is an address."""

    url: str
    anchor: str
    tag_path: str
    """Names of the enclosing elements, outermost first: `html/body/main/p`."""
    nofollow: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Extracted(Content):
    """What a response contains; of a page that the first look ruled out, the beginning of the text it saw."""

    links: tuple[Link, ...] = ()
    reason: str = ""
    """Why there is no text to keep: `status_404`, `redirect`, `media_type`, ..."""

    def fitted(self) -> Self:
        """Itself if it is within `BOUNDS`, else as much as is: for too long a text the reason `too_large`.

        Other strings are cut; a link whose address or place is too long is left out. Raises PageError for
        what cannot be cut: the page's own address, and numbers.
        """
        found = values(type(self), self)
        try:
            _check(found)
        except PageError:
            _check(cut := _cut(found))
            return replace(self, **cut)
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Extracted):
    """One finished fetch: a document's text and links, or the reason there is no text."""

    url: str
    fetch_no: int
    """Number of this fetch of the URL; repeated when an ack was lost."""
    fetched_at: int
    """UTC, milliseconds."""
    status: int
    promise: float
    propensity: float
    etag: str = ""
    """The response's validators, for asking next time whether it has changed (RFC 9110, section 13)."""
    last_modified: str = ""
    unchanged: bool = False
    """The host said 304: it is the page that was fetched before."""
    source: str = ""
    """What brought it, if it was not fetched; else the source is that of the seed that led to it."""

    def to_bytes(self) -> bytes:
        """What is `fitted` of it, compressed. Raises PageError as that does."""
        # Not `asdict`: it copies every link, which costs twice what the rest of this does.
        found = values(Page, self.fitted())
        found["columns"] = [*zip(*found.pop("links"), strict=True)]  # four lists instead of hundreds
        plain = _JSON.encode(found).encode()
        if len(plain) > MOST_BYTES:  # a text of characters of four bytes, or that JSON escapes
            return replace(self, text="", content_sha256="", reason=_TOO_LARGE).to_bytes()
        return zlib.compress(plain, 1)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The page that `to_bytes` wrote. Raises PageError for bytes that are none within `BOUNDS`."""
        return cls.parsed(inflated(data))

    @classmethod
    def parsed(cls, plain: str) -> Self:
        """The page that `inflated` found in bytes. Raises PageError if it is none within `BOUNDS`."""
        try:
            fields = json.loads(plain)
            # The stream of a crawl that an earlier version began has links in rows.
            rows = fields["links"] if "links" in fields else zip(*fields.pop("columns"), strict=True)
            # Not `Link(*row)`, which takes twice as long; their width is checked with them.
            fields["links"] = tuple([tuple.__new__(Link, row) for row in rows])
            fields["opt_out"] = tuple(fields["opt_out"])
            _check(fields)
            return cls(**fields)
        except PageError:
            raise
        except MALFORMED as error:
            raise PageError(f"it is no page of this version: {str(error)[:200]}") from error


def inflated(data: bytes) -> str:
    """A page's bytes, decompressed: at most `MOST_BYTES`. Raises PageError if they are no such bytes."""
    inflater = zlib.decompressobj()
    try:
        plain = inflater.decompress(data, MOST_BYTES + 1)
        if len(plain) > MOST_BYTES:
            raise PageError(f"the page is larger than {MOST_BYTES:,} bytes")
        if not inflater.eof or inflater.unused_data:
            raise PageError("the page is cut off, or more than a page")
        return plain.decode()
    except (zlib.error, UnicodeDecodeError) as error:
        raise PageError(f"the bytes are those of no page: {str(error)[:200]}") from error


def _check(fields: Mapping[str, Any]) -> None:
    """Raise PageError if one of a page's fields has another type, or holds more, than `BOUNDS` says."""
    for name, value in fields.items():
        bound = BOUNDS.get(name)
        try:
            right = _is_within(value, bound) and (name != "url" or _are_urls(value, 1))
        except (TypeError, ValueError):
            right = False
        if not right:
            raise PageError(f"a page's {name} is not within its bound, {bound}")


def _is_within(value: Any, bound: Bound | None) -> bool:
    """Whether a field's value has the bound's type and is within; may raise TypeError or ValueError."""
    kind = type(value)
    if isinstance(bound, int):
        # Half a character, which JSON may escape, raises UnicodeEncodeError: nothing could write it.
        return kind is str and len(value) <= bound and bool(value.encode() or True)
    if isinstance(bound, range):
        return kind is int and value in bound
    if bound is _LINKS:
        return len(value) <= bound.entries and (not value or _are_links(value))
    if bound is _OPT_OUT:
        return len(value) <= bound.entries and len("".join(value).encode()) <= bound.size
    if isinstance(bound, tuple):
        return kind in (int, float) and bound[0] <= value <= bound[1]
    return kind is bound


def _are_links(links: tuple[Link, ...]) -> bool:
    """Whether all of these are links. A page has hundreds: what C can see in many at once is left to it."""
    urls, anchors, paths, nofollow = zip(*links, strict=True)
    # To join what is no string is a TypeError.
    addresses, beside = "\n".join(urls), "".join((*anchors, *paths))
    return (
        len(addresses) + len(beside.encode()) <= _LINKS.size
        and _are_urls(addresses, len(urls))
        and set(map(type, nofollow)) == {bool}
        and len(max(urls, key=len)) <= MOST_CHARACTERS
        and len(max(anchors, key=len)) <= MOST_ANCHOR_CHARACTERS
        and len(max(paths, key=len)) <= MOST_PATH_CHARACTERS
    )


def _are_urls(lines: str, n: int) -> bool:
    """Whether each of `n` lines may be a URL: the frontier writes them in lines, with spaces between them."""
    return lines.isascii() and " " not in lines and lines.count("\n") == n - 1


def _cut(found: dict[str, Any]) -> dict[str, Any]:
    """As much of a page's fields as is within `BOUNDS`, where it may be cut."""
    cut: dict[str, Any] = {}
    for name, value in found.items():
        bound = BOUNDS.get(name)
        if isinstance(bound, int) and isinstance(value, str) and name != "url":
            cut[name] = _whole(value[:bound])
    if len(cut["text"]) < len(found["text"]):
        cut |= {"text": "", "content_sha256": "", "reason": _TOO_LARGE}
    links = (
        link._replace(anchor=_whole(link.anchor[:MOST_ANCHOR_CHARACTERS]), tag_path=_whole(link.tag_path))
        for link in found["links"]
        if len(link.url) <= MOST_CHARACTERS
        and _are_urls(link.url, 1)
        and len(link.tag_path) <= MOST_PATH_CHARACTERS
    )
    # One more each, as `_are_links` joins them.
    cut["links"] = _first(((link, 1 + len("".join(link[:3]).encode())) for link in links), _LINKS)
    # What refuses training comes first: nobody loses it by saying much else.
    signals = sorted(map(_whole, found["opt_out"]), key=lambda signal: not forbids_training([signal]))
    cut["opt_out"] = _first(((signal, len(signal.encode())) for signal in signals), _OPT_OUT)
    return found | cut


def _whole(text: str) -> str:
    """`text` with a question mark for each half of a character."""
    return text.encode("utf-8", "replace").decode()


def _first(sized: Iterable[tuple[T, int]], most: Several) -> tuple[T, ...]:
    """The first of these, each given with its size, as far as `most` goes."""
    kept: list[T] = []
    left = most.size
    for value, size in sized:
        left -= size
        if left < 0 or len(kept) == most.entries:
            break
        kept.append(value)
    return tuple(kept)
