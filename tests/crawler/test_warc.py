"""What was fetched, as it came: readable by other people's tools, whenever the writer was killed."""

import gzip
import io
import os
import resource
import signal
import subprocess
import sys
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path

import pytest
from warcio.archiveiterator import ArchiveIterator
from warcio.checker import Checker

from crawler.archives.warc import Exchange, WarcWriter, recover
from crawler.frontier import Discovered
from tests.conftest import article, eventually, fetched_pages, open_frontier, reply, worker


def exchange(n=0, body=b"<p>body</p>"):
    return Exchange(
        url=f"http://a.test/{n}",
        address="192.0.2.1",
        request_line=b"GET /%d HTTP/1.1" % n,
        request_headers=((b"Host", b"a.test"),),
        status_line=b"HTTP/1.1 200 OK",
        headers=((b"X-Bytes", b"\xff\xe9"), (b"Content-Length", b"%d" % len(body))),
        body=body,
    )


def records(path):
    """(type, URL, HTTP head, body as it was sent) of each record."""
    with path.open("rb") as file:
        return [
            (
                record.rec_type,
                record.rec_headers.get_header("WARC-Target-URI"),
                record.http_headers,
                record.raw_stream.read(),
            )
            for record in ArchiveIterator(file, check_digests="raise")
        ]


def bodies(folder):
    return {
        url: body
        for path in sorted(folder.glob("*.warc.gz"))
        for kind, url, _, body in records(path)
        if kind == "response"
    }


class CheckArguments:
    verbose = False

    def __init__(self, folder):
        self.inputs = [str(path) for path in sorted(folder.glob("*.warc.gz"))]


def assert_valid(folder):
    arguments = CheckArguments(folder)
    assert arguments.inputs
    checker = Checker(arguments)
    checker.process_all()
    assert checker.exit_value == 0


def test_a_file_holds_what_was_exchanged(tmp_path):
    writer = WarcWriter(tmp_path, "lab (+https://lab.example)")
    writer.write(exchange(1, bytes(range(256)) * 10))
    assert not list(tmp_path.glob("*.gz"))
    writer.close()
    [path] = tmp_path.iterdir()
    info, response, request = records(path)
    assert (info[0], response[0], request[0]) == ("warcinfo", "response", "request")
    assert b"lab (+https://lab.example)" in info[3]
    assert response[2].get_statuscode() == "200"
    assert response[2].get_header("X-Bytes") == "\xff\xe9"
    assert response[3] == bytes(range(256)) * 10
    assert (request[1], request[2].protocol, request[2].get_header("Host")) == (
        "http://a.test/1", "GET", "a.test",
    )  # fmt: skip
    assert_valid(tmp_path)


def test_a_full_file_is_followed_by_the_next(tmp_path):
    writer = WarcWriter(tmp_path, "lab", 4000)
    for n in range(9):
        writer.write(exchange(n, os.urandom(3000)))
    writer.close()
    assert len(list(tmp_path.glob("*.warc.gz"))) >= 5
    assert len(bodies(tmp_path)) == 9
    assert_valid(tmp_path)


def test_wherever_a_file_is_cut_its_whole_records_are_kept(tmp_path):
    writer = WarcWriter(tmp_path, "lab")
    for n in range(4):
        writer.write(exchange(n, os.urandom(100)))
    writer.close()
    [path] = tmp_path.iterdir()
    data, whole = path.read_bytes(), records(path)
    ends = list(accumulate(map(len, _members(data))))
    for length in range(0, len(data), 97):
        folder = tmp_path / str(length)
        folder.mkdir()
        (folder / "cut.warc.gz.open").write_bytes(data[:length])
        recover(folder)
        kept = records(folder / "cut.warc.gz") if (folder / "cut.warc.gz").exists() else []
        assert len(kept) == sum(end <= length for end in ends)
        assert [record[3] for record in kept] == [record[3] for record in whole[: len(kept)]]
        assert not (folder / "cut.warc.gz.open").exists()


def _members(data):
    """The gzip members that `data` consists of, found the slow way."""
    starts = [at for at in range(len(data)) if data[at : at + 3] == b"\x1f\x8b\x08"] + [len(data)]
    members, begin = [], 0
    for end in starts[1:]:
        try:
            gzip.GzipFile(fileobj=io.BytesIO(data[begin:end])).read()
        except (EOFError, OSError):
            continue
        members.append(data[begin:end])
        begin = end
    return members


