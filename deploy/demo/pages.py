"""The pages of a documentation host: home, module, module index, source listing.

A page is rendered when it is asked for; the last few hundred are kept. It carries what real sites put around
their text: a header, navigation, a sidebar, links to the neighbours, a footer.
"""

import re
from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from html import escape
from typing import TypeAlias

from deploy.demo.docstrings import ModuleDoc, Section, inline, parse_module, to_html
from deploy.demo.sites import SUFFIX, Site, Web

# The text and the address.
Link: TypeAlias = tuple[str, str]

# The page of a longer module, or with a longer README, is cut short.
_MAX_PAGE_CHARS = 200_000
# About 2 MB. A crawl asks for a page once, so this is for the pages that a mirror has too, and for retries.
_CACHED_PAGES = 256
# Links in a sidebar.
_SIDEBAR = 24
_MODULE = re.compile(r"/(?P<src>src/)?(?P<name>[\w.]+)\.html")
# What a README shows and does not say: images, comments, tags.
_CLUTTER = re.compile(r"!\[[^\]]*\](?:\([^)]*\)|\[[^\]]*\])|<!--.*?-->|</?[a-zA-Z][^<>]*>", re.DOTALL)
_TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
</head>
<body>
<header><nav><a href="/">{site}</a> <a href="/modindex.html">Modules</a></nav></header>
<aside><nav>{sidebar}</nav></aside>
<main>
{main}</main>
<footer><p>Copyright the authors of {site}. Made from the installed files by tinylm's local web. All rights
remain with their owners.</p><p>{notices}</p></footer>
</body>
</html>
"""


class Pages:
    """Every page of every documentation host; `notices` are the links in the footer of a host's pages."""

    def __init__(self, web: Web, notices: Mapping[str, Sequence[Link]]) -> None:
        self._web = web
        self._notices = notices
        self.page = lru_cache(_CACHED_PAGES)(self._page)

    def _page(self, host: str, path: str) -> bytes | None:
        site = self._web.sites[host]
        if path == "/":
            return self._home(site)
        if path == "/modindex.html":
            main = f"<h1>Module index</h1>\n{_listing(_module_links(site.modules))}"
            return self._layout(site, f"Module index - {site.title}", main)
        match = _MODULE.fullmatch(path)
        source = site.modules.get(match["name"]) if match else None
        # A list of installed files may name one that was deleted since.
        if match is None or source is None or not source.is_file():
            return None
        text = source.read_text(encoding="utf-8", errors="replace")
        if match["src"]:
            return self._source(site, match["name"], text)
        doc = parse_module(text, match["name"], is_package=source.stem == "__init__")
        return self._module(site, match["name"], doc) if doc else None

    def _home(self, site: Site) -> bytes:
        readme = _CLUTTER.sub("", site.readme[:_MAX_PAGE_CHARS])
        roots = [name for name in site.modules if name.rpartition(".")[0] not in site.modules]
        required = [name for name in site.requires if name + SUFFIX in self._web.sites]
        main = (
            f"<h1>{escape(site.title)}</h1>\n<p>{inline(site.summary)}</p>\n{to_html(readme)}"
            f"<h2>Modules</h2>\n{_listing(_module_links(roots))}"
            f"{_titled('Requirements', [(name, f'http://{name}{SUFFIX}/') for name in required])}"
        )
        return self._layout(site, f"{site.title}: {site.summary}", main)

    def _source(self, site: Site, name: str, text: str) -> bytes:
        main = (
            f"<h1>Source code of {_link(name, f'/{name}.html')}</h1>\n"
            f"<pre><code>{escape(text, quote=False)}</code></pre>\n"
        )
        return self._layout(site, f"Source code of {name} - {site.title}", main, name)

    def _module(self, site: Site, name: str, doc: ModuleDoc) -> bytes:
        parents = [name[: dot.start()] for dot in re.finditer(r"\.", name)]
        trail = [("Home", "/"), *_module_links(parent for parent in parents if parent in site.modules)]
        below = _module_links(_children(list(site.modules), name))
        used: dict[str, str] = {}
        names = {section.name: f"#{section.name}" for section in doc.sections}
        for alias, dotted in doc.imports:
            if found := self._web.module(dotted):
                module, inner = found
                host = self._web.host_of[module]
                # Within a host a path, so that a mirror's pages stay on the mirror.
                used[module] = f"/{module}.html" if host == site.host else f"http://{host}/{module}.html"
                names.setdefault(alias, used[module] + (f"#{inner.partition('.')[0]}" if inner else ""))
        main = (
            f'<nav class="trail">{_links(trail, " / ")}</nav>\n'
            f"<h1>{name}</h1>\n{to_html(doc.doc)}{_sections(doc, names)}"
            f'<nav class="related">\n{_titled("Submodules", below)}{_titled("Uses", used.items())}'
            f"<p>{_link(f'Source code of {name}', f'/src/{name}.html')}</p></nav>\n"
        )
        return self._layout(site, f"{name} - {site.title}", main, name)

    def _layout(self, site: Site, title: str, main: str, name: str = "") -> bytes:
        """The page around `main`, with the modules beside `name` in the sidebar."""
        html = _TEMPLATE.format(
            title=escape(" ".join(title.split())),
            site=escape(site.title),
            sidebar=_listing(_module_links(_siblings(list(site.modules), name))),
            main=main,
            notices=_links(self._notices.get(site.host, ()), " "),
        )
        return html.encode("utf-8", "replace")


def _sections(doc: ModuleDoc, names: Mapping[str, str]) -> str:
    """Classes and functions, as many as fit on a page; `names` has the addresses of known base classes."""
    html = ""
    for section in doc.sections:
        known = ((base, names.get(base.partition(".")[0])) for base in section.bases)
        bases = ", ".join(_link(base, href) if href else escape(base) for base, href in known)
        methods = "".join(
            f"<h3>{method.name}</h3>\n{_signature(method)}{to_html(method.doc, 4)}"
            for method in section.members
        )
        html += (
            f'<section id="{section.name}">\n<h2>{section.name}</h2>\n{_signature(section)}'
            + (f'<p class="bases">Bases: {bases}</p>\n' if bases else "")
            + f"{to_html(section.doc, 3)}{methods}</section>\n"
        )
        if len(html) > _MAX_PAGE_CHARS:
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


def _module_links(modules: Iterable[str]) -> list[Link]:
    return [(module, f"/{module}.html") for module in modules]


def _listing(links: Iterable[Link]) -> str:
    items = "".join(f"<li>{_link(text, href)}</li>\n" for text, href in links)
    return f"<ul>\n{items}</ul>\n" if items else ""


def _links(links: Iterable[Link], between: str) -> str:
    return between.join(_link(text, href) for text, href in links)


def _link(text: str, href: str) -> str:
    return f'<a href="{escape(href)}">{escape(text)}</a>'
