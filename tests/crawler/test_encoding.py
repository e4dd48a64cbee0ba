"""Bytes become text as in a browser: the prescan, the labels, and a guess where nothing is said."""

import codecs
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from webencodings.labels import LABELS

from crawler.read.encoding import codec, declared, decode, escaped


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
    assert decode(body, content_type)[0] == text


def test_a_declaration_may_come_late_but_not_at_any_length():
    assert declared(b" " * 16_000 + b"<meta charset=koi8-r>") == "koi8-r"
    assert declared(b" " * 17_000 + b"<meta charset=koi8-r>") is None


def test_undeclared_utf8_may_be_cut_or_have_a_stray_byte():
    body = "Grüße aus Köln, schöne Straßen und große Brücken über Flüsse".encode()
    assert decode(body[:-1] + b"e\xc3", "text/html")[0] == body.decode() + "\ufffd"
    assert decode(body + b" \xff", "text/html")[0] == body.decode() + " \ufffd"


def test_a_few_odd_bytes_are_western():
    assert decode(b"caf\xe9 \x96 na\xefve", "text/html")[0] == "café \u2013 naïve"


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
            same = sum(a == b for a, b in zip(decode(body, "text/plain")[0], wanted, strict=False))
            right += same > 0.97 * len(wanted)
            total += 1
    assert total > 200
    assert right / total > 0.97


# What charset-normalizer took for Mac's Latin 2, Icelandic or HP's Roman-8, and others of the west.
WESTERN = {
    "en": "© 2004 The Company® and its products™. Section § 5 and § 7 apply. The ± error is 5 µm × 3 "
    "µm. ¶ 4 says "
    "that the naïve façade of the résumé is in § 9. Tickets cost £5 for children, £12 for adults – "
    "“it’s worth it”.",
    "es": "El año pasado viajamos a España y visitamos muchas ciudades pequeñas. La gente nos recibió "
    "con alegría.",
    "pt": "A estação de São Paulo não abriu à tarde; as crianças e os irmãos não tiveram opção, e a "
    "informação é má.",
    "it": "La città è più bella di così: perché non andiamo al caffè, lì c'è già la società. Però la "
    "libertà verrà.",
    "sv": "Många människor åker till skärgården på sommaren för att bada, segla och äta färsk fisk på ön.",
    "fi": "Tämä päivä on hyvä päivä, ja me lähdemme mökille järven rannalle. Siellä äiti keittää "
    "kahvia yötä myöten.",
    "is": "Það er fallegt veður í dag og við ætlum að ganga upp á fjallið. Þar sjáum við yfir alla "
    "sveitina, ána.",
    "da": "Børnene løber på gaden, når det bliver forår, og så spiser de æbler på øen. Det er både "
    "sjovt og sundt.",
    "fr": "L’été dernier, nous avons visité des châteaux où le français était parlé à merveille. "
    "L’œuvre coûte 5 €.",
    "de": "Die Straße führt über den Fluß, und die Bäume stehen schön grün. Für die Gäste gibt es Käse "
    "und Äpfel.",
    "ca": "La nació catalana és més gran que això: l’avió sortirà demà, però no serà fàcil. És la "
    "col·laboració.",
}
OTHERS = {
    "cp1250": "Příliš žluťoučký kůň úpěl ďábelské ódy. Včera večer jsme šli do kina, abychom viděli "
    "nový film.",
    "iso8859_2": "Příliš žluťoučký kůň úpěl ďábelské ódy. Včera večer jsme šli do kina, abychom viděli "
    "nový film.",
    "cp1254": "Dün akşam yeni filmi izlemek için sinemaya gittik ve çok beğendik. Geç saatte eve "
    "döndük, çünkü yağdı.",
    "cp1257": "Vakar vakare nuėjome į kiną pažiūrėti naujo filmo, kuris mums labai patiko. Vėlai "
    "grįžome, nes lijo.",
    "koi8_r": "Река протекает через старый город, и люди каждый день переходят её по мосту.",
    "cp932": "川は古い町を流れており、人々は毎日石の橋を渡っています。橋の上には①から⑨までの店がある。",
}


