"""Many processes, one run: who am I, sums over all ranks, and one moment to stop for all.

torchrun's environment decides; without it there is one rank and nothing is connected. Ranks talk by gloo on
CPUs and NCCL on GPUs. Each restart that torchrun makes gets a prefix of its own in the key-value store, as
the addresses of the ranks that died are still in it, and connecting to those fails.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from types import FrameType
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore, TCPStore

from tinylm.errors import TinylmError
from tinylm.processes import die_with_parent


class DistributedError(TinylmError):
    """Ranks that cannot find each other, or lost one of them."""


@dataclass(frozen=True, slots=True)
class World:
    """This process's place among the ranks of a run."""

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    side: dist.ProcessGroup | None = None
    """For a thread beside the training (gloo); in one group they would take each other's data."""

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum of `tensor` over all ranks, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def gather(self, value: Any) -> list[Any]:
        """The `value` of every rank, in order of rank, on every rank."""
        values = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.size > 1:
            dist.barrier()


def speaks() -> bool:
    """Whether this is the rank that talks to people, for use before the ranks are connected."""
    return environment("RANK", 0) == 0


@contextlib.contextmanager
def connect(timeout_seconds: float) -> Iterator[World]:
    """Join the ranks torchrun started, or be the only one; leave them at the end.

    A collective that takes longer than `timeout_seconds` fails, so a dead rank never hangs the others:
    its loss is raised as `DistributedError`.
    """
    rank, size = environment("RANK", 0), environment("WORLD_SIZE", 1)
    local_rank, local_size = environment("LOCAL_RANK", 0), environment("LOCAL_WORLD_SIZE", 1)
    device = _device(local_rank)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        # A rank that outlived a killed torchrun would write to the run beside the command's next start.
        die_with_parent()
    if device.type == "cpu" and local_size > 1:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // local_size))
        # Its threads would only compete with the ranks.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if size == 1:
        yield World(device=device)
        return
    if local_size == size and sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    try:
        timeout = timedelta(seconds=timeout_seconds)
        _initialise(rank, size, device, timeout)
        yield World(rank, size, device, dist.new_group(backend="gloo", timeout=timeout))
    except (dist.DistError, RuntimeError) as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise DistributedError(
                f"rank {rank} lost touch with the others ({_first_line(error)}); "
                "start the same command again to go on from the last checkpoint"
            ) from error
        raise
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _initialise(rank: int, size: int, device: torch.device, timeout: timedelta) -> None:
    agent_has_the_store = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    store = TCPStore(
        os.environ.get("MASTER_ADDR", "127.0.0.1"),
        environment("MASTER_PORT", 29500),
        size,
        is_master=rank == 0 and not agent_has_the_store,
        timeout=timeout,
        wait_for_workers=False,
    )
    attempt = f"attempt{environment('TORCHELASTIC_RESTART_COUNT', 0)}"
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(
        backend, store=PrefixStore(attempt, store), rank=rank, world_size=size, timeout=timeout
    )


def environment(name: str, default: int) -> int:
    """A number that torchrun puts into the environment; raises `DistributedError` if it is none."""
    value = os.environ.get(name, str(default))
    if not value.isdecimal():
        raise DistributedError(f"the environment says {name}={value!r}, which is no number; use torchrun")
    return int(value)


def _device(local_rank: int) -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


class StopSignal:
    """Notes SIGTERM and SIGINT instead of dying, so that the ranks can agree on the step to stop after.

    A context manager. Signals after the first change nothing: torchrun sends its own after the terminal's.
    """

    def __init__(self) -> None:
        self._seen = {signal.SIGTERM: False, signal.SIGINT: False}
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self._before = {signum: signal.signal(signum, self._note) for signum in self._seen}
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _note(self, signum: int, _frame: FrameType | None) -> None:
        self._seen[signal.Signals(signum)] = True

    def flags(self) -> list[float]:
        """What this rank has seen, to be summed over all ranks and given to `exit_code`."""
        return [float(seen) for seen in self._seen.values()]

    def exit_code(self, summed: list[float]) -> int:
        """128 + the signal any rank has seen (SIGTERM first); 0 if there was none."""
        return next((128 + signum for signum, count in zip(self._seen, summed, strict=True) if count), 0)
