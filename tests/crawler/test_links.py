"""Every way on that a page has, what its head names, and the page it says it is a copy of."""

import tracemalloc

import pytest
from selectolax.lexbor import LexborHTMLParser

from crawler.page import Link
from crawler.read.links import Canonicals, Markup, refreshed

URL = "http://h.example/docs/page.html"


def links(head, body=""):
    tree = LexborHTMLParser(f"<html><head>{head}</head><body>{body}</body></html>")
    return Markup(tree, URL).links(nofollow=False)


def urls(head, body="", *, encoding="utf-8", url=URL):
    tree = LexborHTMLParser(f"<html><head>{head}</head><body>{body}</body></html>")
    return [link.url for link in Markup(tree, url, encoding).links(nofollow=False)]


def elsewhere(head, url=URL, title="t", canonicals=None):
    tree = LexborHTMLParser(f"<html><head>{head}</head></html>")
    return (canonicals or Canonicals()).elsewhere(Markup(tree, url).canonicals(), url, title)


def canonical(target):
    return f'<link rel="canonical" href="{target}">'


def test_translations_and_feeds_are_links_of_the_head_and_stylesheets_are_not():
    found = links(
        """<link rel="alternate" hreflang="DE" href="/de/page.html"><link rel=stylesheet href="s.css">
        <link rel="alternate" hreflang="en" href="http://h.example/docs/page.html">
        <link rel="alternate" type="application/rss+xml; charset=utf-8" title=" News  here" href="/feed">
        <link rel="ALTERNATE nofollow" type="application/atom+xml" href="/atom">
        <link rel="alternate" type="application/json" href="/json"><link rel="icon" href="i.ico">""",
        "<a href='/de/page.html'>again</a><a href='next'>next</a>",
    )
    assert found == (
        Link("http://h.example/de/page.html", "de", "html/head/link", False),
        Link("http://h.example/feed", "News here", "html/head/link", False),
        Link("http://h.example/atom", "feed", "html/head/link", True),
        Link("http://h.example/docs/next", "next", "html/body", False),
    )


@pytest.mark.parametrize(
    ("content", "target"),
    [
        ("0; url=en/index.html", "en/index.html"),
        ("0;URL=en/index.html", "en/index.html"),
        ("5, en/index.html", "en/index.html"),
        ("0 en/index.html", "en/index.html"),
        ("  0 ;url = 'en/index.html' and more", "en/index.html"),
        ('0;url="en/a\'b.html"', "en/a'b.html"),
        ("0;'en/index.html", "en/index.html"),
        (".5;url=en/index.html", "en/index.html"),
        ("1.5.9;en/index.html", "en/index.html"),
        ("0;\turl\n=\f en/index.html\r\n", "en/index.html"),
        ("0;url en/index.html", "url%20en/index.html"),
        ("0;;en/index.html", ";en/index.html"),
        ("0; ur=x", "ur=x"),
        ("0;url=url=x", "url=x"),
        ("0;url=?q=1#part", "page.html?q=1"),
        ("300", None),
        ("300;", None),
        ("0;url=", None),
        ("0;url=#part", None),
        ("0;url=page.html", None),
        ("url=en/index.html", None),
        ("0url=en/index.html", None),
        ("-1;url=en/index.html", None),
        ("0;url=javascript:go()", None),
        ("", None),
    ],
)
def test_a_refresh_is_a_link_by_the_grammar_of_browsers(content, target):
    wanted = [Link(f"http://h.example/docs/{target}", "", "html/head/meta", False)] if target else []
    quoted = content.replace('"', "&quot;")
    assert list(links(f'<meta http-equiv="Refresh" content="{quoted}">')) == wanted
    assert list(links(f'<noscript><meta content="{quoted}" http-equiv=refresh></noscript>')) == [
        link._replace(tag_path="html/head/noscript/meta") for link in wanted
    ]
    assert list(refreshed(content, URL, nofollow=True)) == [link._replace(nofollow=True) for link in wanted]


