"""Real documentation pages for benches, and their prose, extracted as a crawl extracts it."""

import csv
import io
import tarfile
from collections.abc import Iterable, Iterator
from random import Random

from backports import zstd

from bench.crawl import DATA
from crawler.extract import Extractor

TRAINED_ON = ("docs.djangoproject.com", "docs.python.org", "docs.scrapy.org", "docs.sqlalchemy.org")
HELD_OUT = ("docs.pytest.org",)


def table() -> list[dict[str, str]]:
    """A row for every page there is."""
    with zstd.open(DATA / "pages.tsv.zst", "rt", encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def bodies(rows: Iterable[dict[str, str]]) -> Iterator[tuple[dict[str, str], bytes]]:
    """The pages of these rows of the table, host by host."""
    wanted = {row["file"]: row for row in rows}
    for host in sorted({row["host"] for row in wanted.values()}):
        with tarfile.open(fileobj=io.BytesIO(zstd.open(DATA / f"{host}.tar.zst").read())) as archive:
            for member in archive:
                row = wanted.get(member.name.removeprefix("./"))
                if row and (file := archive.extractfile(member)):
                    yield row, file.read()


def prose(hosts: tuple[str, ...], most_bytes: int) -> list[str]:
    """English prose pages of `hosts` in a fixed random order, up to about `most_bytes` of text."""
    english = [row for row in table() if row["kind"] == "prose" and row["lang"].startswith("en")]
    pages = {row["file"]: (row, body) for row, body in bodies(r for r in english if r["host"] in hosts)}
    order = sorted(pages)
    Random(1).shuffle(order)
    extract, found = Extractor(), []
    for name in order:
        row, body = pages[name]
        text = extract(body, row["url"], "text/html", False, 10.0).text
        if text:
            found.append(text)
            most_bytes -= len(text.encode())
        if most_bytes <= 0:
            break
    return found
