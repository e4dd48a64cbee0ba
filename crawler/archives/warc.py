"""Exchanges with servers as WARC files (ISO 28500): ours written beside the shards, anybody's read.

A file of ours is a series of gzip members, one a record, request and response together. While a process
writes it, its name ends in `.open` and it is locked; it gets its final name when it is full or the process
ends. A write that fails is cut back to the record before; what a killed process leaves is cut after its last
complete record by whoever starts next, and named.

A body is kept as it was sent, content encodings included; only chunks are put together, and so the header
`Transfer-Encoding` is kept under the name `X-Crawler-Transfer-Encoding`.
"""

import gzip
import hashlib
import json
import logging
import mmap
import os
import shutil
import socket
import threading
import uuid
import zlib
from base64 import b32encode
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from fastwarc.warc import ArchiveIterator, WarcRecord, WarcRecordType

from crawler.archives.places import Places
from crawler.archives.records import Archived, Record
from crawler.errors import PageError, SeedError
from crawler.message import Answer, Header, MessageError, decoded, ends
from crawler.page import Link, Page
from crawler.read.optout import from_metas
from crawler.seeds.seed import Progress
from crawler.urls import address
from shards.errors import ShardError
from shards.files import size_of
from tinylm import __version__
from tinylm.processes import lock
from tinylm.records import MALFORMED

_OPEN, _TORN = ".open", ".torn"
_READ_BYTES = 1 << 20
# As ISO 28500 recommends.
_FILE_BYTES = 1_000_000_000
_GZIP, _PLAIN = b"\x1f\x8b\x08", b"WARC/1."
# How each member of ours begins: gzip, deflate, no flags, no time.
_MEMBER = b"\x1f\x8b\x08" + bytes(5)
# Of a body that is read, also without its encodings: 64 MiB.
_MOST_BYTES = 1 << 26
# Of the links that a WAT file has, those that people follow; why its pages have no text.
_FOLLOWED, LINKS_ONLY = ("A@/href", "AREA@/href", "FRAME@/src", "IFRAME@/src"), "links_only"

log = logging.getLogger(__name__)


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
    truncated: str = ""
    """Why that is not all of the body, in the words of WARC: `length`, `time`, `disconnect`."""


class WarcWriter:
    """One process's files in `directory`, each of about `file_bytes`; safe to call from any thread."""

    def __init__(self, directory: Path, user_agent: str, file_bytes: int = _FILE_BYTES) -> None:
        self.directory, self._agent, self._file_bytes = directory, user_agent, file_bytes
        self._lock = threading.Lock()
        self._file: BinaryIO | None = None
        self._written = 0  # bytes of whole records in the file
        self._path = directory
        directory.mkdir(parents=True, exist_ok=True)
        recover(directory)

    def write(self, exchange: Exchange) -> None:
        """Append the exchange, or nothing of it: raises OSError if it cannot be written."""
        response_id, now = _new_id(), _now()
        known = {"WARC-Target-URI": exchange.url, "WARC-Date": now, "WARC-IP-Address": exchange.address}
        if exchange.truncated:
            known["WARC-Truncated"] = exchange.truncated
        headers = (
            (b"X-Crawler-" + name if name.lower() == b"transfer-encoding" else name, value)
            for name, value in exchange.headers
        )
        head = _head(exchange.status_line, headers)
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
            self._append(file, (b"" if self._written else self._warcinfo()) + response + request)
            if self._written >= self._file_bytes:
                self._end()

    def close(self) -> None:
        """Give the last file its name."""
        with self._lock:
            self._end()

    def _begin(self) -> BinaryIO:
        while self._file is None:  # None too if another process just took it for a dead one's and removes it
            started = f"{datetime.now(UTC):%Y%m%d%H%M%S%f}"
            self._path = self.directory / f"{started}-{socket.gethostname()}-{os.getpid()}.warc.gz{_OPEN}"
            self._file, self._written = lock(self._path), 0
        return self._file

    def _warcinfo(self) -> bytes:
        fields = f"software: tinylm/{__version__}\r\nformat: WARC File Format 1.1\r\nhttp-header-user-agent: "
        about = {"WARC-Date": _now(), "WARC-Filename": self._path.name.removesuffix(_OPEN)}
        return _record("warcinfo", about, "application/warc-fields", f"{fields}{self._agent}\r\n".encode())

    def _append(self, file: BinaryIO, records: bytes) -> None:
        # Past Python's buffer: what is left in it after a failure would be written with the next record.
        left = memoryview(records)
        try:
            while left:
                left = left[os.write(file.fileno(), left) :]
        except BaseException:
            try:
                os.ftruncate(file.fileno(), self._written)
            except OSError:  # what is torn keeps its name, for `recover`
                self._file = None
                file.close()
            raise
        self._written += len(records)

    def _end(self) -> None:
        if self._file:
            # If it cannot be synced, it keeps its name too.
            with self._file as file:
                self._file = None
                os.fsync(file.fileno())
                if self._written:
                    self._path.rename(self._path.with_suffix(""))
                else:
                    self._path.unlink()


