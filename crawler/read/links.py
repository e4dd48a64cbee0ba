"""What a page points to: every way on that a browser has, and the page it says it is a copy of."""

import re
from collections import OrderedDict
from itertools import chain
from urllib.parse import urlsplit

from selectolax.lexbor import LexborHTMLParser, LexborNode

from crawler.page import MOST_ANCHOR_CHARACTERS, MOST_PATH_CHARACTERS, PATH_OF_REFRESH, Link
from crawler.read.encoding import escaped
from crawler.urls import address, canonical, resolve

# Of a page: the stream has to stay small.
_MOST_LINKS = 2000
# Elements of a tag path; a hostile page nests 60,000, and may give each a name of as many characters.
_MOST_ENCLOSING, _MOST_NAME_CHARACTERS = 64, 64
# Paths that are remembered of one page, in 6 MB at the most; a real one has some hundred.
_MOST_PATHS = 10_000
# Addresses that pages named as their own.
_MOST_REMEMBERED = 10_000
# `a` and `link` apart: refreshes, image maps, frames. (`href` is SVG's `xlink:href` too.)
_LEADING = (
    "a[href], area[href], base[href], frame[src], iframe[src], object[data][type*=html], noframes, "
    "meta[name], meta[http-equiv]"
)
# Relations to pages of a series; those of HTML 4 to a collection's parts are still written by its tools.
_RELATIONS = frozenset(
    ("next", "prev", "previous", "first", "last", "start", "up", "contents", "chapter", "section")
)
# WHATWG HTML, "shared declarative refresh steps".
_REFRESH = re.compile(
    r"""[ \t\n\f\r]*+(?:[0-9]|(?=\.))[0-9.]*+(?=[;, \t\n\f\r])[ \t\n\f\r]*+[;,]?+[ \t\n\f\r]*+"""
    r"""(?:url[ \t\n\f\r]*+=[ \t\n\f\r]*+)?+(?:"([^"]*)|'([^']*)|(.*))""",
    re.IGNORECASE | re.DOTALL,
)
_FEEDS = ("application/rss+xml", "application/atom+xml")
_INDEX = re.compile(r"/(?:index|default|home)\.\w+$")


def refreshed(value: str, url: str, *, nofollow: bool) -> tuple[Link, ...]:
    """The link that a `Refresh` header of `url` is, as of a `meta`; none if it leads nowhere else."""
    target = address(href, url) if (href := _refresh(value)) else None
    if target is None or canonical(target) == canonical(url):
        return ()
    return (Link(target, "", PATH_OF_REFRESH, nofollow),)


def _refresh(content: str) -> str:
    match = _REFRESH.match(content)
    return (match[1] or match[2] or match[3] or "").strip() if match else ""


class Markup:
    """The elements of a page that name addresses or say how it may be used, found in one walk.

    `encoding` is the codec of the page: queries of its links are sent in it.
    """

    def __init__(self, tree: LexborHTMLParser, url: str, encoding: str = "utf-8") -> None:
        self._url = url
        self._encoding = "" if encoding.startswith("utf") else encoding
        self._in_head = tree.head.css("link[rel][href]") if tree.head else []
        self._leading: list[LexborNode] = []
        self.metas: list[tuple[str, str]] = []
        """(name, content) of each `meta` that has a name."""
        bases = []
        for node in tree.css(_LEADING):
            if node.tag == "base":
                bases.append(node.attributes["href"] or "")
            elif node.tag == "noframes":  # its content is text to a parser
                self._leading += LexborHTMLParser(node.text()).css("a[href]")
            elif node.tag != "meta" or (node.attributes.get("http-equiv") or "").lower() == "refresh":
                self._leading.append(node)
            if node.tag == "meta" and "name" in (said := node.attributes):
                self.metas.append((said["name"] or "", said.get("content") or ""))
        self.base = (bases and address(bases[0], url)) or url
        """The URL that the page's relative addresses are relative to."""
        self._folder = self.base.partition("?")[0].rpartition("/")[0] + "/"

    def links(self, *, nofollow: bool) -> tuple[Link, ...]:
        """Every target once: translations (by language), feeds and neighbours, then what is no `link`."""
        ours = canonical(self._url)
        found: dict[str, Link] = {}
        # By the parser's number of an element: links of a page have most of what encloses them in common.
        paths: dict[int, str] = {}
        for node in chain(self._in_head, self._leading):
            attributes, tag = node.attributes, node.tag
            relation = (attributes.get("rel") or "").lower().split()
            href, anchor = _named(tag, attributes, relation)
            if not href and tag != "a":
                continue
            target = self._address(href)
            if target is None or (page := canonical(target)) == ours or page in found:
                continue
            found[page] = Link(
                target,
                (clean(node.text()) if tag == "a" else anchor)[:MOST_ANCHOR_CHARACTERS],
                _tag_path(node.parent if tag == "a" else node, paths),
                nofollow or "nofollow" in relation,
            )
            if len(found) == _MOST_LINKS:
                break
        return tuple(found.values())

    def _address(self, href: str) -> str | None:
        """Where a reference of the page leads; as browsers do, its query is sent in the page's encoding."""
        href = href.partition("#")[0].strip()
        if not href:
            return self.base
        if self._encoding and not href.isascii():
            path, mark, query = href.partition("?")
            href = f"{path}{mark}{escaped(query, self._encoding)}"
        # Only a query alone depends on more of the base than its folder, which many pages share.
        return address(href, self.base) if href[0] == "?" else resolve(href, self._folder)

    def canonicals(self) -> set[str | None]:
        """The addresses that the head names as the page's own; None for what is no address."""
        return {
            (target := self._address(node.attributes["href"] or "")) and canonical(target)
            for node in self._in_head
            if "canonical" in (node.attributes["rel"] or "").lower().split()
        }


def _named(tag: str | None, attributes: dict[str, str | None], relation: list[str]) -> tuple[str, str]:
    """Where an element leads, and its anchor, of an `a` its text; "" if a browser does not go there."""
    if tag == "a":
        return attributes.get("href") or attributes.get("xlink:href") or "", ""
    if tag == "meta":
        return _refresh(attributes.get("content") or ""), ""
    if tag != "link":
        href = attributes.get("href") or attributes.get("src") or attributes.get("data") or ""
        return href, clean(attributes.get("alt") or attributes.get("title") or "")
    href, title = attributes.get("href") or "", clean(attributes.get("title") or "")
    if "alternate" in relation:
        if language := attributes.get("hreflang"):
            return href, language.lower()
        kind = (attributes.get("type") or "").partition(";")[0].strip().lower()
        return (href, title or "feed") if kind in _FEEDS else ("", "")
    return next(((href, title or name) for name in relation if name in _RELATIONS), ("", ""))


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
