"""What the machine can do: which precision is fast on it, and how fast its matrix products are."""

import os
import time
from functools import lru_cache

import torch

from trainer.config import TrainConfig
from trainer.run.distributed import World

# Dense bf16 of the vendors' data sheets, in TFLOPS; what is not here is measured.
_DATA_SHEET = {"H200": 989, "H100": 989, "A100": 312, "L40S": 362, "A10": 125, "4090": 165, "MI300X": 1307}


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
    return measured_flops(device, dtype, (1024, 1024, 1024) if device.type == "cpu" else (8192, 8192, 8192))


def measured_flops(
    device: torch.device, dtype: torch.dtype, shape: tuple[int, int, int], times: int = 3
) -> float:
    """Best rate of `times` products (m, k) @ (k, n), in FLOPs a second, for `shape` = (m, k, n)."""
    m, k, n = shape
    a, b = (torch.ones(size, dtype=dtype, device=device) for size in ((m, k), (k, n)))
    best = float("inf")
    for _ in range(times + 1):
        began = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    return 2 * m * k * n / best


def memory_bytes(device: torch.device) -> int:
    """All memory of `device`, whoever uses it now."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