@contextmanager
def room_for(written, more):
    """Within, no file of this process can grow beyond `more` bytes above `written`."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (written.stat().st_size + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_cannot_be_written_is_cut_back_to_the_record_before(tmp_path):
    """Also right at the beginning, and however often; then writing goes on."""
    writer = WarcWriter(tmp_path, "lab")
    empty = tmp_path / "empty"
    empty.touch()
    with room_for(empty, 100), pytest.raises(OSError, match="too large"):
        writer.write(exchange(0))
    empty.unlink()
    [path] = tmp_path.iterdir()
    for n in range(1, 4):
        writer.write(exchange(n, os.urandom(100)))
        whole = path.stat().st_size
        for more in (0, 1, 700, 2000):
            with room_for(path, more), pytest.raises(OSError, match="too large"):
                writer.write(exchange(9, os.urandom(3000)))
            assert path.stat().st_size == whole
    writer.close()
    assert [url[-1] for url in bodies(tmp_path)] == ["1", "2", "3"]
    assert_valid(tmp_path)


def test_a_file_in_which_nothing_could_be_written_leaves_none(tmp_path):
    writer = WarcWriter(tmp_path / "warc", "lab")
    empty = tmp_path / "empty"
    empty.touch()
    with room_for(empty, 100), pytest.raises(OSError, match="too large"):
        writer.write(exchange())
    writer.close()
    assert list((tmp_path / "warc").iterdir()) == []


def test_of_a_file_that_was_torn_within_nothing_is_thrown_away(tmp_path, caplog):
    writer = WarcWriter(tmp_path, "lab")
    for n in range(3):
        writer.write(exchange(n, os.urandom(100)))
    writer.close()
    [path] = tmp_path.iterdir()
    data = path.read_bytes()
    info, first, *_ = _members(data)
    path.unlink()
    torn = data[: len(info + first) - 20] + data[len(info + first) :]
    (tmp_path / "old.warc.gz.open").write_bytes(torn)
    recover(tmp_path)
    assert (tmp_path / "old.warc.gz").read_bytes() == info
    assert (tmp_path / "old.warc.gz.torn").read_bytes() == torn[len(info) :]
    assert "old.warc.gz.torn" in caplog.text
    assert_valid(tmp_path)


def test_a_file_that_is_being_written_is_left_alone(tmp_path):
    writer = WarcWriter(tmp_path, "lab")
    writer.write(exchange())
    code = "import sys, pathlib, crawler.archives.warc as w; w.recover(pathlib.Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, cwd=Path(__file__).parents[2])
    assert len(list(tmp_path.glob("*.open"))) == 1
    writer.close()
    assert_valid(tmp_path)


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_a_worker_keeps_what_the_site_sent_byte_for_byte(server, site, tmp_path, end):
    frontier = open_frontier(server)
    page = article("page").encode()
    packed = gzip.compress(page)

    def chunked(handler):
        handler.wfile.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        for start in range(0, len(page), 100):
            part = page[start : start + 100]
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
        handler.wfile.write(b"0\r\n\r\n")
        handler.close_connection = True

    answers = {
        "/robots.txt": (reply(200, "User-agent: *\nDisallow:"), b"User-agent: *\nDisallow:"),
        "/plain": (reply(200, page), page),
        "/packed": (reply(200, packed, Content_Encoding="gzip"), packed),
        "/chunked": (chunked, page),
        "/binary": (reply(200, bytes(range(256)), Content_Type="image/png"), bytes(range(256))),
        "/moved": (reply(302, b"elsewhere", Location="/plain"), b"elsewhere"),
        "/missing": (reply(404, b"no"), b"no"),
        "/empty": (reply(200, b""), b""),
    }
    for path, (answer, _) in answers.items():
        site.on("a.test", path, answer)
    frontier.put(Discovered(f"http://a.test{path}", 0.5) for path in answers if path != "/robots.txt")
    options = ("--warc", "--data", str(tmp_path))
    with worker(server, frontier, site, tmp_path / "log", *options) as process:
        eventually(frontier.finished)
        process.send_signal(end)
        process.wait(60)
    recover(tmp_path / "warc")
    sent = {f"http://a.test{path}": body for path, (_, body) in answers.items()}
    assert bodies(tmp_path / "warc") == sent
    assert_valid(tmp_path / "warc")
    pages = fetched_pages(frontier)
    assert {pages[f"http://a.test{path}"].reason for path in ("/plain", "/packed")} == {"", "pre_duplicate"}
