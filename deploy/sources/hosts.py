"""`tinylm seed hosts`: hosts of lists, those that are known to refuse left out, the others asked or not."""

from functools import partial

from cyclopts import App

from crawler.config import CrawlConfig, FrontierConfig
from crawler.seeds.config import HostsConfig, SeedsTo
from deploy.sources.seed import give
from ranker.config import WalkConfig
from tinylm.config import layers

app = App(
    name="hosts",
    config=layers(frontier=FrontierConfig, crawl=CrawlConfig, walk=WalkConfig, hosts=HostsConfig),
)


@app.default
def hosts(
    lists: list[str],
    *,
    to: SeedsTo = SeedsTo(),
    hosts: HostsConfig = HostsConfig(),
    frontier: FrontierConfig = FrontierConfig(),
    crawl: CrawlConfig = CrawlConfig(),
    walk: WalkConfig = WalkConfig(),
) -> None:
    """Take the front pages of the hosts in LISTS: Tranco's, Common Crawl's ranks, zones, certificates, plain.

    A range of addresses (192.0.2.0/24) is taken too if allowed_networks names it.
    """
    from crawler.seeds.hosts import seeds_of_hosts

    give("hosts", partial(seeds_of_hosts, lists, hosts, crawl, walk.languages, frontier.data), frontier, to)
