"""Files by path or by fsspec URL (s3://, hf://, https://), for reading."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from shards.errors import ShardError


def is_url(location: Path | str) -> bool:
    """Whether `location` is a URL for fsspec (s3://, hf://, …) and not a path."""
    return "://" in str(location)


def open_bytes(location: Path | str, name: str) -> Any:
    """The file `name` in the folder or at the URL `location`, for reading bytes.

    Raises OSError; at a URL FileNotFoundError if it is not there, and ShardError for all else.
    """
    if not is_url(location):
        return (Path(location) / name).open("rb")
    with _reaching(location):
        import fsspec

        return fsspec.open(f"{str(location).rstrip('/')}/{name}", "rb").open()


def names_below(url: str) -> list[str]:
    """Files at `url`, however deep, none if it is not there; by HTTP those that index pages link to.

    Raises ShardError.
    """
    with suppress(FileNotFoundError), _reaching(url):
        import fsspec

        files, root = fsspec.core.url_to_fs(url)
        folders = files.walk(root, on_error="raise")  # `find` leaves out a folder that cannot be read
        paths = [f"{folder}/{name}" for folder, _, names in folders for name in names]
        return [path.removeprefix(root).lstrip("/") for path in paths]
    return []


@contextmanager
def _reaching(location: Path | str) -> Iterator[None]:
    """Turn any error of opening `location` into a ShardError: fsspec's backends raise different ones.

    FileNotFoundError stays, so that a caller can ask whether a file is there.
    """
    try:
        yield
    except FileNotFoundError as error:
        # By HTTP, fsspec says this of whatever went wrong, too.
        by_http, cause = str(location).startswith("http"), error.__cause__
        if by_http and cause and getattr(cause, "status", None) not in (404, 410):
            raise ShardError(f"{location} cannot be reached ({cause})") from error
        raise
    except Exception as error:
        raise ShardError(f"{location} cannot be reached ({error})") from error


def size_of(file: Any) -> int:
    """Bytes of an open file, whose position is at the beginning afterwards."""
    size = int(file.seek(0, os.SEEK_END))
    file.seek(0)
    return size
