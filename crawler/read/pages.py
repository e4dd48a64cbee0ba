"""From an answer to a page, the same for what was fetched now, for what is in an archive and for a replay.

Between the two steps stands the extraction, which a worker waits for in its loop and a reader in a pool.
"""

from typing import Any, NamedTuple

from crawler.archives.records import Archived
from crawler.message import content_type, header_url
from crawler.page import LISTS, Extracted, Link
from crawler.read.links import refreshed
from crawler.read.optout import from_headers
from crawler.read.sitemaps import is_text, may_list
from crawler.urls import address
from shards.text.content import values

# Characters of an ETag or a Last-Modified that are kept.
_LONGEST_VALIDATOR = 512


class Task(NamedTuple):
    """What an `Extractor` is asked."""

    body: bytes
    url: str
    content_type: str
    nofollow: bool


class Answered(NamedTuple):
    """What status and headers say of a page."""

    fields: dict[str, Any]
    """Of `Page`, as far as they are known."""
    task: Task | None
    """None if there is nothing to extract: then that is all."""
    too_large: bool

    def with_extracted(self, extracted: Extracted) -> dict[str, Any]:
        """The fields of the page whose task gave this."""
        if self.too_large and extracted.reason not in LISTS:
            extracted = Extracted(reason="too_large")
        onward = self.fields["links"]
        others = (link for link in extracted.links if not onward or link.url != onward[0].url)
        signals = *extracted.opt_out, *self.fields["opt_out"]
        found = values(Extracted, extracted) | {"opt_out": signals, "links": (*onward, *others)}
        return self.fields | found


def answered(answer: Archived, token: str, *, asked_if_changed: bool = False) -> Answered:
    """Read an answer as far as its extraction; `token` is the name by which headers speak to us.

    Its status is below 500, and not 429. `asked_if_changed`: whether a 304 is one.
    """
    validators = {
        name: value
        for name, header in (("etag", "etag"), ("last_modified", "last-modified"))
        if (value := answer.header(header)).isascii() and 0 < len(value) <= _LONGEST_VALIDATOR
    }

    def over(reason: str, *links: Link, **more: Any) -> Answered:
        return Answered({"reason": reason, "links": links, **validators, **more}, None, answer.too_large)

    if answer.status == 304 and asked_if_changed:
        return over("not_modified", unchanged=True)
    if 300 <= answer.status < 400:
        target = leads_to(answer)
        if target == answer.url:  # until it sees the cookie that it sets: we keep none
            return over("redirect_to_itself")
        return over("redirect", *([Link(target, "", "", False)] if target else []))
    heard = from_headers(answer.headers, token)
    # Where a browser goes on by itself, whatever this answer is.
    onward = refreshed(header_url(answer.header("refresh")), answer.url, nofollow=heard.nofollow)
    if answer.status >= 400:
        return over(f"status_{answer.status}", *onward)
    said = (value for name, value in answer.headers if name == "content-type")
    type_ = content_type(said, answer.body)
    media_type = type_.partition(";")[0]
    if (answer.too_large or not is_text(media_type)) and not may_list(answer.body, answer.url, media_type):
        return over("too_large" if answer.too_large else "media_type", *onward)
    task = Task(answer.body, answer.url, type_, heard.nofollow)
    found = {"links": tuple(onward), "opt_out": tuple(heard.signals), **validators}
    return Answered(found, task, answer.too_large)


def leads_to(answer: Archived) -> str | None:
    """Where a redirect leads; None if nowhere, or it is none."""
    location = header_url(answer.header("location")) if 300 <= answer.status < 400 else ""
    return address(location, answer.url) if location else None
