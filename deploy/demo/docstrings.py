"""What a source file documents, read from its syntax tree, and the HTML of docstrings and READMEs.

Nothing is imported or run. Of the tree only the statements of modules and classes are looked at, never
function bodies, and signatures are cut from the text: `ast.unparse` takes longer than parsing.
"""

import ast
import re
import tokenize
import warnings
from collections.abc import Iterator
from html import escape
from importlib.util import resolve_name
from pathlib import Path
from textwrap import dedent
from typing import NamedTuple

from deploy.demo.sites import Web

_Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
# Not behind a quote: there the sign may be part of a string.
_COMMENT = re.compile(r"(?:^|\s)#[^'\"\n]*$")
# Between brackets that stood on lines of their own.
_PADDING = re.compile(r"(?<=\() |,? (?=\))")
# Characters; the rest of a longer one is in the source.
_MAX_SIGNATURE = 600

# A text is a row of these: code between fences; a session or a table, up to a blank line; and lines at the
# margin with the indented ones that follow.
_CHUNK = re.compile(
    r"```.*\n(?P<fenced>(?:.*\n)*?)```.*\n"
    r"|(?P<code>(?:>>> |\| |\+[-=]|={2,} +=).*\n(?:.*\S.*\n)*)"
    r"|(?P<flush>(?:(?!>>> |```)\S.*\n)*)(?P<deeper>(?: +\S.*\n|\n)*)"
)
# A bullet, a number, or a field of Sphinx or Epytext (`:param x:`, `@param x:`).
_ITEM = re.compile(r"(?:[-*+•]|\d{1,3}[.)]|[:@](?P<field>\w[^:`\n]*):)(?: +|$)", re.MULTILINE)
# Lines that begin a block without a blank line before it; the last kind is a section of Google's ("Args:").
_BLOCK_BEGINS = re.compile(
    r"^(?=\.\. |#{1,6} |[-*+•] |\d{1,3}[.)] |[:@]\w[^:`\n]*:(?: |$)|[A-Z]\w+(?: \w+)?:$)", re.MULTILINE
)
# Markdown's, or a title underlined or between two lines.
_HEADING = re.compile(
    r"(?P<hashes>#{1,6}) +(?P<short>.*)\n"
    r"|(?:([=~^*+-])\3{2,} *\n)?(?=.*\w)(?P<title>.+)\n(?P<line>[=~^*+-])(?P=line){2,} *\n"
)
# What a line across the page is made of.
_RULE = "=-~*_^+ \n"
# Directives of which the words count: they become items.
_ADMONITION = re.compile(
    r"^( *)\.\. (note|warning|tip|important|seealso|deprecated|versionadded|versionchanged)::", re.MULTILINE
)
_CODE_DIRECTIVE = re.compile(r"\.\. (?:code|code-block|sourcecode|testcode|doctest|parsed-literal|math)::")
_OPTIONS = re.compile(r"\A(?: +:[\w-]+:.*\n)+")
_GOOGLE_ENTRY = re.compile(r"^(\*{0,2}\w+(?: \([^)\n]*\))?):(?= )", re.MULTILINE)
# How an indented block begins that is code and not a quotation.
_CODE = re.compile(r">>> |\$ |import |from \w|def |class |@\w|#include|[\w.]+ = |[\w.]+\(.*\)$", re.MULTILINE)
_INLINE = re.compile(
    r"``(?P<literal>.+?)``"
    r"|:[\w:+-]+:`(?P<role>[^`]+)`"
    r"|`(?P<text>[^`<]+?)\s*<(?P<url>[^`>]+)>`__?"
    r"|\[(?P<label>[^\]\[\n]*)\]\((?P<address>[^)\s]+)[^)]*\)"
    r"|`(?P<code>[^`]+)`_{0,2}"
    r"|(?<![*\w])(?P<stars>\*{1,2})(?P<stressed>[^*\s][^*]*)(?P=stars)(?![*\w])",
    re.DOTALL,
)
_BLANK = re.compile(r"^ +$", re.MULTILINE)
# Each item is made as a list of its own; neighbours become one list.
_BETWEEN_ITEMS = re.compile(r"</(ul|dl)>\n<\1>\n?")
_LONE_PARAGRAPH = re.compile(r"\A<p>((?:(?!<p>).)*)</p>\n\Z", re.DOTALL)


class Section(NamedTuple):
    """A class, function or method: its signature as written, its docstring, its documented methods."""

    name: str
    signature: str
    doc: str
    bases: tuple[str, ...]
    members: tuple["Section", ...]


