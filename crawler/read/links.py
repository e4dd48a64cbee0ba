"""What a page points to: its links, the addresses its head names, and the page it says it is a copy of."""

import re
from collections import OrderedDict
from itertools import chain
from urllib.parse import urlsplit

from selectolax.lexbor import LexborHTMLParser, LexborNode

from crawler.page import MOST_ANCHOR_CHARACTERS, MOST_PATH_CHARACTERS, Link
from crawler.urls import address, canonical, canonicalize, resolve

# Of a page: the stream has to stay small.
_MOST_LINKS = 2000
# Elements of a tag path; a hostile page nests 60,000, and may give each a name of as many characters.
_MOST_ENCLOSING, _MOST_NAME_CHARACTERS = 64, 64
# Paths that are remembered of one page, in 6 MB at the most; a real one has some hundred.
_MOST_PATHS = 10_000
# Addresses that pages named as their own.
_MOST_REMEMBERED = 10_000
_HEAD = "html/head/link"
_FEEDS = ("application/rss+xml", "application/atom+xml")
_INDEX = re.compile(r"/(?:index|default|home)\.\w+$")


class Markup:
    """The elements of a page that name addresses or say how it may be used, found in one walk."""

    def __init__(self, tree: LexborHTMLParser, url: str) -> None:
        self._url = url
        self._in_head = tree.head.css("link[rel][href]") if tree.head else []
        self._anchors: list[LexborNode] = []
        self.metas: list[tuple[str, str]] = []
        """(name, content) of each `meta` that has a name."""
        bases = []
        for node in tree.css("a[href], base[href], meta[name]"):
            if node.tag == "a":
                self._anchors.append(node)
            elif node.tag == "meta":
                self.metas.append((node.attributes["name"] or "", node.attributes.get("content") or ""))
            else:
                bases.append(node.attributes["href"] or "")
        self.base = (bases and address(bases[0], url)) or url
        """The URL that the page's relative addresses are relative to."""

    def links(self, *, nofollow: bool) -> tuple[Link, ...]:
        """Every target once: translations (by language) and feeds that the head names, then the body's."""
        ours, folder = canonical(self._url), self.base.partition("?")[0].rpartition("/")[0] + "/"
        found: dict[str, Link] = {}
        # By the parser's number of an element: links of a page have most of what encloses them in common.
        paths: dict[int, str] = {}
        for node in chain(self._in_head, self._anchors):
            attributes = node.attributes
            relation = (attributes.get("rel") or "").lower().split()
            in_head = node.tag == "link"
            anchor = _named_by_head(attributes, relation) if in_head else ""
            if anchor is None:
                continue
            href = (attributes.get("href") or "").partition("#")[0].strip()
            if not href:
                target: str | None = self.base
            else:
                # Only a query alone depends on more of the base than its folder, which many pages share.
                target = address(href, self.base) if href[0] == "?" else resolve(href, folder)
            if target is None or (page := canonical(target)) == ours or page in found:
                continue
            found[page] = Link(
                target,
                (anchor or clean(node.text()))[:MOST_ANCHOR_CHARACTERS],
                _HEAD if in_head else _tag_path(node.parent, paths),
                nofollow or "nofollow" in relation,
            )
            if len(found) == _MOST_LINKS:
                break
        return tuple(found.values())

    def canonicals(self) -> set[str | None]:
        """The addresses that the head names as the page's own; None for what is no address."""
        return {
            canonicalize(node.attributes["href"] or "", self.base)
            for node in self._in_head
            if "canonical" in (node.attributes["rel"] or "").lower().split()
        }


def _named_by_head(attributes: dict[str, str | None], relation: list[str]) -> str | None:
    """The anchor of a `link` element worth following; None if it is not."""
    if "alternate" not in relation:
        return None
    if language := attributes.get("hreflang"):
        return language.lower()
    kind = (attributes.get("type") or "").partition(";")[0].strip().lower()
    return clean(attributes.get("title") or "") or "feed" if kind in _FEEDS else None


def _tag_path(node: LexborNode | None, known: dict[int, str]) -> str:
    """Names of `node` and what encloses it, outermost first; of a page nested without end, the nearest."""
    path = ""
    unknown: list[tuple[int, str]] = []
    while node is not None and (tag := node.tag) and not tag.startswith("-"):
        if node.mem_id in known:
            path = known[node.mem_id]
            break
        unknown.append((node.mem_id, tag[:_MOST_NAME_CHARACTERS]))
        if len(unknown) == _MOST_ENCLOSING:
            known = {}  # what this misses of the outer names is not to be taken for a path of theirs
            break
        node = node.parent
    if len(known) > _MOST_PATHS:
        known.clear()
    for identity, tag in reversed(unknown):
        path = f"{path}/{tag}" if path else tag
        if len(path) > MOST_PATH_CHARACTERS:
            path = path[-MOST_PATH_CHARACTERS - 1 :].partition("/")[2]
        if path.count("/") == _MOST_ENCLOSING:
            path = path.partition("/")[2]
        known[identity] = path
    return path


def clean(text: str) -> str:
    """`text` with single spaces, and none around it."""
    return " ".join(text.split())


class Canonicals:
    """Decides whether a page's `rel=canonical` is to be believed: then its text is somebody else's.

    Templates name wrong pages often enough to lose all of a site. So it is believed if the page names one
    address only, on the same site, that is neither the same page by another spelling (scheme, `www.`, a
    slash, an index file) nor the front page or a folder above the page; and as long as all who name that
    address have one title: copies share it, victims of a template do not. (The first victim is lost.)
    """

    def __init__(self) -> None:
        self._titles: OrderedDict[str, str] = OrderedDict()

    def elsewhere(self, named: set[str | None], url: str, title: str) -> str | None:
        """The address of the page that this one is a copy of, or None; `named` is what it calls its own."""
        target = named.pop() if len(named) == 1 else None
        if target is None or not _may_be_copy(url, target):
            return None
        first = self._titles.setdefault(target, title)
        self._titles.move_to_end(target)
        if len(self._titles) > _MOST_REMEMBERED:
            self._titles.popitem(last=False)
        return target if first == title else None


def _may_be_copy(url: str, target: str) -> bool:
    (host, path, query), (other_host, other_path, other_query) = _page_of(url), _page_of(target)
    if not (host == other_host or host.endswith(f".{other_host}") or other_host.endswith(f".{host}")):
        return False
    if path == other_path:
        return query != other_query or host != other_host
    return not f"{path}/".startswith(f"{other_path}/")


def _page_of(url: str) -> tuple[str, str, str]:
    """Host, path and query of a page, however it is spelled; the path of a front page is empty."""
    parts = urlsplit(url)
    return parts.netloc.removeprefix("www."), _INDEX.sub("/", parts.path).rstrip("/"), parts.query
