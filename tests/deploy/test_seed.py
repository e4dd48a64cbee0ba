"""Seeds of any source go into a crawl, or into a file that is there as a whole or not at all."""

import csv
import io
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from crawler.config import FrontierConfig
from crawler.errors import SeedError
from crawler.seeds.config import SeedsTo
from crawler.seeds.seed import Batch, Seed
from deploy.console import Console
from deploy.crawl import open_frontier
from deploy.sources.seed import give
from tests.conftest import eventually


def source(ledger, progress):
    """Three batches, each settled once it was given."""
    first = int(ledger.position("job") or 0)
    for n in range(first, 3):
        progress.read += 2
        progress.dropped["bad_line"] += 1
        yield Batch([Seed(f"http://h.test/{n}", float(n + 1), "test:x", 0.5)], {"karma": [float(n)]})
        ledger.settle("job", str(n + 1))


def failing(ledger, progress):
    found = source(ledger, progress)
    yield next(found)
    next(found)
    raise SeedError("its second batch is broken")


def test_the_bar_moves_while_a_source_reads_and_gives_nothing(tmp_path, monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(
        "deploy.console.Console", partial(Console, file=screen, force_terminal=True, width=120)
    )

    def slow(ledger, progress):
        progress.unit, progress.total = "bytes", 400.0
        for progress.done in (100.0, 300.0):
            eventually(lambda: f"{progress.done:.0f} bytes" in screen.getvalue())
        yield from source(ledger, progress)

    give("test", slow, FrontierConfig(data=tmp_path), SeedsTo(out=tmp_path / "seeds.csv"))


COLUMNS = ["url", "prior", "source", "precision", "karma"]


@pytest.mark.parametrize("name", ["seeds.parquet", "seeds.csv"])
def test_a_file_has_all_seeds_or_is_not_there(tmp_path, name):
    config, out = FrontierConfig(data=tmp_path / "data"), tmp_path / name
    with pytest.raises(SeedError, match="its second batch"):
        give("test", failing, config, SeedsTo(out=out))
    assert not out.exists()
    for _ in range(2):  # begun anew each time
        give("test", source, config, SeedsTo(out=out))
        if name.endswith(".csv"):
            rows = list(csv.DictReader(io.StringIO(out.read_text())))
        else:
            rows = pq.read_table(out).to_pylist()
        assert [list(row) for row in rows] == [COLUMNS] * 3
        assert [row["url"] for row in rows] == [f"http://h.test/{n}" for n in range(3)]
        assert [float(row["karma"]) for row in rows] == [0, 1, 2]
    assert not (tmp_path / "data" / "redis").exists()  # no crawl was begun


def test_a_source_that_finds_nothing_makes_an_empty_table(tmp_path):
    give(
        "test",
        lambda ledger, progress: iter(()),
        FrontierConfig(data=tmp_path),
        SeedsTo(out=tmp_path / "x.parquet"),
    )
    assert pq.read_table(tmp_path / "x.parquet").to_pydict() == {name: [] for name in COLUMNS[:4]}


def test_stdout_is_a_table_too_and_what_is_said_goes_elsewhere(tmp_path, capfdbinary):
    give(
        "test",
        source,
        FrontierConfig(data=tmp_path),
        SeedsTo(out=Path("-")),
    )
    out, err = capfdbinary.readouterr()
    assert len(list(csv.DictReader(io.StringIO(out.decode())))) == 3
    assert b"test: 3 seeds of 6 records given to -; left out: bad_line 3" in err


def test_another_kind_of_file_is_refused_before_anything_is_asked(tmp_path):
    with pytest.raises(SeedError, match=r"seeds\.json: what kind of file"):
        give("test", source, FrontierConfig(data=tmp_path), SeedsTo(out=tmp_path / "seeds.json"))


def test_a_crawl_gets_what_it_has_not_had_whoever_failed(tmp_path, capsys):
    config = FrontierConfig(data=tmp_path / "data")
    with open_frontier(config):  # begun
        pass
    with pytest.raises(SeedError):
        give("test", failing, config, SeedsTo())
    for said in ("2 seeds of 4 records", "0 seeds of 0 records"):
        give("test", source, config, SeedsTo())
        assert f"test: {said} given to crawl 'main'" in capsys.readouterr().err
    with open_frontier(config, begin=False) as frontier:
        given = [seed for entry in frontier.read_stream({}, 99) for seed in entry.content]
    assert [seed.url for seed in given] == [f"http://h.test/{n}" for n in range(3)]
    assert {seed.precision for seed in given} == {0.5}
