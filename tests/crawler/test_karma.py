"""Karma: sums over submissions with error bars, the reasons of what was left out, each file once."""

import bz2
import gzip
import json
import lzma
import random
import subprocess
import sys
from collections import Counter
from functools import partial

import duckdb
import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.submissions import drawn, schemas
from crawler.errors import SeedError
from crawler.seeds.config import RedditConfig
from crawler.seeds.dumps import posts_of
from crawler.seeds.karma import FACTS, seeds_of_dumps
from crawler.seeds.ledger import Ledger
from crawler.seeds.read import read_seeds
from crawler.seeds.seed import Progress
from crawler.urls import address
from tests.conftest import eventually

NOON = 1_500_000_000
ANY = RedditConfig(least_votes=0)


def post(url="http://a.example/", score=5, **fields):
    return {"url": url, "score": score, "subreddit": "science", "is_self": False, "over_18": False} | fields


def dump(path, posts):
    path.write_text("".join(json.dumps(entry) + "\n" for entry in posts))
    return path


def karma(*dumps, config=ANY, place=":memory:", ledger=None):
    """The facts of each page by its URL, in order, and what was left out."""
    progress, found = Progress(), {}
    with ledger or Ledger(":memory:") as kept:
        for batch in seeds_of_dumps(dumps, config, place, kept, progress):
            for seed, facts in zip(batch.seeds, zip(*batch.facts.values(), strict=True), strict=True):
                found[seed.url] = seed._asdict() | dict(zip(FACTS, facts, strict=True))
    return found, +progress.dropped


def count(tmp_path, *posts):
    found, dropped = karma(dump(tmp_path / "posts.ndjson", posts))
    return {url: of["votes"] for url, of in found.items()}, dropped


def test_votes_are_summed_over_all_submissions_of_a_page(tmp_path):
    path = dump(tmp_path / "posts.ndjson", [
        post("http://a.example/?utm_source=reddit", 5, author="x"),
        post("HTTP://A.example:80/#top", 7, subreddit="books", author="y"),
        post("http://a.example/?utm_source=reddit", 3, author="x"),
        post("http://b.example/", 1),
    ])  # fmt: skip
    found, dropped = karma(path)
    assert not dropped
    [a, b] = sorted(found.values(), key=lambda of: -of["votes"])
    assert address(a["url"]) == a["url"]
    assert (a["votes"], a["posts"], a["subreddits"], a["authors"], a["max"]) == (15, 3, 2, 2, 7)
    assert (b["url"], b["votes"]) == ("http://b.example/", 1)
    assert (a["source"], b["source"]) == ("reddit:books", "reddit:science")


def test_a_seed_needs_three_votes(tmp_path):
    scores = {"d": 2, "c": 3, "b": 9, "e": -8}
    path = dump(
        tmp_path / "x.ndjson", [post(f"http://{name}.example/", score) for name, score in scores.items()]
    )
    assert [*karma(path, config=RedditConfig())[0]] == ["http://b.example/", "http://c.example/"]


def test_a_crosspost_counts_once_and_for_the_page_it_shows(tmp_path):
    crosspost = post(
        "/r/science/comments/1/", 4, crosspost_parent_list=[post("http://a.example/", 100, id="parent")]
    )
    votes, dropped = count(tmp_path, crosspost, post("http://a.example/", 100))
    assert votes == {"http://a.example/": 104}
    assert not dropped


def test_the_url_that_is_shown_counts_as_reddits_html_has_it(tmp_path):
    assert count(
        tmp_path,
        post("http://x.example/", url_overridden_by_dest="http://y.example/"),
        post("http://z.example/?a=1&amp;copy=2&amp;amp;", crosspost_parent_list=[]),
    )[0].keys() == {"http://y.example/", "http://z.example/?a=1&copy=2&amp;"}


