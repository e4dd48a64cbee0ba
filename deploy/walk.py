"""`tinylm walk`: the walker as a process. Of several, one walks and the others stand by.

A quality model that needs torch runs in a child of the walker, which itself never loads torch.
"""

import logging
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, nullcontext, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import BinaryIO

from crawler.config import CrawlConfig, FrontierConfig
from crawler.errors import WalkerLost
from crawler.frontier import Frontier
from crawler.frontier.spill import Spill
from deploy.summary import Summary
from ranker.config import WalkConfig
from ranker.judge.quality import QualityModel, open_model
from ranker.walker import Walker
from shards.errors import ShardError, ShardsLocked
from shards.manifest import Manifest, is_corpus
from shards.writer import ShardWriter, locked
from tinylm.errors import ConfigError, TinylmError
from tinylm.processes import Child, beat
from tinylm.terminal import say_at_once

# Seconds between tries to become the one that walks: how long a crawl stands still after its walker was
# killed. A try costs one flock and one question to the server.
_STANDBY_SECONDS = 2.0
# Between two summaries of a crawl that runs: of one that is killed, the last is so old. Each is ten commands
# to the server and a file of 2 KB.
_SUMMARY_SECONDS = 30.0

# A text that no model has trouble with.
_HARMLESS = "A word."

log = logging.getLogger(__name__)


def run(frontier: Frontier, config: FrontierConfig, crawl: CrawlConfig, walk: WalkConfig) -> None:
    """Walk until SIGTERM or SIGINT, then judge what is in the stream, commit and return."""
    stopping = False

    # Not an Event: setting one takes a lock, which what the signal interrupts, this function too, may hold.
    def ask_to_stop(*_: object) -> None:
        nonlocal stopping
        if not stopping:
            stopping = True
            say_at_once("stopping: judges what was fetched, then commits")

    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, ask_to_stop)

    summed_up = time.monotonic()

    def sum_up(*, over: bool = False) -> None:
        with suppress(TinylmError):  # what fails the walker too, it says itself
            ended = (frontier.reached() or "its walker was told to stop") if over else ""
            Summary.of(frontier, config.shards, ended).write(config.data)

    def stop() -> bool:
        nonlocal summed_up
        beat()
        if time.monotonic() - summed_up > _SUMMARY_SECONDS:
            summed_up = time.monotonic()
            sum_up()
        if shutil.disk_usage(config.data).free >= crawl.disk_reserve_gigabytes * 1e9:
            return stopping
        frontier.stop(f"less than {crawl.disk_reserve_gigabytes:g} GB of disk left")
        return True

    try:
        while writer := _wait_for_turn(frontier, config, walk, lambda: stopping):
            # What memory has no room for goes to disk, if the crawl has one.
            spilling = Spill(frontier, config.data / "frontier.sqlite") if config.spill else nullcontext()
            try:
                with writer, spilling as spill:
                    log.info("walking %s", config.shards)
                    walker = Walker(
                        frontier, writer, walk, deepest=crawl.deepest, spill=spill, open_model=open_any_model
                    )
                    with closing(walker.judge):
                        walker.walk(stop)
                sum_up(over=True)
                return
            except WalkerLost as error:
                log.warning("%s; what was not committed here is judged there", error)
    finally:
        frontier.give_up_claim()


def _wait_for_turn(
    frontier: Frontier, config: FrontierConfig, walk: WalkConfig, stopping: Callable[[], bool]
) -> ShardWriter | None:
    """The writer of the corpus, once this is the crawl's one walker; None if asked to stop before that.

    First the corpus is locked, against walkers beside this one; then the crawl is claimed, against those with
    another corpus or on another host; only then is anything changed.
    """
    told = ""
    while not stopping():
        beat()
        try:
            with ExitStack() as stack:
                held = stack.enter_context(locked(config.shards))
                where, _ = frontier.walked()
                _refuse_another_corpus(frontier, config, where)
                at = f"{socket.gethostname()}:{config.shards.resolve()}"
                if not (other := frontier.claim(_identity(held), at)):
                    # Again: another may have walked, and ended, since we looked.
                    _refuse_another_corpus(frontier, config, where)
                    stack.pop_all()
                    rows, crawl_id = walk.row_group_rows, config.crawl_id
                    return ShardWriter(config.shards, crawl_id=crawl_id, row_group_rows=rows, held=held)
                why = f"{other}: the crawl's walker writes there"
        except (ShardsLocked, WalkerLost) as error:
            why = str(error)
        # Once: a walker may stand by for days.
        if why != told:
            log.info("%s; standing by", why)
        told = why
        time.sleep(_STANDBY_SECONDS)
    return None


def _identity(held: BinaryIO) -> str:
    """A name for a lock that is held: the same for whoever holds it next, as long as the machine runs."""
    try:
        kernel = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        kernel = socket.gethostname()
    status = os.fstat(held.fileno())
    return f"{kernel} {status.st_dev} {status.st_ino}"


def _refuse_another_corpus(frontier: Frontier, config: FrontierConfig, where: str) -> None:
    """Raise ShardError if the corpus in `config.shards` is not the one walked last, at `where`."""
    _, trimmed = frontier.walked()
    positions = Manifest.load(config.shards).positions if is_corpus(config.shards) else {}
    if positions and not where and not frontier.counts()["discovered"]:
        raise ShardError(
            f"{config.shards} holds pages of crawl {config.crawl_id!r}, which is new to the server: were "
            "its files (of the embedded one: redis/appendonlydir) lost or moved? Bring them back and start "
            "again; or begin anew with another --data. Nothing of this corpus is lost"
        )
    if any(_numbers(first) > _numbers(positions.get(s, "0-0"), 1) for s, first in trimmed.items()):
        raise ShardError(
            f"{config.shards} is not the corpus of crawl {config.crawl_id!r}, or an old copy: it lacks pages "
            f"that the last walker wrote at {where}, and that the server has forgotten. Go on with that one "
            "(--data), or begin another crawl (another --crawl-id and --data)"
        )


def _numbers(position: str, later: int = 0) -> tuple[int, int]:
    """A position in a stream, or the one so much `later`, to compare by."""
    milliseconds, _, sequence = position.partition("-")
    return int(milliseconds), int(sequence) + later


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
        """Ask the model. A process that died is replaced, and asked once more.

        After that raises ValueError if it is the text that it dies of, ScorerDied if it dies of any.
        """
        for asked in (text, text, _HARMLESS):
            try:
                self._child.pipe.send(asked)
                score = float(self._child.pipe.recv())
            except (EOFError, OSError):
                self._child.end()
                self._child.start()
                self._await_model()
            else:
                if asked is text:
                    return score
                raise ValueError(f"the process that scores texts by {self.name} ends at this one")
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
