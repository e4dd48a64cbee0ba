"""Matrix products of training on a CPU by oneDNN, which is faster at them than the library torch calls.

Measured on an AVX-512 machine, one thread, fp32: 98 to 108 GFLOPS in a layer's products of 1,024 rows, where
torch's own reach 66 to 102; 85 to 103 in the head's, where those reach 58 to 92.
"""

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (the name everyone knows)
from torch import Tensor, nn

_AVAILABLE = torch._C._has_mkldnn
_LEAST_ROWS = 64
"""Fewer rows are not worth it."""


class Linear(nn.Linear):
    """`nn.Linear` whose products, when it is trained on a CPU in fp32, are oneDNN's."""

    def forward(self, x: Tensor) -> Tensor:
        bias: Tensor | None = self.bias
        if bias is None and torch.is_grad_enabled() and suits(x, self.weight):
            y: Tensor = _Linear.apply(x, self.weight)  # type: ignore[no-untyped-call]
            return y
        return F.linear(x, self.weight, bias)


def multiply(a: Tensor, b: Tensor) -> Tensor:
    """a @ b.T of (..., k) and (n, k), in fp32 and on a CPU."""
    product: Tensor = torch.ops.tinylm.multiply(a, b)
    return product


# An operator of our own, as torch's compiler takes oneDNN's only with constant weights.
torch.library.define("tinylm::multiply", "(Tensor a, Tensor b) -> Tensor")


@torch.library.impl("tinylm::multiply", "cpu")
def _multiply(a: Tensor, b: Tensor) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")
    return product


def _shape_only(a: Tensor, b: Tensor) -> Tensor:
    return a.new_empty((*a.shape[:-1], b.size(0)))


torch.library.register_fake("tinylm::multiply", _shape_only)


def suits(x: Tensor, weight: Tensor) -> bool:
    """Whether x (..., k) and weight (n, k) are such that `multiply` is faster than @."""
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.numel() >= _LEAST_ROWS * x.size(-1)
        and not torch.is_autocast_enabled("cpu")
        and _AVAILABLE
    )


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return multiply(x, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        grad_x = multiply(grad, weight.t().contiguous())
        # Here turning both factors, as oneDNN would need, costs more than it is faster.
        return grad_x, grad.flatten(0, -2).t() @ x.flatten(0, -2)
