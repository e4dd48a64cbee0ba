"""What a site lists: sitemaps (XML, index, plain text, gzip) and feeds (RSS, RDF, Atom), read into links.

Lenient as the web is (any namespace or none, byte order marks, broken XML up to where it breaks), and
bounded: at most 10 MB decompressed and 50,000 entries are read (the first limits of sitemaps.org), no entity
is expanded, nothing external is loaded. A page of the stream has to stay small, so at most 5,000 links are
kept, the most recently modified first; the rest of a larger sitemap is left to links and to the next visit.

A sitemap may list URLs of its own host only (sitemaps.org; with or without `www.`): who could list others'
would decide what is crawled of them. That holds for an index too, and for a sitemap that the robots.txt of
another host names: it is fetched, and counts for its own host. A feed's links are ordinary ones.
"""

import re
import zlib
from collections.abc import Iterator
from io import BytesIO
from itertools import islice
from typing import NamedTuple
from urllib.parse import urlsplit

from lxml import etree

from crawler.page import Link
from crawler.read.encoding import decode
from crawler.urls import address

MOST_LINKS = 5000
_MOST_ENTRIES = 50_000
_MOST_BYTES = 10 * 1024 * 1024  # decompressed
_MOST_TITLE_CHARACTERS = 200  # as of an anchor
_SNIFFED = 1024  # bytes in which a list's root element has to begin
_GZIP = b"\x1f\x8b"
_ENTRIES = {
    ("urlset", "url"): "sitemap",
    ("sitemapindex", "sitemap"): "sitemap",
    ("channel", "item"): "feed",
    ("rss", "item"): "feed",
    ("RDF", "item"): "feed",
    ("feed", "entry"): "feed",
}
_ROOTS = {"urlset": "sitemap", "sitemapindex": "sitemap", "rss": "feed", "RDF": "feed", "feed": "feed"}
_PROLOGUE = re.compile(rb"(?>(?:<\?[^>]*>|<!--.*?-->|<![^>-][^>]*>|\s|\xef\xbb\xbf)*)", re.DOTALL)
_ROOT = re.compile(rb"<(?:\w+:)?(?:urlset|sitemapindex|rss|RDF|feed)[\s>]")
_BARE_AMPERSAND = re.compile(rb"<!\[CDATA\[(?:.*?\]\]>|.*)|&(?![A-Za-z]\w*;|#x?[0-9A-Fa-f]+;)", re.DOTALL)
_DATE = re.compile(r"\d{4}(-\d\d.*)?")


class Entry(NamedTuple):
    """One URL as it was listed."""

    url: str
    tag_path: str
    title: str = ""
    modified: str = ""
    """As a W3C date, which sorts as text; empty if not said."""


def is_text(media_type: str) -> bool:
    """Whether documents come as this."""
    return media_type in ("", "text/html", "application/xhtml+xml", "text/plain")


def may_list(body: bytes, url: str, media_type: str) -> bool:
    """Whether it is worth looking for a list in a response; quick, and wrong only to the side of looking."""
    path = url.partition("?")[0].lower()
    if body.startswith(_GZIP):
        return "sitemap" in path or path.endswith((".xml.gz", ".txt.gz"))
    if not is_text(media_type):
        return media_type.endswith("xml")
    head = body[:_SNIFFED]
    named = media_type == "text/plain" and "sitemap" in path.rpartition("/")[2]
    return named or _ROOT.match(head, _PROLOGUE.match(head).end()) is not None  # type: ignore[union-attr]


def listed(body: bytes, url: str, content_type: str) -> tuple[str, tuple[Link, ...]]:
    """Read the list `body`: its kind, `sitemap` or `feed`, and its links; empty if it is none."""
    content = _inflated(body).lstrip(b"\xef\xbb\xbf \t\r\n")
    if content.startswith((b"<", b"\xff\xfe", b"\xfe\xff")):
        kind, entries = _read_xml(_mended(content))
        return kind, _links(entries, kind, url)
    lines = decode(content, "text/plain;" + content_type.partition(";")[2]).splitlines()
    links = _links([Entry(line, "sitemap") for line in lines[:_MOST_ENTRIES]], "sitemap", url)
    return ("sitemap" if links else ""), links


