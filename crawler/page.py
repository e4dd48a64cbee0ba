"""`Link`, `Extracted` and `Page`: what a worker found, on its way through the stream to the walker."""

import json
import zlib
from dataclasses import dataclass
from typing import NamedTuple, Self

from shards.text.content import Content, values

# Reasons of fetches that are lists: no documents, and no judges of what they list.
LISTS = ("robots", "sitemap", "feed")
# Tag paths of links to sitemaps.
PATHS_TO_SITEMAPS = ("robots/sitemap", "sitemapindex/sitemap/loc")


class Link(NamedTuple):
    """An outgoing link, canonical, as it stands in the page."""

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

    def to_bytes(self) -> bytes:
        # Not `asdict`: it copies every link, which costs twice what the rest of this does.
        found = values(Page, self)
        return zlib.compress(json.dumps(found, ensure_ascii=False).encode("utf-8", "replace"), 1)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        fields = json.loads(zlib.decompress(data))
        fields["links"] = tuple(Link(*link) for link in fields["links"])
        fields["opt_out"] = tuple(fields["opt_out"])
        return cls(**fields)
