"""Deduplication: which of a cluster stays, and an audit that cries when documents are exchanged."""

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from hashlib import sha256

import daft
import pyarrow as pa
import pytest

from shards.batch import dedup as stage
from shards.batch.clusters import components, pairs
from shards.batch.dedup import Dedup, signatures
from shards.batch.job import Lineage, run
from shards.errors import ShardError
from shards.manifest import Manifest
from shards.reader import ShardReader, verify
from tests.shards.conftest import make_document, write_corpus
from tests.shards.test_batch import ROOT, files_of, numbers_in, verdicts_of
from tests.shards.test_holdout import changed, prose

pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)


def document(number, text, quality=0.5):
    made = make_document(number, host=f"h{number % 7}.example", text=text)
    return replace(made, content_sha256=sha256(text.encode()).hexdigest(), quality=quality)


def chinese(seed):
    source = random.Random(seed)
    return "".join(chr(source.randrange(0x4E00, 0x9FA0)) for _ in range(600))


@pytest.fixture
def corpus(tmp_path):
    """30 documents of their own; 30 and 31 are alike, 32 to 35 near each other, 36 and 37 in Chinese."""
    documents = [document(n, prose(n)) for n in range(30)]
    documents += [document(30, prose(100), 0.9), document(31, prose(100), 0.2)]
    documents += [document(32 + n, changed(prose(200), n * 3), 0.3 + n / 10) for n in range(4)]
    near = chinese(1)
    documents += [document(36, near), document(37, near[:300] + "一" + near[300:])]
    write_corpus(tmp_path / "in", documents, commits=4)
    return tmp_path / "in"


def overlaps(directory):
    return {row["document"]: row for row in verdicts_of(directory) if row["rule"] == "overlap"}


def named(number):
    return f"{number:016x}-1"


def test_the_best_of_each_cluster_stays_and_every_verdict_names_it(corpus, tmp_path):
    manifest = run(Dedup(corpus), tmp_path / "out")
    assert sorted(numbers_in(tmp_path / "out")) == [*range(31), 35, 36]
    assert manifest.dropped == {"duplicate": 1, "near_duplicate": 4}
    said = overlaps(tmp_path / "out")
    assert len(said) == 38
    assert {name: row["kept_instead"] for name, row in said.items() if not row["keep"]} == {
        named(31): named(30),
        **{named(32 + n): named(35) for n in range(3)},
        named(37): named(36),
    }
    assert said[named(31)]["value"] == 1
    assert 0.78 <= said[named(37)]["value"] < 1
    sizes = {
        row["document"]: row["value"]
        for row in verdicts_of(tmp_path / "out")
        if row["rule"] == "cluster_size"
    }
    assert (sizes[named(35)], sizes[named(30)], sizes[named(7)]) == (4, 2, 1)
    assert manifest.audit["precision"] == manifest.audit["recall"] == 1
    assert manifest.audit["dropped_pairs"] == 5
    assert Manifest.load(tmp_path / "out").audit == manifest.audit
    assert not list(verify(tmp_path / "out"))
    assert Lineage.load(tmp_path / "out").settings == {"keep": "quality", "overlap": 0.78}


def test_another_threshold_and_another_best_are_decided_without_the_text(corpus, tmp_path, monkeypatch):
    run(Dedup(corpus), tmp_path / "first")
    monkeypatch.setattr(stage, "signatures", None)
    run(Dedup(corpus, overlap=0.995, values_of=tmp_path / "first"), tmp_path / "second")
    assert sorted(numbers_in(tmp_path / "second")) == [n for n in range(38) if n != 31]
    with pytest.raises(ShardError, match="was made by --keep 'quality'"):
        Dedup(corpus, keep="-quality", values_of=tmp_path / "first")
    monkeypatch.undo()
    run(Dedup(corpus, keep="-quality"), tmp_path / "worst")
    assert {31, 32} <= {*numbers_in(tmp_path / "worst")}


@pytest.mark.parametrize("signed", [True, False])
def test_the_next_crawl_is_compared_with_what_is_there(corpus, tmp_path, signed, monkeypatch):
    before = tmp_path / "before"
    if signed:
        run(Dedup(corpus), before)
    else:
        before = corpus
    more = [
        document(50, prose(50), 0.9),
        document(51, f"{changed(prose(200), 9)} more", 1.0),
        document(52, prose(3), 1.0),
    ]
    write_corpus(tmp_path / "more", more)
    asked, read = [], stage.read_documents
    monkeypatch.setattr(
        stage, "read_documents", lambda *given: asked.append((str(given[0]), given[2])) or read(*given)
    )
    manifest = run(Dedup(tmp_path / "more", against=before), tmp_path / "out")
    assert numbers_in(tmp_path / "out") == [50]
    assert overlaps(tmp_path / "out")[named(52)]["kept_instead"] == named(3)
    assert manifest.audit["precision"] == 1
    read_texts = [columns for where, columns in asked if where == str(before) and "content_sha256" in columns]
    assert bool(read_texts) is not signed


