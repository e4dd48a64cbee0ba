"""Runs as a person starts them, on any number of ranks; what they wrote, and ways to end them."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import pytest

from tests.trainer.conftest import weights
from trainer.run.checkpoint import Saver
from trainer.run.distributed import World
from trainer.run.optim import Optimizer

ROOT = Path(__file__).parents[2]
WEIGHTS, MOMENTS = (f"shard-00001-model-0000{number}-of-00002.safetensors" for number in (1, 2))


def losses(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: tuple(map(line.get, ("loss", "grad_norm", "val_bpb", "tokens"))) for line in lines}


def save(model, config, optimizer=None, **state):
    """The checkpoint of a run of one step that came out as `model`; `state` says otherwise."""
    saver = Saver(config, World())
    usual = {"step": 1, "steps": 1, "tokens": 1, "skipped": 0, "data": {}, "measured": {}}
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


def command(config, *, size=1, restarts=0, program=("-m", "trainer.pretrain")):
    """The command line of a run; every setting as a flag, as a person would give it."""
    flags = []
    for field in fields(config):
        value = getattr(config, field.name)
        if value is None:
            continue
        name = "--" + field.name.replace("_", "-")
        if isinstance(value, tuple):
            flags += [part for entry in value for part in (name, entry)]
            continue
        flags += (
            [name.replace("--", "--no-", 1)]
            if value is False
            else [name]
            if value is True
            else [name, str(value)]
        )
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={size}"]
    launcher = [*torchrun, f"--max-restarts={restarts}"] if size > 1 else []
    return [sys.executable, *launcher, *program, *flags]


def start(config, **launch):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command(config, **launch),
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process):
    out, err = process.communicate()
    assert process.returncode == 0, err
    return out


def wait_for_step(process, run, step):
    """Block until the run has logged `step`."""
    while process.poll() is None:
        if (run / "metrics.jsonl").exists() and step in losses(run):
            return
        time.sleep(0.02)
    pytest.fail(f"ended before step {step}: {process.communicate()}")


def rank_pids(process):
    """Processes that torchrun started, by rank."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rsplit(")", 1)[1].split()[1])
            environment = (path / "environ").read_bytes().split(b"\0")
        except (OSError, ValueError):
            continue
        if parent == process.pid:
            found |= {int(entry[5:]): int(path.name) for entry in environment if entry.startswith(b"RANK=")}
    return found


def kill_group(process):
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
