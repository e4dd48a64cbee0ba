"""`tinylm seed reddit`: pages that people voted for, out of the public dumps of Reddit's submissions."""

from functools import partial
from pathlib import Path

from cyclopts import App

from crawler.config import FrontierConfig
from crawler.seeds.config import RedditConfig, SeedsTo
from deploy.sources.seed import give
from tinylm.config import layers

app = App(name="reddit", config=layers(frontier=FrontierConfig, reddit=RedditConfig))


@app.default
def reddit(
    dumps: list[Path],
    *,
    to: SeedsTo = SeedsTo(),
    reddit: RedditConfig = RedditConfig(),
    frontier: FrontierConfig = FrontierConfig(),
) -> None:
    """Sum the votes of each page over all submissions in DUMPS: RS_… as .zst, .xz, .bz2, .gz or plain."""
    from crawler.seeds.karma import FILE_NAME, seeds_of_dumps

    give("reddit", partial(seeds_of_dumps, dumps, reddit, frontier.data / FILE_NAME), frontier, to)
