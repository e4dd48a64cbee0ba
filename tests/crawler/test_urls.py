"""URL identity: total, idempotent, and in agreement with browsers."""

import csv
import json
from ipaddress import ip_address
from urllib.parse import urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from crawler.urls import (
    MOST_CHARACTERS,
    address,
    canonical,
    canonicalize,
    fingerprint,
    locate,
    resolve,
    url_at,
)

PIECES = st.lists(
    st.sampled_from(
        ["http://", "https://", "http:", "//", "/", "\\", "h.example", "[::1]", "127.1", "0x7f", "%2e", "%2F",
         "%252F", "%", "%4", "..", ".", "?", "&", "=", "#", "@", ":", ":80", ":443", " ", "\t", "\n", "\0",
         "+", "é", "日", "\ud800", "a", "B", "utm_source=x", "ß", "xn--", "-", "_", ";", "|", "[", "]"]
    )
    | st.text(max_size=3),
    max_size=14,
).map("".join)  # fmt: skip
ANY_URL = st.one_of(st.text(max_size=60), PIECES, PIECES.map("http://h.example/".__add__))


@given(ANY_URL, st.none() | ANY_URL)
@example("http://h/%252F", None)
@example("http://h/\ud800?\ud800", None)
@example("http://h/?" + "&".join(f"a{n}" for n in range(200)), None)
@example("http://h/" + "é" * 1000, None)
@example("http://" + "a" * 2000 + "-/", None)
@example("http://[::ffff:1.2.3.4]/", None)
@example("http://h/%%41%4%31", None)
def test_address_and_canonical_form_are_total_idempotent_and_safe(url, base):
    asked = address(url, base)
    if asked is None:
        return
    page = canonical(asked)
    assert page == canonicalize(url, base) == canonical(page)
    assert len(asked) <= MOST_CHARACTERS
    assert address(asked) == asked
    for found, unsafe in ((asked, ' "<>#'), (page, ' "<>\\^`{|}#')):
        assert address(found, base="http://other.example/a/b?c") in (found, None)  # it may be too long
        assert found.isascii()
        assert found.isprintable()
        assert not set(found) & set(unsafe)
        parts = urlsplit(found)
        assert parts.scheme in ("http", "https")
        assert parts.hostname
        assert parts.username is None
        assert parts.path.startswith("/")
        assert not {".", ".."} & set(parts.path.split("/"))
        assert url_at(*locate(found)) == found
        assert locate(found).host == locate(asked).host
    assert fingerprint(asked) == fingerprint(page) < 1 << 64


