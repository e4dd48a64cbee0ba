"""A quality model that needs torch, in a process of its own: the walker never loads it.

The walker waits for each answer. A process that died is replaced, and asked again once.
"""

import os
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

from ranker.judge.quality import QualityModel, open_model
from tinylm.errors import ConfigError, TinylmError
from tinylm.processes import die_with_parent, ignore_interrupts


class ScorerDied(TinylmError):
    """The process of a quality model ends again and again."""


class CheckpointProcess:
    """`trainer.evaluate.CheckpointQuality` of the run or checkpoint `path`, in a process that dies with us.

    Raises ConfigError if it cannot be loaded.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._start()

    def _start(self) -> None:
        context = get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._path), daemon=True, name="scorer")
        self._process.start()
        theirs.close()
        try:
            self.name, error = self._ours.recv()
        except EOFError:
            error = "its process died"
        if error:
            self.close()
            raise ConfigError(f"quality = {str(self._path)!r}: {error}")

    def score(self, text: str) -> float:
        """As the model has it; raises ScorerDied if its process died twice of it."""
        for _ in range(2):
            try:
                self._ours.send(text)
                return float(self._ours.recv())
            except (EOFError, OSError):
                self.close()
                self._start()
        raise ScorerDied(f"the process that scores texts by {self.name} keeps ending: has it enough memory?")

    def close(self) -> None:
        """End the process, at once."""
        self._process.kill()
        self._process.join()
        self._ours.close()


def open_any_model(quality: str, label: str) -> QualityModel:
    """The model at the path `quality`, of whatever kind; raises ConfigError if it cannot be opened."""
    return CheckpointProcess(Path(quality)) if Path(quality).is_dir() else open_model(quality, label)


def _serve(connection: Connection, path: Path) -> None:
    """The child: says what it loaded, or why it could not, then answers until its parent is gone."""
    die_with_parent()
    ignore_interrupts()
    # A second core is a worker's; and threads of a small model wait for each other more than they help.
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        from trainer.evaluate import CheckpointQuality

        model = CheckpointQuality(path)
    except (TinylmError, ImportError) as error:
        needed = "; the walker needs the extra [train] for it" if isinstance(error, ImportError) else ""
        connection.send(("", f"{error}{needed}"))
        return
    connection.send((model.name, ""))
    try:
        while True:
            connection.send(model.score(connection.recv()))
    except (EOFError, OSError):
        return
