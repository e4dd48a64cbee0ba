"""Files that are complete or absent: write to a temporary name, fsync, rename, fsync the directory.

And places where one process writes at a time.
"""

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from tinylm.errors import FileError
from tinylm.processes import lock

TEMPORARY_SUFFIX = ".tmp"
# What a write fails with where room is what is lacking.
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Bytes read at once to digest a file: half or double makes no difference that can be measured.
_BLOCK = 1 << 20


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; what was written there becomes `path` if the block succeeds.

    Raises FileError if the disk is full or `path` cannot be written; what was there before is untouched.
    """
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    try:
        yield temporary
        sync_file(temporary)
        temporary.replace(path)
        sync_directory(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.errno in NO_ROOM:
            raise FileError(
                f"{path}: the disk is full. Nothing written before is lost: free some space and start again"
            ) from error
        raise FileError(f"{path}: cannot be written ({error})") from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def alone(
    out: Path,
    lock_file: Path | None = None,
    does: str = "is writing here; wait until it ends, or give another --out",
) -> Iterator[None]:
    """Hold `lock_file`, by default beside `out`: who else would write there is refused, with our pid.

    It is gone again at the end. Its folder is made if need be; if the block fails, folders that were made and
    are empty go again.
    """
    lock_file = lock_file or out.with_name(f".{out.name}.lock")
    made = [folder for folder in lock_file.parents if not folder.exists()]
    try:
        lock_file.parent.mkdir(parents=True, exist_ok=True)
        held = _held(out, lock_file, does)
        try:
            yield
        finally:
            lock_file.unlink(missing_ok=True)
            held.close()
    except BaseException:
        for folder in made:
            with suppress(OSError):
                folder.rmdir()
        raise


def _held(out: Path, lock_file: Path, does: str) -> BinaryIO:
    while held := lock(lock_file):
        # Who had it before us removes it at its end, perhaps after we opened it: then ours is no lock.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(held.fileno()), lock_file.stat()):
                held.truncate(0)
                held.write(str(os.getpid()).encode())
                held.flush()
                return held
        held.close()
    pid = ""
    with suppress(FileNotFoundError):  # its holder ends at this moment
        pid = lock_file.read_text()
    raise FileError(f"{out}: process {pid} {does}")


def sync_file(path: Path) -> None:
    """Make what was written to `path` durable."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Make renames in `path` durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Make `value` as JSON, indented by 1, the file `path`; raises FileError."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """The JSON in the file `path`; raises OSError if it cannot be read, FileError if it is no JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise FileError(f"{path}: not JSON ({error})") from error
