"""Files as they are distributed: packed as their suffix says, read from any byte of what they unpack to."""

import bz2
import gzip
import io
import lzma
import os
import re
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from backports import zstd

from crawler.errors import SeedError
from crawler.seeds.seed import Progress

# Some have windows of up to 2 GiB.
_LONG_WINDOW: Any = {zstd.DecompressionParameter.window_log_max: 31}
# Of a line: real ones of Reddit have 4 KB, crossposts 100. What has no end is no line.
LONGEST_LINE = 16 << 20
AT_ONCE = 1 << 20  # bytes that are decompressed
# How a stream of bzip2 begins, with a block or with its end. Those of wikis' dumps have 100 pages, in 0.3 MB.
_STREAM = re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)")
# Of a stream, and of what it unpacks to: what is longer is none of these.
_LONGEST_STREAM, _MOST_UNPACKED = 8 << 20, 64 << 20
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
        with path.open("rb") as raw, io.BufferedReader(opener(raw), AT_ONCE) as stream:
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
            came = len(stream.read(min(left, AT_ONCE)))
            if not came:
                raise EOFError("it is shorter than it was")
            left -= came
            tell(read())
        for number, line in enumerate(iter(partial(stream.readline, LONGEST_LINE), b"")):
            if number % _TOLD == 0:
                tell(read())
            yield line


def has_streams(path: Path) -> bool:
    """Whether a .bz2 file has more than one, as far as its beginning says."""
    with path.open("rb") as raw:
        return bool(_STREAM.search(raw.read(_LONGEST_STREAM), 1))


def streams(path: Path, tell: Callable[[int], object], progress: Progress) -> Iterator[bytes]:
    """What a .bz2 file of many streams unpacks to, in order; threads take a stream each.

    A stream that is damaged is left out and counted, one that is cut off ends early.
    """
    threads = os.cpu_count() or 1
    with path.open("rb") as raw, ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[tuple[bytes, bool]]] = deque()

        def next_one() -> bytes:
            out, whole = waiting.popleft().result()
            progress.dropped["damaged"] += not whole
            return out

        held = b""
        while piece := raw.read(AT_ONCE):
            held += piece
            while begin := _STREAM.search(held, 1):
                waiting.append(pool.submit(_unpack, held[: begin.start()]))
                held = held[begin.start() :]
                if len(waiting) > threads:
                    tell(raw.tell())
                    yield next_one()
            if len(held) > _LONGEST_STREAM:
                held = held[:1]  # a damaged stream, whose end is looked for
        waiting.append(pool.submit(_unpack, held))
        while waiting:
            yield next_one()


def _unpack(packed: bytes) -> tuple[bytes, bool]:
    """What a stream holds, and whether that is all of it."""
    stream = bz2.BZ2Decompressor()
    try:
        out = stream.decompress(packed, _MOST_UNPACKED)
    except OSError:
        return b"", False
    return out, stream.eof
