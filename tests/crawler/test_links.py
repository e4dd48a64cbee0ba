"""What the head of a page names: translations, feeds, and the page it says it is a copy of."""

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
