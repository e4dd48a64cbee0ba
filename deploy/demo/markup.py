"""reStructuredText, docstrings and Markdown to HTML: paragraphs, headings, lists, definitions and code.

Docstrings mix dialects (Sphinx and Epytext fields, Google sections, NumPy underlines), and none needs all
of docutils: a line-based block parser and one inline expression cover what is prose. What they do not know
becomes preformatted text (tables) or is left out (figures). All links go through `Links`, so that they stay
in this web. About 4 MB/s of docstrings.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from html import escape
from typing import Protocol, TypeAlias

from markdown_it import MarkdownIt
from markdown_it.token import Token

Lines: TypeAlias = list[str]
Block: TypeAlias = tuple[str, int]  # the HTML of one block, and the index of the line after it

_INLINE = re.compile(
    r"``(?P<literal>.+?)``"
    r"|:(?P<role>[\w:+-]+):`(?P<target>[^`]+)`"
    r"|`(?P<text>[^`<]+?)\s*<(?P<url>[^`>]+)>`__?"
    r"|\[(?P<label>[^\]\[\n]+)\]\((?P<address>[^)\s]+)\)"
    r"|`(?P<plain>[^`]+)`_{0,2}"
    r"|\*\*(?P<strong>[^*\s][^*]*)\*\*"
    r"|(?<![*\w])\*(?P<emphasis>[^*\s][^*]*)\*(?![*\w])"
    r"|(?<![\w|])\|(?P<substitution>[A-Za-z][\w .-]*)\|_{0,2}"
    r"|\bL\{(?P<epytext>[\w.]+)\}|\b[CM]\{(?P<verbatim>[^{}]+)\}|\b[IB]\{(?P<marked>[^{}]+)\}",
    re.DOTALL,
)
_ESCAPED = re.compile(r"\\([*_`|\\ ])")
_UNDERLINE = re.compile(r"([=\-~^\"'`#*+.:_])\1{2,}\s*$")
_ITEM = re.compile(r"(?P<mark>[-*+•]|\d{1,3}[.)]|#\.)\s+(?=\S)")
_FIELD = re.compile(r"[:@](?P<kind>\w+)(?:\s+(?P<argument>[^:`]+))?:(?:\s+|$)")
_DIRECTIVE = re.compile(r"\.\.\s+(?:\|[^|]+\|\s+)?(?P<name>[\w:-]+)::\s*(?P<argument>.*)$")
_OPTION = re.compile(r":[\w-]+:(\s|$)")
_ENTRY = re.compile(r"(?P<term>\*{0,2}[\w.]+(?:\s*\([^)]*\))?)\s*:\s+(?P<rest>\S.*)$")
_GOOGLE = re.compile(
    r"(?P<title>Args|Arguments|Attributes|Returns?|Raises|Yields?|Keyword (?:Args|Arguments)|Parameters|Shape"
    r"|Inputs?|Outputs?|Examples?|Notes?|References|Warnings?|See Also|Usage)(?P<literal>:?):\s*$"
)
_TABLE = re.compile(r"(\+[-=+]{3,}\+|={2,}(\s+={2,})+|\|.*\|)\s*$")
_CODE_LINE = re.compile(r"(>>> |\$ |import |from \w|def |class |@\w|#include|[\w.]+ = |[\w.]+\(.*\)$)")
_LITERAL = {"code", "code-block", "sourcecode", "testcode", "doctest", "math", "parsed-literal", "highlight"}
_DROPPED = {"image", "figure", "contents", "raw", "toctree", "include", "index", "module", "currentmodule"}
_VERSIONS = {
    "versionadded": "Added in version",
    "versionchanged": "Changed in version",
    "deprecated": "Deprecated since version",
}
_TAG = re.compile(r"<[^>]*>")


class Links(Protocol):
    """Where a dotted name and an address lead in this web; None is text without a link."""

    def name(self, dotted: str) -> str | None: ...

    def address(self, url: str) -> str | None: ...


@dataclass(frozen=True, slots=True)
class _Context:
    links: Links
    level: int
    styles: list[str] = field(default_factory=list)  # underline characters, outermost first


def rst(text: str, links: Links, level: int = 2) -> str:
    """HTML of a README in reStructuredText or a docstring; its outermost headings are `<h{level}>`."""
    return "".join(_blocks(_dedent(text.expandtabs().splitlines()), _Context(links, level)))


def markdown(text: str, links: Links) -> str:
    """HTML of a README in Markdown: images and raw tags left out, headings one level down."""
    parser = MarkdownIt("commonmark").enable("table")
    tokens = parser.parse(text)
    for token in tokens:
        _tame(token)
        _relink(token.children or [], links)
    return str(parser.renderer.render(tokens, parser.options, {}))


def _tame(token: Token) -> None:
    if token.type.startswith("heading_"):
        token.tag = f"h{min(int(token.tag[1:]) + 1, 6)}"
    elif token.type == "html_block":
        words = " ".join(_TAG.sub(" ", token.content).split())
        token.content = f"<p>{words}</p>\n" if words else ""
    elif token.children:
        unwanted = ("html_inline", "image")
        token.children = [child for child in token.children if child.type not in unwanted]


def _relink(tokens: list[Token], links: Links) -> None:
    tags: list[str] = []
    for token in tokens:
        if token.type == "link_open":
            href = links.address(str(token.attrs.get("href", "")))
            token.attrs = {"href": href} if href else {}
            token.tag = "a" if href else "span"
            tags.append(token.tag)
        elif token.type == "link_close":
            token.tag = tags.pop()


def inline(text: str, links: Links) -> str:
    """HTML of a run of text: code, emphasis, roles and links; everything else escaped."""
    parts: list[str] = []
    end = 0
    for match in _INLINE.finditer(text):
        parts += (_plain(text[end : match.start()]), _span(match, links))
        end = match.end()
    return "".join((*parts, _plain(text[end:])))


def _plain(text: str) -> str:
    return escape(_ESCAPED.sub(r"\1", text), quote=False)


def _span(match: re.Match[str], links: Links) -> str:
    groups = match.groupdict()
    match match.lastgroup:
        case "literal" | "verbatim":
            return f"<code>{escape(groups[match.lastgroup], quote=False)}</code>"
        case "plain":
            shown = _plain(groups["plain"])
            return shown if match[0].endswith("_") else f"<code>{shown}</code>"
        case "target" | "epytext":
            return _role(groups[match.lastgroup], links)
        case "url":
            return _anchor(_plain(groups["text"]), links.address(groups["url"]))
        case "address":
            return _anchor(inline(groups["label"], links), links.address(groups["address"]))
        case "strong":
            return f"<strong>{_plain(groups['strong'])}</strong>"
        case "emphasis" | "marked":
            return f"<em>{_plain(groups[match.lastgroup])}</em>"
        case _:
            return ""


def _role(target: str, links: Links) -> str:
    """`~a.b.C` shows `C`, `shown <a.b.C>` shows `shown`; both link to `a.b.C`."""
    shown, _, dotted = target.removesuffix(">").rpartition("<")
    name = dotted.lstrip("~!.").removesuffix("()")
    text = shown.strip() or (name.rpartition(".")[2] if dotted.startswith("~") else dotted.lstrip("!."))
    return _anchor(f"<code>{escape(text)}</code>", links.name(name))


def _anchor(html: str, href: str | None) -> str:
    return f'<a href="{escape(href)}">{html}</a>' if href else html


def _blocks(lines: Lines, context: _Context) -> Iterator[str]:
    start = 0
    while start < len(lines):
        if not lines[start].strip():
            start += 1
            continue
        html, start = next(block for rule in _RULES if (block := rule(lines, start, context)))
        yield html


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _dedent(lines: Lines) -> Lines:
    margin = min((_indent(line) for line in lines if line.strip()), default=0)
    return [line[margin:] for line in lines]


def _indented(lines: Lines, start: int, margin: int = 0) -> tuple[Lines, int]:
    """The lines from `start` indented deeper than `margin`, blank ones between them included, dedented."""
    end = stop = start
    while end < len(lines) and (not lines[end].strip() or _indent(lines[end]) > margin):
        end += 1
        if lines[end - 1].strip():
            stop = end
    return _dedent(lines[start:stop]), stop


def _run(lines: Lines, start: int) -> int:
    """The index after the lines up to the next blank one."""
    return next((at for at in range(start, len(lines)) if not lines[at].strip()), len(lines))


def _pre(lines: Lines) -> str:
    text = "\n".join(lines).strip("\n")
    return f"<pre><code>{escape(text, quote=False)}</code></pre>\n" if text else ""


def _title(lines: Lines, start: int) -> tuple[int, str] | None:
    """Index and style of a title that begins at `start`: underlined, or over- and underlined."""
    over = _UNDERLINE.match(lines[start])
    title = start + 1 if over else start
    if title + 1 >= len(lines) or not lines[title].strip() or _UNDERLINE.match(lines[title]):
        return None
    under = _UNDERLINE.match(lines[title + 1])
    if not under or (over and over[1] != under[1]) or 2 * len(under[0]) < len(lines[title].strip()):
        return None
    return title, under[1] * (2 if over else 1)


def _heading(lines: Lines, start: int, context: _Context) -> Block | None:
    if not (found := _title(lines, start)):
        return None
    title, style = found
    if style not in context.styles:
        context.styles.append(style)
    level = min(context.level + context.styles.index(style), 6)
    return f"<h{level}>{inline(lines[title].strip(), context.links)}</h{level}>\n", title + 2


def _rule(lines: Lines, start: int, _context: _Context) -> Block | None:
    return ("<hr>\n", start + 1) if _UNDERLINE.match(lines[start]) else None


def _google(lines: Lines, start: int, context: _Context) -> Block | None:
    match = _GOOGLE.match(lines[start])
    body, end = _indented(lines, start + 1)
    if not match or not body:
        return None
    title = f"<h{min(context.level + 1, 6)}>{match['title']}</h{min(context.level + 1, 6)}>\n"
    if match["literal"]:
        return title + _pre(body), end
    if entries := _entries(body, context.links):
        return title + entries, end
    return title + _quoted(body, context), end


def _entries(lines: Lines, links: Links) -> str:
    """`name (type): text` with continuations indented, a list; empty if the lines are something else."""
    items, start = [], 0
    while start < len(lines):
        match = _ENTRY.match(lines[start])
        if not match:
            return ""
        more, start = _indented(lines, start + 1)
        words = inline("\n".join([match["rest"], *more]), links)
        items.append(f"<li><code>{escape(match['term'])}</code>: {words}</li>\n")
        while start < len(lines) and not lines[start].strip():
            start += 1
    return f"<ul>\n{''.join(items)}</ul>\n"


def _doctest(lines: Lines, start: int, _context: _Context) -> Block | None:
    if not lines[start].startswith(">>>"):
        return None
    end = _run(lines, start)
    return _pre(lines[start:end]), end


def _fence(lines: Lines, start: int, _context: _Context) -> Block | None:
    mark = lines[start][:3]
    if mark not in ("```", "~~~"):
        return None
    after = range(start + 1, len(lines))
    end = next((at for at in after if lines[at].strip() == mark), len(lines))
    return _pre(lines[start + 1 : end]), end + 1


def _explicit(lines: Lines, start: int, context: _Context) -> Block | None:
    """A directive, a comment or a link target: everything that begins with two dots."""
    if not lines[start].startswith(".. ") and lines[start] != "..":
        return None
    body, end = _indented(lines, start + 1)
    match = _DIRECTIVE.match(lines[start])
    if not match or match["name"] in _DROPPED:
        return " ", end
    while body and _OPTION.match(body[0]):
        body = body[1:]
    if match["name"] in _LITERAL:
        return _pre(body or [match["argument"]]), end
    title = _VERSIONS.get(match["name"], match["name"].capitalize())
    words = inline(match["argument"], context.links)
    return f"<p><strong>{title}</strong> {words}</p>\n{_quoted(body, context)}", end


def _list(lines: Lines, start: int, context: _Context) -> Block | None:
    if not (match := _ITEM.match(lines[start])):
        return None
    tag = "ol" if match["mark"][0] in "#0123456789" else "ul"
    items = []
    while match:
        more, end = _indented(lines, start + 1)
        items.append(f"<li>{_tight([lines[start][match.end() :], *more], context)}</li>\n")
        start = _skip_blank(lines, end)
        match = _ITEM.match(lines[start]) if start < len(lines) else None
    return f"<{tag}>\n{''.join(items)}</{tag}>\n", start


def _fields(lines: Lines, start: int, context: _Context) -> Block | None:
    """`:param x: text` or Epytext's `@param x: text`, one after the other."""
    items = []
    while start < len(lines) and (match := _FIELD.match(lines[start])):
        more, start = _indented(lines, start + 1)
        while start < len(lines) and lines[start].strip() and not _FIELD.match(lines[start]):
            more.append(lines[start])
            start += 1
        body = _tight([match.string[match.end() :], *more], context)
        items.append(
            f"<li><code>{escape((match['argument'] or match['kind']).strip())}</code>: {body}</li>\n"
        )
    return (f"<ul>\n{''.join(items)}</ul>\n", start) if items else None


