"""Karma: sums over submissions, with the reasons of what was left out, from whole files only."""

import gzip
import json
import lzma

import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from crawler.errors import SeedError
from crawler.seeds.karma import FEWEST_VOTES, count_votes, linked_url, seeds_of_dump, why_not
from crawler.seeds.read import read_seeds
from crawler.seeds.seed import Seed
from crawler.urls import address

NOON = 1_500_000_000


def post(url="http://a.example/", score=5, **fields):
    return {"url": url, "score": score, "subreddit": "science", "is_self": False, "over_18": False} | fields


def dump(path, posts):
    path.write_text("".join(json.dumps(entry) + "\n" for entry in posts))
    return path


def count(tmp_path, *posts):
    return count_votes(dump(tmp_path / "posts.ndjson", posts))


def test_votes_are_summed_over_all_submissions_of_a_page(tmp_path):
    votes, dropped = count(
        tmp_path,
        post("http://a.example/?utm_source=reddit", 5),
        post("HTTP://A.example:80/#top", 7, subreddit="books"),
        post("http://a.example/", -2),
        post("http://b.example/", 1),
    )
    assert not dropped
    assert votes == {"http://a.example/?utm_source=reddit": 10, "http://b.example/": 1}


def test_seeds_come_with_most_votes_first_and_need_three(tmp_path):
    path = dump(
        tmp_path / "posts.ndjson",
        [
            post(f"http://{name}.example/", score)
            for name, score in zip("dcbae", (2, 3, 9, 9, -8), strict=True)
        ],
    )
    assert FEWEST_VOTES == 3
    assert list(seeds_of_dump(path)) == [
        Seed("http://a.example/", 9.0, "posts.ndjson"),
        Seed("http://b.example/", 9.0, "posts.ndjson"),
        Seed("http://c.example/", 3.0, "posts.ndjson"),
    ]


def test_a_crosspost_counts_once_and_for_the_page_it_shows(tmp_path):
    crosspost = post(
        "/r/science/comments/1/", 4, crosspost_parent_list=[post("http://a.example/", 100, id="parent")]
    )
    votes, dropped = count(tmp_path, crosspost, post("http://a.example/", 100))
    assert votes == {"http://a.example/": 104}
    assert not dropped


def test_an_overridden_url_is_the_one_shown():
    assert (
        linked_url(post("http://x.example/", url_overridden_by_dest="http://y.example/"))
        == "http://y.example/"
    )
    assert linked_url(post("http://x.example/", crosspost_parent_list=[])) == "http://x.example/"


def test_urls_are_taken_out_of_reddits_html():
    assert (
        linked_url(post("http://x.example/?a=1&amp;copy=2&amp;amp;")) == "http://x.example/?a=1&copy=2&amp;"
    )


@pytest.mark.parametrize(
    ("reason", "entry"),
    [
        ("", post()),
        ("", post(retrieved_on=NOON + 86_400, created_utc=NOON)),
        ("", post(retrieved_on=NOON + 5, created_utc=NOON, _meta={"retrieved_2nd_on": NOON + 90_000})),
        ("", post(retrieved_on=str(NOON + 90_000), created_utc=str(NOON))),
        ("", post("http://notreddit.com/a.html?x=.jpg")),
        ("self_post", post(is_self=True)),
        ("adult", post(over_18=True)),
        ("advertisement", post(promoted=True)),
        ("removed", post(removed_by_category="moderator")),
        ("removed", post(_meta={"was_deleted_later": True})),
        ("captured_early", post(retrieved_on=NOON + 5, created_utc=NOON)),
        ("captured_early", post(retrieved_on=NOON + 86_399, created_utc=NOON)),
        ("no_url", post("")),
        ("no_url", post(None)),
        ("not_text", post("http://i.imgur.com/a")),
        ("not_text", post("http://www.youtube.com/watch?v=1")),
        ("not_text", post("https://old.REDDIT.com/r/x")),
        ("not_text", post("http://a.example/PICTURE.JPG?x=1")),
    ],
)
def test_a_submission_is_left_out_for_one_reason(tmp_path, reason, entry):
    assert why_not(entry) == reason
    votes, dropped = count(tmp_path, entry)
    assert dropped == ({reason: 1} if reason else {})
    assert len(votes) == (not reason)


@pytest.mark.parametrize("url", ["ftp://a.example/", "http://[::1/", "http://a b/", "javascript:void(0)"])
def test_a_url_that_is_none_is_counted_as_such(tmp_path, url):
    assert count(tmp_path, post(url))[1] == {"bad_url": 1}


@pytest.mark.parametrize(
    "line",
    ["", "{", "[]", "null", '"x"', "[" * 100_000, '{"url": "http://a.example/", "score": NaN}',
     '{"url": "http://a.example/", "score": 1e999}', '{"url": "http://a.example/", "score": "hidden"}',
     '{"url": "http://a.example/", "score": ' + "9" * 400 + "}", '{"crosspost_parent_list": [null]}',
     '{"crosspost_parent_list": {"a": 1}}', '{"url": "http://a.example/", "_meta": "x"}'],
)  # fmt: skip
def test_a_bad_line_is_counted_and_the_rest_is_read(tmp_path, line):
    path = tmp_path / "posts.ndjson"
    path.write_text(f"{line}\n{json.dumps(post())}\n")
    votes, dropped = count_votes(path)
    assert votes == {"http://a.example/": 5}
    assert dropped == {"bad_line": 1}


