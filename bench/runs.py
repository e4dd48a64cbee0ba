"""Training runs as a person starts them, on any number of ranks; what they wrote, and ways to end them.

The benches and the tests start and kill runs in the same way.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from trainer.config import TrainConfig
from trainer.run import checkpoint

ROOT = Path(__file__).parents[1]
Process = subprocess.Popen[str]
_POLL_SECONDS = 0.02  # between two looks at a run; a step of the smallest takes about as long


def command(
    config: TrainConfig,
    *,
    size: int = 1,
    restarts: int = 0,
    program: Sequence[str] = ("-m", "trainer.pretrain"),
) -> list[str]:
    """The command line of a run; every setting as a flag, as a person would give it."""
    flags: list[str] = []
    for field in fields(config):
        name, value = "--" + field.name.replace("_", "-"), getattr(config, field.name)
        if isinstance(value, bool):
            flags.append(name if value else name.replace("--", "--no-", 1))
        elif isinstance(value, tuple):
            flags += [part for entry in value for part in (name, entry)]
        elif value is not None:
            flags += [name, str(value)]
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={size}"]
    launcher = [*torchrun, f"--max-restarts={restarts}"] if size > 1 else []
    return [sys.executable, *launcher, *program, *flags]


def start(config: TrainConfig, **launch: Any) -> Process:
    """The process of `command(config, **launch)`, leader of a group of its own."""
    return subprocess.Popen(
        command(config, **launch),
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: Process) -> str:
    """What it prints until it ends; raises AssertionError with its errors if it fails."""
    out, err = process.communicate()
    assert process.returncode == 0, err
    return out


def ranks(code: str, size: int, *arguments: str) -> list[Process]:
    """Start `size` ranks of a Python program without torchrun's agent, which would end them all."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "PYTHONPATH": str(ROOT)}
    together = address | {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
    return [
        subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            cwd=ROOT,
            env=os.environ | together | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]


def losses(run: Path) -> dict[int, tuple[Any, ...]]:
    """Loss, norm of the gradient, bits per byte and tokens of each step that was logged."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: tuple(map(line.get, ("loss", "grad_norm", "val_bpb", "tokens"))) for line in lines}


def weights(run: Path) -> dict[str, dict[str, bytes]]:
    """Every tensor of the last checkpoint, the optimizer's too; a file's header is in no fixed order."""
    files = sorted(checkpoint.find(run).glob("*.safetensors"))
    return {file.name: {name: t.numpy().tobytes() for name, t in load_file(file).items()} for file in files}


def wait_for_step(process: Process, run: Path, step: int) -> None:
    """Block until the run has logged `step`; raises AssertionError if it ends before."""
    while process.poll() is None:
        if (run / "metrics.jsonl").exists() and step in losses(run):
            return
        time.sleep(_POLL_SECONDS)
    raise AssertionError(f"ended before step {step}: {process.communicate()}")


def rank_pids(process: Process) -> dict[int, int]:
    """Processes that torchrun started, by rank (Linux)."""
    found: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rsplit(")", 1)[1].split()[1])
            environment = (path / "environ").read_bytes().split(b"\0")
        except (OSError, ValueError):
            continue
        if parent == process.pid:
            found |= {int(entry[5:]): int(path.name) for entry in environment if entry.startswith(b"RANK=")}
    return found


def kill_rank(process: Process, rank: int) -> None:
    """SIGKILL to one of two ranks; between two attempts of torchrun's there is none for a while."""
    while process.poll() is None:
        found = rank_pids(process)
        if len(found) == 2:
            try:
                return os.kill(found[rank], signal.SIGKILL)
            except ProcessLookupError:
                pass
        time.sleep(_POLL_SECONDS)
    raise AssertionError(f"ended by itself: {process.communicate()}")


def kill_group(process: Process) -> None:
    """SIGKILL to a launcher and all it started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
