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
from typing import NamedTuple, Protocol

_Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
_COMMENT = re.compile(r"(?:^|\s)#[^'\"\n]*$")
_MAX_SIGNATURE = 600  # characters; beyond are tables of defaults

_CHUNK = re.compile(
    r"```.*\n(?P<fenced>(?:.*\n)*?)```.*\n"
    r"|(?P<code>(?:>>> |\| |\+[-=]|={2,} +=).*\n(?:.*\S.*\n)*)"  # sessions and tables, to a blank line
    r"|(?P<flush>(?:(?!>>> |```)\S.*\n)*)(?P<deeper>(?: +\S.*\n|\n)*)"
)
_ITEM = re.compile(r"(?:[-*+•]|\d{1,3}[.)]|[:@](?P<field>\w[^:`\n]*):)(?: +|$)", re.MULTILINE)
_BLOCK_BEGINS = re.compile(
    r"^(?=\.\. |#{1,6} |[-*+•] |\d{1,3}[.)] |[:@]\w[^:`\n]*:(?: |$)|[A-Z]\w+(?: \w+)?:$)", re.MULTILINE
)
_HEADING = re.compile(
    r"(?P<hashes>#{1,6}) +(?P<short>.*)\n"
    r"|(?:([=~^*+-])\3{2,} *\n)?(?P<title>.*\w.*)\n(?P<line>[=~^*+-])(?P=line){2,} *\n"
)
_RULE = "=-~*_^+ \n"  # the characters of a line across the page
_ADMONITION = re.compile(
    r"^( *)\.\. (note|warning|tip|important|seealso|deprecated|versionadded|versionchanged)::", re.MULTILINE
)
_GOOGLE_ENTRY = re.compile(r"^(\*{0,2}\w+(?: \([^)\n]*\))?):(?= )", re.MULTILINE)
_CODE = re.compile(r">>> |\$ |import |from \w|def |class |@\w|#include|[\w.]+ = |[\w.]+\(.*\)$", re.MULTILINE)
_CODE_DIRECTIVE = re.compile(r"\.\. (?:code|code-block|sourcecode|testcode|doctest|parsed-literal|math)::")
_OPTIONS = re.compile(r"\A(?: +:[\w-]+:.*\n)+")
_BLANK = re.compile(r"^ +$", re.MULTILINE)
_BETWEEN_ITEMS = re.compile(r"</(ul|dl)>\n<\1>\n?")
_LONE_PARAGRAPH = re.compile(r"\A<p>((?:(?!<p>).)*)</p>\n\Z", re.DOTALL)
_INLINE = re.compile(
    r"``(?P<literal>.+?)``"
    r"|:[\w:+-]+:`(?P<role>[^`]+)`"
    r"|`(?P<text>[^`<]+?)\s*<(?P<url>[^`>]+)>`__?"
    r"|\[(?P<label>[^\]\[\n]*)\]\((?P<address>[^)\s]+)[^)]*\)"
    r"|`(?P<code>[^`]+)`_{0,2}"
    r"|(?<![*\w])(?P<stars>\*{1,2})(?P<stressed>[^*\s][^*]*)(?P=stars)(?![*\w])",
    re.DOTALL,
)


class Links(Protocol):
    """Where a dotted name and an address lead in this web; None if nowhere."""

    def name(self, dotted: str) -> str | None: ...

    def address(self, url: str) -> str | None: ...


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
            warnings.simplefilter("ignore")  # other people's invalid escapes
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
    text = (
        " ".join(parts)
        .removesuffix(" ...")
        .removesuffix(":")
        .replace("( ", "(")
        .replace(", )", ")")
        .replace(" )", ")")
    )
    return text if len(text) <= _MAX_SIGNATURE else text[:_MAX_SIGNATURE] + " ..."


def _imports(tree: ast.Module, package: str) -> Iterator[tuple[str, str]]:
    for node in _statements(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.asname or alias.name, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = node.module or ""
            if node.level and package.count(".") >= node.level - 1:
                origin = resolve_name("." * node.level + origin, package)
            yield from ((alias.asname or alias.name, f"{origin}.{alias.name}") for alias in node.names)


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
    if not flush.strip(_RULE):
        return _indented(deeper, links, level)
    attached = not deeper.startswith("\n")
    if flush.startswith(".."):
        body = _OPTIONS.sub("", deeper)
        return _pre(body) if _CODE_DIRECTIVE.match(flush) else _indented(body, links, level)
    if item := _ITEM.match(flush):
        name = f"<code>{escape(item['field'].split()[-1])}</code>: " if item["field"] else ""
        told = _LONE_PARAGRAPH.sub(r"\1", _blocks(flush[item.end() :] + dedent(deeper), links, level))
        return f"<ul>\n<li>{name}{told}</li>\n</ul>\n"
    if deeper.strip() and attached and flush.count("\n") == 1 and not flush.endswith("::\n"):
        if flush.endswith(":\n"):  # one of Google's sections
            entries = _GOOGLE_ENTRY.sub(r"- ``\1``:", dedent(deeper))
            return f"<p>{inline(flush, links)}</p>\n{_blocks(entries, links, level)}"
        told = _LONE_PARAGRAPH.sub(r"\1", _blocks(dedent(deeper), links, level))
        return f"<dl><dt>{inline(flush, links)}</dt>\n<dd>{told}</dd></dl>\n"
    literal = flush.endswith("::\n")
    words = inline(flush.removesuffix(":\n") if literal else flush, links)
    return f"<p>{words}</p>\n{_pre(deeper) if literal else _indented(deeper, links, level)}"


def _indented(text: str, links: Links, level: int) -> str:
    body = dedent(text).strip("\n")
    if not body:
        return ""
    if _CODE.match(body):
        return _pre(body)
    return f"<blockquote>\n{_blocks(body + chr(10), links, level)}</blockquote>\n"


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
