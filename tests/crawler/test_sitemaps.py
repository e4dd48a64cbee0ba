"""Sitemaps and feeds as other people write them: read leniently, bounded, each for its own site only."""

import gzip
import time
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler.read.extract import Extractor
from crawler.read.sitemaps import MOST_LINKS, MOST_LIST_BYTES, listed, may_list

SITE = "https://www.example.com/sitemap.xml"
HEAD = '<?xml version="1.0" encoding="UTF-8"?>\n'
NAMESPACE = 'xmlns="http://www.sitemaps.org/schemas/sitemap/0.9"'


def urls(body, url=SITE, content_type="application/xml"):
    body = body.encode() if isinstance(body, str) else body
    return [link.url for link in listed(body, url, content_type)[1]]


def kind(body, url=SITE, content_type="application/xml"):
    return listed(body.encode() if isinstance(body, str) else body, url, content_type)[0]


def urlset(*locs, namespace=NAMESPACE):
    entries = "".join(f"<url><loc>{loc}</loc></url>" for loc in locs)
    return f"{HEAD}<urlset {namespace}>{entries}</urlset>"


CRAWLER_COMMONS = {
    "sitemaps/sitemap.badns.xml": ("http://www.example.com/", "sitemap", 2, "http://www.example.com/1"),
    "sitemaps/sitemap.ns.xml": ("http://www.example.com/", "sitemap", 2, "http://www.example.com/1"),
    "sitemaps/sitemap.index.xml": ("http://www.example.com/", "sitemap", 15,
                                   "https://example.com/sitemap.jss?portalCode=10260&lang=en"),
    "sitemaps/sitemap.txt": ("http://www.domain.com/", "sitemap", 2, "http://www.domain.com/page1.html"),
    "sitemaps/sitemap-with-bom.txt": ("http://www.domain.com/", "sitemap", 2, "http://www.domain.com/page1.html"),
    "sitemaps/xmlSitemap.gz": ("http://www.example.com/", "sitemap", 5, "http://www.example.com/"),
    "sitemaps/sitemap.txt.gz": ("http://www.example.com/", "sitemap", 5, "http://www.example.com/"),
    "sitemaps/atom.xml": ("http://example.org/", "feed", 1, "http://example.org/2003/12/13/atom03"),
    "sitemaps/extension/pagemaps-sitemap.xml": ("http://www.example.com/", "sitemap", 2,
                                                "http://www.example.com/bar"),
    "sitemaps/extension/sitemap-mobile.xml": ("http://www.example.com/", "sitemap", 3, None),
    "sitemaps/extension/sitemap-news.xml": ("http://www.example.org/", "sitemap", 2, None),
    "sitemaps/extension/sitemap-images.xml": ("http://example.com/", "sitemap", 1, None),
    "sitemaps/extension/sitemap-videos.xml": ("http://www.example.com/", "sitemap", 3, None),
    "sitemaps/extension/sitemap-videos-tvshow.xml": ("https://example.org/", "sitemap", 1, None),
    "sitemaps/extension/sitemap-links.xml": ("http://www.example.com/", "sitemap", 3,
                                             "http://www.example.com/schweiz-deutsch/"),
    "sitemaps/extension/hebdenbridgetimes-articles-sitemap.xml": (
        "http://www.hebdenbridgetimes.co.uk/", "sitemap", 74, None
    ),
    "sitemaps/extension/shinpaideshou-news-sitemap.xml": (
        "https://shinpaideshou.wordpress.com/", "sitemap", 3, None
    ),
    "rss/feed.rss": ("http://www.example.com/", "feed", 4, "https://www.example.com/foo?q=a&l=fr"),
    "rss/xmlRss_pubDate.xml": ("http://www.example.com/", "feed", 7, "http://www.example.com/article_1"),
}  # fmt: skip


@pytest.mark.parametrize("name", CRAWLER_COMMONS)
def test_the_files_of_crawler_commons_are_read(conformance, name):
    body = conformance[f"conformance/crawler_commons/src/test/resources/{name}"]
    site, expected, count, member = CRAWLER_COMMONS[name]
    url = f"{site}{name.rpartition('/')[2]}"
    reason, links = listed(body, url, "")
    assert (reason, len(links)) == (expected, count), links
    assert member is None or member in [link.url for link in links]


