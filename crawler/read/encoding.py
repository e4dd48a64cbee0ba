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

from charset_normalizer import from_bytes

_PRESCANNED = 16 * 1024
_GUESSED_FROM, _FEWEST_GUESSED = 4096, 8
_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_BE, "utf-16-be"), (codecs.BOM_UTF16_LE, "utf-16-le"))
_LABELS_OF_CODECS = """
utf-8 unicode-1-1-utf-8 unicode11utf8 unicode20utf8 utf8 x-unicode20utf8
utf-16-be unicodefffe utf-16be
utf-16-le csunicode iso-10646-ucs-2 ucs-2 unicode unicodefeff utf-16 utf-16le
cp866 866 csibm866 ibm866
iso8859-2 csisolatin2 iso-8859-2 iso-ir-101 iso88592 iso_8859-2 iso_8859-2:1987 l2 latin2
iso8859-3 csisolatin3 iso-8859-3 iso-ir-109 iso88593 iso_8859-3 iso_8859-3:1988 l3 latin3
iso8859-4 csisolatin4 iso-8859-4 iso-ir-110 iso88594 iso_8859-4 iso_8859-4:1988 l4 latin4
iso8859-5 csisolatincyrillic cyrillic iso-8859-5 iso-ir-144 iso88595 iso_8859-5 iso_8859-5:1988
iso8859-6 arabic asmo-708 csiso88596e csiso88596i csisolatinarabic ecma-114 iso-8859-6 iso-8859-6-e
iso8859-6 iso-8859-6-i iso-ir-127 iso88596 iso_8859-6 iso_8859-6:1987
iso8859-7 csisolatingreek ecma-118 elot_928 greek greek8 iso-8859-7 iso-ir-126 iso88597 iso_8859-7
iso8859-7 iso_8859-7:1987 sun_eu_greek
iso8859-8 csiso88598e csiso88598i csisolatinhebrew hebrew iso-8859-8 iso-8859-8-e iso-8859-8-i iso-ir-138
iso8859-8 iso88598 iso_8859-8 iso_8859-8:1988 logical visual
iso8859-10 csisolatin6 iso-8859-10 iso-ir-157 iso885910 l6 latin6
iso8859-13 iso-8859-13 iso885913
iso8859-14 iso-8859-14 iso885914
iso8859-15 csisolatin9 iso-8859-15 iso885915 iso_8859-15 l9
iso8859-16 iso-8859-16
koi8-r cskoi8r koi koi8 koi8_r
koi8-u koi8-ru
mac-roman csmacintosh mac macintosh x-mac-roman
mac-cyrillic x-mac-cyrillic x-mac-ukrainian
cp874 dos-874 iso-8859-11 iso8859-11 iso885911 tis-620 windows-874
cp1250 windows-1250 x-cp1250
cp1251 windows-1251 x-cp1251
cp1252 ansi_x3.4-1968 ascii cp819 csisolatin1 ibm819 iso-8859-1 iso-ir-100 iso8859-1 iso88591 iso_8859-1
cp1252 iso_8859-1:1987 l1 latin1 us-ascii windows-1252 x-cp1252 x-user-defined
cp1253 windows-1253 x-cp1253
cp1254 csisolatin5 iso-8859-9 iso-ir-148 iso8859-9 iso88599 iso_8859-9 iso_8859-9:1989 l5 latin5
cp1254 windows-1254 x-cp1254
cp1255 windows-1255 x-cp1255
cp1256 windows-1256 x-cp1256
cp1257 windows-1257 x-cp1257
cp1258 windows-1258 x-cp1258
gb18030 chinese csgb2312 csiso58gb231280 gb2312 gb_2312 gb_2312-80 gbk iso-ir-58 x-gbk
big5hkscs big5 big5-hkscs cn-big5 csbig5 x-x-big5
euc_jp cseucpkdfmtjapanese euc-jp x-euc-jp
iso2022_jp csiso2022jp iso-2022-jp
cp932 csshiftjis ms932 ms_kanji shift-jis shift_jis sjis windows-31j x-sjis
cp949 cseuckr csksc56011987 euc-kr iso-ir-149 korean ks_c_5601-1987 ks_c_5601-1989 ksc5601 ksc_5601
cp949 windows-949
"""
"""Python's codec, then the labels of the Encoding Standard that mean it on the web."""
_CODECS = {
    label: codec
    for codec, *labels in map(str.split, _LABELS_OF_CODECS.split("\n")[1:-1])
    for label in (codec, *labels)
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
    named = _of_mark(body) or _of_header(content_type) or (None if plain else declared(body))
    return body.decode(named or _guess(body), "replace").removeprefix("\ufeff")


def declared(body: bytes) -> str | None:
    """The codec that an HTML page itself names; None if it names none."""
    head = body[:_PRESCANNED]
    if head.startswith((b"<\0?\0x\0", b"\0<\0?\0x")):
        return "utf-16-le" if head[0] else "utf-16-be"
    name = _of_mark(head) or _of_meta(head)
    if name is None and (match := _XML_ENCODING.match(head)):
        name = _codec_within(match[1] or match[2])
    return name


def codec(label: str) -> str | None:
    """The codec for what a page of the web labels so; None if it is no label of the web."""
    return _CODECS.get(label.strip("\t\n\f\r ").lower())


def _of_mark(body: bytes) -> str | None:
    return next((name for mark, name in _MARKS if body.startswith(mark)), None)


def _of_header(content_type: str) -> str | None:
    match = _HEADER_CHARSET.search(content_type)
    return codec(match[1] or match[2] or "") if match else None


def _of_meta(head: bytes) -> str | None:
    """The first `meta` that declares an encoding."""
    return next((name for attributes in _metas(head) if (name := _of_attributes(attributes))), None)


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
    """Those of the tag whose name ends at `position`, and where it ends: -1 if it does not."""
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
    """What could be read as ASCII so far is not UTF-16, whatever it says."""
    name = codec(label.decode("latin-1"))
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