def recover(directory: Path) -> None:
    """Cut what killed processes left in `directory` after its last complete record, and give it its name.

    If other records follow one that is torn (a full disk, before writes were cut back), all from the tear on
    is kept in a file of its own, unread: whether it is our records or what a page made look like some nobody
    can tell.
    """
    for path in directory.glob(f"*{_OPEN}"):
        if (held := lock(path)) is None:
            continue  # whoever writes it lives
        # FileNotFoundError: somebody else was quicker.
        with held, suppress(FileNotFoundError), path.open("rb") as file:
            complete = _bytes_of_complete_members(file)
            _keep_torn(file, complete, path.with_suffix(_TORN))
            held.truncate(complete)
            os.fsync(held.fileno())
            if complete:
                path.rename(path.with_suffix(""))
            else:
                path.unlink()


def _keep_torn(file: BinaryIO, start: int, path: Path) -> None:
    """Copy `file` from `start` on to `path` if a record begins after that."""
    with suppress(ValueError), closing(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)) as data:  # empty
        if data.find(_MEMBER, start + 1) < 0:
            return
        file.seek(start)
        with path.open("wb") as torn:
            shutil.copyfileobj(file, torn, _READ_BYTES)
        log.warning("%s: a WARC file was torn within, and what follows the tear is kept here", path)


def _bytes_of_complete_members(file: BinaryIO) -> int:
    """How many bytes the gzip members take that end in `file`."""
    complete = read = 0
    member, data = zlib.decompressobj(wbits=31), b""
    with suppress(zlib.error):
        while data := data or file.read(_READ_BYTES):
            member.decompress(data, _READ_BYTES)
            rest = member.unused_data if member.eof else member.unconsumed_tail
            read += len(data) - len(rest)
            data = rest
            if member.eof:
                complete, member = read, zlib.decompressobj(wbits=31)
    return complete


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


def _new_id() -> str:
    return f"<urn:uuid:{uuid.uuid4()}>"


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"


def _digest(data: bytes) -> str:
    return "sha1:" + b32encode(hashlib.sha1(data, usedforsecurity=False).digest()).decode()


