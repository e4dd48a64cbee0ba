"""From MediaWiki's wikitext to text and links; what its templates would say nobody knows, and is left out."""

import re
from typing import Any
from urllib.parse import quote, urljoin

import mwparserfromhell
from mwparserfromhell import nodes

from crawler.page import MOST_ANCHOR_CHARACTERS, Link
from crawler.urls import address

MEDIA_TYPE = "text/x-wiki"
# Elements whose content is no prose, and prefixes of links that show something or sort the page.
_NO_PROSE = {
    "ref",
    "references",
    "table",
    "gallery",
    "timeline",
    "math",
    "score",
    "style",
    "imagemap",
    "noinclude",
}
_NO_LINKS = re.compile(
    r"(?::\s*+)?(?:[a-z-]{2,12}|file|image|category|datei|bild|kategorie|fichier|catégorie|archivo|categoría|"
    r"файл|категория|картинка|media|special|wikipedia|template|help|portal)\s*+:",
    re.IGNORECASE,
)
_TABLE = re.compile(r"^[ \t:*#]*\{\|.*?^[ \t]*\|\}", re.MULTILINE | re.DOTALL)
_LEFT = re.compile(r"'{2,5}|\[\[|\]\]|\{\{+|\}\}+|\[(?:https?:)?//\S+\s?|__[A-Z]+__|</?[a-z]+[^<>]{0,200}>")
_ROW = re.compile(r"^[ \t]*(?:\{\||\|\}|\|-|\||!).*$", re.MULTILINE)
_EMPTY = re.compile(r"\([\s;,]*+\)")  # what templates leave behind
_BLANK_LINES = re.compile(r"\n{3,}")


def read(wikitext: str, url: str) -> tuple[str, tuple[Link, ...]]:
    """The prose of an article as Markdown, and the articles that it links to."""
    links: dict[str, Link] = {}
    text = _prose(mwparserfromhell.parse(_TABLE.sub("", wikitext), skip_style_tags=True), url, links)
    lines = (line.strip() for line in _EMPTY.sub("", _LEFT.sub("", _ROW.sub("", text))).splitlines())
    return _BLANK_LINES.sub("\n\n", "\n".join(lines)).strip(), tuple(links.values())


def _prose(code: Any, url: str, links: dict[str, Link]) -> str:
    """What of wikitext is read aloud; `links` gets where it leads. `strip_code` would leave markup in."""
    parts: list[str] = []
    for node in code.nodes if code is not None else ():
        if isinstance(node, nodes.Text):
            parts.append(str(node))
        elif isinstance(node, nodes.HTMLEntity):
            parts.append(str(node.normalize()))
        elif isinstance(node, nodes.Heading):
            parts.append(f"\n{'#' * node.level} {_prose(node.title, url, links).strip()}\n")
        elif isinstance(node, nodes.ExternalLink):
            parts.append(_prose(node.title, url, links))
        elif isinstance(node, nodes.Wikilink) and not _NO_LINKS.match(title := str(node.title).strip()):
            shown = title if node.text is None else _prose(node.text, url, links)
            parts.append(shown)
            name = title.partition("#")[0].strip().replace(" ", "_")
            to = name and address(urljoin(url, quote(name[:1].upper() + name[1:], safe="()',;!*@$/")))
            if to:
                links.setdefault(to, Link(to, shown[:MOST_ANCHOR_CHARACTERS], "text/wikilink", False))
        elif isinstance(node, nodes.Tag) and (name := str(node.tag).strip().lower()) not in _NO_PROSE:
            marks = {"li": "- ", "dt": "", "dd": "", "br": "\n", "hr": "\n"}
            parts.append(marks.get(name, "") + _prose(node.contents, url, links))
    return "".join(parts)
