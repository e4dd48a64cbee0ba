"""What of a page makes parsers take more than linear time, known before one runs.

Lexbor (under resiliparse and selectolax) looks through all open elements for many a tag, through all
attributes of an element for each, and through all options for each; lxml and trafilatura through siblings.
What is found here is what those parsers build, but for what stands in comments and scripts, and but for the
finer points of their standard; whoever knows those may still get a page past, and costs a child its time
(crawler/read/pool.py).

A file of its own: extract.py asks what a page says, this one what it costs.
"""

import re
from collections import Counter

# Ten times as much of any of these costs a hundred times the time. In brackets: the most in 6,531 real pages,
# all 1,032 of trafilatura's evaluation and the largest of 22 sites of documentation among them, and how long
# the slowest parser takes for what is just allowed.
_DEEPEST = 512  # elements within each other (43; 0.02 s); browsers nest no deeper
_MOST_ELEMENTS = 200_000  # (67,606; 1 s to look at, and trafilatura hears the alarm)
_MOST_OPTIONS = 5000  # (392; 0.09 s)
_MOST_ATTRIBUTES = 2000  # of an element (31; 0.02 s), where all `html` and `body` tags are one
# A page with fewer `<` (a usual one has 1,500) costs 0.1 s whatever they are.
_FEW = 3000

_SPACE = r"[ \t\n\f\r]"
_ATTRIBUTE = (
    rf"(?:{_SPACE}|/)*+[^ \t\n\f\r/>][^ \t\n\f\r/>=]*+"
    rf"""(?:{_SPACE}*+={_SPACE}*+(?:"[^"]*+"?|'[^']*+'?|[^ \t\n\f\r>]*+))?+"""
)
_ATTRIBUTES = re.compile(_ATTRIBUTE)
_LONG_TAG = re.compile(rf"<[a-zA-Z][^<>]{{{2 * _MOST_ATTRIBUTES}}}")  # `a `: what an attribute takes at least
_TAG = re.compile(
    rf"<!--(?:-?>|(?:[^-]++|-(?!->))*+)"
    rf"|<(?P<raw>script|style)(?=[ \t\n\f\r/>])(?:[^<]++|<(?!/(?P=raw)))*+"
    rf"|<(?P<end>/?)(?P<name>[a-z][^ \t\n\f\r/>]*+)(?P<attributes>(?:{_ATTRIBUTE})*+){_SPACE}*+(?P<void>/?)",
    re.IGNORECASE,
)
# Elements that nest only where others do: void ones, and those that the next of their kind closes.
_FLAT = frozenset(
    re.findall(
        r"\w+",
        "a area base basefont bgsound body br button caption col colgroup dd dt embed form frame head hr "
        "html img input keygen li link meta nobr option p param source tbody td tfoot th thead tr track wbr",
    )
)
# What an end tag does not look beyond.
_SCOPES = frozenset(("applet", "foreignobject", "marquee", "math", "object", "svg", "table", "template"))


def oversized(html: str) -> str:
    """The reason to give a page up, that parsers would take more than linear time for it; empty if not.

    Linear itself, in about a hundredth of what extraction takes.
    """
    if html.count("<") <= _FEW and not _LONG_TAG.search(html):
        return ""
    open_elements = _Open()
    elements: Counter[str] = Counter()
    of_root = 0
    for tag in _TAG.finditer(html):
        name = (tag["name"] or "").lower()
        if tag["end"]:
            open_elements.end(name)
        elif name:
            elements[name] += 1
            attributes = len(tag["attributes"]) > 2 * _MOST_ATTRIBUTES and len(_ATTRIBUTES.findall(tag[0]))
            if name in ("html", "body"):
                of_root += len(_ATTRIBUTES.findall(tag["attributes"]))
            if max(attributes, of_root) > _MOST_ATTRIBUTES:
                return "too_many_attributes"
            if open_elements.start(name, void=bool(tag["void"])) > _DEEPEST:
                return "too_deep"
    if elements["option"] > _MOST_OPTIONS or elements.total() > _MOST_ELEMENTS:
        return "too_many_elements"
    return ""


class _Open:
    """The elements that are open where a page is read: like a parser's, with what their names alone tell."""

    def __init__(self) -> None:
        self._stack: list[str] = []
        self._here: Counter[str] = Counter()  # by name, within the innermost scope
        self._outside: list[Counter[str]] = []
        self._scopes: Counter[str] = Counter()

    def start(self, name: str, *, void: bool) -> int:
        """How many are open with this one; `void`: it ends in a slash, which counts in SVG and MathML."""
        if name in _FLAT or (void and (self._scopes["svg"] or self._scopes["math"])):
            return 0
        self._stack.append(name)
        if name in _SCOPES:
            self._scopes[name] += 1
            self._outside.append(self._here)
            self._here = Counter()
        else:
            self._here[name] += 1
        return len(self._stack)

    def end(self, name: str) -> None:
        if not (self._scopes if name in _SCOPES else self._here)[name]:
            return
        last = ""
        while last != name:
            last = self._stack.pop()
            if last in _SCOPES:
                self._scopes[last] -= 1
                self._here = self._outside.pop()
            else:
                self._here[last] -= 1