def _table(lines: Lines, start: int, _context: _Context) -> Block | None:
    if not _TABLE.match(lines[start]):
        return None
    end = _run(lines, start)
    return _pre(lines[start:end]), end


def _definition(lines: Lines, start: int, context: _Context) -> Block | None:
    """A term with its definition indented on the next line (NumPy's parameters are that, too)."""
    following = lines[start + 1] if start + 1 < len(lines) else ""
    if _indent(lines[start]) or not following.strip() or not _indent(following):
        return None
    body, end = _indented(lines, start + 1)
    term = inline(lines[start].removesuffix("::"), context.links)
    if lines[start].endswith("::"):
        return f"<p>{term}:</p>\n{_pre(body)}", end
    return f"<dl><dt>{term}</dt>\n<dd>{_tight(body, context)}</dd></dl>\n", end


def _quote(lines: Lines, start: int, context: _Context) -> Block | None:
    """An indented block: code if its first line looks like code."""
    if not _indent(lines[start]):
        return None
    body, end = _indented(lines, start)
    if _CODE_LINE.match(body[0].lstrip()):
        return _pre(body), end
    return f"<blockquote>\n{_quoted(body, context)}</blockquote>\n", end


def _paragraph(lines: Lines, start: int, context: _Context) -> Block:
    end = start + 1
    while end < len(lines) and lines[end].strip() and not _indent(lines[end]) and not _interrupts(lines, end):
        end += 1
    text = "\n".join(lines[start:end]).rstrip()
    if not text.endswith("::"):
        return f"<p>{inline(text, context.links)}</p>\n", end
    body, end = _indented(lines, end)
    text = text.removesuffix(":") if text != "::" else ""
    return (f"<p>{inline(text, context.links)}</p>\n" if text else "") + _pre(body), end


def _interrupts(lines: Lines, at: int) -> bool:
    """Whether a line begins another block although no blank line stands before it."""
    line = lines[at]
    return line.startswith((">>>", "```", ".. ")) or bool(
        _FIELD.match(line) or _GOOGLE.match(line) or _title(lines, at)
    )


def _quoted(lines: Lines, context: _Context) -> str:
    return "".join(_blocks(lines, replace(context, level=min(context.level + 1, 6), styles=[])))


def _tight(lines: Lines, context: _Context) -> str:
    """Blocks, without the `<p>` if there is but one paragraph."""
    html = _quoted(lines, context).strip()
    if html.startswith("<p>") and html.count("<p>") == 1 and html.endswith("</p>"):
        return html[3:-4]
    return html


def _skip_blank(lines: Lines, start: int) -> int:
    return next((at for at in range(start, len(lines)) if lines[at].strip()), len(lines))


_RULES: tuple[Callable[[Lines, int, _Context], Block | None], ...] = (
    _heading,
    _rule,
    _google,
    _doctest,
    _fence,
    _explicit,
    _list,
    _fields,
    _table,
    _definition,
    _quote,
    _paragraph,
)
