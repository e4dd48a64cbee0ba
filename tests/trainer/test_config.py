"""Settings that cannot work are refused by name, and help does not load torch."""

import math
import re
import subprocess
import sys
from dataclasses import fields
from typing import get_args

import pytest

from tinylm.config import tables
from tinylm.errors import ConfigError
from trainer.config import ModelConfig, PretrainConfig, SamplingConfig, identity
from trainer.run.preflight import check


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


@pytest.mark.parametrize("owner", [*tables().values(), SamplingConfig], ids=lambda owner: owner.__name__)
def test_every_number_is_finite_and_whole_where_it_counts(owner):
    for field in fields(owner):
        kinds = get_args(field.type) or (field.type,)
        if {int, float}.isdisjoint(kinds):
            continue
        for value in (math.inf, -math.inf, math.nan, "1", True, 1e39, *([2.5] if int in kinds else [])):
            with pytest.raises(ConfigError, match="^" + re.escape(f"{field.name} = {value!r}: ")):
                owner(**{field.name: value})


def test_the_largest_sizes_are_more_memory_than_there_is_and_nothing_worse():
    sizes = {"width": 2**20, "heads": 2**20, "head_width": 2**20, "mlp_ratio": 1024, "layers": 1}
    config = PretrainConfig(**sizes)
    with pytest.raises(ConfigError, match="not fit into"):
        check(config, config.model(2**22), 10**15)


def test_the_model_takes_the_vocabulary_the_tokenizer_came_out_with():
    assert PretrainConfig(width=64).model(300) == ModelConfig(width=64, vocab_size=300)


def test_folders_and_logging_are_no_part_of_a_runs_identity():
    one = PretrainConfig(out="a", shards="b", log_every=1, checkpoint_every=7)
    assert identity(one) == identity(PretrainConfig())
    assert identity(one) != identity(PretrainConfig(seed=1))


def test_settings_are_read_without_loading_torch():
    code = "import sys, trainer.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
