"""`tinylm seed commoncrawl`: URLs of Common Crawl's columnar index."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from crawler.config import CrawlConfig, FrontierConfig
from crawler.seeds.config import SeedsTo
from deploy.sources.seed import give

if TYPE_CHECKING:
    from crawler.seeds.ledger import Ledger
    from crawler.seeds.seed import Batch, Progress


def commoncrawl(
    index: Annotated[tuple[str, ...], Parameter(negative=())],
    /,
    *,
    where: str = "",
    to: SeedsTo = SeedsTo(),
    frontier: FrontierConfig = FrontierConfig(),
    crawl: CrawlConfig = CrawlConfig(),
) -> None:
    """Give the URLs of pages in INDEX, Parquet files of Common Crawl's columnar index, by path or URL.

    Parameters
    ----------
    where
        Which rows, in SQL: "content_languages = 'eng' and url_host_tld = 'org'".
    """
    from crawler.archives.commoncrawl import Index
    from crawler.archives.places import Places

    def found(ledger: "Ledger", progress: "Progress") -> "Iterator[Batch]":
        for place in index:
            yield from Index(places, place, where).seeds(ledger, progress)

    with Places(crawl) as places:
        give("commoncrawl", found, frontier, to)
