"""Real prose for training benches: documentation pages, extracted as a crawl extracts them."""

import csv
import io
import tarfile
from random import Random

from backports import zstd

from bench.crawl import DATA
from crawler.extract import Extractor

TRAINED_ON = ("docs.djangoproject.com", "docs.python.org", "docs.scrapy.org", "docs.sqlalchemy.org")
HELD_OUT = ("docs.pytest.org",)


def prose(hosts: tuple[str, ...], most_bytes: int) -> list[str]:
    """English prose pages of `hosts` in a fixed random order, up to about `most_bytes` of text."""
    with zstd.open(DATA / "pages.tsv.zst", "rt", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t") if row["host"] in hosts]
    wanted = {
        row["file"]: row["url"] for row in rows if row["kind"] == "prose" and row["lang"].startswith("en")
    }
    pages: dict[str, bytes] = {}
    for host in hosts:
        with tarfile.open(fileobj=io.BytesIO(zstd.open(DATA / f"{host}.tar.zst").read())) as archive:
            for member in archive:
                name = member.name.removeprefix("./")
                if name in wanted and (file_ := archive.extractfile(member)):
                    pages[name] = file_.read()
    order = sorted(pages)
    Random(1).shuffle(order)
    extract, found = Extractor(), []
    for name in order:
        text = extract(pages[name], wanted[name], "text/html", False, 10.0).text
        if text:
            found.append(text)
            most_bytes -= len(text.encode())
        if most_bytes <= 0:
            break
    return found
