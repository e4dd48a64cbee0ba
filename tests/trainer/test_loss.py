"""Cross entropy that never holds all logits: the same value and gradient, in a fraction of the memory."""

import pytest
import torch
from torch.nn.functional import cross_entropy as whole_cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from trainer.data.batch import IGNORE
from trainer.model import loss as module
from trainer.model.loss import cross_entropy

ROWS, WIDTH, VOCABULARY = 96, 16, 512


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(module, "LOGITS_AT_ONCE", 17 * VOCABULARY)


def batch():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(ROWS, WIDTH, generator=generator)
    weight = torch.randn(VOCABULARY, WIDTH, generator=generator)
    targets = torch.randint(0, VOCABULARY, (ROWS,), generator=generator)
    targets[::5] = IGNORE
    return x.requires_grad_(), weight.requires_grad_(), targets


def plain(x, weight, targets, z_loss=0.0):
    logits = x @ weight.T
    z = (logits.logsumexp(-1).square() * (targets != IGNORE)).sum()
    value = whole_cross_entropy(logits, targets, ignore_index=IGNORE, reduction="sum")
    return value, value + z_loss * z


@pytest.mark.parametrize("z_loss", [0.0, 0.01])
@pytest.mark.parametrize("fast", [True, False])
def test_value_and_gradient_are_those_of_the_plain_way(z_loss, fast, monkeypatch):
    if not fast:
        monkeypatch.setattr(module, "suits", lambda *_: False)
    x, weight, targets = batch()
    ours = cross_entropy(x, weight, targets, z_loss)
    found = torch.autograd.grad(ours / 7, (x, weight))
    value, objective = plain(x, weight, targets, z_loss)
    torch.testing.assert_close(ours, value)
    expected = torch.autograd.grad(objective / 7, (x, weight))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_target_as_good_as_impossible_has_a_finite_loss():
    x = torch.tensor([[1.0]])
    weight = torch.tensor([[0.0], [500.0]])
    assert cross_entropy(x, weight, torch.tensor([0])).item() == pytest.approx(500)


class Largest(TorchDispatchMode):
    """Notes how many elements the largest tensor has that any operation makes."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, list | tuple) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return out


def test_neither_pass_holds_all_logits():
    x, weight, targets = batch()
    with Largest() as seen:
        cross_entropy(x, weight, targets, 0.01).backward()
    assert seen.elements == 17 * VOCABULARY < ROWS * VOCABULARY
    with Largest() as seen:
        plain(x, weight, targets)[0].backward()
    assert seen.elements == ROWS * VOCABULARY


def test_under_autocast_products_are_bf16_and_sums_fp32():
    x, weight, targets = batch()
    with torch.autocast("cpu", torch.bfloat16):
        ours = cross_entropy(x, weight, targets)
    found = torch.autograd.grad(ours, (x, weight))
    value, _ = plain(x, weight, targets)
    assert ours.dtype == found[1].dtype == torch.float32
    torch.testing.assert_close(ours, value, rtol=0.01, atol=0)
    for ours, theirs in zip(found, torch.autograd.grad(value, (x, weight)), strict=True):
        assert (ours - theirs).norm() < 0.02 * theirs.norm()
        assert not torch.equal(ours, theirs)