@pytest.mark.parametrize(
    ("reason", "entry"),
    [
        ("", post()),
        ("", post(retrieved_on=str(NOON + 90_000), created_utc=str(NOON))),
        ("", post("http://notreddit.com/a.html?x=.jpg")),
        ("", post(title='a "quoted" "is_self":true and "domain":"self.x"')),
        ("self_post", post(is_self=True)),
        ("self_post", post(domain="self.science")),
        ("self_post", post(domain="self.AskReddit", subreddit="AskReddit", is_self=None)),
        ("", post(domain="self.com")),
        ("", post(domain="self.longer-name.example.org")),
        ("adult", post(over_18=True)),
        ("advertisement", post(promoted=True)),
        ("removed", post(removed_by_category="moderator")),
        ("removed", post(removal_reason="legal")),
        ("removed", post(banned_by="somebody")),
        ("removed", post(removed=True)),
        ("removed", post(is_robot_indexable=False)),
        ("removed", post(_meta={"was_deleted_later": True})),
        ("no_url", post("")),
        ("no_url", post(None)),
        ("not_text", post("http://i.imgur.com/a")),
        ("not_text", post("http://www.youtube.com/watch?v=1")),
        ("not_text", post("https://old.REDDIT.com/r/x")),
        ("not_text", post("http://a.example/PICTURE.JPG?x=1")),
        ("not_text", post("http://a.example/", domain="i.redd.it")),
        ("not_text", post(is_gallery=True)),
        ("not_text", post("http://pictures.own.example/1")),
    ],
)
@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
def test_a_submission_is_left_out_for_one_reason(tmp_path, reason, entry, separators):
    path = tmp_path / "posts.ndjson"
    path.write_text(json.dumps(entry, separators=separators) + "\n")
    config = RedditConfig(least_votes=0, media_hosts=("own.example",))
    found, dropped = karma(path, config=config)
    assert dropped == ({reason: 1} if reason else {})
    assert len(found) == (not reason)


@pytest.mark.parametrize("url", ["ftp://a.example/", "http://[::1/", "http://a b/", "javascript:void(0)"])
def test_a_url_that_is_none_is_counted_as_such(tmp_path, url):
    assert count(tmp_path, post(url))[1] == {"bad_url": 1}


@pytest.mark.parametrize(
    "line",
    ["", "{", "[]", "[1]", "null", '"x"', "[" * 100_000, '{"url": "http://a.example/", "score": NaN}',
     '{"url": "http://a.example/", "score": 1e999}', '{"url": "http://a.example/", "score": "hidden"}',
     '{"url": "http://a.example/", "score": ' + "9" * 400 + "}", b"\xff\xfe{}"],
)  # fmt: skip
def test_a_bad_line_is_counted_and_the_rest_is_read(tmp_path, line):
    path = tmp_path / "posts.ndjson"
    path.write_bytes(
        (line if isinstance(line, bytes) else line.encode()) + f"\n{json.dumps(post())}\n".encode()
    )
    found, dropped = karma(path)
    assert [of["votes"] for of in found.values()] == [5]
    assert dropped == {"bad_line": 1}


@pytest.mark.parametrize(
    "odd",
    [{"crosspost_parent_list": [None]}, {"crosspost_parent_list": {"a": 1}}, {"_meta": "x"}, {"author": [1]}],
)
def test_a_field_of_another_type_counts_as_not_there(tmp_path, odd):
    assert count(tmp_path, post(**odd)) == ({"http://a.example/": 5}, {})


URLS = ["http://a.example/", "http://A.example", "http://b.example/?x=1", "http://imgur.com/", "no"]


@settings(max_examples=25)
@given(st.lists(st.tuples(st.sampled_from(URLS), st.integers(-1000, 1000))))
def test_every_submission_is_counted_or_left_out_and_no_vote_is_lost(tmp_path_factory, submissions):
    path = dump(tmp_path_factory.mktemp("dump") / "posts.ndjson", [post(*each) for each in submissions])
    counted = [score for url, score in submissions if url != "no" and "imgur" not in url]
    if not submissions:
        return
    found, dropped = karma(path, config=RedditConfig(least_votes=0))
    sums = Counter()
    for url, score in submissions:
        sums[url.lower().rstrip("/")] += score
    kept = {url.rstrip("/"): of["votes"] for url, of in found.items()}
    assert len(counted) + dropped.total() == len(submissions)
    assert kept == {url: votes for url, votes in sums.items() if url in kept}
    assert all(votes < 0 for url, votes in sums.items() if "example" in url and url not in kept)
    assert all(
        of["prior"] <= max(0, of["karma"]) + 1e-3 and 0 <= of["precision"] <= 1 for of in found.values()
    )