class WarcReader:
    """The answers in a WARC file, gzipped or not, whoever wrote it, from the byte `start` on.

    Of a WET file they are the texts, as answers of plain text; of a WAT file pages with their links and
    without a text. What is damaged is skipped: reading goes on where the next record begins. `broken` counts
    how often, once that was passed. `file` has to have a position that can be set.
    """

    def __init__(self, file: BinaryIO, start: int = 0) -> None:
        self._file = file
        self.position = start
        """Where the record began that was read last."""
        self.broken = 0

    def __iter__(self) -> Iterator[Archived | Page]:
        """Their bodies must fit into memory, one at a time: one above 64 MiB counts as broken."""
        magic = _GZIP if self._file.read(2) == _GZIP[:2] else _PLAIN
        sound = True
        while self.position >= 0:
            self._file.seek(self.position)
            try:
                for record in ArchiveIterator(self._file, parse_http=False, quirks_mode=True):
                    self.position = record.stream_pos
                    if found := self._content(record):
                        yield found
                    sound = True
                return
            except OSError as error:
                if error.errno:  # of the file, not of what is in it
                    raise
                # Counted once, however often what looks like the next record is none.
                self.broken += sound
                sound, self.position = False, self._next(magic, self.position + 1)

    def _next(self, magic: bytes, start: int) -> int:
        """Where `magic` begins in the file, at `start` or behind it; -1 if nowhere."""
        self._file.seek(start)
        data = b""
        while block := self._file.read(_READ_BYTES):
            data = data[1 - len(magic) :] + block
            if (at := data.find(magic)) >= 0:
                return self._file.tell() - len(data) + at
        return -1

    def _content(self, record: WarcRecord) -> Archived | Page | None:
        kind = (record.headers.get("Content-Type") or "application/http").lower()
        if record.record_type == WarcRecordType.response and "application/http" in kind:
            return self._response(record)
        if record.record_type == WarcRecordType.metadata and "application/json" in kind:
            return self._linked(record)
        if record.record_type == WarcRecordType.conversion and kind.startswith("text/plain"):
            said = (("content-type", "text/plain; charset=utf-8"),)
            body = record.reader.read(_MOST_BYTES)
            self.broken += len(body) < record.content_length
            return Archived(url=_url(record), status=200, headers=said, body=body, at=_at(record))
        return None

    def _linked(self, record: WarcRecord) -> Archived | Page | None:
        """What a WAT file says of an answer; None if it is of something else."""
        try:
            told = json.loads(record.reader.read(_MOST_BYTES))["Envelope"]
            about = told["WARC-Header-Metadata"]
            if about["WARC-Type"] != "response":
                return None
            http = told["Payload-Metadata"]["HTTP-Response-Metadata"]
            headers = tuple((name.lower(), str(value)) for name, value in http["Headers"].items())
            status, url, at = int(http["Response-Message"]["Status"]), about["WARC-Target-URI"], _at(record)
            if not 200 <= status < 300 or (found := address(url)) is None:
                return Archived(url=url, status=status, headers=headers, body=b"", at=at)
            html = http.get("HTML-Metadata", {})
            head = html.get("Head", {})
            metas = [(str(meta.get("name")), str(meta.get("content"))) for meta in head.get("Metas", ())]
            nofollow, base = (
                from_metas(metas, "").nofollow,
                address(str(head.get("Base", "")), found) or found,
            )
            links = [
                Link(to, str(one.get("text", "")), "", nofollow or "nofollow" in str(one.get("rel")))
                for one in html.get("Links", ())
                if one.get("path") in _FOLLOWED and "url" in one and (to := address(str(one["url"]), base))
            ]
            return Page(
                url=found, status=status, fetch_no=1, fetched_at=at, promise=0.0, propensity=1.0,
                links=tuple(links), title=str(head.get("Title", "")), reason=LINKS_ONLY,
            ).fitted()  # fmt: skip
        except (*MALFORMED, PageError):
            self.broken += 1
            return None

    def _response(self, record: WarcRecord) -> Archived | None:
        """None if it is none; raises OSError where the file is damaged."""
        length, answer = record.content_length, Answer(framed=False)
        block = record.reader.read(_MOST_BYTES + 1)
        cut = record.headers.get("WARC-Truncated") == "length"
        try:
            body = answer.feed(block) + answer.end()
            head, whole = answer.head, answer.whole or cut
            if head and not head.suffices:
                body, is_all = decoded(body, head.codings, _MOST_BYTES)
                whole = is_all and (whole or ends(body))
        except MessageError:
            head = None
        if head is None or len(block) < length or not (whole or head.suffices):
            self.broken += 1
            return None
        headers = ((name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in head.headers)
        url, at = _url(record), _at(record)
        return Archived(url=url, status=head.status, headers=tuple(headers), body=body, at=at, too_large=cut)


def _url(record: WarcRecord) -> str:
    return (record.headers.get("WARC-Target-URI") or "").strip("<>")


def _at(record: WarcRecord) -> int:
    return int(record.record_date.timestamp() * 1000) if record.record_date else 0


def read_warc(places: Places, place: str, position: str, progress: Progress) -> Iterator[Record]:
    """What `WarcReader` finds in a file. Raises CrawlError if that cannot be opened, or not be read."""
    before = progress.dropped["damaged"]
    try:
        with places.open(place) as file:
            progress.unit, progress.total = "bytes", size_of(file)
            reader = WarcReader(file, int(position or 0))
            for content in reader:
                progress.done, progress.dropped["damaged"] = reader.position, before + reader.broken
                # A position is where the record before begins: where it ends is known only with the next.
                if str(reader.position) != position:
                    yield Record(content, str(reader.position))
    except (OSError, ShardError) as error:
        raise SeedError(f"{place}: cannot be read ({getattr(error, 'strerror', '') or error})") from error
    progress.done, progress.dropped["damaged"] = progress.total, before + reader.broken
