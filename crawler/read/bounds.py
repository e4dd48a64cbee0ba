"""What of a page makes parsers take more than linear time, known before one runs.

Lexbor (under resiliparse and selectolax) looks through all open elements for many a tag, through all
attributes of an element for each, and through all options for each; lxml and trafilatura through siblings.
What is found here is what those parsers build, but for what stands in comments and scripts, and but for the
finer points of their standard; whoever knows those may still get a page past, and costs a child its time
(crawler/read/pool.py).

A file of its own: extract.py asks what a page says, this one what it costs.
"""

import re
from collections import defaultdict

# Ten times as much of any of these costs a hundred times the time. In brackets: the most in 6,531 real pages,
# all 1,032 of trafilatura's evaluation and the largest of 22 sites of documentation among them, and how long
# the slowest parser takes for what is just allowed.
_DEEPEST = 512  # elements within each other (43; 0.02 s); browsers nest no deeper
_MOST_ELEMENTS = 200_000  # (67,606; 1 s to look at, and trafilatura hears the alarm)
_MOST_OPTIONS = 5000  # (392; 0.09 s)
_MOST_ATTRIBUTES = 2000  # of an element (31; 0.02 s), where all `html` and `body` tags are one
# A page with no more start tags (600 are usual) costs 0.8 s at most, however deep; the attributes of one
# of so many characters cost 0.1 s.
_FEW, _SHORT = 8000, 32_000

_SPACE = r"[ \t\n\f\r]"
_ATTRIBUTE = (
    r"[^ \t\n\f\r/>][^ \t\n\f\r/>=]*+"
    rf"""(?:{_SPACE}*+={_SPACE}*+(?:"[^"]*+"?|'[^']*+'?|[^ \t\n\f\r>]*+))?+"""
)
_ATTRIBUTES = re.compile(_ATTRIBUTE)
_LONG_TAG = re.compile(rf"<[a-zA-Z][^<>]{{{2 * _MOST_ATTRIBUTES}}}")  # `a `: what an attribute takes at least
_TAG = re.compile(
    rf"<!--(?:-?>|(?:[^-]++|-(?!->))*+)"
    rf"|<(?P<raw>script|style)(?=[ \t\n\f\r/>])(?:[^<]++|<(?!/(?P=raw)))*+"
    rf"|<(?P<end>/?)(?P<name>[a-z][^ \t\n\f\r/>]*+)"
    rf"(?P<attributes>(?:(?:{_SPACE}|/)*+{_ATTRIBUTE})*+){_SPACE}*+(?P<void>/?)",
    re.IGNORECASE,
)
_START = re.compile(r"<[a-zA-Z]")
# An element that is closed with nothing but text in it; but for those that are counted.
_LEAF = re.compile(
    rf"<(?!(?:option|body|html)(?:{_SPACE}|[/>]))([a-z][a-z0-9]*)(?:{_SPACE}[^<>]*)?>[^<]*</\1>",
    re.IGNORECASE,
)
_HEADINGS = {f"{h}{n}": "h1" for h in "hH" for n in range(1, 7)}  # any is closed by the end of any
_ROOTS = ("html", "body")  # there is one of each: all tags of it are one element
# Elements that nest only where others do: void ones, and those that the next of their kind closes.
_VOID = frozenset(
    re.findall(
        r"\w+",
        "a area base basefont bgsound body br button caption col colgroup embed form frame head hr html img "
        "input keygen link meta nobr option param source tbody tfoot thead track wbr",
    )
)
_ITEMS = frozenset(("dd", "dt", "li", "p", "td", "th", "tr"))
# What ends with the item it is in.
_INLINE = frozenset(re.findall(r"\w+", "b big code em font i s small span strike strong tt u"))
# Whose end tags end all that is within, where those of other elements end no block.
_BLOCKS = frozenset(
    re.findall(
        r"\w+",
        "address article aside blockquote center details dialog dir div dl fieldset figcaption figure footer "
        "h1 header hgroup listing main menu nav ol optgroup pre search section select summary ul",
    )
)
# What no end tag of another element reaches out of.
_SCOPES = frozenset(
    re.findall(
        r"[\w-]+",
        "annotation-xml applet desc foreignobject marquee math mi mn mo ms mtext object svg table template",
    )
)