@pytest.mark.parametrize(
    ("codec", "text"),
    [*(("cp1252", text) for text in WESTERN.values()), *OTHERS.items()],
    ids=[*WESTERN, *OTHERS],
)
@pytest.mark.parametrize("times", [1, 3])
def test_undeclared_western_bytes_are_windows_1252_and_those_of_other_languages_are_not(codec, text, times):
    page = f"<html><body><p>{text * times}</p></body></html>"
    assert decode(page.encode(codec), "text/html")[0] == page


def test_japanese_of_seven_bits_is_guessed(conformance):
    pages = [body for name, body in conformance.items() if "/chardet/tests/iso-2022-jp/" in name]
    assert pages
    assert [decode(page, "text/plain")[0] for page in pages] == [page.decode("iso2022_jp") for page in pages]


def test_no_guess_is_outside_of_the_standard(conformance):
    web = {codecs.lookup(codec(label)).name for label in LABELS if codec(label)} | {"gb18030"}
    for name, body in conformance.items():
        if name.startswith("conformance/chardet/tests/"):
            assert codecs.lookup(decode(body, "text/plain")[1]).name in web


@pytest.mark.parametrize("raw", ["script", "style", "title", "noscript", "textarea", "xmp"])
def test_what_a_script_or_a_title_says_counts_only_until_an_element_says_it(raw):
    within = f"<{raw}><meta charset=gbk></{raw.upper()} >".encode()
    assert declared(within + b"<meta charset=koi8-r>") == "koi8-r"
    assert declared(b"<meta charset=koi8-r>" + within) == "koi8-r"
    assert declared(within) == "gbk"
    assert declared(b" " * 1024 + within) is None
    assert declared(b"<!--" + within + b"-->") is None
    assert declared(within.replace(b"</", b"< /") + b"<meta charset=koi8-r>") == "gbk"


@pytest.mark.parametrize(
    ("label", "query", "sent"),
    [
        ("windows-1251", "q=кот&x=1", "q=%EA%EE%F2&x=1"),
        ("shift_jis", "q=日本 ソ", "q=%93%FA%96{%20%83\\"),
        ("euc-jp", "q=日本", "q=%C6%FC%CB%DC"),
        ("gbk", "q=中文😀", "q=%D6%D0%CE%C4%26%23128512%3B"),
        ("gb18030", "q=😀", "q=%949%FC6"),
        ("big5", "q=中", "q=%A4%A4"),
        ("euc-kr", "q=한", "q=%C7%D1"),
        ("iso-8859-1", "q=é’\"#<>'%20%", "q=%E9%92%22%23%3C%3E%27%20%"),
        ("iso-8859-2", "q=кот", "q=%26%231082%3B%26%231086%3B%26%231090%3B"),
        ("utf-8", "q=кот", "q=%D0%BA%D0%BE%D1%82"),
    ],
)
def test_a_query_is_sent_in_the_encoding_of_its_page(label, query, sent):
    assert escaped(query, codec(label)) == sent


@given(st.binary(max_size=200), st.text(max_size=30))
def test_decoding_is_total(body, content_type):
    assert isinstance(decode(body, content_type)[0], str)
    assert isinstance(decode(b"<meta " + body, content_type)[0], str)


@pytest.mark.parametrize(
    ("charset", "body", "text"),
    [
        ("gbk", b"5 \x80 \xd6\xd0\x80", "5 \u20ac \u4e2d\u20ac"),
        ("gb2312", b"\x80", "\u20ac"),
        ("gbk", b"a\xff", "a\ufffd"),
        ("utf-8", b"\x80", "\ufffd"),
    ],
)
def test_what_browsers_add_to_an_encoding_is_read(charset, body, text):
    assert decode(body, f"text/html; charset={charset}")[0] == text
