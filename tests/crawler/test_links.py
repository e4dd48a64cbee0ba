"""What the head of a page names: translations, feeds, and the page it says it is a copy of."""

import tracemalloc

import pytest
from selectolax.lexbor import LexborHTMLParser

from crawler.page import Link
from crawler.read.links import Canonicals, Markup

URL = "http://h.example/docs/page.html"


def links(head, body=""):
    tree = LexborHTMLParser(f"<html><head>{head}</head><body>{body}</body></html>")
    return Markup(tree, URL).links(nofollow=False)


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
