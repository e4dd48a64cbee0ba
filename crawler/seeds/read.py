"""Seeds: where a crawl begins, and how much each beginning is trusted.

A seed is given as a URL, as a text file of URLs (one a line, a prior after a tab if there is one, # comments)
or as a dump of Reddit submissions, whose karma becomes the prior.
"""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from crawler.errors import SeedError
from crawler.seeds.config import RedditConfig
from crawler.seeds.ledger import Ledger
from crawler.seeds.seed import Progress, Seed
from crawler.urls import address

_BLANK = re.compile(r"\s")
DUMP_SUFFIXES = (".zst", ".xz", ".bz2", ".gz", ".ndjson", ".jsonl")


def read_seeds(given: str) -> Iterator[Seed]:
    """The seeds that one argument stands for: a URL, a file of URLs, or a Reddit dump.

    Raises SeedError if it is none of them, naming the file and the line.
    """
    if "://" in given:
        yield Seed(_checked(given, "the command line"), 1.0, "chosen")
        return
    path = Path(given)
    if not path.is_file():
        raise SeedError(f"{given}: neither a URL (with http:// or https://) nor a file that is there")
    if path.suffix in DUMP_SUFFIXES:
        from crawler.seeds.karma import FILE_NAME, seeds_of_dumps  # its DuckDB is an extra

        # A file, so that what memory has no room for does not end in the current folder.
        with TemporaryDirectory() as folder, Ledger(":memory:") as ledger:
            place = Path(folder) / FILE_NAME
            for batch in seeds_of_dumps([path], RedditConfig(), place, ledger, Progress()):
                yield from batch.seeds
    else:
        yield from _read_list(path)


def _read_list(path: Path) -> Iterator[Seed]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (UnicodeDecodeError, OSError) as error:
        raise SeedError(f"{path}: not a text file ({error})") from error
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        where = f"{path}, line {number}"
        url, _, prior = text.partition("\t")
        yield Seed(_checked(url.strip(), where), _prior(prior.strip(), where), path.name)


def _prior(text: str, where: str) -> float:
    try:
        prior = float(text or 1)
    except ValueError:
        prior = 0.0
    if not 0 < prior < math.inf:
        raise SeedError(f"{where}: the prior {text!r} is not a number above 0")
    return prior


def _checked(url: str, where: str) -> str:
    found = None if _BLANK.search(url) else address(url)
    if found is None:
        raise SeedError(f"{where}: {url!r} is not an http or https URL")
    return found