def _links(entries: list[Entry], kind: str, page: str) -> tuple[Link, ...]:
    """The latest of `entries` that may be listed at `page`."""
    links: dict[str, Link] = {}
    for entry in sorted(entries, key=lambda entry: entry.modified, reverse=True):
        url = address(entry.url.strip(), page if kind == "feed" else None)
        if url and url != page and (kind == "feed" or _site(url) == _site(page)):
            links.setdefault(url, Link(url, entry.title, entry.tag_path, False))
        if len(links) == MOST_LINKS:
            break
    return tuple(links.values())


def _site(url: str) -> str:
    """Name and port: who answers at another port of a name need not be the same."""
    return urlsplit(url).netloc.removeprefix("www.")


def _inflated(body: bytes) -> bytes:
    """Unpack `body` if it is gzip; of one that is cut off or too long, keep the complete lines or tags."""
    if not body.startswith(_GZIP):
        return body[:_MOST_BYTES]
    unpacker = zlib.decompressobj(wbits=31)
    try:
        content = unpacker.decompress(body, _MOST_BYTES)
    except zlib.error:
        return b""
    return content if unpacker.eof else content[: max(content.rfind(b"\n"), content.rfind(b">")) + 1]


def _mended(xml: bytes) -> bytes:
    """Escape the ampersands that are none of an entity, and drop a URL that the end cuts in half."""
    if not xml.startswith(b"<") or xml[1:2] == b"\0":
        return xml
    xml = xml[: xml.rfind(b">") + 1]
    return _BARE_AMPERSAND.sub(lambda match: b"&amp;" if match[0] == b"&" else match[0], xml)


def _read_xml(content: bytes) -> tuple[str, list[Entry]]:
    entries: list[Entry] = []
    kind = ""
    parser = etree.iterparse(
        BytesIO(content),
        tag=("{*}url", "{*}sitemap", "{*}item", "{*}entry"),
        recover=True,
        resolve_entities=False,
        no_network=True,
        remove_comments=True,
        remove_pis=True,
    )
    try:
        for _, element in islice(parser, _MOST_ENTRIES):
            parent = element.getparent()
            names = _name(parent), _name(element)
            if names in _ENTRIES:
                kind = _ENTRIES[names]
                entries += _sitemap_entry(element, names) if kind == "sitemap" else _feed_entry(element)
                _forget(element)
    except etree.XMLSyntaxError:
        pass
    return kind or _ROOTS.get(_name(parser.root), ""), entries


def _name(element: "etree._Element | None") -> str:
    tag = element.tag if element is not None else ""
    return tag.rpartition("}")[2] if isinstance(tag, str) else ""


def _text(element: "etree._Element") -> str:
    """The text within, in whatever elements; none of it if there is an entity that had to be expanded."""
    if not len(element):
        return (element.text or "").strip()
    expanded = any(node.tag is etree.Entity for node in element.iter())
    return "" if expanded else "".join(element.itertext()).strip()


def _forget(element: "etree._Element") -> None:
    """Give back the memory of an entry and of those before it."""
    element.clear()
    while (before := element.getprevious()) is not None:
        before.getparent().remove(before)


def _sitemap_entry(element: "etree._Element", names: tuple[str, str]) -> Iterator[Entry]:
    path = "/".join(names)
    # Some forget to close an entry, or to mark the URL in it: a date is that of the `loc` before it.
    found: list[Entry] = []
    for child in element:
        text = _text(child)
        match _name(child):
            case "loc":
                found.append(Entry(text, f"{path}/loc"))
            case "lastmod" if found and _DATE.fullmatch(text):
                found[-1] = found[-1]._replace(modified=text)
            case "link" if child.get("rel") == "alternate":
                found.append(Entry(child.get("href") or "", f"{path}/link"))
    yield from found or [Entry(element.text or "", path)]


def _feed_entry(element: "etree._Element") -> Iterator[Entry]:
    """An Atom entry's alternate, an RSS item's link or, if it is a URL, its guid; the title is the anchor."""
    texts: dict[str, str] = {}
    alternates = []
    for child in element:
        name = _name(child)
        texts.setdefault(name, " ".join(_text(child).split()))
        if name == "link" and child.get("rel", "alternate") == "alternate":
            alternates.append(child.get("href") or "")
    url = next(filter(None, [*alternates, texts.get("link")]), "")
    if not url and address(texts.get("guid", "")):
        url = texts["guid"]
    if url:
        path = "feed/entry/link" if _name(element) == "entry" else "rss/item/link"
        yield Entry(url, path, texts.get("title", "")[:_MOST_TITLE_CHARACTERS])
