"""`tinylm walk`: the walker as a process. Of several, one walks and the others stand by.

A quality model that needs torch runs in a child of the walker, which itself never loads torch.
"""

import logging
import os
import shutil
import signal
import threading
from contextlib import closing, nullcontext
from multiprocessing.connection import Connection
from pathlib import Path

from crawler.config import CrawlConfig, FrontierConfig
from crawler.frontier import Frontier
from crawler.frontier.spill import Spill
from ranker.config import WalkConfig
from ranker.judge.quality import QualityModel, open_model
from ranker.walker import Walker
from shards.errors import ShardsLocked
from shards.writer import ShardWriter
from tinylm.errors import ConfigError, TinylmError
from tinylm.processes import Child, beat

# Seconds between tries to become the one that walks: how long a crawl stands still after its walker was
# killed. A try costs one flock.
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
        if shutil.disk_usage(config.data).free >= crawl.disk_reserve_gigabytes * 1e9:
            return stopping.is_set()
        frontier.stop(f"less than {crawl.disk_reserve_gigabytes:g} GB of disk left")
        return True

    # What memory has no room for goes to disk, if the crawl has one.
    spilling = Spill(frontier, config.data / "frontier.sqlite") if config.spill else nullcontext()
    with writer, spilling as spill:
        log.info("walking %s", config.shards)
        walker = Walker(frontier, writer, walk, deepest=crawl.deepest, spill=spill, open_model=open_any_model)
        with closing(walker.judge):
            walker.walk(stop)


def _wait_for_writer(
    config: FrontierConfig, walk: WalkConfig, stopping: threading.Event
) -> ShardWriter | None:
    """The only writer of the corpus, once no other process is; None if asked to stop before that."""
    told = False
    while not stopping.is_set():
        beat()
        try:
            return ShardWriter(config.shards, crawl_id=config.crawl_id, row_group_rows=walk.row_group_rows)
        except ShardsLocked as error:
            # Once: a walker may stand by for days.
            if not told:
                log.info("%s; standing by", error)
            told = True
            stopping.wait(_STANDBY_SECONDS)
    return None


class ScorerDied(TinylmError):
    """The process of a quality model ends again and again."""


class CheckpointProcess:
    """`trainer.evaluate.CheckpointQuality` of the run or checkpoint at `path`, in a process of its own.

    The walker waits for each answer. Raises ConfigError if the checkpoint cannot be loaded.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._child = Child("scorer", _serve_scores, path)
        self._await_model()

    def _await_model(self) -> None:
        try:
            self.name, error = self._child.pipe.recv()
        except EOFError:
            error = "its process died"
        if error:
            self.close()
            raise ConfigError(f"quality = {str(self._path)!r}: {error}")

    def score(self, text: str) -> float:
        """Ask the model. A process that died is replaced, and asked once more; then raises ScorerDied."""
        for _ in range(2):
            try:
                self._child.pipe.send(text)
                return float(self._child.pipe.recv())
            except (EOFError, OSError):
                self._child.end()
                self._child.start()
                self._await_model()
        raise ScorerDied(f"the process that scores texts by {self.name} keeps ending: has it enough memory?")

    def close(self) -> None:
        """End the process, at once."""
        self._child.end()


def open_any_model(quality: str, label: str) -> QualityModel:
    """The model at the path `quality`, of whatever kind; raises ConfigError if it cannot be opened."""
    return CheckpointProcess(Path(quality)) if Path(quality).is_dir() else open_model(quality, label)


def _serve_scores(pipe: Connection, path: Path) -> None:
    """The child: send (name, "") or ("", why it cannot be loaded), then a score for each text received."""
    # A second core is a worker's; and threads of a small model wait for each other more than they help.
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        from trainer.evaluate import CheckpointQuality

        model = CheckpointQuality(path)
    except (TinylmError, ImportError) as error:
        needed = "; the walker needs the extra [train] for it" if isinstance(error, ImportError) else ""
        pipe.send(("", f"{error}{needed}"))
        return
    pipe.send((model.name, ""))
    try:
        while True:
            pipe.send(model.score(pipe.recv()))
    except (EOFError, OSError):  # the walker is gone
        return
