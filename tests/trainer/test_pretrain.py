"""Pretraining goes on as if nothing had happened: after any kill, on the same ranks to the last bit."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.runs import (
    ROOT,
    finish,
    kill_group,
    losses,
    rank_pids,
    start,
    wait_for_step,
    weights,
)
from shards.holdout import hold_out
from shards.manifest import Manifest
from shards.writer import ShardWriter
from tests.trainer.conftest import document, tiny_config
from tests.trainer.runs import MOMENTS, WEIGHTS, check_resume, cut_back
from tinylm.errors import ConfigError, FileError, TinylmError
from trainer.data.batch import DataError
from trainer.data.sources import open_sources, sample
from trainer.pretrain import pretrain
from trainer.run import checkpoint
from trainer.run.checkpoint import CheckpointError
from trainer.run.lifecycle import holding
from trainer.run.loop import TrainingError


def test_a_run_learns_and_leaves_what_it_promises(tiny, capsys):
    config = tiny(steps=40, learning_rate=1e-2)
    pretrain(config)
    found = json.loads((config.out / "evaluation.json").read_text())
    assert found["val_bpb"] < found["baselines"]["unigram"] < found["baselines"]["uniform"]
    assert set(found["baselines"]) == {"uniform", "unigram", "bigram", "xz -9"}
    first, last = losses(config.out)[1], losses(config.out)[40]
    assert last[0] < first[0] - 1
    assert last[2] == found["val_bpb"]
    assert checkpoint.latest(config.out).name == "step_000040"
    said = capsys.readouterr().out
    assert "M parameters" in said
    assert "bits per byte of" in said
    keys = {"step", "steps", "loss", "lr", "tokens", "tokens_per_second", "mfu", "grad_norm", "skipped"}
    line = json.loads((config.out / "metrics.jsonl").read_text().splitlines()[0])
    assert set(line) == keys | {"eta_seconds", "time"}


@pytest.fixture(scope="module")
def whole(corpus, tmp_path_factory):
    """A run of 12 steps that was never stopped."""
    config = tiny_config(corpus, tmp_path_factory.mktemp("whole") / "run", steps=12)
    pretrain(config)
    return config.out


@pytest.fixture
def again(whole, tiny):
    """The settings of `whole` in a folder that holds a copy of it."""
    config = tiny(steps=12)
    shutil.copytree(whole, config.out)
    return config


def test_a_finished_run_says_so_and_changes_nothing(again, capsys):
    before = {path: path.stat().st_mtime_ns for path in again.out.rglob("*")}
    pretrain(again)
    assert "finished, 12 steps" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in again.out.rglob("*")} == before


@pytest.mark.parametrize("step", [4, 8])
def test_a_resumed_run_is_bit_identical_to_one_never_stopped(again, whole, step):
    cut_back(again.out, step, torn_metrics='{"step": 99, "lo')
    pretrain(again)
    assert losses(again.out) == losses(whole)
    assert weights(again.out) == weights(whole)
    assert sorted(losses(again.out)) == list(range(1, 13))


@pytest.mark.parametrize("name", [WEIGHTS, MOMENTS, "state.json"])
def test_a_run_whose_last_checkpoint_is_damaged_goes_on_from_the_one_before_and_says_so(
    again, whole, name, capsys
):
    cut_back(again.out, 8)
    (again.out / "step_000008" / name).write_bytes(b"damaged")
    pretrain(again)
    assert "step_000008 is damaged; going back to the one before it" in capsys.readouterr().err
    assert losses(again.out) == losses(whole)
    assert weights(again.out) == weights(whole)


def test_a_run_all_of_whose_checkpoints_are_damaged_does_not_start_anew(again):
    cut_back(again.out, 4)
    (again.out / "step_000004" / MOMENTS).unlink()
    with pytest.raises(CheckpointError, match=rf"{MOMENTS} is missing or damaged"):
        pretrain(again)


def test_a_run_killed_before_its_evaluation_only_makes_that_up(again, whole):
    cut_back(again.out, 12)
    pretrain(again)
    assert (again.out / "evaluation.json").read_text() == (whole / "evaluation.json").read_text()


@pytest.mark.long
def test_a_run_has_its_folder_to_itself_and_killed_gives_it_free(tiny, whole):
    config = tiny(steps=12)
    (alone := start(config)), wait_for_step(alone, config.out, 1)
    os.kill(alone.pid, signal.SIGSTOP)
    before = {path: path.stat().st_mtime_ns for path in config.out.rglob("*")}
    with pytest.raises(FileError, match=rf"run: process {alone.pid} is writing here"):
        pretrain(config)
    assert {path: path.stat().st_mtime_ns for path in config.out.rglob("*")} == before
    kill_group(alone)
    pretrain(config)
    assert losses(config.out) == losses(whole)
    assert not (config.out / "run.lock").exists()


def test_of_several_ranks_the_first_holds_the_folder(tmp_path, monkeypatch):
    with holding(tmp_path / "run"):
        monkeypatch.setenv("RANK", "1")
        with holding(tmp_path / "run"):
            pass
        monkeypatch.setenv("RANK", "0")
        with (
            pytest.raises(FileError, match=f"process {os.getpid()} is writing here"),
            holding(tmp_path / "run"),
        ):
            pass


@pytest.mark.parametrize(
    "changes",
    [
        {"shards": "nowhere"},  # found when it is read
        {"sample_by": "karma2"},  # found when the tokenizer is there already
        {"vocab_size": 250},  # found by the tokenizer
    ],
    ids=str,
)
def test_a_start_that_is_refused_leaves_no_folder(tiny, tmp_path, changes):
    with pytest.raises(TinylmError):
        pretrain(tiny(out=tmp_path / "some" / "where", **changes))
    assert not [*tmp_path.iterdir()]


@pytest.fixture(scope="module")
def grown(corpus, tmp_path_factory):
    """A run of 8 steps, 2 of them to warm up, and its state then; given 16 steps, and what it came to."""
    out = tmp_path_factory.mktemp("grown") / "run"
    pretrain(tiny_config(corpus, out, steps=8, warmup=0.25, decay=0.5, keep_last=1, checkpoint_every=8))
    before = weights(out)
    assert sorted(path.name for path in out.glob("step_*")) == ["step_000004", "step_000008"]
    config = tiny_config(corpus, out, steps=16, warmup=0.25, decay=0.5, keep_last=10)
    pretrain(config)
    return config, before


def test_a_run_that_is_given_more_steps_is_the_longer_run_with_as_many_steps_to_warm_up(grown, tiny):
    config, before = grown
    longer = tiny(steps=16, warmup=0.125, decay=0.5)
    pretrain(longer)
    assert losses(config.out) == losses(longer.out)
    assert sorted(losses(config.out)) == list(range(1, 17))
    assert weights(config.out) == weights(longer.out)
    shorter = config.out / "end_000008"
    assert weights(shorter) == before
    assert json.loads((shorter / "evaluation.json").read_text())["step"] == 8
    assert json.loads((config.out / "evaluation.json").read_text())["step"] == 16
    assert checkpoint.load_model(shorter)[0].config == checkpoint.load_model(config.out)[0].config


@pytest.mark.parametrize("step", [4, 12])
def test_killed_on_its_way_it_comes_to_the_same(grown, tmp_path, step):
    config = replace(grown[0], out=tmp_path / "run")
    shutil.copytree(grown[0].out, config.out)
    cut_back(config.out, step)
    pretrain(config)
    assert weights(config.out) == weights(grown[0].out)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"steps": 11}, r"holds a run with steps = 12, not 11"),
        ({"steps": 24, "schedule": "cosine"}, "with schedule = wsd, not cosine"),
        ({"steps": 24, "decay": 0.1}, r"with decay = 0\.4, not 0\.1"),
        ({"steps": 24}, "its checkpoints are from after its learning rate began to fall.* --init-from"),
    ],
)
def test_what_is_no_longer_run_of_the_same_is_refused_and_changes_nothing(again, changes, says):
    for path in again.out.glob("step_*"):
        if path.name != "step_000012":
            shutil.rmtree(path)
    before = {path: path.stat().st_mtime_ns for path in again.out.rglob("*")}
    with pytest.raises(CheckpointError, match=says):
        pretrain(replace(again, **changes))
    assert {path: path.stat().st_mtime_ns for path in again.out.rglob("*")} == before


def test_a_cosine_is_given_no_more_steps(tiny):
    pretrain(tiny(steps=4, schedule="cosine"))
    with pytest.raises(CheckpointError, match="holds a run with steps = 4, not 8"):
        pretrain(tiny(steps=8, schedule="cosine"))


def test_without_a_decay_a_run_goes_on_from_its_end(tiny, capsys):
    pretrain(tiny(steps=4, decay=0, warmup=0.25))
    pretrain(tiny(steps=8, decay=0, warmup=0.25))
    assert "goes on after step 4" in capsys.readouterr().out
    assert not [*tiny().out.glob("end_*")]
    one = tiny(steps=8, decay=0, warmup=0.125, out=tiny().out.with_name("one"))
    pretrain(one)
    assert weights(tiny().out) == weights(one.out)


def test_another_setting_for_the_same_folder_is_refused_by_name(again):
    with pytest.raises(CheckpointError, match=r"steps = 12, not 5: go on with steps = 12, or start anew"):
        pretrain(replace(again, steps=5))


def test_a_corpus_that_has_grown_does_not_change_a_run(again, whole, corpus, write_corpus, texts, tmp_path):
    grown = shutil.copytree(corpus, tmp_path / "corpus")
    write_corpus(grown, texts[:20])
    assert len(Manifest.load(grown).shards) == 2
    cut_back(again.out, 4)
    pretrain(replace(again, shards=grown))
    assert losses(again.out) == losses(whole)


def test_a_corpus_that_has_grown_is_refused_until_its_held_out_text_is_compared_with_the_rest(
    tiny, write_corpus, texts, tmp_path
):
    corpus = write_corpus(tmp_path / "corpus", texts, held_out=3)
    with ShardWriter(corpus) as writer:
        writer.append(document(99, texts[0], "mirror.test"))
        writer.commit()
    with pytest.raises(ConfigError, match=r"corpus grew since .*: `tinylm shards hold-out .*corpus` first"):
        pretrain(tiny(steps=4, shards=corpus))
    hold_out(corpus, 0.05)
    pretrain(tiny(steps=4, shards=corpus))


def test_another_corpus_in_its_place_is_refused(again, write_corpus, texts, tmp_path):
    cut_back(again.out, 4)
    other = write_corpus(tmp_path / "other", texts[5:30], held_out=3)
    with pytest.raises(DataError, match=r"pinned to manifest [0-9a-f]{12}, whose shard-.* is not in"):
        pretrain(replace(again, shards=other))


def test_a_tokenizer_put_there_before_is_used_and_too_large_a_one_refused(tiny, whole, tmp_path):
    other = tiny(steps=12)
    other.out.mkdir()
    shutil.copy(whole / "tokenizer.json", other.out)
    pretrain(other)
    assert losses(other.out) == losses(whole)
    third = tiny(steps=4, out=tmp_path / "third", vocab_size=300)
    third.out.mkdir()
    shutil.copy(whole / "tokenizer.json", third.out)
    with pytest.raises(ConfigError, match=r"vocab_size = 300: .* has 320: start with another --out"):
        pretrain(third)


def test_a_loss_that_stays_no_number_ends_the_run_without_a_checkpoint(tiny, capsys):
    config = tiny(steps=8, learning_rate=1e30, grad_clip=0.0, warmup=0.0, checkpoint_every=1)
    with pytest.raises(TrainingError, match=r"step \d+: .* is (nan|inf).*lower learning_rate"):
        pretrain(config)
    assert "step 2 is left out: " in (said := capsys.readouterr().err)
    assert "back to step 1, with the text that comes after step 4" in said
    assert checkpoint.latest(config.out).name == "step_000001"


def test_metrics_go_to_tensorboard_too_which_is_closed_when_a_run_ends_well_or_not(tiny, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = tiny(steps=4, tensorboard=True)
    pretrain(config)
    assert not writing()
    found = EventAccumulator(str(config.out / "tensorboard"))
    found.Reload()
    assert [event.step for event in found.Scalars("loss")] == [1, 2, 3, 4]
    assert found.Scalars("val_bpb")[0].value == pytest.approx(losses(config.out)[4][2])
    with pytest.raises(TrainingError):
        pretrain(tiny(tensorboard=True, learning_rate=1e30, grad_clip=0.0, warmup=0.0, out=tmp_path / "bad"))
    assert not writing()


def writing():
    """Threads of TensorBoard's."""
    return [thread for thread in threading.enumerate() if "tensorboard" in type(thread).__module__]


