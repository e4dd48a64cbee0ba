"""Bytes become text as in a browser: the prescan, the labels, and a guess where nothing is said."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler.read.encoding import codec, declared, decode


def html5lib_cases(conformance):
    """(bytes, label) of html5lib's sniffing tests; those that need scripts to run are left out."""
    for name, content in conformance.items():
        if re.fullmatch(r"conformance/html5lib-tests/encoding/[^/]+\.dat", name):
            for case in content.split(b"#data\n")[1:]:
                data, _, label = case.partition(b"\n#encoding\n")
                yield data, label.split(b"\n")[0].decode()


def test_declarations_are_found_where_browsers_find_them(conformance):
    cases = list(html5lib_cases(conformance))
    assert len(cases) == 82
    assert [data for data, label in cases if (declared(data) or "cp1252") != codec(label)] == []


@pytest.mark.parametrize(
    ("body", "content_type", "text"),
    [
        (b"\xef\xbb\xbfna\xc3\xafve", "text/html; charset=latin1", "naïve"),
        (b"\xff\xfeh\0\xe9\0", "text/html; charset=utf-8", "hé"),
        (b"\xfe\xff\0h\0\xe9", "", "hé"),
        (b"<meta charset=utf-8>na\xefve", "text/html; charset=ISO-8859-1", "<meta charset=utf-8>naïve"),
        (b"na\xefve", 'text/html; charset="iso-8859-1"', "naïve"),
        (b"\x93quoted\x94", "text/html;CHARSET = latin1", "\u201cquoted\u201d"),
        (b"\xd6\xd0", "text/html; charset=gb2312", "\u4e2d"),
        (b"na\xc3\xafve", "text/html; charset=no-such-thing", "naïve"),
        (b"+ADw-script+AD4-", "text/html; charset=utf-7", "+ADw-script+AD4-"),
        (b"<meta charset=iso-8859-5>\xe0", "text/plain", "<meta charset=iso-8859-5>à"),
        (b'<?xml version="1.0" encoding="iso-8859-5"?>\xe0', "application/xhtml+xml",
         '<?xml version="1.0" encoding="iso-8859-5"?>\u0440'),
        (b"<\0?\0x\0m\0l\0?\0>\0\xe9\0", "application/xhtml+xml", "<?xml?>é"),
        (b"\xff", "text/html; charset=utf-8", "\ufffd"),
        (b"", "", ""),
    ],
)  # fmt: skip
def test_mark_then_header_then_declaration_decide(body, content_type, text):
    assert decode(body, content_type) == text


def test_a_declaration_may_come_late_but_not_at_any_length():
    assert declared(b" " * 16_000 + b"<meta charset=koi8-r>") == "koi8-r"
    assert declared(b" " * 17_000 + b"<meta charset=koi8-r>") is None


def test_undeclared_utf8_may_be_cut_or_have_a_stray_byte():
    body = "Grüße aus Köln, schöne Straßen und große Brücken über Flüsse".encode()
    assert decode(body[:-1] + b"e\xc3", "text/html") == body.decode() + "\ufffd"
    assert decode(body + b" \xff", "text/html") == body.decode() + " \ufffd"


def test_a_few_odd_bytes_are_western():
    assert decode(b"caf\xe9 \x96 na\xefve", "text/html") == "café \u2013 naïve"


def test_undeclared_legacy_text_is_guessed(conformance):
    """Of chardet's own pages in the encodings of the web, most read as they should."""
    right = total = 0
    for name, body in conformance.items():
        found = re.fullmatch(
            r"conformance/chardet/tests/((?:windows|iso)-[\d-]+\d|KOI8-R|EUC-\w\w|SHIFT_JIS|Big5|utf-8)(-\w+)?/.*",
            name,
        )
        known = codec(found[1]) if found else None
        if known and len(body) > 200:
            wanted = body.decode(known, "replace")
            same = sum(a == b for a, b in zip(decode(body, "text/plain"), wanted, strict=False))
            right += same > 0.97 * len(wanted)
            total += 1
    assert total > 200
    assert right / total > 0.85


@given(st.binary(max_size=200), st.text(max_size=30))
def test_decoding_is_total(body, content_type):
    assert isinstance(decode(body, content_type), str)
    assert isinstance(decode(b"<meta " + body, content_type), str)
