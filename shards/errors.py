"""What can go wrong with a corpus on disk."""

from pathlib import Path

from tinylm.errors import TinylmError


class ShardError(TinylmError):
    """The corpus cannot be read or written; the message names the file."""


class ShardCorrupt(ShardError):
    """A file is not what the manifest says it is."""


class ShardsLocked(ShardError):
    """Another process is writing to this directory."""


def unread(path: Path | str, error: BaseException, damage: str) -> ShardError:
    """What to raise for `error` at reading `path`: the system's own errors say nothing of damage.

    pyarrow raises an OSError without a number for what is no Parquet.
    """
    if isinstance(error, OSError) and error.errno:
        return ShardError(f"{path}: cannot be read ({error.strerror}); it may be as it was")
    return ShardCorrupt(f"{path}: {damage}")