@pytest.mark.parametrize(
    ("inner", "listed_urls"),
    [
        ("<url><loc>https://www.example.com/a?x=1&amp;y=2</loc></url>", ["https://www.example.com/a?x=1&y=2"]),
        ("<url><loc><![CDATA[ https://www.example.com/a ]]></loc></url>", ["https://www.example.com/a"]),
        ("<url><loc>\u00a0https://www.example.com/a \u2000\n</loc></url>", ["https://www.example.com/a"]),
        ("<url><loc><url>https://www.example.com/a</url></loc></url>", ["https://www.example.com/a"]),
        ("<url><loc>https://www.example.com/a</loc><loc>https://www.example.com/b</loc></url>",
         ["https://www.example.com/a", "https://www.example.com/b"]),
        ("<url><loc>https://www.example.com/a</loc><x:loc xmlns:x='y'>z</x:loc></url>",
         ["https://www.example.com/a"]),
        ("<url><x:loc xmlns:x='image'>https://www.example.com/a.png</x:loc><loc>https://www.example.com/a</loc></url>",
         ["https://www.example.com/a"]),
        ("<url><image:loc>https://www.example.com/a.png</image:loc><loc>https://www.example.com/a</loc></url>",
         ["https://www.example.com/a"]),
        ("<url><loc>https://www.example.com/a</loc><x:link xmlns:x='http://www.w3.org/1999/xhtml' "
         "rel='alternate' href='https://www.example.com/de'/></url>",
         ["https://www.example.com/a", "https://www.example.com/de"]),
        ("<url><!-- nothing --></url><url><loc/></url>", []),
        ("<url><loc>/relative</loc></url><url><loc>mailto:x@y</loc></url>", []),
        ("<url><loc>https://www.example.com/a</loc></url></url></url>", ["https://www.example.com/a"]),
        ("<url><loc>https://www.example.com/a?x=1&y=2&#38;z=3</loc></url>",
         ["https://www.example.com/a?x=1&y=2&z=3"]),
        ("<url><loc>https://www.example.com/a?<![CDATA[x=1&y=2]]></loc></url>",
         ["https://www.example.com/a?x=1&y=2"]),
        ("<url><loc>https://www.example.com/a&nbsp;b</loc></url>", []),
    ],
)  # fmt: skip
def test_what_people_write_into_a_sitemap(inner, listed_urls):
    assert urls(f"{HEAD}<urlset {NAMESPACE}>{inner}</urlset>") == listed_urls


def test_a_mark_and_space_before_the_declaration_are_no_hindrance():
    assert urls(b"\xef\xbb\xbf\n \t\r\n" + urlset("https://www.example.com/a").encode())
    assert urls(HEAD.replace("UTF-8", "UTF-16").encode("utf-16") + urlset("https://www.example.com/a")
                .removeprefix(HEAD).encode("utf-16")[2:]) == ["https://www.example.com/a"]  # fmt: skip


def test_only_the_own_site_is_listed():
    body = urlset(
        "http://www.example.com/a", "https://example.com/b", "https://other.example/c", "https://www.example.com:8443/d"
    )  # fmt: skip
    assert urls(body) == ["http://www.example.com/a", "https://example.com/b"]
    index = f"{HEAD}<sitemapindex><sitemap><loc>https://other.example/s.xml</loc></sitemap></sitemapindex>"
    assert (kind(index), urls(index)) == ("sitemap", [])
    feed = f"{HEAD}<rss><channel><item><link>https://other.example/c</link></item></channel></rss>"
    assert urls(feed) == ["https://other.example/c"]


def test_the_most_recently_modified_come_first_and_the_rest_is_left():
    dated = "".join(
        f"<url><loc>https://www.example.com/{n}</loc><lastmod>2024-01-{n:02}T00:00Z</lastmod></url>"
        for n in range(1, 29)
    )
    many = [f"<url><loc>https://www.example.com/u{n}</loc></url>" for n in range(60_000)]
    found = urls(f"<urlset>{''.join(many)}{dated}</urlset>")
    assert found[:2] == ["https://www.example.com/u0", "https://www.example.com/u1"]
    assert len(found) == MOST_LINKS
    found = urls(f"<urlset>{''.join(many[:6000])}{dated}</urlset>")
    assert found[:2] == ["https://www.example.com/28", "https://www.example.com/27"]


def test_where_a_link_was_listed_is_said():
    index = (
        f"{HEAD}<sitemapindex><sitemap><loc>https://www.example.com/1.xml.gz</loc></sitemap></sitemapindex>"
    )
    assert listed(index.encode(), SITE, "")[1][0].tag_path == "sitemapindex/sitemap/loc"
    entry = "<entry><title>On <b>bold</b>  words</title><link href='a'/></entry>"
    feed = f"<feed xmlns='http://www.w3.org/2005/Atom'>{entry}</feed>"
    link = listed(feed.encode(), "https://www.example.com/feed/", "application/atom+xml")[1][0]
    assert link == ("https://www.example.com/feed/a", "On bold words", "feed/entry/link", False)


