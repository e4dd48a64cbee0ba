"""A real worker and what hosts say and list: signals reach the page, lists become links."""

import gzip
from contextlib import suppress

import brotli
import pytest

from crawler.frontier import Discovered
from tests.conftest import Site, article, eventually, fetched_pages, open_frontier, reply, worker

ROBOTS = (
    "User-agent: *\nContent-Signal: search=yes, ai-train=no\nAllow: /\n\n"
    "User-agent: otherbot\nDisallow: /\n\n"
    "Sitemap: /sitemap_index.xml\nSitemap: http://cdn.test/sitemap.xml\n"
)
INDEX = "<sitemapindex><sitemap><loc>http://a.test/sitemap1.xml.gz</loc></sitemap></sitemapindex>"
URLSET = "<urlset><url><loc>http://a.test/listed</loc></url><url><loc>http://b.test/no</loc></url></urlset>"
ENTRY = f"<url><loc>http://big.test/{'p' * 90}/%d</loc><lastmod>2024</lastmod></url>"
LARGE = ("<urlset>" + "".join(ENTRY % n for n in range(6000))).encode()  # 850 kB, and a page may have 500
RSS = "<rss><channel><item><title>News</title><link>/news</link></item></channel></rss>"


def without_length(body):
    def answer(handler):
        with suppress(ConnectionError):  # nobody reads all of it
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\n\r\n" + body)
        handler.close_connection = True

    return answer


LISTED = {
    "large.xml": 5000, "larger": 5000, "packed.xml": 5000, "brotli": 5000, "file.xml.gz": 5000,
    "octets": 20, "once.xml.gz": 20, "twice": 20, "members": 20,
}  # fmt: skip
NOT_LISTED = ("page", "sitemap-notes", "packed")


@pytest.fixture(scope="module")
def crawled(server, tmp_path_factory):
    site = Site()
    frontier = open_frontier(server, delay=0.02)
    site.on("a.test", "/robots.txt", reply(200, ROBOTS, Content_Type="text/plain"))
    site.on("a.test", "/", reply(200, article("front"), X_Robots_Tag="otherbot: noindex, nofollow"))
    site.on("a.test", "/sitemap_index.xml", reply(200, INDEX, Content_Type="text/xml"))
    packed = gzip.compress(URLSET.encode())
    site.on("a.test", "/sitemap1.xml.gz", reply(200, packed, Content_Type="application/x-gzip"))
    site.on("a.test", "/feed", reply(200, RSS, Content_Type="application/rss+xml"))
    site.on("a.test", "/logo", reply(200, "<svg/>", Content_Type="image/svg+xml"))
    head = '<html><head><meta name="tdm-reservation" content="1"></head>'
    body = article("reserved").replace("<html><head>", head)
    small = f"<urlset>{'<url><loc>http://big.test/%d</loc></url>' * 20}</urlset>" % tuple(range(20))
    packed_small = gzip.compress(small.encode())
    in_two = gzip.compress(small[:300].encode()) + gzip.compress(small[300:].encode())
    octets, gzipped = {"Content_Type": "binary/octet-stream"}, {"Content_Encoding": "gzip"}
    for path, answer in {
        "/robots.txt": reply(404),
        "/large.xml": reply(200, LARGE, Content_Type="text/xml"),
        "/larger": without_length(LARGE * 13),
        "/packed.xml": reply(200, gzip.compress(LARGE), Content_Type="text/xml", **gzipped),
        "/brotli": reply(200, brotli.compress(LARGE, quality=1), Content_Encoding="br", **octets),
        "/file.xml.gz": reply(200, gzip.compress(LARGE * 3), Content_Type="application/gzip"),
        "/octets": reply(200, small, **octets),
        "/once.xml.gz": reply(200, packed_small, Content_Type="application/x-gzip", **gzipped),
        "/twice": reply(200, gzip.compress(packed_small), **octets, **gzipped),
        "/members": reply(200, in_two, **octets),
        "/page": reply(200, article("a page") + " " * 600_000),
        "/sitemap-notes": reply(200, "notes\n" * 100_000, Content_Type="text/plain"),
        "/packed": reply(200, gzip.compress(bytes(600_000)), **octets, **gzipped),
    }.items():
        site.on("big.test", path, answer)
    site.on("b.test", "/tdm", reply(200, body, TDM_Reservation="1", Content_Usage="train-ai=n, search=y"))
    site.on("b.test", "/*", reply(404))
    site.on("c.test", "/robots.txt", reply(301, Location="http://www.test/robots.txt"))
    site.on("d.test", "/robots.txt", reply(301, Location="http://www.test/robots.txt"))
    site.on("www.test", "/robots.txt", reply(200, "User-agent: *\nDisallow: /closed\n"))
    site.on("round.test", "/robots.txt", reply(302, Location="http://about.test/robots.txt"))
    site.on("about.test", "/robots.txt", reply(302, Location="http://round.test/robots.txt"))
    for host in ("c.test", "d.test", "round.test"):
        site.on(host, "*", reply(200, article(host)))
    paths = {
        "a.test": ("", "sitemap_index.xml", "sitemap1.xml.gz", "feed", "logo"),
        "b.test": ("tdm",),
        "big.test": tuple(LISTED) + NOT_LISTED,
        "c.test": ("closed", "open"),
        "d.test": ("closed", "open"),
        "round.test": ("page",),
    }
    frontier.put(Discovered(f"http://{host}/{path}", 0.5) for host in paths for path in paths[host])
    log = tmp_path_factory.mktemp("worker") / "log"
    with worker(server, frontier, site, log, "--megabytes-per-page", "0.5") as process:
        eventually(frontier.finished)
        process.terminate()
        assert process.wait(60) == 0
    yield site, fetched_pages(frontier)
    site.stop()


