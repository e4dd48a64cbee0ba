"""One model on many ranks: replicas of all of it (DDP), or a shard of each parameter on each (FSDP2).

Either way the sum of the ranks' gradients comes out; `checkpoint` and `optim` see parameters by the same
names, so a run may go from one to the other.
"""

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial

from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint as recomputed

from trainer.config import TrainConfig
from trainer.model.model import GPT
from trainer.run.distributed import World


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
        fully_shard(model, mesh=mesh)


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