@pytest.mark.parametrize(
    ("url", "canonical"),
    [
        ("HTTP://Example.COM", "http://example.com/"),
        ("http://example.com:80/", "http://example.com/"),
        ("https://example.com:443/", "https://example.com/"),
        ("http://example.com:443/", "http://example.com:443/"),
        ("http://example.com:0080/", "http://example.com/"),
        ("http://example.com:/", "http://example.com/"),
        ("http://example.com./", "http://example.com/"),
        ("http://user:pass@example.com/", "http://example.com/"),
        ("http://a@b@example.com/", "http://example.com/"),
        ("http://example.com/a/./b/../c", "http://example.com/a/c"),
        ("http://example.com/../../a", "http://example.com/a"),
        ("http://example.com/a/..", "http://example.com/"),
        ("http://example.com/a/.", "http://example.com/a/"),
        ("http://example.com/a/%2e%2E/b", "http://example.com/b"),
        ("http://example.com//evil.example/../b", "http://example.com//b"),
        ("http://example.com/a//b", "http://example.com/a//b"),
        ("http://example.com/%7euser/%41", "http://example.com/~user/A"),
        ("http://example.com/a%2fb%2Fc", "http://example.com/a%2Fb%2Fc"),
        ("http://example.com/a%252fb", "http://example.com/a%252fb"),
        ("http://example.com/%3b;", "http://example.com/%3B;"),
        ("http://example.com/100%", "http://example.com/100%25"),
        ("http://example.com/a b", "http://example.com/a%20b"),
        ("http://example.com/é", "http://example.com/%C3%A9"),
        ("http://example.com/\u65e5?q=\u65e5", "http://example.com/%E6%97%A5?q=%E6%97%A5"),
        ("http://example.com/a\x00b", "http://example.com/a%00b"),
        ("http://example.com/#top", "http://example.com/"),
        ("http://example.com/?", "http://example.com/"),
        ("http://example.com?q", "http://example.com/?q"),
        ("http://example.com/?b=2&a=1", "http://example.com/?a=1&b=2"),
        ("http://example.com/?flag&empty=&a=x+y%20z", "http://example.com/?a=x+y%20z&empty=&flag"),
        ("http://example.com/?a=1&&b=2&", "http://example.com/?a=1&b=2"),
        ("http://example.com/?a=%26&b=%3D", "http://example.com/?a=%26&b=%3D"),
        ("http://example.com/?utm_source=x&id=7&fbclid=y&GCLID=z&utm_campaign", "http://example.com/?id=7"),
        ("http://example.com/?utm_source=x", "http://example.com/"),
        ("http://example.com/?gclids=1&xfbclid=2", "http://example.com/?gclids=1&xfbclid=2"),
        ("http://bücher.example/", "http://xn--bcher-kva.example/"),
        ("http://BÜCHER.example/", "http://xn--bcher-kva.example/"),
        ("http://faß.example/", "http://xn--fa-hia.example/"),
        ("http://ex%61mple.com/", "http://example.com/"),
        ("http://user:p]ss@example.com/", "http://example.com/"),
        ("http://0x.0x.0/", "http://0.0.0.0/"),
        ("http://example.com/?it's", "http://example.com/?it%27s"),
        ("http://\uff45xample.com/", "http://example.com/"),
        ("http://[2001:DB8:0:0::1]:8080/", "http://[2001:db8::1]:8080/"),
        ("http://[::1]/", "http://[::1]/"),
        ("http://127.1/", "http://127.0.0.1/"),
        ("http://0x7f000001/", "http://127.0.0.1/"),
        ("http://017700000001/", "http://127.0.0.1/"),
        ("http://2130706433/", "http://127.0.0.1/"),
        ("http://192.168.0.1./", "http://192.168.0.1/"),
        (" \t\nhttp://example.com/\r\n ", "http://example.com/"),
        ("ht\ntp://exa\tmple.com/a\r\nb", "http://example.com/ab"),
        ("http:\\\\example.com\\a\\b?c\\d", "http://example.com/a/b?c%5Cd"),
        ("http:/example.com/a", "http://example.com/a"),
        ("http:////example.com/a", "http://example.com/a"),
        ("http://under_score.example/", "http://under_score.example/"),
        ("http://example.com/\ud800", "http://example.com/%EF%BF%BD"),
    ],
)
def test_spellings_of_one_page_have_one_canonical_form(url, canonical):
    assert canonicalize(url) == canonical


@pytest.mark.parametrize(
    "url",
    ["", " ", "example.com", "/a", "javascript:alert(1)", "mailto:a@b.example", "ftp://example.com/",
     "data:,x", "file:///etc/passwd", "http://", "http:///", "http://?", "http://:80/", "http://example.com:0/",
     "http://example.com:65536/", "http://example.com:-1/", "http://example.com:8a/", "http://exa mple.com/",
     "http://a..b/", "http://a../", "http://xn--\u65e5/", "http://[::1]a/", "http://.a/",
     "http://[::1/", "http://::1/", "http://[::g]/",
     "http://[fe80::1%25eth0]/", "http://[v1.x]/", "http://1.2.3.256/", "http://1.2.3.4.5/", "http://a.1/",
     "http://1.2.3.08/", "http://user@/x", "http://exa%00mple/", "http://exa%2Fmple/", "http://a<b/",
     "http://" + "a" * 64 + ".com/",
     "http://" + "a." * 127 + "com/", "http://h/" + "a" * MOST_CHARACTERS, "http://" + "a" * 1000 + "-/"],
)  # fmt: skip
def test_what_a_crawler_cannot_use_is_none(url):
    assert canonicalize(url) is None


