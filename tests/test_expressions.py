"""No expression over what strangers wrote takes more than linear time, and no function over texts does.

Expressions are found, not listed: whoever adds one has it tested. Each is fed with its own parts: what its
beginning matches, then a run of what it may repeat, then what it does not match.
"""

import importlib
import inspect
import pkgutil
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from re import _constants as op
from re import _parser

import pytest

from crawler.fetch.robots import retry_at
from crawler.message import Answer, content_type
from crawler.read.bounds import oversized
from crawler.read.encoding import decode
from crawler.read.language import detect_language
from crawler.read.links import clean
from crawler.read.optout import from_headers, from_metas
from crawler.read.sitemaps import listed, may_list
from crawler.scope import scope_of
from crawler.seeds.dumps import Submission, linked_url
from crawler.urls import canonicalize, domain, resolve
from ranker.features import groups, words
from ranker.traps import _groups, trap_of_shape
from shards.text.dedup import signature, sketch
from shards.text.filters import judge
from shards.text.signals import Signals
from trainer.post.questions import Candidate, candidates, fault, page_subject

ROOMS = ("tinylm", "shards", "crawler", "ranker", "trainer")  # what deploy reads are our own pages
# What a user types, and what our own programs say.
OURS = ("crawler.config", "crawler.frontier.server", "crawler.seeds.read", "tinylm.config")
# Characters. What is quadratic takes seconds for them, all else a few milliseconds.
LENGTH = 40_000
CPU_SECONDS = 0.5
COMMON = [*'a0 \n\t`<"([#-/=&.\\%:é', " A", "<!--"]
CALLED = r"\b{}\.(match|search|fullmatch|findall|finditer|split|subn?)\b"


class TooSlow(BaseException):
    pass


@contextmanager
def cpu_limit(seconds=CPU_SECONDS):
    """Of this process's own time, so that a busy machine changes nothing; expressions hear it."""

    def give_up(*_):
        raise TooSlow

    before = signal.signal(signal.SIGVTALRM, give_up)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def one_of(members):
    """A character that a set of characters has."""
    (kind, argument), *_ = members
    if kind is op.NEGATE:
        excluded = {chr(n) for what, n in members[1:] if what is op.LITERAL}
        classes = [n for what, n in members[1:] if what is op.CATEGORY]
        no_space = op.CATEGORY_SPACE in classes
        return next(c for c in "a ;1,é" if c not in excluded and not (no_space and c == " "))
    if kind is op.LITERAL:
        return chr(argument)
    if kind is op.RANGE:
        return chr(argument[0])
    return {op.CATEGORY_SPACE: " ", op.CATEGORY_DIGIT: "1"}.get(argument, "a")


def attacks(parts, before="") -> Iterator[tuple[str, str]]:
    """(what leads to a repetition, what it repeats) for each repetition; last, what the whole matches."""
    for kind, argument in parts:
        if kind in (op.MAX_REPEAT, op.MIN_REPEAT, op.POSSESSIVE_REPEAT):
            *inner, (_, after) = attacks(argument[2], before)
            yield from inner
            yield before, after[len(before) :]
            before = after
        elif kind is op.SUBPATTERN or kind is op.ATOMIC_GROUP:
            *inner, (_, before) = attacks(argument[3] if kind is op.SUBPATTERN else argument, before)
            yield from inner
        elif kind is op.BRANCH:
            for way in argument[1]:
                *inner, (_, after) = attacks(way, before)
                yield from inner
            before = after
        elif kind is op.ASSERT:
            *inner, _ = attacks(argument[1], before)
            yield from inner
        elif kind is op.LITERAL:
            before += chr(argument)
        elif kind is op.IN:
            before += one_of(argument)
        elif kind in (op.ANY, op.NOT_LITERAL):
            before += "a"
    yield "", before