def links(page):
    return [(link.url, link.tag_path) for link in page.links]


def test_what_the_host_says_is_said_of_each_of_its_pages(crawled):
    front = crawled[1]["http://a.test/"]
    assert front.opt_out == ("robots:ai-train=no",)
    assert not any(link.nofollow for link in front.links)


def test_what_a_response_says_is_said_of_its_page(crawled):
    said = set(crawled[1]["http://b.test/tdm"].opt_out)
    assert said == {"meta:tdm-reservation=1", "header:tdm-reservation=1", "header:train-ai=n"}


def test_robots_txt_names_sitemaps_and_they_list_pages(crawled):
    pages = crawled[1]
    robots = pages["http://a.test/robots.txt"]
    assert robots.reason == "robots"
    assert links(robots) == [
        ("http://a.test/sitemap_index.xml", "robots/sitemap"),
        ("http://cdn.test/sitemap.xml", "robots/sitemap"),
    ]
    assert links(pages["http://a.test/sitemap_index.xml"]) == [
        ("http://a.test/sitemap1.xml.gz", "sitemapindex/sitemap/loc")
    ]
    assert pages["http://a.test/sitemap1.xml.gz"].reason == "sitemap"
    assert links(pages["http://a.test/sitemap1.xml.gz"]) == [("http://a.test/listed", "urlset/url/loc")]


def test_a_list_is_read_whatever_it_is_called_and_cut_where_it_is_too_large(crawled):
    pages = crawled[1]
    found = {path: pages[f"http://big.test/{path}"] for path in LISTED}
    assert {path: (page.reason, len(page.links)) for path, page in found.items()} == {
        path: ("sitemap", links) for path, links in LISTED.items()
    }


def test_what_is_no_list_is_not_cut(crawled):
    assert [crawled[1][f"http://big.test/{path}"].reason for path in NOT_LISTED] == ["too_large"] * 3


def test_a_feed_lists_its_items(crawled):
    feed = crawled[1]["http://a.test/feed"]
    assert feed.reason == "feed"
    assert feed.links[0][:3] == ("http://a.test/news", "News", "rss/item/link")


def test_other_xml_is_neither(crawled):
    assert crawled[1]["http://a.test/logo"].reason == "media_type"


def test_a_robots_txt_without_sitemaps_is_no_page(crawled):
    assert [url for url in crawled[1] if url.endswith("/robots.txt")] == ["http://a.test/robots.txt"]


def test_robots_txt_of_another_host_holds_for_the_one_that_points_to_it(crawled):
    site, pages = crawled
    for host in ("c.test", "d.test"):
        assert site.asked(host, "/closed") == []
        assert f"http://{host}/open" in pages
    # For both together, unless the second asked while the first was under way.
    assert len(site.asked("www.test")) in (1, 2)


def test_a_robots_txt_that_is_nowhere_allows_all(crawled):
    site, pages = crawled
    asked = len(site.asked("round.test", "/robots.txt")) + len(site.asked("about.test"))
    assert 6 <= asked <= 2 * 6, "five redirects for each of the two"
    assert "http://round.test/page" in pages
