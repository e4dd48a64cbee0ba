"""Several sources are mixed by their shares, each of them pinned, in an order that survives restarts."""

from collections import Counter
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shards.errors import ShardError
from shards.foreign import Listing
from shards.reader import ShardReader
from tests.trainer.test_loader import CONFIG, TOKENIZER, read, states, worlds
from tinylm.errors import ConfigError
from trainer.config import PretrainConfig
from trainer.data.batch import DataError
from trainer.data.loader import Loader, Turns
from trainer.data.sources import open_sources, pin_sources
from trainer.pretrain import pretrain
from trainer.run.checkpoint import CheckpointError, check_identity


@pytest.fixture
def other(tmp_path):
    """Parquet with a text column and nothing else, in one row group."""
    folder = tmp_path / "other"
    folder.mkdir()
    pq.write_table(pa.table({"text": [f"~ {number} " * 9 for number in range(90)]}), folder / "a.parquet")
    return folder


@pytest.fixture
def mixed(corpus, other, tmp_path):
    config = replace(CONFIG, shards=str(corpus), mix=(f"{other}=0.3",), out=tmp_path / "run")
    pin_sources(config)
    return config


def loaders(config, size=1):
    return [Loader(open_sources(config), TOKENIZER, config, world) for world in worlds(size)]


@given(
    st.lists(st.integers(1, 99), min_size=1, max_size=5),
    st.integers(0, 2**64 - 1),
    st.integers(0, 10**9),
    st.integers(1, 3000),
)
def test_each_source_has_its_share_of_any_stretch_of_rows(parts, begin, first, count):
    shares = [part / sum(parts) for part in parts]
    turns = Turns(shares)
    found = Counter(turns(begin, row) for row in range(first, first + count))
    for source, share in enumerate(shares):
        assert abs(found[source] - share * count) < 9


def test_rows_are_of_one_source_and_in_proportion(mixed):
    [rank] = loaders(mixed)
    tilde = TOKENIZER.encode("~")[0]
    rows = [row for _ in range(40) for batch in rank.next_step() for row in batch["ids"].tolist()]
    share = sum(tilde in row for row in rows) / len(rows)
    assert share == pytest.approx(0.3, abs=0.01)


@pytest.mark.parametrize("size", [2, 3])
def test_all_ranks_together_read_what_one_alone_reads(mixed, size):
    assert read(loaders(mixed, size), 12) == read(loaders(mixed), 12)


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(before=st.integers(0, 40), first=st.integers(1, 3), second=st.integers(1, 3))
def test_stopping_anywhere_and_going_on_with_other_ranks_changes_nothing(mixed, before, first, second):
    uninterrupted = loaders(mixed)
    read(uninterrupted, before)
    stopped = loaders(mixed, first)
    read(stopped, before)
    state = states(stopped)[0]
    resumed = loaders(mixed, second)
    for rank in resumed:
        rank.restore(state)
    assert read(resumed, 3) == read(uninterrupted, 3)
    assert states(resumed) == [states(uninterrupted)[0]] * second


def test_another_snapshot_share_or_number_of_sources_is_refused_by_name(mixed, other, tmp_path):
    [rank] = loaders(mixed)
    then = rank.identity
    [less] = loaders(replace(mixed, mix=(f"{other}=0.2",)))
    with pytest.raises(CheckpointError, match=r"shards\.share = 0.7, not 0.8"):
        check_identity(tmp_path, then, less.identity)
    [alone] = loaders(replace(mixed, mix=()))
    with pytest.raises(CheckpointError, match="sources = 2, not 1"):
        check_identity(tmp_path, then, alone.identity)
    pq.write_table(pa.table({"text": ["more"] * 9}), other / "b.parquet")
    pin_sources(mixed)
    [grown] = loaders(mixed)
    with pytest.raises(CheckpointError, match=r"mix\[0\]\.manifest = "):
        check_identity(tmp_path, then, grown.identity)


def test_a_run_goes_on_though_files_came_and_not_if_one_changed(tiny, other):
    config = tiny(mix=(f"{other}=0.5",), steps=4, checkpoint_every=2)
    pretrain(config)
    (config.out / "evaluation.json").unlink()
    pq.write_table(pa.table({"text": ["later"] * 9}), other / "later.parquet")
    pretrain(config)
    assert [file.name for file in Listing.load(config.out / "mix-1").files] == ["a.parquet"]
    (config.out / "evaluation.json").unlink()
    pq.write_table(pa.table({"text": ["another"] * 9}), other / "a.parquet")
    with pytest.raises(ShardError, match=r"a\.parquet is another file than was listed"):
        pretrain(config)


def test_a_run_trains_on_foreign_parquet_alone(tiny, other, capsys):
    config = tiny(shards=str(other), steps=2)
    pretrain(config)
    assert "holds no text out" in capsys.readouterr().out
    assert (config.out / "listing.json").exists()


def test_a_shard_is_not_taken_for_foreign_parquet_which_holds_nothing_out(tiny, corpus, other):
    [shard, *_] = corpus.glob("shard*.parquet")
    for config in (tiny(shards=str(shard)), tiny(shards=str(other), mix=(f"{shard}=0.5",))):
        with pytest.raises(ShardError, match=f"{shard}: a file of the corpus in {corpus}; name that folder"):
            pretrain(config)


def test_a_corpus_in_the_mix_is_held_to_its_own_shards(tiny, write_corpus, texts, tmp_path):
    second = write_corpus(tmp_path / "second", texts[:30], held_out=2)
    config = tiny(mix=(f"{second}=0.5",), steps=2, checkpoint_every=1)
    pretrain(config)
    [reader] = [source.reader for source in open_sources(config)[1:]]
    assert isinstance(reader, ShardReader)
    assert reader.split == "train"
    (config.out / "evaluation.json").unlink()
    (second / "manifest.json").unlink()
    for path in second.glob("*.parquet"):
        path.unlink()
    write_corpus(second, texts[30:], held_out=2)
    with pytest.raises(DataError, match=rf"mix-1 is pinned to manifest .* is not in {second}"):
        pretrain(config)


@pytest.mark.parametrize("entry", ["a", "a=", "=0.5", "a=b", "a=0", "a=-1", "a=1"])
def test_a_mix_that_is_no_share_is_refused(entry):
    with pytest.raises(ConfigError, match="mix = "):
        PretrainConfig(mix=(entry,))
