"""A web that means harm: nothing forbidden is contacted, nothing crashes, and good pages still come."""

import gzip
import socket
import struct
import time

import pytest

from crawler.frontier import Discovered
from tests.conftest import Site, article, eventually, fetched_pages, open_frontier, reply, worker

MEGABYTE = 1 << 20


def raw(*chunks, pause=0.0):
    """Bytes as they are, with or without HTTP around them."""

    def answer(handler):
        for chunk in chunks:
            handler.wfile.write(chunk)
            time.sleep(pause)
        handler.close_connection = True

    return answer


def reset_within_body(handler):
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 9000\r\n\r\n<p>cut")
    handler.wfile.flush()
    time.sleep(0.1)
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


def endless(handler):
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n")
    while True:
        handler.wfile.write(b"<p>more</p>" * 10_000)


def drip(handler):
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n")
    while True:
        handler.wfile.write(b".")
        time.sleep(0.2)


BOMB = gzip.compress(bytes(64 * MEGABYTE))
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n"
HOSTILE = {
    "bomb": reply(200, BOMB, Content_Encoding="gzip"),
    "double-bomb": reply(200, gzip.compress(BOMB), Content_Encoding="gzip, gzip"),
    "broken-gzip": reply(200, b"\x1f\x8bnot gzip at all", Content_Encoding="gzip"),
    "endless": endless,
    "announced": raw(HEAD + b"Content-Length: 99999999999\r\n\r\nx"),
    "drip": drip,
    "huge-header": raw(b"HTTP/1.1 200 OK\r\nX-Long: " + b"a" * MEGABYTE + b"\r\n\r\n"),
    "many-headers": raw(HEAD + b"".join(b"X-%d: y\r\n" % n for n in range(50_000)) + b"\r\n"),
    "garbage": raw(b"\x00\xff" * 500),
    "nothing": raw(),
    "reset": reset_within_body,
    "bad-length": raw(HEAD + b"Content-Length: -5\r\n\r\nx"),
    "bad-chunks": raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nxx"),
    "bad-charset": reply(200, article("bad charset"), Content_Type="text/html; charset=no-such-charset"),
    "not-utf8": reply(200, b"<p>" + bytes(range(128, 256)) * 40, Content_Type="text/html; charset=utf-8"),
    "nul-bytes": reply(200, b"\x00<html>\x00<p>" + b"\x00word " * 500),
    "deep": reply(200, "<div>" * 60_000 + "deep"),
    "links": reply(200, article("links") + "".join(f'<a href="/x{n}">{n}</a>' for n in range(20_000))),
    "bad-links": reply(200, article("bad links", "http://[", "//", "http://a:99999/", "js:x", "\ud83d")
                       .encode("utf-8", "surrogatepass")),
    "loop": reply(302, Location="/page"),
    "bad-location": reply(302, Location="http://[::1"),
    "retry-power": raw(b"HTTP/1.1 429 Busy\r\nRetry-After: \xc2\xb2\r\nContent-Length: 0\r\n\r\n"),
    "retry-forever": reply(429, Retry_After="9" * 6000),
    "retry-year": reply(429, Retry_After="Fri, 31 Dec 99999 23:59:59 GMT"),
}  # fmt: skip
ROBOTS = {
    "robots-10mb": reply(200, "User-agent: *\nDisallow: /\n" + "#" * 10 * MEGABYTE),
    "robots-garbage": reply(200, bytes(range(256)) * 4000),
    "robots-bomb": reply(200, BOMB, Content_Encoding="gzip"),
    "robots-wild": reply(200, "User-agent: *\nDisallow: /" + "*a" * 2000 + "b$\nCrawl-delay: 1e400\n"),
    "robots-loop": reply(302, Location="/robots.txt"),
    "robots-drip": drip,
}


@pytest.fixture(scope="module")
def survived(server, tmp_path_factory):
    """One worker that met them all, and good pages afterwards."""
    site = Site()
    frontier = open_frontier(server)
    for name, answer in HOSTILE.items():
        site.on(f"{name}.test", "/page", answer)
    for name, answer in ROBOTS.items():
        site.on(f"{name}.test", "/robots.txt", answer)
        site.on(f"{name}.test", "/page", reply(200, article(name)))
    site.on("good.test", "*", reply(200, article("good")))
    site.on("good.test", "/robots.txt", reply(404))
    frontier.put(Discovered(f"http://{host}/page", 0.9) for host in site.hosts if host != "good.test")
    log = tmp_path_factory.mktemp("hostile") / "log"
    options = ("--attempts", "1", "--timeout", "2", "--backoff", "3600", "--longest-delay", "1")
    with worker(server, frontier, site, log, *options) as process:
        eventually(
            lambda: len(fetched_pages(frontier)) + len(frontier.dead_letters()) >= len(HOSTILE) + 3, 45
        )
        frontier.put([Discovered("http://good.test/after", 0.1)])
        eventually(lambda: "http://good.test/after" in fetched_pages(frontier))
        eventually(lambda: not frontier.counts()["leased"])
        assert process.poll() is None
        process.terminate()
        assert process.wait(60) == 0
    yield site, frontier, log.read_text()
    site.stop()


