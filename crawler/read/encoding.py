"""From the bytes of a page to text, as browsers do it (WHATWG HTML, "determining the character encoding").

A byte order mark decides, then the charset of Content-Type, then what the first 16 KiB declare (the standard
prescans 1,024 bytes, but its parser comes back to a later declaration it meets). A page that declares nothing
is UTF-8 if it reads as that, else what a few kilobytes of it look like: of letters that stand alone the
windows-1252 of the west, unless their words are those of another language; else what charset-normalizer makes
of them. Labels mean what they mean on the web (`latin1` is windows-1252, `gb2312` is gb18030), and neither
they nor a guess are Python's own: no page is decoded as `utf-7` or `mac_latin2`.
"""

import codecs
import re
from collections.abc import Iterator
from urllib.parse import quote_from_bytes

import webencodings  # type: ignore[import-untyped]
from charset_normalizer import from_bytes

from crawler.read.language import detect_language

_READ, _PRESCANNED = 16 * 1024, 1024  # bytes
_GUESSED_FROM = 4096  # bytes, half of them before the first that is not UTF-8
_FEWEST_GUESSED = 8  # bytes that are not UTF-8; fewer are no evidence
_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_BE, "utf-16-be"), (codecs.BOM_UTF16_LE, "utf-16-le"))
# By the standard's name: where Python's codec of that name is not what the web needs.
_CODECS = {
    "euc-jp": "euc_jis_2004",  # with the signs that makers of computers added: circled numbers
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
# Elements whose content is text to a browser that runs scripts.
_RAW = (b"script", b"style", b"title", b"textarea", b"noscript", b"xmp", b"iframe", b"noembed", b"noframes")
_ASCII, _BEYOND_ASCII = re.compile(r"[\x00-\x7f]+"), re.compile(r"[^\x00-\x7f]")
_RUN = re.compile(rb"[\x80-\xff]+")
_SHIFTED = re.compile(rb"\x1b\$[@B]")  # from here on, two characters of ASCII are one of iso-2022-jp
_TAG = re.compile(r"<[^>]*>")
# No character, one that no page has, or a sign between Latin letters.
_MISREAD = re.compile(r"[\x80-\x9f\ufffd]|(?<=[A-Za-zÀ-ž])[^\w\s\x00-\x7f‘’´·–—](?=[A-Za-zÀ-ž])")
# Codecs of the standard's encodings that a guess may come to, with the languages that they are for.
_LATIN = {
    "cp1250": "cs hr hu pl ro sk sl",
    "iso8859_2": "cs hr hu pl ro sk sl",
    "cp1254": "az tr",
    "cp1257": "lt lv",
    "cp1258": "vi",
}
_CJK = {"cp932": "ja", "euc_jis_2004": "ja", "gb18030": "zh", "big5hkscs": "zh", "cp949": "ko"}
_OTHERS = [
    *("cp1251", "koi8_r", "koi8_u", "iso8859_5", "cp866", "mac_cyrillic", "cp1253", "iso8859_7", "cp1255"),
    *("iso8859_8", "cp1256", "iso8859_6", "cp874", *_CJK),
]
_MARGIN = 0.03  # of the probability of a language, by which it has to be better than another
_QUERY = bytes(set(range(0x21, 0x7F)) - set(b"\"#<>'"))  # what a query's bytes may be, unescaped
_XML_ENCODING = re.compile(
    rb"""<\?xml[^>]*?encoding[\x00-\x20]*=[\x00-\x20]*(?:"([^"\x00-\x20]*)"|'([^'\x00-\x20]*)')"""
)


def decode(body: bytes, content_type: str) -> tuple[str, str]:
    """`body` as text, and the name of its codec; what is no character in its encoding becomes U+FFFD."""
    plain = content_type.lower().startswith("text/plain")
    header = _HEADER_CHARSET.search(content_type)
    of_header = codec(header[1] or header[2] or "") if header else None
    name = _of_mark(body) or of_header or (None if plain else declared(body)) or _guess(body)
    # gb18030 decodes all of gbk, and what browsers' gbk adds to it.
    return body.decode("gb18030" if name == "gbk" else name, "as browsers").removeprefix("\ufeff"), name


def escaped(query: str, encoding: str) -> str:
    """`query` as a browser sends it from a page in this encoding (WHATWG URL, query state)."""
    return quote_from_bytes(query.encode(encoding, "in a query"), _QUERY)


def _unencodable(error: UnicodeError) -> tuple[str, int]:
    """As the standard has it: what the encoding lacks is sent as HTML would write it, `&#1234;`, escaped."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(f"%26%23{ord(c)}%3B" for c in error.object[error.start : error.end]), error.end


codecs.register_error("in a query", _unencodable)


def _undecodable(error: UnicodeError) -> tuple[str, int]:
    """U+FFFD; but of gb18030 and gbk 0x80 is the euro sign (Encoding, section 10.2.1)."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    if error.encoding == "gb18030" and error.object[error.start : error.start + 1] == b"\x80":
        return "\u20ac", error.start + 1
    return codecs.replace_errors(error)  # type: ignore[return-value]


codecs.register_error("as browsers", _undecodable)


def declared(body: bytes) -> str | None:
    """The codec that an HTML page itself names; None if it names none.

    What stands in a script or a title names one only to the prescan, and as long as no element does.
    """
    head = body[:_READ]
    if head.startswith((b"<\0?\0x\0", b"\0<\0?\0x")):
        return "utf-16-le" if head[0] else "utf-16-be"
    name, within = _of_mark(head), None
    for raw, place, attributes in () if name else _metas(head):
        if found := _of_attributes(attributes):
            if not raw:
                name = found
                break
            within = within or (found if place < _PRESCANNED else None)
    if name is None and (match := _XML_ENCODING.match(head)):
        name = _codec_within(match[1] or match[2])
    return name or within


def codec(label: str) -> str | None:
    """The codec for what a page of the web labels so; None if it is no label of the web."""
    encoding = webencodings.lookup(label)
    return _CODECS.get(encoding.name, encoding.codec_info.name) if encoding else None


def _of_mark(body: bytes) -> str | None:
    return next((name for mark, name in _MARKS if body.startswith(mark)), None)


def _metas(head: bytes) -> Iterator[tuple[bool, int, dict[bytes, bytes]]]:
    """Each `meta` in markup, found without parsing it, the standard's prescan: its place and attributes.

    The first says whether it is within an element whose content is text.
    """
    position = raw = 0
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
            yield match.start() < raw, match.start(), attributes
        elif match.start() >= raw and (name := (match["tag"] or b"").lower()) in _RAW:
            raw = head.lower().find(b"</" + name, position) % (len(head) + 1)


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
    if body.isascii() and _SHIFTED.search(body):
        return "iso2022_jp"
    text = body.decode("utf-8", "replace")
    unread = text.count("\ufffd")
    if 10 * unread <= len(_BEYOND_ASCII.findall(text)):
        return "utf-8"
    if unread < _FEWEST_GUESSED:
        return "cp1252"
    start = max(0, text.index("\ufffd") - _GUESSED_FROM // 2)
    sample = body[start : start + _GUESSED_FROM]
    lengths = [len(run) for run in _RUN.findall(sample)]
    # Of Latin letters hardly three in a row are beyond ASCII, of others hardly any two stand alone: of 371
    # files the shares are at least 0.84 and at most 0.70.
    if sum(length for length in lengths if length <= 2) > 0.75 * sum(lengths):
        return _by_language(sample, _LATIN, _TAG)
    best = from_bytes(sample, 5, 512, cp_isolation=_OTHERS, preemptive_behaviour=False).best()
    return best.encoding if best else _by_language(sample, _CJK, _ASCII)


def _by_language(sample: bytes, candidates: dict[str, str], no_words: re.Pattern[str]) -> str:
    """Whichever of `candidates` makes of `sample` a text in one of its languages, else windows-1252."""
    found, language, most = "", "", 0.0
    for name in ("cp1252", *candidates):
        text = no_words.sub(" ", sample.decode(name, "replace"))
        spoken, score = detect_language(text)
        score -= 5 * len(_MISREAD.findall(text)) / len(text)
        if not found or (
            spoken in candidates[name].split() and score > most + _MARGIN * (spoken != language)
        ):
            found, language, most = name, spoken, score
    return found
