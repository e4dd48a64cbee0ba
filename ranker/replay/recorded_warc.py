"""A recorded web out of WARC files: their pages, with the links that the crawler would find in them."""

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crawler.read.extract import Extractor
from crawler.read.optout import from_headers
from crawler.urls import canonicalize, fingerprint
from crawler.warc import Archived, WarcReader
from ranker.replay.recorded import RecordedWeb, RecordingError, build

_HTML = ("text/html", "application/xhtml+xml")
_SECONDS = 10.0
"""That the extraction of a page may take."""

log = logging.getLogger(__name__)


class _Page(NamedTuple):
    """What is kept of a response."""

    url: str
    targets: NDArray[np.uint64]
    columns: tuple[Any, ...]


_COLUMNS = {"status": int, "bytes": int, "text_chars": int, "links": int, "language": object}


def read_warc(paths: Iterable[Path], worth: str) -> RecordedWeb:
    """The HTML pages and redirects of these files, or of all WARC files in these folders.

    `worth` is an expression (`ranker.replay.worth`) over `status`, `bytes` of the body, `text_chars` of the
    main text, `links` to different URLs, and `language`; only status 200 has text and links of its own. Of
    several responses with one URL the last one read counts. In the main thread: a page may take 10 s, most
    take 30 ms. What is damaged is skipped, and how much of it is a warning in the log. Raises RecordingError
    for a file that cannot be opened, or if there is no page; ConfigError for a worth that is none.
    """
    extract = Extractor()
    pages: dict[int, _Page] = {}
    files = list(_files(paths))
    for path in files:
        for page in _pages(path, extract):
            pages[fingerprint(page.url)] = page
    found = list(pages.values())
    keys = np.fromiter(pages, np.uint64, len(pages))
    values = zip(*(page.columns for page in found), strict=True) if found else ([] for _ in _COLUMNS)
    return build(
        files[0].name.partition(".warc")[0] if files else "no WARC file",
        keys.view(np.int64),
        [page.url for page in found],
        np.repeat(keys, [len(page.targets) for page in found]).view(np.int64),
        np.concatenate([np.zeros(0, np.uint64), *(page.targets for page in found)]).view(np.int64),
        {name: np.array(column, kind) for (name, kind), column in zip(_COLUMNS.items(), values, strict=True)},
        worth,
    )


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted((*path.glob("*.warc"), *path.glob("*.warc.gz")))
        else:
            yield path


def _pages(path: Path, extract: Extractor) -> Iterator[_Page]:
    reader = WarcReader(path)
    count = 0
    try:
        for response in reader:
            if page := _page(response, extract):
                count += 1
                yield page
    except OSError as error:
        raise RecordingError(f"{path}: cannot be read ({error.strerror})") from error
    log.info("%s: %d pages", path, count)
    if reader.broken:
        log.warning("%s: %d places are damaged and were skipped", path, reader.broken)


def _page(response: Archived, extract: Extractor) -> _Page | None:
    """None if the response is not of a page."""
    url = canonicalize(response.url)
    if url is None:
        return None
    content_type, location = response.header("content-type"), response.header("location")
    targets: list[str] = []
    text = language = ""
    if 300 <= response.status < 400 and location:
        targets = [target] if (target := canonicalize(location, url)) else []
    elif content_type.partition(";")[0].strip().lower() not in _HTML:
        return None
    elif response.status == 200:
        nofollow = from_headers(response.headers, "").nofollow
        found = extract(response.body, url, content_type, nofollow, _SECONDS)
        targets = [link.url for link in found.links if not link.nofollow]
        text, language = found.text, found.language
    keys = np.array([fingerprint(target) for target in targets], np.uint64)
    return _Page(url, keys, (response.status, len(response.body), len(text), len(targets), language))
