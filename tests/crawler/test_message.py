"""An answer as browsers read it: what its headers say, whatever they look like."""

import time

import pytest
from backports import zstd

from crawler.message import Answer, content_type, decoded, header_url

PAGE = b"<!doctype html><title>x</title><p>page"


@pytest.mark.parametrize(
    ("values", "right"),
    [
        (["Text/HTML ; Charset = UTF-8"], "text/html;charset=UTF-8"),
        (["text/html; charset='utf-8'"], "text/html;charset=utf-8"),
        (['text/html; x="a, b/c"; charset="gbk"'], "text/html;charset=gbk"),
        (["text/html, text/html; charset=utf-8"], "text/html;charset=utf-8"),
        (["text/html; charset=gbk, text/html"], "text/html;charset=gbk"),
        (["text/html; charset=gbk", "application/json"], "application/json"),
        (["text/html,"], "text/html"),
        ([", text/html"], "text/html"),
        (["text/html, */*"], "text/html"),
        (['text/html; x="never closed, text/css'], "text/html"),
        (["image/png"], "image/png"),
    ],
)
def test_the_last_of_several_media_types_counts(values, right):
    assert content_type(values, PAGE) == right


@pytest.mark.parametrize(
    "values", [[], [""], ["html"], ["*/*"], ["text/html charset=utf-8"], ["text/"], ["/"]]
)
@pytest.mark.parametrize(
    ("body", "right"),
    [
        (PAGE, "text/html"),
        (b"\xef\xbb\xbf\n <HTML>", "text/html"),
        ("<p>page".encode("utf-16"), "text/html"),
        (b"<article>of later years", "text/html"),
        (b"Warning: no such table\n<br/>\n<html><body>page", "text/html"),
        (b"<?xml version='1.0'?><html xmlns='x'>", "text/html"),
        (b"a < b, and nothing else", "text/plain"),
        (b"", "text/plain"),
        (b"\x1f\x8b\x08\x00\x00", "application/octet-stream"),
        (b"\x89PNG\r\n\x1a\n", "application/octet-stream"),
    ],
)
def test_what_no_header_says_is_told_from_the_body(values, body, right):
    assert content_type(values, body) == right


def test_what_is_called_plain_text_is_text_or_no_text_and_never_markup():
    assert content_type(["text/plain"], PAGE) == "text/plain"
    assert content_type(["text/plain; charset=UTF-8"], b"GIF89a\x00").startswith("application/")
    assert content_type(["text/plain; charset=utf-16le"], "text".encode("utf-16-le")).startswith("text/plain")


@pytest.mark.parametrize(
    ("sent", "right"),
    [
        ("/café?q=ü".encode(), "/caf%C3%A9?q=%C3%BC"),
        (b"/caf\xe9", "/caf%E9"),
        (b"/caf%E9%C3%A9 [x]", "/caf%E9%C3%A9 [x]"),
        (b"", ""),
    ],
)
def test_bytes_of_a_url_in_a_header_are_escaped_as_they_were_sent(sent, right):
    assert header_url(sent.decode("latin-1")) == right


def test_lines_without_end_between_chunks_end_the_answer():
    answer = Answer()
    answer.feed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
    for _ in range(5):
        answer.feed(b"\n" * 1000)
    assert (answer.over, answer.whole, answer.persistent) == (True, False, False)


def test_members_cost_what_they_hold_whatever_is_behind_them():
    began = time.process_time()
    body = zstd.compress(b"a") * 999 + zstd.compress(b"b") + bytes(20_000_000)
    assert decoded(body, ["zstd"], 2000) == (b"a" * 999 + b"b", True)
    assert time.process_time() - began < 1


def test_zeros_before_a_chunks_size_are_no_digits_too_many():
    answer = Answer()
    chunks = b"00000000000000000000002\r\nhi\r\n000\r\n\r\n"
    assert answer.feed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks) == b"hi"
    assert answer.whole


def test_an_answer_without_a_length_is_not_whole_if_its_connection_broke():
    for broken in (False, True):
        answer = Answer()
        answer.feed(b"HTTP/1.1 200 OK\r\n\r\nhalf")
        answer.broken = broken
        answer.end()
        assert answer.whole is not broken


def test_a_body_has_so_many_chunks_and_no_more():
    answer = Answer()
    answer.feed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert answer.feed(b"1\r\nx\r\n" * 200_000) == b"x" * 100_000
    assert (answer.over, answer.whole, answer.persistent) == (True, False, False)
