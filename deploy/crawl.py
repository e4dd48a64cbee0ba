"""`tinylm crawl`: a crawl on one machine, its parts as children, watched, and stopped in order."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from dataclasses import asdict, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from crawler.config import CrawlConfig, CrawlPlace, FrontierConfig
from crawler.errors import CrawlError, FrontierFull, ServerError
from crawler.frontier import Frontier, Limits, connect
from crawler.frontier.frontier import RULES
from crawler.frontier.server import EmbeddedServer, OwnSocket
from crawler.frontier.store import RedisStore
from crawler.seeds.seed import Seed
from crawler.urls import canonical
from deploy.summary import NothingKept, Summary, moment
from ranker.config import ONLINE, WalkConfig
from tinylm import log
from tinylm.config import HIDDEN, KEPT, inherited_environment, keep, without_password
from tinylm.errors import ConfigError, Exit, FileError, TinylmError
from tinylm.files import alone
from tinylm.processes import start, stop
from tinylm.terminal import say

# Seconds between looks at the parts, and looks that find nothing to do after which a crawl is over: in these
# two seconds a page on its way from one queue to the next is found in the next.
_POLL_SECONDS, _IDLE_POLLS = 0.25, 8
# Such looks while the server is full: half a minute, in which it may free what it holds of hosts given up.
_FULL_POLLS = 120
# A part that dies of a bug dies at every start, within seconds; one that needs too much memory, now and then.
_MOST_RESTARTS, _RESTARTS_WITHIN_SECONDS = 5, 600.0
# For the walker to judge what is in the stream and commit, before it is killed.
_DRAIN_SECONDS = 120.0


class NoServer(CrawlError):
    """No server runs. Commands that only read do not start one: it would stop with them."""


def embedded(config: FrontierConfig) -> EmbeddedServer:
    """The server in the data directory, for a crawl whose settings name no other; not started yet."""
    return EmbeddedServer(config.data / "redis", memory=config.memory)


@contextmanager
def open_frontier(
    config: FrontierConfig, server: EmbeddedServer | None = None, *, begin: bool = True
) -> Iterator[Frontier]:
    """The frontier on the server that `config` names, or on the embedded one, started if none runs."""
    server = server or embedded(config)
    with nullcontext() if config.redis_url else server:
        yield Frontier(_connected(config, server), config, begin=begin)


def attach(config: CrawlPlace) -> Frontier:
    """The frontier as `open_frontier` has it, of a server that runs already; raises NoServer if none does."""
    frontier = FrontierConfig(**asdict(config))
    server = embedded(frontier)
    if not config.redis_url and not server.answers():
        raise NoServer(f"no server runs for {config.data}: start `tinylm crawl` or `tinylm server` first")
    return Frontier(_connected(frontier, server), frontier, begin=False)


def _connected(config: FrontierConfig, server: EmbeddedServer) -> RedisStore:
    """The server that `config` names, or the embedded one: whose socket that is, is looked at each time."""
    if HIDDEN in config.redis_url:
        raise ConfigError(
            f"redis_url = {config.redis_url!r}, as {config.data / KEPT} has it: passwords are not written "
            "there. Give it again, best as the variable TINYLM_FRONTIER_REDIS_URL"
        )
    if config.redis_url not in ("", server.url):
        return connect(config.redis_url)
    return connect(server.url, connection_class=OwnSocket)


# What depends on a setting, by the reasons under which it is refused or given up.
_REFUSES = {
    "allowed_networks": ("forbidden_network",),
    "resolve": ("forbidden_network", "dns", "refused", "unreachable", "connect_timeout", "tls"),
    "user_agent": ("robots",),
    "timeout": ("timeout", "connect_timeout"),
}


def give_seeds(frontier: Frontier, seeds: list[Seed], crawl: CrawlConfig | None = None) -> int:
    """Give seeds; queue again those that were refused or given up, and what another setting than now did.

    Returns how many were queued again. Raises FrontierFull if the server is at its memory limit.
    """
    reasons: set[str] = set()
    if crawl:
        said = {name: json.loads(json.dumps(getattr(crawl, name))) for name in _REFUSES}
        before = said | frontier.published("settings")
        reasons = {reason for name in said if said[name] != before[name] for reason in _REFUSES[name]}
    frontier.put_seeds(seeds)
    letters = frontier.dead_letters() if seeds or reasons else []
    given = {canonical(seed.url) for seed in seeds} if letters else set()
    again = sum(
        frontier.retry(url) for url, reason in letters if reason in reasons or canonical(url) in given
    )
    if crawl:  # last: whoever is killed before that finds the same difference again
        frontier.publish("settings", said)
    return again


def limits_from_now(crawl: CrawlConfig) -> Limits:
    """When a crawl that begins or goes on now has to stop."""
    return Limits(
        pages=crawl.pages,
        bytes=int(crawl.gigabytes * 1e9),
        until=time.time() + crawl.hours * 3600,
        failed_connections=crawl.failed_connections,
    )


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Turn SIGTERM into a KeyboardInterrupt, as Ctrl-C is, inside the block."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def remember(frontier: FrontierConfig, **others: Any) -> None:
    """Write the settings of a crawl down in its directory, and print which are others than they were."""
    url = "" if frontier.redis_url == embedded(frontier).url else without_password(frontier.redis_url)
    # Not where the directory is: it may be moved.
    kept = replace(frontier, data=FrontierConfig().data, redis_url=url)
    for difference in keep(frontier.data / KEPT, frontier=kept, **others):
        say(difference)


class Crawl:
    """One run of a crawl; `run` may be called again later to go on.

    With the tables of settings that let it be `growing` (deploy.sources.grow) it draws seeds itself.
    Of the rules of a crawl that was begun before those that were `said` are set, the others stay as they are.
    """

    def __init__(
        self,
        frontier: FrontierConfig,
        crawl: CrawlConfig,
        walk: WalkConfig,
        said: Collection[str] = tuple(RULES),
        growing: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        if walk.quality != ONLINE:  # a path, which is written down and has to hold elsewhere too
            walk = replace(walk, quality=str(Path(walk.quality).resolve()))
        self._frontier_config, self._crawl, self._walk = frontier, crawl, walk
        self._said, self._growing = RULES.keys() & said, growing
        self._sources = growing["grow"].sources if growing else ()
        self._data = frontier.data
        self._settings = frontier.data / KEPT
        self._server = embedded(frontier)
        self.summary: Summary | None = None
        """Of the last run, however it ended; None before its parts were started."""
        self._parts: dict[str, subprocess.Popen[bytes]] = {}
        self._restarts: list[float] = []

    def run(
        self, seeds: list[Seed], show: Callable[[Frontier], AbstractContextManager[Callable[[], None]]]
    ) -> str:
        """Crawl until a limit is reached or nothing is left and return which; `show` displays the progress.

        Once its parts were started, its `summary` is in the directory too, however it ends. Raises CrawlError
        if the server or, again and again, another part dies, or if the walker ends before all that was
        fetched is in a shard; nothing is lost then.
        """
        config, self.summary = self._frontier_config, None
        self._crawl.check_user_agent()
        self._crawl.check_lease(config.lease_seconds)
        self._check_parts()
        lock = self._data / "crawl.lock"
        does = f"crawls here; for other limits or rules, or more seeds: `tinylm begin --data {self._data}`"
        with (
            sigterm_as_interrupt(),
            alone(self._data, lock, does),
            open_frontier(config, self._server) as frontier,
        ):
            before = Summary.of(frontier, config.shards)
            if not (seeds or self._sources or before.discovered or frontier.counts()["backlog"]):
                raise NothingKept(f"no crawl was begun in {config.data}: give it seeds, `tinylm crawl URL`")
            frontier.set_rules(config, self._said)
            remember(frontier.config, crawl=self._crawl, walk=self._walk, **self._growing)
            frontier.set_limits(limits_from_now(self._crawl))
            try:
                again = give_seeds(frontier, seeds, self._crawl)
            except FrontierFull as error:
                raise CrawlError(self._full(len(seeds))) from error
            if again:
                say(f"{again:,} URLs that were refused or given up are queued again")
            frontier.publish("walker", {})
            frontier.publish("grow", {"left": len(self._sources)})
            names = ["walk", *(f"worker-{number}" for number in range(self._crawl.workers))]
            names += ["grow"] * bool(self._sources)
            self._parts = {name: self._start(name) for name in names}
            reason = ""
            try:
                with show(frontier) as refresh:
                    reason = self._watch(frontier, refresh)
            except ServerError:
                self._check_server()  # that it died says more than that it does not answer
                raise
            except KeyboardInterrupt:
                most = f"{self._crawl.timeout:g} s at most"
                say(f"stopping: waits for what is under way ({most}), then commits", file=sys.stderr)
                raise
            finally:
                # Workers first: the walker then judges the last pages they fetched, and commits. A worker
                # waits for the responses under way, a timeout at most, and hands its pages over in seconds.
                walker = self._parts.pop("walk")
                stop(self._parts.values(), patience=self._crawl.timeout + 10)
                stop([walker], patience=_DRAIN_SECONDS)
                lost = walker.returncode and (
                    f"walk ended with code {walker.returncode} before all pages were in a shard: "
                    f"{_last_line(self._log('walk'))}; nothing is lost: start the same command again"
                )
                ended = (lost or reason) if reason else (str(sys.exc_info()[1]) or "interrupted")
                # What else fails when it ends by an error says less than that.
                with nullcontext() if reason else suppress(TinylmError):
                    self.summary = Summary.of(frontier, config.shards, ended)
                    self.summary.write(self._data)
            if lost:
                raise CrawlError(lost)
            same = self.summary and self.summary.work == before.work
            return f"{reason}; it had finished before" if same else reason

    @contextmanager
    def walking(self) -> Iterator[tuple[Frontier, Callable[[], None]]]:
        """The frontier with its walker and no worker, for pages that are brought; at the end they are judged.

        If a crawl runs here it is that one's walker. The function raises CrawlError once there is none.
        """
        self._check_parts()
        config, crawl_lock = self._frontier_config, self._data / "crawl.lock"
        with (
            sigterm_as_interrupt(),
            alone(self._data, self._data / "read.lock", "brings pages here"),
            ExitStack() as stack,
        ):
            runs = False
            try:
                stack.enter_context(alone(self._data, crawl_lock))
            except FileError:
                runs = True
            frontier = stack.enter_context(open_frontier(config, self._server))
            if not runs:
                frontier.set_rules(config, self._said)
                remember(frontier.config, crawl=self._crawl, walk=self._walk)
                frontier.publish("walker", {})
                self._parts = {"walk": self._start("walk")}

            def check() -> None:
                self._check_server()
                if runs and not crawl_lock.exists():
                    raise CrawlError("the crawl here has ended, and its walker: start the same command again")
                for name, process in self._parts.items():
                    if (code := process.poll()) is not None:
                        self._parts[name] = self._restart(name, code)

            try:
                yield frontier, check
                while not runs and not frontier.published("walker"):
                    time.sleep(_POLL_SECONDS)  # one that is stopped before it walks commits nothing
                    check()
            finally:
                stop(self._parts.values(), patience=_DRAIN_SECONDS)

    def _check_parts(self) -> None:
        """Raise what a part would end with at its start, before there is a server."""
        from deploy.walk import open_any_model
        from ranker.policy import policy_named
        from shards.manifest import is_corpus
        from shards.writer import manifest_of

        log.level()
        policy_named(self._walk.policy)
        if self._walk.quality != ONLINE:
            open_any_model(self._walk.quality, self._walk.quality_label).close()
        if is_corpus(self._frontier_config.shards):
            manifest_of(self._frontier_config.shards, self._frontier_config.crawl_id)

    def _start(self, name: str) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-m", "deploy.cli.app", name.partition("-")[0]]
        # What is not written down, or not as it is here.
        url, data = self._frontier_config.redis_url or self._server.url, str(self._data.resolve())
        own = {"TINYLM_FRONTIER_REDIS_URL": url, "TINYLM_FRONTIER_DATA": data}
        return start(argv, log=self._log(name), env=inherited_environment(self._settings) | own)

    def _log(self, name: str) -> Path:
        return self._data / "logs" / f"{name}.log"

    def _watch(self, frontier: Frontier, refresh: Callable[[], None]) -> str:
        """Why the crawl is over. Not before a walker is up: one that is stopped earlier commits nothing."""
        idle = 0
        while True:
            time.sleep(_POLL_SECONDS)
            refresh()
            self._check_server()
            walker = frontier.published("walker")
            if walker and (reason := frontier.reached()):
                return reason
            for name, process in [*self._parts.items()]:
                if (code := process.poll()) is not None:
                    if name == "grow" and code == 0:  # all its sources are used up
                        del self._parts[name]
                        continue
                    if name == "walk":
                        frontier.publish("walker", {})
                    self._parts[name] = self._restart(name, code)
            # When the walker said where it is, all that came in was judged and what came of it queued.
            over = frontier.finished() or asleep(frontier)
            resting = over and walker and not frontier.read_stream(walker["positions"], 1)
            resting = resting and not ("grow" in self._parts and frontier.published("grow").get("left"))
            waiting = resting and walker["seeds_waiting"] + walker["links_waiting"]
            idle = idle + 1 if resting and (not waiting or walker["full"]) else 0
            if not waiting and idle >= _IDLE_POLLS:
                return self._nothing_left(frontier)
            if waiting and idle >= _FULL_POLLS:
                return self._full(waiting)

    def _nothing_left(self, frontier: Frontier) -> str:
        """The end of a crawl that may fetch nothing more."""
        if waits := asleep(frontier):
            return waits
        summary = Summary.of(frontier, self._frontier_config.shards)
        left = f"nothing more may be fetched: {'; '.join(summary.left())}"
        return left if summary.queued else "nothing left to fetch"

    def _full(self, waiting: int) -> str:
        """The end of a crawl whose server has no room for anything that is left."""
        config = self._frontier_config
        held, more = ("maxmemory", "it") if config.redis_url else (f"memory = {config.memory}", "--memory")
        words = f"the server is full ({held}): {waiting:,} links wait"
        return f"{words}; raise {more} and start the same command again"

    def _check_server(self) -> None:
        if not self._server.alive():
            raise CrawlError(
                "the embedded server died; nothing but its last second is lost: start the same command again"
            )
        # One that we only attached to ends with the command that started it, such as `tinylm worker`.
        if not (self._frontier_config.redis_url or self._server.pid):
            self._server.ensure()

    def _restart(self, name: str, code: int) -> subprocess.Popen[bytes]:
        """Start a part that ended with `code` again; raises CrawlError if that will not help."""
        now = time.monotonic()
        self._restarts = [then for then in self._restarts if now - then < _RESTARTS_WITHIN_SECONDS] + [now]
        # With a setting that cannot work it would be the same at every start.
        if code == Exit.ERROR or len(self._restarts) > _MOST_RESTARTS:
            killed = "; SIGKILL: is there enough memory?" if code == -signal.SIGKILL else ""
            raise CrawlError(f"{name} ended with code {code}: {_last_line(self._log(name))}{killed}")
        return self._start(name)


def asleep(frontier: Frontier) -> str:
    """That nothing may be asked until after the crawl's time is up, and whom it waits for; "" if it may."""
    idle, limits = frontier.why_idle(), frontier.limits()
    wake = time.time() + (idle["next_wake_seconds"] or 0.0)
    going_on = any(idle[cause] for cause in ("ready", "in_flight", "paused", "on_disk"))
    if not limits or wake < limits.until or going_on:
        return ""
    return f"nothing may be asked before its time is up: {idle['next_wake']} rests until {moment(wake)}"


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else f"it said nothing in {log}"
