"""No answer is lost for a part of it that nobody needs; a WARC file is read as the server was."""

import gzip
import io
import socket
import struct
import threading
import time
import zlib
from contextlib import suppress

import brotli
import pytest
from backports import zstd

from crawler.archives.warc import WarcReader
from crawler.frontier import Discovered
from crawler.message import Answer, MessageError
from ranker.replay.web import read_warc
from tests.conftest import Site, article, command, eventually, fetched_pages, open_frontier, reply, worker

OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n"
# Without an end of its own: only what frames it can tell that it was cut.
OPEN = b"<p>" + b" ".join(
    b"The part number %d of the machine is explained here in words." % n for n in range(40)
)


def page(name):
    return article(name, "/next").encode()


def chunks(body, extension=b"", last=b"0\r\n\r\n"):
    return b"%x%s\r\n%s\r\n" % (len(body), extension, body) + last


def damaged(packed):
    """With a checksum that is not that of what is packed."""
    return packed[:-8] + bytes(8)


def read_whole(name):
    """Answers with a page, from which all of it can be read."""
    body = page(name)
    packed = gzip.compress(body)
    chunked, lying = OK + b"Transfer-Encoding: chunked\r\n", OK + b"Content-Encoding: gzip\r\n\r\n"
    longer = page(f"{name} of naïve café façades")
    return {
        "unframed": OK + b"\r\n" + body,
        "characters": OK + b"Content-Length: %d\r\n\r\n" % len(longer.decode()) + longer,
        "more": OK + b"Content-Length: %d\r\n\r\n" % len(body) + body + b"<!-- cached -->" * 9,
        "length-twice": OK + b"Content-Length: %d\r\n" % len(body) * 2 + b"\r\n" + body,
        "length-list": OK + b"Content-Length: %d, %d\r\n\r\n" % (len(body), len(body)) + body,
        "length-too": chunked + b"Content-Length: 5\r\n\r\n" + chunks(body),
        "no-length": OK + b"Content-Length: unknown\r\n\r\n" + body,
        "lengths-and-chunks": chunked + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n" + chunks(body),
        "no-colon": b"HTTP/1.1 200 OK\r\nno header at all\r\n: nor this\r\n" + OK[17:] + b"\r\n" + body,
        "space": b"HTTP/1.1 200 OK\r\nContent-Type : text/html\r\nX-Folded: 1\r\n\t2\r\n\r\n" + body,
        "long": OK + b"Content-Security-Policy: " + b"x" * 200_000 + b"\r\n\r\n" + body,
        "many": OK + b"Link: </style.css>; rel=preload\r\n" * 900 + b"\r\n" + body,
        "feeds": OK.replace(b"\r", b"") + b"\n" + body,
        "no-words": b"HTTP/1.1 200\r\n\r\n" + body,
        "early": b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + OK + b"\r\n" + body,
        "blank-first": b"\r\n" + OK + b"\r\n" + body,
        "extension": chunked + b"\r\n" + chunks(body[:99], b";a=b ; c", b"") + chunks(body[99:]),
        "old-chunks": (chunked + b"\r\n").replace(b"1.1", b"1.0", 1) + chunks(body),
        "trailers": chunked + b"\r\n" + chunks(body) + b"X-Trailer\r\n" * 99,
        "no-chunks": chunked + b"\r\n" + body,
        "no-last-chunk": chunked + b"\r\n" + chunks(body, last=b""),
        "short": OK + b"Content-Length: 9999\r\n\r\n" + body + b"<!-- cached, and cut in the mi",
        "short-packed": OK + b"Content-Encoding: gzip\r\nContent-Length: 9999\r\n\r\n" + packed,
        "plain": lying + body,
        "none": OK + b"Content-Encoding: none\r\n\r\n" + body,
        "charset": OK + b"Content-Encoding: utf-8, gzip\r\n\r\n" + packed,
        "members": lying + gzip.compress(body[:300]) + gzip.compress(body[300:]),
        "cut-sum": lying + packed[:-8],
        "bad-sum": lying + damaged(packed),
        "junk-behind": lying + packed + b"<!-- cached -->",
        "zlib": OK + b"Content-Encoding: deflate\r\n\r\n" + zlib.compress(body),
        "raw-deflate": OK + b"Content-Encoding: deflate\r\n\r\n" + zlib.compress(body)[2:],
        "gzip-as-deflate": OK + b"Content-Encoding: deflate\r\n\r\n" + packed,
        "brotli": OK + b"Content-Encoding: br\r\n\r\n" + brotli.compress(body),
        "plain-brotli": OK + b"Content-Encoding: br\r\n\r\n" + body,
        "zstd": OK + b"Content-Encoding: zstd\r\n\r\n" + zstd.compress(body[:99]) + zstd.compress(body[99:]),
        "packed-on-the-way": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + chunks(packed),
        "types": b"HTTP/1.1 200 OK\r\nContent-Type: text/html, */*\r\nContent-Type: html\r\n\r\n" + body,
        "no-type": b"HTTP/1.1 200 OK\r\n\r\n" + body,
        "elsewhere": OK.replace(b"200 OK", b"203 Non-Authoritative Information") + b"\r\n" + body,
        "text": b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nThe text " + OPEN,
    }  # fmt: skip


