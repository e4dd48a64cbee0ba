"""Kills at random moments that leave no trace: training by DDP and FSDP on two ranks, and the loader's order.

Training: SIGKILL to a random rank at random steps, after which torchrun starts both again; losses, weights
and moments are compared with those of the same run left alone. Reading: 1 to 3 ranks read two sources, all
are killed a moment after their first step, and another number goes on; the rows of every step, each time it
was read, are compared with those that one rank read undisturbed. `lost` counts steps that are not there or
not the same.
"""

import hashlib
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Annotated, Any, Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from cyclopts import App, Parameter

from bench.report import report
from bench.runs import Process, finish, kill_rank, losses, ranks, start, wait_for_step, weights
from tinylm.errors import exit_on_error
from tinylm.files import replacing
from trainer.config import PretrainConfig
from trainer.data.loader import Loader
from trainer.data.sources import open_sources, pin_sources
from trainer.run.distributed import connect
from trainer.tokenizer import Tokenizer

SHAPE: dict[str, Any] = {
    "vocab_size": 320,
    "sequence_len": 32,
    "width": 16,
    "layers": 2,
    "heads": 2,
    "kv_heads": 1,
}
COURSE: dict[str, Any] = {
    "device_batch_size": 2,
    "tokens_per_step": 256,
    "lanes": 4,
    "log_every": 1,
    "eval_every": 0,
}
READING = PretrainConfig(
    sequence_len=16, device_batch_size=2, tokens_per_step=7 * 2 * 16, lanes=5, vocab_size=300
)
_STEPS_A_KILL = 10  # of training; with a checkpoint every five, each kill costs a few
_READ_STEPS_A_KILL = 3
_READ = "from bench.kills import main_of_rank; main_of_rank()"

app = App(name="python -m bench.kills", help=__doc__)


class Trace(NamedTuple):
    """What kills left behind: steps lost or changed, and whether all that was compared is identical."""

    identical: bool
    lost: int


@app.default
def main(
    *, quick: Annotated[bool, Parameter(negative=())] = False, kills: int = 20, out: Path | None = None
) -> None:
    """Kill; the last line is JSON.

    Parameters
    ----------
    quick
        Two kills of each kind.
    kills
        Kills of each kind.
    out
        File that gets the JSON too.
    """
    kills = 2 if quick else kills
    with tempfile.TemporaryDirectory() as directory:
        sources = corpus(Path(directory))
        traces = {"reading": killed_reading(Path(directory), sources, kills, seed=0)}
        say("reading", traces["reading"])
        for parallel in ("ddp", "fsdp"):
            config = PretrainConfig(
                **SHAPE, **COURSE, shards=sources[0], mix=(sources[1],), out=Path(directory) / parallel
            )
            traces[parallel] = killed_training(config, parallel, kills, seed=0)
            say(parallel, traces[parallel])
    figures = {
        "kills": kills * len(traces),
        "identical": int(all(trace.identical for trace in traces.values())),
        "lost": sum(trace.lost for trace in traces.values()),
    }
    report(figures | {"quick": quick}, out, "torch")


def say(name: str, trace: Trace) -> None:
    print(
        f"{name:<8} {'identical' if trace.identical else 'NOT identical'}, {trace.lost} steps lost",
        flush=True,
    )


def corpus(folder: Path) -> tuple[str, str]:
    """Two sources of Parquet, the second with a share of 0.4."""
    for name, words in (("a", "The reader orders the queue"), ("b", "Row of the other text")):
        texts = [f"{words} {number}. " * (number % 17) for number in range(200)]
        pq.write_table(pa.table({"text": texts}), folder / f"{name}.parquet", row_group_size=50)
    return str(folder / "a.parquet"), f"{folder / 'b.parquet'}=0.4"


