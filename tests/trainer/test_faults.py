"""What goes wrong in a run: text that poisons it, ranks that die."""

import json
from dataclasses import replace

import pytest
import torch

from bench.kills import killed_training
from bench.runs import losses, start, weights
from trainer.model.model import GPT
from trainer.run.distributed import World
from trainer.run.loop import Run, TrainingError


class Counting:
    """Rows that count up, easy to learn, but noise where it is poisoned; step j of the text is `text` - 1."""

    def __init__(self, poisoned):
        self.poisoned = poisoned
        self.text = 0

    def next_step(self):
        generator = torch.Generator().manual_seed(self.text)
        ids = torch.randint(0, 320, (2, 1), generator=generator) + torch.arange(33)
        if self.text in self.poisoned:
            ids = torch.randint(0, 320, (2, 33), generator=generator)
        self.text += 1
        return [{"ids": ids[:, :-1] % 320, "targets": ids[:, 1:] % 320}]

    def state(self):
        return {"text": self.text}

    def restore(self, state):
        self.text = state["text"]


def run(config, poisoned):
    torch.manual_seed(0)
    config.out.mkdir(exist_ok=True)
    source = Counting(poisoned)
    model, steps = GPT(config.model(320)), config.steps
    found = Run(model, source, config, World(), steps=steps, evaluate=dict, identity={})
    found.fit()
    return found, source


@pytest.fixture
def config(tiny):
    return tiny(steps=160, tokens_per_step=64, checkpoint_every=20, learning_rate=1e-2, device_batch_size=2)


def lines(config):
    return [json.loads(line) for line in (config.out / "metrics.jsonl").read_text().splitlines()]


def test_a_poisoned_batch_is_left_out_and_said_so(config, capsys):
    done, _ = run(config, {110})
    assert "warning: step 111 is left out: loss is " in capsys.readouterr().err
    assert done.skipped == lines(config)[-1]["skipped"] == 1
    assert lines(config)[109]["skipped"] == 0
    before, after = lines(config)[109]["loss"], lines(config)[111]["loss"]
    assert after < before * 1.5
    assert done.step == 160


def test_poisoned_text_is_gone_around_from_the_last_checkpoint(config, capsys):
    done, source = run(config, {110, 111, 112})
    said = capsys.readouterr().err
    assert "back to step 100, with the text that comes after step 113" in said
    assert (done.step, done.skipped, source.text) == (160, 3, 160 + 13)
    assert [line["step"] for line in lines(config)] == list(range(1, 161))
    assert lines(config)[-1]["loss"] < lines(config)[99]["loss"]


def test_a_run_killed_amid_poisoned_text_decides_the_same(config, tiny, tmp_path, monkeypatch):
    whole, _ = run(config, {110, 111, 112})
    other = replace(config, out=tmp_path / "other")
    real, killed = Counting.next_step, []

    def kill(self):
        if self.text == 112 and not killed:
            killed.append(True)
            raise KeyboardInterrupt
        return real(self)

    monkeypatch.setattr(Counting, "next_step", kill)
    with pytest.raises(KeyboardInterrupt):
        run(other, {110, 111, 112})
    again, _ = run(other, {110, 111, 112})
    assert losses(other.out) == losses(config.out)
    assert weights(other.out) == weights(config.out)
    assert again.skipped == whole.skipped


def test_text_that_stays_bad_ends_the_run(config):
    with pytest.raises(TrainingError, match=r"loss is .* the last of 3 bad in a row"):
        run(config, range(110, 1000))


DIES = """
import trainer.pretrain
from trainer.data.loader import Loader
def fails(self, real=Loader.next_step):
    if self._ranks.rank == 1 and self._micro_batch >= 40:
        raise ValueError("the disk of this rank is gone")
    return real(self)
Loader.next_step = fails
trainer.pretrain.main()
"""


def test_a_rank_that_fails_ends_the_job_with_its_traceback(tiny, tmp_path):
    """The other rank, which waits for it, does not wait for the timeout of ten minutes."""
    config = tiny(steps=300, checkpoint_every=2)
    script = tmp_path / "dies.py"
    script.write_text(DIES)
    process = start(config, size=2, program=[str(script)])
    said = process.communicate()[1]
    assert process.returncode != 0
    assert "ValueError: the disk of this rank is gone" in said
    assert "in fails" in said


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_ranks_killed_at_random_moments_leave_no_trace(tiny, parallel):
    """Five SIGKILLs; `python -m bench.kills` makes twenty."""
    trace = killed_training(tiny(eval_every=0), parallel, kills=5, seed=0)
    assert (trace.identical, trace.lost) == (True, 0)
