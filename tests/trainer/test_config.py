"""Settings that cannot work are refused by name, and help does not load torch."""

import subprocess
import sys

import pytest

from tinylm.errors import ConfigError
from trainer.config import ModelConfig, PretrainConfig, identity


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("width", 30),
        ("kv_heads", 3),
        ("vocab_size", 100),
        ("layers", -1),
        ("tokens_per_step", 1000),
        ("learning_rate", -1.0),
        ("warmup", 1.5),
        ("decay", 0.99),
        ("steps", 0),
        ("grad_clip", -0.1),
        ("eval_every", -1),
    ],
)
def test_a_setting_that_cannot_work_is_named(field, value):
    with pytest.raises(ConfigError, match=str(value)):
        PretrainConfig(**{field: value})


def test_the_model_takes_the_vocabulary_the_tokenizer_came_out_with():
    assert PretrainConfig(width=64).model(300) == ModelConfig(width=64, vocab_size=300)


def test_folders_and_logging_are_no_part_of_a_runs_identity():
    one = PretrainConfig(out="a", shards="b", log_every=1, checkpoint_every=7)
    assert identity(one) == identity(PretrainConfig())
    assert identity(one) != identity(PretrainConfig(seed=1))


def test_settings_are_read_without_loading_torch():
    code = "import sys, trainer.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
