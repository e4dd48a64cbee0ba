"""An answer of HTTP/1 as browsers read it, whoever kept it: a live server's, a WARC file's.

What is asked of an answer is asked here, so that a page that was crawled and the same page read back cannot
come out otherwise. What can be read is read: no answer is lost for a part of it that nobody needs. All of it
is bounded, and takes time by what came.
"""

import codecs
import re
import zlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple
from urllib.parse import quote_from_bytes

import brotli
from backports import zstd

Header = tuple[bytes, bytes]

# Bytes of a head, as many as Chrome reads, and lines of it. Read, it takes some five times as much, for each
# request in flight; at half, a page that some browsers show could be lost.
_MOST_HEAD_BYTES, _MOST_LINES = 256 * 1024, 1000
_HEAD_END = re.compile(rb"\r?\n\r?\n")
_FOLD = re.compile(rb"\r?\n[ \t]++")
_STATUS_LINE = re.compile(rb"HTTP(?:/(\d)(?:\.(\d))?)?[ \t]+([1-9]\d\d)(?!\d)[ \t]*(.*)", re.IGNORECASE)
# More digits than these are no length that anybody means.
_LENGTH = re.compile(r"[0-9]{1,15}")
# The line that says a chunk's size, behind the end of the chunk before it.
_CHUNK = re.compile(rb"[ \t\r\n]*+(?=[0-9A-Fa-f])0*+([0-9A-Fa-f]{0,15}+)[ \t\r]*+(?:;[^\n]*+)?\n")
_CHUNK_BEGUN = re.compile(rb"[ \t\r\n]*+[0-9A-Fa-f]*+[ \t\r]*+(?:;[^\n]*+)?")
# Of all that, with extensions.
_MOST_CHUNK_LINE = 4096
# Chunks of a body: a page of 4 MB has some thousands, and these take 60 ms; of one byte each it has millions.
_MOST_CHUNKS = 100_000
# Codings on each other: a bomb that is packed 20 times grows at each.
_MOST_CODINGS = 3
# Bytes that are unpacked at a time; deflate makes a thousand of one, the others are told how many may come.
_PACKED, _UNPACKED = 1024, 1 << 16
# Members of gzip and frames of zstd in a body. Each takes up to 90 microseconds, however small it is.
_MOST_MEMBERS = 1000
_GZIP, _ZSTD = b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd"
# A window of 8 MB, the most that RFC 9659 allows; the library's own bound is 128.
_ZSTD_OPTIONS: dict[int, int] = {zstd.DecompressionParameter.window_log_max: 23}
# Of a combined header: a comma within quotes divides nothing.
_VALUES = re.compile(r'(?:[^",]|"(?:[^"\\]|\\.)*+(?:"|\\?\Z))+', re.DOTALL)
_NAME = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"
_MEDIA_TYPE = re.compile(rf"[ \t\r\n]*({_NAME}/{_NAME})[ \t\r\n]*(?:;|$)")
_CHARSET = re.compile(r""";\s*charset\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s;]+))""", re.IGNORECASE)
# Bytes that a browser looks at (MIME Sniffing, section 5.2).
_SNIFFED = 1445
_BINARY = re.compile(rb"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f]")
# More than the tags of the standard's table, and not at the beginning only: what a script says before its
# page, and pages that begin with a tag of later years, would become texts full of markup.
_MARKUP = re.compile(rb"\s*<[a-z!?]|.*<(?:!doctype|html|head|body|title)[\s>]", re.IGNORECASE | re.DOTALL)
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
# All that a header holds in ASCII.
_AS_IT_IS = bytes(range(128))


class MessageError(ValueError):
    """Bytes that are no answer, or whose codings cannot be undone."""


class Truncated(MessageError):
    """Less came than was announced."""