def hostile(pattern, length=LENGTH) -> Iterator[str]:
    parts = _parser.parse(pattern.pattern, pattern.flags)
    found = list(dict.fromkeys(attacks(parts)))
    repeated = dict.fromkeys(unit for _, unit in found if 0 < len(unit) < 20)
    heads = dict.fromkeys(head for head, _ in found)
    for head in list(heads)[:12]:
        for unit in dict.fromkeys([*list(repeated)[:12], *COMMON[:6]]):
            for end in ("\0y", "\ny"):
                yield head + unit * (length // len(unit)) + end
    for unit in dict.fromkeys([*repeated, *filter(None, heads), *COMMON]):
        yield unit * (length // len(unit))


def expressions(room):
    """Those of all modules of a room, each with a method by which its module uses it."""
    for module in pkgutil.walk_packages(importlib.import_module(room).__path__, f"{room}."):
        if module.name in OURS:
            continue
        found = importlib.import_module(module.name)
        source = inspect.getsource(found)
        for name, pattern in vars(found).items():
            if isinstance(pattern, re.Pattern):
                for way in set(re.findall(CALLED.format(name), source)):
                    yield f"{module.name}.{name}.{way}", pattern, way


def too_slow(pattern, way):
    """The text for which it takes more than linear time; None if there is none."""
    for text in hostile(pattern):
        try:
            with cpu_limit():
                run(pattern, way, text)
        except TooSlow:
            return f"{text[:60]!r} … {text[-20:]!r}"
    return None


def run(pattern, way, text):
    text = text.encode("utf-8", "replace") if isinstance(pattern.pattern, bytes) else text
    arguments = (text[:0], text) if way.startswith("sub") else (text,)
    found = getattr(pattern, way)(*arguments)
    if way == "finditer":
        for _ in found:
            pass


@pytest.mark.parametrize("room", ROOMS)
def test_no_expression_takes_more_than_linear_time(room):
    found = {name: text for name, pattern, way in expressions(room) if (text := too_slow(pattern, way))}
    assert not found


@pytest.mark.parametrize(
    "quadratic", [r"(#{1,6})\s+(.*?)[\s#¶]*$", r"\s+[|·—–-]\s+.*$", r"(a+)+$", r"<!--.*?-->", r"(\w+\s?)*!"]
)
def test_an_expression_that_is_not_linear_is_found(quadratic):
    assert too_slow(re.compile(quadratic), "sub")


def signals(text):
    measured = Signals(text, "en")
    for name in dir(Signals):
        getattr(measured, name)


PATTERNS = scope_of("any", ("*a*b*c", "*.a*a*a*.pdf", "*"), ("/a/*a/*/a*?",))
FOLDERS = scope_of("prefix", (), ())
CHUNKED = "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n"
FUNCTIONS = {
    "content_type": lambda text: content_type([f'"{text}', f"{text}\\"], text.encode()),
    "the head of an answer": lambda text: Answer().feed(f"HTTP/1.1 404 No\n{text}\n\n".encode()),
    "the chunks of an answer": lambda text: Answer().feed(f"{CHUNKED}1\r\na{text}".encode()),
    "oversized": oversized,
    "decode": lambda text: decode(text.encode(), "text/html"),
    "decode by header": lambda text: decode(b"\xff\xfe\xfd" * 9, f"text/html; charset={text}"),
    "listed": lambda text: listed(f"<urlset><url>{text}".encode(), "http://a.test/sitemap.xml", "text/xml"),
    "may_list": lambda text: may_list(f"<?xml?>{text}".encode(), "http://a.test/", "text/html"),
    "detect_language": detect_language,
    "clean": clean,
    "from_headers": lambda text: from_headers([("x-robots-tag", text), ("content-usage", text)], "tinylm"),
    "from_metas": lambda text: from_metas([("robots", text), (text, text)], "tinylm"),
    "retry_at": retry_at,
    "canonicalize": lambda text: canonicalize(f"http://a.test/{text}", "http://b.test/"),
    "canonicalize a host": lambda text: canonicalize(f"http://{text}/"),
    "resolve": lambda text: resolve(text, "http://a.test/b/"),
    "patterns of a scope": lambda text: PATTERNS.why_not(
        f"http://a.test/{text[: len(text) // 8]}", lambda _: False
    ),
    "folders of a scope": lambda text: FOLDERS.why_not(
        f"http://a.test/{text[: len(text) // 8]}", lambda mark: not mark.endswith("#folder")
    ),
    "domain": domain,
    "linked_url": lambda text: linked_url(Submission(url=f"http://a.test/{text}")),
    "groups": lambda text: groups(f"http://a.test/{text}", "a.test"),
    "words": lambda text: words(f"http://a.test/{text}", "a.test", text, text),
    "trap_of_shape": lambda text: trap_of_shape(f"http://a.test/{text}"),
    "groups of a trap": lambda text: _groups(f"http://a.test/{text}"),
    "judge": lambda text: judge(Signals(text, "en")),
    "signals": signals,
    "signature": signature,
    "sketch": lambda text: sketch(Signals(text)),
    "candidates": lambda text: list(candidates({"id": "1", "title": text, "text": text}, 2000)),
    "candidates of a heading": lambda text: list(
        candidates({"id": "1", "title": "", "text": f"# a{text}y"}, 2000)
    ),
    "fault": lambda text: fault(Candidate("topic", "What?", text), text, 0, len(text)),
    "page_subject": page_subject,
}
UNITS = (
    *filter(None, COMMON),
    "a ",
    "a.",
    "# a\n",
    "../",
    "a/",
    "?a=b&",
    "%41",
    "```\n",
    "<a>",
    "<!",
    "](",
    "1.",
    "a.\n\n",
    '\\"',
    "a: b\n ",
    "\r\n1\r\na",
)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_no_function_over_texts_takes_more_than_linear_time(name):
    for unit in UNITS:
        took = []
        for length in (LENGTH, 4 * LENGTH):
            text = f"x{unit * (length // len(unit))}\0y"
            began = time.process_time()
            FUNCTIONS[name](text)
            took.append(time.process_time() - began)
        # Four times the text: four times the time if linear, sixteen if not. Little time says nothing.
        assert took[1] < max(8 * took[0], 1.0), unit
