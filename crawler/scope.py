"""Scope: which URLs belong to a crawl, by where its seeds are and by patterns.

Of its seeds a crawl remembers marks: that a host, a domain, a folder or a page is one of theirs. The frontier
keeps them as it keeps URLs seen (5 bytes each, nobody can forge one), whatever the scope is: it may change.
"""

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, islice
from typing import NamedTuple
from urllib.parse import quote

from crawler.urls import canonical, canonicalize, domain, locate, normal_escapes
from tinylm.errors import ConfigError

SCOPES = ("any", "domains", "hosts", "prefix")
SEED, LIST = "seed", "list"
"""Marks of a page by which it is in scope itself, whatever patterns say; the latter of a sitemap."""
# Folders within each other that are told apart: of 41,922 pages of documentation none is in more than 8.
_DEEPEST = 20
# An optional scheme, an optional host (`*.` before it: and all below it), and the rest.
_PATTERN = re.compile(r"(?:(https?|\*)://)?(?:(\*\.)?([^/*?]+)(?=/|$))?(.*)", re.DOTALL)
# Blanks, a fragment, another scheme, a name before the host.
_NO_PATTERN = re.compile(r"[\s#]|^(?!https?:)[A-Za-z]+://|^[^/]*@|^[a-z]+://[^/]*@")
_PRINTABLE = "".join(map(chr, range(0x21, 0x7F)))


class Mark(NamedTuple):
    """Something of a seed; `host`, or its domain, tells in which partition it is kept."""

    host: str
    text: str

    def fingerprint(self, key: bytes) -> int:
        """64 bits, as those of URLs."""
        return int.from_bytes(hashlib.blake2b(self.text.encode(), digest_size=8, key=key).digest(), "big")


def marks_of(seed: str) -> Iterator[Mark]:
    """All that a seed brings into one scope or another."""
    host = locate(seed).host
    level, folder = list(_folders(seed))[-1]
    yield _mark("domain", domain(host))
    yield _mark("host", host)
    yield _mark("level", host, str(level))
    yield _mark("below", host, folder)
    yield page_mark(SEED, seed)


def _mark(what: str, host: str, detail: str = "") -> Mark:
    return Mark(host, f"{what} {host} {detail}")


def page_mark(role: str, url: str) -> Mark:
    """That a page is a `SEED` or a `LIST`."""
    return Mark(locate(url).host, f"{role} {canonical(url)}")


def _folders(url: str) -> Iterator[tuple[int, str]]:
    """The folders that a URL is in, the widest first, `/`, each with its level; whatever scheme and port."""
    _, _, path = locate(canonical(url)).member.partition("?")[0].partition("/")
    *folders, _ = ("", *path.split("/"))
    return enumerate(accumulate(f"{folder}/" for folder in islice(folders, _DEEPEST)))


@dataclass(frozen=True, slots=True)
class Scope:
    """What may be followed, by one of `SCOPES`, and of that what patterns include and do not exclude."""

    kind: str
    include: re.Pattern[str] | None
    exclude: re.Pattern[str] | None

    def why_not(self, url: str, known: Callable[[Mark], bool], *, is_list: bool = False) -> str:
        """Why a URL is not in scope; empty if it is. `known` says whether a seed brought a mark.

        A seed is, and so is a sitemap where the seeds are, whatever its path: it leads to pages.
        """
        host = locate(url).host
        by_host = self.kind in ("hosts", "prefix")
        near = known(_mark("host", host) if by_host else _mark("domain", domain(host)))
        if not near and self.kind != "any":
            return f"scope_{self.kind}"
        path = url.index("/", len("https://"))
        spelled, reason = url[:path] + normal_escapes(url[path:]), ""
        if self.kind == "prefix" and not any(
            known(_mark("level", host, str(level))) and known(_mark("below", host, folder))
            for level, folder in _folders(url)
        ):
            reason = "scope_prefix"
        elif self.include and not self.include.fullmatch(spelled):
            reason = "scope_include"
        elif self.exclude and self.exclude.fullmatch(spelled):
            reason = "scope_exclude"
        excepted = reason and near and (is_list or any(known(page_mark(role, url)) for role in (SEED, LIST)))
        return "" if excepted else reason


@lru_cache(8)
def scope_of(kind: str, include: Sequence[str], exclude: Sequence[str]) -> Scope | None:
    """The scope of these settings; None if all is in it. Raises ConfigError for one that is none."""
    if kind not in SCOPES:
        raise ConfigError(f"scope = {kind!r}: there is {', '.join(SCOPES)}")
    if kind == "any" and not include and not exclude:
        return None
    return Scope(kind, _any_of("include", include), _any_of("exclude", exclude))


def _any_of(setting: str, patterns: Sequence[str]) -> re.Pattern[str] | None:
    expressions = [each for pattern in patterns for each in _expressions(setting, pattern)]
    return re.compile("|".join(expressions), re.DOTALL) if expressions else None


def _expressions(setting: str, pattern: str) -> Iterator[str]:
    """Regular expressions, of linear time, for the URLs that a pattern stands for.

    `*` is any characters: `host/path`, `*.host/path` (the host and all below it), `/path` of any host, or
    `*anything`; a host without a path is all that it has.
    """
    scheme, below, host, rest = _PATTERN.fullmatch(pattern).groups("")  # type: ignore[union-attr]
    named = (canonicalize(f"http://{host}/") or "")[len("http://") : -1]
    if not (host or rest) or bool(host) != bool(named) or _NO_PATTERN.search(pattern):
        raise ConfigError(
            f"{setting} = {pattern!r}: a pattern is a URL without fragment, in which * is any characters, "
            'such as "docs.example.org/guide/*", "*.example.org", "/tag/*" or "*.pdf"'
        )
    begins = f"{scheme.replace('*', '') or 'https?'}://"
    if host:
        below_it = r"(?:[^/]*\.)?" if below else ""
        yield rf"{begins}{below_it}{re.escape(named)}(?::\d+)?{_glob(rest or '/*')}"
    if not host or (below and not rest):  # *.pdf
        yield begins + ("[^/]*" if rest.startswith("/") else "") + _glob(f"{below}{host}{rest}")


def _glob(text: str) -> str:
    first, *others = map(re.escape, re.split(r"\*+", normal_escapes(quote(text, _PRINTABLE))))
    if not others:
        return first
    return first + "".join(f"(?>.*?{other})" for other in others[:-1]) + f".*{others[-1]}"
