"""`tinylm seed search`: what search engines find, of queries from a file or from the corpus itself."""

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from cyclopts import App

from crawler.config import CrawlConfig, FrontierConfig
from crawler.errors import SeedError
from crawler.seeds.config import SearchConfig, SeedsTo
from crawler.seeds.ledger import Ledger
from crawler.seeds.seed import Batch, Progress
from deploy.sources.seed import give
from tinylm.config import layers
from tinylm.terminal import say

if TYPE_CHECKING:
    from crawler.seeds.search import Search

app = App(name="search", config=layers(frontier=FrontierConfig, crawl=CrawlConfig, search=SearchConfig))


@app.default
def search(
    *,
    providers: bool = False,
    to: SeedsTo = SeedsTo(),
    search: SearchConfig = SearchConfig(),
    frontier: FrontierConfig = FrontierConfig(),
    crawl: CrawlConfig = CrawlConfig(),
) -> None:
    """Ask a search engine; the rank of each result becomes its prior.

    Parameters
    ----------
    providers
        Only list who can be asked, and what their terms say.
    """
    from crawler.fetch.client import Client
    from crawler.seeds.search import Search, own_networks
    from crawler.seeds.search import search as results_of

    if providers:
        _list(search)
        return

    def found(ledger: Ledger, progress: Progress) -> Iterator[Batch]:
        allowed = replace(crawl, allowed_networks=(*crawl.allowed_networks, *own_networks(search)))
        with Client.sync(allowed) as ask:
            engine = Search(search, ask, ledger, progress)
            queries = queries_of(engine, search, frontier)
            if not queries:
                what = search.queries or f"the corpus in {frontier.shards}"
                raise SeedError(f"{what}: no query comes of it; give some with --queries FILE")
            progress.unit, progress.total = "queries", len(queries)
            yield from results_of(queries, engine, progress)

    give("search", found, frontier, to)


def queries_of(engine: "Search", config: SearchConfig, frontier: FrontierConfig) -> list[str]:
    """Of the file, all; of the corpus, new ones, after those whose seeds nobody was given yet."""
    if not config.queries:
        from ranker.queries import distinctive
        from shards.manifest import is_corpus

        left = engine.answered()
        asked = engine.given().union(left)
        return left + (
            distinctive(frontier.shards, config.number, asked) if is_corpus(frontier.shards) else []
        )
    try:
        lines = config.queries.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SeedError(f"{config.queries}: no text file of queries, one a line ({error})") from error
    words = (" ".join(line.split()) for line in lines if not line.lstrip().startswith("#"))
    return [query for query in dict.fromkeys(words) if query]


def _list(config: SearchConfig) -> None:
    from rich.table import Table

    from crawler.seeds.search import PROVIDERS
    from deploy.console import Console

    table = Table("provider", "key", "quota unless it says", "its terms on results and training")
    for name, make in PROVIDERS.items():
        provider = make(config)
        quota = ", ".join(f"{limit:,} in {seconds:,} s" for limit, seconds in provider.windows)
        table.add_row(name, provider.key or "none", quota, provider.terms)
    Console().print(table)
    say("Any other: --provider MODULE:CLASS, a class of a few lines (docs/sources.md#search)")
