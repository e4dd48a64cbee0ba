"""What a site lists: sitemaps (XML, index, plain text, gzip) and feeds (RSS, RDF, Atom), read into links.

Lenient as the web is (called whatever, any namespace or none, byte order marks, gzip on gzip and member after
member, broken XML up to where it breaks), and bounded: 50,000 entries are read, 10 MiB as they come and the
50 of sitemaps.org out of a gzip file. What is longer is cut there; no entity is expanded, nothing external is
loaded. A page of the stream has to stay small, so at most 5,000 links are kept, the most recently
modified first; the rest of a larger sitemap is left to links and to the next visit.

A sitemap may list URLs of its own host only (sitemaps.org; with or without `www.`): who could list others'
would decide what is crawled of them. That holds for an index too, and for a sitemap that the robots.txt of
another host names: it is fetched, and counts for its own host. A feed's links are ordinary ones.
"""

import gzip
import re
import zlib
from codecs import iterdecode
from collections.abc import Iterator
from contextlib import suppress
from io import BytesIO
from itertools import islice
from typing import NamedTuple
from urllib.parse import urlsplit

from lxml import etree

from crawler.page import Link
from crawler.read.encoding import codec, declared
from crawler.urls import address

MOST_LINKS = 5000
_MOST_ENTRIES = 50_000
# Of a list as it comes, and without its server's encodings: 50,000 entries of 200 bytes. A worker may hold as
# much for each of its requests; at half, the end of many a sitemap is lost, where some have what is new.
MOST_LIST_BYTES = 10 * 1024 * 1024
# Of a list out of a gzip file: the child that reads it takes five times as much, of its 512 MB.
_MOST_UNPACKED = 50 * 1024 * 1024
_MOST_LAYERS = 2  # a file that is packed, and packed again by who serves it
_PIECE = 1 << 16  # bytes unpacked at a time
_MOST_TITLE_CHARACTERS = 200  # as of an anchor
SNIFFED = 1024  # bytes in which a list's root element has to begin
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
_LINE = re.compile(rb"[^\r\n]+")
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
    return media_type in ("", "text/html", "application/xhtml+xml", "text/plain", "text/x-wiki")


def may_list(body: bytes, url: str, media_type: str) -> bool:
    """Whether it is worth looking for a list in a response; quick, and wrong only to the side of looking.

    Servers call lists what they like: what counts is how `body` begins or, if that says little, its name.
    """
    path = url.partition("?")[0].lower()
    if not is_text(media_type) and media_type.endswith("xml"):
        return True
    if body.startswith(_GZIP) and ("sitemap" in path or path.endswith((".xml.gz", ".txt.gz"))):
        return True
    # Without the NULs that ASCII has in UTF-16.
    head = _unpacked(body[:SNIFFED], SNIFFED)[0].replace(b"\0", b"").lstrip(b"\xff\xfe\xef\xbb\xbf")
    if "sitemap" in path.rpartition("/")[2] and (media_type == "text/plain" or head.startswith(b"http")):
        return True
    return _ROOT.match(head, _PROLOGUE.match(head).end()) is not None  # type: ignore[union-attr]


def listed(body: bytes, url: str, content_type: str) -> tuple[str, tuple[Link, ...]]:
    """Read the list `body`: its kind, `sitemap` or `feed`, and its links; empty if it is none."""
    content, is_whole = _unpacked(body, _MOST_UNPACKED)
    if not is_whole or len(body) >= MOST_LIST_BYTES:  # up to the last complete line or tag
        content = content[: max(content.rfind(b"\n"), content.rfind(b">")) + 1]
    content = _in_utf8(content, content_type)
    if content.startswith(b"<"):
        kind, entries = _read_xml(content)
        return kind, _links(entries, kind, url)
    lines = islice(_LINE.finditer(content), _MOST_ENTRIES)
    links = _links([Entry(line[0].decode("utf-8", "replace"), "sitemap") for line in lines], "sitemap", url)
    return ("sitemap" if links else ""), links