RDF = """<?xml version="1.0"?>
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns="http://purl.org/rss/1.0/">
<channel rdf:about="http://h.example/"><title>t</title><link>http://h.example/</link></channel>
<item rdf:about="http://h.example/1"><title>One</title><link>http://h.example/1</link></item></rdf:RDF>"""


OTHERS = (
    "xmlns:atom='http://www.w3.org/2005/Atom' xmlns:media='http://search.yahoo.com/mrss/' "
    "xmlns:itunes='http://www.itunes.com/dtds/podcast-1.0.dtd' xmlns:x='http://www.w3.org/1999/xhtml'"
)


@pytest.mark.parametrize(
    "first",
    ["<atom:link rel='self' href='/self'/>", "<atom:link href='/atom'/>", "<media:link href='/media'/>",
     "<media:title/>", "<media:title>No</media:title>", "<itunes:title>No</itunes:title>",
     "<media:link>/m</media:link>", "<undeclared:link href='/u'/>", "<undeclared:title>No</undeclared:title>",
     "<media:guid>http://h/g</media:guid>"],
)  # fmt: skip
def test_an_item_is_what_its_own_namespace_says(first):
    rss = (
        f"<rss {OTHERS}><channel><item>{first}<title>Yes</title><link>/real</link>{first}"
        "</item></channel></rss>"
    )
    atom = (
        f"<a:feed xmlns:a='http://www.w3.org/2005/Atom' {OTHERS.replace('2005/Atom', '2007/app')}><a:entry>"
        f"{first}<a:title>Yes</a:title><a:link href='/real'/>{first}</a:entry></a:feed>"
    )
    rdf = RDF.replace("<rdf:RDF", f"<rdf:RDF {OTHERS}").replace("<title>One", f"{first}<title>Yes")
    for body, found in ((rss, "real"), (atom, "real"), (rdf, "1")):
        [link] = listed(body.encode(), "http://h.example/feed", "application/xml")[1]
        assert (link.url, link.anchor.removesuffix("</title>")) == (f"http://h.example/{found}", "Yes"), body


def test_relative_links_of_a_feed_are_relative_to_its_base():
    entry = "<entry><link href='a'/></entry><entry xml:base='b/'><link href='c'/></entry>"
    feed = f"<feed xmlns='http://www.w3.org/2005/Atom' xml:base='http://other.example/x/'>{entry}</feed>"
    assert urls(feed, "http://h.example/feed") == ["http://other.example/x/a", "http://other.example/x/b/c"]


@pytest.mark.parametrize(
    ("encoding", "header", "declared"),
    [
        ("cp1251", "; charset=windows-1251", ""),
        ("cp1251", ';charset="WINDOWS-1251"', "encoding='utf-8'"),
        ("cp1251", "", "encoding='windows-1251'"),
        ("koi8-r", ";charset=nonsense", 'encoding="koi8-r"'),
        ("utf-8", "", ""),
        ("utf-8", ";charset=utf-8", "encoding='windows-1251'"),
        ("utf-8-sig", ";charset=windows-1251", "encoding='windows-1251'"),
        ("utf-16", ";charset=windows-1251", "encoding='utf-8'"),
        ("utf-16-le", "", ""),
        ("utf-16-be", "", "encoding='utf-16'"),
    ],
)
def test_the_mark_then_the_header_then_the_declaration_says_the_encoding(encoding, header, declared):
    for start, end in (("<rss><channel><item><link>", "</link></item></channel></rss>"),
                       ("<urlset><url><loc>", "</loc></url></urlset>")):  # fmt: skip
        body = f"<?xml version='1.0' {declared}?>{start}https://www.example.com/путь{end}".encode(encoding)
        assert may_list(body, "https://www.example.com/x", "application/octet-stream")
        found = urls(body, content_type=f"application/rss+xml{header}")
        assert found == ["https://www.example.com/%D0%BF%D1%83%D1%82%D1%8C"]


