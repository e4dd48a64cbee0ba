"""What a run is going to take, whether it can work at all, and what the machine can do.

`check`, which comes first, touches neither a socket nor a GPU.
"""

import os
import shutil
import time
from dataclasses import dataclass
from functools import lru_cache

import torch

from tinylm.config import require
from tinylm.errors import ConfigError
from trainer.config import ModelConfig, TrainConfig
from trainer.model.loss import LOGITS_AT_ONCE
from trainer.model.model import GPT
from trainer.run.distributed import World, environment
from trainer.run.metrics import check_installed, duration

# Tokens a parameter at which a given amount of arithmetic is spent best (arXiv 2203.15556).
_CHINCHILLA = 20
_EXPECTED_MFU = 0.5  # share of the peak that is planned with; the time that is told is in inverse proportion
# Bytes a parameter: itself, its gradient and two moments, in fp32; and on a CPU the copy of three of the four
# (all but the gradient) that is being written.
_BYTES, _COPIED = 16, 12
# Dense bf16 of the vendors' data sheets, in TFLOPS; what is not here is measured.
_DATA_SHEET = {"H200": 989, "H100": 989, "A100": 312, "L40S": 362, "A10": 125, "4090": 165, "MI300X": 1307}


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
    ranks = environment("LOCAL_WORLD_SIZE", 1)
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if device.type == "cuda":  # each rank has one of its own
        ranks, there = 1, torch.cuda.get_device_properties(device).total_memory
    if expected.memory * ranks > there:
        field, advice = "device_batch_size", "lower it, or set activation_checkpointing"
        if _bytes_a_parameter() * expected.parameters > there / ranks and config.parallel == "ddp":
            field, advice = "parallel", "shard it over more ranks with fsdp, or make the model smaller"
        elif config.activation_checkpointing:
            advice = "lower it"
        raise ConfigError(
            f"{field} = {getattr(config, field)!r}: {ranks} ranks of {expected.memory / 1e9:.1f} GB each do "
            f"not fit into {there / 1e9:.1f} GB; {advice}"
        )


def _memory(config: TrainConfig, model: GPT) -> int:
    """Weights, gradient, moments and, on CPUs, the copy that is written; activations; a chunk of logits."""
    sharers = environment("WORLD_SIZE", 1) if config.parallel == "fsdp" else 1
    kept = _bytes_a_parameter() * model.parameters_count / sharers
    if sharers > 1:  # while it is measured, each rank holds all weights, 4 bytes each
        kept += 4 * model.parameters_count
    shape = model.config
    tokens = config.device_batch_size * shape.sequence_len
    # Of a layer are kept about 16 tensors of its width, and 4 of that of its MLP, in fp32.
    in_a_layer = 4 * tokens * shape.width * (16 + 4 * shape.mlp_ratio)
    between = 4 * tokens * shape.width * shape.layers
    activations = between + in_a_layer if config.activation_checkpointing else in_a_layer * shape.layers
    # Three tensors of a chunk of logits, of 4 bytes a number.
    return round(kept + activations + 3 * 4 * LOGITS_AT_ONCE)


def _bytes_a_parameter() -> int:
    return _BYTES if torch.cuda.is_available() else _BYTES + _COPIED


def has_bf16(device: torch.device) -> bool:
    """Whether `device` multiplies in bf16 itself; emulated, it is 10 to 20 times slower than fp32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def training_dtype(precision: str, device: torch.device) -> torch.dtype:
    """What products are computed in, for a `TrainConfig.precision`."""
    if precision == "auto":
        precision = "bf16" if device.type == "cuda" and has_bf16(device) else "fp32"
    return torch.bfloat16 if precision == "bf16" else torch.float32


def describe_hardware(config: TrainConfig, world: World) -> str:
    """What was chosen by looking at the machine, and why."""
    dtype = training_dtype(config.precision, world.device)
    native = has_bf16(world.device)
    text = f"{world.size} x {world.device.type}, {'bf16' if dtype == torch.bfloat16 else 'fp32'}"
    if dtype == torch.bfloat16 and not native:
        text += " (emulated here: many times slower than fp32)"
    if config.optimizer == "muon":
        text += f", Newton-Schulz in {'bf16' if native else 'fp32 (no bf16 units here)'}"
    return text


@lru_cache
def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """FLOPs a second of this rank's device: the data sheet's for a known GPU, else of a large product.

    On a CPU that is with the threads this process has, while nothing else runs; about 0.1 seconds.
    """
    if device.type == "cuda" and dtype == torch.bfloat16:
        name = torch.cuda.get_device_name(device)
        for model, tera in _DATA_SHEET.items():
            if model in name:
                return tera * 1e12
    side = 1024 if device.type == "cpu" else 8192  # large enough for the device's full speed
    a = b = torch.ones(side, side, dtype=dtype, device=device)
    best = float("inf")
    for _ in range(4):  # the best of them, as the first is slow and others may be disturbed
        began = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    return 2 * side**3 / best
