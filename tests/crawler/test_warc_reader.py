"""WARC files are read whoever wrote them, and damage costs no more than what is damaged."""

import gzip
import io
import logging
import os
import zlib

import brotli
import pytest
from backports import zstd

from crawler.archives.warc import Exchange, WarcReader, WarcWriter


def exchange(n, body, **headers):
    named = tuple((name.replace("_", "-").encode(), value.encode()) for name, value in headers.items())
    return Exchange(
        url=f"http://a.test/{n}",
        address="192.0.2.1",
        request_line=b"GET / HTTP/1.1",
        request_headers=(),
        status_line=b"HTTP/1.1 200 OK",
        headers=((b"Content-Type", b"text/html"), *named),
        body=body,
    )


def write(folder, exchanges):
    writer = WarcWriter(folder, "lab")
    for each in exchanges:
        writer.write(each)
    writer.close()
    [path] = folder.glob("*.warc.gz")
    return path


def read(path):
    reader = WarcReader(io.BytesIO(path.read_bytes()))
    return {int(found.url.rpartition("/")[2]): found.body for found in reader}, reader.broken


@pytest.fixture
def warc(tmp_path):
    """Eight responses, in records of which each is a gzip member."""
    return write(tmp_path, [exchange(n, b"%d " % n + os.urandom(200)) for n in range(8)])


def numbers(found):
    assert all(body.startswith(b"%d " % n) for n, body in found.items())
    return set(found)


def member_starts(data):
    return [at for at in range(len(data)) if data[at : at + 4] == b"\x1f\x8b\x08\x00"]


def test_encodings_are_undone_and_what_is_not_what_it_says_is_counted(tmp_path):
    page = b"<p>page" * 1000
    deflated = zlib.compress(page)
    sent = [
        exchange(0, page),
        exchange(1, gzip.compress(page), Content_Encoding="gzip"),
        exchange(2, deflated, Content_Encoding="deflate"),
        exchange(3, deflated[2:-4], Content_Encoding="Deflate"),
        exchange(4, brotli.compress(page), Content_Encoding="br"),
        exchange(5, zstd.compress(page), Content_Encoding="zstd"),
        exchange(6, gzip.compress(brotli.compress(page)), Content_Encoding="br, gzip"),
        exchange(7, page, Transfer_Encoding="chunked"),
        exchange(8, page, Content_Encoding="gzip"),
        exchange(9, page, Content_Encoding="compress"),
        exchange(10, bytes(range(256)), Content_Encoding="gzip"),
        exchange(11, brotli.compress(page)[:-2], Content_Encoding="br"),
        exchange(12, page, Content_Encoding="gzip, gzip, gzip, gzip"),
    ]
    assert read(write(tmp_path, sent)) == (dict.fromkeys(range(10), page), 3)