# What a vote says


def test_a_vote_counts_for_more_where_votes_are_few_and_several_posts_are_surer_than_one(tmp_path):
    source = random.Random(1)
    usual = [
        post(
            f"http://{subreddit}.example/{n}", round(level * source.lognormvariate(0, 1)), subreddit=subreddit
        )
        for subreddit, level in (("small", 5), ("large", 500))
        for n in range(300)
    ]
    told = [post(f"http://{subreddit}.told/", 500, subreddit=subreddit) for subreddit in ("small", "large")]
    often = [post("http://often.told/", 500, subreddit="large") for _ in range(5)]
    found, _ = karma(dump(tmp_path / "x.ndjson", usual + told + often))
    small, large, many = (found[f"http://{name}.told/"] for name in ("small", "large", "often"))
    assert small["karma"] > 2 * large["karma"]
    assert small["precision"] == large["precision"] < many["precision"]
    assert many["karma_se"] / many["karma"] < 0.6 * large["karma_se"] / large["karma"]
    assert small["prior"] < small["karma"]


def test_early_scores_are_imputed_from_their_month_subreddit_and_age(tmp_path):
    source = random.Random(2)
    settled = [
        post(f"http://{subreddit}.example/{n}", round(level * source.lognormvariate(0, 0.5)),
             subreddit=subreddit, created_utc=NOON, retrieved_on=NOON + 90_000)
        for subreddit, level in (("small", 10), ("large", 1000))
        for n in range(200)
    ]  # fmt: skip
    early = [
        post(f"http://{subreddit}.early/{hours}", 1, subreddit=subreddit, created_utc=NOON,
             retrieved_on=NOON + 3600 * hours)
        for subreddit in ("small", "large")
        for hours in (0, 12)
    ]  # fmt: skip
    found, dropped = karma(dump(tmp_path / "x.ndjson", settled + early))
    assert not dropped
    assert 5 < found["http://small.early/0"]["votes"] < 20
    assert 500 < found["http://large.early/0"]["votes"] < 2000
    # Seconds after it was posted a score says nothing of the page.
    assert found["http://large.early/0"]["precision"] == 0 < found["http://large.early/12"]["precision"]


def test_of_a_month_with_early_scores_only_they_are_what_is_known(tmp_path):
    early = [post(f"http://a.example/{n}", n, created_utc=NOON, retrieved_on=NOON + 5) for n in range(1, 9)]
    assert {of["votes"] for of in karma(dump(tmp_path / "x.ndjson", early))[0].values()} == set(range(1, 9))


# Files

LINES = "".join(json.dumps(post(f"http://a.example/{n}", n)) + "\n" for n in range(2000)).encode()
PACKED = {".zst": zstd.compress, ".xz": lzma.compress, ".gz": gzip.compress, ".bz2": bz2.compress}


@pytest.mark.parametrize("suffix", PACKED)
def test_a_packed_dump_is_read_to_its_end(tmp_path, suffix):
    path = tmp_path / f"RS{suffix}"
    for packed in (PACKED[suffix](LINES), PACKED[suffix](LINES[:1000]) + PACKED[suffix](LINES[1000:])):
        path.write_bytes(packed)
        assert len(karma(path)[0]) == 2000


@pytest.mark.parametrize("suffix", PACKED)
@pytest.mark.parametrize("keep", [0.01, 0.5, 0.99])
def test_a_dump_that_is_cut_off_gives_no_seeds_until_it_is_whole(tmp_path, suffix, keep):
    path, place = tmp_path / f"RS{suffix}", tmp_path / "karma.duckdb"
    packed = PACKED[suffix](LINES)
    path.write_bytes(packed[: int(len(packed) * keep)])
    with pytest.raises(SeedError, match=f"RS{suffix}: .*cut off or damaged"):
        karma(path, place=place)
    path.write_bytes(packed)
    assert len(karma(path, place=place)[0]) == 2000


