"""`tinylm grow`, a part of a crawl that grows: draws the next seeds from the source that pays most."""

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from crawler.config import CrawlConfig, FrontierConfig
from crawler.errors import CrawlError, FrontierFull, SeedError
from crawler.fetch.client import AskError, Client
from crawler.frontier import Frontier
from crawler.seeds.config import GrowConfig, HostsConfig, SearchConfig
from crawler.seeds.ledger import FILE_NAME, Ledger
from crawler.seeds.read import read_seeds
from crawler.seeds.search import QuotaUsed, Search, key_of, own_networks, provider_of
from crawler.seeds.search import search as results_of
from crawler.seeds.seed import Progress, Seed
from deploy.crawl import asleep, open_frontier, sigterm_as_interrupt
from deploy.sources.search import queries_of
from ranker.bandit import Bandit
from ranker.config import WalkConfig
from ranker.sources import Source, Sources
from tinylm.processes import beat

_LOOK_SECONDS = 1.0
# The first rest of a source that fails, doubled each time, and after how many in a row it is given up.
_REST, _FAILURES = 30.0, 6
_TABLE = "create table if not exists grown (source text primary key, arm text not null) without rowid"
_HOSTS = "hosts:"

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Growing:
    """The settings of a crawl that grows."""

    frontier: FrontierConfig
    crawl: CrawlConfig
    walk: WalkConfig
    grow: GrowConfig
    search: SearchConfig
    hosts: HostsConfig


class _Arm:
    """A source, from which `make` draws a few seeds at a time, beginning where it was left."""

    def __init__(self, name: str, make: Callable[[], Iterator[list[Seed]]]) -> None:
        self.name, self._make = name, make
        self._draws = make()
        self._failures = 0
        self.resting_until = 0.0
        self.over = False

    def draw(self) -> list[Seed] | None:
        """The next seeds, [] if there are none yet; None of one that is over, or that failed and rests."""
        try:
            seeds = next(self._draws, None)
        except CrawlError as error:
            self._draws = self._make()
            self._failures += 1
            self.over = self._failures == _FAILURES or not isinstance(error, AskError)
            rest = error.seconds if isinstance(error, QuotaUsed) else _REST * 2 ** (self._failures - 1)
            self.resting_until = time.time() + rest
            goes_on = "given up" if self.over else f"asked again in {rest:,.0f} s"
            log.warning("%s: %s; %s", self.name, error, goes_on)
            return None
        self._failures, self.over = 0, seeds is None
        return seeds


def checked(grow: GrowConfig, search: SearchConfig, hosts: HostsConfig) -> dict[str, Any]:
    """By table, with paths that hold elsewhere. Raises SeedError, ConfigError for what is no source."""
    sources = []
    for name in grow.sources:
        path = Path(name.removeprefix(_HOSTS)).resolve()
        if name == "search":
            key_of(provider_of(search))
            sources.append(name)
        elif not path.is_file():
            raise SeedError(f"--grow {name}: neither search, hosts:LIST nor a file of seeds")
        elif name.startswith(_HOSTS):
            import_module("crawler.seeds.hosts")  # which extra it wants is said now
            sources.append(f"{_HOSTS}{path}")
        else:
            sources.append(str(path))
    queries = search.queries and search.queries.resolve()
    return {
        "grow": replace(grow, sources=tuple(sources)),
        "search": replace(search, queries=queries),
        "hosts": replace(hosts, known=tuple(path.resolve() for path in hosts.known)),
    }


def grow(settings: Growing) -> None:
    """Draw until all sources are used up, or SIGTERM; what an earlier run drew is not drawn again."""
    every = settings.grow.every
    with (
        sigterm_as_interrupt(),
        open_frontier(settings.frontier, begin=False) as frontier,
        Ledger(settings.frontier.data / FILE_NAME) as ledger,
        ExitStack() as stack,
    ):
        ledger.db.execute(_TABLE)
        names = settings.grow.sources
        arms = {name: _Arm(name, partial(_draws, name, settings, ledger, stack)) for name in names}
        bandit, sums = Bandit(arms, np.random.default_rng()), Sources(settings.frontier.shards)
        drawn_at = -every
        while left := [arm for arm in arms.values() if not arm.over]:
            beat()
            now, limits = time.time(), frontier.limits()
            # One that rests until the crawl's time is up keeps nobody waiting.
            waits = [arm for arm in left if not limits or arm.resting_until < limits.until]
            frontier.publish("grow", {"left": len(waits)})
            fetched, idle = frontier.counts()["fetched"], _is_idle(frontier)
            ready = [arm.name for arm in left if arm.resting_until <= now]
            if ready and (idle or fetched >= drawn_at + every):
                sums.update()
                bandit.look(_totals(sums.by(str, ledger.spent()), ledger, settings.grow))
                arm = arms[bandit.choose(ready)]
                if seeds := arm.draw():
                    # Before they are given, or a kill would lose whom to credit with what they lead to.
                    sources = {(seed.source, arm.name) for seed in seeds}
                    ledger.db.executemany("insert or ignore into grown values (?, ?)", sources)
                    _give(frontier, seeds)
                    drawn_at = fetched
                    log.info("%d seeds of %s", len(seeds), arm.name)
                elif seeds is not None:
                    # It draws from the corpus, and nothing more will come of that but by the other sources.
                    arm.over = idle and len(left) == 1 and _is_committed(frontier)
                    arm.resting_until = now + (_LOOK_SECONDS if idle else _REST)
            time.sleep(_LOOK_SECONDS)
        frontier.publish("grow", {"left": 0})
        log.info("all sources are used up")