# Behind a status line and what it needs: what is wrong with the rest.
NOT_NEEDED = {
    "packed": b"Content-Encoding: gzip\r\nContent-Length: 5\r\n\r\nmoved",
    "nothing-more": b"Content-Length: 0\r\n\r\nmoved",
    "more": b"Content-Length: 3\r\n\r\nmoved<!-- cached -->",
    "short": b"Content-Length: 99\r\n\r\nmoved",
    "lengths": b"Content-Length: 3\r\nContent-Length: 5\r\n\r\nmoved",
    "large": b"Content-Length: 99999999999\r\n\r\nmoved",
    "chunks": b"Transfer-Encoding: chunked\r\n\r\n3\r\nmov\r\nzz\r\n",
    "no-chunks": b"Transfer-Encoding: chunked\r\n\r\nmoved",
    "codings": b"Content-Encoding: gzip, gzip, gzip, gzip, br\r\n\r\nmoved",
    "no-colon": b"moved\r\n: to there\r\nContent-Length: 0\r\n\r\n",
    "long": b"Link: " + b"x" * 200_000 + b"\r\nContent-Length: 0\r\n\r\n",
    "too-long": b"Link: " + b"x" * 400_000 + b"\r\nContent-Length: 0\r\n\r\n",
    "no-end": b"Content-Le",
    "twice": b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nmoved",
    "silent": b"Content-Length: 99\r\n\r\nmo",
}
LOST = {
    "cut": (OK + b"Content-Length: 9999\r\n\r\n" + OPEN, "truncated"),
    "no-last-chunk": (OK + b"Transfer-Encoding: chunked\r\n\r\n" + chunks(OPEN, last=b""), "truncated"),
    "bad-chunk": (OK + b"Transfer-Encoding: chunked\r\n\r\n" + chunks(OPEN, last=b"zz\r\n"), "truncated"),
    "lengths": (OK + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n" + OPEN, "bad_response"),
    "not-packed": (OK + b"Content-Encoding: gzip\r\n\r\n" + bytes(range(256)), "bad_response"),
    "no-end": (OK, "closed"),
    "no-http": (b"SSH-2.0-OpenSSH_9.2\r\n", "bad_response"),
}
MOVED = b"HTTP/1.1 302 Found\r\nLocation: /caf\xc3\xa9\r\n"


def raw(data, *, waits=False):
    def answer(handler):
        handler.before_last_byte()
        handler.wfile.write(data)
        handler.wfile.flush()
        if waits:
            time.sleep(6)
        handler.close_connection = True

    return answer


@pytest.fixture(scope="module")
def answered(server, tmp_path_factory):
    """One worker that met all of these, its pages, and what its WARC files hold."""
    folder = tmp_path_factory.mktemp("answers")
    site, urls = Site(), []

    def serve(host, path, data, *, waits=False):
        site.on(host, path, raw(data, waits=waits))
        if path != "/robots.txt":
            urls.append(f"http://{host}{path}")

    whole = {name: data[name] for name in read_whole("") if (data := read_whole(name))}
    for name, data in whole.items():
        serve(f"{name}.whole.test", "/page", data)
    for name, rest in NOT_NEEDED.items():
        waits = name == "silent"
        serve(f"{name}.moved.test", "/page", MOVED + rest, waits=waits)
        serve(f"{name}.missing.test", "/page", b"HTTP/1.1 404 Not Found\r\n" + rest, waits=waits)
        serve(f"{name}.robots.test", "/robots.txt", b"HTTP/1.1 403 Forbidden\r\n" + rest, waits=waits)
        serve(f"{name}.robots.test", "/page", whole["unframed"])
    serve("moved.robots.test", "/robots.txt", MOVED + NOT_NEEDED["packed"])
    site.on("moved.robots.test", "/caf%C3%A9", reply(200, "User-agent: *\nDisallow: /page"))
    serve("moved.robots.test", "/page", whole["unframed"])
    serve(
        "cookie.itself.test",
        "/page",
        MOVED.replace(b"/caf\xc3\xa9", b"#seen") + b"Set-Cookie: seen=1\r\n\r\n",
    )
    for name, (data, _) in LOST.items():
        serve(f"{name}.lost.test", "/page", data)
    frontier = open_frontier(server, attempts=1, backoff=0.1)
    frontier.put(Discovered(url, 0.5) for url in urls)
    options = ("--timeout", "4", "--no-prescreen", "--warc", "--data", str(folder))
    with worker(server, frontier, site, folder / "log", *options) as process:
        eventually(frontier.finished)
        process.terminate()
        assert process.wait(60) == 0
    files = list((folder / "warc").glob("*.warc.gz"))
    yield fetched_pages(frontier), dict(frontier.dead_letters()), site, files
    site.stop()


def named(pages, kind):
    ending = f".{kind}.test/page"
    return {
        url.removeprefix("http://").removesuffix(ending): found
        for url, found in pages.items()
        if url.endswith(ending)
    }


def test_what_can_be_read_of_a_page_is_read(answered):
    pages = named(answered[0], "whole")
    assert pages.keys() == read_whole("").keys()
    assert {name: found.reason for name, found in pages.items() if found.reason} == {}
    assert {name for name, found in pages.items() if f"The {name}" not in found.text} == set()
    assert {name for name, found in pages.items() if "number 11 of" not in found.text} == set()


def test_a_redirect_and_a_missing_page_need_no_body(answered):
    moved, missing = named(answered[0], "moved"), named(answered[0], "missing")
    assert moved.keys() == missing.keys() == NOT_NEEDED.keys()
    assert {found.reason for found in missing.values()} == {"status_404"}
    targets = {name: [link.url for link in found.links] for name, found in moved.items()}
    assert targets == {name: [f"http://{name}.moved.test/caf%C3%A9"] for name in NOT_NEEDED}


def test_a_redirect_to_itself_is_counted_as_that_and_leads_nowhere(answered):
    [found] = named(answered[0], "itself").values()
    assert (found.reason, found.links) == ("redirect_to_itself", ())


def test_a_robots_txt_that_is_refused_allows_all_whatever_comes_with_it(answered):
    pages, dead, site, _ = answered
    assert named(pages, "robots").keys() == NOT_NEEDED.keys()
    # What one has moved to disallows its page.
    assert named(dead, "robots") == {"moved": "robots"}
    assert not site.asked("moved.robots.test", "/page")


def test_what_cannot_be_read_is_lost_under_its_name(answered):
    dead = {url: reason for url, reason in answered[1].items() if ".lost.test" in url}
    assert named(dead, "lost") == {name: reason for name, (_, reason) in LOST.items()}


def test_a_warc_file_is_read_back_as_it_was_read_live(answered):
    pages, _, _, files = answered
    live = {
        url: len(found.text) * 1000 + len({link.url for link in found.links})
        for url, found in pages.items()
        if found.reason in ("", "redirect")
    }
    web = read_warc(files, "text_chars * 1000 + links")
    back = dict(zip(web.urls, web.worth.tolist(), strict=True))
    assert {url: back.get(url) for url in live} == live
    reader = [WarcReader(io.BytesIO(path.read_bytes())) for path in files]
    statuses = {found.url: found.status for each in reader for found in each}
    assert {url: statuses.get(url) for url in pages} == {url: found.status for url, found in pages.items()}


def read(data, step):
    answer, body = Answer(), b""
    with suppress(MessageError):
        for start in range(0, len(data), step):
            body += answer.feed(data[start : start + step])
        body += answer.end()
    return answer.head, body, answer.whole


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_it_is_one_answer_in_whatever_pieces_it_comes(step):
    odd = [*read_whole("x").values(), *(data for data, _ in LOST.values())]
    odd += [MOVED + rest for rest in NOT_NEEDED.values()]
    for data in odd:
        if len(data) < 10_000:
            assert read(data, step) == read(data, len(data))


def test_what_is_behind_an_answer_is_not_taken_for_the_next():
    answer = Answer()
    assert answer.feed(OK + b"Content-Length: 2\r\n\r\nab") == b"ab"
    assert (answer.over, answer.persistent) == (True, True)
    assert answer.feed(OK) == b""
    assert not answer.persistent


@pytest.fixture
def first_addresses():
    """Where nobody answers at a port that is open at 127.8.0.4: (site, its ways of not answering)."""
    site, held = Site("127.8.0.4"), []
    ways = ("refuses", "hangs", "closes", "resets")
    first = {way: socket.socket() for way in ways}

    def serve(way):
        with suppress(OSError):
            while True:
                connection, _ = first[way].accept()
                connection.recv(1000)
                if way == "resets":
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.close()

    for n, (way, listener) in enumerate(first.items()):
        listener.bind((f"127.8.1.{n}", site.port))
        if way == "hangs":
            listener.listen(0)
            for _ in range(4):  # fills its queue
                held.append(socket.socket())
                held[-1].setblocking(False)
                held[-1].connect_ex((f"127.8.1.{n}", site.port))
        elif way != "refuses":
            listener.listen()
            threading.Thread(target=serve, args=(way,), daemon=True).start()
    yield site, ways
    site.stop()
    for listener in first.values():
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
    for connection in held:
        connection.close()


def test_the_next_address_is_asked_if_the_first_gives_no_answer(server, tmp_path, first_addresses):
    site, ways = first_addresses
    (tmp_path / "sitecustomize.py").write_text(
        f"import socket\nold, ways = socket.getaddrinfo, {ways}\n"
        "def both(host, port, *args, **named):\n"
        "    if host.removesuffix('.test') not in ways:\n        return old(host, port, *args, **named)\n"
        "    first = ways.index(host.removesuffix('.test'))\n"
        "    return [(2, 1, 6, '', (name, port)) for name in (f'127.8.1.{first}', '127.8.0.4')]\n"
        "socket.getaddrinfo = both\n"
    )
    for way in ways:
        site.on(f"{way}.test", "/page", reply(200, article(way)))
    frontier = open_frontier(server, backoff=0.1)
    frontier.put(Discovered(f"http://{way}.test:{site.port}/page", 0.5) for way in ways)
    crawl = frontier.prefixes[0].split("{")[1].split("/")[0]
    options = ("--redis-url", server.url, "--crawl-id", crawl, "--allowed-networks", "127.8.0.0/16")
    with command(tmp_path / "log", "worker", *options, "--timeout", "8", PYTHONPATH=str(tmp_path)):
        eventually(frontier.finished)
    assert [found.status for found in fetched_pages(frontier).values()] == [200] * 4
    # What was never sent is no failed connection, for another address was there.
    counts = frontier.counts()
    assert (counts["failed_connections"], counts["failed:closed"], counts["failed:reset"]) == (0, 1, 1)
    assert counts["fetched"] == len(site.hits) + 2 == 4 * 2 + 2
