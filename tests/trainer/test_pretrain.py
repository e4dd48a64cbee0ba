"""Pretraining goes on as if nothing had happened: after any kill, on the same ranks to the last bit."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading

import pytest

from shards.holdout import hold_out
from shards.manifest import Manifest
from shards.writer import ShardWriter
from tests.trainer.conftest import document, weights
from tests.trainer.runs import (
    MOMENTS,
    ROOT,
    WEIGHTS,
    check_resume,
    cut_back,
    finish,
    kill_group,
    losses,
    rank_pids,
    start,
    wait_for_step,
)
from tinylm.errors import ConfigError
from trainer.pretrain import pretrain
from trainer.run import checkpoint
from trainer.run.checkpoint import CheckpointError
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


def test_a_finished_run_says_so_and_changes_nothing(tiny, capsys):
    config = tiny(steps=4)
    pretrain(config)
    before = {path: path.stat().st_mtime_ns for path in config.out.rglob("*")}
    capsys.readouterr()
    pretrain(config)
    assert "finished, 4 steps" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in config.out.rglob("*")} == before


@pytest.mark.parametrize("step", [4, 8])
def test_a_resumed_run_is_bit_identical_to_one_never_stopped(tiny, step):
    config = tiny(steps=12)
    pretrain(config)
    expected, bits = losses(config.out), weights(config.out)
    cut_back(config.out, step, torn_metrics='{"step": 99, "lo')
    pretrain(config)
    assert losses(config.out) == expected
    assert weights(config.out) == bits
    assert sorted(losses(config.out)) == list(range(1, 13))


@pytest.mark.parametrize("name", [WEIGHTS, MOMENTS, "state.json"])
def test_a_run_whose_last_checkpoint_is_damaged_goes_on_from_the_one_before_and_says_so(tiny, name, capsys):
    config = tiny(steps=12)
    pretrain(config)
    expected, bits = losses(config.out), weights(config.out)
    cut_back(config.out, 8)
    (config.out / "step_000008" / name).write_bytes(b"damaged")
    pretrain(config)
    assert "step_000008 is damaged; going back to the one before it" in capsys.readouterr().err
    assert losses(config.out) == expected
    assert weights(config.out) == bits


def test_a_run_all_of_whose_checkpoints_are_damaged_does_not_start_anew(tiny):
    config = tiny(steps=8)
    pretrain(config)
    cut_back(config.out, 4)
    (config.out / "step_000004" / MOMENTS).unlink()
    with pytest.raises(CheckpointError, match=rf"{MOMENTS} is missing or damaged"):
        pretrain(config)


def test_a_run_killed_before_its_evaluation_only_makes_that_up(tiny):
    config = tiny(steps=4)
    pretrain(config)
    found = (config.out / "evaluation.json").read_text()
    cut_back(config.out, 4)
    pretrain(config)
    assert (config.out / "evaluation.json").read_text() == found


def test_another_setting_for_the_same_folder_is_refused_by_name(tiny):
    pretrain(tiny(steps=4))
    with pytest.raises(CheckpointError, match=r"steps = 4, not 5: go on with steps = 4, or start anew"):
        pretrain(tiny(steps=5))


def test_a_corpus_that_has_grown_does_not_change_a_run(tiny, write_corpus, texts, tmp_path):
    corpus = write_corpus(tmp_path / "corpus", texts, held_out=3)
    config = tiny(steps=8, shards=corpus)
    pretrain(config)
    expected = losses(config.out)
    cut_back(config.out, 4)
    write_corpus(corpus, texts[:20])
    assert len(Manifest.load(corpus).shards) == 2
    pretrain(config)
    assert losses(config.out) == expected


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


def test_another_corpus_in_its_place_is_refused(tiny, write_corpus, texts, tmp_path):
    config = tiny(steps=8)
    pretrain(config)
    cut_back(config.out, 4)
    other = write_corpus(tmp_path / "other", texts[5:30], held_out=3)
    with pytest.raises(CheckpointError, match=r"pinned to manifest [0-9a-f]{12}, whose shard-.* is not in"):
        pretrain(tiny(steps=8, shards=other))


def test_a_tokenizer_put_there_before_is_used_and_too_large_a_one_refused(tiny):
    config = tiny(steps=4)
    pretrain(config)
    other = tiny(steps=4, out=config.out.parent / "other")
    other.out.mkdir()
    shutil.copy(config.out / "tokenizer.json", other.out)
    pretrain(other)
    assert losses(other.out) == losses(config.out)
    third = tiny(steps=4, out=config.out.parent / "third", vocab_size=300)
    third.out.mkdir()
    shutil.copy(config.out / "tokenizer.json", third.out)
    with pytest.raises(ConfigError, match=r"vocab_size = 300: .* has 320; delete it"):
        pretrain(third)


def test_a_loss_that_stays_no_number_ends_the_run_without_a_checkpoint(tiny, capsys):
    config = tiny(steps=8, learning_rate=1e30, grad_clip=0.0, warmup=0.0, checkpoint_every=1)
    with pytest.raises(TrainingError, match=r"step \d+: .* is (nan|inf).*lower learning_rate"):
        pretrain(config)
    assert "step 2 is left out: " in (said := capsys.readouterr().err)
    assert "back to step 1, with the text that comes after step 4" in said
    assert checkpoint.latest(config.out).name == "step_000001"


def test_metrics_go_to_tensorboard_too(tiny):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = tiny(steps=4, tensorboard=True)
    pretrain(config)
    found = EventAccumulator(str(config.out / "tensorboard"))
    found.Reload()
    assert [event.step for event in found.Scalars("loss")] == [1, 2, 3, 4]
    assert found.Scalars("val_bpb")[0].value == pytest.approx(losses(config.out)[4][2])


def test_tensorboard_is_closed_when_a_run_ends_well_or_not(tiny, tmp_path):
    pretrain(tiny(steps=2, tensorboard=True))
    assert not writing()
    with pytest.raises(TrainingError):
        pretrain(tiny(tensorboard=True, learning_rate=1e30, grad_clip=0.0, warmup=0.0, out=tmp_path / "bad"))
    assert not writing()


def writing():
    """Threads of TensorBoard's."""
    return [thread for thread in threading.enumerate() if "tensorboard" in type(thread).__module__]


