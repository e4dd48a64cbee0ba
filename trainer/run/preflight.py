"""What a run is going to take, and whether it can work at all; nothing here touches a socket or a GPU."""

import os
import shutil
from dataclasses import dataclass

import torch

from tinylm.config import require
from tinylm.errors import ConfigError
from trainer.config import ModelConfig, TrainConfig
from trainer.model.loss import LOGITS_AT_ONCE
from trainer.model.model import GPT
from trainer.run.distributed import environment
from trainer.run.hardware import memory_bytes
from trainer.run.metrics import duration
from trainer.run.trackers import check_installed

_CHINCHILLA = 20
"""Tokens a parameter at which a given amount of arithmetic is spent best (arXiv 2203.15556)."""
_EXPECTED_MFU = 0.5
_BYTES, _COPIED = 16, 12
"""A parameter: itself, its gradient, two moments; and on a CPU the copy of three that is being written."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a run of `tokens` takes: `memory` in bytes a rank beyond torch itself, FLOPs in all."""

    parameters: int
    tokens: int
    memory: int
    flops: float

    def seconds(self, peak: float) -> float:
        """Time on devices of `peak` FLOPs a second together, of which half is what one gets."""
        return self.flops / (_EXPECTED_MFU * peak)

    def describe(self, peak: float) -> str:
        """All of it in a line."""
        ratio = self.tokens / self.parameters
        return (
            f"{self.parameters / 1e6:.2f} M parameters; {self.tokens / 1e6:.2f} M tokens, {ratio:.1f} a "
            f"parameter ({ratio / _CHINCHILLA:.2f} of Chinchilla's {_CHINCHILLA}); {self.flops:.1e} FLOPs, "
            f"about {duration(self.seconds(peak))} at half of this machine's {peak / 1e9:,.0f} GFLOPS; about "
            f"{self.memory / 1e6:.0f} MB a rank beyond torch itself"
        )


def estimate(config: TrainConfig, shape: ModelConfig, steps: int) -> Estimate:
    """For a run of `steps` with this model; its ranks are those torchrun's environment tells of."""
    with torch.device("meta"):
        model = GPT(shape)
    tokens = steps * config.tokens_per_step
    return Estimate(model.parameters_count, tokens, _memory(config, model), tokens * model.flops_per_token)


def check(config: TrainConfig, shape: ModelConfig, steps: int) -> Estimate:
    """The estimate of a run; raises `ConfigError` naming the field because of which it cannot work here."""
    check_installed(config)
    compiler = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")
    cpu = not torch.cuda.is_available()
    alone = not config.activation_checkpointing and environment("WORLD_SIZE", 1) == 1
    require(
        shape,
        "norm",
        shape.norm != "batch" or alone,
        "keeps averages, of one rank that runs each layer once: without activation_checkpointing",
    )
    require(config, "compile", not (config.compile and cpu) or compiler is not None, "needs a C++ compiler")
    expected = estimate(config, shape, steps)
    if cpu:
        check_memory(config, expected, torch.device("cpu"))
    return expected


def check_memory(config: TrainConfig, expected: Estimate, device: torch.device) -> None:
    """Raise `ConfigError` if the ranks on one machine do not fit into its memory, or one into its GPU's."""
    ranks = environment("LOCAL_WORLD_SIZE", 1) if device.type == "cpu" else 1
    there = memory_bytes(device)
    if expected.memory * ranks > there:
        field, advice = _largest(config, expected.parameters, there / ranks)
        raise ConfigError(
            f"{field} = {getattr(config, field)!r}: {ranks} ranks of {expected.memory / 1e9:.1f} GB each do "
            f"not fit into {there / 1e9:.1f} GB; {advice}"
        )


def _memory(config: TrainConfig, model: GPT) -> int:
    """Weights, gradient, moments and, on CPUs, the copy that is written; activations; a chunk of logits."""
    sharers = environment("WORLD_SIZE", 1) if config.parallel == "fsdp" else 1
    kept = _bytes_a_parameter() * model.parameters_count / sharers
    if sharers > 1:  # measured, the model is whole on each rank
        kept += 4 * model.parameters_count
    shape = model.config
    tokens = config.device_batch_size * shape.sequence_len
    in_a_layer = 4 * tokens * shape.width * (16 + 4 * shape.mlp_ratio)
    between = 4 * tokens * shape.width * shape.layers
    activations = between + in_a_layer if config.activation_checkpointing else in_a_layer * shape.layers
    return round(kept + activations + 3 * 4 * LOGITS_AT_ONCE)


def _bytes_a_parameter() -> int:
    return _BYTES if torch.cuda.is_available() else _BYTES + _COPIED


def _largest(config: TrainConfig, parameters: int, there: float) -> tuple[str, str]:
    """The field to name when a rank's memory does not suffice, and what to do."""
    if _bytes_a_parameter() * parameters > there and config.parallel == "ddp":
        return "parallel", "shard it over more ranks with fsdp, or make the model smaller"
    if not config.activation_checkpointing:
        return "device_batch_size", "lower it, or set activation_checkpointing"
    return "device_batch_size", "lower it"
