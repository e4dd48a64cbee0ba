"""A page on its way through the stream: it comes back as it was sent, and all of it has a bound."""

import json
import zlib
from dataclasses import fields, replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crawler.errors import PageError
from crawler.page import BOUNDS, MOST_BYTES, Extracted, Link, Page
from shards.text.content import values

PAGE = Page(url="https://a.test/", fetch_no=1, fetched_at=0, status=200, promise=0.5, propensity=1.0)

text = st.text(st.characters(exclude_categories=["Cs"]))
short = st.text(st.characters(exclude_categories=["Cs"]), max_size=16)
url = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=99)
links = st.lists(st.builds(Link, url, short, short, st.booleans()), max_size=4).map(tuple)
numbers = st.floats(0, 1)
pages = st.builds(
    Page,
    url=url,
    fetch_no=st.integers(0, 1 << 30),
    fetched_at=st.integers(0, 1 << 47),
    status=st.integers(0, 999),
    promise=numbers,
    propensity=numbers,
    reason=short,
    title=short,
    text=text,
    language=short,
    language_score=numbers,
    content_sha256=short,
    extractor=short,
    opt_out=st.lists(short, max_size=3).map(tuple),
    links=links,
)


@given(pages)
def test_a_page_comes_back_as_it_was_sent(page):
    assert Page.from_bytes(page.to_bytes()) == page


def test_text_that_is_no_unicode_is_replaced_and_not_an_error():
    page = replace(PAGE, text="a\ud800b", links=(Link("https://b.test/", "\udc00", "p", False),))
    back = Page.from_bytes(page.to_bytes())
    assert (back.text, back.links[0].anchor) == ("a?b", "?")


def test_a_field_without_a_bound_cannot_be_sent():
    assert {field.name for field in fields(Page)} == set(BOUNDS)


def within_bounds(page):
    for name, bound in BOUNDS.items():
        value = getattr(page, name)
        if isinstance(bound, int):
            assert isinstance(value, str)
            assert len(value) <= bound
            value.encode()
    assert len(page.links) <= 5000
    assert sum(len("".join(link[:3]).encode()) for link in page.links) <= 1 << 20
    for link in page.links:
        assert type(link) is Link
        assert (len(link.url) <= 2048, len(link.anchor) <= 200, len(link.tag_path) <= 512) == (True,) * 3
        assert " " not in link.url
        assert link.nofollow in (True, False)
    assert len(page.opt_out) <= 100
    assert len("".join(page.opt_out)) <= 4000


# Longer than the bound of something; of characters that take one, two or four bytes, or are half of one.
hostile = st.tuples(
    st.sampled_from("ab \n\x01é\U0001f600\ud800"), st.sampled_from([0, 1, 65, 201, 513, 4097])
).map(lambda repeated: repeated[0] * repeated[1])
odd = st.one_of(st.integers(), st.floats(), st.just(10**30), st.booleans())


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(st.sampled_from([n for n, bound in BOUNDS.items() if isinstance(bound, int)]), hostile),
    st.dictionaries(st.sampled_from(["fetch_no", "fetched_at", "status", "promise", "propensity"]), odd),
    st.lists(st.builds(Link, hostile, hostile, hostile, st.booleans()), max_size=3),
    st.sampled_from([1, 3000]),
    st.lists(hostile, max_size=3),
)
def test_whatever_is_found_of_a_page_fits_or_is_refused(strings, figures, found, times, signals):
    given = {**strings, **figures, "links": tuple(found) * times, "opt_out": tuple(signals) * times}
    try:
        data = replace(PAGE, **given).to_bytes()
    except PageError:
        assert {"url", *figures} & set(given)
        return
    back = Page.from_bytes(data)
    within_bounds(back)
    assert Page.from_bytes(back.to_bytes()) == back


def test_what_is_too_long_is_cut_and_what_would_be_wrong_if_cut_goes():
    path = "/".join(["x" * 700] * 60)
    good = Link("https://b.test/", "b", "html/body/p", True)
    page = replace(
        PAGE,
        title="t" * 10_000,
        text="t" * 5_000_000,
        content_sha256="0" * 64,
        links=(
            Link("https://b.test/far", "", path, False),
            Link("https://b.test/" + "l" * 2048, "", "p", False),
            good._replace(anchor="a" * 10_000),
            good,
        ),
    )
    back = Page.from_bytes(page.to_bytes())
    assert (back.title, back.text, back.content_sha256, back.reason) == ("t" * 500, "", "", "too_large")
    assert back.links == (good._replace(anchor="a" * 200), good)


def test_no_signal_against_training_is_lost_among_others():
    signals = (*(f"header:x{number}=n" for number in range(500)), "robots:ai-train=n")
    back = Page.from_bytes(replace(PAGE, opt_out=signals).to_bytes())
    assert len(back.opt_out) == 100
    assert back.opt_out[0] == "robots:ai-train=n"