@pytest.mark.long
def test_a_profile_is_written_on_request(tiny, tmp_path):
    pretrain(tiny(steps=10, profile=tmp_path / "profile"))
    assert "aten::" in (tmp_path / "profile" / "rank_0.txt").read_text()
    assert json.loads((tmp_path / "profile" / "rank_0.json").read_text())["traceEvents"]


def test_a_sample_is_shown_at_each_measurement(whole):
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line.get("sample", "").startswith("The ")] == [4, 8, 12]


def test_with_a_document_mask_documents_do_not_see_each_other(tiny, whole):
    """The first steps' losses differ from those without, and the run learns."""
    masked = tiny(steps=12, document_mask=True)
    pretrain(masked)
    assert losses(masked.out)[8][0] != losses(whole)[8][0]
    assert losses(masked.out)[8][0] < losses(masked.out)[1][0]


@pytest.mark.long
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_compiled_and_in_bf16_it_learns_as_well(tiny, whole, parallel):
    config = tiny(steps=12, compile=True, precision="bf16", parallel=parallel, activation_checkpointing=True)
    finish(start(config, size=2))
    assert losses(config.out)[12][0] == pytest.approx(losses(whole)[12][0], rel=0.05)


def test_text_that_holds_nothing_out_is_trained_on_and_not_measured(
    tiny, write_corpus, texts, tmp_path, capsys
):
    config = tiny(steps=4, shards=write_corpus(tmp_path / "corpus", texts[:9]))
    pretrain(config)
    assert "val_bpb" not in json.loads((config.out / "evaluation.json").read_text())
    assert "nothing to measure" in capsys.readouterr().out


