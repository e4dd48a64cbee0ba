"""What a source file documents, read from its syntax tree, and the HTML of docstrings and READMEs.

Nothing is imported or run. Of the tree only the statements of modules and classes are looked at, never
function bodies, and signatures are cut from the text: `ast.unparse` takes longer than parsing.
"""

import ast
import re
import warnings
from collections.abc import Iterator
from html import escape
from importlib.util import resolve_name
from textwrap import dedent
from typing import NamedTuple

_Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
# Not behind a quote: there the sign may be part of a string.
_COMMENT = re.compile(r"(?:^|\s)#[^'\"\n]*$")
# Between brackets that stood on lines of their own.
_PADDING = re.compile(r"(?<=\() |,? (?=\))")

# A text is a row of these: code between fences; a session or a table, up to a blank line; and lines at the
# margin with the indented ones that follow.
_CHUNK = re.compile(
    r"```.*\n(?P<fenced>(?:.*\n)*?)```.*\n"
    r"|(?P<code>(?:>>> |\| |\+[-=]|={2,} +=).*\n(?:.*\S.*\n)*)"
    r"|(?P<flush>(?:(?!>>> |```)\S.*\n)*)(?P<deeper>(?: +\S.*\n|\n)*)"
)
# A bullet, a number, a directive of which the words count, or the sign of a field of Sphinx or Epytext
# (`:param x: the number`, `@param x: the number`).
_ITEM = re.compile(
    r"[-*+•] +|\d{1,3}[.)] +|\.\. (?:note|warning|tip|important|seealso|deprecated):: *"
    r"|[:@](?=\w[^:`\n]*:(?: |$))",
    re.MULTILINE,
)
# Lines that begin a block without a blank line before it; the last kind is a section of Google's ("Args:").
_BLOCK_BEGINS = re.compile(rf"^(?=\.\. |#{{1,6}} |{_ITEM.pattern}|[A-Z]\w+(?: \w+)?:$)", re.MULTILINE)
# Markdown's, or a title underlined or between two lines.
_HEADING = re.compile(
    r"(?P<hashes>#{1,6}) +(?P<short>.*)\n"
    r"|(?:([=~^*+-])\3{2,} *\n)?(?=.*\w)(?P<title>.+)\n(?P<line>[=~^*+-])(?P=line){2,} *\n"
)
# What a line across the page is made of.
_RULE = "=-~*_^+ \n"
# What describes one name in a section of Google's: `x (int): the number`.
_ENTRY = re.compile(r"^(\*{0,2}\w+(?: \([^)\n]*\))?):(?= )", re.MULTILINE)
# How an indented block begins that is code and not a quotation.
_CODE = re.compile(r">>> |\$ |import |from \w|def |class |@\w|#include|[\w.]+ = |[\w.]+\(.*\)$", re.MULTILINE)
# Of escaped text: code, a role (:class:`C`) or a link, of which the words are kept; stress; Markdown's link.
_INLINE = re.compile(
    r"``(?P<literal>.+?)``"
    r"|(?::[\w:+-]+:)?`~?(?P<quoted>[^`]+?)(?:\s+&lt;[^`]*&gt;)?`_{0,2}"
    r"|(?<![*\w])\*{1,2}(?P<stressed>[^*\s][^*]*)\*{1,2}(?![*\w])"
    r"|\[(?P<label>[^\]\[\n]*)\]\([^)\s]+[^)]*\)",
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
    return _PADDING.sub("", " ".join(parts).removesuffix(" ...").removesuffix(":"))


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


def to_html(text: str, level: int = 2) -> str:
    """Paragraphs, headings from `<h{level}>` down, lists, definitions and code of a docstring or a README.

    It knows as much of reStructuredText, Markdown, Google's and NumPy's forms as tells prose from code; what
    it does not know stays text.
    """
    text = _BLANK.sub("", dedent(text.expandtabs()))
    return _BETWEEN_ITEMS.sub("", _blocks(f"{text}\n", level))


def _blocks(text: str, level: int) -> str:
    html = ""
    for chunk in _CHUNK.finditer(text):
        if code := chunk["fenced"] or chunk["code"]:
            html += _pre(code)
            continue
        *before, last = _BLOCK_BEGINS.split(chunk["flush"] or "")
        html += "".join(_block(block, "", level) for block in before)
        html += _block(last, chunk["deeper"] or "", level)
    return html


def _block(flush: str, deeper: str, level: int) -> str:
    """The lines `flush`, which begin one block, and the `deeper` indented ones that may belong to it."""
    if found := _HEADING.match(flush):
        depth = len(found["hashes"]) - 1 if found["hashes"] else int(found["line"] != "=")
        tag = f"h{min(level + depth, 6)}"
        rest = _block(flush[found.end() :], deeper, level)
        return f"<{tag}>{inline(found['short'] or found['title'] or '')}</{tag}>\n{rest}"
    # Also true of no line at all: a text may begin with an indented block.
    if not flush.strip(_RULE):
        return _indented(deeper, level)
    if item := _ITEM.match(flush):
        return f"<ul>\n<li>{_body(flush[item.end() :] + dedent(deeper), level)}</li>\n</ul>\n"
    # The words of any other directive, and those of a comment that are kept, are below it.
    if flush.startswith(".."):
        is_code = flush.startswith((".. code", ".. sourcecode"))
        return _pre(deeper) if is_code else _indented(deeper, level)
    if flush.endswith("::\n"):
        return f"<p>{inline(flush[:-2])}</p>\n{_pre(deeper)}"
    # One line with indented ones right below: a term and its definition, or a section of Google's.
    if flush.count("\n") == 1 and deeper.startswith(" "):
        told = _body(_ENTRY.sub(r"- ``\1``:", dedent(deeper)), level)
        return f"<dl><dt>{inline(flush)}</dt>\n<dd>{told}</dd></dl>\n"
    return f"<p>{inline(flush)}</p>\n{_indented(deeper, level)}"


def _body(text: str, level: int) -> str:
    """The blocks of an item; one paragraph alone goes without its tags."""
    return _LONE_PARAGRAPH.sub(r"\1", _blocks(text, level))


def _indented(text: str, level: int) -> str:
    body = dedent(text).strip("\n")
    if not body or _CODE.match(body):
        return _pre(body)
    quoted = _blocks(f"{body}\n", level)
    return f"<blockquote>\n{quoted}</blockquote>\n"


def _pre(text: str) -> str:
    code = dedent(text).strip("\n")
    return f"<pre><code>{escape(code, quote=False)}</code></pre>\n" if code else ""


def inline(text: str) -> str:
    """HTML of a run of text: code and stress; of links the words; everything else escaped."""
    return _INLINE.sub(_span, escape(text, quote=False)).strip()


def _span(match: re.Match[str]) -> str:
    if stressed := match["stressed"]:
        return f"<em>{stressed}</em>"
    words = match["literal"] or match["quoted"] or match["label"] or ""
    # The words of a link, which ends with an underscore or, in Markdown, with its address.
    return words if match[0].endswith(("_", ")")) else f"<code>{words}</code>"
