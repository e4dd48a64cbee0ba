"""`tinylm crawl`, its parts as commands of their own, and what shows it."""

import sys
import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from crawler.config import CrawlConfig, CrawlPlace, FrontierConfig, product_token
from crawler.seeds.config import GrowConfig, HostsConfig, SearchConfig
from ranker.config import WalkConfig
from tinylm.config import KEPT, layers, listed, of_this_crawl, said
from tinylm.terminal import say

if TYPE_CHECKING:
    from crawler.seeds.seed import Seed

# What a command needs is imported in it: every worker of a crawl is this program, and --help is too.
app = App()
# Between two readings for a rate: in half of it a few hosts with a delay of 1 s often show no fetch.
_SAMPLE_SECONDS = 1.0
# Between looks whether the server is there: its workers wait for 20 seconds.
_LOOK_SECONDS = 1.0
_GOES_ON = "stopped, and nothing is lost; the same command goes on from here"
_PLACE = layers(frontier=CrawlPlace)
_ALL = layers(frontier=FrontierConfig, crawl=CrawlConfig, walk=WalkConfig)
_GROWS = layers(
    frontier=FrontierConfig,
    crawl=CrawlConfig,
    walk=WalkConfig,
    grow=GrowConfig,
    search=SearchConfig,
    hosts=HostsConfig,
)


@app.command(config=_GROWS)
def crawl(
    seeds: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    *,
    grow: GrowConfig = GrowConfig(),
    frontier: FrontierConfig = FrontierConfig(),
    crawl: CrawlConfig = CrawlConfig(),
    walk: WalkConfig = WalkConfig(),
    search: SearchConfig = SearchConfig(),
    hosts: HostsConfig = HostsConfig(),
) -> None:
    """Crawl from SEEDS on this machine: server, workers and walker, until a limit is reached.

    Each seed is a URL, a file of URLs, or a dump of Reddit submissions (.zst, .xz, .ndjson). Without seeds a
    crawl goes on where it stopped. With --grow it draws further seeds while it runs, from sources that pay.
    """
    from deploy.crawl import Crawl
    from deploy.status import show_crawl
    from deploy.summary import NothingKept

    growing = {"grow": grow, "search": search, "hosts": hosts}
    if grow.sources:
        from deploy.sources.grow import checked

        growing = checked(grow, search, hosts)
    started = Crawl(frontier, crawl, walk, said(), growing)
    try:
        say(f"done: {started.run(read_seeds_of(seeds), show_crawl)}")
    finally:
        if started.summary:
            say("\n".join(started.summary.lines()))
    if started.summary and not started.summary.kept:
        raise NothingKept(started.summary.nothing_kept())


def read_seeds_of(given: Iterable[str]) -> "list[Seed]":
    """The seeds that arguments stand for; says of which none came."""
    from crawler.seeds.read import read_seeds

    found: list[Seed] = []
    for each in given:
        before = len(found)
        found += read_seeds(each)
        if len(found) == before:
            say(f"{each}: no URL is in it", file=sys.stderr)
    return found


@app.command(config=layers(frontier=FrontierConfig, crawl=CrawlConfig))
def begin(
    seeds: Annotated[tuple[str, ...], Parameter(env_var="TINYLM_SEEDS", negative=())] = (),
    *,
    frontier: FrontierConfig = FrontierConfig(),
    crawl: CrawlConfig = CrawlConfig(),
) -> None:
    """Set the rules and limits of a crawl whose workers run elsewhere, and give it SEEDS.

    Seeds it has had count once; they may also be in the variable TINYLM_SEEDS. Hours count from now; a crawl
    that reached a limit goes on when it is set higher. Of a crawl that was begun before, rules that are not
    said, by flag, variable or tinylm.toml, stay as they are.
    """
    from crawler.frontier.frontier import RULES
    from deploy.crawl import give_seeds, limits_from_now, open_frontier, remember

    crawl.check_user_agent()
    found = read_seeds_of(seeds)
    with open_frontier(frontier) as opened:
        opened.set_rules(frontier, RULES.keys() & said())
        # A crawl on a server elsewhere has its directory where the walker is, which need not be here.
        identity = {"redis_url": frontier.redis_url, "crawl_id": frontier.crawl_id}
        if not frontier.redis_url or of_this_crawl(frontier.data / KEPT, identity):
            remember(opened.config, crawl=crawl)
        opened.set_limits(limits_from_now(crawl))
        again = give_seeds(opened, found, crawl)
        rules = opened.config
    say(
        f"crawl {frontier.crawl_id!r}: {len(found):,} seeds given; those it has had count once, and "
        f"{again:,} URLs that were refused or given up are queued again; stops at {crawl.pages:,} pages; "
        f"a host rests {rules.delay:g} s; scope {rules.scope}"
    )