class Head(NamedTuple):
    """Status line and headers."""

    version: tuple[int, int]
    status: int
    reason: bytes
    headers: tuple[Header, ...]

    @classmethod
    def parsed(cls, block: bytes) -> "Head":
        """What stands before the blank line. Raises MessageError if that is no answer.

        What is no header (RFC 9112, section 5) is left out, as are spaces before a colon; a line that begins
        with a space continues the one before.
        """
        first, *lines = _FOLD.sub(b" ", block).split(b"\n", _MOST_LINES)[:_MOST_LINES]
        if not (match := _STATUS_LINE.match(first)):
            raise MessageError(f"no HTTP: {first[:80]!r}")
        headers: list[Header] = []
        for line in lines:
            name, colon, value = line.partition(b":")
            if colon and name.strip():
                headers.append((name.strip(), value.strip()))
        version = int(match[1] or 1), int(match[2] or 0)
        return cls(version, int(match[3]), match[4].strip(), tuple(headers))

    @property
    def suffices(self) -> bool:
        """Whether nothing of the body is needed: where it leads, or that there is no page, it says itself."""
        return self.status >= 300

    def values(self, name: bytes) -> list[str]:
        """The members of headers of this name (in lower case), in lower case and without parameters."""
        lines = [value.decode("latin-1").lower() for known, value in self.headers if known.lower() == name]
        return [part.partition(";")[0].strip() for line in lines for part in line.split(",")]

    @property
    def codings(self) -> list[str]:
        """What was done to the body, one after the other; our WARC files have another name for the last."""
        names = (b"content-encoding", b"transfer-encoding", b"x-crawler-transfer-encoding")
        return [coding for name in names for coding in self.values(name)]

    def length(self) -> int | None:
        """Bytes of the body as it is said to be sent; None if it is not. Raises MessageError for several."""
        said = {int(n) if _LENGTH.fullmatch(n) else None for n in self.values(b"content-length")}
        if len(said) > 1 and None not in said and not self.suffices:
            raise MessageError("several lengths of one body")
        return said.pop() if len(said) == 1 else None