def oversized(html: str) -> str:
    """The reason to give a page up, that parsers would take more than linear time for it; empty if not.

    Linear itself: 50 microseconds for a usual page, a hundredth of what extraction takes.
    """
    starts = html.count("<")
    if starts > _FEW:
        starts = len(_START.findall(html))
    # What a parser costs is tags times depth, and leaves, which highlighted code is full of, nest nothing.
    if starts <= _FEW or starts * (starts - len(_LEAF.findall(html))) <= _FEW**2:
        position = 0
        while len(html) > _SHORT and (long := _LONG_TAG.search(html, position)):
            tag = _TAG.match(html, long.start())
            if tag and _attributes(tag) > _MOST_ATTRIBUTES:
                return "too_many_attributes"
            position = max(long.end(), tag.end() if tag else 0)
        return ""
    open_elements = _Open()
    elements = options = of_root = 0
    for tag in _TAG.finditer(html):
        _, end, name, attributes, void = tag.groups("")
        name = _HEADINGS.get(name, name).lower()
        if end:
            open_elements.end(name)
        elif name:
            elements += 1
            options += name == "option"
            if elements > _MOST_ELEMENTS or options > _MOST_OPTIONS:
                return "too_many_elements"
            if len(attributes) > 2 * _MOST_ATTRIBUTES or name in _ROOTS:
                count = _attributes(tag)
                of_root += count if name in _ROOTS else 0
                if max(of_root, count) > _MOST_ATTRIBUTES:
                    return "too_many_attributes"
            if open_elements.start(name, void=void == "/") > _DEEPEST:
                return "too_deep"
    return ""


def _attributes(tag: re.Match[str]) -> int:
    """How many a tag has; 0 for what is shorter than too many, but for those of `html` and `body`."""
    written = tag["attributes"] or ""
    few = len(written) <= 2 * _MOST_ATTRIBUTES and (tag["name"] or "").lower() not in _ROOTS
    return 0 if few else len(_ATTRIBUTES.findall(written))


class _Open:
    """The elements that are open where a page is read: like a parser's, with what their names alone tell."""

    def __init__(self) -> None:
        self._stack: list[str] = []
        # Where each name is in it, where blocks and scopes are, and how high it was when an item began.
        self._places: defaultdict[str, list[int]] = defaultdict(list)
        self._blocks, self._scopes = [-1], [-1]
        self._item = 0

    def start(self, name: str, *, void: bool) -> int:
        """How many are open with this one; `void`: it ends in a slash, which counts in SVG and MathML."""
        if name in _ITEMS:
            self._end_inline()
        elif name not in _VOID and not (void and (self._places["svg"] or self._places["math"])):
            place = len(self._stack)
            self._stack.append(name)
            self._places[name].append(place)
            if name in _SCOPES:
                self._scopes.append(place)
            if name in _SCOPES or name in _BLOCKS:
                self._blocks.append(place)
        return len(self._stack)

    def end(self, name: str) -> None:
        if name in _ITEMS:
            self._end_inline()
            return
        reach = -1 if name in _SCOPES else (self._scopes if name in _BLOCKS else self._blocks)[-1]
        if (places := self._places[name]) and (place := places[-1]) > reach:
            self._cut(place)

    def _end_inline(self) -> None:
        place = len(self._stack)
        while place > self._item and self._stack[place - 1] in _INLINE:
            place -= 1
        self._cut(place)
        self._item = place

    def _cut(self, place: int) -> None:
        while len(self._stack) > place:
            last = len(self._stack) - 1
            self._places[self._stack.pop()].pop()
            for of_some in (self._blocks, self._scopes):
                if of_some[-1] == last:
                    of_some.pop()
        self._item = min(self._item, place)
