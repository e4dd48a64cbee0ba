"""Settings of the sources of seeds, a class each. Imported by --help: nothing heavy is imported here."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class SeedsTo:
    """Where seeds go."""

    out: Path | None = None
    """A file for them instead of the crawl, begun anew: .parquet, .csv, or - for stdout."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class CommonCrawl:
    """Records that Common Crawl's columnar index says the place of."""

    index: Annotated[tuple[str, ...], Parameter(negative=())] = ()
    """Its Parquet files, by path or URL: only the records of their rows are read, by byte ranges."""
    where: str = ""
    """Which rows, in SQL: "content_languages = 'eng' and url_host_tld = 'org'"."""
    base: str = "https://data.commoncrawl.org/"
    """Where the files with the records are: a folder, or a URL."""