@pytest.mark.parametrize("suffix", PACKED)
def test_a_damaged_dump_is_refused(tmp_path, suffix):
    path = tmp_path / f"RS{suffix}"
    packed = bytearray(PACKED[suffix](LINES))
    packed[len(packed) // 2 : len(packed) // 2 + 40] = bytes(40)
    path.write_bytes(packed)
    with pytest.raises(SeedError, match=f"RS{suffix}: "):
        karma(path)


@pytest.mark.parametrize("suffix", [*PACKED, ".ndjson"])
def test_an_empty_file_holds_no_submissions(tmp_path, suffix):
    path = tmp_path / f"RS{suffix}"
    path.write_bytes(b"")
    with pytest.raises(SeedError, match=f"RS{suffix}: "):
        karma(path)


def test_a_file_without_submissions_is_refused_and_one_of_other_posts_is_not(tmp_path):
    path = tmp_path / "x.ndjson"
    path.write_text("http://a.example/\nhttp://b.example/\n")
    with pytest.raises(SeedError, match="no line is a submission"):
        karma(path)
    assert karma(dump(path, [post(is_self=True)]))[0] == {}


def test_a_directory_or_a_missing_file_is_refused(tmp_path):
    for path in (tmp_path, tmp_path / "missing.zst"):
        with pytest.raises(SeedError, match=str(path)):
            karma(path)
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
    assert len(karma(path)[0]) == 2000


def test_several_dumps_are_one_sum_and_each_is_read_once(tmp_path):
    place = tmp_path / "karma.duckdb"
    first = dump(tmp_path / "RS_1.ndjson", [post(score=4), post("http://b.example/", 9)])
    second = dump(tmp_path / "RS_2.ndjson", [post(score=5)])
    both = karma(first, second, place=place)[0]
    assert both["http://a.example/"]["votes"] == 9
    assert karma(first, second, place=place)[0] == both
    assert karma(second, place=place)[0].keys() == {"http://a.example/"}
    dump(second, [post(score=50)])  # another file of that name: what it held is not counted twice
    assert karma(first, second, place=place)[0]["http://a.example/"]["votes"] == 54


def test_a_second_run_gives_nothing_and_one_that_was_cut_short_the_rest(tmp_path):
    path = dump(tmp_path / "x.ndjson", [post(f"http://a.example/{n}", n) for n in range(2500)])
    make = partial(seeds_of_dumps, [path], RedditConfig(), tmp_path / "karma.duckdb")
    with Ledger(tmp_path / "sources.sqlite") as ledger:
        found = make(ledger, Progress())
        given = [seed.url for seed in next(found).seeds]
        next(found)  # given, but whoever gave it died before that was settled
        found.close()
    with Ledger(tmp_path / "sources.sqlite") as ledger:
        rest = [seed.url for batch in make(ledger, Progress()) for seed in batch.seeds]
        assert len(set(given + rest)) == len(given + rest) == 2497
        assert list(make(ledger, Progress())) == []


KILLED = """
import sys
from pathlib import Path
from crawler.seeds import karma
from crawler.seeds.config import RedditConfig
from crawler.seeds.ledger import Ledger
from crawler.seeds.seed import Progress
karma._COMMITTED, karma._ROWS = 500, 100
path, place = map(Path, sys.argv[1:])
list(karma.seeds_of_dumps([path], RedditConfig(), place, Ledger(":memory:"), Progress()))
"""


def test_a_killed_run_goes_on_in_the_middle_of_a_file(tmp_path, monkeypatch):
    source = random.Random(3)
    posts = [post(f"http://a.example/{source.randrange(900)}", source.randrange(99)) for _ in range(60_000)]
    path, place = dump(tmp_path / "x.ndjson", posts), tmp_path / "karma.duckdb"
    process = subprocess.Popen([sys.executable, "-c", KILLED, path, place])
    try:
        eventually(lambda: place.exists() and place.stat().st_size + wal(place) > 300_000)
    finally:
        process.kill()
        process.wait()
    starts = []
    read = posts_of

    def noted(path, start, *others):
        starts.append(start)
        return read(path, start, *others)

    monkeypatch.setattr("crawler.seeds.karma.posts_of", noted)
    found, _ = karma(path, place=place)
    assert starts[0] > 0
    assert {url: of["votes"] for url, of in found.items()} == count(tmp_path, *posts)[0]


def wal(place):
    path = place.with_name(place.name + ".wal")
    return path.stat().st_size if path.exists() else 0


# Memory and the file


def test_more_posts_than_memory_holds_are_summed_on_disk(tmp_path, monkeypatch):
    """What DuckDB cannot spill fails in this little: `distinct` in a group, texts in an aggregate."""
    monkeypatch.setattr("crawler.seeds.karma._MEMORY", "60MB")
    monkeypatch.setattr("crawler.seeds.karma._GROUPED", 200_000)
    place, pages, path = tmp_path / "karma.duckdb", 300_000, dump(tmp_path / "x.ndjson", [post()])
    karma(path, place=place)
    with duckdb.connect(str(place)) as db:
        db.execute(
            "insert into posts select 'http://a.example/a/path/of/some/length/' || i // 2, 's' || i % 1000, "
            "i % 7, 24300, 3 + i % 2, null, 1 from range(?) t(i)",
            [2 * pages],
        )
    with Ledger(":memory:") as ledger:
        given = votes = 0
        for batch in seeds_of_dumps([path], ANY, place, ledger, Progress()):
            given, votes = given + len(batch.seeds), votes + sum(batch.facts["votes"])
            assert set(batch.facts["subreddits"]) | set(batch.facts["authors"]) <= {1, 2}
    assert (given, votes) == (pages + 1, pytest.approx(7 * pages + 5))


def test_a_file_that_another_command_has_or_that_is_damaged_is_one_clear_error(tmp_path):
    path, place = dump(tmp_path / "x.ndjson", [post()]), tmp_path / "karma.duckdb"
    holds = "import duckdb, sys; db = duckdb.connect(sys.argv[1]); print(1, flush=True); sys.stdin.read()"
    argv = [sys.executable, "-c", holds, place]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        with pytest.raises(SeedError, match=r"karma\.duckdb: .*another command"):
            karma(path, place=place)
        other.stdin.close()
    assert len(karma(path, place=place)[0]) == 1
    place.write_bytes(b"no database" * 1000)
    with pytest.raises(SeedError, match=r"karma\.duckdb: .*remove it"):
        karma(path, place=place)


# Real ones


@pytest.mark.parametrize(
    ("name", "pages", "most"),
    [
        ("RS_v2_2005-06.xz", 103, 183),
        ("RS_v2_2005-07.xz", 1073, 154),
        ("top-posts-sample.ndjson.zst", 17_900, 5430),
    ],
)
def test_real_dumps_are_read(dumps, name, pages, most):
    found, dropped = karma(dumps / name)
    assert len(found) == pytest.approx(pages, rel=0.05)
    assert dropped["bad_line"] == 0
    assert max(of["votes"] for of in found.values()) == most
    assert sum("&amp;" in url for url in found) < 0.01 * pages, "only what submitters escaped themselves"


def test_posts_of_every_month_since_2005_are_read(dumps, tmp_path):
    months, source = schemas(dumps / "arctic-shift-schemas.tar.zst"), random.Random(4)
    assert len(months) > 230
    for month, kinds in months.items():
        posts = [drawn(source, kinds) for _ in range(8)]
        for each in posts[:4]:
            each |= {
                "url": f"http://{month.lower().replace('_', '-')}.example/",
                "is_self": False,
                "domain": "x.example",
            }
        dropped = Counter()
        path = dump(tmp_path / f"{month}.ndjson", posts)
        read = [each for each, _ in posts_of(path, 0, dropped, lambda *_: None) if each]
        assert len(read) + dropped.total() == 8
        assert dropped["bad_line"] <= sum(post.get("score") is None for post in posts)
        assert all(isinstance(each.score, float) and each.month >= 0 for each in read)
