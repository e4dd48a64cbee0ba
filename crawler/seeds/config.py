"""Settings of the sources of seeds, a class each. Imported by --help: nothing heavy is imported here."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

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
    road: Literal["dumps", "archive", "top", "stream"] = "dumps"
    """What is named: files of the dumps, or subreddits, to be asked of Arctic Shift's archive, or of Reddit's
    own API: what is voted most, or what is new for as long as it runs."""
    top_of: Literal["hour", "day", "week", "month", "year", "all"] = "all"
    """With `top`, of when."""
    after: int = 0
    """With `archive`, seconds since 1970 from which on."""
    archive: str = "https://arctic-shift.photon-reddit.com"
    """Where the archive is."""

    def __post_init__(self) -> None:
        require_within(self, 0, MOST, "least_votes", "after")
        object.__setattr__(self, "media_hosts", listed(self.media_hosts))


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


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class SearchConfig:
    """Who is asked, and what."""

    provider: str = "searxng"
    """searxng, brave, or MODULE:CLASS of your own."""
    searxng: str = "http://127.0.0.1:8888"
    """Where your SearXNG is."""
    queries: Path | None = None
    """A file of queries, one a line; without, they are made of what distinguishes the corpus's best texts."""
    number: int = 20
    """Queries that are made, at most."""
    result_pages: int = 1
    """Pages of results of each query."""

    def __post_init__(self) -> None:
        require_within(self, 1, 10_000, "number", "result_pages")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class HostsConfig:
    """What is known of hosts before they are asked, and whether and how they are."""

    known: Annotated[tuple[Path, ...], Parameter(negative=())] = ()
    """Common Crawl's Host Index or ranks as Parquet: who refuses, or writes in others, is not asked."""
    probe: bool = False
    """Ask the others whether they are there, and leave out who is not; without, all of them are seeds."""
    rate: float = 10.0
    """Probes a second, to all together."""
    description: str = ""
    """URL of your probing.txt (RFC 9511), sent with each probe."""

    def __post_init__(self) -> None:
        require_within(self, 0.01, 1000, "rate")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class WikiConfig:
    """Which of a wiki's articles."""

    category: str = ""
    """Those of a category only, as it is called in the wiki."""
    search: str = ""
    """Those that the wiki's own search finds."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class GrowConfig:
    """What a running crawl draws further seeds from."""

    sources: Annotated[tuple[str, ...], Parameter(alias="--grow")] = ()
    """Sources, of which those that pay are drawn from: `search`, hosts:LIST, or files of seeds."""
    every: int = 100
    """Fetches after which the next seeds are drawn; at once when nothing may be asked."""
    draw: int = 20
    """Seeds that are drawn together, of search all results of a query."""
    price: float = 1.0
    """What a billed request costs, in fetches."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "sources", listed(self.sources))
        require_within(self, 1, MOST, "every", "draw")
        require_within(self, 0, MOST, "price")