def outcomes(frontier):
    named = {page.url: page.reason or "text" for page in fetched_pages(frontier).values()}
    named |= {url: f"dead: {reason}" for url, reason in frontier.dead_letters()}
    return {url.removeprefix("http://").removesuffix(".test/page"): reason for url, reason in named.items()}


def test_each_came_to_a_counted_end(survived):
    _, frontier, _ = survived
    found = outcomes(frontier)
    assert {name: reason for name, reason in found.items() if name in HOSTILE} == {
        "bomb": "too_large",
        "double-bomb": "too_large",
        "broken-gzip": "dead: bad_response",
        "endless": "too_large",
        "announced": "too_large",
        "drip": "dead: timeout",
        "huge-header": "dead: bad_response",
        "many-headers": "dead: bad_response",
        "garbage": "dead: bad_response",
        "nothing": "dead: bad_response",
        "reset": "dead: bad_response",
        "bad-length": "dead: bad_response",
        "bad-chunks": "dead: bad_response",
        "bad-charset": "text",
        "not-utf8": found["not-utf8"],
        "nul-bytes": found["nul-bytes"],
        "deep": found["deep"],
        "links": "text",
        "bad-links": "text",
        "loop": "redirect",
        "bad-location": "redirect",
        "retry-power": "dead: status_429",
        "retry-forever": "dead: status_429",
        "retry-year": "dead: status_429",
    }


def test_hostile_robots_allow_nothing_they_should_not(survived):
    site, frontier, _ = survived
    asked = {name for name in ROBOTS if site.asked(f"{name}.test", "/page")}
    assert asked == {"robots-garbage", "robots-wild", "robots-loop"}
    assert frontier.counts()["failed:too_large"] == 2


def test_links_are_bounded_and_usable(survived):
    _, frontier, _ = survived
    pages = fetched_pages(frontier)
    assert len(pages["http://links.test/page"].links) == 2000
    assert all(link.url.startswith("http") for page in pages.values() for link in page.links)


def test_what_was_given_up_counts_as_downloaded(survived):
    _, frontier, _ = survived
    assert frontier.counts()["bytes"] >= 4 * 4e6


def test_no_callback_of_the_worker_failed(survived):
    assert "Traceback" not in survived[2]


@pytest.mark.parametrize("where", ["redirect", "link", "robots", "name", "literal", "metadata"])
def test_nothing_forbidden_is_contacted(server, site, forbidden, tmp_path, where):
    frontier = open_frontier(server)
    target = f"http://127.0.0.1:{forbidden.port}/secret"
    pages = {"/page": reply(200, article("page")), "/robots.txt": reply(404)}
    urls = ["http://a.test/page"]
    options = []
    match where:
        case "redirect":
            pages["/page"] = reply(302, Location=target)
            urls.append(target)
        case "link":
            pages["/page"] = reply(200, article("page", target))
            urls.append(target)
        case "robots":
            pages["/robots.txt"] = reply(302, Location=target)
        case "name":
            options = ["--resolve", f"inner.test=127.0.0.1:{forbidden.port}"]
            urls.append("http://inner.test/page")
        case "literal":
            urls += [f"http://[::ffff:127.0.0.1]:{forbidden.port}/", f"http://localhost:{forbidden.port}/"]
        case "metadata":
            urls.append("http://169.254.169.254/latest/meta-data")
    for path, answer in pages.items():
        site.on("a.test", path, answer)
    frontier.put(Discovered(url, 0.5) for url in urls)
    proxy = f"http://127.0.0.1:{forbidden.port}"
    names = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
    environment = dict.fromkeys((*names, *map(str.lower, names)), proxy)
    with worker(server, frontier, site, tmp_path / "log", *options, **environment):
        eventually(frontier.finished)
    assert forbidden.connections == 0
    assert frontier.counts()["skipped:forbidden_network"] == len(urls) - 1
    assert frontier.counts()["pages"] == 1
