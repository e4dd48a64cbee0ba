"""Files as they are distributed: packed as their suffix says, read from any byte of what they unpack to."""

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from backports import zstd

from crawler.errors import SeedError

# Some have windows of up to 2 GiB.
_LONG_WINDOW: Any = {zstd.DecompressionParameter.window_log_max: 31}
# Of a line: real ones of Reddit have 4 KB, crossposts 100. What has no end is no line.
_LONGEST_LINE = 16 << 20
_AT_ONCE = 1 << 20  # bytes that are decompressed
_TOLD = 1000  # lines between two words of how far it is
_OPENERS: dict[str, Callable[[Any], Any]] = {
    ".zst": lambda raw: zstd.open(raw, "rb", options=_LONG_WINDOW),
    ".xz": lzma.open,
    ".bz2": bz2.open,
    ".gz": gzip.open,
    ".tgz": gzip.open,
}


@contextmanager
def unpacked(path: Path) -> Iterator[tuple[io.BufferedReader, Callable[[], int]]]:
    """The file's bytes, decompressed, and how many of its own were read. Raises SeedError, also within."""
    opener = _OPENERS.get(path.suffix, lambda raw: raw)
    try:
        # Their own `readline` asks for 8 KB at a time.
        with path.open("rb") as raw, io.BufferedReader(opener(raw), _AT_ONCE) as stream:
            yield stream, raw.tell
    except (EOFError, zstd.ZstdError, lzma.LZMAError, zlib.error, OSError) as error:
        raise SeedError(
            f"{path}: unreadable, cut off or damaged ({error}); what came before is kept: get it again"
        ) from error


def lines(path: Path, start: int, tell: Callable[[int], object]) -> Iterator[bytes]:
    """Lines from the unpacked byte `start` on; `tell` hears how much was read. Raises SeedError."""
    with unpacked(path) as (stream, read):
        left = start
        while left:  # nothing of this can seek: what was done before is decompressed again, not parsed
            came = len(stream.read(min(left, _AT_ONCE)))
            if not came:
                raise EOFError("it is shorter than it was")
            left -= came
            tell(read())
        for number, line in enumerate(iter(partial(stream.readline, _LONGEST_LINE), b"")):
            if number % _TOLD == 0:
                tell(read())
            yield line
