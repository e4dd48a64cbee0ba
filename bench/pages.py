"""Real documentation pages for benches, and their prose, extracted as a crawl extracts it."""

import csv
import io
import tarfile
from collections.abc import Container, Iterable, Iterator
from functools import cache
from random import Random

from backports import zstd

from bench.crawl import DATA
from crawler.page import Extracted, Page
from crawler.read.extract import Extractor
from shards.text.content import Content, values

TRAINED_ON = ("docs.djangoproject.com", "docs.python.org", "docs.scrapy.org", "docs.sqlalchemy.org")
HELD_OUT = ("docs.pytest.org",)
_NO_PAGES = ("jakevdp.github.io",)
"""In the table and in the graph only."""


def table() -> list[dict[str, str]]:
    """A row for every page whose bytes are there."""
    with zstd.open(DATA / "pages.tsv.zst", "rt", encoding="utf-8") as file:
        rows = csv.DictReader(file, delimiter="\t")
        return [row for row in rows if row["host"] not in _NO_PAGES]


def bodies(rows: Iterable[dict[str, str]]) -> Iterator[tuple[dict[str, str], bytes]]:
    """The pages of these rows of the table, host by host."""
    wanted = {row["file"]: row for row in rows}
    for host in sorted({row["host"] for row in wanted.values()}):
        for name, body in _files(host, wanted):
            yield wanted[name], body


def body(row: dict[str, str]) -> bytes:
    """One page, in any order: the hosts that were asked for stay in memory, 900 MB if it is all of them."""
    return _host(row["host"])[row["file"]]


@cache
def _host(host: str) -> dict[str, bytes]:
    return dict(_files(host))


def _files(host: str, wanted: Container[str] | None = None) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of the files of a host; all, or those that are wanted."""
    with tarfile.open(fileobj=io.BytesIO(zstd.open(DATA / f"{host}.tar.zst").read())) as archive:
        for member in archive:
            name = member.name.removeprefix("./")
            if (wanted is None or name in wanted) and (file := archive.extractfile(member)):
                yield name, file.read()


def prose(hosts: tuple[str, ...], most_bytes: int) -> list[str]:
    """English prose pages of `hosts` in a fixed random order, up to about `most_bytes` of text."""
    english = [row for row in table() if row["kind"] == "prose" and row["lang"].startswith("en")]
    pages = {row["file"]: (row, body) for row, body in bodies(r for r in english if r["host"] in hosts)}
    order = sorted(pages)
    Random(1).shuffle(order)
    extract = Extractor()
    texts = (
        extract(body, row["url"], "text/html", False, 10.0).text
        for row, body in map(pages.__getitem__, order)
    )
    return head(filter(None, texts), most_bytes)


def head(texts: Iterable[str], most_bytes: int) -> list[str]:
    """The first of `texts`, up to about `most_bytes`."""
    found: list[str] = []
    for text in texts:
        found.append(text)
        most_bytes -= len(text.encode())
        if most_bytes <= 0:
            break
    return found


def fetched(url: str, found: Extracted) -> Page:
    """The page that a crawl makes of what it found at `url`, as far as it is judged by it."""
    return Page(
        url=url,
        fetch_no=1,
        fetched_at=0,
        status=200,
        promise=0.5,
        propensity=1.0,
        reason=found.reason,
        **values(Content, found),
    )