class Answer:
    """One answer, as its bytes come in."""

    def __init__(self, *, framed: bool = True) -> None:
        """Without `framed`, the length it says is not heeded: a record has a length of its own."""
        self.head: Head | None = None
        self.over = False
        """Whether nothing that still comes belongs to it."""
        self.whole = False
        """Whether all of the body came that was announced."""
        self.length: int | None = None
        """Bytes of the body; None if that cannot be known before its end."""
        self.persistent = False
        """Whether the connection may be asked again."""
        self.broken = False
        """Whether the connection ended by an error: then its end is not the body's (RFC 9112, section 8)."""
        self._framed = framed
        self._held = bytearray()  # of the head, or of the line that says a chunk's size
        self._begin = 0  # of the head, behind those that only say that one follows
        self._left: int | None = None  # of the body, or of a chunk; None: all until the connection ends
        self._chunked = self._began = False
        self._chunks_left = _MOST_CHUNKS

    def feed(self, data: bytes) -> bytes:
        """Take what came; what of it is the body's, chunks undone. Raises MessageError if it is no answer."""
        if self.over:
            self.persistent = self.persistent and not data
            return b""
        data = data if self.head else self._after_head(data)
        return self._chunks(data) if self._chunked else self._body(data)

    def _after_head(self, data: bytes) -> bytes:
        """Take what came of the head; what came behind it."""
        searched = max(self._begin, len(self._held) - 3)
        self._held += data if self._held else data.lstrip(b"\r\n")
        if self._held[:4].upper() != b"HTTP"[: len(self._held)]:
            raise MessageError(f"no HTTP: {bytes(self._held[:80])!r}")
        while end := _HEAD_END.search(self._held, searched, _MOST_HEAD_BYTES):
            head = Head.parsed(bytes(self._held[self._begin : end.start()]))
            self._begin = searched = end.end()
            if head.status >= 200:  # else another follows
                self._frame(head)
                data, self._held = bytes(self._held[self._begin :]), bytearray()
                return data
        if len(self._held) >= _MOST_HEAD_BYTES:
            self._cut_head()
        return b""

    def end(self) -> bytes:
        """The connection ended: the rest of the body. Raises MessageError if what came is no answer."""
        if self.head is None:
            self._cut_head()
        body = b""
        if self._chunked and not self._began:  # a body of one line, and without chunks
            body, self._chunked = bytes(self._held), False
        if not self.over:
            self.over, self.whole = True, self._left is None and not (self._chunked or self.broken)
        return body

    def _cut_head(self) -> None:
        """Take a head that is too long, or ended before its time, for what it says until there."""
        last = self._held.rfind(b"\n", self._begin, _MOST_HEAD_BYTES)
        head = Head.parsed(bytes(self._held[self._begin : last + 1]))
        if not head.suffices:
            raise MessageError(f"no end of its headers in {len(self._held):,} bytes")
        self.head, self.over = head, True

    def _frame(self, head: Head) -> None:
        """Take the head, and find where the body ends (RFC 9112, section 6.3)."""
        self.head = head
        self._chunked = "chunked" in head.values(b"transfer-encoding")
        if head.status in (204, 304):
            self.length, self._chunked = 0, False
        elif self._framed and not self._chunked:
            self.length = head.length()
        self._left = self.length
        connection = head.values(b"connection")
        self.persistent = (
            (self._chunked or self.length is not None)
            and "close" not in connection
            and (head.version >= (1, 1) or "keep-alive" in connection)
        )

    def _body(self, data: bytes) -> bytes:
        if self._left is None:
            return data
        body = data[: self._left]
        self._left -= len(body)
        if not self._left:
            self.over = self.whole = True
            self.persistent = self.persistent and len(body) == len(data)
        return body

    def _chunks(self, data: bytes) -> bytes:
        """What is in chunks; of a body that is said to have some and has none, all."""
        data, self._held = bytes(self._held) + data, bytearray()
        at, body = 0, list[bytes]()
        while at < len(data) and not self.over:
            if self._left:
                body.append(data[at : at + self._left])
                at += len(body[-1])
                self._left -= len(body[-1])
            elif self._chunks_left and (size := _CHUNK.match(data, at, at + _MOST_CHUNK_LINE)):
                self._chunks_left -= 1
                at, self._left, self._began = size.end(), int(size[1] or b"0", 16), True
                if not self._left:
                    self.over = self.whole = True
                    self.persistent = self.persistent and data[at:] in (b"\r\n", b"\n")
            elif self._chunks_left and len(data) - at < _MOST_CHUNK_LINE and _CHUNK_BEGUN.fullmatch(data, at):
                self._held += data[at:]
                break
            elif self._began:
                self.over, self.persistent = True, False
            else:
                self._chunked = self.persistent = False
                return self._body(data)
        return b"".join(body)


def decoded(body: bytes, codings: Iterable[str], most: int) -> tuple[bytes, bool]:
    """A body without its codings, the first of `most` bytes, and whether that is all.

    What is no coding that we know (`none`, `utf-8`) was none. What is not packed although it is said to be is
    as it came, if that may be text. What is cut or damaged is kept as far as it goes, and nobody compares
    sums: the server has sent it so, and will again. Raises MessageError if nothing is left, or for a fourth
    coding.
    """
    known = [unpack for coding in codings if (unpack := _UNPACK.get(coding))]
    if len(known) > _MOST_CODINGS:
        raise MessageError(f"more than {_MOST_CODINGS} content codings")
    whole = True
    for unpack in reversed(known):
        unpacked = bytearray()
        try:
            for piece in unpack(body):
                unpacked += piece
                if len(unpacked) > most:
                    whole = False
                    break
        except (EOFError, zlib.error, brotli.error, zstd.ZstdError) as error:
            if not _BINARY.search(body[:_SNIFFED]):
                continue
            if not unpacked:
                raise MessageError(f"not packed as it is said to be: {body[:20]!r}") from error
        body = bytes(unpacked[:most])
    return body[:most], whole and len(body) <= most