class ModuleDoc(NamedTuple):
    """A module: docstring, public definitions, and each imported name with the dotted name behind it."""

    doc: str
    sections: tuple[Section, ...]
    imports: tuple[tuple[str, str], ...]


def read_source(path: Path) -> str | None:
    """The text of a source file by its declared encoding (PEP 263); None if it cannot be read."""
    try:
        with tokenize.open(path) as file:
            return file.read()
    except (OSError, SyntaxError, UnicodeDecodeError):
        return None


def parse_module(text: str, name: str, *, is_package: bool) -> ModuleDoc | None:
    """What the source `text` of the module `name` documents; None if it is not this Python's syntax."""
    try:
        with warnings.catch_warnings():
            # Other people's invalid escapes.
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    package = name if is_package else name.rpartition(".")[0]
    sections = tuple(_sections(tree, text.split("\n")))
    return ModuleDoc(ast.get_docstring(tree) or "", sections, tuple(_imports(tree, package)))


def _statements(parent: ast.AST) -> Iterator[ast.AST]:
    """The statements of a body, with those of `if` and `try` in their place."""
    for child in ast.iter_child_nodes(parent):
        if isinstance(child, ast.If | ast.Try):
            yield from _statements(child)
        else:
            yield child


def _sections(parent: ast.AST, lines: list[str]) -> Iterator[Section]:
    seen = set()
    for node in _statements(parent):
        if not isinstance(node, _Definition) or node.name.startswith("_") or node.name in seen:
            continue
        seen.add(node.name)
        bases: tuple[str, ...] = ()
        members: tuple[Section, ...] = ()
        if isinstance(node, ast.ClassDef):
            bases = tuple(ast.unparse(base).partition("[")[0] for base in node.bases)
            members = tuple(member for member in _sections(node, lines) if member.doc)
        yield Section(node.name, _signature(node, lines), ast.get_docstring(node) or "", bases, members)


def _signature(node: _Definition, lines: list[str]) -> str:
    """The text from `def` or `class` to the first line that ends with a colon, on one line."""
    parts = []
    for line in lines[node.lineno - 1 : node.body[0].lineno]:
        parts.append(_COMMENT.sub("", line).strip())
        if parts[-1].endswith(":"):
            break
    text = _PADDING.sub("", " ".join(parts).removesuffix(" ...").removesuffix(":"))
    return text if len(text) <= _MAX_SIGNATURE else text[:_MAX_SIGNATURE] + " ..."