def test_a_refresh_is_relative_to_the_base_and_metas_of_other_kinds_are_none():
    assert urls("<base href=/x/><meta http-equiv=refresh content='0;a'>") == ["http://h.example/x/a"]
    assert urls("<meta http-equiv=set-cookie content='0;a'><meta name=refresh content='0;a'>") == []


def test_frames_are_links_and_so_are_links_for_those_without_frames():
    tree = LexborHTMLParser(
        "<html><frameset cols='20%,80%'><frame src=menu.html title=' The  menu'><frame src=''><frame name=x>"
        "<frame src=main.html#top><noframes><body><p><a href=plain.html rel=nofollow>No frames</a></noframes>"
    )
    assert Markup(tree, URL).links(nofollow=False) == (
        Link("http://h.example/docs/menu.html", "The menu", "html/frameset/frame", False),
        Link("http://h.example/docs/main.html", "", "html/frameset/frame", False),
        Link("http://h.example/docs/plain.html", "No frames", "html/body/p", True),
    )


def test_frames_within_pages_image_maps_and_drawings_are_links():
    found = links(
        "",
        """<main><iframe src="part.html" title="A part">no iframes here</iframe><iframe srcdoc="x"></iframe>
        <iframe src="about:blank"></iframe><object data="a.html" type="text/HTML"></object>
        <object data="a.swf" type="application/x-shockwave-flash"></object>
        <map><area href="b.html" alt="B" rel="nofollow"><area alt="none"></map>
        <svg><a xlink:href="c.html"><text>C</text></a><a href="d.html">D</a></svg>
        <noscript><a href="e.html">E</a></noscript><template><a href="f.html">F</a></template></main>""",
    )
    assert found == (
        Link("http://h.example/docs/part.html", "A part", "html/body/main/iframe", False),
        Link("http://h.example/docs/a.html", "", "html/body/main/object", False),
        Link("http://h.example/docs/b.html", "B", "html/body/main/map/area", True),
        Link("http://h.example/docs/c.html", "C", "html/body/main/svg", False),
        Link("http://h.example/docs/d.html", "D", "html/body/main/svg", False),
        Link("http://h.example/docs/e.html", "E", "html/body/main/noscript", False),
    )


def test_neighbours_that_the_head_names_are_links():
    assert links(
        "<link rel=next href=2.html title='Part 2'><link rel='PREV nofollow' href=0.html>"
        "<link rel=contents href=toc.html><link rel=search href=s.html><link rel='alternate next' href=x>"
    ) == (
        Link("http://h.example/docs/2.html", "Part 2", "html/head/link", False),
        Link("http://h.example/docs/0.html", "prev", "html/head/link", True),
        Link("http://h.example/docs/toc.html", "contents", "html/head/link", False),
    )