def killed_training(config: PretrainConfig, parallel: Literal["ddp", "fsdp"], kills: int, seed: int) -> Trace:
    """Train on two ranks twice, the second time with SIGKILLs to random ranks, and compare."""
    steps = kills * _STEPS_A_KILL
    alone = replace(config, steps=steps, checkpoint_every=5, parallel=parallel)
    finish(start(alone, size=2))
    killed = replace(alone, out=alone.out.with_name(f"{alone.out.name}-killed"))
    random = Random(seed)
    process = start(killed, size=2, restarts=kills + 10)
    for step in sorted(random.sample(range(1, steps - 4), kills)):
        wait_for_step(process, killed.out, step)
        time.sleep(random.uniform(0, 0.05))
        kill_rank(process, random.randrange(2))
    # Two kills before the same checkpoint may look like one start.
    assert finish(process).count("goes on after step") >= kills // 2
    expected, found = losses(alone.out), losses(killed.out)
    lost = sum(found.get(step) != values for step, values in expected.items())
    return Trace(found == expected and weights(killed.out) == weights(alone.out), lost)


def killed_reading(folder: Path, sources: tuple[str, ...], kills: int, seed: int) -> Trace:
    """Read `sources` with 1 to 3 ranks, kill them all `kills` times, and go on with another number."""
    alone, killed, steps = folder / "read-alone", folder / "read-killed", kills * _READ_STEPS_A_KILL + 10
    for place in (alone, killed):
        pin(place, sources)
    read(alone, sources, steps)
    random = Random(seed)
    for kill in range(kills):
        processes = start_reading(killed, sources, 1 + kill % 3, steps, pause=0.02)
        before, deadline = len(seen(killed)), time.monotonic() + 60
        while len(seen(killed)) < min(steps, before + 1) and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(random.random() * 0.1)
        for process in random.sample(processes, len(processes)):
            process.kill()
        for process in processes:
            process.communicate()
    for process in start_reading(killed, sources, 2, steps):
        finish(process)
    expected, found = seen(alone), seen(killed)
    lost = sum(set(found.get(step, ["nothing"])) != set(rows) for step, rows in expected.items())
    return Trace(not lost and found.keys() == expected.keys(), lost)


def pin(folder: Path, sources: tuple[str, ...]) -> None:
    """Make `folder` one that can be read into, its sources pinned as a run would."""
    folder.mkdir()
    pin_sources(replace(READING, shards=sources[0], mix=sources[1:], out=folder))


def start_reading(
    folder: Path, sources: tuple[str, ...], size: int, steps: int, *, pause: float = 0.0
) -> list[Process]:
    """Start `size` ranks that go on reading in `folder`, and wait `pause` seconds after each step."""
    return ranks(_READ, size, str(folder), str(steps), str(pause), *sources)


def main_of_rank() -> None:
    folder, steps, pause, *sources = sys.argv[1:]
    with exit_on_error():
        read(Path(folder), tuple(sources), int(steps), float(pause))


def read(folder: Path, sources: tuple[str, ...], steps: int, pause: float = 0.0) -> None:
    """Go on reading to `steps`; read.jsonl gets the digests of each step's micro-batches, of all ranks."""
    config = replace(READING, shards=sources[0], mix=sources[1:], out=folder)
    tokenizer = Tokenizer.train(["The server reads the queue and the reader writes 12 rows."], 300)
    saved, step = folder / "state.json", 0
    with connect(60) as world:
        loader = Loader(open_sources(config), tokenizer, config, world)
        if saved.exists():
            step, state = json.loads(saved.read_text())
            loader.restore(state)
        world.barrier()
        while step < steps:
            here = [
                hashlib.sha256(str([batch["ids"].tolist(), batch["targets"].tolist()]).encode()).hexdigest()
                for batch in loader.next_step()
            ]
            everywhere = sorted(digest for rank in world.gather(here) for digest in rank)
            state, step = loader.state(), step + 1
            if world.is_main:
                with (folder / "read.jsonl").open("a") as file:
                    file.write(json.dumps([step, everywhere]) + "\n")
                with replacing(saved) as temporary:
                    temporary.write_text(json.dumps([step, state]))
            time.sleep(pause)
        loader.close()


def seen(folder: Path) -> dict[int, list[str]]:
    """The digests of what was read in each step, every time it was read."""
    found: dict[int, list[str]] = {}
    path = folder / "read.jsonl"
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            step, digests = json.loads(line)
        except ValueError:  # a line that was cut by a kill
            continue
        found.setdefault(step, []).append(" ".join(digests))
    return found


if __name__ == "__main__":
    app()
