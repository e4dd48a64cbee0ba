import os
import signal
import time
from pathlib import Path

import pytest
import redis

from crawler.frontier import Discovered
from crawler.page import Link
from tests.conftest import (
    Site,
    article,
    eventually,
    fetched_pages,
    kill,
    listening,
    open_frontier,
    reply,
    running_server,
    worker,
)


def put(frontier, *urls):
    frontier.put(Discovered(url, 0.5) for url in urls)


def raw(answer):
    """The bytes of an answer as they are; the hit is logged."""

    def write(handler):
        handler.before_last_byte()
        handler.wfile.write(answer)

    return write


def expire_all(server, frontier):
    """What the passing of `lease_seconds` does to the leases of a frontier of one partition."""
    with redis.Redis.from_url(server.url) as client:
        key = f"{frontier.prefixes[0]}deadlines"
        client.zadd(key, dict.fromkeys(client.zrange(key, 0, -1), 1))


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture(scope="module")
def crawled(server, tmp_path_factory):
    """A small site with one of everything, fetched by one worker until nothing is left."""
    site = Site()
    frontier = open_frontier(server, attempts=2, delay=0.02)
    good = {
        "/": reply(200, article("front page", "/two", "http://other.test/x?b=2&a=1#part", "mailto:a@b.c")),
        "/moved": reply(301, Location="/two?utm_source=x"),
        "/utf8": raw(b"HTTP/1.1 302 Found\r\nLocation: /\xc3\xa4\r\nContent-Length: 0\r\n\r\n"),
        "/bytes": raw(b"HTTP/1.1 302 Found\r\nLocation: /\xe4\r\nContent-Length: 0\r\n\r\n"),
        "/gone": reply(410),
        "/t?id=2&v=1": reply(301, Location="/t?v=1&id=2#top"),
        "/t?v=1&id=2": reply(200, article("topic", "/l?f[]=b&f[]=a", "/index.php?title=Special:Find&q=1")),
        "/why?a=why?": reply(200, article("why")),
        "/q": reply(302, Location="q?"),
        "/q?": reply(200, article("query")),
        "/round?b=1&a=2": reply(301, Location="/round?a=2&b=1"),
        "/round?a=2&b=1": reply(301, Location="/round?b=1&a=2"),
        "/index.php?title=Special:Find&q=1": reply(200, article("special")),
        "/missing": reply(404, "<p>not here</p>", Refresh="0;/two", X_Robots_Tag="nofollow"),
        "/image": reply(200, b"\x89PNG", Content_Type="image/png", Refresh="9; url='two'"),
        "/empty": reply(200, b"", Refresh="0; url=/two"),
        "/latin": reply(
            200, article("café crème", "/two").encode("latin-1"), Content_Type="text/html; charset=latin-1"
        ),
        "/noai": reply(200, article("opted out"), X_Robots_Tag="noai"),
        "/private/1": reply(200, article("private")),
        "/private/open": reply(200, article("open")),
    }
    for path, answer in good.items():
        site.on("a.test", path, answer)
    rules = "User-agent: *\nDisallow: /private/\nAllow: /private/open\nDisallow: /index.php?title=Special:\n"
    site.on("a.test", "/robots.txt", reply(200, rules, Content_Type="text/plain"))
    site.on("norobots.test", "/page", reply(200, article("no robots")))
    site.on("robots500.test", "/robots.txt", reply(500))
    site.on("robots500.test", "/page", reply(200, article("never")))
    site.on("moved.test", "/robots.txt", reply(302, Location="/rules.txt"))
    site.on("moved.test", "/rules.txt", reply(200, "User-agent: *\nDisallow: /no\n"))
    site.on("moved.test", "/no", reply(200, article("no")))
    site.on("moved.test", "/yes", reply(200, article("yes")))
    site.on("fails.test", "/page", reply(500))
    urls = [
        f"http://{host}{path}" for host, path in site.answers if path not in ("/robots.txt", "/rules.txt")
    ]
    put(frontier, *urls)
    log = tmp_path_factory.mktemp("worker") / "log"
    with worker(server, frontier, site, log) as process:
        eventually(lambda: frontier.counts()["queued"] == 1 and not frontier.counts()["leased"])
        process.terminate()
        assert process.wait(60) == 0
    yield site, frontier
    site.stop()


