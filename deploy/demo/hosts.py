"""How the hosts of the local web behave: most as they should, some with a fault (see docs/local-web.md)."""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from html import escape
from zlib import crc32

from deploy.demo.pages import Pages
from deploy.demo.sites import PYTHON, SUFFIX, Site, Web

TEXT = "text/plain; charset=utf-8"
CALENDAR, MIRROR, REDIRECTS = "calendar.test", "mirror.test", "redirects.test"
BUSY, PRIVATE, SLOW = "busy.test", "private.test", "slow.test"
# Thirty times the demo's own delay, so that a crawler that overlooks the header comes back too early.
_RETRY_AFTER_SECONDS = 3
# Well under the demo's timeout of 15 s, the slow host is slow, not dead.
_SLOW_SECONDS = 2.0
# Often enough that a crawl of a few dozen pages meets several refusals, seldom enough that it gets through.
_REFUSE_EVERY = 5
_MIRRORED_SITES = 3
_ALLOW_ALL = "User-agent: *\nDisallow:\n"
_ALLOW_SLOWLY = "User-agent: *\nCrawl-delay: 1\nDisallow:\n"
_FORBID_NEARLY_ALL = "User-agent: *\nAllow: /xml\nDisallow: /\n"
_REDIRECTS = {
    "/moved": (301, "http://python.test/"),
    "/chain/1": (302, "/chain/2"),
    "/chain/2": (307, "/chain/3"),
    "/chain/3": (308, "/"),
    "/loop/a": (302, "/loop/b"),
    "/loop/b": (302, "/loop/a"),
    "/metadata": (302, "http://169.254.169.254/"),
    "/database": (302, "http://127.0.0.1:6379/"),
}
# ASCII: `int` reads other digits too, and every day would have as many addresses as there are scripts.
_DAY_OR_MONTH = re.compile(r"/(\d{4})/(\d{2})(?:/(\d{2}))?\.html", re.ASCII)
_VIEWS = ("day", "week", "list", "print")
_FIRST_DAY = date(2024, 1, 1)


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: `headers` beyond the body's type and length."""

    status: int = 200
    body: bytes = b""
    content_type: str = "text/html; charset=utf-8"
    headers: dict[str, str] = field(default_factory=dict)


_NOT_FOUND = Reply(404, b"<!DOCTYPE html><title>Not found</title><h1>Not found</h1>")


def _redirect(status: int, location: str) -> Reply:
    """A redirect with a line for people."""
    body = f'<!DOCTYPE html><title>Moved</title><p><a href="{escape(location)}">Moved</a></p>'
    return Reply(status, body.encode(), headers={"Location": location})


@dataclass(kw_only=True)
class Host(ABC):
    """One virtual host: its robots.txt (None: there is none) and how many seconds it takes to answer."""

    kind: str
    robots: str | None = _ALLOW_ALL
    delay: float = 0.0

    def reply(self, path: str, query: str) -> Reply:
        """The answer for a decoded path and a raw query string; 404 for what is not there."""
        if path == "/robots.txt":
            return _NOT_FOUND if self.robots is None else Reply(body=self.robots.encode(), content_type=TEXT)
        return self.answer(path, query)

    @abstractmethod
    def answer(self, path: str, query: str) -> Reply:
        """The answer for any path but /robots.txt."""


@dataclass(kw_only=True)
class Documentation(Host):
    """The pages of one site."""

    kind: str = "documentation"
    site: Site
    pages: Pages

    def answer(self, path: str, query: str) -> Reply:  # noqa: ARG002 (a page has no variants)
        page = self.pages.page(self.site.host, path)
        return Reply(body=page) if page else _NOT_FOUND


@dataclass(kw_only=True)
class Busy(Documentation):
    """Refuses every fifth request, counted over all paths but robots.txt, and says when to come again."""

    kind: str = "busy"
    requests: int = 0

    def answer(self, path: str, query: str) -> Reply:
        self.requests += 1
        if self.requests % _REFUSE_EVERY == 0:
            return Reply(429, b"Busy.\n", TEXT, {"Retry-After": str(_RETRY_AFTER_SECONDS)})
        return super().answer(path, query)


@dataclass(kw_only=True)
class Mirror(Host):
    """The same pages as other hosts have; only its home page is its own."""

    kind: str = "mirror"
    originals: Sequence[Documentation]

    def answer(self, path: str, query: str) -> Reply:
        if path == "/":
            modules = (name for original in self.originals for name in original.site.modules)
            items = (f'<li><a href="/{name}.html">{name}</a></li>' for name in modules)
            return _plain_page("Mirror", f"<ul>{''.join(items)}</ul>")
        replies = (original.answer(path, query) for original in self.originals)
        return next((reply for reply in replies if reply.status != 404), _NOT_FOUND)


