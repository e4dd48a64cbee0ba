"""A model as judge: the better it predicts a text, the more the text is worth."""

import math

import pytest

from trainer.config import PretrainConfig
from trainer.evaluate import CheckpointQuality, bits_per_byte
from trainer.pretrain import pretrain
from trainer.run.checkpoint import CheckpointError, load_model


@pytest.fixture(scope="module")
def run(corpus, tmp_path_factory):
    """A run of a few seconds on the little corpus."""
    shape = {"vocab_size": 320, "sequence_len": 32, "width": 16, "layers": 2, "heads": 2, "kv_heads": 1}
    course = {"device_batch_size": 2, "tokens_per_step": 256, "steps": 8, "lanes": 4, "learning_rate": 0.01}
    out = tmp_path_factory.mktemp("quality") / "run"
    pretrain(PretrainConfig(**shape, **course, shards=corpus, out=out))
    return out


def test_it_is_the_mean_probability_of_a_byte(run, texts):
    model = CheckpointQuality(run)
    bits = bits_per_byte(*load_model(run), [texts[5]])
    assert model.score(texts[5]) == pytest.approx(2**-bits)
    assert model.name == "checkpoint run/step_000008"


def test_text_like_what_it_learned_is_worth_more(run, texts):
    model = CheckpointQuality(run)
    assert model.score(texts[5]) > 1.2 * model.score("".join(chr(0x4E00 + n * 7) for n in range(300)))


@pytest.mark.parametrize("text", ["", "x", "\ud800", "\0" * 9, "word " * 100_000])
def test_any_text_has_a_score_in_bounded_time(run, text):
    score = CheckpointQuality(run).score(text)
    assert 0 <= score <= 1
    assert math.isfinite(score)


def test_what_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint here"):
        CheckpointQuality(tmp_path)