def test_pages_arrive_with_text_links_and_language(crawled):
    pages = fetched_pages(crawled[1])
    front = pages["http://a.test/"]
    assert "explains in plain English how part number 7" in front.text
    assert (front.status, front.reason, front.title, front.language) == (200, "", "front page", "en")
    assert [link.url for link in front.links] == ["http://a.test/two", "http://other.test/x?b=2&a=1"]
    assert front.links[0].anchor == "the page about /two"
    assert front.links[0].tag_path == "html/body/main/p"
    assert len(front.content_sha256) == 64
    assert pages["http://a.test/latin"].title == "café crème"
    assert pages["http://a.test/noai"].opt_out == ("header:noai",)


def test_what_has_no_text_says_why(crawled):
    pages = fetched_pages(crawled[1])
    reasons = {url.removeprefix("http://a.test"): page.reason for url, page in pages.items() if page.reason}
    assert reasons == {
        "/moved": "redirect",
        "/utf8": "redirect",
        "/bytes": "redirect",
        "/gone": "status_410",
        "/missing": "status_404",
        "/image": "media_type",
        "/empty": "pre_short",
    }
    assert [link.url for link in pages["http://a.test/moved"].links] == ["http://a.test/two?utm_source=x"]
    assert [link.url for link in pages["http://a.test/utf8"].links] == ["http://a.test/%C3%A4"]
    assert [link.url for link in pages["http://a.test/bytes"].links] == ["http://a.test/%E4"]
    for path in ("missing", "image", "empty"):
        assert pages[f"http://a.test/{path}"].links == (
            Link("http://a.test/two", "", "html/head/meta", path == "missing"),
        )


def test_what_robots_disallow_is_never_fetched(crawled):
    site, frontier = crawled
    assert site.asked("a.test", "/private/1") == []
    assert len(site.asked("a.test", "/private/open")) == 1
    assert site.asked("moved.test", "/no") == []
    assert len(site.asked("moved.test", "/yes")) == 1
    assert frontier.counts()["skipped:robots"] == 3


def test_without_robots_all_is_allowed_and_with_failing_robots_nothing(crawled):
    site, frontier = crawled
    assert len(site.asked("norobots.test", "/page")) == 1
    assert site.asked("robots500.test", "/page") == []
    assert frontier.counts()["failed:robots_unreachable"] == 1


def test_pages_are_asked_for_as_they_were_linked_and_told_apart_by_their_canonical_form(crawled):
    site, frontier = crawled
    pages = fetched_pages(frontier)
    topic = pages["http://a.test/t?v=1&id=2"]
    links = ["http://a.test/l?f[]=b&f[]=a", "http://a.test/index.php?title=Special:Find&q=1"]
    assert [link.url for link in topic.links] == links
    assert pages["http://a.test/q?"].title == "query"
    assert pages["http://a.test/why?a=why?"].title == "why"
    assert frontier.counts()["skipped:robots"] == 3, "the rule speaks of the query as it was linked"
    assert all(len(site.asked("a.test", path)) == 1 for path in ("/t?id=2&v=1", "/t?v=1&id=2", "/q", "/q?"))


def test_addresses_of_a_page_that_redirect_to_each_other_end_as_a_dead_letter(crawled):
    site, frontier = crawled
    assert dict(frontier.dead_letters())["http://a.test/round?b=1&a=2"] == "respelled"
    assert [len(site.asked("a.test", f"/round?{query}")) for query in ("b=1&a=2", "a=2&b=1")] == [1, 1]


def test_robots_come_first_and_once(crawled):
    site, _ = crawled
    for host in ("a.test", "norobots.test", "moved.test", "fails.test"):
        assert site.asked(host)[0].path == "/robots.txt"
        assert len(site.asked(host, "/robots.txt")) == 1


def test_a_failing_page_is_tried_again_and_then_a_dead_letter(crawled):
    site, frontier = crawled
    assert len(site.asked("fails.test", "/page")) == 2
    assert dict(frontier.dead_letters())["http://fails.test/page"] == "status_500"


def test_every_fetch_was_counted_and_no_lease_is_left(crawled):
    site, frontier = crawled
    counts = frontier.counts()
    assert counts["fetched"] == len(site.hits)
    assert counts["leased"] == 0
    page_urls = len(fetched_pages(frontier))
    assert counts["discovered"] == page_urls + counts["skipped:robots"] + counts["dead"] + counts["queued"]


