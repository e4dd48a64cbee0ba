"""Groups and words of URLs: nested as they say, bounded, for any URL there is."""

from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crawler.urls import canonicalize, locate
from ranker import features
from ranker.features import GROUPS, SLOTS, WORDS, describe

NESTED = 6
TEXT = st.text("ab/.-_?=&%0 é\U0001f600", max_size=25) | st.text(max_size=10)
ANY_URL = (
    st.builds(
        "{}://{}{}/{}".format,
        st.sampled_from(["http", "https"]),
        st.sampled_from(["a.example", "b.example", "[::1]", "ü.example", "127.0.0.1"]),
        st.sampled_from(["", ":8080"]),
        TEXT,
    )
    .map(canonicalize)
    .filter(bool)
)


def names(url):
    """The names behind the hashes of a URL's groups, by group."""
    with patch.object(features, "slot", lambda name: name):
        return dict(zip(GROUPS, features.groups(url, locate(url).host), strict=True))


def shared(url, other):
    """Groups that two URLs are both in."""
    mine, others = names(url), names(other)
    return {group for group in GROUPS if mine[group] == others[group]}


@given(ANY_URL, TEXT, TEXT)
def test_any_canonical_url_has_features_within_their_bounds(url, anchor, tag_path):
    found = describe(url, locate(url).host, anchor, tag_path)
    assert len(found.groups) == len(GROUPS)
    assert len(found.words) <= WORDS
    assert all(0 <= slot < SLOTS for slot in found.groups + found.words)
    assert found.host == locate(url).host
    assert found.letters == len(url)
    assert found.segments >= 1
    assert describe(url, locate(url).host, anchor, tag_path) == found


@settings(max_examples=200)
@given(ANY_URL, ANY_URL)
def test_the_first_groups_are_each_within_the_one_before(url, other):
    together = [group in shared(url, other) for group in GROUPS]
    assert together[:NESTED] == sorted(together[:NESTED], reverse=True)
    assert not together[NESTED] or together[0]  # a pattern is of a host


SITE = "http://a.example"


@pytest.mark.parametrize(
    ("url", "other", "deepest"),
    [
        ("/x/1.html", "/y/1.html", "host"),
        ("/x/y/1.html", "/x/z/1.html", "directory, 1 deep"),
        ("/x/y/z/1.html", "/x/y/w/1.html", "directory, 2 deep"),
        ("/x/y/z/v/1.html", "/x/y/z/w/1.html", "directory, 3 deep"),
        ("/x/part-one.html", "/x/part-two.html", "directory and first word of the file"),
        ("/x/part-one-a.html", "/x/part-one-b.html", "directory and first words of the file"),
    ],
)
def test_how_far_two_urls_go_together(url, other, deepest):
    together = shared(SITE + url, SITE + other)
    depth = GROUPS.index(deepest) + 1
    assert together & set(GROUPS[:NESTED]) == set(GROUPS[:depth])


@pytest.mark.parametrize(
    ("group", "url", "others"),
    [
        ("host and pattern of the file", "/x/post-12.html", ["/y/note-7.html", "/qa-1.html"]),
        ("host and pattern of the file", "/show?id=5", ["/show?id=77", "/view?ab=1"]),
    ],
)
def test_files_of_a_like_name_go_together_on_a_host_only(group, url, others):
    assert all(group in shared(SITE + url, SITE + other) for other in others)
    assert group not in shared(SITE + url, SITE + "/readme")
    assert group not in shared(SITE + url, "http://b.example" + url)


@pytest.mark.parametrize(
    ("group", "url", "other"),
    [
        ("last directory, of any host", "http://a.example/_src/a.txt", "http://b.example/deep/er/_src/b"),
        ("first word of the file, on any host", "http://a.example/genindex-A.html", "http://b.example/x/genindex.html"),
        ("first word of the file, on any host", "http://a.example/2019.html", "http://b.example/7.htm"),
        ("end of the file, on any host", "http://a.example/setup.PY.txt", "http://b.example/x/other.py.txt"),
    ],
)  # fmt: skip
def test_some_groups_are_of_all_hosts(group, url, other):
    assert group in shared(url, other)
    assert "host" not in shared(url, other)


def test_words_are_of_the_path_the_text_of_the_link_and_its_place():
    with patch.object(features, "slot", lambda name: name):
        found = features.words(
            "http://a.example/Docs/api_v2/Internationalization?page=9",
            "a.example",
            "Read the Manual, read!",
            "html/body/nav/ul/li/a",
        )
    path = ["u docs", "u api", "u v", "u 0", "u internationa", "u page"]
    assert found == [*path, "a read", "a the", "a manual", "t ul/li/a"]


def test_of_a_long_path_the_last_words_count_and_of_a_long_text_the_first():
    with patch.object(features, "slot", lambda name: name):
        found = features.words("http://h/" + "/".join("abcdefghij"), "h", "one two three four five six")
    assert found == [*(f"u {letter}" for letter in "defghij"), "a one", "a two", "a three", "a four"]
    assert len(found) == WORDS - 1


def test_a_link_without_text_and_place_has_words_of_its_url_only():
    assert features.words("http://h/", "h") == []
