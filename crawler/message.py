"""An answer of HTTP as browsers read it, whoever kept it: a live server's, a WARC file's.

What is asked of an answer is asked here, so that a page that was crawled and the same page read back cannot
come out otherwise.
"""

import codecs
import re
from collections.abc import Iterable
from urllib.parse import quote_from_bytes

# Of a combined header: a comma within quotes divides nothing.
_VALUES = re.compile(r'(?:[^",]|"(?:[^"\\]|\\.)*(?:"|$))+')
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