def test_sigterm_gives_back_what_was_not_begun_and_ends_well(server, site, tmp_path):
    frontier = open_frontier(server)

    def slow(handler):
        time.sleep(2)
        reply(200, article("slow"))(handler)

    hosts = [f"h{n}.test" for n in range(8)]
    for host in hosts:
        site.on(host, "/page", slow)
    put(frontier, *(f"http://{host}/page" for host in hosts))
    with worker(server, frontier, site, tmp_path / "log") as process:
        eventually(lambda: site.asked("h0.test", "/robots.txt") and frontier.counts()["leased"] == 8)
        assert listening(process.pid) == []
        process.terminate()
        assert process.wait(60) == 0
    counts = frontier.counts()
    assert counts["leased"] == 0
    assert counts["queued"] + counts["pages"] == 8


@pytest.mark.parametrize("killed", ["child", "what it was forked from"])
def test_a_page_whose_extraction_was_killed_still_arrives(killed, server, site, tmp_path):
    frontier = open_frontier(server)
    for n in range(4):
        site.on("a.test", f"/{n}", reply(200, article(f"survivor {n}")))
    put(frontier, "http://a.test/0")
    with worker(server, frontier, site, tmp_path / "log") as process:
        eventually(lambda: frontier.counts()["pages"] == 1)
        [template] = [pid for pid in children(process.pid) if b"forkserver" in cmdline(pid)]
        [extractor] = children(template)
        os.kill(extractor if killed == "child" else template, signal.SIGKILL)
        put(frontier, *(f"http://a.test/{n}" for n in range(1, 4)))
        eventually(lambda: frontier.counts()["pages"] == 4)
        eventually(lambda: not Path(f"/proc/{extractor}").exists())
        [template] = [pid for pid in children(process.pid) if b"forkserver" in cmdline(pid)]
        left = [template, *children(template)]
        process.kill()
        eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in left))
    assert {page.reason for page in fetched_pages(frontier).values()} == {""}


def cmdline(pid):
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def test_a_worker_whose_leases_are_too_short_for_its_requests_refuses(server, site, tmp_path):
    frontier = open_frontier(server)
    with worker(server, frontier, site, tmp_path / "log", "--lease-seconds", "20") as process:
        assert process.wait(60) == 2
    assert "lease_seconds = 20.0: must be above 29" in (tmp_path / "log").read_text()


@pytest.mark.long
def test_the_leases_of_a_killed_worker_are_fetched_by_another(server, site, tmp_path):
    frontier = open_frontier(server)
    stuck = [True]

    def hang(handler):
        while stuck[0]:
            time.sleep(0.05)
        reply(200, article("late"))(handler)

    site.on("a.test", "/page", hang)
    put(frontier, "http://a.test/page")
    options = ("--timeout", "60")
    with worker(server, frontier, site, tmp_path / "log", *options) as process:
        eventually(lambda: all(map(frontier.counts().get, ("leased", "robots"))))
        process.send_signal(signal.SIGKILL)
        process.wait()
    stuck[0] = False
    assert frontier.counts()["leased"] == 1
    expire_all(server, frontier)
    with worker(server, frontier, site, tmp_path / "log", *options):
        eventually(lambda: "http://a.test/page" in fetched_pages(frontier))
    assert frontier.counts()["failed:lease_expired"] == 1


@pytest.mark.long
def test_a_worker_outlives_a_killed_server(site, tmp_path):
    site.on("a.test", "*", reply(200, article("page")))
    site.on("a.test", "/robots.txt", reply(404))
    with running_server(tmp_path / "redis") as first:
        frontier = open_frontier(first, delay=0.1)
        put(frontier, *(f"http://a.test/{n}" for n in range(30)))
        with worker(first, frontier, site, tmp_path / "log"):
            eventually(lambda: frontier.counts()["pages"] >= 3)
            kill(first)
            killed = time.time()
            time.sleep(1)
            with running_server(tmp_path / "redis"):
                restarted = time.time()
                eventually(lambda: frontier.counts()["pages"] == 30)
                pages = fetched_pages(frontier)
    assert len(pages) == 30
    begun = sorted(hit.begun for hit in site.asked("a.test"))
    assert not [at for at in begun if killed + 0.1 < at < restarted + 2]


@pytest.mark.long
def test_a_worker_whose_server_stays_away_ends_with_the_reason(site, tmp_path):
    site.on("a.test", "/page", reply(200, article("page")))
    with running_server(tmp_path / "redis") as first:
        frontier = open_frontier(first)
        put(frontier, "http://a.test/page")
        with worker(first, frontier, site, tmp_path / "log") as process:
            eventually(lambda: frontier.counts()["pages"] == 1)
            kill(first)
            assert process.wait(120) == 2
    assert "does not answer" in (tmp_path / "log").read_text()
