"""A web that means harm: nothing forbidden is contacted, nothing crashes, and good pages still come."""

import gzip
import re
import socket
import struct
import time
from pathlib import Path

import brotli
import pytest
from backports import zstd

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


def reset(handler):
    handler.wfile.flush()
    time.sleep(0.1)
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


def reset_within_body(handler):
    handler.wfile.write(HEAD + b"Content-Length: 9000\r\n\r\n<p>cut")
    reset(handler)


def half_closed(*sent):
    """Our side will hear no more, and theirs stays open."""

    def answer(handler):
        handler.wfile.write(b"".join(sent))
        handler.wfile.flush()
        handler.connection.shutdown(socket.SHUT_WR)
        time.sleep(60)

    return answer


def forever(start, again, pause=0.001):
    """With a pause that leaves time to the other hosts, which are threads of this process."""

    def answer(handler):
        handler.wfile.write(start)
        while True:
            handler.wfile.write(again)
            time.sleep(pause)

    return answer


NOTHING = bytes(64 * MEGABYTE)
BOMB = gzip.compress(NOTHING)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
drip = forever(HEAD + b"\r\n", b".", 0.2)
HOSTILE = {
    "bomb": reply(200, BOMB, Content_Encoding="gzip"),
    "double-bomb": reply(200, gzip.compress(BOMB), Content_Encoding="gzip, gzip"),
    "brotli-bomb": reply(200, brotli.compress(NOTHING, quality=3), Content_Encoding="br"),
    "zstd-bomb": reply(200, zstd.compress(NOTHING), Content_Encoding="zstd"),
    "many-encodings": reply(200, BOMB, Content_Encoding="gzip," * 1000 + "gzip"),
    "broken-gzip": reply(200, b"\x1f\x8bnot gzip at all", Content_Encoding="gzip"),
    "endless": forever(HEAD + b"\r\n", b"<p>more</p>" * 10_000),
    "endless-chunks": forever(CHUNKED, b"%x\r\n%s\r\n" % (1 << 16, b"x" * (1 << 16))),
    "tiny-chunks": forever(CHUNKED, b"1\r\nx\r\n" * 10_000),
    "endless-chunk-head": forever(CHUNKED + b"1", b";x=" + b"y" * (1 << 16)),
    "endless-trailers": forever(CHUNKED + b"1\r\nx\r\n0\r\n", b"X-Trailer: y\r\n" * 1000),
    "endless-headers": forever(HEAD, b"X-More: y\r\n" * 1000),
    "endless-header": forever(HEAD + b"X-Long: ", b"y" * (1 << 16)),
    "endless-status": forever(b"HTTP/1.1 200 ", b"OK" * (1 << 15)),
    "endless-interim": forever(b"", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 1000),
    "drip-headers": forever(HEAD + b"X-Slow: ", b"y", 0.2),
    "drip-interim": forever(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.2),
    "drip-chunks": forever(CHUNKED, b"1\r\nx\r\n", 0.2),
    "silent": raw(pause=60),
    "half-closed": half_closed(),
    "half-closed-headers": half_closed(HEAD),
    "half-closed-body": half_closed(HEAD, b"Content-Length: 9000\r\n\r\n<p>cut"),
    "half-closed-chunks": half_closed(CHUNKED, b"ff\r\n<p>cut"),
    "announced": raw(HEAD + b"Content-Length: 99999999999\r\n\r\nx"),
    "drip": drip,
    "huge-header": raw(b"HTTP/1.1 200 OK\r\nX-Long: " + b"a" * MEGABYTE + b"\r\n\r\n"),
    "many-headers": raw(HEAD + b"".join(b"X-%d: y\r\n" % n for n in range(50_000)) + b"\r\n"),
    "garbage": raw(b"\x00\xff" * 500),
    "nothing": raw(),
    "reset": reset,
    "reset-body": reset_within_body,
    "second-answer": raw(HEAD + b"Content-Length: 1\r\n\r\nx" + HEAD + b"Content-Length: 4\r\n\r\nfalse"),
    "bad-length": raw(HEAD + b"Content-Length: -5\r\n\r\nx"),
    "bad-chunks": raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nxx"),
    "bad-charset": reply(200, article("bad charset"), Content_Type="text/html; charset=no-such-charset"),
    "not-utf8": reply(200, b"<p>" + bytes(range(128, 256)) * 40, Content_Type="text/html; charset=utf-8"),
    "nul-bytes": reply(200, b"\x00<html>\x00<p>" + b"\x00word " * 500),
    "deep": reply(200, "<div>" * 60_000 + "deep"),
    "bad-header": raw(HEAD + b"X-Bytes: \xff\xfe\x80\r\nETag: \xe9\r\nContent-Length: 0\r\n\r\n"),
    "million-links": reply(200, "".join(f'<a href="/{n}">{n}</a>' for n in range(1_000_000))),
    "packed-links": reply(200, gzip.compress(b'<a href="/a">a</a>' * 200_000), Content_Encoding="gzip"),
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


def peak_megabytes(pid):
    """The most memory that a process ever held."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) / 1024


@pytest.fixture(scope="module")
def survived(server, tmp_path_factory):
    """One worker that met them all, and good pages afterwards."""
    site = Site("127.8.0.1")
    frontier = open_frontier(server, attempts=1, backoff=5, longest_delay=1)
    for name, answer in HOSTILE.items():
        site.on(f"{name}.test", "/page", answer)
    for name, answer in ROBOTS.items():
        site.on(f"{name}.test", "/robots.txt", answer)
        site.on(f"{name}.test", "/page", reply(200, article(name)))
    site.on("good.test", "*", reply(200, article("good")))
    site.on("good.test", "/robots.txt", reply(404))
    frontier.put(Discovered(f"http://{host}/page", 0.9) for host in site.hosts if host != "good.test")
    log = tmp_path_factory.mktemp("hostile") / "log"
    options = ("--timeout", "6")
    with worker(server, frontier, site, log, *options) as process:
        eventually(lambda: len(outcomes(frontier)) >= len(HOSTILE) + 3, 120)
        frontier.put([Discovered("http://good.test/after", 0.1)])
        eventually(lambda: "http://good.test/after" in fetched_pages(frontier))
        eventually(lambda: not frontier.counts()["leased"])
        peak = peak_megabytes(process.pid)
        assert process.poll() is None
        process.terminate()
        assert process.wait(60) == 0
    yield site, frontier, log.read_text(), peak
    site.stop()


def outcomes(frontier):
    named = {page.url: page.reason or "text" for page in fetched_pages(frontier).values()}
    named |= {url: f"dead: {reason}" for url, reason in frontier.dead_letters()}
    return {url.removeprefix("http://").removesuffix(".test/page"): reason for url, reason in named.items()}


ENDS = {
    "text": "bad-charset links bad-links",
    "pre_short": "not-utf8 bad-header bad-length bad-chunks second-answer endless-trailers",
    "pre_stop_words": "nul-bytes",
    "redirect": "bad-location",
    "redirect_to_itself": "loop",
    "too_large": "bomb double-bomb brotli-bomb zstd-bomb endless endless-chunks announced million-links",
    "too_deep": "deep",
    "dead: timeout": "drip drip-headers drip-interim drip-chunks silent",
    "dead: closed": "nothing half-closed half-closed-headers",
    "dead: truncated": "reset-body half-closed-body half-closed-chunks",
    "dead: reset": "reset",
    "dead: status_429": "retry-power retry-forever retry-year",
    "dead: bad_response": "broken-gzip many-encodings huge-header many-headers garbage endless-headers "
    "endless-header endless-status endless-interim",
}
# Whichever limit is met first.
EITHER = {
    "tiny-chunks": {"dead: truncated", "dead: timeout"},
    "endless-chunk-head": {"too_large", "dead: timeout"},
    "packed-links": {"pre_short", "extract_timeout"},
}


def test_each_came_to_a_counted_end(survived):
    found = outcomes(survived[1])
    ends = {name: end for end, names in ENDS.items() for name in names.split()}
    assert ends.keys() | EITHER.keys() == HOSTILE.keys()
    assert {name: found[name] for name in ends} == ends
    assert {name: found[name] for name, allowed in EITHER.items() if found[name] not in allowed} == {}


def test_memory_stayed_flat(survived):
    """What a worker needs at rest, and each of the 16 in flight its body as it came and decoded."""
    assert survived[3] < 100 + 16 * 2 * 4


def test_hostile_robots_allow_nothing_they_should_not(survived):
    site, frontier, *_ = survived
    asked = {name for name in ROBOTS if site.asked(f"{name}.test", "/page")}
    assert asked == {"robots-garbage", "robots-wild", "robots-loop", "robots-bomb"}
    assert frontier.counts()["skipped:robots"] == 1


def test_links_are_bounded_and_usable(survived):
    _, frontier, *_ = survived
    pages = fetched_pages(frontier)
    assert len(pages["http://links.test/page"].links) == 2000
    assert all(link.url.startswith("http") for page in pages.values() for link in page.links)


def test_what_was_given_up_counts_as_downloaded(survived):
    _, frontier, *_ = survived
    assert frontier.counts()["bytes"] >= 4 * 4e6


def test_no_callback_of_the_worker_failed(survived):
    assert "Traceback" not in survived[2]
