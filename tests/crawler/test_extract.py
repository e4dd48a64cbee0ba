"""Extraction: encodings, links, opt-outs and languages of real markup, and pages made to hurt."""

import gzip
import hashlib
import json
import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

import crawler.read.markdown
from crawler.page import Link
from crawler.read.bounds import oversized
from crawler.read.extract import EXTRACTOR, Extractor, Screen, detect_language

URL = "http://h.example/dir/page"
HTML = "text/html; charset=utf-8"
SENTENCES = " ".join(
    f"The {noun} was carried over the river in the morning, and nobody asked where it came from."
    for noun in ("table", "clock", "piano", "ladder", "mirror", "letter", "basket", "candle")
)


def page(body="", head="", text=SENTENCES):
    return f"<html><head>{head}</head><body><main><p>{text}</p>{body}</main></body></html>"


def run(html, *, url=URL, content_type=HTML, nofollow=False, seconds=30.0, screen=None):
    body = html.encode() if isinstance(html, str) else html
    return Extractor(screen, "tinylm")(body, url, content_type, nofollow, seconds)


def test_a_page_becomes_text_title_language_and_digest():
    found = run(page(head="<title> A  river\n crossing </title>"))
    assert found.reason == ""
    assert found.title == "A river crossing"
    assert found.text.strip() == SENTENCES
    assert found.language == "en"
    assert found.language_score > 0.8
    assert found.content_sha256 == hashlib.sha256(found.text.encode()).hexdigest()
    assert found.extractor == EXTRACTOR
    assert (found.links, found.opt_out) == ((), ())


WORD = "Überfluß"
GERMAN = f"Der {WORD} an schönen Dingen störte den Müller nicht, denn er hörte früh am Morgen die Vögel. " * 4


@pytest.mark.parametrize(
    ("content_type", "head", "encoded"),
    [
        ("text/html", "", GERMAN.encode()),
        ("text/html", '<meta charset="iso-8859-1">', GERMAN.encode("latin-1")),
        ("text/html", '<meta http-equiv="Content-Type" content="text/html; charset=windows-1252">',
         GERMAN.encode("cp1252")),
        ("text/html; charset=utf-8", '<meta charset="iso-8859-1">', GERMAN.encode()),
        ("text/html; charset=iso-8859-1", '<meta charset="utf-8">', GERMAN.encode("latin-1")),
        ('text/html; charset="UTF-8"', "", GERMAN.encode()),
        ("text/html; charset=nonsense", '<meta charset="iso-8859-1">', GERMAN.encode("latin-1")),
    ],
)  # fmt: skip
def test_the_header_wins_over_the_page_about_the_encoding(content_type, head, encoded):
    body = f"<html><head>{head}</head><body><p>".encode() + encoded + b"</p></body></html>"
    found = run(body, content_type=content_type)
    assert WORD in found.text
    assert found.language == "de"


def test_queries_of_links_are_in_the_encoding_that_the_page_is_read_in():
    body = "<meta charset=windows-1251><a href='/s?q=кот'>x</a>".encode("cp1251")
    assert run(body, content_type="text/html").links[0].url == "http://h.example/s?q=%EA%EE%F2"
    body = "<meta charset=windows-1251><a href='/s?q=кот'>x</a>".encode()
    assert run(body).links[0].url == "http://h.example/s?q=%D0%BA%D0%BE%D1%82"


def test_xhtml_is_a_page_whatever_xml_it_is_said_to_be():
    xhtml = f"""<?xml version="1.0" encoding="iso-8859-1"?>\n<!DOCTYPE html>\n<!-- a page -->
    <html lang="de" xmlns="http://www.w3.org/1999/xhtml"><head><title>T</title></head><body><p>{GERMAN}</p>
    <a href="a">a</a></body></html>""".encode("latin-1")
    for content_type in ("application/xhtml+xml", "application/xml", "text/xml"):
        found = run(xhtml, content_type=content_type)
        assert (found.reason, found.title, found.links[0].url) == ("", "T", "http://h.example/dir/a")
        assert WORD in found.text
    assert (
        run(xhtml.replace(b"1999/xhtml", b"2000/svg"), content_type="application/xml").reason == "media_type"
    )