@app.command(config=_ALL)
def worker(
    *,
    frontier: FrontierConfig = FrontierConfig(),
    crawl: CrawlConfig = CrawlConfig(),
    walk: WalkConfig = WalkConfig(),
) -> None:
    """Fetch what the frontier leases, until SIGTERM. Start as many as you like, anywhere.

    If nobody has set the crawl's limits yet, this sets them. At a limit it waits for a higher one. Of the
    walker's settings it obeys the languages: what is in another, or hardly text at all, is not extracted.
    """
    from crawler.fetch.worker import run
    from crawler.read.extract import Extractor, Screen
    from deploy.crawl import limits_from_now, open_frontier
    from tinylm.log import setup

    setup("worker")
    crawl.check_user_agent()
    crawl.check_lease(frontier.lease_seconds)
    with open_frontier(frontier) as opened:
        opened.check_rules(frontier, said())
        # `tinylm crawl` and `tinylm begin` have set them; a worker started by hand may be the first.
        opened.set_limits_if_none(limits_from_now(crawl))
        screen = Screen(walk.languages, walk.language_score) if crawl.prescreen else None
        run(opened, crawl, Extractor(screen, product_token(crawl.user_agent)))
    say(_GOES_ON, file=sys.stderr)


@app.command(config=_ALL)
def walk(
    *,
    frontier: FrontierConfig = FrontierConfig(),
    crawl: CrawlConfig = CrawlConfig(),
    walk: WalkConfig = WalkConfig(),
) -> None:
    """Judge fetched pages, steer the frontier and write shards, until SIGTERM; then commit and end."""
    from deploy.crawl import open_frontier
    from deploy.walk import run
    from tinylm.log import setup

    setup("walk")
    with open_frontier(frontier) as opened:
        opened.check_rules(frontier, said())
        run(opened, frontier, crawl, walk)
    say(_GOES_ON, file=sys.stderr)


@app.command(name="grow", config=_GROWS)
def grow_(
    *,
    grow: GrowConfig = GrowConfig(),
    search: SearchConfig = SearchConfig(),
    hosts: HostsConfig = HostsConfig(),
    frontier: FrontierConfig = FrontierConfig(),
    crawl: CrawlConfig = CrawlConfig(),
    walk: WalkConfig = WalkConfig(),
) -> None:
    """Draw seeds from sources that pay, beside a crawl that runs, until they are used up or SIGTERM."""
    from deploy.sources.grow import Growing
    from deploy.sources.grow import grow as draw
    from tinylm.log import setup

    setup("grow")
    draw(Growing(frontier=frontier, crawl=crawl, walk=walk, grow=grow, search=search, hosts=hosts))


@app.command(config=layers(frontier=FrontierConfig))
def server(*, frontier: FrontierConfig = FrontierConfig()) -> None:
    """Run the embedded server of a data directory in the foreground, for workers in other shells."""
    from deploy.crawl import embedded, sigterm_as_interrupt

    # A KeyboardInterrupt, so that the block is left in order: the server writes its log and ends.
    with sigterm_as_interrupt(), embedded(frontier) as started:
        say(f"--redis-url {started.url}")
        while True:  # another command may have started it, and end with it
            time.sleep(_LOOK_SECONDS)
            started.ensure()


@app.command(config=_PLACE)
def status(*, frontier: CrawlPlace = CrawlPlace()) -> None:
    """What the crawl has done, what it is doing, and why nothing is ready if nothing is."""
    from deploy.console import Console
    from deploy.crawl import NoServer, attach
    from deploy.status import StatusReader, table, verdict
    from deploy.summary import Summary, moment

    try:
        attached = attach(frontier)
    except NoServer:
        if not (summary := Summary.load(frontier.data)):
            raise
        age = (time.time() - summary.at) / 60
        say(f"no server runs; this was so at {moment(summary.at)}, {age:,.0f} minutes ago")
        say(f"{'ended':<10} {summary.ended or 'not in order: it ran then'}")
        say("\n".join(summary.lines()))
        return
    reader = StatusReader(attached)
    # Twice, as one reading has no rate: without one a crawl that goes well reads like one that stands still.
    reader.read()
    time.sleep(_SAMPLE_SECONDS)
    read = reader.read()
    Console().print(table(read))
    say(verdict(read, attached.config.backlog).text)


@app.command(config=_PLACE)
def dashboard(
    *,
    frontier: CrawlPlace = CrawlPlace(),
    runs: tuple[Path, ...] = (),
    host: str = "127.0.0.1",
    port: int = 8000,
    names: tuple[str, ...] = (),
) -> None:
    """Show crawl and training live on one web page, now or once they begin.

    Parameters
    ----------
    runs
        Training runs to show (their directories).
    host
        Address to listen on.
    port
        Port to listen on.
    names
        Host names by which browsers reach it, besides localhost, this machine's name and its addresses.
    """
    from deploy.cli.names import host_named
    from deploy.crawl import attach
    from deploy.dashboard.app import serve

    ours = {host_named(name) for name in listed(names)}
    serve(partial(attach, frontier), frontier.shards, runs, host=host, port=port, names=ours)
