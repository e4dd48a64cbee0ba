"""The main job as a user runs it: killed at every stage, and what it leaves behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from crawler.config import FrontierConfig
from deploy.demo.run import StageError, crawl_settings, local_web, next_steps
from shards.reader import ShardReader, verify


def start_demo(data: Path) -> subprocess.Popen[str]:
    with (data.parent / "demo.log").open("a") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "deploy.cli.app", "demo", "--data", str(data)],
            stdout=log,
            stderr=log,
            text=True,
            start_new_session=True,
            # A shell that starts tests in the background ignores Ctrl-C, and they would hand that on.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )


def processes_of(data: Path, words: str) -> Iterator[int]:
    """Living processes of the demo in `data` whose command line or settings name it, and `words`."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            settings = (entry / "environ").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if words in command and str(data) in command + settings:
            yield int(entry.name)


def wait_for(condition: Callable[[], bool], demo: subprocess.Popen[str], seconds: float = 240) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert demo.poll() is None, "the demo ended while it was waited for"
        assert time.monotonic() < give_up, "what was waited for never came"
        time.sleep(0.2)


def kill_one(data: Path, words: str, demo: subprocess.Popen[str]) -> set[int]:
    """Kill one of the processes whose command line has `words`; returns all there were."""
    wait_for(lambda: any(processes_of(data, words)), demo)
    killed, *others = processes_of(data, words)
    os.kill(killed, signal.SIGKILL)
    return {killed, *others}


def committed(data: Path) -> bool:
    manifest = data / "shards" / "manifest.json"
    return manifest.exists() and bool(json.loads(manifest.read_text())["shards"])


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_killed_at_every_stage_it_goes_on_loses_nothing_and_learns(tmp_path: Path) -> None:
    data, log = tmp_path / "demo", tmp_path / "demo.log"
    demo = start_demo(data)
    wait_for(lambda: committed(data), demo)
    for part in ("deploy.cli.app worker", "deploy.cli.app walk"):
        before = kill_one(data, part, demo)
        wait_for(lambda part=part, before=before: bool({*processes_of(data, part)} - before), demo)
    kill_one(data, "redis.sock", demo)
    assert demo.wait(120) == 2, "a dead server ends the run with an error"
    assert "start the same command again" in log.read_text()

    demo = start_demo(data)
    wait_for(lambda: any((data / "pretrain").glob("step_*")), demo, 600)
    kill_one(data, "-u -m trainer.pretrain", demo)
    assert demo.wait(180) != 0, "a dead rank ends the run"

    demo = start_demo(data)
    wait_for(lambda: (data / "sft" / "metrics.jsonl").exists(), demo, 600)
    demo.send_signal(signal.SIGINT)
    assert demo.wait(120) == 130, "Ctrl-C ends the run in order"
    assert not list(processes_of(data, "trainer.sft"))

    demo = start_demo(data)
    assert demo.wait(400) == 0, log.read_text()[-2000:]
    check_what_it_left(data)
    assert {"complete:", "ask:"} <= {line.split(" ")[0] for line in log.read_text().splitlines()}

    models = {path: path.stat().st_mtime_ns for path in data.glob("*/step_*/state.json")}
    corpus = (data / "shards" / "manifest.json").read_bytes()
    assert start_demo(data).wait(120) == 0
    assert {path: path.stat().st_mtime_ns for path in data.glob("*/step_*/state.json")} == models
    assert (data / "shards" / "manifest.json").read_bytes() == corpus


# In a process of its own, as the demo's: Ray, once a test imported it, has distributions of its own on the
# path, of which this process would make sites that the demo's web never had.
AUDIT = """
import json, sys
from dataclasses import asdict
from pathlib import Path
from deploy.demo.audit import audit
from deploy.demo.hosts import build_hosts
from deploy.demo.sites import Web, discover
print(json.dumps(asdict(audit(Path(sys.argv[1]), build_hosts(Web(discover())), delay=0.1))))
"""


def check_what_it_left(data: Path) -> None:
    rows = list(ShardReader(data / "shards", split="all"))
    assert len(rows) >= 1000
    for unique in ("id", "url", "content_sha256"):
        assert len({row[unique] for row in rows}) == len(rows)
    assert list(verify(data / "shards")) == []
    lines = (data / "pretrain" / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps == sorted(set(steps))
    found = json.loads((data / "pretrain" / "evaluation.json").read_text())
    assert found["val_bpb"] < 2.6
    assert found["val_bpb"] < found["baselines"]["unigram"] < found["baselines"]["uniform"]
    command = [sys.executable, "-c", AUDIT, str(data / "web" / "access.log")]
    seen = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert (seen["forbidden"], seen["too_early"], seen["before_retry_after"]) == (0, 0, 0), seen
    assert seen["trap_share"] < 0.05


def test_a_web_that_died_is_an_error_and_no_finished_crawl(tmp_path: Path) -> None:
    def crawl() -> None:
        with local_web(tmp_path):
            web = next(processes_of(tmp_path, "deploy.demo.web"))
            os.kill(web, signal.SIGKILL)
            while ") Z " not in Path(f"/proc/{web}/stat").read_text():
                time.sleep(0.02)

    with pytest.raises(StageError, match="the local web died"):
        crawl()


def test_the_commands_it_ends_with_find_what_it_made(tmp_path: Path) -> None:
    frontier, _, _ = crawl_settings(tmp_path, {"port": 1, "resolve": []})
    shown = FrontierConfig(data=tmp_path)
    assert f"dashboard --data {tmp_path} " in next_steps(tmp_path)
    assert (frontier.crawl_id, frontier.shards) == (shown.crawl_id, shown.shards)
