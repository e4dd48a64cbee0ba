"""Settings of the sources of seeds, a class each. Imported by --help: nothing heavy is imported here."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from tinylm.config import MOST, listed, require_within


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class SeedsTo:
    """Where seeds go."""

    out: Annotated[Path | None, Parameter(allow_leading_hyphen=True)] = None
    """A file for them instead of the crawl, begun anew: .parquet, .csv, or - for stdout."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class RedditConfig:
    """Which of Reddit's submissions become seeds."""

    least_votes: float = 3.0
    """Votes of all submissions of a page from which on it is a seed (3: WebText)."""
    media_hosts: tuple[str, ...] = ()
    """Hosts whose pages are no text, beside those that are known; with all below them."""

    def __post_init__(self) -> None:
        require_within(self, 0, MOST, "least_votes")
        object.__setattr__(self, "media_hosts", listed(self.media_hosts))
