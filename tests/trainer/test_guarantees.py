"""What the loader promises, cell by cell of the table in docs/training.md, with real processes and kills.

Processes read a corpus and other Parquet mixed, which is both kinds of readers; each kind alone is held to
the same in one process, by test_loader and here.
"""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.kills import killed_reading, pin, seen, start_reading
from shards.errors import ShardError
from shards.foreign import ParquetReader
from shards.reader import ShardReader
from tests.trainer.test_loader import CONFIG, TOKENIZER, read
from trainer.data.loader import Loader
from trainer.data.sources import Source
from trainer.run.checkpoint import CheckpointError, check_identity
from trainer.run.distributed import World


@pytest.fixture
def sources(corpus, tmp_path):
    """A corpus, and Parquet with a text column and nothing else."""
    folder = tmp_path / "plain"
    folder.mkdir()
    texts = [f"Row {number} of the other text. " * (number % 7) for number in range(200)]
    pq.write_table(pa.table({"text": texts}), folder / "a.parquet", row_group_size=50)
    return str(corpus), f"{folder}=0.4"


def read_by_two(folder, sources, steps):
    """Exit codes and errors of two ranks that read together."""
    pin(folder, sources)
    processes = start_reading(folder, sources, 2, steps)
    said = [process.communicate(timeout=200)[1] for process in processes]
    return [process.returncode for process in processes], said


@pytest.mark.parametrize("kills", [2, pytest.param(5, marks=pytest.mark.long)])
def test_killed_and_resumed_with_other_ranks_the_same_is_read(tmp_path, sources, kills):
    trace = killed_reading(tmp_path, sources, kills, seed=kills)
    assert (trace.identical, trace.lost) == (True, 0)


def test_uneven_text_gives_two_ranks_equal_steps_and_they_end_together(tmp_path, write_corpus, texts):
    """Three lanes for two ranks, the text in one of them much longer than in the others."""
    uneven = [texts[0], texts[0], " ".join(texts)]
    corpus = write_corpus(tmp_path / "uneven", uneven, row_group_rows=1)
    plain = tmp_path / "plain.parquet"
    pq.write_table(pa.table({"text": uneven}), plain, row_group_size=1)
    codes, said = read_by_two(tmp_path / "run", (str(corpus), f"{plain}=0.5"), 20)
    assert codes == [0, 0], said
    assert sorted(seen(tmp_path / "run")) == list(range(1, 21))


@pytest.fixture
def broken(tmp_path, write_corpus, texts):
    """A corpus and other Parquet, and what breaks a page of either's row group 5."""
    corpus = write_corpus(tmp_path / "corpus", texts, row_group_rows=4)
    plain = tmp_path / "plain.parquet"
    pages = {"use_dictionary": False, "write_page_checksum": True}
    pq.write_table(pa.table({"text": texts}), plain, row_group_size=4, **pages)

    def damage(file):
        metadata = pq.read_metadata(file)
        column = metadata.row_group(5).column(metadata.schema.names.index("text"))
        data = bytearray(file.read_bytes())
        data[column.data_page_offset + column.total_compressed_size - 20] ^= 0xFF
        file.write_bytes(data)
        return f"{file}: row group 5"

    return corpus, plain, damage


def test_a_rank_that_cannot_read_ends_the_others_with_the_reason(tmp_path, broken):
    corpus, plain, damage = broken
    reason = damage(plain)
    codes, said = read_by_two(tmp_path / "run", (str(corpus), f"{plain}=0.5"), 500)
    assert all(codes), said
    assert any(reason in text for text in said)


@pytest.mark.parametrize("kind", ["corpus", "plain"])
def test_what_cannot_be_read_is_named(broken, kind):
    corpus, plain, damage = broken
    [shard] = corpus.glob("shard-*.parquet")
    reader, file = (ShardReader(corpus), shard) if kind == "corpus" else (ParquetReader(plain), plain)
    loader = Loader([Source(file, reader)], TOKENIZER, CONFIG, World())
    reason = damage(file)
    with pytest.raises(ShardError, match=reason):
        read([loader], 500)
    loader.close()


@pytest.fixture(params=["corpus", "plain", "mixed"])
def made(request, corpus, sources):
    """Makes loaders of one kind of sources, which begin at the beginning."""
    own = Source(corpus, ShardReader(corpus))
    place = sources[1].removesuffix("=0.4")
    plain = Source(place, ParquetReader(place))
    both = [own._replace(share=0.6), plain._replace(share=0.4)]
    chosen = {"corpus": [own], "plain": [plain], "mixed": both}[request.param]
    return lambda: Loader(chosen, TOKENIZER, CONFIG, World())


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
    now = Loader([Source(corpus, ShardReader(corpus))], TOKENIZER, CONFIG, World()).identity
    with pytest.raises(CheckpointError, match="run holds a run with order = 1, not 2"):
        check_identity(Path("run"), now | {"order": 1}, now)
