"""What a source file documents, read from its syntax tree: nothing is imported or run.

`ast.parse` is the cost of a page, 1 ms at the median; of the tree only the statements of modules and classes
are looked at, never function bodies, and signatures are cut from the text, since `ast.unparse` takes longer
than parsing.
"""

import ast
import re
import tokenize
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

_Definition = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
_COMMENT = re.compile(r"(?:^|\s)#[^'\"\n]*$", re.MULTILINE)
_DEFINED = re.compile(rb"^(?:class|def|async def) ([A-Za-z]\w*)", re.MULTILINE)
_MAX_SIGNATURE = 600


@dataclass(frozen=True, slots=True)
class Section:
    """A class, function or method: its signature as written, its docstring, its documented methods."""

    name: str
    signature: str
    doc: str
    bases: tuple[str, ...] = ()
    members: tuple["Section", ...] = ()


@dataclass(frozen=True, slots=True)
class ModuleDoc:
    """A module: docstring, public definitions, and the dotted name behind each imported name."""

    doc: str
    sections: tuple[Section, ...]
    imports: dict[str, str]


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
    lines = text.split("\n")
    statements = list(_flatten(tree.body))
    package = name if is_package else name.rpartition(".")[0]
    return ModuleDoc(
        doc=ast.get_docstring(tree) or "",
        sections=tuple(_sections(statements, lines)),
        imports=dict(_imports(statements, package)),
    )


def defined_names(path: Path) -> list[str]:
    """Public top-level classes and functions by a scan of the lines: enough for an index, without parsing."""
    try:
        return [match.decode() for match in _DEFINED.findall(path.read_bytes())]
    except OSError:
        return []


def _flatten(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a body with the branches of `if` and `try` in their place."""
    for statement in body:
        match statement:
            case ast.If():
                yield from _flatten((*statement.body, *statement.orelse))
            case ast.Try():
                yield from _flatten((*statement.body, *statement.orelse))
            case _:
                yield statement


def _sections(statements: Iterable[ast.stmt], lines: list[str]) -> Iterator[Section]:
    seen = set()
    for node in statements:
        if isinstance(node, _Definition) and not node.name.startswith("_") and node.name not in seen:
            seen.add(node.name)
            yield _section(node, lines)


def _section(node: _Definition, lines: list[str]) -> Section:
    if not isinstance(node, ast.ClassDef):
        return Section(node.name, _signature(node, lines), ast.get_docstring(node) or "")
    return Section(
        name=node.name,
        signature=_signature(node, lines),
        doc=ast.get_docstring(node) or "",
        bases=tuple(dotted for base in node.bases if (dotted := _dotted(base))),
        members=tuple(member for member in _sections(_flatten(node.body), lines) if member.doc),
    )


def _signature(node: _Definition, lines: list[str]) -> str:
    """The text from `def` or `class` to the body, without comments, on one line."""
    body = node.body[0]
    first = body.decorator_list[0] if isinstance(body, _Definition) and body.decorator_list else body
    start, end = node.lineno - 1, first.lineno - 1
    if start == end:
        text = lines[start].encode()[node.col_offset : first.col_offset].decode(errors="replace")
    else:
        text = "\n".join(lines[start:end])
    text = " ".join(_COMMENT.sub("", text).split()).removesuffix(":")
    text = text.replace("( ", "(").replace(", )", ")").replace(" )", ")")
    return text if len(text) <= _MAX_SIGNATURE else text[:_MAX_SIGNATURE] + " ..."


def _dotted(node: ast.expr) -> str | None:
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=attr):
            owner = _dotted(value)
            return f"{owner}.{attr}" if owner else None
        case ast.Subscript(value=value):
            return _dotted(value)
        case _:
            return None


def _imports(statements: Iterable[ast.stmt], package: str) -> Iterator[tuple[str, str]]:
    for node in statements:
        match node:
            case ast.Import(names=names):
                yield from ((alias.asname or alias.name, alias.name) for alias in names)
            case ast.ImportFrom(names=names):
                origin = _origin(node, package)
                dotted = [f"{origin}.{alias.name}" for alias in names]
                yield from zip((_local_name(alias, origin) for alias in names), dotted, strict=True)


def _local_name(alias: ast.alias, origin: str) -> str:
    """The name an import binds; a star binds none, and is kept under its module."""
    return f"{origin}.*" if alias.name == "*" else alias.asname or alias.name


def _origin(node: ast.ImportFrom, package: str) -> str:
    """The absolute module a `from ... import` takes from."""
    if not node.level:
        return node.module or ""
    parents = package.split(".")[: len(package.split(".")) - node.level + 1]
    return ".".join((*parents, node.module)) if node.module else ".".join(parents)