@pytest.mark.parametrize("codec", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_names_the_encoding(codec):
    assert WORD in run(page(text=GERMAN).encode(codec), content_type="text/html").text


def test_links_are_as_they_were_linked_each_page_once_and_in_order():
    body = """
    <a href="b?utm_source=x#top"> B
      page </a> <a href="/c" rel="external NoFollow">C</a> <a href="b">again</a> <a href="#top">top</a>
    <a href="mailto:x@y.example">mail</a> <a href="javascript:void(0)">script</a> <a href="">self</a>
    <a href="HTTPS://Other.example:443/%7ea">other</a> <a name="d">no link</a> <a href="http://[bad/">bad</a>
    <ul><li><a href="../e" rel="nofollowed"><b>E</b></a></li></ul>"""
    links = run(page(body)).links
    assert [(link.url, link.anchor, link.nofollow) for link in links] == [
        ("http://h.example/dir/b?utm_source=x", "B page", False),
        ("http://h.example/c", "C", True),
        ("https://other.example/%7ea", "other", False),
        ("http://h.example/e", "E", False),
    ]
    assert links[0].tag_path == "html/body/main"
    assert links[3].tag_path == "html/body/main/ul/li"


@pytest.mark.parametrize(
    ("base", "target"),
    [
        ("http://o.example/x/", "http://o.example/x/a"),
        ("/x/", "http://h.example/x/a"),
        ("javascript:0", "http://h.example/dir/a"),
        ("", "http://h.example/dir/a"),
    ],
)
def test_links_are_relative_to_the_base_of_the_page(base, target):
    assert run(page('<a href="a">a</a>', head=f'<base href="{base}">')).links[0].url == target


@pytest.mark.parametrize(
    ("head", "opt_out", "nofollow"),
    [
        ('<meta name="robots" content="noai, noimageai">', ("meta:noai", "meta:noimageai"), False),
        ('<META NAME="Robots" CONTENT="NoIndex,NoFollow">', ("meta:noindex",), True),
        ('<meta name="robots" content="none">', ("meta:none",), True),
        ('<meta name="robots" content="noai"><meta name="robots" content="noai">', ("meta:noai",), False),
        ('<meta name="robots" content="index, follow, max-snippet:50">', (), False),
        ('<meta name="description" content="noai noindex none nofollow">', (), False),
        ('<meta name="robots">', (), False),
        ('<meta name="TinyLM" content="noarchive, nofollow">', ("meta:noarchive",), True),
        ("<META content='1' name='TDM-Reservation'/>", ("meta:tdm-reservation=1",), False),
        ('</head><body><meta name="robots" content="noai">', ("meta:noai",), False),
    ],
)
def test_signals_against_use_are_recorded(head, opt_out, nofollow):
    found = run(page('<a href="a">a</a>', head=head))
    assert found.opt_out == opt_out
    assert found.links[0].nofollow is nofollow
    assert run(page('<a href="a">a</a>', head=head), nofollow=True).links[0].nofollow
    assert found.text


def test_signals_and_links_of_a_page_without_text_are_kept():
    found = run('<meta name="robots" content="noai"><a href="/a"></a>')
    assert found.reason == "no_text"
    assert found.opt_out == ("meta:noai",)
    assert found.links == (Link("http://h.example/a", "", "html/body", False),)


def test_plain_text_is_text_and_has_no_links():
    text = f"A letter\n\n{SENTENCES}\n\n  <a href='/x'>not markup</a>"
    found = run(f"\n{text}\n", content_type="Text/Plain; charset=utf-8")
    assert found.text == text
    assert found.language == "en"
    assert found.links == ()
    assert found.extractor == "plain text"


LANGUAGES = {
    "en": "The river runs through the old town, and the people who live there cross it every day.",
    "de": "Der Fluss fließt durch die alte Stadt, und die Menschen überqueren ihn jeden Tag.",
    "fr": "La rivière traverse la vieille ville, et les gens la franchissent chaque jour par le pont.",
    "es": "El río atraviesa la ciudad vieja y la gente lo cruza todos los días por el puente.",
    "it": "Il fiume attraversa la città vecchia e le persone lo attraversano ogni giorno sul ponte.",
    "pt": "O rio atravessa a cidade velha e as pessoas atravessam-no todos os dias pela ponte.",
    "nl": "De rivier stroomt door de oude stad en de mensen steken haar elke dag over via de brug.",
    "pl": "Rzeka przepływa przez stare miasto, a ludzie codziennie przechodzą przez nią mostem.",
    "ru": "Река протекает через старый город, и люди каждый день переходят её по мосту.",
    "el": "Το ποτάμι διασχίζει την παλιά πόλη και οι άνθρωποι το περνούν κάθε μέρα.",
    "he": "הנהר זורם דרך העיר העתיקה, והאנשים חוצים אותו בכל יום על גשר האבן.",
    "ar": "يجري النهر عبر المدينة القديمة، ويعبره الناس كل يوم على الجسر الحجري.",
    "hi": "नदी पुराने शहर से होकर बहती है और लोग हर दिन पत्थर के पुल से उसे पार करते हैं।",
    "th": "แม่น้ำไหลผ่านเมืองเก่า และผู้คนข้ามแม่น้ำทุกวันโดยใช้สะพานหิน",
    "zh": "这条河流经老城区，住在那里的人们每天都要走过那座石桥。桥上有许多商店。",
    "ja": "川は古い町を流れており、人々は毎日石の橋を渡っています。橋の上には店が並んでいます。",
    "ko": "강은 오래된 도시를 가로질러 흐르고, 사람들은 매일 돌다리를 건너 다닙니다.",
    "vi": "Con sông chảy qua khu phố cổ và những người sống ở đó băng qua nó mỗi ngày.",
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_language_of_a_paragraph_is_found(language):
    found, score = detect_language(LANGUAGES[language])
    assert found == language
    assert score > 0.7


def test_code_does_not_hide_the_language_around_it():
    code = "```\nfor (auto it = v.begin(); it != v.end(); ++it) { std::cout << *it; }\n```\n"
    text = f"{code * 5}Siehe `os.path.join(a, b)` und x_1 = 2.\n{LANGUAGES['de']}\n{code * 5}"
    assert detect_language(text)[0] == "de"


@pytest.mark.parametrize("text", ["", "   ", "```\ncode\n```", "123 456", "x_1 = f(y)"])
def test_what_is_in_no_language_has_a_low_score(text):
    assert detect_language(text)[1] < 0.5


HOSTILE = {
    "empty": b"",
    "nul bytes": b"<p>a\0b\0</p>" * 1000,
    "binary": bytes(range(256)) * 1000,
    "gzip": gzip.compress(b"<p>text</p>" * 1000),
    "one long word": b"<p>" + b"a" * 1_000_000,
    "many links": b"".join(b'<a href="/%d">%d</a>' % (n, n) for n in range(5000)),
    "unclosed links": b"<a href='/x'>y" * 5000,
    "deep lists": b"<ul><li>" * 1000 + b"<a href='/x'>y</a>",
    "tables in tables": b"<table><tr><td>" * 1000 + b"text",
    "formatting": b"<b><i><p>" * 500 + b"text",
    "spans": b"<span>" * 100_000 + b"text",
    "entities": b"&#x10ffff;&#0;&#xd800;&nonsense;&amp" * 5000,
    "half a character": "é".encode()[:1] * 1000,
    "comment": b"<!--" + b"-" * 100_000,
    "attributes": b"<p " + b"a='b' " * 20_000 + b">text",
    "script": b"<script>" + b"<" * 100_000,
    "doctype": b"<!DOCTYPE " + b"x" * 100_000,
    "xml": b"<?xml version='1.0' encoding='utf-32'?><a/>",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_page_has_text_or_a_reason(kind):
    found = run(HOSTILE[kind], content_type="text/html")
    assert bool(found.text) == (found.reason == "")
    assert len(found.links) <= 2000
    assert all(len(link.tag_path) < 1000 and len(link.anchor) <= 200 for link in found.links)


@given(
    st.binary(max_size=300),
    st.sampled_from(["", "text/html", "text/html; charset=utf-7", "text/plain", ";;;", "é"]),
)
def test_no_bytes_raise(body, content_type):
    found = run(body, content_type=content_type)
    assert bool(found.text) == (found.reason == "")


def test_the_enclosing_elements_are_the_nearest_when_there_are_too_many():
    path = run(b"<div>" * 500 + b"<p><a href='/x'>y</a>").links[0].tag_path
    assert path.split("/") == ["div"] * 63 + ["p"]


def test_what_a_library_raises_is_a_reason(monkeypatch):
    def broken(*args, **kwargs):
        raise AttributeError("a bug")

    monkeypatch.setattr(crawler.read.markdown.trafilatura, "bare_extraction", broken)
    found = run(page('<a href="/a">a</a>', head='<title>T</title><meta name="robots" content="noai">'))
    assert found.reason == "extract_AttributeError"
    assert (found.title, found.opt_out, len(found.links)) == ("T", ("meta:noai",), 1)


def test_a_page_that_takes_too_long_is_given_up_even_if_a_library_catches_everything(monkeypatch):
    def stubborn(*args, **kwargs):
        try:
            while True:
                pass
        except Exception:
            return "text"

    monkeypatch.setattr(crawler.read.markdown.trafilatura, "bare_extraction", stubborn)
    assert run(page(), seconds=0.05).reason == "extract_timeout"
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_real_pages_in_many_encodings_are_read(conformance):
    seen = 0
    for name, body in conformance.items():
        if name.startswith("conformance/chardet/tests/") and name.endswith((".html", ".xml")):
            found = run(body[:50_000], content_type="text/html")
            assert found.reason in ("", "no_text", "feed")
            seen += bool(found.text or found.links)
            json.dumps((found.text, found.links)).encode()
    assert seen > 50


LISTS = "".join(f"<li><a href='/{word}'>{word}</a>" for word in SENTENCES.split())


@pytest.mark.parametrize(
    ("reason", "html"),
    [
        ("", page()),
        ("pre_short", page(text="See the other page.")),
        ("pre_language", page(text=f"{GERMAN} The and of.")),
        ("pre_stop_words", page(text="Mehr als ein Wort steht hier. " * 20)),
        ("pre_few_sentences", page(text=SENTENCES.replace(".", ","))),
        ("pre_alphabetic", page(text="The 12 of 13 in 14 was 15 and 16 to 17. " * 20)),
        ("pre_short_lines", f"<main>{LISTS.replace('</a>', ' it.</a>').replace('<a', 'and <a')}</main>"),
    ],
)
def test_what_is_not_worth_extracting_has_a_reason_and_its_links(reason, html):
    found = run(html.replace("</main>", "<a href='/last'>last</a></main>"), screen=Screen(("en",), 0.65))
    assert found.reason == reason
    assert bool(found.extractor) == (not reason)
    assert found.text, "a text that is not wanted teaches what is not wanted"
    assert len(found.content_sha256) == 64
    assert found.links[-1].url == "http://h.example/last"


def test_the_screen_drops_no_language_if_all_are_wanted():
    assert run(page(text=f"{GERMAN} The and of."), screen=Screen()).language == "de"


def test_the_same_text_at_another_url_is_extracted_once_but_a_fetch_may_be_repeated():
    extractor = Extractor(Screen())
    reasons = [
        extractor(html.encode(), f"http://h.example/{path}", HTML, "", 30.0).reason
        for path, html in [("a", page()), ("b", page(head="<style>p {}</style>")), ("a", page())]
    ]
    assert reasons == ["", "pre_duplicate", ""]


@pytest.mark.parametrize(
    ("reason", "hostile"),
    [
        *(("too_deep", tag * 20_000) for tag in ("<ul><li>", "<div>", "<blockquote>", "<dl><dd>", "<my-x>")),
        *(("too_deep", tag * 20_000) for tag in ("<table><tr><td>", "<div></span>", "<div a='</div>'>")),
        *(("too_deep", tag * 20_000) for tag in ("<b><div></b>", "<div><object></div></object>")),
        ("too_many_elements", "<p>x" * 300_000),
        ("too_many_elements", "<select>" + "<option>x" * 20_000),
        ("too_many_attributes", "<p " + " ".join(f"a{n}" for n in range(100_000)) + ">"),
        ("too_many_attributes", "<p>" * 6000 + "".join(f"<body a{n}='>'>" for n in range(10_000))),
    ],
)
def test_what_parsers_take_more_than_linear_time_for_is_given_up_before(reason, hostile):
    assert oversized(page(hostile)) == reason
    assert run(page(hostile)).reason == reason


@pytest.mark.parametrize(
    "usual",
    [
        "<p><font size=1>x</p>" * 9000,
        "<ul>" + "<li><b>x" * 9000 + "</ul>",
        "<table>" + "<tr><td><font>x" * 9000 + "</table>",
        "<div><br/><img/><i></div>" * 9000,
        "<svg>" + "<path d='m'/><g><path/></g>" * 9000 + "</svg>",
        "<script>" + "if (a<b) x='<div>';" * 9000 + "</script>" + "<p>x" * 9000,
        "<!-- " + "<div>" * 9000 + " -->" + "<p>x" * 9000,
        "<h2>x</h3>" * 9000,
        f"<p data-x='{'a b c ' * 20_000}'>x",
        f"<script data-x='{'a b c ' * 20_000}'>x</script>",
    ],
)
def test_long_pages_that_people_write_are_not_given_up_as_too_deep(usual):
    assert oversized(page(usual)) == ""
