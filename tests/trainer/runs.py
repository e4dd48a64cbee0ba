"""Checkpoints without a run, and runs that lose what they did last; bench/runs.py starts and kills runs."""

import shutil

from bench.runs import finish, losses, start, weights
from trainer.run.checkpoint import Saver
from trainer.run.distributed import World
from trainer.run.optim import Optimizer

WEIGHTS, MOMENTS = (f"shard-00001-model-0000{number}-of-00002.safetensors" for number in (1, 2))


def save(model, config, optimizer=None, **state):
    """The checkpoint of a run of one step that came out as `model`; `state` says otherwise."""
    saver = Saver(config, World())
    usual = {"step": 1, "steps": 1, "tokens": 1, "skipped": 0, "data": {}, "measured": {}, "identity": {}}
    saver.start(model, optimizer or Optimizer(model, config, World()), usual | state)
    saver.wait()


def check_resume(config, size):
    """A run on `size` ranks that lost what came after step 4 makes it again to the last bit."""
    finish(start(config, size=size))
    expected, bits = losses(config.out), weights(config.out)
    cut_back(config.out, 4)
    finish(start(config, size=size))
    assert losses(config.out) == expected
    assert weights(config.out) == bits


def cut_back(run, step, torn_metrics=""):
    """Leave of a finished run what a SIGKILL after `step`'s checkpoint would have left."""
    for path in run.glob("step_*"):
        if int(path.name[5:]) > step:
            shutil.rmtree(path)
    (run / "evaluation.json").unlink()
    with (run / "metrics.jsonl").open("a") as file:
        file.write(torn_metrics)
