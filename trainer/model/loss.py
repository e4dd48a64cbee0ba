"""Cross entropy of a whole batch without ever holding its logits.

The gradient is computed together with the loss, a chunk of rows at a time (as Liger Kernel does,
arXiv 2410.10989); chunks that stay in the processor's cache make it twice as fast as the plain way.
"""

from typing import Any

import torch
from torch import Tensor

from trainer.model.products import multiply, suits

IGNORE = -100
"""Target of a position that is not to be predicted."""

LOGITS_AT_ONCE = 2**20
"""Most logits in memory at a time; on a CPU they stay in its cache."""


def cross_entropy(x: Tensor, weight: Tensor, targets: Tensor, z_loss: float = 0.0) -> Tensor:
    """Sum of the cross entropies, in nats, of the logits x @ weight.T; x (N, C), weight (V, C), targets (N,).

    Targets equal to `IGNORE` are left out. Gradients sum up in fp32, whatever autocast multiplies in. The
    gradient is that of the loss plus `z_loss` * log(Z)^2 of each position (PaLM, arXiv 2204.02311), which
    keeps the logits' normaliser near 1; the value is the cross entropy alone, to compare between runs.
    """
    total: Tensor = _ChunkedCrossEntropy.apply(x, weight, targets, z_loss)  # type: ignore[no-untyped-call]
    return total


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, targets: Tensor, z_loss: float) -> Tensor:
        rows = max(16, LOGITS_AT_ONCE // len(weight))
        wanted = any(ctx.needs_input_grad)
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        product = weight.to(dtype)
        product_of = multiply if suits(x, weight) else _plain_product
        turned = product.t().contiguous() if wanted else None
        loss = torch.zeros((), dtype=torch.float32, device=x.device)
        grad_x = torch.empty_like(x) if wanted else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if wanted else None
        with torch.autocast(device, enabled=False):
            for start in range(0, len(x), rows):
                chunk, target = x[start : start + rows].to(dtype), targets[start : start + rows]
                kept, at = (target != IGNORE).unsqueeze(1), target.clamp(min=0).unsqueeze(1)
                logits = product_of(chunk, product).float()  # (rows, V)
                p = logits.softmax(-1)
                # The largest probability is exp(largest logit - log Z).
                log_z = logits.amax(-1, keepdim=True) - p.amax(-1, keepdim=True).log()
                loss += ((log_z - logits.gather(1, at)) * kept).sum()
                if turned is not None and grad_x is not None and grad_weight is not None:
                    if z_loss:
                        p.mul_(1 + 2 * z_loss * log_z)
                    p.scatter_add_(1, at, -torch.ones_like(log_z))
                    grad_logits = p.to(dtype)
                    grad_x[start : start + rows] = product_of(grad_logits, turned) * kept
                    _accumulate(grad_weight, grad_logits, chunk * kept)
        if grad_weight is not None:
            ctx.save_for_backward(grad_x, grad_weight.to(weight.dtype))
        return loss

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor, Tensor, None, None]:
        grad_x, grad_weight = ctx.saved_tensors
        return grad_x * grad_loss, grad_weight * grad_loss, None, None


def _plain_product(a: Tensor, b: Tensor) -> Tensor:
    return a @ b.t()


def _accumulate(total: Tensor, grad_logits: Tensor, chunk: Tensor) -> None:
    """Add grad_logits.T @ chunk to `total` (V, C), which is fp32 even where the product is not."""
    if chunk.dtype == total.dtype:
        total.addmm_(grad_logits.t(), chunk)
    else:
        total += grad_logits.t() @ chunk
