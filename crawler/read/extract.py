"""From the bytes of a response to text and links, in two tiers.

Every page is parsed fast (Lexbor) for its links, title and signals against use, and looked at through its
main text as resiliparse finds it. Only what passes that screen pays for trafilatura, which takes ten times as
long and is easily hurt by a hostile page; so all of this runs in processes that may die without harm
(crawler/read/pool.py).
"""

import hashlib
import re
import signal
from dataclasses import replace
from functools import cache
from importlib.metadata import version
from types import FrameType
from typing import Any

import trafilatura
from resiliparse.extract.html2text import extract_plain_text
from selectolax.lexbor import LexborHTMLParser

from crawler.page import Extracted, Link
from crawler.read.encoding import decode
from crawler.read.language import detect_language
from crawler.read.links import Canonicals, Markup, clean
from crawler.read.optout import from_metas
from crawler.read.screen import DUPLICATE, Screen, Wanted

_SEEN_CHARACTERS = 4000
"""Of a text that was not wanted: enough to learn what is not wanted."""
_ESCAPED = re.compile(r"\\([_*\[\]<>#])")


@cache
def extractor_name() -> str:
    """Name and version of the extractor, as written with each document."""
    return f"trafilatura {version('trafilatura')} fast markdown"


class _TooSlow(BaseException):
    """Not an Exception: libraries catch those, and would go on."""


def _too_slow(_signum: int, _frame: FrameType | None) -> None:
    raise _TooSlow


class Extractor:
    """Extracts pages one after the other, in the main thread; without `wanted`, of every page all it can.

    `agent` is the crawler's product token: what a page's `meta` elements say to it by name is heard too.
    """

    def __init__(self, wanted: Wanted | None = None, agent: str = "") -> None:
        self._agent = agent
        self._screen = Screen(wanted) if wanted else None
        self._canonicals = Canonicals()

    def __call__(self, body: bytes, url: str, content_type: str, nofollow: bool, seconds: float) -> Extracted:
        """Text and links of one response; `nofollow` is what its headers say of the links.

        Never raises: whatever a page does to the libraries is a `reason`. What was found before is kept.
        """
        found = Extracted()
        signal.signal(signal.SIGALRM, _too_slow)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            html = decode(body, content_type)
            if content_type.lower().startswith("text/plain"):
                return _with_text(found, html.strip(), "plain text")
            found = self.look(html, url, nofollow=nofollow)
            return found if found.reason else _with_text(found, _main_text(html, url), extractor_name())
        except _TooSlow:
            return replace(found, reason="extract_timeout")
        except MemoryError:
            return replace(found, reason="extract_memory")
        except Exception as error:
            return replace(found, reason=f"extract_{type(error).__name__}")
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def look(self, html: str, url: str, *, nofollow: bool) -> Extracted:
        """The first tier: all but the text, and whether the text is wanted."""
        tree = LexborHTMLParser(html)
        markup = Markup(tree, url)
        heard = from_metas(markup.metas, self._agent)
        nofollow = nofollow or heard.nofollow
        links = markup.links(nofollow=nofollow)
        title_node = tree.css_first("title")
        title = clean(title_node.text()) if title_node else ""
        reason = digest = seen = ""
        if original := self._canonicals.elsewhere(markup.canonicals(), url, title):
            reason = "not_canonical"
            links = (Link(original, title, "html/head/link", nofollow), *links)
        elif self._screen:
            text = extract_plain_text(html, main_content=True, alt_texts=False)
            reason = self._screen.reason(text, url)
            digest = _digest(text) if reason and text else ""
            seen = text[:_SEEN_CHARACTERS] if reason not in ("", DUPLICATE) else ""
        return Extracted(
            title=title,
            text=seen,
            opt_out=heard.signals,
            links=links,
            reason=reason,
            content_sha256=digest,
        )


def _main_text(html: str, url: str) -> str:
    """The second tier."""
    text: Any = trafilatura.extract(
        html, url=url, output_format="markdown", include_comments=False, include_formatting=True, fast=True
    )
    return _ESCAPED.sub(r"\1", text or "")


def _with_text(found: Extracted, text: str, extractor: str) -> Extracted:
    if not text:
        return replace(found, reason="no_text")
    language, score = detect_language(text)
    return replace(
        found,
        text=text,
        language=language,
        language_score=score,
        content_sha256=_digest(text),
        extractor=extractor,
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
