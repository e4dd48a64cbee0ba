import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from bench.runs import weights
from tinylm.errors import ConfigError, TinylmError
from trainer.config import PretrainConfig, SFTConfig
from trainer.data.batch import DataError
from trainer.generate import Generator
from trainer.post.chat import held_out_file
from trainer.pretrain import pretrain
from trainer.run import checkpoint
from trainer.run.checkpoint import CheckpointError
from trainer.sft import sft

ANSWERS = {
    "What is a lease?": "A lease is a right that ends.",
    "What is a shard?": "A shard is a file of documents.",
    "What does `reap` do?": "It brings expired leases back.",
    "Who counts the tokens?": "The reader counts them, and the writer too.",
}


def write(path, answers, copies):
    lines = [
        json.dumps(
            {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
        )
        for question, answer in answers.items()
    ]
    path.write_text("".join(line + "\n" for line in lines * copies))
    return path


@pytest.fixture(scope="module")
def base(tmp_path_factory, corpus):
    """A pretrained run: real, and too small to know anything."""
    out = tmp_path_factory.mktemp("base") / "run"
    shape = {"vocab_size": 320, "sequence_len": 64, "width": 32, "layers": 2, "heads": 2, "kv_heads": 1}
    course = {
        "device_batch_size": 4,
        "tokens_per_step": 512,
        "steps": 4,
        "lanes": 4,
        "baseline_bytes": 10_000,
    }
    pretrain(PretrainConfig(shards=corpus, out=out, **shape, **course))
    return out


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = write(tmp_path_factory.mktemp("data") / "chat.jsonl", ANSWERS, copies=12)
    write(held_out_file(path), dict(list(ANSWERS.items())[:2]), copies=1)
    return path


def tuning_config(**changes):
    """Settings of a fine-tuning run of a second."""
    course = {"device_batch_size": 2, "tokens_per_step": 512, "learning_rate": 1e-2, "epochs": 4}
    rest = {"checkpoint_every": 2, "keep_last": 100, "log_every": 1, "eval_every": 0}
    return SFTConfig(**(course | rest | changes))


@pytest.fixture
def tuning(base, data, tmp_path):
    """`tuning_config` for a folder of the test's own: `tuning(epochs=1)`."""
    return partial(tuning_config, init_from=base, data=data, out=tmp_path / "chat")


@pytest.fixture(scope="module")
def once(base, data, tmp_path_factory):
    """The folder of a finished run of one epoch."""
    out = tmp_path_factory.mktemp("once") / "chat"
    sft(tuning_config(init_from=base, data=data, out=out, epochs=1))
    return out


@pytest.fixture
def finished(once, tuning):
    """A copy of that run, and its settings: `finished(data=other)`."""
    shutil.copytree(once, tuning().out)
    return partial(tuning, epochs=1)


def losses(run):
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: line["loss"] for line in lines}


def test_the_model_answers_as_it_was_taught_and_stops(tuning, base):
    config = tuning(epochs=40)
    sft(config)
    before, after = Generator.load(base), Generator.load(config.out)
    for question, answer in ANSWERS.items():
        messages = [{"role": "user", "content": question}]
        assert "".join(after.chat(messages, temperature=0)) == answer
        assert "".join(before.chat(messages, temperature=0, max_tokens=40)) != answer


def test_the_loss_of_held_out_answers_is_told_before_and_after(tuning, capsys):
    config = tuning()
    sft(config)
    told = json.loads((config.out / "evaluation.json").read_text())
    assert told["val_loss"] < told["val_loss_before"]
    assert f"{told['val_loss_before']:.3f} nats a token before, {told['val_loss']:.3f} after" in (
        capsys.readouterr().out
    )


def test_without_held_out_answers_the_run_says_so(tuning, data, tmp_path, capsys):
    alone = shutil.copy(data, tmp_path / "alone.jsonl")
    config = tuning(data=Path(alone), epochs=1)
    sft(config)
    assert "0 conversations held out" in capsys.readouterr().out
    assert json.loads((config.out / "evaluation.json").read_text())["val_loss"] is None


def test_a_run_goes_on_from_a_checkpoint_with_the_same_losses(tuning, tmp_path):
    whole = tuning(out=tmp_path / "whole")
    sft(whole)
    cut = tmp_path / "cut"
    shutil.copytree(whole.out, cut)
    for path in sorted(cut.glob("step_*"))[1:]:
        shutil.rmtree(path)
    (cut / "evaluation.json").unlink()
    assert checkpoint.latest(cut).name == "step_000002"
    sft(tuning(out=cut))
    assert losses(cut) == losses(whole.out)
    assert len(losses(cut)) > 4
    assert weights(cut) == weights(whole.out)


