"""`tinylm walk`: the walker as a process. Of several, one walks and the others stand by."""

import logging
import shutil
import signal
import threading
from contextlib import AbstractContextManager, closing, nullcontext

from crawler.config import CrawlConfig, FrontierConfig
from crawler.frontier import Frontier
from crawler.frontier.spill import Spill
from deploy.scorer import open_any_model
from ranker.config import WalkConfig
from ranker.walker import Walker
from shards.errors import ShardsLocked
from shards.writer import ShardWriter
from tinylm.processes import beat

_STANDBY_SECONDS = 2.0

log = logging.getLogger(__name__)


def run(frontier: Frontier, config: FrontierConfig, crawl: CrawlConfig, walk: WalkConfig) -> None:
    """Walk until SIGTERM or SIGINT, then judge what is in the stream, commit and return."""
    stopping = threading.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: stopping.set())
    writer = _wait_for_writer(config, walk, stopping)
    if writer is None:
        return

    def stop() -> bool:
        beat()
        return stopping.is_set() or _disk_is_short(frontier, config, crawl)

    with writer, _spill(frontier, config) as spill:
        log.info("walking %s", config.shards)
        walker = Walker(frontier, writer, walk, deepest=crawl.deepest, spill=spill, open_model=open_any_model)
        with closing(walker.judge):
            walker.walk(stop)


def _spill(frontier: Frontier, config: FrontierConfig) -> AbstractContextManager[Spill | None]:
    """What memory has no room for goes to disk, or nothing does."""
    if not config.spill:
        return nullcontext()
    return Spill(frontier, config.data / "frontier.sqlite")


def _wait_for_writer(
    config: FrontierConfig, walk: WalkConfig, stopping: threading.Event
) -> ShardWriter | None:
    told = False
    while not stopping.is_set():
        beat()
        try:
            return ShardWriter(config.shards, crawl_id=config.crawl_id, row_group_rows=walk.row_group_rows)
        except ShardsLocked as error:
            if not told:
                log.info("%s; standing by", error)
            told = True
            stopping.wait(_STANDBY_SECONDS)
    return None


def _disk_is_short(frontier: Frontier, config: FrontierConfig, crawl: CrawlConfig) -> bool:
    short = shutil.disk_usage(config.data).free < crawl.disk_reserve_gigabytes * 1e9
    if short:
        frontier.stop(f"less than {crawl.disk_reserve_gigabytes:g} GB of disk left")
    return short
