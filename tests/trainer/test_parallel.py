"""However a step is divided, between micro-batches, ranks or shards, it comes to the same."""

import numpy as np
import pytest
import torch

from bench.runs import finish, losses, start
from tests.trainer.runs import check_resume, cut_back
from trainer.data.batch import IGNORE
from trainer.model.model import GPT
from trainer.run import checkpoint
from trainer.run.distributed import World
from trainer.run.loop import Run

TOLERANCE = {"adamw": (1e-4, 1e-4), "muon": (1e-3, 1e-2)}
"""Of losses (relative) and weights (absolute). Muon magnifies rounding: of a gradient that is almost zero, as
at first behind a projection that is zero, it becomes part of an update of full size."""


class Rows:
    """The same rows of uneven numbers of targets, `rows` at a time, in every step."""

    def __init__(self, rows):
        generator = torch.Generator().manual_seed(0)
        ids = torch.randint(0, 320, (8, 32), generator=generator)
        targets = torch.randint(0, 320, (8, 32), generator=generator)
        for row in range(8):
            targets[row, 1 + 4 * row :] = IGNORE
        self.batches = [
            {"ids": part, "targets": goal}
            for part, goal in zip(ids.split(rows), targets.split(rows), strict=True)
        ]

    def next_step(self):
        return self.batches

    def state(self):
        return {}

    def restore(self, state):
        pass


def trained(config, rows):
    torch.manual_seed(0)
    model = GPT(config.model(320))
    config.out.mkdir()
    run = Run(model, Rows(rows), config, World(), steps=config.steps, evaluate=dict, identity={})
    run.fit()
    return model


@pytest.mark.parametrize("changes", [{}, {"optimizer": "muon"}, {"activation_checkpointing": True}])
def test_k_micro_batches_of_b_rows_are_one_of_k_times_b(tiny, tmp_path, changes):
    """Also with uneven numbers of targets in them, where a mean of means is wrong."""
    whole = trained(tiny(**changes, device_batch_size=8, out=tmp_path / "whole"), 8)
    parts = trained(tiny(**changes, device_batch_size=1, out=tmp_path / "parts"), 1)
    rel, absolute = TOLERANCE[changes.get("optimizer", "adamw")]
    assert losses(tmp_path / "parts")[8][0] == pytest.approx(losses(tmp_path / "whole")[8][0], rel=rel)
    for ours, theirs in zip(parts.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=absolute)


def same(run, reference, optimizer):
    """Losses, gradient norms, bits per byte and weights agree but for rounding."""
    rel, absolute = TOLERANCE[optimizer]
    expected = losses(reference)
    assert losses(run).keys() == expected.keys()
    for step, (*values, tokens) in losses(run).items():
        assert tokens == expected[step][-1]
        assert [v for v in values if v] == pytest.approx([v for v in expected[step][:-1] if v], rel=rel)
    ours, theirs = (checkpoint.load_model(out)[0].state_dict() for out in (run, reference))
    for name, tensor in ours.items():
        np.testing.assert_allclose(tensor, theirs[name], rtol=0.01, atol=absolute, err_msg=name)


@pytest.mark.parametrize("optimizer", ["adamw", pytest.param("muon", marks=pytest.mark.long)])
def test_two_replicas_and_two_shards_are_one_process(tiny, tmp_path, optimizer):
    config = {"steps": 8, "optimizer": optimizer}
    alone = tiny(**config, out=tmp_path / "alone")
    finish(start(alone))
    for parallel in ("ddp", "fsdp"):
        together = tiny(**config, parallel=parallel, out=tmp_path / parallel)
        finish(start(together, size=2))
        same(together.out, alone.out, optimizer)


@pytest.mark.long
def test_shards_resume_to_the_last_bit(tiny):
    check_resume(tiny(parallel="fsdp"), size=2)


@pytest.mark.long
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_run_goes_from_replicas_to_shards_and_back_and_over_one_two_and_three_ranks(
    tiny, tmp_path, optimizer
):
    alone = tiny(steps=20, optimizer=optimizer, out=tmp_path / "alone")
    finish(start(alone))
    config = tiny()
    course = [(2, "ddp"), (1, "ddp"), (3, "fsdp"), (2, "ddp"), (2, "fsdp")]
    for number, (size, parallel) in enumerate(course):
        if number:
            cut_back(config.out, 4 * number)
        config = tiny(steps=20, optimizer=optimizer, parallel=parallel)
        assert f"goes on after step {4 * number}" in finish(start(config, size=size)) or not number
    same(config.out, alone.out, optimizer)
