"""The generated Reddit dump, read back as a real one is."""

import json
from collections import Counter, defaultdict
from pathlib import Path
from statistics import mean

import pytest
from backports import zstd

from deploy.demo.dump import write_dump
from deploy.demo.sites import discover

SITES = discover(["rich", "markdown-it-py", "hypothesis", "python"])
POSTS = 8000
FIELDS = {
    *("id", "url", "score", "is_self", "permalink", "subreddit", "over_18", "selftext", "domain"),
    *("created_utc", "retrieved_on", "num_comments", "title", "author"),
}


def lines(path: Path) -> list[bytes]:
    options = {zstd.DecompressionParameter.window_log_max: 31}
    with zstd.open(path, options=options) as file:
        return file.read().splitlines()


def decoded(path: Path) -> tuple[list[dict], int]:
    posts, broken = [], 0
    for line in lines(path):
        try:
            posts.append(json.loads(line))
        except ValueError:
            broken += 1
    return posts, broken


@pytest.fixture(scope="module")
def dump(tmp_path_factory):
    path = tmp_path_factory.mktemp("dump") / "RS_2024-01.zst"
    write_dump(path, SITES, posts=POSTS)
    return path


@pytest.fixture(scope="module")
def posts(dump):
    return decoded(dump)[0]


def test_a_dump_has_every_post_and_one_broken_line(dump):
    posts, broken = decoded(dump)
    assert (len(posts), broken) == (POSTS, 1)


def test_every_post_has_the_fields_of_the_public_dumps(posts):
    assert all(post.keys() >= FIELDS for post in posts)
    assert len({post["id"] for post in posts}) == POSTS
    assert all(post["created_utc"] < post["retrieved_on"] for post in posts)


def test_the_window_is_too_long_for_a_reader_that_does_not_ask(dump):
    with zstd.open(dump) as file, pytest.raises(zstd.ZstdError, match="memory"):
        file.read()


def test_the_same_sites_give_the_same_lines(tmp_path):
    paths = [tmp_path / name for name in ("a", "b")]
    for path in paths:
        write_dump(path, SITES, posts=300)
    first, again = (lines(path) for path in paths)
    assert first == again


def test_links_lead_to_the_hosts_of_the_sites_and_to_the_faulty_ones(posts):
    domains = {post["domain"] for post in posts if not post["is_self"]}
    assert {site.host for site in SITES} <= domains
    assert {"calendar.test", "mirror.test", "redirects.test"} <= domains


def test_what_makes_real_dumps_hard_is_there(posts):
    urls = Counter(post["url"] for post in posts)
    assert any(post["is_self"] and ".test/" in post["selftext"] for post in posts)
    assert any(post["over_18"] for post in posts)
    assert any(post.get("removed_by_category") for post in posts)
    assert any(post.get("promoted") for post in posts)
    assert any("utm_source" in url for url in urls)
    assert {"", "http://[::1"} <= set(urls)
    assert urls["http://rich.test/"] > 1
    assert any(post["score"] == 1 and post["retrieved_on"] - post["created_utc"] < 60 for post in posts)


def test_a_crossposts_link_is_its_parents(posts):
    crossposts = [post for post in posts if "crosspost_parent" in post]
    assert crossposts
    for post in crossposts:
        (parent,) = post["crosspost_parent_list"]
        assert post["crosspost_parent"] == f"t3_{parent['id']}"
        assert post["url"].startswith("https://www.reddit.com/")
        assert ".test/" in parent["url"]


def test_home_pages_earn_more_than_sources_and_traps_and_scores_have_a_heavy_tail(posts):
    scores = defaultdict(list)
    for post in posts:
        kind = "source" if "/src/" in post["url"] else "trap" if "calendar" in post["url"] else ""
        scores[kind or ("home" if post["url"].endswith(".test/") else "other")].append(post["score"])
    assert mean(scores["home"]) > mean(scores["source"])
    assert mean(scores["home"]) > mean(scores["trap"])
    ordered = sorted(post["score"] for post in posts)
    assert ordered[-1] > 20 * max(ordered[len(ordered) // 2], 1)
