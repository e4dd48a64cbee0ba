"""What the loader promises, cell by cell of the table in docs/training.md, with real processes and kills."""

import json
import signal
import subprocess
import sys
import time
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shards.foreign import ParquetReader
from shards.reader import ShardReader
from tests.trainer.test_distributed import ROOT, ranks
from tests.trainer.test_loader import CONFIG, TOKENIZER, read
from trainer.data.loader import DataError, Loader
from trainer.data.sources import Source

STEPS = 60
READING = """
import hashlib, json, sys, time
from dataclasses import replace
from pathlib import Path
from tinylm.files import replacing
from tests.trainer.test_loader import CONFIG, TOKENIZER
from tinylm.errors import exit_on_error
from trainer.run.distributed import connect
from trainer.data.loader import Loader
from trainer.data.sources import open_sources

folder, shards, mix, steps, pause = sys.argv[1:]
folder = Path(folder)
config = replace(CONFIG, shards=shards, mix=tuple(mix.split()), out=folder)
with exit_on_error(), connect(60) as world:
    loader = Loader(open_sources(config), TOKENIZER, config, world)
    saved, step = folder / "state.json", 0
    if saved.exists():
        state = json.loads(saved.read_text())
        step = state.pop("step")
        loader.restore(state)
    world.barrier()
    while step < int(steps):
        here = [hashlib.sha256(str([batch["ids"].tolist(), batch["targets"].tolist()]).encode()).hexdigest()
                for batch in loader.next_step()]
        everywhere = sorted(digest for rank in world.gather(here) for digest in rank)
        state, step = loader.state(), step + 1
        if world.is_main:
            with (folder / "read.jsonl").open("a") as file:
                file.write(json.dumps([step, everywhere]) + "\\n")
            with replacing(saved) as temporary:
                temporary.write_text(json.dumps(state | {"step": step}))
        time.sleep(float(pause))
    loader.close()
"""


@pytest.fixture
def sources(corpus, tmp_path):
    """A corpus, and Parquet with a text column and nothing else."""
    folder = tmp_path / "plain"
    folder.mkdir()
    texts = [f"Row {number} of the other text. " * (number % 7) for number in range(200)]
    pq.write_table(pa.table({"text": texts}), folder / "a.parquet", row_group_size=50)
    return str(corpus), f"{folder}=0.4"


def prepared(folder, sources):
    """Pin the sources in `folder`, as a run would."""
    folder.mkdir()
    code = (
        "import sys; from pathlib import Path; from trainer.config import PretrainConfig; "
        "from trainer.data.sources import pin_sources; folder, shards, *mix = sys.argv[1:]; "
        "pin_sources(PretrainConfig(shards=shards, mix=tuple(mix), out=Path(folder)))"
    )
    subprocess.run([sys.executable, "-c", code, folder, *sources], cwd=ROOT, check=True)
    return folder


def start(tmp_path, folder, sources, size, *, pause=0.0, steps=STEPS):
    code = READING.replace(
        "sys.argv[1:]", repr([str(folder), sources[0], " ".join(sources[1:]), str(steps), str(pause)])
    )
    return ranks(tmp_path, code, size)


def seen(folder):
    """What was read in each step, every time it was read."""
    found = {}
    path = folder / "read.jsonl"
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            step, digests = json.loads(line)
        except ValueError:
            continue
        found.setdefault(step, []).append(digests)
    return found


def finished(processes):
    said = [process.communicate(timeout=200)[1] for process in processes]
    return [process.returncode for process in processes], said


def undisturbed(tmp_path, sources):
    whole = prepared(tmp_path / "whole", sources)
    codes, said = finished(start(tmp_path, whole, sources, 1))
    assert codes == [0], said
    assert sorted(seen(whole)) == list(range(1, STEPS + 1))
    return seen(whole)


def killed(tmp_path, sources, moments, seed):
    """Read with 1 to 3 ranks, SIGKILL one of them so many times, and go on with another number."""
    folder = prepared(tmp_path / "killed", sources)
    random = Random(seed)
    for moment in range(moments):
        processes = start(tmp_path, folder, sources, 1 + moment % 3, pause=0.02)
        before = len(seen(folder))
        deadline = time.monotonic() + 60
        while len(seen(folder)) < min(STEPS, before + 1) and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(random.random() * 0.1)
        for process in random.sample(processes, len(processes)):
            process.send_signal(signal.SIGKILL)
        finished(processes)
    codes, said = finished(start(tmp_path, folder, sources, 2))
    assert codes == [0, 0], said
    return seen(folder)


