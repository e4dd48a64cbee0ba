"""From the bytes of a response to text and links.

What a site lists (crawler/read/sitemaps.py) becomes links. Every other page is parsed fast (Lexbor) for its
links, title and signals against use, and looked at through its main text as resiliparse finds it. Only what
passes that first look pays for trafilatura (crawler/read/markdown.py), which takes ten times as long and is
easily hurt by a hostile page; so all of this runs in processes that may die (crawler/read/pool.py).
"""

import hashlib
import re
import signal
from collections import OrderedDict
from dataclasses import replace
from importlib.metadata import version
from types import FrameType
from urllib.parse import unquote

from resiliparse.extract.html2text import extract_plain_text
from selectolax.lexbor import LexborHTMLParser

from crawler.page import MOST_TITLE_CHARACTERS, Extracted, Link
from crawler.read.bounds import oversized
from crawler.read.encoding import decode
from crawler.read.language import detect_language
from crawler.read.links import Canonicals, Markup, clean
from crawler.read.markdown import main_text
from crawler.read.optout import from_metas
from crawler.read.sitemaps import is_text, listed, may_list
from crawler.urls import canonical
from shards.text.filters import FIRST_LOOK, judge
from shards.text.signals import Signals

# Name and version of the extractor, as written with each document.
EXTRACTOR = f"trafilatura {version('trafilatura')} fast markdown"
DUPLICATE = "pre_duplicate"
# Of a text that is not extracted: enough to learn from what is not wanted.
_SEEN_CHARACTERS = 4000
# Characters that the rules of the first look see.
_LOOKED_AT = 20_000
_MOST_REMEMBERED = 100_000  # texts, in 25 MB at the most: copies of a page come soon after it or not at all
# CSS selectors of what says nothing of whether a page has text.
_NO_TEXT = ["a", "nav", "header", "footer", "form", "button", "select", "textarea", "img"]
# What browsers show as a page, whatever XML it is said to be, and in how many bytes that has to begin.
_XHTML = re.compile(rb"""<html\s[^<>]*?\bxmlns\s*=\s*["']http://www\.w3\.org/1999/xhtml["']""")
_ROOT_WITHIN = 4096
_LENIENCE = 0.75  # of the walker's own threshold for languages: the text that is kept may score higher


class _TooSlow(BaseException):
    """Not an Exception: libraries catch those, and would go on."""


def _too_slow(_signum: int, _frame: FrameType | None) -> None:
    raise _TooSlow


class Extractor:
    """Extracts pages one after the other, in the main thread; without a `screen`, of every page all it can.

    `agent` is the crawler's product token: what a page's `meta` elements say to it by name is heard too.
    """

    def __init__(self, screen: "Screen | None" = None, agent: str = "") -> None:
        self._screen, self._agent = screen, agent
        self._canonicals = Canonicals()

    def __call__(self, body: bytes, url: str, content_type: str, nofollow: bool, seconds: float) -> Extracted:
        """Find what one response contains; `nofollow` is what its headers say of the links.

        The reason of what is a list is `sitemap` or `feed`. Never raises: whatever a page does to the
        libraries is a `reason`. What was found before is kept.
        """
        found = Extracted()
        signal.signal(signal.SIGALRM, _too_slow)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            media_type = content_type.partition(";")[0].strip().lower()
            if may_list(body, url, media_type):
                kind, links = listed(body, url, content_type)
                if kind or not (is_text(media_type) or _XHTML.search(body, 0, _ROOT_WITHIN)):
                    return Extracted(reason=kind or "media_type", links=links)
            html, codec = decode(body, content_type)
            if media_type == "text/x-wiki":
                from crawler.archives import wikitext  # only who reads dumps of wikis has its parser

                text, links = wikitext.read(html, url)
                title = unquote(url.rpartition("/")[2]).replace("_", " ")[:MOST_TITLE_CHARACTERS]
                return _with_text(replace(found, title=title, links=links), text, "wikitext")
            if media_type == "text/plain":
                return _with_text(found, html.strip(), "plain text")
            found = self.look(html, url, nofollow=nofollow, encoding=codec)
            if found.reason:
                return found
            return _with_text(found, main_text(html, url), EXTRACTOR)
        except _TooSlow:
            return replace(found, reason="extract_timeout")
        except MemoryError:
            return replace(found, reason="extract_memory")
        except Exception as error:
            return replace(found, reason=f"extract_{type(error).__name__}")
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def look(self, html: str, url: str, *, nofollow: bool, encoding: str = "utf-8") -> Extracted:
        """Find all but the text, and why that need not be extracted (`reason`), if it need not."""
        if reason := oversized(html):
            return Extracted(reason=reason)
        tree = LexborHTMLParser(html)
        markup = Markup(tree, url, encoding)
        heard = from_metas(markup.metas, self._agent)
        nofollow = nofollow or heard.nofollow
        links = markup.links(nofollow=nofollow)
        title_node = tree.css_first("title")
        title = clean(title_node.text())[:MOST_TITLE_CHARACTERS] if title_node else ""
        digest = seen = ""
        if original := self._canonicals.elsewhere(markup.canonicals(), canonical(url), title):
            reason = "not_canonical"
            links = (Link(original, title, "html/head/link", nofollow), *links)
        elif self._screen:
            text = extract_plain_text(html, main_content=True, alt_texts=False)
            reason = self._screen.reason(text, url)
            if reason == "pre_short":
                # What it leaves out may be the text: a list, an aside, a figure. So are 5 of 557 such pages.
                whole = extract_plain_text(html, form_fields=True, skip_elements=_NO_TEXT)
                reason = self._screen.reason(whole, url) and reason
            digest = _digest(text) if reason and text else ""
            seen = text[:_SEEN_CHARACTERS] if reason not in ("", DUPLICATE) else ""
        return Extracted(
            title=title, text=seen, opt_out=heard.signals, links=links, reason=reason, content_sha256=digest
        )


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


class Screen:
    """The first look at a page: what of its text, found fast, says that the slow extraction is not worth it.

    `languages` (ISO 639 codes; none: all) and `language_score` are what the walker keeps. Recent texts are
    remembered.
    """

    def __init__(self, languages: tuple[str, ...] = (), language_score: float = 0.0) -> None:
        self._languages, self._least_score = languages, _LENIENCE * language_score
        self._first: OrderedDict[bytes, str] = OrderedDict()

    def reason(self, text: str, url: str) -> str:
        """Why `text` is not worth extracting; empty if it may be."""
        language, score = detect_language(text)
        if reason := judge(Signals(text[:_LOOKED_AT], language), FIRST_LOOK).reason:
            return reason
        if self._languages and (language not in self._languages or score < self._least_score):
            return "pre_language"
        return DUPLICATE if self._is_known(text, url) else ""

    def _is_known(self, text: str, url: str) -> bool:
        """Whether it was met at another URL; the same URL may be fetched again."""
        digest = hashlib.blake2b(" ".join(text.lower().split()).encode("utf-8", "replace"), digest_size=8)
        first = self._first.setdefault(digest.digest(), url)
        self._first.move_to_end(digest.digest())
        if len(self._first) > _MOST_REMEMBERED:
            self._first.popitem(last=False)
        return first != url


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
