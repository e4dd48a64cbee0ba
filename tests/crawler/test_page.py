"""A page on its way through the stream."""

from hypothesis import given
from hypothesis import strategies as st

from crawler.page import Link, Page

text = st.text(st.characters(exclude_categories=["Cs"]))
links = st.lists(st.builds(Link, text, text, text, st.booleans()), max_size=4).map(tuple)
numbers = st.floats(0, 1)
pages = st.builds(
    Page,
    url=text,
    fetch_no=st.integers(0),
    fetched_at=st.integers(0),
    status=st.integers(0, 999),
    promise=numbers,
    propensity=numbers,
    reason=text,
    title=text,
    text=text,
    language=text,
    language_score=numbers,
    content_sha256=text,
    extractor=text,
    opt_out=st.lists(text, max_size=3).map(tuple),
    links=links,
)


@given(pages)
def test_a_page_comes_back_as_it_was_sent(page):
    assert Page.from_bytes(page.to_bytes()) == page


def test_text_that_is_no_unicode_is_replaced_and_not_an_error():
    page = Page(url="u", fetch_no=1, fetched_at=0, status=200, promise=0.0, propensity=1.0, text="a\ud800b")
    assert Page.from_bytes(page.to_bytes()).text == "a?b"
