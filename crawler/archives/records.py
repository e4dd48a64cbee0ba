"""What an archive holds: answers of servers, or pages that are ready, and where in it they stand."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from crawler.page import Page
from crawler.seeds.seed import Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Archived:
    """An answer as the crawler sees it: its encodings undone, if there is anything in it to be read."""

    url: str
    status: int
    headers: tuple[tuple[str, str], ...]
    """Names in lower case."""
    body: bytes
    at: int = 0
    """When it was fetched: UTC, milliseconds; 0 if nobody says."""
    too_large: bool = False
    """Whether there was more of it than a page may have."""

    def header(self, name: str) -> str:
        """The last of this name, its bytes read as Latin-1; empty if there is none."""
        return next((value for known, value in reversed(self.headers) if known == name), "")


class Record(NamedTuple):
    """One of an archive's, in its order."""

    content: Archived | Page
    """A page has its text; an answer has to be extracted."""
    position: str
    """Where reading goes on behind it."""


Reader = Callable[[str, str, Progress], Iterator[Record]]
"""Reads the place that is named first from a position on, "" for its beginning; counts what it leaves out."""