@pytest.mark.parametrize(
    ("body", "listed_urls"),
    [
        (RDF, ["http://h.example/1"]),
        ("<rss><channel><item><guid>http://h.example/g</guid></item></channel></rss>", ["http://h.example/g"]),
        ("<rss><channel><item><guid>tag:no-url</guid></item></channel></rss>", []),
        ("<rss><channel><item><guid isPermaLink='false'>http://h.example/g</guid></item></channel></rss>",
         ["http://h.example/g"]),
        ("<feed><entry><id>http://h.example/i</id></entry></feed>", ["http://h.example/i"]),
        ("<feed><entry><id>urn:uuid:1</id></entry></feed>", []),
        ("<feed><entry><id>http://h.example/i</id><link href='/a'/></entry></feed>", ["http://h.example/a"]),
        ("<rss><channel><item><link/><link>/rel</link></item></channel></rss>", []),
        ("<rss><item><link> /rel </link></item></rss>", ["http://h.example/rel"]),
        ("<feed><entry><link rel='self' href='/s'/><link rel='alternate' href='/a'/></entry></feed>",
         ["http://h.example/a"]),
    ],
)  # fmt: skip
def test_feeds_of_every_kind_are_read(body, listed_urls):
    assert kind(body, "http://h.example/feed") == "feed"
    assert urls(body, "http://h.example/feed") == listed_urls


def test_nothing_external_is_loaded_and_no_entity_is_expanded(tmp_path):
    (tmp_path / "secret.txt").write_text("https://www.example.com/secret")
    declared = (
        f'<!DOCTYPE urlset [<!ENTITY test SYSTEM "file://{tmp_path}/secret.txt">'
        '<!ENTITY in "https://www.example.com/in">]>'
    )
    entries = "".join(
        f"<url><loc>{loc}</loc></url>" for loc in ("https://www.example.com/a", "&test;", "&in;")
    )
    assert urls(f"{HEAD}{declared}<urlset>{entries}</urlset>") == ["https://www.example.com/a"]
    include = f'<xi:include href="file://{tmp_path}/secret.txt" parse="text"/>'
    assert urls(urlset(include, namespace='xmlns:xi="http://www.w3.org/2001/XInclude"')) == []


def test_bombs_do_not_go_off():
    started = time.monotonic()
    laughs = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
    bomb = f"<!DOCTYPE urlset [<!ENTITY l0 'lol'>{laughs}]>{urlset('https://www.example.com/&l9;').removeprefix(HEAD)}"
    assert len(str(urls(bomb))) < 1000
    assert urls("<a>" * 100_000) == []
    zeros = zlib.compressobj(9, wbits=31)
    packed = b"".join(zeros.compress(b" " * 1_000_000) for _ in range(60)) + zeros.flush()
    assert urls(packed, content_type="application/gzip") == []
    thrice = gzip.compress(gzip.compress(gzip.compress(urlset("https://www.example.com/a").encode())))
    assert urls(thrice) == []
    assert time.monotonic() - started < 5


def test_a_url_that_the_end_cuts_in_half_is_none():
    body = urlset("https://www.example.com/a", "https://www.example.com/bcd")
    for end in range(len(body)):
        assert set(urls(body[:end])) <= {"https://www.example.com/a", "https://www.example.com/bcd"}
    assert urls(body[:-15]) == ["https://www.example.com/a", "https://www.example.com/bcd"]


def test_a_broken_gzip_gives_what_it_can():
    body = urlset(*(f"https://www.example.com/{n}" for n in range(1000))).encode()
    assert 100 < len(urls(gzip.compress(body)[:-1000])) < 1000
    assert 100 < len(urls(gzip.compress(gzip.compress(body))[:-500])) < 1000
    packed = gzip.compress(body)
    assert len(urls(packed[:-8] + bytes(8))) == 1000, "the checksum is wrong, but it comes last"
    assert len(urls(packed + b"<!-- cached -->")) == 1000
    text = "\n".join(f"https://www.example.com/{n:0100}" for n in range(1000)).encode()
    cut = urls(gzip.compress(text)[:-100], content_type="text/plain")
    assert 10 < len(cut) < 1000
    assert {len(url) for url in cut} == {len("https://www.example.com/") + 100}
    assert urls(b"\x1f\x8bnonsense") == []


def test_a_gzip_file_is_all_its_members_in_one_layer_or_two():
    body = urlset(*(f"https://www.example.com/{n}" for n in range(100))).encode()
    members = [body[start : start + 700] for start in range(0, len(body), 700)]
    several = b"".join(map(gzip.compress, members))
    halves = gzip.compress(several[:900]) + gzip.compress(several[900:])
    for packed in (gzip.compress(body), several, several + bytes(100), gzip.compress(several), halves):
        assert len(urls(packed)) == 100
        assert may_list(packed, "https://www.example.com/x", "application/octet-stream")
    lines = b"".join(gzip.compress(f"https://www.example.com/{n}\r\n".encode()) for n in range(100))
    assert len(urls(lines, content_type="text/plain")) == 100


