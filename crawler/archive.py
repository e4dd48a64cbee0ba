"""Responses out of WARC files (ISO 28500), ours or other people's, gzipped or not.

What is damaged is counted and skipped: reading goes on at the next place where a record begins.
"""

import mmap
import zlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import brotli
from backports import zstd
from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType

_GZIP, _PLAIN = b"\x1f\x8b\x08", b"WARC/1."
_MOST_BYTES = 1 << 26
_MOST_ENCODINGS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Archived:
    """A response as a client saw it: its encodings undone."""

    url: str
    status: int
    headers: tuple[tuple[str, str], ...]
    """Names in lower case."""
    body: bytes

    def header(self, name: str) -> str:
        """The first of this name; empty if there is none."""
        return next((value for known, value in self.headers if known == name), "")


class WarcReader:
    """The responses of a file. `broken` counts the places that could not be read, once they were passed.

    Raises OSError if the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.broken = 0

    def __iter__(self) -> Iterator[Archived]:
        """Their bodies must fit into memory, one at a time: one above 64 MiB counts as broken."""
        if not self._path.stat().st_size:
            return
        with (
            self._path.open("rb") as file,
            closing(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)) as data,
        ):
            magic = _GZIP if data[:2] == _GZIP[:2] else _PLAIN
            place, sound = 0, True
            while place >= 0:
                try:
                    for record in _records(file, place):
                        place = record.stream_pos
                        is_response = record.record_type == WarcRecordType.response and record.is_http
                        if is_response and (found := self._response(record)):
                            yield found
                        sound = True
                    return
                except OSError:
                    self.broken += sound
                    sound, place = False, data.find(magic, place + 1)

    def _response(self, record: WarcRecord) -> Archived | None:
        """None if it is none; raises OSError where the file is damaged."""
        record.parse_http(auto_decode="transfer")
        headers = tuple((name.lower(), value) for name, value in record.http_headers.to_tuples())
        status, length = record.http_headers.status_code, record.content_length
        body = record.reader.read(_MOST_BYTES + 1)
        cut = len(body) < length and not any(name == "transfer-encoding" for name, _ in headers)
        decoded = None if cut or len(body) > _MOST_BYTES else _decoded(body, headers)
        if status is None or decoded is None:
            self.broken += 1
            return None
        url = (record.headers.get("WARC-Target-URI") or "").strip("<>")
        return Archived(url=url, status=status, headers=headers, body=decoded)


def _records(file: BinaryIO, place: int) -> Iterator[WarcRecord]:
    file.seek(place)
    yield from ArchiveIterator(file, parse_http=False, quirks_mode=True)


def _decoded(body: bytes, headers: tuple[tuple[str, str], ...]) -> bytes | None:
    """The body without its content encodings; None if it is not what it says it is."""
    named = ",".join(value for name, value in headers if name == "content-encoding")
    encodings = [name for part in named.lower().split(",") if (name := part.strip()) not in ("", "identity")]
    if len(encodings) > _MOST_ENCODINGS:
        return None
    try:
        for encoding in reversed(encodings):
            body = _decode(body, encoding)
    except (zlib.error, zstd.ZstdError, brotli.error, ValueError):
        return None
    return body


def _decode(body: bytes, encoding: str) -> bytes:
    """Raises ValueError, or what the library raises, if it is damaged, too large, or of no known encoding."""
    decoder: Any
    if encoding in ("gzip", "x-gzip"):
        decoder = zlib.decompressobj(wbits=31)
    elif encoding == "deflate":
        # Some servers leave out the zlib header, and browsers let them.
        decoder = zlib.decompressobj(wbits=15 if body[:1] in (b"\x78", b"\x58", b"\x08") else -15)
    elif encoding == "zstd":
        decoder = zstd.ZstdDecompressor()
    elif encoding == "br":
        decoder = brotli.Decompressor()
        decoded: bytes = decoder.process(body, output_buffer_limit=_MOST_BYTES)
        if not decoder.is_finished():
            raise ValueError(encoding)
        return decoded
    else:
        raise ValueError(encoding)
    decoded = decoder.decompress(body, _MOST_BYTES)
    if not decoder.eof:
        raise ValueError(encoding)
    return decoded