def _inflate(body: bytes) -> Iterator[bytes]:
    """The members of gzip, or one stream of deflate in zlib's frame or, as some servers send it, in none."""
    start = 0
    for _ in range(_MOST_MEMBERS):
        inflater, at = zlib.decompressobj(wbits=-zlib.MAX_WBITS), _deflated_at(body, start)
        while not inflater.eof:
            if at >= len(body):
                raise EOFError
            yield inflater.decompress(body[at : at + _PACKED])
            at += _PACKED
        start = min(at, len(body)) - len(inflater.unused_data) + 8  # behind checksum and length
        if not body.startswith(_GZIP, start):
            return


def _deflated_at(body: bytes, start: int) -> int:
    """Where the frame ends that begins at `start` (RFC 1952, section 2.3; RFC 1950, section 2.2)."""
    at, flags = start + 10, int.from_bytes(body[start + 3 : start + 4])
    if not body.startswith(_GZIP, start):
        head = int.from_bytes(body[start : start + 2])
        return start + 2 if head >> 8 & 15 == 8 and head % 31 == 0 else start
    if flags & 4:
        at += 2 + int.from_bytes(body[at : at + 2], "little")
    for named in (8, 16):
        if flags & named:
            at = body.find(b"\0", at) + 1 or len(body)
    return at + (flags & 2)


def _unbrotli(body: bytes) -> Iterator[bytes]:
    decoder = brotli.Decompressor()
    piece = decoder.process(body, output_buffer_limit=_UNPACKED)
    while piece:
        yield piece
        piece = decoder.process(b"", output_buffer_limit=_UNPACKED)
    if not decoder.is_finished():
        raise EOFError


def _unzstd(body: bytes) -> Iterator[bytes]:
    start = 0
    for _ in range(_MOST_MEMBERS):
        decoder, at = zstd.ZstdDecompressor(options=_ZSTD_OPTIONS), start
        while not decoder.eof:
            if decoder.needs_input and at >= len(body):
                raise EOFError
            # A piece: what a frame is given and does not take is copied.
            given = body[at : at + _UNPACKED] if decoder.needs_input else b""
            at += len(given)
            yield decoder.decompress(given, _UNPACKED)
        start = at - len(decoder.unused_data)
        if not body.startswith(_ZSTD, start):
            return


_UNPACK = {"gzip": _inflate, "x-gzip": _inflate, "deflate": _inflate, "br": _unbrotli, "zstd": _unzstd}


def ends(page: bytes) -> bool:
    """Whether a page says that nothing of it follows: comments at most, whatever was announced."""
    return b"</html" in page[-_SNIFFED:].lower()


def content_type(values: Iterable[str], body: bytes) -> str:
    """The media type, in lower case, and the charset that `Content-Type` headers say: `text/html;charset=x`.

    The last one that is one counts (Fetch, "extract a MIME type"). What none says is told from the beginning
    of `body` (MIME Sniffing), and so is whether what is called plain text is any.
    """
    kind = charset = ""
    for value in _VALUES.findall(",".join(values)):
        match = _MEDIA_TYPE.match(value)
        if match is None or match[1] == "*/*":
            continue
        if kind != match[1].lower():
            kind, charset = match[1].lower(), ""
        if said := _CHARSET.search(value):
            charset = said[1] or said[2] or said[3] or ""
    if not kind or (kind == "text/plain" and charset.lower() in ("", "iso-8859-1", "utf-8")):
        kind = _sniffed(body[:_SNIFFED], is_text=bool(kind))
    return f"{kind};charset={charset}" if charset else kind


def _sniffed(head: bytes, *, is_text: bool) -> str:
    """What bytes are that are said to be anything, or text: `text/html`, `text/plain` or neither."""
    if head.startswith(_UTF_16):
        head = head.decode("utf-16", "replace").encode("utf-8", "replace")
    if _BINARY.search(head):
        return "application/octet-stream"
    is_markup = not is_text and _MARKUP.match(head.removeprefix(codecs.BOM_UTF8))
    return "text/html" if is_markup else "text/plain"


def header_url(value: str) -> str:
    """The URL in a header whose bytes were read as Latin-1: those beyond ASCII are escaped as they were sent.

    So do browsers, whatever encoding the server thought of.
    """
    return quote_from_bytes(value.encode("latin-1"), safe=_AS_IT_IS)