def _give(frontier: Frontier, seeds: list[Seed]) -> None:
    while True:
        try:
            frontier.put_seeds(seeds)
            return
        except FrontierFull as error:
            log.warning("%s; its turn comes when there is room", error)
            beat()
            time.sleep(_REST)


def _is_idle(frontier: Frontier) -> bool:
    """Whether nothing is left to fetch, and none of what was given is on its way."""
    walker = frontier.published("walker")
    if not walker or not (frontier.finished() or asleep(frontier)):
        return False
    return not walker["seeds_waiting"] and not frontier.read_stream(walker["positions"], 1)


def _is_committed(frontier: Frontier) -> bool:
    walker = frontier.published("walker")
    return bool(walker) and walker["kept"] == walker["committed"]


def _totals(found: Iterable[Source], ledger: Ledger, config: GrowConfig) -> dict[str, tuple[float, float]]:
    """What each arm has cost, in fetches, and brought, in good tokens."""
    of_arm = dict(ledger.db.execute("select source, arm from grown"))
    totals = dict.fromkeys(config.sources, (0.0, 0.0))
    for source in found:
        if (name := of_arm.get(source.name)) in totals:
            cost, tokens = totals[name]
            spent = config.price * source.spent.get("billed", 0.0) + source.spent.get("probes", 0.0)
            totals[name] = cost + source.all.fetches + spent, tokens + source.all.tokens
    return totals


def _draws(name: str, settings: Growing, ledger: Ledger, stack: ExitStack) -> Iterator[list[Seed]]:
    """What was not drawn yet of a source, a few seeds at a time. Resumed once they are given."""
    most = settings.grow.draw
    if name == "search":
        yield from _found(settings, ledger, stack)
    elif name.startswith(_HOSTS):
        from crawler.seeds.hosts import seeds_of_hosts

        crawl, languages, data = settings.crawl, settings.walk.languages, settings.frontier.data
        lists = [name.removeprefix(_HOSTS)]
        for batch in seeds_of_hosts(lists, settings.hosts, crawl, languages, data, ledger, Progress()):
            for first in range(0, len(batch.seeds), most):
                yield batch.seeds[first : first + most]
    else:
        position = int(ledger.position(f"grow {name}") or 0)
        seeds = islice(_of_file(Path(name)), position, None)
        while drawn := list(islice(seeds, most)):
            yield drawn
            position += len(drawn)
            ledger.settle(f"grow {name}", str(position))


def _of_file(path: Path) -> Iterator[Seed]:
    """Seeds of a table that `--out` wrote, those that promise most first, or of what `tinylm seed` takes."""
    if path.suffix not in (".parquet", ".csv"):
        yield from read_seeds(str(path))
        return
    try:
        table = pq.read_table(path) if path.suffix == ".parquet" else pyarrow.csv.read_csv(path)
        table = table.select(Seed._fields).sort_by([("prior", "descending"), ("url", "ascending")])
    except (pa.ArrowException, OSError, KeyError) as error:
        raise SeedError(f"{path}: no table of seeds, as --out writes them ({error})") from error
    for row in table.to_pylist():
        yield Seed(**row)


def _found(settings: Growing, ledger: Ledger, stack: ExitStack) -> Iterator[list[Seed]]:
    """Results of queries of a file, or out of the corpus as it grows: [] while none comes of it."""
    search, crawl = settings.search, settings.crawl
    allowed = replace(crawl, allowed_networks=(*crawl.allowed_networks, *own_networks(search)))
    engine = Search(search, stack.enter_context(Client.sync(allowed)), ledger, Progress())
    while True:
        given = engine.given()
        queries = [each for each in queries_of(engine, search, settings.frontier) if each not in given]
        for batch in results_of(queries, engine, Progress()):
            if batch.seeds:
                yield batch.seeds
        if search.queries:
            return
        if not queries:
            yield []
