"""Exchanges with servers as WARC 1.1 files (ISO 28500), beside the shards, for replay.

A file is a series of gzip members, one a record, request and response together in one write. While a process
writes it, its name ends in `.open` and it is locked; it gets its final name when it is full or the process
ends. What a killed process leaves is cut after its last whole record by whoever starts next, and named.

A body is kept as it was sent, content encodings included; only chunks are put together, and so the header
`Transfer-Encoding` is kept under the name `X-Crawler-Transfer-Encoding`.
"""

import fcntl
import gzip
import hashlib
import os
import socket
import threading
import uuid
import zlib
from base64 import b32encode
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from tinylm import __version__

_OPEN = ".open"
_READ_BYTES = 1 << 20
Header = tuple[bytes, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One request and the answer to it."""

    url: str
    address: str
    request_line: bytes
    request_headers: tuple[Header, ...]
    status_line: bytes
    headers: tuple[Header, ...]
    body: bytes
    cut: bool = False
    """Whether the body was longer than was read."""


class WarcWriter:
    """One process's files in `directory`, each of about `most_bytes`; safe to call from any thread."""

    def __init__(self, directory: Path, most_bytes: int, user_agent: str) -> None:
        self._directory, self._most, self._agent = directory, most_bytes, user_agent
        self._lock = threading.Lock()
        self._file: BinaryIO | None = None
        self._path = directory
        directory.mkdir(parents=True, exist_ok=True)
        recover(directory)

    def write(self, exchange: Exchange) -> None:
        """Append the exchange, whole."""
        response_id, now = _new_id(), _now()
        known = {"WARC-Target-URI": exchange.url, "WARC-Date": now, "WARC-IP-Address": exchange.address}
        if exchange.cut:
            known["WARC-Truncated"] = "length"
        head = _head(exchange.status_line, map(_without_chunks, exchange.headers))
        response = _record(
            "response", {"WARC-Record-ID": response_id, **known}, "application/http;msgtype=response",
            head + exchange.body, payload=exchange.body,
        )  # fmt: skip
        request = _record(
            "request", {"WARC-Concurrent-To": response_id, **known}, "application/http;msgtype=request",
            _head(exchange.request_line, exchange.request_headers),
        )  # fmt: skip
        with self._lock:
            file = self._file or self._begin()
            file.write(response + request)
            file.flush()
            if file.tell() >= self._most:
                self._end()

    def close(self) -> None:
        """Give the last file its name."""
        with self._lock:
            self._end()

    def _begin(self) -> BinaryIO:
        started = f"{datetime.now(UTC):%Y%m%d%H%M%S%f}"
        self._path = self._directory / f"{started}-{socket.gethostname()}-{os.getpid()}.warc.gz{_OPEN}"
        self._file = self._path.open("xb")
        fcntl.flock(self._file, fcntl.LOCK_EX)
        fields = f"software: tinylm/{__version__}\r\nformat: WARC File Format 1.1\r\nhttp-header-user-agent: "
        about = {"WARC-Date": _now(), "WARC-Filename": self._path.name.removesuffix(_OPEN)}
        self._file.write(
            _record("warcinfo", about, "application/warc-fields", f"{fields}{self._agent}\r\n".encode())
        )
        return self._file

    def _end(self) -> None:
        if self._file:
            os.fsync(self._file.fileno())
            self._path.rename(self._path.with_suffix(""))
            self._file.close()
            self._file = None


def recover(directory: Path) -> None:
    """Cut what killed processes left in `directory` after its last whole record, and give it its name."""
    for path in directory.glob(f"*{_OPEN}"):
        with suppress(FileNotFoundError, BlockingIOError), path.open("rb+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not path.exists():
                continue  # Somebody else was quicker.
            whole = _whole_bytes(file)
            file.truncate(whole)
            os.fsync(file.fileno())
            if whole:
                path.rename(path.with_suffix(""))
            else:
                path.unlink()


def _whole_bytes(file: BinaryIO) -> int:
    """The length of the gzip members that end in `file`."""
    whole = read = 0
    member, data = zlib.decompressobj(wbits=31), b""
    with suppress(zlib.error):
        while data := data or file.read(_READ_BYTES):
            member.decompress(data, _READ_BYTES)
            rest = member.unused_data if member.eof else member.unconsumed_tail
            read += len(data) - len(rest)
            data = rest
            if member.eof:
                whole, member = read, zlib.decompressobj(wbits=31)
    return whole


def _record(kind: str, about: dict[str, str], media_type: str, block: bytes, payload: bytes = b"") -> bytes:
    fields = {
        "WARC-Type": kind,
        "WARC-Record-ID": _new_id(),
        **about,
        "WARC-Block-Digest": _digest(block),
        "Content-Type": media_type,
        "Content-Length": str(len(block)),
    }
    if kind == "response":
        fields["WARC-Payload-Digest"] = _digest(payload)
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return gzip.compress(b"WARC/1.1\r\n" + lines.encode() + b"\r\n" + block + b"\r\n\r\n", 6, mtime=0)


def _head(first: bytes, headers: Iterable[Header]) -> bytes:
    return b"".join([first, b"\r\n", *(b"%s: %s\r\n" % header for header in headers), b"\r\n"])


def _without_chunks(header: Header) -> Header:
    name, value = header
    return (b"X-Crawler-" + name, value) if name.lower() == b"transfer-encoding" else header


def _new_id() -> str:
    return f"<urn:uuid:{uuid.uuid4()}>"


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"


def _digest(data: bytes) -> str:
    return "sha1:" + b32encode(hashlib.sha1(data, usedforsecurity=False).digest()).decode()
