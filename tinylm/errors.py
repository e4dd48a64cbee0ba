"""The one error base class, and the edge where errors become a line of text and an exit code.

TinylmError
├── ConfigError, FileError
├── ShardError                 shards/errors.py
│   └── ShardCorrupt, ShardsLocked
├── CrawlError                 crawler/errors.py
│   ├── SeedError, ServerError, PageError, NetworkForbidden (ForbiddenAddress), OwnFault,
│   │   AskError (QuotaUsed); deploy's NoServer
│   ├── NothingKept             deploy/summary.py
│   ├── NotYet
│   │   └── AddressBusy, RulesMissing
│   └── FrontierError
│       └── FrontierFull, LeaseLost, WalkerLost
├── RecordingError             ranker/replay
├── DataError, SamplingError, TokenizerError, TrainingError, DistributedError, ConversationError,
│   InstructionError           trainer, beside what raises them
├── CheckpointError            trainer/run/checkpoint.py
│   └── CheckpointDamaged
└── ScorerDied, StageError, LocalWebError    deploy
"""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from importlib import metadata

from tinylm.terminal import let_streams_take_anything, say

# Where a distribution has another name than its module.
_DISTRIBUTIONS = {"fasttext": "fasttext-predict", "backports": "backports-zstd"}


class Exit(IntEnum):
    """How a command ended: the table for users is docs/exit-codes.md."""

    DONE = 0
    FAILED = 1
    ERROR = 2
    NOTHING_KEPT = 3
    INTERRUPTED = 130
    TERMINATED = 143


class TinylmError(Exception):
    """Something the user can act on: the message says what is wrong, where, and what to do."""

    exit = Exit.ERROR


class ConfigError(TinylmError):
    """A setting that cannot work; the message names the field and its value."""


class FileError(TinylmError):
    """A file cannot be written, or is not what it should be; the message names it and what to do."""


@contextmanager
def exit_on_error() -> Iterator[None]:
    """At a command's edge: a `TinylmError` becomes one line on stderr and its exit code, Ctrl-C exit 130.

    So does what the system refuses (a path that is none, a full disk, a missing right), and a package that
    was not installed, with the extra that has it. Bugs keep their trace.
    """
    let_streams_take_anything()
    try:
        yield
    except TinylmError as error:
        sys.exit(_fail(f"error: {error}", error.exit))
    except OSError as error:
        if not error.strerror:
            raise
        where = "" if error.filename is None else f"{error.filename}: "
        sys.exit(_fail(f"error: {where}{error.strerror}", Exit.ERROR))
    except ModuleNotFoundError as error:
        if not (extra := extra_with(error.name or "")):
            raise
        install = f"the extra [{extra}] has it: pip install '.[{extra}]' in the checkout"
        sys.exit(_fail(f"error: {error.name} is not installed; {install}", Exit.ERROR))
    except KeyboardInterrupt:
        sys.exit(_fail("interrupted; the same command goes on from here", Exit.INTERRUPTED))


def extra_with(module: str) -> str:
    """The extra of tinylm that installs `module`, a name as in `import`; "" if none does."""
    top = module.partition(".")[0]
    wanted = _DISTRIBUTIONS.get(top, top).replace("_", "-")
    extras = []
    for requirement in metadata.requires("tinylm") or ():
        found = re.match(r"([\w.-]+).*extra == ['\"]([\w-]+)", requirement)
        if found and re.sub(r"[._]", "-", found[1]) == wanted:
            extras.append(found[2])
    # What users need before what developers do; each list has most of the other's.
    return min(extras, key=lambda extra: (extra.startswith(("dev", "bench", "test")), extra), default="")


def _fail(message: str, code: int) -> int:
    say(message, file=sys.stderr)
    return code