@pytest.mark.parametrize(
    ("reference", "canonical"),
    [
        ("", "http://b.example/d/e?q"),
        ("#x", "http://b.example/d/e?q"),
        ("f", "http://b.example/d/f"),
        ("../f", "http://b.example/f"),
        ("/f", "http://b.example/f"),
        ("\\f", "http://b.example/f"),
        ("?r", "http://b.example/d/e?r"),
        ("//c.example/f", "http://c.example/f"),
        ("///c.example/f", "http://c.example/f"),
        ("\\\\c.example/f", "http://c.example/f"),
        ("http:f", "http://b.example/d/f"),
        ("http:/f", "http://b.example/f"),
        ("https:/f.example", "https://f.example/"),
        ("https://c.example", "https://c.example/"),
        (" f ", "http://b.example/d/f"),
        ("f//g", "http://b.example/d/f//g"),
        (";f", "http://b.example/d/;f"),
        ("?", "http://b.example/d/e"),
        ("//", None),
        ("mailto:x@y", None),
    ],
)
def test_a_reference_is_read_relative_to_its_base(reference, canonical):
    assert canonicalize(reference, "http://b.example/d/e?q") == canonical


PLAIN = st.lists(
    st.sampled_from(
        ["http://", "https://", "h.example", "h.0x1", "H", "1", "_", "-", "/", "//", "../", "./", ".", "..",
         "a", "b.html", "~", ";", ":", "@", "=", "?", "&", "utm_id=1", "'", "%41", "+", "\\", " "]
    ),
    max_size=9,
).map("".join)  # fmt: skip


@given(PLAIN, PLAIN)
@example("../" * 9 + "a", "http://h.example/b/")
@example("a" * 2040, "http://h.example/b/")
@example(f"http://{'.'.join(['a' * 60] * 5)}/", "http://h.example/")
def test_the_short_way_of_plain_links_leads_where_the_long_one_does(href, base):
    """A line break, which is nothing, makes a link one that is not plain."""
    assert address(href) == address(f"\n{href}")
    folder = (address(base) or "https://h.example/a/b").partition("?")[0].rpartition("/")[0] + "/"
    assert resolve(href, folder) == address(f"\n{href}", folder)


@pytest.mark.parametrize(
    ("href", "asked"),
    [
        ("/t?v=1&id=2", "/t?v=1&id=2"),
        ("/x?utm_source=home", "/x?utm_source=home"),
        ("/q?", "/q?"),
        ("/l?f[]=b&f[]=a", "/l?f[]=b&f[]=a"),
        ("/%7Eana/%c3%a9|x#top", "/%7Eana/%c3%a9|x"),
        ("/index.php?title=Special:Search&search=a b", "/index.php?title=Special:Search&search=a%20b"),
        ("//user:secret@h.test.:80/", "/"),
    ],
)
def test_a_url_is_asked_for_as_it_was_linked(href, asked):
    assert address(href, "http://h.test/a") == f"http://h.test{asked}"


def test_names_may_have_hyphens_at_the_ends_of_their_labels():
    for url in ("https://name-.surge.sh/", "http://-x.example.org/", "https://-a/"):
        assert address(url) == canonicalize(url) == url


def test_http_and_https_live_at_one_host_under_different_members():
    assert locate("https://h.example:8443/a?b") == ("h.example", ":8443/a?b")
    assert locate("http://h.example/a?b") == ("h.example", "http:/a?b")
    assert locate("http://[::1]:81/") == ("[::1]", "http:81/")
    assert url_at("[::1]", "http:81/") == "http://[::1]:81/"
    assert url_at("h.example:81", "http:/") == "http://h.example:81/"  # as version 4 of the frontier kept it


def test_fingerprints_are_stable_and_use_all_bits():
    assert fingerprint("http://example.com/") == 0xFB2241160C9DAD06
    prints = [fingerprint(f"http://example.com/{n}") for n in range(2000)]
    assert len({number & 0xFFFFFFFF for number in prints}) > 1990
    assert max(prints) >> 63 == 1


