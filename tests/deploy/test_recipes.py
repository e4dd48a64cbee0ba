"""The recipes for training on clusters: those for torchrun run, those for schedulers are well formed."""

import os
import signal
import socket
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from bench.runs import losses, wait_for_step
from tests.trainer import conftest
from trainer.config import PretrainConfig
from trainer.run import checkpoint

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "train"
FLAGS = (
    "--vocab-size 320 --sequence-len 32 --width 16 --layers 2 --heads 2 --kv-heads 1 --device-batch-size 2"
)
FLAGS += " --tokens-per-step 256 --lanes 4 --log-every 1 --eval-every 0 --sample-prompt="


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return conftest.commit(tmp_path_factory.mktemp("corpus"), conftest.sixty_texts(), held_out=3)


def start(recipe, corpus, out, steps, **settings):
    place = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    argv = [FOLDER / recipe, *FLAGS.split(), "--shards", corpus, "--out", out, "--steps", str(steps)]
    environment, pipe = os.environ | place | settings, subprocess.PIPE
    return subprocess.Popen(argv, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True)


@pytest.mark.long
def test_a_single_node_trains_and_saves_on_sigterm(corpus, tmp_path):
    process = start("single_node.sh", corpus, tmp_path / "run", 3000, PROCESSES="2")
    wait_for_step(process, tmp_path / "run", 20)
    process.send_signal(signal.SIGTERM)
    said = process.communicate()[1]
    assert process.returncode != 0
    saved = checkpoint.read_state(checkpoint.latest(tmp_path / "run"))["step"]
    assert saved == max(losses(tmp_path / "run")), said


@pytest.mark.long
def test_two_nodes_find_each_other_and_train(corpus, tmp_path):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    settings = {"NODES": "2", "HEAD": "127.0.0.1", "PORT": port, "PROCESSES": "1", "GLOO_SOCKET_IFNAME": "lo"}
    nodes = [start("multi_node.sh", corpus, tmp_path / "run", 8, **settings) for _ in range(2)]
    said = [node.communicate() for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], said
    assert max(losses(tmp_path / "run")) == 8


@pytest.mark.parametrize("recipe", ["single_node.sh", "multi_node.sh", "slurm.sbatch"])
def test_shell_recipes_are_well_formed(recipe):
    assert subprocess.run(["sh", "-n", FOLDER / recipe], check=False).returncode == 0


def test_the_job_for_kubernetes_gives_flags_that_exist():
    job = yaml.safe_load((FOLDER / "pytorchjob.yaml").read_text())
    worker = job["spec"]["pytorchReplicaSpecs"]["Worker"]
    (container,) = worker["template"]["spec"]["containers"]
    assert container["name"] == "pytorch"
    assert worker["replicas"] == job["spec"]["elasticPolicy"]["maxReplicas"]
    known = {field.name.replace("_", "-") for field in fields(PretrainConfig)}
    assert {arg[2:] for arg in container["command"] if arg.startswith("--")} <= known
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in worker["template"]["spec"]["volumes"]}
