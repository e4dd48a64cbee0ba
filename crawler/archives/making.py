"""`Pages`: records of an archive become pages, many at a time and in their order."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from crawler.archives.records import Archived, Record
from crawler.fetch.robots import Rules, interpret
from crawler.page import Link, Page
from crawler.read.pages import answered, leads_to
from crawler.read.pool import Extractors
from crawler.seeds.seed import Progress
from crawler.urls import address, canonical, domain, locate

# Origins whose robots.txt is remembered: what one of them says of training holds for its pages behind it.
_MOST_ORIGINS = 10_000


class Pages:
    """Makes pages of records as a crawl would have made them of the same answers, with the same reasons.

    `token` is the crawler's name, `source` what brought them, `most_bytes` what a page may have.
    """

    def __init__(
        self, extractors: Extractors, token: str, source: str, most_bytes: int, progress: Progress
    ) -> None:
        self._extractors, self._token, self._source = extractors, token, source
        self._most_bytes, self._progress = most_bytes, progress
        self._robots: dict[str, Rules] = {}
        self._moved: set[str] = set()

    async def of(self, records: Iterator[Record], at_once: int) -> AsyncIterator[tuple[Page | None, str]]:
        """Each record's page, None if it is none, and the position behind it.

        So many records are read ahead: with one the extractors are asked in the order of the archive.
        """
        waiting: deque[tuple[asyncio.Task[Page | None], str]] = deque()
        try:
            for record in records:
                self._progress.read += 1
                waiting.append((asyncio.create_task(self._page(record.content)), record.position))
                # In its order, before the next: it may be a robots.txt that says something of what follows.
                await asyncio.sleep(0)
                if len(waiting) > at_once:
                    page, position = waiting.popleft()
                    yield await page, position
            while waiting:
                page, position = waiting.popleft()
                yield await page, position
        finally:
            for page, _ in waiting:
                page.cancel()

    async def _page(self, content: Archived | Page) -> Page | None:
        if isinstance(content, Page):
            return replace(content, source=self._source)
        if (url := address(content.url)) is None:
            self._progress.dropped["bad_url"] += 1
            return None
        content = replace(
            content, url=url, too_large=content.too_large or len(content.body) > self._most_bytes
        )
        if urlsplit(url).path == "/robots.txt" or url in self._moved:
            return self._read_robots(content)
        to = leads_to(content)
        if to and to != url and canonical(to) == canonical(url):
            self._progress.dropped["respelled"] += 1
            return None
        if content.status == 429 or not 200 <= content.status < 500:  # a crawl would have asked again
            self._progress.dropped[f"status_{content.status}"] += 1
            return None
        found = answered(content, self._token, asked_if_changed=True)
        if found.task is None:
            return None if found.fields.get("unchanged") else self._made(content, found.fields)
        extracted, _ = await self._extractors(domain(locate(url).host), *found.task)
        fields = found.with_extracted(extracted)
        rules = self._robots.get(_origin(url))
        signals = rules.opt_out(url) if rules else ()
        return self._made(content, fields | {"opt_out": (*fields["opt_out"], *signals)})

    def _made(self, answer: Archived, fields: dict[str, Any]) -> Page:
        at = answer.at or int(time.time() * 1000)
        known: dict[str, Any] = {"url": answer.url, "status": answer.status, "source": self._source}
        return Page(fetch_no=1, fetched_at=at, promise=0.0, propensity=1.0, **known, **fields)

    def _read_robots(self, answer: Archived) -> Page | None:
        """The sitemaps of a robots.txt; its rules are remembered."""
        if to := leads_to(answer):
            self._moved.add(to)
        text = None if to else interpret(answer.status, answer.body)
        if text is None:
            return None
        rules = self._robots[_origin(answer.url)] = Rules(text, self._token)
        if len(self._robots) > _MOST_ORIGINS:
            del self._robots[next(iter(self._robots))]
        links = tuple(Link(to, "", "robots/sitemap", False) for to in rules.sitemaps(answer.url))
        return self._made(answer, {"reason": "robots", "links": links}) if links else None


def _origin(url: str) -> str:
    return "://".join(urlsplit(url)[:2])