PAGE = b"<p>page of words</html>"
OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("http", "media_type"),
    [
        (OK + b"\r\n" + PAGE, "Application/HTTP; msgtype=response"),
        (OK + b"\r\n" + PAGE, ""),
        (b"HTTP/1.1 200 OK\nContent-Type: text/html\n\n" + PAGE, "application/http"),
        (b"HTTP/2 200\r\n\r\n" + PAGE, "application/http"),
        (OK + b"Content-Length: 7\r\n\r\n" + PAGE, "application/http"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n" + PAGE, "application/http"),
        (OK + b"Content-Encoding: gzip\r\n\r\n" + PAGE, "application/http"),
        (OK + b"Transfer-Encoding: chunked\r\nContent-Encoding: gzip\r\n\r\n" + PAGE, "application/http"),
        (OK + b"Transfer-Encoding: chunked\r\nContent-Encoding: gzip\r\n\r\n" + gzip.compress(PAGE),
         "application/http"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n17;a=b\r\n" + PAGE + b"\r\n0\r\n\r\n", "application/http"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n17\r\n" + PAGE, "application/http"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("end", ["\r\n", "\n"])
def test_records_say_of_themselves_what_is_no_longer_so(tmp_path, http, media_type, end):
    fields = ["WARC/1.0", "WARC-Type: response", "WARC-Target-URI: http://a.test/1"]
    fields += [f"Content-Type: {media_type}"] * bool(media_type) + [f"Content-Length: {len(http)}", "", ""]
    path = tmp_path / "other.warc"
    path.write_bytes(end.join(fields).encode() + http + 2 * end.encode())
    assert read(path) == ({1: PAGE}, 0)


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd"])
def test_a_bomb_is_broken(tmp_path, encoding):
    bomb = bytes(100 << 20)
    pack = {"gzip": gzip.compress, "br": lambda body: brotli.compress(body, quality=1), "zstd": zstd.compress}
    sent = [exchange(0, pack[encoding](bomb), Content_Encoding=encoding), exchange(1, b"1 ")]
    assert read(write(tmp_path, sent)) == ({1: b"1 "}, 1)


def test_gzipped_or_not_the_responses_are_the_same(warc):
    found, broken = read(warc)
    plain = warc.with_name("plain.warc")
    plain.write_bytes(gzip.decompress(warc.read_bytes()))
    assert read(plain) == (found, broken) == (found, 0)
    assert numbers(found) == set(range(8))


def test_a_flipped_byte_costs_one_record_at_most(warc):
    whole = warc.read_bytes()
    starts = [*member_starts(whole), len(whole)]
    damaged = warc.with_name("damaged.warc.gz")
    for at in range(starts[1], len(whole), 61):
        data = bytearray(whole)
        data[at] ^= 0xFF
        damaged.write_bytes(data)
        found, broken = read(damaged)
        member = sum(start <= at for start in starts) - 1
        of_response = {(member - 1) // 2} if member % 2 else set()
        assert set(range(8)) - of_response <= set(found)
        assert broken <= 1


def test_junk_between_records_is_passed(warc):
    plain = gzip.decompress(warc.read_bytes())
    third = plain.index(b"WARC/1.1\r\nWARC-Type: response", plain.index(b"http://a.test/2"))
    damaged = warc.with_name("damaged.warc")
    damaged.write_bytes(plain[:third] + b"\r\nno record: of any kind\r\nat all\r\n\r\n" + plain[third:])
    found, broken = read(damaged)
    assert numbers(found) == set(range(8))
    assert broken <= 1


def test_wherever_a_file_is_cut_its_whole_records_are_read(warc):
    whole, responses = warc.read_bytes(), read(warc)[0]
    ends = [*member_starts(whole)[1:], len(whole)]
    cut = warc.with_name("cut.warc.gz")
    for length in range(0, len(whole), 97):
        cut.write_bytes(whole[:length])
        found, _ = read(cut)
        assert set(range(sum(end <= length for end in ends[1::2]))) <= set(found)
        assert found.items() <= responses.items()


@pytest.mark.parametrize("content", [b"", b"no WARC at all\n" * 100, b"\x1f\x8b" + bytes(100)])
def test_what_is_no_warc_has_no_responses(content):
    assert list(WarcReader(io.BytesIO(content))) == []


def test_other_peoples_files(conformance):
    """Those of warcio and others: chunked, wrongly chunked, quirky, clipped."""
    read_from = {}
    for name, content in conformance.items():
        if name.endswith((".warc", ".warc.gz")):
            reader = WarcReader(io.BytesIO(content))
            urls = [found.url for found in reader if found.status == 200 and found.body]
            read_from[name.rpartition("/")[2]] = urls, reader.broken
            logging.info("%s: %d, %d broken", name, len(urls), reader.broken)
    one = ["http://example.com/"]
    for name in ("example.warc", "example-wrong-chunks.warc.gz", "example-wget-bad-target-uri.warc.gz"):
        assert read_from[name] == (one, 0)
    assert read_from["example-iana.org-chunked.warc"] == (["http://www.iana.org/"], 0)
    assert read_from["warcfile.warc"] == read_from["warcfile.warc.gz"]
    assert len(read_from["clueweb-quirk.warc.gz"][0]) > 1
    assert read_from["example-trunc.warc"] == (one, 0)  # a record of a gzip that was cut before it was sent
    assert {name for name, (_, broken) in read_from.items() if broken} == {"clipped.warc.gz"}
