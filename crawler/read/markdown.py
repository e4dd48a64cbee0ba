"""The main text of a page as Markdown, in the page's own characters: what trafilatura finds, nothing escaped.

Trafilatura escapes prose and not code, undoes entities once more than a browser does, takes `\\(` for LaTeX,
drops empty lines, and passes over some elements that hold text. So what it would change has a stand-in while
it works, and what it would pass over another name. Then each backslash left is an escape that it wrote.
"""

import re
from itertools import islice
from typing import Any
from unicodedata import normalize

import trafilatura
from lxml.etree import XPath, _Element
from lxml.html import HtmlElement
from selectolax.lexbor import LexborHTMLParser
from trafilatura.xml import xmltotxt

_EMPTY = "\u2424"  # trafilatura's own mark of a line that it is to keep, though it is empty
_EMPTY_LINE = re.compile(r"\n(?=\n)")
# The first is what it escapes with, the last what it undoes; joiners and marks of direction it would drop.
_CHANGED = f"\\{_EMPTY}\u200c\u200d\u200e\u200f&"
_AMPERSAND = re.compile("&(?:amp|#0*38|#[xX]0*26);")
# Hieroglyphs: no page has all of these, and they stay as they are when Unicode is normalized.
_STAND_INS = [chr(code) for code in range(0x13000, 0x1342F)]
_BODY = re.compile("<body", re.IGNORECASE)
_NO_SCRIPT = "not(parent::script or parent::style)"
_HIDDEN = " or ".join(f"contains(., '{sign}')" for sign in _CHANGED[:-1])
_TO_HIDE = XPath(f"descendant::text()[{_HIDDEN}][{_NO_SCRIPT}]")
_LINES = XPath("(descendant::pre | descendant::code)/descendant::text()[contains(., '\n')]")
# What is passed over for its name, unless it has more than half of the words outside of links, and so many
# characters. At half, a note on cookies would be the text of a page that has none.
_PASSED_OVER, _LEAST = ("aside", "figure", "label", "object"), 400
_WORDS = XPath(f"descendant::text()[not(ancestor::a or ancestor::noscript)][{_NO_SCRIPT}]")
_HEADINGS = XPath("descendant::*[starts-with(name(), 'h') and string-length(name()) = 2]")
_SENTENCES = ("dd", "li", "p", "td")
_LINE_NUMBERS = re.compile(r"[\d\s]*")
_TEX_SOURCE = XPath("@alttext or descendant::annotation[@encoding='application/x-tex']")


def main_text(html: str, url: str) -> str:
    """The text of `html` without navigation and the like, or nothing; of MathML its TeX, if it says that.

    Raises whatever the page makes the libraries raise.
    """
    if not _BODY.search(html):
        html = LexborHTMLParser(html).html or ""  # libxml2 takes what it does not know for a part of the head
    stand_ins = "".join(islice((sign for sign in _STAND_INS if sign not in html), len(_CHANGED)))
    tree = trafilatura.load_html(_AMPERSAND.sub(stand_ins[-1], html.replace("\r\n", "\n")))
    if tree is None:
        return ""
    _rename(tree)
    _hide(tree, str.maketrans(_CHANGED, stand_ins))
    found: Any = trafilatura.bare_extraction(
        tree, url=url, output_format="markdown", include_comments=False, include_formatting=True, fast=True
    )
    if found is None:
        return ""
    # Once more, for what it took from scripts and formulas, and for code that was in pieces.
    _hide(found.body, str.maketrans("\\", stand_ins[0]))
    markdown = xmltotxt(found.body, include_formatting=True).replace("\\", "")
    return normalize("NFC", markdown.translate(str.maketrans(stand_ins, _CHANGED))).strip()


def _hide(tree: _Element, stand_ins: dict[int, int]) -> None:
    """Put stand-ins for what trafilatura would change, and its mark into empty lines of code."""
    for texts, change in (
        (_TO_HIDE(tree), lambda text: text.translate(stand_ins)),
        (_LINES(tree), lambda text: _EMPTY_LINE.sub(f"\n{_EMPTY}", text)),
    ):
        # Not each by itself: where trafilatura took an element away, several are one text to lxml.
        for element, place in {(text.getparent(), "text" if text.is_text else "tail") for text in texts}:
            setattr(element, place, change(getattr(element, place)))


def _rename(tree: HtmlElement) -> None:
    """Give what trafilatura would pass over, or take for something else, a name by which it is kept."""
    words = 0
    for element in list(tree.iter("code", "math", "pre", "summary", *_PASSED_OVER)):
        if element.tag == "math":
            element.tag = "math" if _TEX_SOURCE(element) else "span"
        elif element.tag == "code":
            # One that goes on in the next line of a sentence is no block.
            before, parent = element.getprevious(), element.getparent()
            beside = (parent.text if before is None else before.tail) or "", element.tail or ""
            if "".join(beside).strip() and parent.tag in _SENTENCES and "\n" in (element.text or ""):
                element.text = " ".join(element.text.split())
        elif element.tag == "pre":
            _unwrap(element)
        elif element.tag == "summary":
            _open(element)
        elif len(element.text_content()) > _LEAST and (inside := sum(map(len, _WORDS(element)))) > _LEAST:
            words = words or sum(map(len, _WORDS(tree)))
            if 2 * inside > words:
                element.tag = "div"


def _open(summary: HtmlElement) -> None:
    """Keep a summary that has a heading or no `details`, and the answer that stands in a `div` itself."""
    details = next(summary.iterancestors("details"), None)
    if _HEADINGS(summary):
        summary.tag = "div"
    elif details is None:
        summary.tag = "p"
    elif summary is details[0]:
        for part in details.iterchildren("div"):
            if (part.text or "").strip():
                part.tag = "p"


def _unwrap(pre: HtmlElement) -> None:
    """Let code keep its lines: in an item, in a figure, and in a table that puts numbers beside them."""
    if pre.find("code") is None and next(pre.iterancestors("dd", "li"), None) is not None:
        pre.tag = "code"
    row = next(pre.iterancestors("tr", "figure"), pre)
    if row.tag == "tr" and row.getprevious() is None and row.getnext() is None:
        cells = list(islice(row, 4))
        numbers = [cell for cell in cells if _LINE_NUMBERS.fullmatch(cell.text_content())]
        others = {cell.text_content().strip() for cell in cells if cell not in numbers}
        if len(cells) <= 3 and others == {pre.text_content().strip()}:
            for cell in numbers:
                cell.drop_tree()
            for around in (*row, row, next(row.iterancestors("table"), row)):
                around.tag = "div"
    for figure in pre.iterancestors("figure"):
        figure.tag = "div"