def test_documents_dropped_for_others_than_they_are_near_make_no_corpus(corpus, tmp_path, monkeypatch):
    """As many as should go, and the wrong ones: what a count does not show."""
    decided = Dedup._decisions

    def exchanged(self, out, number):
        return {row + 1: decision for row, decision in decided(self, out, number).items()}

    documents = [document(n, changed(prose(n // 2), n % 2 * 4)) for n in range(60)]
    write_corpus(tmp_path / "pairs", documents)
    assert run(Dedup(tmp_path / "pairs"), tmp_path / "right").rows == 30
    monkeypatch.setattr(Dedup, "_decisions", exchanged)
    with pytest.raises(ShardError, match="of 29 dropped documents 0% are near what was kept instead"):
        run(Dedup(tmp_path / "pairs"), tmp_path / "wrong")
    assert not (tmp_path / "wrong" / "manifest.json").exists()


def test_nothing_near_and_nothing_at_all(tmp_path):
    write_corpus(tmp_path / "in", [document(n, prose(n)) for n in range(8)], commits=2)
    audit = run(Dedup(tmp_path / "in"), tmp_path / "out").audit
    assert numbers_in(tmp_path / "out") == numbers_in(tmp_path / "in")
    assert (audit["dropped_pairs"], audit["precision"]) == (0, 1)
    run(Dedup(tmp_path / "out"), tmp_path / "again")
    write_corpus(tmp_path / "none", [])
    assert run(Dedup(tmp_path / "none"), tmp_path / "nothing").rows == 0


def test_signatures_agree_where_texts_do_whatever_their_script():
    texts = [
        prose(1),
        prose(1).upper(),
        changed(prose(1), 8),
        prose(2),
        chinese(1),
        chinese(1)[:-20],
        chinese(2),
    ]
    found = signatures(pa.chunked_array([texts]))
    agree = lambda one, other: (found[one] == found[other]).mean()  # noqa: E731
    assert agree(0, 1) == 1
    assert 0.6 < agree(0, 2) < 1
    assert agree(4, 5) > 0.9
    assert max(agree(0, 3), agree(4, 6)) < 0.05


@pytest.mark.parametrize("seed", range(4))
def test_components_are_those_of_the_graph(seed):
    source = random.Random(seed)
    nodes = 60
    edges = [(source.randrange(1, nodes), 0) for _ in range(45)]
    edges = [(max(u, v), min(u, v)) for u, _ in edges if (v := source.randrange(nodes)) != u]
    edges += [(n + 1, n) for n in range(nodes, nodes + 12)]  # a chain
    root = list(range(nodes + 13))
    for _ in range(len(root)):
        for u, v in edges:
            root[u] = root[v] = min(root[u], root[v])
    table = daft.from_pydict({"u": [u for u, _ in edges], "v": [v for _, v in edges]})
    found = components(table).to_pydict()
    wanted = {node: root[node] for edge in edges for node in edge}
    assert dict(zip(found["node"], found["root"], strict=True)) == wanted
    assert len(found["node"]) == len(wanted)


def test_pairs_are_of_those_with_a_key_in_common():
    keys = daft.from_pydict({"node": [1, 2, 3, 1, 3, 9], "key": [7, 7, 7, 8, 8, 5]})
    found = pairs(keys).to_pydict()
    assert sorted(zip(found["u"], found["v"], strict=True)) == [(2, 1), (3, 1)]


RUNS = """
import sys
from pathlib import Path
from shards.batch.dedup import Dedup
from shards.batch.job import run
run(Dedup(sys.argv[1]), Path(sys.argv[2]))
"""


@pytest.mark.long
def test_killed_at_any_moment_it_goes_on_and_the_corpus_is_the_same(tmp_path):
    documents = [document(n, changed(prose(n % 900), n // 900 * 4)) for n in range(1500)]
    write_corpus(tmp_path / "in", documents, commits=30)
    run(Dedup(tmp_path / "in"), tmp_path / "undisturbed")
    assert Manifest.load(tmp_path / "undisturbed").rows == 900
    source, kills, out = random.Random(3), 0, tmp_path / "out"
    command = [sys.executable, "-c", RUNS, str(tmp_path / "in"), str(out)]
    while not (out / "manifest.json").exists() and kills < 30:
        process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
        time.sleep(source.uniform(1.2, 1.2 + kills / 4))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        kills += 1
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 0
    assert kills > 1
    assert files_of(out) == files_of(tmp_path / "undisturbed")
    assert [row["id"] for row in ShardReader(out, split="all")] == [
        row["id"] for row in ShardReader(tmp_path / "undisturbed", split="all")
    ]
    assert not list(verify(out))
