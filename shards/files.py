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


def open_bytes(location: Path | str, name: str = "") -> Any:
    """The file `name` in the folder or at the URL `location`, or that itself, for reading bytes.

    Raises OSError; at a URL FileNotFoundError if it is not there, and ShardError for all else.
    """
    if not is_url(location):
        return Path(location, name).open("rb")
    with _reaching(location):
        import fsspec

        return fsspec.open(f"{str(location).rstrip('/')}/{name}" if name else str(location), "rb").open()


def names_below(location: Path | str) -> list[str]:
    """Files in the folder or at the URL `location`, however deep, none if it is not there.

    By HTTP those that index pages link to; links of a file system to folders are not followed. Left out are
    files and folders whose names begin with `.` or `_`, which tools keep for themselves: `._a.parquet`,
    `.ipynb_checkpoints`, `_temporary`, `_delta_log`. Raises ShardError.
    """
    with suppress(FileNotFoundError), _reaching(location):
        files, root = _file_system(location)
        folders = files.walk(root, on_error="raise")  # `find` leaves out a folder that cannot be read
        paths = [f"{at}/{name}".removeprefix(root).lstrip("/") for at, _, names in folders for name in names]
        if "http" in files.protocol:  # a page may name a folder without a slash at its end, like a file
            for path in [path for path in paths if "." not in path.rpartition("/")[2]]:
                if is_folder(inner := f"{str(location).rstrip('/')}/{path}"):
                    paths += [f"{path}/{name}" for name in names_below(inner)]
        return [path for path in paths if not any(part[:1] in (".", "_") for part in path.split("/"))]
    return []


def is_folder(location: Path | str) -> bool:
    """Whether `location` is a folder and no file; by HTTP one is what is answered with a page.

    Raises ShardError.
    """
    with suppress(FileNotFoundError), _reaching(location):
        files, root = _file_system(location)
        found = files.info(root)
        return bool(found["type"] == "directory" or found.get("mimetype") == "text/html")
    return False


def _file_system(location: Path | str) -> tuple[Any, str]:
    """fsspec's of `location`, and its name there: one code for all of them, so that all give one answer."""
    import fsspec

    if is_url(location):
        found: tuple[Any, str] = fsspec.core.url_to_fs(str(location))
        return found
    # Not by `url_to_fs`, to which a path with `::` is several URLs.
    return fsspec.filesystem("file"), str(Path(location).resolve())


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