def test_a_finished_run_says_so_and_does_nothing(finished, capsys):
    config = finished()
    before = (config.out / "metrics.jsonl").read_bytes()
    sft(config)
    assert "finished" in capsys.readouterr().out
    assert (config.out / "metrics.jsonl").read_bytes() == before


def test_a_run_is_not_continued_on_other_data(finished, tmp_path):
    other = write(tmp_path / "other.jsonl", ANSWERS, copies=3)
    (finished().out / "evaluation.json").unlink()
    with pytest.raises(CheckpointError, match=r"chat holds a run with data\.sha256 = \w+, not"):
        sft(finished(data=other))


def test_what_a_finished_run_was_not_made_of_is_digested_and_not_read(finished, tmp_path):
    (other := tmp_path / "other.jsonl").write_text("no conversation\n")
    with pytest.raises(CheckpointError, match=r"chat holds a run with data\.sha256 = \w+, not"):
        sft(finished(data=other))


def test_a_run_is_not_continued_with_another_setting(finished):
    with pytest.raises(CheckpointError, match=r"learning_rate = 0\.01, not 0\.5"):
        sft(finished(learning_rate=0.5))


def test_conversations_that_were_cut_or_left_out_are_told(tuning, tmp_path, capsys):
    path = write(tmp_path / "long.jsonl", ANSWERS | {"Why?": "because " * 200, "so " * 200: "Yes."}, copies=1)
    line = {
        "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0}]
    }
    path.write_text(path.read_text() + f"not json\n{json.dumps(line | {'split': 'a'})}\n")
    with pytest.raises(DataError, match=r"long\.jsonl:7: not JSON"):
        sft(tuning(data=path, epochs=1))
    sft(tuning(data=path, epochs=1, on_bad_line="skip"))
    said = capsys.readouterr().out
    assert (
        "2 conversations cut to the model's sequence_len, 2 without an answer and 1 bad lines left out "
        "(not JSON 1)\n"
    ) in said
    assert f"{path}: 1 answers are not learned, as they say themselves\n" in said
    assert f"{path}: nothing is done with split\n" in said


def test_a_run_does_not_overwrite_the_one_it_starts_from():
    with pytest.raises(ConfigError, match=r"out = .*must not be init_from"):
        SFTConfig(out=Path("runs/model"), init_from=Path("runs/model"))


def command(config, ranks):
    settings = ("data", "init_from", "out", "device_batch_size", "tokens_per_step", "learning_rate", "epochs")
    settings += ("checkpoint_every", "keep_last", "log_every", "eval_every")
    flags = [
        word for name in settings for word in (f"--{name.replace('_', '-')}", str(getattr(config, name)))
    ]
    if ranks == 1:
        return [sys.executable, "-m", "trainer.sft", *flags]
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    return [sys.executable, *launcher, "-m", "trainer.sft", *flags]


def start(config, ranks):
    return subprocess.Popen(
        command(config, ranks),
        cwd=Path(__file__).parents[2],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(config, ranks):
    with start(config, ranks) as process:
        output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output


def kill_after(config, ranks, step):
    """SIGKILL to torchrun and all ranks as soon as the run has logged `step`."""
    with start(config, ranks) as process:
        metrics = config.out / "metrics.jsonl"
        while process.poll() is None and not (metrics.exists() and metrics.read_text().count("\n") >= step):
            time.sleep(0.005)
        workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for pid in [process.pid, *map(int, workers)]:
            os.kill(pid, signal.SIGKILL)
        process.communicate()
    assert len(workers) == ranks
    assert not (config.out / "evaluation.json").exists()


def test_the_command_ends_with_one_line_for_a_bad_file(tuning, tmp_path):
    result = subprocess.run(
        command(tuning(data=tmp_path / "missing.jsonl"), ranks=1),
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1


def test_a_start_on_bad_conversations_leaves_no_folder(tuning, tmp_path):
    (bad := tmp_path / "bad.jsonl").write_text("[]\n")
    with pytest.raises(TinylmError):
        sft(tuning(data=bad, out=tmp_path / "some" / "where"))
    assert [path.name for path in tmp_path.iterdir()] == ["bad.jsonl"]


@pytest.mark.long
def test_a_killed_run_of_two_ranks_goes_on_bit_for_bit_and_on_one_rank_to_rounding(tuning, tmp_path):
    whole, killed, alone = (tuning(out=tmp_path / name, epochs=30) for name in ("whole", "killed", "alone"))
    finish(whole, ranks=2)
    kill_after(killed, ranks=2, step=5)
    shutil.copytree(killed.out, alone.out)
    finish(killed, ranks=2)
    assert losses(killed.out) == losses(whole.out)
    finish(alone, ranks=1)
    # Later on, one rounding error has led to another.
    early = range(1, 16)
    expected, found = losses(whole.out), losses(alone.out)
    assert [found[step] for step in early] == pytest.approx([expected[step] for step in early], rel=1e-3)
    assert len(found) == len(expected)