NO_USE_TO_A_CRAWLER = {
    "http://f:0/c": "nobody listens on port 0",
    "http://f:00000000000000/c": "nobody listens on port 0",
    "http://./": "no host that DNS could know",
    "http://../": "no host that DNS could know",
    "http://!\"$&'()*+,-.;=_`{}~/": "no host that DNS could know",
    "http://foo.09..": "no host that DNS could know",
    "https://xn--/": "no host that DNS could know",
}
"""Valid for WHATWG, None here."""


def test_urls_are_read_as_browsers_read_them(conformance):
    """WHATWG's cases: what fails there or is not http(s) is None, all else what the browser's URL is.

    The browser's URL is compared in our canonical form, which drops fragment, credentials and the dot after a
    host, decodes what need not be escaped and sorts the query.
    """
    cases = json.loads(conformance["conformance/ada_url/tests/wpt/urltestdata.json"])
    agreed = 0
    for case in (case for case in cases if isinstance(case, dict)):
        got = canonicalize(case["input"], case["base"])
        if case.get("failure") or case["protocol"] not in ("http:", "https:"):
            assert got is None, case["input"]
        elif case["input"] not in NO_USE_TO_A_CRAWLER:
            assert got == canonicalize(case["href"]), case["input"]
            assert urlsplit(got).netloc == case["host"].rstrip("."), case["input"]
            agreed += 1
    assert agreed == 240


def test_hosts_become_ascii_as_in_browsers(conformance):
    """What is refused is no name of DNS, it is too long; the rest is what browsers ask for."""
    cases = json.loads(conformance["conformance/ada_url/tests/wpt/toascii.json"])
    agreed = 0
    for case in (case for case in cases if isinstance(case, dict) and case["output"]):
        got = canonicalize(f"https://{case['input']}/")
        if got is not None:
            assert got == f"https://{case['output'].rstrip('.')}/"
            agreed += 1
    assert agreed >= 50


KEPT_APART = {
    "http://foo.com/index?a=1&b=": "an empty value is not no value",
    "http://foo.com/index?b=&a=1": "an empty value is not no value",
    "http://foo.com/index?&=1&a=1": "a parameter without a name is one",
    "http://foo.com/index?=1&b=1&a=1": "a parameter without a name is one",
    "foo.com/index.html": "no scheme, no URL",
}


def test_urls_are_normalized_as_crawler_commons_does(conformance):
    """All of its table but for empty path segments, which servers tell apart, and what is listed above."""
    path = "conformance/crawler_commons/src/test/resources/normalizer/weirdToNormalizedUrls.csv"
    compared = 0
    for row in csv.reader(conformance[path].decode().splitlines(), skipinitialspace=True):
        if len(row) == 2 and not row[0].startswith("#"):
            url, normalized = row
            if url not in KEPT_APART and "//" not in urlsplit(url).path:
                assert canonicalize(url) == canonicalize(normalized), url
                compared += 1
    assert compared == 98


def test_references_are_resolved_as_crawler_commons_does(conformance):
    path = "conformance/crawler_commons/src/test/resources/url-utils/url-resolve.csv"
    compared = 0
    for row in csv.reader(conformance[path].decode().splitlines(), skipinitialspace=True):
        if len(row) == 3 and not row[0].startswith("#"):
            reference, base, resolved = row
            assert canonicalize(reference, base or None) == canonicalize(resolved), row
            compared += 1
    assert compared == 21


def test_numeric_hosts_are_addresses(conformance):
    cases = json.loads(conformance["conformance/ada_url/tests/wpt/urltestdata.json"])
    for case in (case for case in cases if isinstance(case, dict)):
        host = urlsplit(canonicalize(case["input"], case["base"]) or "").hostname or ""
        if host[-1:].isdigit() and ":" not in host:
            labels = host.split(".")
            assert not labels[-1].isdigit() or ip_address(host)
