"""`tinylm seed reddit`: pages that people voted for, out of the public dumps or Reddit as it is now."""

from functools import partial
from pathlib import Path

from cyclopts import App

from crawler.config import CrawlConfig, FrontierConfig
from crawler.seeds.config import RedditConfig, SeedsTo
from deploy.sources.seed import give
from tinylm.config import layers

app = App(name="reddit", config=layers(frontier=FrontierConfig, crawl=CrawlConfig, reddit=RedditConfig))


@app.default
def reddit(
    named: list[str],
    *,
    to: SeedsTo = SeedsTo(),
    reddit: RedditConfig = RedditConfig(),
    frontier: FrontierConfig = FrontierConfig(),
    crawl: CrawlConfig = CrawlConfig(),
) -> None:
    """Sum the votes of each page over all its submissions.

    Parameters
    ----------
    named
        Dumps, RS_… as .zst, .xz, .bz2, .gz or plain; or subreddits, with another --road.
    """
    if reddit.road == "dumps":
        from crawler.seeds.karma import FILE_NAME, seeds_of_dumps

        dumps, place = [Path(name) for name in named], frontier.data / FILE_NAME
        give("reddit", partial(seeds_of_dumps, dumps, reddit, place), frontier, to)
    else:
        from crawler.seeds.reddit import live_seeds

        give("reddit", partial(live_seeds, named, reddit, crawl), frontier, to)