@dataclass(kw_only=True)
class Calendar(Host):
    """A trap: every page links to the days and months around it and to other views of itself."""

    kind: str = "trap"

    def answer(self, path: str, query: str) -> Reply:
        if path == "/":
            return _redirect(302, _day_path(_FIRST_DAY))
        match = _DAY_OR_MONTH.fullmatch(path)
        try:
            year, month, day = map(int, match.groups("1")) if match else (0, 0, 0)
            return _calendar_page(date(year, month, day), path, query)
        except ValueError:  # there is no such day
            return _NOT_FOUND


def _calendar_page(day: date, path: str, query: str) -> Reply:
    # The first and the last day, and the first and the last year, have no neighbours on one side: no links.
    first = day.replace(day=1)
    days = [day + timedelta(step) for step in (-1, 1)] if date.min < day < date.max else []
    months = [first - timedelta(1), first + timedelta(32)] if date.min.year < day.year < date.max.year else []
    known = f"{query}&" if query else ""
    links = [
        *((f"{other:%A, %d %B}", _day_path(other)) for other in days),
        *((f"{other:%B}", f"{_day_path(other)[:-8]}.html") for other in months),
        *((f"View: {view}", f"{path}?{known}view={view}") for view in _VIEWS),
    ]
    items = "".join(f'<li><a href="{escape(href)}">{text}</a></li>' for text, href in links)
    return _plain_page(f"{day:%A, %d %B %Y}", f"<p>No events.</p><ul>{items}</ul>")


def _day_path(day: date) -> str:
    return f"/{day.isoformat().replace('-', '/')}.html"


@dataclass(kw_only=True)
class Redirects(Host):
    """Addresses that lead elsewhere, some of them where no crawler may go."""

    kind: str = "redirects"

    def answer(self, path: str, query: str) -> Reply:  # noqa: ARG002 (redirects have no variants)
        if path in _REDIRECTS:
            return _redirect(*_REDIRECTS[path])
        items = "".join(f'<li><a href="{source}">{source[1:]}</a></li>' for source in _REDIRECTS)
        return _plain_page("Old addresses", f"<ul>{items}</ul>") if path == "/" else _NOT_FOUND


def _plain_page(title: str, body: str) -> Reply:
    html = (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{title}</title></head>'
        f"<body><main><h1>{title}</h1>{body}</main></body></html>"
    )
    return Reply(body=html.encode())


def build_hosts(web: Web) -> dict[str, Host]:
    """All hosts by name: one a site, and the three that have none."""
    faulty = (f"{PYTHON}{SUFFIX}", BUSY, PRIVATE, SLOW)
    ordinary = sorted(
        (site for site in web.sites.values() if site.host not in faulty),
        key=lambda site: (len(site.modules), site.host),
    )
    # From the smallest site to the largest: the mirrored ones are larger than most and far from the largest,
    # and the one that asks for a delay of a second is the median.
    middle = len(ordinary) * 2 // 3
    mirrored = [site.host for site in ordinary[middle : middle + _MIRRORED_SITES]]
    pages = Pages(web, {host: _notices(host, mirrored) for host in web.sites})
    documentation = {host: _documentation(site, pages) for host, site in web.sites.items()}
    for site in ordinary[len(ordinary) // 2 :][:1]:
        documentation[site.host].robots = _ALLOW_SLOWLY
    mirror = Mirror(originals=[documentation[host] for host in mirrored])
    return {**documentation, MIRROR: mirror, CALENDAR: Calendar(), REDIRECTS: Redirects()}


def _documentation(site: Site, pages: Pages) -> Documentation:
    if site.host == BUSY:
        return Busy(site=site, pages=pages)
    if site.host == SLOW:
        return Documentation(site=site, pages=pages, kind="slow", delay=_SLOW_SECONDS)
    if site.host == PRIVATE:
        return Documentation(site=site, pages=pages, kind="private", robots=_FORBID_NEARLY_ALL)
    robots = None if crc32(site.host.encode()) % 8 == 0 else _ALLOW_ALL
    return Documentation(site=site, pages=pages, robots=robots)


def _notices(host: str, mirrored: Sequence[str]) -> list[tuple[str, str]]:
    """The links in the footer of a host's pages: some lead to where a crawler should not stay."""
    # A hash and no random number: the same packages make the same web on every machine.
    draw = crc32(host.encode(), 1)
    notices = [
        ("Events", CALENDAR, draw % 4 == 0),
        ("Old addresses", REDIRECTS, draw % 4 == 1),
        ("Members", PRIVATE, draw % 4 == 2),
        ("Mirror", MIRROR, host in mirrored),
    ]
    return [(text, f"http://{target}/") for text, target, shown in notices if shown]