def test_queries_are_in_the_encoding_of_the_page_and_paths_are_not():
    head = "<base href='/s/'><meta http-equiv=refresh content='0;url=r?q=кот'><link rel=next href='?q=кот'>"
    body = "<a href='/путь?q=кот&amp;x=(a b)#кот'>a</a><iframe src='i?日=кот'></iframe><a href='?q=пес'>b</a>"
    cat, path = "%EA%EE%F2", "%D0%BF%D1%83%D1%82%D1%8C"
    assert urls(head, body, encoding="cp1251") == [
        f"http://h.example/s/?q={cat}",
        f"http://h.example/s/r?q={cat}",
        f"http://h.example/{path}?q={cat}&x=(a%20b)",
        f"http://h.example/s/i?%26%2326085%3B={cat}",
        "http://h.example/s/?q=%EF%E5%F1",
    ]
    for encoding in ("utf-8", "utf-16-le"):
        assert urls("", "<a href='?q=кот'>", encoding=encoding) == [f"{URL}?q=%D0%BA%D0%BE%D1%82"]


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://h.example/a?sort=up", "http://h.example/a"),
        ("http://h.example/a?page=2", "/b/a-long-title"),
        ("http://h.example/en/3.2/a.html", "http://h.example/en/stable/a.html"),
        ("http://h.example/print/17", "/article/17"),
        ("http://m.h.example/a", "http://h.example/a"),
        ("http://h.example/a", "http://docs.h.example/a"),
        ("http://h.example/?session=1", "http://h.example/"),
    ],
)
def test_a_copy_names_its_original(url, target):
    assert elsewhere(canonical(target), url) == target.replace("/b/", "http://h.example/b/").replace(
        "/article", "http://h.example/article"
    )


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://h.example/a", "http://h.example/a"),
        ("http://h.example/a", "https://www.h.example/a/"),
        ("http://h.example/a/", "http://h.example/a/index.html"),
        ("http://h.example/a/b", "http://h.example/"),
        ("http://h.example/a/b", "/index.php"),
        ("http://h.example/a/b", "http://h.example/a/"),
        ("http://h.example/a", "http://other.example/a"),
        ("http://h.example/a", "http://notsoh.example/a"),
        ("http://h.example/a", "mailto:x@h.example"),
        ("http://h.example/a", ""),
    ],
)
def test_the_same_page_the_front_page_a_folder_and_another_site_are_no_originals(url, target):
    assert elsewhere(canonical(target), url) is None


def test_two_originals_are_none_and_one_in_the_body_is_none():
    assert elsewhere(canonical("/x") + canonical("/y")) is None
    assert elsewhere(canonical("/x") + canonical("/x")) == "http://h.example/x"
    assert elsewhere(f"</head><body>{canonical('/x')}</body>") is None


def test_an_original_that_differently_titled_pages_name_is_a_mistake_of_the_template():
    canonicals = Canonicals()
    named = [
        elsewhere(canonical("/home"), f"http://h.example/{n}", title, canonicals)
        for n, title in enumerate(("one", "one", "two", "three", "one"))
    ]
    assert named == ["http://h.example/home"] * 2 + [None, None, "http://h.example/home"]


def test_a_tag_path_is_as_long_as_elements_are_nested_and_no_longer_than_its_bound():
    names = [f"x{number:02}-{'y' * 30}" for number in range(20)]
    nested = "".join(f"<{name}>" for name in names)
    first, second = links("", nested + "<a href=/1>1</a><p><a href=/2>2</a></p>")
    assert first.tag_path == "/".join(names[-14:])  # 15 would have 524 characters
    assert second.tag_path == f"{first.tag_path}/p"
    [link] = links("", f"<{'z' * 60_000}><a href=/>1</a>")
    assert link.tag_path == f"html/body/{'z' * 64}"


def test_a_path_is_the_same_whichever_of_its_elements_were_met_before():
    deep = "".join(f"<{name}>" for name in ["div", "x" * 60, "p-q"] * 30)
    alone = [links("", deep[:end] + "<a href=/>1</a>")[0].tag_path for end in (len(deep) // 2, len(deep))]
    half = deep[: len(deep) // 2].rpartition("<")[0]
    met = links("", half + "<a href=/1>1</a>" + deep[len(half) :] + "<a href=/2>2</a>")
    assert met[1].tag_path == alone[1]
    assert met[0].tag_path == links("", half + "<a href=/>1</a>")[0].tag_path


def test_paths_of_a_page_do_not_add_up():
    """84 MB of them came from a page of 77 KB."""
    nested = "".join(f"<x{'y' * 700}{number}>" for number in range(60))
    body = nested + "".join(f"<a href=/{number}>a</a>" for number in range(2000))
    found = links("", body)
    assert len(found) == 2000
    assert sum(len(link.tag_path) for link in found) <= 2000 * 512
    tracemalloc.start()
    links("", "".join(f"<div><p><a href=/{number}>a</a></p></div>" for number in range(2000)) + nested * 30)
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()
