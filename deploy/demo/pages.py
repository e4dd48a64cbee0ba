"""The pages of a documentation host: home, module, module index, general index, source listing.

A page is rendered when it is asked for; the last few hundred are kept. It carries what real sites put around
their text: a header, navigation, a sidebar, links to the neighbours, a footer.
"""

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from html import escape
from pathlib import Path

from deploy.demo.markup import inline, markdown, rst
from deploy.demo.sites import SUFFIX, Site, Web
from deploy.demo.source import ModuleDoc, Section, defined_names, parse_module, read_source

MAX_PAGE_CHARS = 200_000
_CACHED_PAGES = 256
_SIDEBAR = 24
_INDEX_ENTRIES = 1500
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_GENINDEX = re.compile(rf"/genindex-([{_LETTERS}])\.html")
_SOURCE = re.compile(r"/src/([\w.]+)\.html")
_MODULE = re.compile(r"/([\w.]+)\.html")
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
body{font:16px/1.5 Georgia,serif;margin:0;color:#222;background:#fff}
header,footer{background:#f3f1ec;padding:.7rem 1.5rem;font-family:sans-serif;font-size:.9rem}
header nav a,footer a{margin-right:1rem} a{color:#1a4f8b}
.columns{display:flex;gap:2rem;max-width:70rem;margin:auto;padding:1rem 1.5rem}
aside{flex:0 0 14rem;font-family:sans-serif;font-size:.85rem} aside ul{list-style:none;padding:0}
main{flex:1;min-width:0} pre{background:#f7f6f3;padding:.6rem;overflow-x:auto;font-size:.85rem}
.bases,.trail,.related{font-family:sans-serif;font-size:.9rem}
"""


@dataclass(frozen=True, slots=True)
class Page:
    """A rendered page and when its source was last changed (epoch seconds)."""

    body: bytes
    modified: float


class PageLinks:
    """Links from one page: names as the page's module sees them, addresses of projects that have a host."""

    def __init__(self, web: Web, host: str, doc: ModuleDoc | None = None) -> None:
        self._web = web
        self._host = host
        self._own = {section.name for section in doc.sections} if doc else set()
        self._imports = doc.imports if doc else {}

    def name(self, dotted: str) -> str | None:
        """`Tensor`, imported from torch, leads where `torch.Tensor` is described; None if nowhere here."""
        first, _, rest = dotted.partition(".")
        if first in self._own:
            return f"#{first}"
        origin = self._imports.get(first, first)
        found = self._web.module(f"{origin}.{rest}" if rest else origin)
        if not found:
            return None
        module, inner = found
        fragment = f"#{inner.partition('.')[0]}" if inner else ""
        return self.path(self._web.host_of[module], f"/{module}.html") + fragment

    def module(self, dotted: str) -> tuple[str, str] | None:
        """Name and address of the module that `dotted` is, or is in."""
        found = self._web.module(dotted)
        return (found[0], self.path(self._web.host_of[found[0]], f"/{found[0]}.html")) if found else None

    def address(self, url: str) -> str | None:
        """The home page of the host that documents the project at `url`."""
        host = self._web.home(url)
        return self.path(host, "/") if host else None

    def path(self, host: str, path: str) -> str:
        """A path on the same host (so that a mirror's pages stay on the mirror), or an absolute address."""
        return path if host == self._host else f"http://{host}{path}"


class Pages:
    """Every page of every documentation host; `notices` are the links in the footer of a host's pages."""

    def __init__(self, web: Web, notices: Mapping[str, Sequence[tuple[str, str]]]) -> None:
        self._web = web
        self._notices = notices
        self.page = lru_cache(_CACHED_PAGES)(self._page)
        self._names = lru_cache(None)(self._scan_names)

    def _page(self, host: str, path: str) -> Page | None:
        site = self._web.sites[host]
        if path == "/":
            return self._home(site)
        if path == "/modindex.html":
            return self._module_index(site)
        if match := _GENINDEX.fullmatch(path):
            return self._general_index(site, match[1])
        if match := _SOURCE.fullmatch(path):
            return self._source(site, match[1])
        if match := _MODULE.fullmatch(path):
            return self._module(site, match[1])
        return None

    def _home(self, site: Site) -> Page:
        links = PageLinks(self._web, site.host)
        convert = markdown if site.markdown else rst
        roots = [name for name in site.modules if name.rpartition(".")[0] not in site.modules]
        required = [name for name in site.requires if name + SUFFIX in self._web.sites]
        main = (
            f"<h1>{escape(site.title)}</h1>\n<p>{inline(site.summary, links)}</p>\n"
            f"{convert(site.readme[:MAX_PAGE_CHARS], links)}"
            f"<h2>Modules</h2>\n{_listing(_module_links(roots))}"
        )
        if required:
            main += (
                f"<h2>Requirements</h2>\n{_listing((name, f'http://{name}{SUFFIX}/') for name in required)}"
            )
        return self._layout(site, f"{site.title}: {site.summary}", main)

    def _module(self, site: Site, name: str) -> Page | None:
        path = site.modules.get(name)
        text = read_source(path) if path else None
        if path is None or text is None:
            return None
        doc = parse_module(text, name, is_package=path.stem == "__init__")
        if doc is None:
            return None
        links = PageLinks(self._web, site.host, doc)
        names = list(site.modules)
        main = (
            f"{_trail(site, name)}<h1>{name}</h1>\n{rst(doc.doc, links)}{_sections(doc, links)}"
            f"{_related(doc, links, names, name, with_source=len(text) <= MAX_PAGE_CHARS)}"
        )
        return self._layout(site, f"{name} - {site.title}", main, name, path)

    def _source(self, site: Site, name: str) -> Page | None:
        path = site.modules.get(name)
        text = read_source(path) if path else None
        if text is None or len(text) > MAX_PAGE_CHARS:
            return None
        main = (
            f'<h1>Source code of <a href="/{name}.html">{name}</a></h1>\n'
            f"<pre><code>{escape(text, quote=False)}</code></pre>\n"
        )
        return self._layout(site, f"Source code of {name} - {site.title}", main, name, path)

    def _module_index(self, site: Site) -> Page:
        main = f"<h1>Module index</h1>\n{_listing(_module_links(site.modules))}"
        return self._layout(site, f"Module index - {site.title}", main)

    def _general_index(self, site: Site, letter: str) -> Page:
        bar = " ".join(f'<a href="/genindex-{other}.html">{other.upper()}</a>' for other in _LETTERS)
        entries = self._names(site.host).get(letter, [])[:_INDEX_ENTRIES]
        links = ((f"{name} ({module})", f"/{module}.html#{name}") for name, module in entries)
        main = f"<h1>Index: {letter.upper()}</h1>\n<p>{bar}</p>\n{_listing(links)}"
        return self._layout(site, f"Index {letter.upper()} - {site.title}", main)

    def _scan_names(self, host: str) -> dict[str, list[tuple[str, str]]]:
        """The names a host's modules define, by first letter: one pass over its sources, on first request."""
        found: dict[str, list[tuple[str, str]]] = {}
        for module, path in self._web.sites[host].modules.items():
            for name in defined_names(path):
                found.setdefault(name[0].lower(), []).append((name, module))
        return {letter: sorted(entries) for letter, entries in found.items()}

    def _layout(self, site: Site, title: str, main: str, name: str = "", path: Path | None = None) -> Page:
        """The page around `main`; `path` is the source that dates it, the site's first module without one."""
        modified = (path or next(iter(site.modules.values()))).stat().st_mtime
        day = datetime.fromtimestamp(modified, UTC)
        html = _TEMPLATE.format(
            title=escape(" ".join(title.split())),
            style=_STYLE,
            site=escape(site.title),
            letter=(name.rpartition(".")[2] or site.name)[0].lower(),
            sidebar=_listing(_module_links(_siblings(list(site.modules), name))),
            main=main,
            notices=" ".join(_link(*notice) for notice in self._notices.get(site.host, ())),
            updated=f"{day.day} {day:%B %Y}",
        )
        return Page(html.encode("utf-8", "replace"), modified)


def _sections(doc: ModuleDoc, links: PageLinks) -> str:
    """Classes and functions, as many as fit on a page."""
    parts, size = [], 0
    for section in doc.sections:
        parts.append(_section(section, links))
        size += len(parts[-1])
        if size > MAX_PAGE_CHARS:
            parts.append("<p>The rest of this module is described in its source.</p>\n")
            break
    return "".join(parts)


def _section(section: Section, links: PageLinks) -> str:
    bases = ", ".join(_base(base, links) for base in section.bases)
    methods = "".join(
        f"<h3>{member.name}</h3>\n{_signature(member)}{rst(member.doc, links, 4)}"
        for member in section.members
    )
    return (
        f'<section id="{section.name}">\n<h2>{section.name}</h2>\n'
        f"{_signature(section)}"
        + (f'<p class="bases">Bases: {bases}</p>\n' if bases else "")
        + f"{rst(section.doc, links, 3)}{methods}</section>\n"
    )


def _signature(section: Section) -> str:
    return f'<pre class="signature"><code>{escape(section.signature, quote=False)}</code></pre>\n'


def _base(base: str, links: PageLinks) -> str:
    href = links.name(base)
    return _link(base, href) if href else escape(base)


def _used(doc: ModuleDoc, links: PageLinks) -> Iterator[tuple[str, str]]:
    """The imported modules that have a page, each once, in order of their first import."""
    seen = set()
    for dotted in doc.imports.values():
        found = links.module(dotted)
        if found and found not in seen:
            seen.add(found)
            yield found


def _trail(site: Site, name: str) -> str:
    parts = name.split(".")
    parents = (".".join(parts[:end]) for end in range(1, len(parts)))
    links = [("Home", "/"), *_module_links(parent for parent in parents if parent in site.modules)]
    return f'<nav class="trail">{" / ".join(_link(*link) for link in links)}</nav>\n'


def _related(doc: ModuleDoc, links: PageLinks, names: list[str], name: str, *, with_source: bool) -> str:
    """What stands below the text: submodules, imported modules, the source, the neighbours."""
    at = bisect_left(names, name)
    around = [("Previous: " + other, f"/{other}.html") for other in names[max(at - 1, 0) : at]]
    around += [("Next: " + other, f"/{other}.html") for other in names[at + 1 : at + 2]]
    source = [(f"Source code of {name}", f"/src/{name}.html")] if with_source else []
    below = " | ".join(_link(*link) for link in source + around)
    return (
        f'<nav class="related">\n{_titled("Submodules", _module_links(_children(names, name)))}'
        f"{_titled('Uses', _used(doc, links))}<p>{below}</p></nav>\n"
    )


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


def _module_links(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    return ((name, f"/{name}.html") for name in names)


def _titled(title: str, links: Iterable[tuple[str, str]]) -> str:
    listing = _listing(links)
    return f"<h2>{title}</h2>\n{listing}" if listing else ""


def _listing(links: Iterable[tuple[str, str]]) -> str:
    items = "".join(f"<li>{_link(text, href)}</li>\n" for text, href in links)
    return f"<ul>\n{items}</ul>\n" if items else ""


def _link(text: str, href: str) -> str:
    return f'<a href="{escape(href)}">{escape(text)}</a>'