def test_all_links_of_a_page_together_are_bounded():
    long = tuple(Link(f"https://b.test/{n:04}{'l' * 1900}", "", "p", False) for n in range(2000))
    back = Page.from_bytes(replace(PAGE, links=long).to_bytes())
    assert 500 < len(back.links) < 600
    assert back.links == long[: len(back.links)]


def test_a_text_that_takes_more_bytes_than_a_page_may_is_too_large():
    back = Page.from_bytes(replace(PAGE, text="\x01" * 4_000_000).to_bytes())  # JSON has six bytes for each
    assert (back.text, back.reason) == ("", "too_large")
    kept = replace(PAGE, text="\u20ac" * 4_000_000)
    assert Page.from_bytes(kept.to_bytes()) == kept


def test_what_an_extraction_child_returns_fits_too():
    assert Extracted(text="t" * 5_000_000, extractor="x").fitted() == Extracted(
        reason="too_large", extractor="x"
    )


def sent(**changed):
    """The bytes of a page whose fields are what nobody checked."""
    return zlib.compress(json.dumps(values(Page, PAGE) | changed).encode())


WRONG = (
    {"unheard": 1}, {"url": "https://a.test/" + "a" * 2048}, {"url": "https://a b.test/"}, {"url": None},
    {"url": "https://a.test/\n"}, {"text": "t" * 5_000_000}, {"text": 1}, {"title": "\ud800"},
    {"status": 1 << 15}, {"status": "200"}, {"status": True}, {"fetch_no": -1}, {"fetch_no": 1.5},
    {"fetched_at": 1 << 63}, {"promise": float("nan")}, {"propensity": float("inf")}, {"unchanged": 1},
    {"opt_out": ["a"] * 101}, {"opt_out": ["a" * 4001]}, {"opt_out": [1]}, {"opt_out": None},
    {"links": {"a": 1}}, {"links": "links"}, {"links": [1]}, {"links": None}, {"columns": []},
)  # fmt: skip
LINK = ["https://b.test/", "", "p", False]
WRONG_LINKS = (
    LINK[:3], [*LINK, 1], [*LINK[:3], 0], ["https://b.test/", None, "p", False],
    ["https://b.test/ c", "", "p", False], ["https://b.test/\u00e9", "", "p", False],
    ["https://b.test/" + "b" * 2048, "", "p", False], ["https://b.test/", "a" * 201, "p", False],
    ["https://b.test/", "", "p" * 513, False], ["https://b.test/", "\ud800", "", False],
)  # fmt: skip
REFUSED = {
    "nothing": b"",
    "no zlib": b"a page",
    "cut off": PAGE.to_bytes()[:-5],
    "followed by another": PAGE.to_bytes() * 2,
    "no JSON": zlib.compress(b"{"),
    "no UTF-8": zlib.compress(b'{"url": "\xff"}'),
    "half a character": zlib.compress(b'{"title": "\xed\xa0\x80", "links": [], "opt_out": []}'),
    "another page": zlib.compress(b"[]"),
    "a string": zlib.compress(b'"links"'),
    "nested without end": zlib.compress(b"[" * 100_000),
    "a bomb": zlib.compress(b" " * (1 << 26)),
    "one byte too many": zlib.compress(sent() and b" " * (MOST_BYTES + 1)),
    "a number of too many digits": zlib.compress(b'{"fetch_no": ' + b"9" * 5000 + b"}"),
    "no url": zlib.compress(b'{"links": [], "opt_out": []}'),
    **{str(changed)[:60]: sent(**changed) for changed in WRONG},
    **{f"link {link}"[:60]: sent(links=[link]) for link in WRONG_LINKS},
    "too many links": sent(links=[LINK] * 5001),
    "too much of links": sent(links=[["https://b.test/" + "l" * 2000, "", "", False]] * 600),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_bytes_that_are_no_page_within_bounds_are_refused(kind):
    with pytest.raises(PageError):
        Page.from_bytes(REFUSED[kind])


@given(st.binary(max_size=200), st.integers(0, 1 << 16), st.booleans())
def test_any_bytes_are_a_page_within_bounds_or_refused(noise, place, packed):
    data = zlib.decompress(PAGE.to_bytes()) if packed else PAGE.to_bytes()
    place %= len(data)
    data = data[:place] + noise + data[place + len(noise) :]
    try:
        page = Page.from_bytes(zlib.compress(data) if packed else data)
    except PageError:
        return
    within_bounds(page)


def test_the_links_of_an_earlier_version_lie_in_rows_and_are_read():
    page = replace(
        PAGE, links=(Link("https://b.test/", "b", "p", False), Link("https://c.test/", "", "p", True))
    )
    assert Page.from_bytes(sent(links=page.links)) == page