def _in_utf8(content: bytes, content_type: str) -> bytes:
    """By RFC 7303 a mark says the encoding, then the header, then the XML; a piece at a time, for memory."""
    header = content_type.lower().partition("charset=")[2].partition(";")[0].strip(" \"'")
    # Six bytes are what tells UTF-16 without a mark, 200 hold all that an XML says before its content.
    said = (declared(content[:6]), codec(header), declared(content[:200]))
    name = next(filter(None, said), "utf-8")
    if name != "utf-8":
        pieces = (content[at : at + _PIECE] for at in range(0, len(content), _PIECE))
        content = b"".join(piece.encode("utf-8", "replace") for piece in iterdecode(pieces, name, "replace"))
    return content.lstrip(b"\xef\xbb\xbf \t\r\n")


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


def _unpacked(body: bytes, most: int) -> tuple[bytes, bool]:
    """`body` without gzip, up to `most` bytes, and whether that is all of it: not if it is cut or broken."""
    is_whole = True
    for _ in range(_MOST_LAYERS):
        if not body.startswith(_GZIP):
            break
        unpacked = bytearray()
        end = False
        with suppress(EOFError, OSError, zlib.error), gzip.GzipFile(fileobj=BytesIO(body)) as file:
            while not end and len(unpacked) < most:
                unpacked += (piece := file.read1(min(_PIECE, most - len(unpacked))))
                end = not piece
        body, is_whole = bytes(unpacked), is_whole and end
    return body, is_whole


def _read_xml(content: bytes) -> tuple[str, list[Entry]]:
    entries: list[Entry] = []
    kind = ""
    # Without a URL that the end cuts in half, and with ampersands escaped that are none of an entity.
    xml = content[: content.rfind(b">") + 1]
    xml = _BARE_AMPERSAND.sub(lambda match: b"&amp;" if match[0] == b"&" else match[0], xml)
    parser = etree.iterparse(
        BytesIO(xml),
        tag=("{*}url", "{*}sitemap", "{*}item", "{*}entry"),
        encoding="utf-8",  # whatever it was before
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


def _own(element: "etree._Element") -> "Iterator[tuple[str, etree._Element]]":
    """(name, child) of an entry in its own namespace or, for translations, that of XHTML.

    Others, of media and images, have titles and links too.
    """
    own = element.tag.rpartition("}")[0], "{http://www.w3.org/1999/xhtml"
    for child in element:
        if isinstance(child.tag, str) and child.tag.rpartition("}")[0] in own:
            yield _name(child), child


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
    for name, child in _own(element):
        text = _text(child)
        if name == "loc":
            found.append(Entry(text, f"{path}/loc"))
        elif name == "lastmod" and found and _DATE.fullmatch(text):
            found[-1] = found[-1]._replace(modified=text)
        elif name == "link" and child.get("rel") == "alternate":
            found.append(Entry(child.get("href") or "", f"{path}/link"))
    yield from found or [Entry(element.text or "", path)]


def _feed_entry(element: "etree._Element") -> Iterator[Entry]:
    """An Atom entry's alternate or an RSS item's link; the title is the anchor.

    Of what has neither it is the `guid` or `id`, if that is a URL: it need not lead anywhere (RFC 4287,
    4.2.6), but it is all that there is.
    """
    texts: dict[str, str] = {}
    alternates = []
    for name, child in _own(element):
        texts.setdefault(name, " ".join(_text(child).split()))
        if name == "link" and child.get("rel", "alternate") == "alternate":
            alternates.append(child.get("href") or "")
    names = (texts.get(name, "") for name in ("guid", "id"))
    url = next(filter(None, [*alternates, texts.get("link"), *filter(address, names)]), "")
    if url:
        path = "feed/entry/link" if _name(element) == "entry" else "rss/item/link"
        if element.base:  # by xml:base (RFC 4287, section 2)
            url = address(url, element.base) or url
        yield Entry(url, path, texts.get("title", "")[:_MOST_TITLE_CHARACTERS])