def test_text_of_any_make_neither_ends_a_run_nor_holds_it_up(tiny, texts, tmp_path, capsys):
    """Bytes that are not UTF-8, a word that is longer than a sample takes of a text, nothing at all."""
    raw = [*(text.encode() for text in texts), b"caf\xe9 and more", b"", b" ", b"ab" * 600_000, None]
    array = pa.array(raw, pa.binary())
    strings = pa.Array.from_buffers(pa.string(), len(array), array.buffers(), array.null_count)
    (tmp_path / "text").mkdir()
    pq.write_table(pa.table({"text": strings}), tmp_path / "text" / "a.parquet", row_group_size=8)
    config = tiny(shards=str(tmp_path / "text"), steps=2, sample_prompt="caf\udce9")
    pretrain(config)
    said = capsys.readouterr()
    assert said.out.startswith(
        "trains a tokenizer of 320 on up to 8 MB of the text, in which pieces of more than"
    )
    assert "\n'caf\ufffd" in said.out
    assert "a.parquet: text in row group 7 is not UTF-8" in said.err
    assert checkpoint.last_state(config.out)["step"] == 2
    assert max(map(len, sample(open_sources(config), 8_000_000, seed=0))) == 1_000_000


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--shards", "nowhere"], "error: nowhere: no manifest.json here"),
        (["--width", "30"], "error: heads = 4: must divide width = 30"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(flags, said, tmp_path):
    argv = [sys.executable, "-m", "trainer.pretrain", "--out", str(tmp_path / "run"), *flags]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(said)
    assert done.stderr.count("\n") == 1


@pytest.fixture(scope="module", params=[1, 2])
def course(request, corpus, tmp_path_factory):
    """A run of 300 steps on one or two ranks that was never stopped: the number, and its settings."""
    out = tmp_path_factory.mktemp("course") / "run"
    config = tiny_config(corpus, out, steps=300, checkpoint_every=10, eval_every=50)
    finish(start(config, size=request.param))
    return request.param, config


on_two_ranks = pytest.mark.parametrize("course", [2], indirect=True)


@pytest.mark.long
def test_killed_and_started_again_it_goes_on_with_the_same_losses_to_the_last_bit(course, tmp_path):
    size, whole = course
    config = replace(whole, out=tmp_path / "run")
    for step in (13, 77):
        process = start(config, size=size)
        wait_for_step(process, config.out, step)
        kill_group(process)
    assert max(losses(config.out)) < 300
    finish(start(config, size=size))
    assert losses(config.out) == losses(whole.out)
    assert weights(config.out) == weights(whole.out)
    assert "finished" in finish(start(config))


@pytest.mark.long
@on_two_ranks
def test_a_killed_rank_is_started_again_by_torchrun_and_the_losses_are_the_same(course, tmp_path):
    size, whole = course
    config = replace(whole, out=tmp_path / "run")
    process = start(config, size=size, restarts=3)
    for step in (25, 120):
        wait_for_step(process, config.out, step)
        os.kill(rank_pids(process)[1], signal.SIGKILL)
    assert "goes on after step" in finish(process)
    assert losses(config.out) == losses(whole.out)


@pytest.mark.long
@on_two_ranks
def test_a_signal_to_one_rank_stops_all_at_one_step_from_which_the_run_goes_on(course, tmp_path):
    size, whole = course
    config = replace(whole, out=tmp_path / "run", checkpoint_every=1000)
    process = start(config, size=size)
    wait_for_step(process, config.out, 20)
    os.kill(rank_pids(process)[1], signal.SIGTERM)
    process.communicate()
    assert process.returncode != 0
    stopped = checkpoint.read_state(checkpoint.latest(config.out))["step"]
    assert stopped == max(losses(config.out)) < 300
    finish(start(config, size=size))
    assert losses(config.out) == losses(whole.out)


@pytest.mark.long
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_alone_a_signal_is_the_exit_code(tiny, signum):
    config = tiny(steps=2000, checkpoint_every=10_000, eval_every=0)
    process = start(config)
    wait_for_step(process, config.out, 20)
    process.send_signal(signum)
    process.communicate()
    assert process.returncode == 128 + signum
    assert checkpoint.latest(config.out) is not None


@pytest.mark.long
def test_three_ranks_resume_to_the_last_bit_too(tiny):
    check_resume(tiny(steps=12, tokens_per_step=320), size=3)


@pytest.mark.long
def test_on_fewer_ranks_a_run_goes_on_with_the_same_text_and_the_same_losses_but_for_rounding(tiny):
    config = tiny(steps=12)
    finish(start(config, size=2))
    expected = losses(config.out)
    cut_back(config.out, 4)
    finish(start(config, size=1))
    for step, (loss, norm, _, tokens) in losses(config.out).items():
        assert tokens == expected[step][3]
        assert (loss, norm) == pytest.approx(expected[step][:2], rel=1e-4)
