"""The pages of a documentation host: home, module, module index, general index, source listing.

A page is rendered when it is asked for; the last few hundred are kept. It carries what real sites put around
their text: a header, navigation, a sidebar, links to the neighbours, a footer.
"""

import re
from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from html import escape
from pathlib import Path
from typing import TypeAlias

from deploy.demo.docstrings import Links, ModuleDoc, Section, inline, parse_module, read_source, to_html
from deploy.demo.sites import SUFFIX, Site, Web

# The text and the address.
Link: TypeAlias = tuple[str, str]

# A longer source has no listing, and the page of a longer module is cut short.
MAX_PAGE_CHARS = 200_000
# About 2 MB. A crawl asks for a page once, so this is for the pages that a mirror has too, and for retries.
_CACHED_PAGES = 256
# Links in a sidebar, and in one letter's index.
_SIDEBAR = 24
_INDEX_ENTRIES = 1500
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_GENINDEX = re.compile(rf"/genindex-([{_LETTERS}])\.html")
_MODULE = re.compile(r"/(?P<src>src/)?(?P<name>[\w.]+)\.html")
_DEFINED = re.compile(r"^(?:class|def|async def) ([A-Za-z]\w*)", re.MULTILINE)
# What a README shows and does not say: images, comments, tags for the layout.
_CLUTTER = re.compile(
    r"!\[[^\]]*\](?:\([^)]*\)|\[[^\]]*\])|<!--.*?-->"
    r"|</?(?:p|div|img|a|br|hr|h\d|table|t[rdh]|thead|tbody|picture|source|su[bp]|center|details|summary|span"
    r"|[bi]|strong|em|kbd|code|[ou]l|li)\b[^>]*>",
    re.DOTALL,
)
_TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header><nav><a href="/">{site}</a> <a href="/modindex.html">Modules</a>
<a href="/genindex-{letter}.html">Index</a></nav></header>
<div class="columns">
<aside><nav>{sidebar}</nav></aside>
<main>
{main}</main>
</div>
<footer><p>Copyright the authors of {site}. Last updated on {updated}. Made from the installed files by
tinylm's local web. All rights remain with their owners.</p><p>{notices}</p></footer>
</body>
</html>
"""
_STYLE = """
body{font:16px/1.5 Georgia,serif;margin:0;color:#222} a{color:#1a4f8b}
header,footer{background:#f3f1ec;padding:.7rem 1.5rem} header a,footer a{margin-right:1rem}
header,footer,aside,nav,.bases{font-family:sans-serif;font-size:.9rem}
.columns{display:flex;gap:2rem;max-width:70rem;margin:auto;padding:1rem 1.5rem}
aside{flex:0 0 14rem} aside ul{list-style:none;padding:0} main{flex:1;min-width:0}
pre{background:#f7f6f3;padding:.6rem;overflow-x:auto;font-size:.85rem}
"""


@dataclass(frozen=True, slots=True)
class Page:
    """A rendered page and when its source was last changed (epoch seconds)."""

    body: bytes
    modified: float


class Pages:
    """Every page of every documentation host; `notices` are the links in the footer of a host's pages."""

    def __init__(self, web: Web, notices: Mapping[str, Sequence[Link]]) -> None:
        self._web = web
        self._notices = notices
        self.page = lru_cache(_CACHED_PAGES)(self._page)
        self._names = lru_cache(None)(self._scan_names)

    def _page(self, host: str, path: str) -> Page | None:
        site = self._web.sites[host]
        if path == "/":
            return self._home(site)
        if path == "/modindex.html":
            main = f"<h1>Module index</h1>\n{_module_list(site.modules)}"
            return self._layout(site, f"Module index - {site.title}", main)
        if match := _GENINDEX.fullmatch(path):
            return self._general_index(site, match[1])
        match = _MODULE.fullmatch(path)
        source = site.modules.get(match["name"]) if match else None
        text = read_source(source) if source else None
        if match is None or source is None or text is None:
            return None
        render = self._source if match["src"] else self._module
        return render(site, match["name"], source, text)

    def _home(self, site: Site) -> Page:
        links = Links(self._web, site.host)
        readme = _CLUTTER.sub("", site.readme[:MAX_PAGE_CHARS])
        roots = [name for name in site.modules if name.rpartition(".")[0] not in site.modules]
        required = [name for name in site.requires if name + SUFFIX in self._web.sites]
        main = (
            f"<h1>{escape(site.title)}</h1>\n<p>{inline(site.summary, links)}</p>\n{to_html(readme, links)}"
            f"<h2>Modules</h2>\n{_module_list(roots)}"
            f"{_titled('Requirements', [(name, f'http://{name}{SUFFIX}/') for name in required])}"
        )
        return self._layout(site, f"{site.title}: {site.summary}", main)

    def _general_index(self, site: Site, letter: str) -> Page:
        bar = " ".join(_link(other.upper(), f"/genindex-{other}.html") for other in _LETTERS)
        entries = self._names(site.host).get(letter, [])[:_INDEX_ENTRIES]
        listing = _listing((f"{name} ({module})", f"/{module}.html#{name}") for name, module in entries)
        main = f"<h1>Index: {letter.upper()}</h1>\n<p>{bar}</p>\n{listing}"
        return self._layout(site, f"Index {letter.upper()} - {site.title}", main)

    def _scan_names(self, host: str) -> dict[str, list[tuple[str, str]]]:
        """The names a host's modules define, by first letter: all its sources are scanned, none parsed."""
        found: dict[str, list[tuple[str, str]]] = {}
        for module, path in self._web.sites[host].modules.items():
            for name in _DEFINED.findall(path.read_bytes().decode(errors="replace")):
                found.setdefault(name[0].lower(), []).append((name, module))
        return {letter: sorted(entries) for letter, entries in found.items()}

    def _source(self, site: Site, name: str, source: Path, text: str) -> Page | None:
        if len(text) > MAX_PAGE_CHARS:
            return None
        main = (
            f"<h1>Source code of {_link(name, f'/{name}.html')}</h1>\n"
            f"<pre><code>{escape(text, quote=False)}</code></pre>\n"
        )
        return self._layout(site, f"Source code of {name} - {site.title}", main, name, source)

    def _module(self, site: Site, name: str, source: Path, text: str) -> Page | None:
        doc = parse_module(text, name, is_package=source.stem == "__init__")
        if doc is None:
            return None
        links = Links(self._web, site.host, doc)
        names = list(site.modules)
        parents = [name[: dot.start()] for dot in re.finditer(r"\.", name)]
        trail = [
            ("Home", "/"),
            *((parent, f"/{parent}.html") for parent in parents if parent in site.modules),
        ]
        at = bisect_left(names, name)
        # A longer source has no page of its own, so there is no link to it.
        around = [(f"Source code of {name}", f"/src/{name}.html")] if len(text) <= MAX_PAGE_CHARS else []
        around += [(f"Previous: {other}", f"/{other}.html") for other in names[max(at - 1, 0) : at]]
        around += [(f"Next: {other}", f"/{other}.html") for other in names[at + 1 : at + 2]]
        submodules = [(child, f"/{child}.html") for child in _children(names, name)]
        main = (
            f'<nav class="trail">{_links(trail, " / ")}</nav>\n'
            f"<h1>{name}</h1>\n{to_html(doc.doc, links)}{_sections(doc, links)}"
            f'<nav class="related">\n{_titled("Submodules", submodules)}'
            f"{_titled('Uses', links.used(doc).items())}<p>{_links(around, ' | ')}</p></nav>\n"
        )
        return self._layout(site, f"{name} - {site.title}", main, name, source)

    def _layout(self, site: Site, title: str, main: str, name: str = "", source: Path | None = None) -> Page:
        """The page around `main`; `source` is the file that dates it, the site's first module without one."""
        modified = (source or next(iter(site.modules.values()))).stat().st_mtime
        day = datetime.fromtimestamp(modified, UTC)
        html = _TEMPLATE.format(
            title=escape(" ".join(title.split())),
            style=_STYLE,
            site=escape(site.title),
            letter=(name.rpartition(".")[2] or site.name)[0].lower(),
            sidebar=_module_list(_siblings(list(site.modules), name)),
            main=main,
            notices=_links(self._notices.get(site.host, ()), " "),
            updated=f"{day.day} {day:%B %Y}",
        )
        return Page(html.encode("utf-8", "replace"), modified)


def _sections(doc: ModuleDoc, links: Links) -> str:
    """Classes and functions, as many as fit on a page."""
    html = ""
    for section in doc.sections:
        bases = ", ".join(
            _link(base, href) if (href := links.name(base)) else escape(base) for base in section.bases
        )
        methods = "".join(
            f"<h3>{method.name}</h3>\n{_signature(method)}{to_html(method.doc, links, 4)}"
            for method in section.members
        )
        html += (
            f'<section id="{section.name}">\n<h2>{section.name}</h2>\n{_signature(section)}'
            + (f'<p class="bases">Bases: {bases}</p>\n' if bases else "")
            + f"{to_html(section.doc, links, 3)}{methods}</section>\n"
        )
        if len(html) > MAX_PAGE_CHARS:
            return html + "<p>The rest of this module is described in its source.</p>\n"
    return html


def _signature(section: Section) -> str:
    return f'<pre class="signature"><code>{escape(section.signature, quote=False)}</code></pre>\n'


def _children(names: list[str], parent: str) -> list[str]:
    """The modules directly below `parent` in the sorted `names` ("/" comes right after ".")."""
    below = names[bisect_left(names, f"{parent}.") : bisect_left(names, f"{parent}/")]
    return [name for name in below if "." not in name[len(parent) + 1 :]]


def _siblings(names: list[str], name: str) -> list[str]:
    """The modules beside `name`, those next to it if there are many; without a name the first roots."""
    parent = name.rpartition(".")[0]
    beside = _children(names, parent) if parent else [other for other in names if "." not in other] or names
    at = max(bisect_left(beside, name) - _SIDEBAR // 2, 0)
    return beside[at : at + _SIDEBAR]


def _titled(title: str, links: Collection[Link]) -> str:
    return f"<h2>{title}</h2>\n{_listing(links)}" if links else ""


def _module_list(names: Iterable[str]) -> str:
    return _listing((name, f"/{name}.html") for name in names)


def _listing(links: Iterable[Link]) -> str:
    items = "".join(f"<li>{_link(text, href)}</li>\n" for text, href in links)
    return f"<ul>\n{items}</ul>\n" if items else ""


def _links(links: Iterable[Link], between: str) -> str:
    return between.join(_link(text, href) for text, href in links)


def _link(text: str, href: str) -> str:
    return f'<a href="{escape(href)}">{escape(text)}</a>'
