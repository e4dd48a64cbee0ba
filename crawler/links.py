"""What a page points to: its links, the addresses its head names, and the page it says it is a copy of."""

import re
from collections import OrderedDict
from collections.abc import Iterator
from functools import lru_cache
from urllib.parse import urlsplit

from selectolax.lexbor import LexborHTMLParser, LexborNode

from crawler.page import Link
from crawler.urls import canonicalize

_MOST_LINKS = 2000
_MOST_ENCLOSING = 64
_MOST_ANCHOR_CHARACTERS = 200
_MOST_REMEMBERED = 10_000
_HEAD = "html/head/link"
_FEEDS = ("application/rss+xml", "application/atom+xml")
_SPACE = re.compile(r"\s+")
_INDEX = re.compile(r"/(?:index|default|home)\.\w+$")


def find_links(tree: LexborHTMLParser, url: str, *, nofollow: bool) -> tuple[Link, ...]:
    """Every target once: translations (by language code) and feeds that the head names, then the body's."""
    base = find_base(tree, url)
    folder = base.partition("?")[0].rpartition("/")[0] + "/"
    found: dict[str, Link] = {}
    paths: dict[int, str] = {}
    for node in tree.css("head link[href], a[href]"):
        attributes = node.attributes
        relation = (attributes.get("rel") or "").lower().split()
        in_head = node.tag == "link"
        anchor = _named_by_head(attributes, relation) if in_head else ""
        if anchor is None:
            continue
        href = (attributes.get("href") or "").partition("#")[0].strip()
        target = canonicalize(href, base) if href[:1] in ("", "?") else _resolve(href, folder)
        if target is None or target == url or target in found:
            continue
        found[target] = Link(
            target,
            (anchor or clean(node.text()))[:_MOST_ANCHOR_CHARACTERS],
            _HEAD if in_head else _tag_path(node, paths),
            nofollow or "nofollow" in relation,
        )
        if len(found) == _MOST_LINKS:
            break
    return tuple(found.values())


@lru_cache(1 << 15)
def _resolve(href: str, folder: str) -> str | None:
    """Pages of a site have most of their links in common, and to make a URL canonical is most of the work."""
    return canonicalize(href, folder)


def find_base(tree: LexborHTMLParser, url: str) -> str:
    """What the page's relative addresses are relative to."""
    node = tree.css_first("base[href]")
    return (node and canonicalize(node.attributes.get("href") or "", url)) or url


def _named_by_head(attributes: dict[str, str | None], relation: list[str]) -> str | None:
    """The anchor of a `link` element worth following; None if it is not."""
    if "alternate" not in relation:
        return None
    if language := attributes.get("hreflang"):
        return language.lower()
    kind = (attributes.get("type") or "").partition(";")[0].strip().lower()
    return clean(attributes.get("title") or "") or "feed" if kind in _FEEDS else None


def _tag_path(node: LexborNode, known: dict[int, str]) -> str:
    """Names of the enclosing elements, outermost first; of a page nested without end, the nearest."""
    parent = node.parent
    if parent is not None and parent.mem_id in known:
        return known[parent.mem_id]
    names = []
    for enclosing in _enclosing(node):
        names.append(enclosing)
        if len(names) == _MOST_ENCLOSING:
            break
    path = "/".join(reversed(names))
    if parent is not None:
        known[parent.mem_id] = path
    return path


def _enclosing(node: LexborNode) -> Iterator[str]:
    parent = node.parent
    while parent is not None and parent.tag and not parent.tag.startswith("-"):
        yield parent.tag
        parent = parent.parent


def clean(text: str) -> str:
    """With single spaces, and none around it."""
    return _SPACE.sub(" ", text).strip()


class Canonicals:
    """Decides whether a page's `rel=canonical` is to be believed: then its text is somebody else's.

    Templates name wrong pages often enough to lose whole sites. So it is believed if the page names one
    address only, on the same site, that is neither the same page by another spelling (scheme, `www.`, a
    slash, an index file) nor the front page or a folder above the page; and as long as all who name that
    address have one title: copies share it, victims of a template do not. (The first victim is lost.)
    """

    def __init__(self) -> None:
        self._titles: OrderedDict[str, str] = OrderedDict()

    def elsewhere(self, tree: LexborHTMLParser, url: str, title: str) -> str | None:
        """The address of the page that this one is a copy of, or None."""
        base = find_base(tree, url)
        named = {
            canonicalize(node.attributes.get("href") or "", base)
            for node in tree.css("head link[rel][href]")
            if "canonical" in (node.attributes.get("rel") or "").lower().split()
        }
        target = named.pop() if len(named) == 1 else None
        if target is None or not _may_be_copy(url, target):
            return None
        first = self._titles.setdefault(target, title)
        self._titles.move_to_end(target)
        if len(self._titles) > _MOST_REMEMBERED:
            self._titles.popitem(last=False)
        return target if first == title else None


def _may_be_copy(url: str, target: str) -> bool:
    (host, path, query), (other_host, other_path, other_query) = _place(url), _place(target)
    if not (host == other_host or host.endswith(f".{other_host}") or other_host.endswith(f".{host}")):
        return False
    if path == other_path:
        return query != other_query or host != other_host
    return not f"{path}/".startswith(f"{other_path}/")


def _place(url: str) -> tuple[str, str, str]:
    """Host, path and query of a page, however it is spelled; the path of a front page is empty."""
    parts = urlsplit(url)
    return parts.netloc.removeprefix("www."), _INDEX.sub("/", parts.path).rstrip("/"), parts.query
