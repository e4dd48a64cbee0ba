"""`tinylm seed sites` and `tinylm seed wiki`: what somebody chose as a whole."""

from functools import partial

from cyclopts import App

from crawler.config import CrawlConfig, FrontierConfig
from crawler.seeds.config import SeedsTo, WikiConfig
from deploy.sources.seed import give
from tinylm.config import layers

sites_app = App(name="sites", config=layers(frontier=FrontierConfig))
wiki_app = App(name="wiki", config=layers(frontier=FrontierConfig, crawl=CrawlConfig, wiki=WikiConfig))


@sites_app.default
def sites(named: list[str], *, to: SeedsTo = SeedsTo(), frontier: FrontierConfig = FrontierConfig()) -> None:
    """Take sites (hosts or URLs) with their sitemaps, and the feeds and sites that OPML files list."""
    from crawler.seeds.sites import seeds_of_sites

    give("sites", partial(seeds_of_sites, named), frontier, to)


@wiki_app.default
def wiki(
    api: str,
    *,
    to: SeedsTo = SeedsTo(),
    wiki: WikiConfig = WikiConfig(),
    frontier: FrontierConfig = FrontierConfig(),
    crawl: CrawlConfig = CrawlConfig(),
) -> None:
    """Take the articles of a MediaWiki by its API, such as https://en.wikivoyage.org/w/api.php."""
    from crawler.seeds.sites import seeds_of_wiki

    give("wiki", partial(seeds_of_wiki, api, wiki, crawl), frontier, to)
