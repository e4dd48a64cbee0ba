"""From the bytes of a page to text, as browsers do it (WHATWG HTML, "determining the character encoding").

A byte order mark decides, then the charset of Content-Type, then what the first 16 KiB declare (the standard
prescans 1,024 bytes, but its parser comes back to a later declaration it meets). A page that declares nothing
is UTF-8 if it reads as that, else what charset-normalizer makes of a few kilobytes, else windows-1252. Labels
mean what they mean on the web (`latin1` is windows-1252, `gb2312` is gb18030), and none is Python's own: no
page is decoded as `utf-7` or `rot13`.
"""

import codecs
import re
from collections.abc import Iterator

import webencodings  # type: ignore[import-untyped]
from charset_normalizer import from_bytes

_PRESCANNED = 16 * 1024  # bytes
_GUESSED_FROM = 4096  # bytes, half of them before the first that is not UTF-8
_FEWEST_GUESSED = 8  # bytes that are not UTF-8; fewer are no evidence
_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_BE, "utf-16-be"), (codecs.BOM_UTF16_LE, "utf-16-le"))
# By the standard's name: where Python's codec of that name is not what the web needs.
_CODECS = {
    "gbk": "gb18030",  # decodes all of gbk, and what browsers' gbk adds to it
    "x-user-defined": "cp1252",  # HTML: a meta that says so means windows-1252
    "replacement": None,  # encodings that browsers refuse: an attack could hide markup in them
}
_HEADER_CHARSET = re.compile(r""";\s*charset\s*=\s*(?:"([^"]*)"|([^\s;,"]+))""", re.IGNORECASE)
_CONTENT_CHARSET = re.compile(
    rb"""charset[\t\n\f\r ]*=[\t\n\f\r ]*(?:"([^"]*)"|'([^']*)'|["']|([^\t\n\f\r ;]+))""", re.IGNORECASE
)
_MARKUP = re.compile(
    rb"<(?:(?P<comment>!--)|(?P<meta>meta(?=[\t\n\f\r /]))|(?P<tag>/?[a-z][^\t\n\f\r >]*)|[!/?])",
    re.IGNORECASE,
)
_ATTRIBUTE = re.compile(
    rb"""[\t\n\f\r /]*([^\t\n\f\r />][^\t\n\f\r />=]*)"""
    rb"""(?:[\t\n\f\r ]*=[\t\n\f\r ]*(?:"([^"]*)"?|'([^']*)'?|([^\t\n\f\r >"'][^\t\n\f\r >]*)|))?"""
)
_TAG_END = re.compile(rb"[\t\n\f\r /]*>")
_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]")
_XML_ENCODING = re.compile(
    rb"""<\?xml[^>]*?encoding[\x00-\x20]*=[\x00-\x20]*(?:"([^"\x00-\x20]*)"|'([^'\x00-\x20]*)')"""
)


def decode(body: bytes, content_type: str) -> str:
    """`body` as text; what is no character in its encoding becomes U+FFFD."""
    plain = content_type.lower().startswith("text/plain")
    header = _HEADER_CHARSET.search(content_type)
    of_header = codec(header[1] or header[2] or "") if header else None
    named = _of_mark(body) or of_header or (None if plain else declared(body))
    return body.decode(named or _guess(body), "replace").removeprefix("\ufeff")


def declared(body: bytes) -> str | None:
    """The codec that an HTML page itself names; None if it names none."""
    head = body[:_PRESCANNED]
    if head.startswith((b"<\0?\0x\0", b"\0<\0?\0x")):
        return "utf-16-le" if head[0] else "utf-16-be"
    name = _of_mark(head) or next(filter(None, map(_of_attributes, _metas(head))), None)
    if name is None and (match := _XML_ENCODING.match(head)):
        name = _codec_within(match[1] or match[2])
    return name


def codec(label: str) -> str | None:
    """The codec for what a page of the web labels so; None if it is no label of the web."""
    encoding = webencodings.lookup(label)
    return _CODECS.get(encoding.name, encoding.codec_info.name) if encoding else None


def _of_mark(body: bytes) -> str | None:
    return next((name for mark, name in _MARKS if body.startswith(mark)), None)


def _metas(head: bytes) -> Iterator[dict[bytes, bytes]]:
    """The attributes of each `meta` in markup, found without parsing it: the standard's prescan."""
    position = 0
    while match := _MARKUP.search(head, position):
        attributes: dict[bytes, bytes] = {}
        if match["comment"]:
            position = head.find(b"-->", match.start() + 2) + 3
        elif match["meta"] or match["tag"]:
            attributes, position = _attributes(head, match.end())
        else:
            position = head.find(b">", match.start()) + 1
        if position < match.end():
            return
        if match["meta"]:
            yield attributes


def _attributes(head: bytes, position: int) -> tuple[dict[bytes, bytes], int]:
    """Read the attributes of the tag whose name ends at `position`, and where it ends: -1 if it does not."""
    found: dict[bytes, bytes] = {}
    while match := _ATTRIBUTE.match(head, position):
        found.setdefault(match[1].lower(), match[2] or match[3] or match[4] or b"")
        position = match.end()
    end = _TAG_END.match(head, position)
    return found, end.end() if end else -1


def _of_attributes(attributes: dict[bytes, bytes]) -> str | None:
    if b"charset" in attributes:
        return _codec_within(attributes[b"charset"])
    if attributes.get(b"http-equiv", b"").lower() != b"content-type":
        return None
    match = _CONTENT_CHARSET.search(attributes.get(b"content", b""))
    return _codec_within(match[1] or match[2] or match[3] or b"") if match else None


def _codec_within(label: bytes) -> str | None:
    name = codec(label.decode("latin-1"))
    # What could be read as ASCII so far is not UTF-16, whatever it says.
    return "utf-8" if name in ("utf-16-le", "utf-16-be") else name


def _guess(body: bytes) -> str:
    """Pages cut within a character or with a stray byte are UTF-8 still; a few bytes are no evidence."""
    text = body.decode("utf-8", "replace")
    unread = text.count("\ufffd")
    if 10 * unread <= len(_BEYOND_ASCII.findall(text)):
        return "utf-8"
    if unread < _FEWEST_GUESSED:
        return "cp1252"
    start = max(0, text.index("\ufffd") - _GUESSED_FROM // 2)
    sample = body[start : start + _GUESSED_FROM]
    best = from_bytes(sample, steps=5, chunk_size=512, preemptive_behaviour=False).best()
    return best.encoding if best else "cp1252"
