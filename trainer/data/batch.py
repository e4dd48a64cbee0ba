"""What lies between text and model: a micro-batch, the ranks that share them, the error of unfit text."""

from typing import Any, Protocol

import torch
from torch import Tensor

from tinylm.errors import TinylmError

IGNORE = -100  # target of a position that is not to be predicted; torch's cross_entropy ignores it too

Batch = dict[str, Tensor]
"""A micro-batch as the model takes it: ids, targets, and segments if a row holds several texts; (B, T)."""


class DataError(TinylmError):
    """Text that cannot be trained on, or not the text a run was started on."""


class Ranks(Protocol):
    """The ranks that share a run's batches, and which of them this is."""

    @property
    def rank(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def device(self) -> torch.device: ...

    def gather(self, value: Any) -> list[Any]:
        """The `value` of every rank, in order of rank, on every rank."""
