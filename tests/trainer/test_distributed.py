"""Ranks: alone without torchrun, together with it, and stopping at a signal."""

import os
import signal
import socket
from typing import Annotated

import pytest
import torch
from cyclopts import Parameter

from bench.runs import ranks
from trainer.config import SFTConfig
from trainer.run.distributed import DistributedError, StopSignal, World, connect
from trainer.run.lifecycle import command

TOGETHER = """
import torch
from trainer.run.distributed import connect
with connect(60) as world:
    total = world.sum(torch.tensor([1.0, float(world.rank)])).tolist()
    assert world.gather({"rank": world.rank}) == [{"rank": 0}, {"rank": 1}, {"rank": 2}]
    world.barrier()
    assert (world.size, total) == (3, [3.0, 3.0])
    assert torch.get_num_threads() == max(1, __import__("os").cpu_count() // 3)
"""
LOSING_ONE = """
import os, sys, torch
from tinylm.errors import exit_on_error
from trainer.run.distributed import connect
with exit_on_error(), connect(60) as world:
    world.barrier()
    if world.rank == 1:
        os._exit(0)
    world.sum(torch.ones(1))
"""


def test_without_torchrun_there_is_one_rank():
    with connect(60) as world:
        assert (world.rank, world.size, world.is_main) == (0, 1, True)
        assert world.sum(torch.ones(2)).tolist() == [1.0, 1.0]
        assert world.gather("mine") == ["mine"]
        world.barrier()


@pytest.mark.long
def test_three_ranks_sum_gather_and_wait():
    processes = ranks(TOGETHER, 3)
    results = [(process.communicate()[1], process.returncode) for process in processes]
    assert [code for _, code in results] == [0, 0, 0], results


def test_losing_a_rank_is_an_error_that_says_what_to_do():
    first, second = ranks(LOSING_ONE, 2)
    said = first.communicate()[1]
    second.communicate()
    assert first.returncode == 2
    assert "rank 0 lost touch with the others" in said
    assert "start the same command again" in said


def test_a_strange_environment_is_named(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(DistributedError, match="WORLD_SIZE='two'"), connect(1):
        pass


def test_a_port_that_is_taken_is_named(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        monkeypatch.setenv("MASTER_PORT", str(port))
        with (
            pytest.raises(DistributedError, match=f"^MASTER_PORT={port} is taken: give another port$"),
            connect(1),
        ):
            pass


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"MASTER_PORT": "70000"}, "MASTER_PORT=70000, which is no port"),
        ({"MASTER_PORT": "0"}, "MASTER_PORT=0, which is no port"),
        ({"RANK": "2"}, "RANK=2, WORLD_SIZE=2: ranks are below"),
        (
            {"RANK": "1", "MASTER_PORT": "1"},
            "rank 1 found nobody at MASTER_ADDR=127.0.0.1, MASTER_PORT=1, where",
        ),
    ],
)
def test_where_the_ranks_cannot_meet_the_reason_is_said(monkeypatch, changes, says):
    for name, value in ({"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"} | changes).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(DistributedError, match=says), connect(1):
        pass


def test_an_error_of_the_program_is_not_taken_for_a_lost_rank():
    with pytest.raises(RuntimeError, match="shapes do not match"), connect(1):
        raise RuntimeError("shapes do not match")


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_is_noted_and_becomes_the_exit_code_of_all(signum, code):
    with StopSignal() as here, StopSignal() as elsewhere:
        before = elsewhere.flags()
        os.kill(os.getpid(), signum)
        summed = [a + b for a, b in zip(elsewhere.flags(), before, strict=True)]
        assert here.exit_code(summed) == code
    assert here.exit_code(before) == 0


def test_a_signal_is_answered_at_once_and_once(capsys):
    with StopSignal():
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
    assert capsys.readouterr().err == "stopping: the step under way is ended, and saved\n"


@pytest.mark.filterwarnings("ignore:Cyclopts application invoked without tokens")
def test_a_run_that_is_interrupted_before_its_first_step_says_that_it_goes_on(monkeypatch, capfd):
    def sft(config: Annotated[SFTConfig, Parameter(name="*")] = SFTConfig()):
        raise KeyboardInterrupt

    monkeypatch.setattr("sys.argv", ["sft"])
    with pytest.raises(SystemExit) as ended:
        command(sft, SFTConfig, None)
    assert ended.value.code == 130
    assert capfd.readouterr().err == "interrupted; the same command goes on from here\n"


def test_signals_do_again_what_they_did_before():
    handlers = [signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)]
    with StopSignal():
        assert signal.getsignal(signal.SIGTERM) != handlers[0]
    assert [signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGINT)] == handlers


def test_a_world_of_one_is_the_default():
    assert World() == World(rank=0, size=1, device=torch.device("cpu"))
