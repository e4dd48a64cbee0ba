"""What cannot work is refused by the name of its field before anything is opened; the rest is estimated."""

import socket

import pytest
import torch

from tinylm.errors import ConfigError
from trainer.model.model import GPT
from trainer.pretrain import pretrain
from trainer.run import preflight
from trainer.run.distributed import World
from trainer.run.preflight import check


@pytest.fixture(autouse=True)
def no_sockets(monkeypatch):
    def refused(*_args, **_kwargs):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refused)
    monkeypatch.setattr("trainer.run.distributed.TCPStore", refused)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"wandb": "project"}, r"wandb = 'project': the package is not installed: pip install wandb"),
        (
            {"device_batch_size": 2**23, "tokens_per_step": 2**28},
            r"device_batch_size = 8388608: 2 ranks of ",
        ),
        ({"width": 2**15, "layers": 64}, r"parallel = 'ddp': 2 ranks of .* do not fit into .* GB; shard it"),
        ({"tokens_per_step": 100}, r"tokens_per_step = 100: must be a multiple"),
        ({"bad_steps": 0}, r"bad_steps = 0: must be above 0"),
        ({"z_loss": -1.0}, r"z_loss = -1.0: a number from 0 to"),
    ],
)
def test_what_cannot_work_is_refused_by_name(tiny, changes, said):
    with pytest.raises(ConfigError, match=said):
        pretrain(tiny(**changes))


def test_compiling_needs_a_compiler(tiny, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match=r"compile = True: needs a C\+\+ compiler"):
        pretrain(tiny(compile=True))


@pytest.mark.parametrize("changed", [{"norm": "batch", "activation_checkpointing": True}, {"norm": "batch"}])
def test_batch_norm_keeps_the_averages_of_one_rank_that_runs_a_layer_once(tiny, monkeypatch, changed):
    if "activation_checkpointing" not in changed:
        monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="norm = 'batch': keeps averages"):
        pretrain(tiny(**changed))


def test_the_estimate_counts_the_model_that_will_be_made(tiny):
    config = tiny(steps=10)
    found = check(config, config.model(320), 10)
    model = GPT(config.model(320))
    assert found.parameters == model.parameters_count
    assert found.tokens == 10 * config.tokens_per_step
    assert found.flops == found.tokens * model.flops_per_token
    assert found.memory > 28 * found.parameters
    text = found.describe(1e9)
    assert f"{found.tokens / found.parameters:.1f} a parameter" in text
    assert found.seconds(1e9) == pytest.approx(2 * found.flops / 1e9)


def test_shards_and_recomputing_take_less_memory(tiny):
    config = tiny(width=256, layers=8, device_batch_size=8)
    memory = preflight.estimate(config, config.model(320), 1).memory
    for changes in ({"parallel": "fsdp"}, {"activation_checkpointing": True}):
        other = tiny(width=256, layers=8, device_batch_size=8, **changes)
        assert preflight.estimate(other, other.model(320), 1).memory < memory


def test_bf16_is_for_gpus_unless_asked_for():
    cpu = torch.device("cpu")
    assert preflight.training_dtype("auto", cpu) == torch.float32
    assert preflight.training_dtype("bf16", cpu) == torch.bfloat16
    assert preflight.peak_flops(cpu, torch.float32) > 1e8


@pytest.mark.parametrize(
    ("native", "said"), [(True, "1 x cpu, bf16, Newton-Schulz in bf16"), (False, "emulated")]
)
def test_what_was_chosen_by_the_hardware_is_said(tiny, monkeypatch, native, said):
    monkeypatch.setattr(preflight, "has_bf16", lambda _device: native)
    config = tiny(optimizer="muon", precision="bf16")
    assert said in preflight.describe_hardware(config, World())