def check_kills(tmp_path, sources, moments, seed):
    expected = undisturbed(tmp_path, sources)
    found = killed(tmp_path, sources, moments, seed)
    assert sorted(found) == sorted(expected)
    for step, times in found.items():
        assert all(digests == expected[step][0] for digests in times), step


@pytest.mark.parametrize("kind", ["corpus", "plain", "mixed"])
def test_killed_and_resumed_with_other_ranks_the_same_is_read(tmp_path, sources, kind):
    read_from = {"corpus": sources[:1], "plain": [sources[1].removesuffix("=0.4")], "mixed": sources}[kind]
    check_kills(tmp_path, read_from, 2, seed=1)


@pytest.mark.long
@pytest.mark.timeout(1500)
def test_killed_at_twenty_moments_and_resumed_with_other_ranks_the_same_is_read(tmp_path, sources):
    check_kills(tmp_path, sources, 20, seed=2)


@pytest.mark.parametrize("kind", ["corpus", "plain", "mixed"])
def test_uneven_text_gives_two_ranks_equal_steps_and_they_end_together(tmp_path, write_corpus, texts, kind):
    """Three lanes for two ranks, the text in one of them much longer than in the others."""
    uneven = [texts[0], texts[0], " ".join(texts)]
    corpus = write_corpus(tmp_path / "uneven", uneven, row_group_rows=1)
    plain = tmp_path / "plain.parquet"
    pq.write_table(pa.table({"text": uneven}), plain, row_group_size=1)
    read_from = {"corpus": [str(corpus)], "plain": [str(plain)], "mixed": [str(corpus), f"{plain}=0.5"]}[kind]
    folder = prepared(tmp_path / "run", read_from)
    codes, said = finished(start(tmp_path, folder, read_from, 2, steps=20))
    assert codes == [0, 0], said
    assert sorted(seen(folder)) == list(range(1, 21))


@pytest.mark.parametrize("kind", ["corpus", "plain", "mixed"])
def test_a_rank_that_cannot_read_ends_the_others_with_the_reason(tmp_path, write_corpus, texts, kind):
    corpus = write_corpus(tmp_path / "corpus", texts, row_group_rows=4)
    plain = tmp_path / "plain.parquet"
    pages = {"use_dictionary": False, "write_page_checksum": True}
    pq.write_table(pa.table({"text": texts}), plain, row_group_size=4, **pages)
    read_from = {"corpus": [str(corpus)], "plain": [str(plain)], "mixed": [str(corpus), f"{plain}=0.5"]}[kind]
    folder = prepared(tmp_path / "run", read_from)
    [shard] = corpus.glob("shard-*.parquet")
    broken = shard if kind == "corpus" else plain
    metadata = pq.read_metadata(broken)
    column = metadata.row_group(5).column(metadata.schema.names.index("text"))
    data = bytearray(broken.read_bytes())
    data[column.data_page_offset + column.total_compressed_size - 20] ^= 0xFF
    broken.write_bytes(data)
    codes, said = finished(start(tmp_path, folder, read_from, 2, steps=500))
    assert all(codes), said
    assert any(f"{broken}: row group 5" in text for text in said)


@pytest.fixture(params=["corpus", "plain", "mixed"])
def made(request, corpus, sources):
    """Makes loaders of one kind of sources, which begin at the beginning."""
    own = Source(corpus, ShardReader(corpus))
    place = sources[1].removesuffix("=0.4")
    plain = Source(place, ParquetReader(place))
    both = [own._replace(share=0.6), plain._replace(share=0.4)]
    chosen = {"corpus": [own], "plain": [plain], "mixed": both}[request.param]
    return lambda: Loader(chosen, TOKENIZER, CONFIG)


def test_the_shuffle_of_each_epoch_is_another_and_is_kept_across_a_restart(made):
    first = made()
    steps = []
    while first.state()["epoch"] < 2:
        steps += read([first], 1)
    state = first.state()
    after = read([first], 5)
    again = made()
    again.restore(state)
    assert read([again], 5) == after
    assert after != steps[:5]


def test_state_does_not_grow_with_depth(made):
    loader = made()
    before = len(json.dumps(loader.state()))
    read([loader], 600)
    assert loader.state()["epoch"] > 0
    assert len(json.dumps(loader.state())) < before + 5 * 20


def test_a_position_in_another_order_is_refused(corpus):
    loader = Loader([Source(corpus, ShardReader(corpus))], TOKENIZER, CONFIG)
    with pytest.raises(DataError, match="started on order = 1, here it is 2"):
        loader.restore(loader.state() | {"order": 1})
