"""Seeds: a URL, a file of URLs, and errors that name the file and the line."""

import json
import math

import pytest

from crawler.errors import SeedError
from crawler.seeds.read import read_seeds
from crawler.seeds.seed import Seed, checked


def test_a_url_is_a_seed_of_one_vote():
    assert list(read_seeds("HTTP://Example.com/a#b")) == [Seed("http://example.com/a", 1.0, "chosen")]


def test_a_file_has_a_url_a_line_with_priors_and_comments(tmp_path):
    path = tmp_path / "seeds.txt"
    path.write_bytes(
        "\ufeff# the first line\n\nhttp://a.example/\n  # indented\n  https://b.example/x \t 2.5 \r\n"
        "http://c.example/\t\n".encode()
    )
    assert list(read_seeds(str(path))) == [
        Seed("http://a.example/", 1.0, "seeds.txt"),
        Seed("https://b.example/x", 2.5, "seeds.txt"),
        Seed("http://c.example/", 1.0, "seeds.txt"),
    ]


@pytest.mark.parametrize(
    "line",
    ["example.com", "ftp://example.com/", "http://exa mple.com/", "http://a.example/ 5",
     "http://a.example/ # why", "http://", "/relative"],
)  # fmt: skip
def test_a_line_that_is_no_url_is_named(tmp_path, line):
    path = tmp_path / "seeds.txt"
    path.write_text(f"http://a.example/\n{line}\n")
    with pytest.raises(SeedError, match=f"{path}, line 2: .* is not an http or https URL"):
        list(read_seeds(str(path)))


@pytest.mark.parametrize("prior", ["many", "nan", "inf", "-1", "0", "1e999", "1 2"])
def test_a_prior_that_is_no_positive_number_is_named(tmp_path, prior):
    path = tmp_path / "seeds.txt"
    path.write_text(f"# seeds\nhttp://a.example/\t{prior}\n")
    with pytest.raises(SeedError, match=f"{path}, line 2: the prior"):
        list(read_seeds(str(path)))


def test_what_is_neither_url_nor_file_is_named(tmp_path):
    for given in (str(tmp_path / "missing.txt"), str(tmp_path), "example.com"):
        with pytest.raises(SeedError, match="neither a URL"):
            list(read_seeds(given))
    with pytest.raises(SeedError, match="the command line: 'ftp://x/' is not an http"):
        list(read_seeds("ftp://x/"))


def test_a_binary_file_is_not_a_list(tmp_path):
    path = tmp_path / "seeds.bin"
    path.write_bytes(b"http://a.example/\n\xff\xfe\x00")
    with pytest.raises(SeedError, match=f"{path}: not a text file"):
        list(read_seeds(str(path)))


def test_a_dump_is_known_by_its_suffix(tmp_path):
    path = tmp_path / "posts.ndjson"
    fields = {"url": "http://a.example/", "score": 9, "is_self": False, "subreddit": "science"}
    path.write_text(json.dumps(fields) + "\n")
    about_nine = pytest.approx(9, abs=0.01)  # the lower bound, of a subreddit whose posts are all alike
    assert list(read_seeds(str(path))) == [Seed("http://a.example/", about_nine, "reddit:science", 0.5)]


@pytest.mark.parametrize(
    "seed",
    [
        ("https://a.test/" + "a" * 2048, 1.0, "s"),
        ("https://a b.test/", 1.0, "s"),
        ("https://ä.test/", 1.0, "s"),
        (None, 1.0, "s"),
        ("https://a.test/", math.nan, "s"),
        ("https://a.test/", math.inf, "s"),
        ("https://a.test/", "1", "s"),
        ("https://a.test/", 1e10, "s"),
        ("https://a.test/", 1.0, "s" * 256),
        ("https://a.test/", 1.0, None),
        ("https://a.test/", 1.0),
        1,
    ],
)
def test_a_seed_beyond_its_bounds_is_refused(seed):
    good = Seed("https://b.test/?q=%20", 0.5, "é.txt")
    assert checked([list(good)]) == [good]
    with pytest.raises(SeedError):
        checked([good, seed])
