"""A checkpoint as quality model, in a process of its own: what it says, how it dies, and where torch is."""

import os
import signal
from pathlib import Path

import pytest
import torch

from deploy.walk import CheckpointProcess, ScorerDied, open_any_model
from shards.reader import ShardReader
from tests.conftest import eventually, open_frontier
from tests.ranker.conftest import prose
from tests.ranker.test_walker import committed_all, feed, walk
from tests.tinylm.test_processes import gone
from tests.trainer.runs import save
from tinylm.errors import ConfigError
from trainer.config import PretrainConfig
from trainer.evaluate import CheckpointQuality
from trainer.model.model import GPT
from trainer.run import checkpoint
from trainer.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A checkpoint of a tiny model that has learned nothing."""
    shape = {"sequence_len": 64, "width": 16, "layers": 1, "heads": 2, "kv_heads": 1, "device_batch_size": 1}
    config = PretrainConfig(**shape, tokens_per_step=64, out=tmp_path_factory.mktemp("scorer") / "run")
    tokenizer = Tokenizer.train([prose(n) for n in range(5)], 400)
    torch.manual_seed(1)
    model = GPT(config.model(tokenizer.vocab_size))
    save(model, config)
    tokenizer.save(config.out / checkpoint.TOKENIZER)
    return config.out


@pytest.fixture(scope="module")
def model(run):
    """One process for all tests, of which the last leaves it dead."""
    process = open_any_model(str(run), "")
    yield process
    process.close()


def test_it_says_what_the_model_says(model, run):
    same = CheckpointQuality(run)
    assert model.name == same.name == "checkpoint run/step_000001"
    for text in (prose(1), "", "\ud800", "word " * 50_000):
        assert model.score(text) == pytest.approx(same.score(text), rel=1e-4)


def test_a_process_that_was_killed_is_replaced(model):
    before = model.score(prose(1))
    os.kill(model._child._process.pid, signal.SIGKILL)
    assert model.score(prose(1)) == before


def test_a_text_that_it_dies_of_is_no_end_of_the_walker(model, monkeypatch):
    """ValueError: the walker sets it aside."""
    pipe_of = type(model._child.pipe)
    send = pipe_of.send

    def send_or_kill(self, text):
        if text == "deadly":
            model._child._process.kill()
            model._child._process.join()
        send(self, text)

    monkeypatch.setattr(pipe_of, "send", send_or_kill)
    with pytest.raises(ValueError, match="ends at this one"):
        model.score("deadly")
    assert model.score(prose(1)) > 0


@pytest.mark.long
def test_one_that_dies_of_every_text_is_given_up(model, monkeypatch):
    await_model = CheckpointProcess._await_model

    def await_and_kill(self):
        await_model(self)
        self._child._process.kill()
        self._child._process.join()

    monkeypatch.setattr(CheckpointProcess, "_await_model", await_and_kill)
    model._child._process.kill()
    with pytest.raises(ScorerDied, match="keeps ending"):
        model.score(prose(1))


def test_a_folder_without_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=f"quality = '{tmp_path}': .*no checkpoint here"):
        open_any_model(str(tmp_path), "")


def test_a_walker_is_steered_by_a_checkpoint_and_never_loads_torch(server, tmp_path, run):
    frontier = open_frontier(server, delay=0)
    with walk(server, frontier, tmp_path, tmp_path / "log", "--quality", str(run)) as process:
        feed(frontier, range(1, 4))
        eventually(lambda: committed_all(frontier))
        maps = Path(f"/proc/{process.pid}/maps").read_text()
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        child_maps = [Path(f"/proc/{child}/maps").read_text() for child in children]
        assert "libtorch" not in maps
        assert any("libtorch" in mapped for mapped in child_maps)
        process.terminate()
        assert process.wait(60) == 0
    for child in children:
        eventually(lambda child=child: gone(child))
    same = CheckpointQuality(run)
    rows = list(ShardReader(tmp_path / "shards", split="all"))
    assert len(rows) == 3
    for row in rows:
        assert row["quality_model"] == same.name
        assert row["quality"] == pytest.approx(same.score(row["text"]), abs=1e-3)