@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                ["http://a.example/", "http://A.example", "http://b.example/?x=1", "http://imgur.com/", "no"]
            ),
            st.integers(-1000, 1000),
        )
    )
)  # fmt: skip
def test_every_submission_is_counted_or_left_out_and_no_vote_is_lost(tmp_path_factory, submissions):
    path = tmp_path_factory.mktemp("dump") / "posts.ndjson"
    votes, dropped = count_votes(dump(path, [post(url, score) for url, score in submissions]))
    counted = [score for url, score in submissions if url != "no" and "imgur" not in url]
    assert len(counted) + dropped.total() == len(submissions)
    assert sum(votes.values()) == sum(counted)
    assert all(address(url) == url for url in votes)


LINES = "".join(json.dumps(post(f"http://a.example/{n}", n)) + "\n" for n in range(2000)).encode()
PACKED = {".zst": zstd.compress, ".xz": lzma.compress, ".gz": gzip.compress}


@pytest.mark.parametrize("suffix", PACKED)
def test_a_packed_dump_is_read_to_its_end(tmp_path, suffix):
    path = tmp_path / f"RS{suffix}"
    path.write_bytes(PACKED[suffix](LINES))
    assert len(count_votes(path)[0]) == 2000
    path.write_bytes(PACKED[suffix](LINES[:1000]) + PACKED[suffix](LINES[1000:]))
    assert len(count_votes(path)[0]) == 2000


@pytest.mark.parametrize("suffix", PACKED)
@pytest.mark.parametrize("keep", [0.01, 0.5, 0.99])
def test_a_dump_that_is_cut_off_is_refused_whole(tmp_path, suffix, keep):
    path = tmp_path / f"RS{suffix}"
    packed = PACKED[suffix](LINES)
    path.write_bytes(packed[: int(len(packed) * keep)])
    with pytest.raises(SeedError, match=f"RS{suffix}: .*cut off or damaged"):
        list(seeds_of_dump(path))


@pytest.mark.parametrize("suffix", PACKED)
def test_a_damaged_dump_is_refused(tmp_path, suffix):
    path = tmp_path / f"RS{suffix}"
    packed = bytearray(PACKED[suffix](LINES))
    packed[len(packed) // 2 : len(packed) // 2 + 40] = bytes(40)
    path.write_bytes(packed)
    with pytest.raises(SeedError, match=f"RS{suffix}: "):
        list(seeds_of_dump(path))


@pytest.mark.parametrize("suffix", [*PACKED, ".ndjson"])
def test_an_empty_file_holds_no_submissions(tmp_path, suffix):
    path = tmp_path / f"RS{suffix}"
    path.write_bytes(b"")
    with pytest.raises(SeedError, match=f"RS{suffix}: "):
        list(seeds_of_dump(path))


def test_a_file_without_submissions_is_refused_and_one_of_other_posts_is_not(tmp_path):
    path = tmp_path / "x.ndjson"
    path.write_text("http://a.example/\nhttp://b.example/\n")
    with pytest.raises(SeedError, match="no line is a submission"):
        list(seeds_of_dump(path))
    assert list(seeds_of_dump(dump(path, [post(is_self=True)]))) == []


def test_a_directory_or_a_missing_file_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "missing.zst"):
        with pytest.raises(SeedError, match=str(path)):
            list(seeds_of_dump(path))
    with pytest.raises(SeedError, match="neither a URL"):
        list(read_seeds(str(tmp_path)))


def test_frames_with_long_windows_are_read(tmp_path):
    """Beyond the 128 MiB that a decompressor takes by default; the dumps go up to 2 GiB."""
    path = tmp_path / "RS.zst"
    options = {zstd.CompressionParameter.window_log: 28, zstd.CompressionParameter.content_size_flag: 0}
    packer = zstd.ZstdCompressor(options=options)
    path.write_bytes(packer.compress(LINES) + packer.flush())
    with pytest.raises(zstd.ZstdError), zstd.open(path) as stream:
        stream.read()
    assert len(count_votes(path)[0]) == 2000


@pytest.mark.parametrize(
    ("name", "pages", "first"),
    [
        ("RS_v2_2005-06.xz", 103, ("http://www.downingstreetmemo.com/", 183.0)),
        ("RS_v2_2005-07.xz", 1073, ("http://www.google.com/", 154.0)),
        ("top-posts-sample.ndjson.zst", 17_900,
         ("http://www.theautochannel.com/news/2009/08/11/473711.html", 5430.0)),
    ],
)  # fmt: skip
def test_real_dumps_are_read(dumps, name, pages, first):
    votes, dropped = count_votes(dumps / name)
    assert len(votes) == pytest.approx(pages, rel=0.01)
    assert dropped["bad_line"] == 0
    assert sum("&amp;" in url for url in votes) < 0.01 * pages, "only what submitters escaped themselves"
    assert next(seeds_of_dump(dumps / name)) == Seed(*first, name)
