"""A step is in metrics.jsonl once, however often the run was killed."""

import json

from trainer.config import TrainConfig
from trainer.run.metrics import Meter, Progress, Record, describe, duration


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_what_was_logged_past_the_restored_step_is_cut_off(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with Record(TrainConfig(out=tmp_path), 0) as log:
        for step in range(1, 8):
            log.write({"step": step, "loss": 1 / step})
    with Record(TrainConfig(out=tmp_path), 4) as log:
        log.write({"step": 5, "loss": 0.5})
    assert [line["step"] for line in read(path)] == [1, 2, 3, 4, 5]
    assert read(path)[-1]["loss"] == 0.5


def test_a_line_cut_by_a_crash_is_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "lo')
    with Record(TrainConfig(out=tmp_path), 10) as log:
        log.write({"step": 3})
    assert [line["step"] for line in read(path)] == [1, 3]


def test_no_file_is_an_empty_one(tmp_path):
    with Record(TrainConfig(out=tmp_path), 0):
        pass
    assert read(tmp_path / "metrics.jsonl") == []


def test_nothing_is_left_when_nothing_is_left_to_do():
    assert Meter(0, 10, 0, 1.0).read(10, 1000)["eta_seconds"] == 0


def test_a_line_says_where_the_run_is():
    values = {
        "step": 7,
        "steps": 100,
        "loss": 2.5,
        "val_bpb": 1.9,
        "tokens_per_second": 12345,
        "eta_seconds": 61,
    }
    assert describe(values) == "step   7/100  loss 2.500  val_bpb 1.900  12,345 tokens/s  ETA 1:01"


def test_without_a_terminal_lines_are_few_and_the_last_one_is_shown(capsys):
    progress = Progress()
    for step in range(100):
        progress.show(f"step {step}")
    progress.show("done", last=True)
    assert capsys.readouterr().out == "step 0\ndone\n"


def test_durations_read_like_a_clock():
    assert [duration(seconds) for seconds in (0, 59.6, 3599, 3600)] == ["0:00", "1:00", "59:59", "1:00:00"]