def _imports(tree: ast.Module, package: str) -> Iterator[tuple[str, str]]:
    for node in _statements(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.asname or alias.name, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = node.module or ""
            # A relative import that leads out of the package is an error of its author's, left as it is.
            if node.level and package.count(".") >= node.level - 1:
                origin = resolve_name("." * node.level + origin, package)
            yield from ((alias.asname or alias.name, f"{origin}.{alias.name}") for alias in node.names)


class Links:
    """Links from one page: names as the page's module sees them, addresses of projects that have a host."""

    def __init__(self, web: Web, host: str, doc: ModuleDoc | None = None) -> None:
        self._web = web
        self._host = host
        self._own = {section.name for section in doc.sections} if doc else set()
        self._imports = dict(doc.imports) if doc else {}

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
        return self.module(module) + (f"#{inner.partition('.')[0]}" if inner else "")

    def module(self, name: str) -> str:
        """The page of a documented module."""
        return self._path(self._web.host_of[name], f"/{name}.html")

    def address(self, url: str) -> str | None:
        """The home page of the host that documents the project at `url`."""
        host = self._web.home(url)
        return self._path(host, "/") if host else None

    def used(self, doc: ModuleDoc) -> dict[str, str]:
        """The imported modules that have a page, in order of their first import, and these pages."""
        found = (self._web.module(dotted) for _, dotted in doc.imports)
        return {module[0]: self.module(module[0]) for module in found if module}

    def _path(self, host: str, path: str) -> str:
        """A path on the same host (so that a mirror's pages stay on the mirror), or an absolute address."""
        return path if host == self._host else f"http://{host}{path}"


def to_html(text: str, links: Links, level: int = 2) -> str:
    """Paragraphs, headings from `<h{level}>` down, lists, definitions and code of a docstring or a README.

    It knows as much of reStructuredText, Markdown, Google's and NumPy's forms as tells prose from code; what
    it does not know stays text.
    """
    text = _BLANK.sub("", dedent(_ADMONITION.sub(r"\1- \2:", text.expandtabs())))
    return _BETWEEN_ITEMS.sub("", _blocks(text + "\n", links, level))


def _blocks(text: str, links: Links, level: int) -> str:
    html = ""
    for chunk in _CHUNK.finditer(text):
        if code := chunk["fenced"] or chunk["code"]:
            html += _pre(code)
            continue
        *before, last = _BLOCK_BEGINS.split(chunk["flush"] or "")
        html += "".join(_block(block, "", links, level) for block in before)
        html += _block(last, chunk["deeper"] or "", links, level)
    return html


def _block(flush: str, deeper: str, links: Links, level: int) -> str:
    """The lines `flush`, which begin one block, and the `deeper` indented ones that may belong to it."""
    if found := _HEADING.match(flush):
        depth = len(found["hashes"]) - 1 if found["hashes"] else int(found["line"] != "=")
        tag = f"h{min(level + depth, 6)}"
        rest = _block(flush[found.end() :], deeper, links, level)
        return f"<{tag}>{inline(found['short'] or found['title'] or '', links)}</{tag}>\n{rest}"
    # Also true of no line at all: a text may begin with an indented block.
    if not flush.strip(_RULE):
        return _indented(deeper, links, level)
    attached = not deeper.startswith("\n")
    # What a directive has to say is below it; a comment's or a target's text is kept too, if it is indented.
    if flush.startswith(".."):
        body = _OPTIONS.sub("", deeper)
        return _pre(body) if _CODE_DIRECTIVE.match(flush) else _indented(body, links, level)
    if item := _ITEM.match(flush):
        name = f"<code>{escape(item['field'].split()[-1])}</code>: " if item["field"] else ""
        told = _LONE_PARAGRAPH.sub(r"\1", _blocks(flush[item.end() :] + dedent(deeper), links, level))
        return f"<ul>\n<li>{name}{told}</li>\n</ul>\n"
    if deeper.strip() and attached and flush.count("\n") == 1 and not flush.endswith("::\n"):
        # One of Google's sections: what looks like an entry becomes an item.
        if flush.endswith(":\n"):
            entries = _GOOGLE_ENTRY.sub(r"- ``\1``:", dedent(deeper))
            return f"<p>{inline(flush, links)}</p>\n{_blocks(entries, links, level)}"
        told = _LONE_PARAGRAPH.sub(r"\1", _blocks(dedent(deeper), links, level))
        return f"<dl><dt>{inline(flush, links)}</dt>\n<dd>{told}</dd></dl>\n"
    literal = flush.endswith("::\n")
    words = inline(flush.removesuffix(":\n") if literal else flush, links)
    return f"<p>{words}</p>\n{_pre(deeper) if literal else _indented(deeper, links, level)}"


def _indented(text: str, links: Links, level: int) -> str:
    body = dedent(text).strip("\n")
    if not body or _CODE.match(body):
        return _pre(body)
    quoted = _blocks(f"{body}\n", links, level)
    return f"<blockquote>\n{quoted}</blockquote>\n"


def _pre(text: str) -> str:
    code = dedent(text).strip("\n")
    return f"<pre><code>{escape(code, quote=False)}</code></pre>\n" if code else ""


def inline(text: str, links: Links) -> str:
    """HTML of a run of text: code, stress, roles and links; everything else escaped."""
    parts: list[str] = []
    end = 0
    for match in _INLINE.finditer(text):
        parts += (escape(text[end : match.start()], quote=False), _span(match, links))
        end = match.end()
    return "".join((*parts, escape(text[end:], quote=False))).strip()


def _span(match: re.Match[str], links: Links) -> str:
    groups = {name: escape(found, quote=False) for name, found in match.groupdict().items() if found}
    if code := groups.get("literal") or groups.get("code"):
        return code if match[0].endswith("_") else f"<code>{code}</code>"
    if stressed := groups.get("stressed"):
        tag = "em" if groups["stars"] == "*" else "strong"
        return f"<{tag}>{stressed}</{tag}>"
    if role := match["role"]:
        # `~a.b.C` shows `C`, `shown <a.b.C>` shows `shown`; both lead where `a.b.C` is described.
        shown, _, dotted = role.removesuffix(">").rpartition("<")
        name = dotted.lstrip("~!.").removesuffix("()")
        text = shown.strip() or (name.rpartition(".")[2] if dotted.startswith("~") else dotted.lstrip("!."))
        html, href = f"<code>{escape(text)}</code>", links.name(name)
    else:
        html = groups.get("text") or groups.get("label", "")
        href = links.address(match["url"] or match["address"])
    return f'<a href="{escape(href)}">{html}</a>' if href and html else html
