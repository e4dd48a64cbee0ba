"""What can go wrong with a corpus on disk."""

from tinylm.errors import TinylmError


class ShardError(TinylmError):
    """The corpus cannot be read or written; the message names the file."""


class ShardCorrupt(ShardError):
    """A file is not what the manifest says it is."""


class ShardsLocked(ShardError):
    """Another process is writing to this directory."""