def test_a_list_is_read_up_to_where_it_is_cut():
    entry = f"<url><loc>https://www.example.com/%d</loc><x>{'x' * 20_000}</x></url>"
    large = ("<urlset>" + "".join(entry % n for n in range(3000)) + "</urlset>").encode()
    assert 2500 < len(urls(gzip.compress(large, 1))) < 3000, "of 60 MB 50 are read"
    assert 480 < len(urls(large[:MOST_LIST_BYTES])) < 530
    lines = "".join(f"https://www.example.com/{n:0200}\n" for n in range(60_000)).encode()
    cut = urls(lines[:MOST_LIST_BYTES], content_type="text/plain")
    assert {len(url) for url in cut} == {len("https://www.example.com/") + 200}
    assert len(urls(lines[-1000:-1], content_type="text/plain")) == 4, "the last line need not have an end"


@pytest.mark.parametrize(
    ("body", "url", "media_type", "worth_a_look"),
    [
        (b"<urlset>", "https://h/a", "application/octet-stream", True),
        (
            b"\xef\xbb\xbf<?xml version='1.0'?>\n<urlset>",
            "https://h/sitemap.xml",
            "binary/octet-stream",
            True,
        ),
        (b"<rss>", "https://h/a", "application/x-gzip", True),
        (b"<feed xmlns='a'>", "https://h/a", "application/json", True),
        (gzip.compress(b"<sitemapindex>", mtime=0), "https://h/map?n=1", "application/gzip", True),
        (gzip.compress(gzip.compress(b"<rss>", mtime=0), mtime=0), "https://h/a", "text/plain", True),
        (gzip.compress(b"<html>", mtime=0), "https://h/a", "application/gzip", False),
        (gzip.compress(b"http://h/a", mtime=0), "https://h/sitemap.gz", "binary/octet-stream", True),
        (b"http://h/a", "https://h/sitemap.txt", "application/octet-stream", True),
        (b"http://h/a", "https://h/sitemap.txt", "text/html", True),
        (b"http://h/a", "https://h/list.txt", "application/octet-stream", False),
        (b"\x89PNG", "https://h/sitemap.png", "image/png", False),
        (b"<html>", "https://h/sitemap.html", "text/html", False),
        (b"<?xml version='1.0'?><!-- x --><urlset>", "https://h/a", "text/html", True),
        (b"<rss version='2.0'>", "https://h/a", "", True),
        (b"<?xml version='1.0'?><html>", "https://h/a", "application/xhtml+xml", False),
        (b"<!DOCTYPE html><html><body><feed>", "https://h/a", "text/html", False),
        (b"<svg>", "https://h/a", "image/svg+xml", True),
        (b"https://h/b", "https://h/sitemap1.txt", "text/plain", True),
        (b"https://h/b", "https://h/notes.txt", "text/plain", False),
        (b"\x1f\x8b", "https://h/sitemap-1.xml.gz", "application/octet-stream", True),
        (b"\x1f\x8b", "https://h/release.tar.gz", "application/gzip", False),
        (b"%PDF", "https://h/sitemap.pdf", "application/pdf", False),
        (b"<!" * 10_000, "https://h/a", "text/html", False),
        (b"<!-->" * 10_000, "https://h/a", "text/html", False),
    ],
)
def test_only_what_may_be_a_list_is_read_as_one(body, url, media_type, worth_a_look):
    assert may_list(body, url, media_type) is worth_a_look


def test_a_response_is_a_list_or_a_document_or_neither():
    extract = Extractor()
    for body, media_type, reason in (
        (urlset("https://www.example.com/a").encode(), "text/xml", "sitemap"),
        (b"<svg/>", "image/svg+xml", "media_type"),
        (b"a document", "text/plain", ""),
    ):
        found = extract(body, SITE.replace("sitemap", "page"), media_type, False, 9.0)
        assert (found.reason, found.text) == (reason, "" if reason else "a document")


@given(st.binary(max_size=300) | st.text(alphabet="<>/url loc&;!-[]CDATA\n", max_size=100).map(str.encode))
def test_reading_is_total(noise):
    for body in (noise, b"<urlset>" + noise, b"<rss><item>" + noise, gzip.compress(noise)):
        reason, links = listed(body, SITE, "text/xml")
        assert reason in ("", "sitemap", "feed")
        assert len(links) <= MOST_LINKS
