"""Scope: which URLs belong to a crawl, by where its seeds are and by patterns.

Of its seeds a crawl remembers marks: that a domain, a host, a folder or a page is theirs. They are addresses
with a fragment, which no page has. The frontier keeps them as it keeps URLs seen, in 5 bytes each, whatever
the scope is, so that it may change.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, islice
from urllib.parse import quote

from crawler.urls import canonical, canonicalize, domain, locate
from tinylm.errors import ConfigError

SCOPES = ("any", "domains", "hosts", "prefix")
SEED_MARK, LIST_MARK = "#seed", "#list"
"""Behind the address of a seed or of a sitemap: it is in scope whatever patterns say."""
# Folders within each other that are told apart: of 41,922 pages of documentation none is in more.
_DEEPEST = 8
# An optional scheme, an optional host (`*.` before it: and all below it), and the rest.
_PATTERN = re.compile(r"(?:(https?|\*)://)?(?:(\*\.)?([^/*?]+)(?=/|$))?(.*)", re.DOTALL)
# Blanks, a fragment, another scheme, a name before the host.
_NO_PATTERN = re.compile(r"[\s#]|^(?!https?:)[A-Za-z]+://|^[^/]*@|^[a-z]+://[^/]*@")
_PRINTABLE = "".join(map(chr, range(0x21, 0x7F)))


def marks_of(seed: str) -> Iterator[str]:
    """All that a seed brings into one scope or another."""
    host = locate(seed).host
    yield from (_domain_mark(host), _host_mark(host), _folder_marks(seed)[-1], seed + SEED_MARK)


def _domain_mark(host: str) -> str:
    return f"https://{domain(host)}/#domain"


def _host_mark(host: str) -> str:
    return f"https://{host}/#host"


def _folder_marks(url: str) -> list[str]:
    """Of the folders that a URL is in, whatever its scheme and port; the widest, `/`, first."""
    host, member = locate(canonical(url))
    *folders, _ = ("", *member.partition("?")[0].split("/")[1:])
    paths = accumulate(f"{folder}/" for folder in islice(folders, _DEEPEST + 1))
    return [f"https://{host}{path}#folder" for path in paths]


@dataclass(frozen=True, slots=True)
class Scope:
    """What may be followed, by one of `SCOPES`, and of that what patterns include and do not exclude."""

    kind: str
    include: re.Pattern[str] | None
    exclude: re.Pattern[str] | None

    def why_not(self, url: str, known: Callable[[str], bool], *, is_list: bool = False) -> str:
        """Why a URL is not in scope; empty if it is. `known` says whether a mark was set.

        A seed is, and so is a sitemap where the seeds are, whatever its path: it leads to pages.
        """
        host, reason = locate(url).host, ""
        near = known(_host_mark(host) if self.kind in ("hosts", "prefix") else _domain_mark(host))
        if not near and self.kind != "any":
            return f"scope_{self.kind}"
        # As it was linked and with other escapes, its query in its order and sorted.
        spellings = {url, canonical(url)}
        if self.kind == "prefix" and not any(map(known, _folder_marks(url))):
            reason = "scope_prefix"
        elif self.include and not any(map(self.include.fullmatch, spellings)):
            reason = "scope_include"
        elif self.exclude and any(map(self.exclude.fullmatch, spellings)):
            reason = "scope_exclude"
        excepted = reason and near and (is_list or known(url + SEED_MARK) or known(url + LIST_MARK))
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
    first, *others = map(re.escape, re.split(r"\*+", quote(text, _PRINTABLE)))
    if not others:
        return first
    return first + "".join(f"(?>.*?{other})" for other in others[:-1]) + f".*{others[-1]}"
