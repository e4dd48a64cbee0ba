"""Many processes, one run: who am I, sums over all ranks, one model on all, and one moment to stop for all.

torchrun's environment decides; without it there is one rank and nothing is connected. Ranks talk by gloo on
CPUs and NCCL on GPUs. Each restart that torchrun makes gets a prefix of its own in the key-value store, as
the addresses of the ranks that died are still in it, and connecting to those fails.

The model is replicated (DDP), or a shard of each parameter lies on each rank (FSDP2). Either way the sum of
the ranks' gradients comes out; `checkpoint` and `optim` see parameters by the same names, so a run may go
from one to the other.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from types import FrameType
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]  # documented all the same
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint as recomputed

from tinylm.errors import TinylmError
from tinylm.processes import die_with_parent
from tinylm.terminal import say_at_once
from trainer.config import TrainConfig
from trainer.model.model import GPT

# A rank that waits longer for the others gives up; no rank may measure or write for so long alone. One that
# died is noticed at once, by its connection: this is for a machine or a network that fell silent.
_TIMEOUT_SECONDS = 600.0


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
        if self.size > 1:
            dist.barrier()


@contextlib.contextmanager
def connect(timeout_seconds: float = _TIMEOUT_SECONDS) -> Iterator[World]:
    """Join the ranks torchrun started, or be the only one; leave them at the end.

    A collective that takes longer than `timeout_seconds` fails, so a dead rank never hangs the others:
    its loss is raised as `DistributedError`.
    """
    rank, size = environment("RANK", 0), environment("WORLD_SIZE", 1)
    local_rank, local_size = environment("LOCAL_RANK", 0), environment("LOCAL_WORLD_SIZE", 1)
    if rank >= size:
        raise DistributedError(
            f"the environment says RANK={rank}, WORLD_SIZE={size}: ranks are below the size"
        )
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
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
    if local_size == size and sys.platform == "linux":  # on one machine the loopback is always there
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    try:
        timeout = timedelta(seconds=timeout_seconds)
        _initialise(rank, size, device, timeout)
        yield World(rank, size, device, dist.new_group(backend="gloo", timeout=timeout))
    except (dist.DistError, RuntimeError) as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            # gloo raises plain RuntimeErrors; any other is not of the connection.
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise DistributedError(
                f"rank {rank} lost touch with the others ({reason}); "
                "start the same command again to go on from the last checkpoint"
            ) from error
        raise
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def _initialise(rank: int, size: int, device: torch.device, timeout: timedelta) -> None:
    # torchrun's agent may keep the store itself; else the first rank does.
    ours = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    address, port = os.environ.get("MASTER_ADDR", "127.0.0.1"), environment("MASTER_PORT", 29500)  # as torch
    if not 0 < port < 2**16:
        raise DistributedError(
            f"the environment says MASTER_PORT={port}, which is no port: give one to 65535"
        )
    try:
        store = TCPStore(address, port, size, is_master=ours, timeout=timeout, wait_for_workers=False)
    except dist.DistNetworkError as error:
        if not ours:
            raise DistributedError(
                f"rank {rank} found nobody at MASTER_ADDR={address}, MASTER_PORT={port}, where rank 0 belongs"
            ) from error
        why = "is taken" if "EADDRINUSE" in str(error) else f"cannot be listened at ({error})"
        raise DistributedError(f"MASTER_PORT={port} {why}: give another port") from error
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


def prepare(model: GPT, config: TrainConfig, world: World) -> None:
    """Before there is an optimizer: recompute activations if that is asked for, and shard the parameters.

    A layer is the unit of both: what is kept of it for the backward pass is its input, and what a rank holds
    whole at a time is one layer (arXiv 1604.06174, 2304.11277).
    """
    for block in model.layers:
        if config.activation_checkpointing:
            block.forward = partial(recomputed, block.forward, use_reentrant=False)
    if config.parallel == "fsdp" and world.size > 1:
        mesh = init_device_mesh(world.device.type, (world.size,))
        for block in model.layers:
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)  # what is in no layer: embeddings and the last norm


def replicas(model: GPT, world: World, nothing: dict[str, Tensor]) -> nn.Module:
    """The model to call in training, after it was restored; `nothing` is a batch without targets.

    DistributedDataParallel sorts its buckets anew after the first backward pass, which changes the order of
    additions among three ranks or more. That pass is made here, on nothing, so that a resumed run adds up in
    the same order as one that was never stopped.
    """
    if world.size == 1 or isinstance(model, FSDPModule):
        return model
    # Buffers are tables that all ranks have made alike.
    together = DistributedDataParallel(model, gradient_as_bucket_view=True, forward_sync_buffers=False)
    loss, _ = together(**nothing)
    loss.backward()
    together.zero_grad()
    return together


def passes(model: nn.Module, counts: Sequence[float], mine: int) -> int:
    """How many forward passes this rank has to make in a step in which the ranks have `counts` micro-batches.

    Sharded parameters are gathered in each pass, which all ranks have to make together; replicas only meet in
    the last, and each makes one at least.
    """
    return max(1, round(max(counts)) if isinstance(model, FSDPModule) else mine)


@contextlib.contextmanager
def exchanging(model: nn.Module, last: bool) -> Iterator[None]:
    """Around a backward pass; gradients are exchanged in the `last` of a step only."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(last)
        yield
    elif isinstance(model, DistributedDataParallel) and not last:
        with model.no_sync():
            yield
    else:
        yield


@contextlib.contextmanager
def whole(model: nn.Module) -> Iterator[None]:
    """Each rank has all parameters, so that it may run the model on its own; entered by all together."""
    if not isinstance(model, FSDPModule):
        yield
        return
    sharded = [module for module in model.modules() if isinstance(module, FSDPModule)]
    model.set_reshard_after_forward(False)
    for module in sharded:
        module.unshard()
    try:
        yield
    finally:
        for module in sharded:
            module.reshard()
        for module in sharded[1:]:  # the root stays whole from the forward pass to the backward one
            module.set_reshard_after_forward(True, recurse=False)


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
        if not any(self._seen.values()) and environment("RANK", 0) == 0:
            say_at_once("stopping: the step under way is ended, and saved")
        self._seen[signal.Signals(signum)] = True

    def flags(self) -> list[float]:
        """What this rank has seen, to be summed over all ranks and given to `exit_code`."""
        return [float(seen) for seen in self._seen.values()]

    def exit_code(self, summed: list[float]) -> int:
        """128 + the signal any rank has seen (SIGTERM first); 0 if there was none."""
        return next((128 + signum for signum, count in zip(self._seen, summed, strict=True) if count), 0)