def test_a_profile_is_written_on_request(tiny, tmp_path):
    pretrain(tiny(steps=10, profile=tmp_path / "profile"))
    assert "aten::" in (tmp_path / "profile" / "rank_0.txt").read_text()
    assert json.loads((tmp_path / "profile" / "rank_0.json").read_text())["traceEvents"]


def test_a_sample_is_shown_at_each_measurement(tiny):
    config = tiny(steps=8)
    pretrain(config)
    lines = [json.loads(line) for line in (config.out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line.get("sample", "").startswith("The ")] == [4, 8]


def test_with_a_document_mask_documents_do_not_see_each_other(tiny):
    """The first steps' losses differ from those without, and the run learns."""
    plain, masked = tiny(steps=8), tiny(steps=8, document_mask=True)
    pretrain(plain)
    before = losses(plain.out)
    shutil.rmtree(plain.out)
    pretrain(masked)
    assert losses(masked.out)[8][0] != before[8][0]
    assert losses(masked.out)[8][0] < losses(masked.out)[1][0]


@pytest.mark.long
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_compiled_and_in_bf16_it_learns_as_well(tiny, tmp_path, parallel):
    plain = tiny(steps=12, learning_rate=1e-2)
    pretrain(plain)
    config = tiny(
        steps=12, learning_rate=1e-2, compile=True, precision="bf16", parallel=parallel,
        activation_checkpointing=True, out=tmp_path / "compiled",
    )  # fmt: skip
    finish(start(config, size=2))
    assert losses(config.out)[12][0] == pytest.approx(losses(plain.out)[12][0], rel=0.05)


def test_text_that_holds_nothing_out_is_trained_on_and_not_measured(
    tiny, write_corpus, texts, tmp_path, capsys
):
    config = tiny(steps=4, shards=write_corpus(tmp_path / "corpus", texts[:9]))
    pretrain(config)
    assert "val_bpb" not in json.loads((config.out / "evaluation.json").read_text())
    assert "nothing to measure" in capsys.readouterr().out


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


@pytest.mark.long
@pytest.mark.parametrize("size", [1, 2])
def test_killed_and_started_again_it_goes_on_with_the_same_losses_to_the_last_bit(tiny, size):
    config = tiny(steps=200, checkpoint_every=10, eval_every=50)
    whole = tiny(steps=200, checkpoint_every=10, eval_every=50, out=config.out.parent / "whole")
    finish(start(whole, size=size))
    for step in (13, 77):
        process = start(config, size=size)
        wait_for_step(process, config.out, step)
        kill_group(process)
    assert max(losses(config.out)) < 200
    finish(start(config, size=size))
    assert losses(config.out) == losses(whole.out)
    assert weights(config.out) == weights(whole.out)
    assert "finished" in finish(start(config, size=size))


@pytest.mark.long
def test_a_killed_rank_is_started_again_by_torchrun_and_the_losses_are_the_same(tiny):
    config = tiny(steps=300, checkpoint_every=10, eval_every=0)
    whole = tiny(steps=300, checkpoint_every=10, eval_every=0, out=config.out.parent / "whole")
    finish(start(whole, size=2))
    process = start(config, size=2, restarts=3)
    for step in (25, 120):
        wait_for_step(process, config.out, step)
        os.kill(rank_pids(process)[1], signal.SIGKILL)
    assert "goes on after step" in finish(process)
    assert losses(config.out) == losses(whole.out)


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


@pytest.mark.long
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_one_rank_stops_all_at_one_step_from_which_the_run_goes_on(tiny, signum):
    config = tiny(steps=300, checkpoint_every=1000, eval_every=0)
    whole = tiny(steps=300, checkpoint_every=1000, eval_every=0, out=config.out.parent / "whole")
    finish(start(whole, size=2))
    process = start(config, size=2)
    wait_for_step(process, config.out, 20)
    os.kill(rank_pids(process)[1], signum)
    process.communicate()
    assert process.returncode != 0
    stopped = checkpoint.read_state(checkpoint.latest(config.out))["step"]
    assert stopped == max(losses(config.out)) < 300
    finish(start(config, size=2))
    assert losses(config.out) == losses(whole.out)


@pytest.mark.long
def test_alone_a_signal_is_the_exit_code(tiny):
    config = tiny(steps=2000, checkpoint_every=10_000, eval_every=0)
    process = start(config)
    wait_for_step(process, config.out, 20)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == 143
    assert checkpoint.latest(config.out) is not None
