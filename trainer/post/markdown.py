"""The outline of a Markdown text as extractors write it: sections with the prose that opens them.

Enough of CommonMark to tell prose from code, lists and tables; one pass over the lines, 20 MB/s or so.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

_HEADING = re.compile(r"(#{1,6})\s+(.*?)[\s#¶]*$")
_FENCE = re.compile(r"\s*(```|~~~)")
_OTHER_BLOCK = re.compile(r"\\?>|\s*[-*+]\s|\s*\d+[.)]\s|\||<|!\[|\[!|[-=*_]{3,}\s*$| {4}|\t")
_ESCAPE = re.compile(r"\\([!-/:-@\[-`{-~])")


class Section(NamedTuple):
    """A heading (level 0 and empty: the text before any) and the run of paragraphs right under it."""

    level: int
    heading: str
    paragraphs: tuple[str, ...]


def sections(text: str) -> Iterator[Section]:
    """The sections of `text` in order; headings without markup, paragraphs as they stand."""
    level, heading = 0, ""
    blocks: list[str | None] = []
    for found in _blocks(text):
        if isinstance(found, tuple):
            yield _section(level, heading, blocks)
            (level, heading), blocks = found, []
        else:
            blocks.append(found)
    yield _section(level, heading, blocks)


def plain(line: str) -> str:
    """`line` without escapes, emphasis and code marks."""
    return _ESCAPE.sub(r"\1", line).replace("**", "").replace("`", "").strip()


def _section(level: int, heading: str, blocks: list[str | None]) -> Section:
    end = blocks.index(None) if None in blocks else len(blocks)
    paragraphs = tuple(block for block in blocks[:end] if block is not None)
    return Section(level, heading, paragraphs)


def _blocks(text: str) -> Iterator[tuple[int, str] | str | None]:
    """(level, heading), or a paragraph, or None for any other block."""
    paragraph: list[str] = []
    fenced = False
    for line in text.splitlines():
        fence, heading = _FENCE.match(line), _HEADING.match(line)
        prose = not (fenced or fence or heading or _OTHER_BLOCK.match(line)) and line.strip()
        if prose:
            paragraph.append(line)
            continue
        if paragraph:
            yield "\n".join(paragraph)
            paragraph = []
        if fence:
            fenced = not fenced
        if heading and not fenced:
            yield len(heading[1]), plain(heading[2])
        elif line.strip():
            yield None
    if paragraph:
        yield "\n".join(paragraph)
