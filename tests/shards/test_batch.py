"""Batch stages: what they keep and say, and that a job is done once, whoever dies or comes too."""

import gzip
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shards.batch.importing import Import
from shards.batch.job import Lineage, committed, run
from shards.batch.looking import differences, summed
from shards.batch.stages import Filter, Map, Sample
from shards.errors import ShardCorrupt, ShardError
from shards.holdout import hold_out
from shards.manifest import Manifest
from shards.reader import ShardReader, verify
from shards.writer import ShardWriter
from tests.shards.conftest import make_document, write_corpus
from tinylm.errors import ConfigError

# The engine leaves the pipes of its processes to the collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"
)
FUNCTIONS = "tests.shards.batch_functions"
ROOT = Path(__file__).parents[2]


def text_of(number):
    return f"page {number} is about {'statistics' if number % 3 == 0 else 'otters'}"


@pytest.fixture
def corpus(tmp_path):
    """40 documents of 5 hosts in 4 shards."""
    documents = [make_document(n, host=f"h{n % 5}.example", text=text_of(n)) for n in range(40)]
    write_corpus(tmp_path / "in", documents, commits=4)
    return tmp_path / "in"


def numbers_in(directory):
    return [int(row["id"][:16], 16) for row in ShardReader(directory, split="all")]


def verdicts_of(directory):
    parts = (committed(directory, n) for n in range(100))
    files = [directory / file.name for part in parts if part for file in part.verdicts]
    return pa.concat_tables(map(pq.read_table, files)).to_pylist()


def files_of(directory):
    """All of a corpus: names have digests of what is in the files."""
    return sorted(path.name for path in directory.glob("*.parquet"))


def test_a_filter_keeps_what_holds_and_says_of_every_document_why(corpus, tmp_path):
    told = []
    manifest = run(
        Filter(corpus, "text contains 'statistics' and depth >= 0"), tmp_path / "out", done=told.append
    )
    assert numbers_in(tmp_path / "out") == [n for n in numbers_in(corpus) if n % 3 == 0]
    assert manifest.dropped == {"text contains 'statistics'": 26}
    assert sum(part.looked_at for part in told) == 40
    rows = {(row["document"], row["rule"]): row for row in verdicts_of(tmp_path / "out")}
    assert len(rows) == 80
    of_page = {rule: rows["0000000000000004-1", rule] for rule in ("text contains 'statistics'", "depth")}
    assert [row["keep"] for row in of_page.values()] == [False, True]
    assert (of_page["depth"]["value"], of_page["depth"]["threshold"], of_page["depth"]["stage"]) == (
        0,
        0,
        "filter",
    )
    assert of_page["text contains 'statistics'"]["threshold"] is None
    # Documents are as they were, and so are the links and fetches of all pages.
    before = {row["id"]: row for row in ShardReader(corpus, split="all")}
    assert all(
        before[row["id"]] | {"row": 0} == row | {"row": 0}
        for row in ShardReader(tmp_path / "out", split="all")
    )
    for old, new in zip(Manifest.load(corpus).shards, manifest.shards, strict=True):
        assert old.links.sha256 == new.links.sha256
        assert old.fetches.sha256 == new.fetches.sha256
    assert not list(verify(tmp_path / "out"))
    lineage = Lineage.load(tmp_path / "out")
    assert lineage.parents[0].fingerprint == Manifest.load(corpus).fingerprint


def test_other_thresholds_decide_from_the_values_without_the_text(corpus, tmp_path, monkeypatch):
    run(Filter(corpus, "text contains 'statistics' and inlinks + 3 > 1"), tmp_path / "first")
    asked = []

    def spied(location, shard, columns, rows=None):
        asked.append((columns, rows))
        return read(location, shard, columns, rows)

    from shards.batch import stages

    read = stages.read_documents
    monkeypatch.setattr(stages, "read_documents", spied)
    again = Filter(corpus, "inlinks + 3 <= 3 and text contains 'statistics'", values_of=tmp_path / "first")
    run(again, tmp_path / "second")
    assert numbers_in(tmp_path / "second") == numbers_in(tmp_path / "first")
    assert all("text" not in columns for columns, rows in asked if rows is None)
    with pytest.raises(ShardError, match="no value of a rule"):
        run(Filter(corpus, "karma > 1", values_of=tmp_path / "first"), tmp_path / "third")
    with pytest.raises(ShardError, match="no filter made it of this snapshot"):
        Filter(tmp_path / "first", "inlinks > 1", values_of=tmp_path / "second")


def test_what_was_held_out_and_taken_down_stays_so(corpus, tmp_path):
    hold_out(corpus, 0.2)
    with ShardWriter(corpus) as writer:
        writer.update(tombstones=("h1.example",))
    manifest = run(Filter(corpus, "text is not null"), tmp_path / "out")
    assert manifest.tombstones == ("h1.example",)
    assert manifest.held_out_is_current
    assert manifest.held_out.hosts == Manifest.load(corpus).held_out.hosts
    assert not any(n % 5 == 1 for n in numbers_in(tmp_path / "out"))
    texts = [
        row["host"] for path in (tmp_path / "out").glob("shard-*") for row in pq.read_table(path).to_pylist()
    ]
    assert "h1.example" not in texts


def test_a_sample_is_the_same_again_and_all_of_a_smaller_one(corpus, tmp_path):
    of = {share: Sample(corpus, share, seed=3) for share in (0.2, 0.6)}
    for share, stage in of.items():
        run(stage, tmp_path / f"{share}")
        run(stage, tmp_path / f"{share}-again")
        assert files_of(tmp_path / f"{share}") == files_of(tmp_path / f"{share}-again")
    small, large = (set(numbers_in(tmp_path / f"{share}")) for share in of)
    assert 0 < len(small) < len(large) < 40
    assert small < large
    run(Sample(corpus, 1, by="where(text contains 'statistics', 1, 0)"), tmp_path / "by")
    assert set(numbers_in(tmp_path / "by")) == {n for n in range(40) if n % 3 == 0}


def test_a_function_changes_documents_and_its_errors_are_set_aside(corpus, tmp_path):
    manifest = run(Map(corpus, f"{FUNCTIONS}:upper"), tmp_path / "out")
    assert manifest.dropped == {f"{FUNCTIONS}:upper": 3, "error: ValueError": 1}
    rows = {int(row["id"][:16], 16): row for row in ShardReader(tmp_path / "out", split="all")}
    assert sorted(rows) == [n for n in range(40) if n % 10 != 7]
    assert rows[3]["text"] == text_of(3).upper()
    assert rows[3]["content_sha256"] != make_document(3).content_sha256
    assert rows[3]["rps_doc_word_count"] == 5
    [error] = [row for row in verdicts_of(tmp_path / "out") if "error" in row["rule"]]
    assert (error["rule"], error["document"][:16]) == ("error: ValueError: no seventeens", f"{17:016x}")
    wrong = run(Map(corpus, f"{FUNCTIONS}:wrong"), tmp_path / "wrong")
    assert wrong.dropped == {"error: ValueError": 40}
    rules = {row["rule"] for row in verdicts_of(tmp_path / "wrong")}
    assert rules == {
        f"error: ValueError: column {name!r} is not one that changes" for name in ("host", "nothing")
    }


def test_a_document_that_kills_its_process_is_set_aside(corpus, tmp_path):
    manifest = run(Map(corpus, f"{FUNCTIONS}:dies"), tmp_path / "out")
    assert manifest.rows == 39
    assert manifest.dropped == {"error: RuntimeError": 1}
    [row] = [row for row in verdicts_of(tmp_path / "out") if not row["keep"]]
    assert (row["document"], row["rule"]) == (
        "0000000000000005-1",
        "error: RuntimeError: its process died, twice",
    )
    assert not [path for path in (tmp_path / "out" / "parts").iterdir() if path.is_dir()]


@pytest.mark.parametrize(
    ("stage", "error", "said"),
    [
        (lambda corpus: Filter(corpus, "qality > 1"), ConfigError, "no column 'qality'"),
        (lambda corpus: Filter(corpus, "text > 1"), ConfigError, "a number is needed, and text is text"),
        (
            lambda corpus: Filter(corpus, "text > 1 or depth > 1"),
            ConfigError,
            "> is of numbers, not of",
        ),
        (lambda corpus: Filter(corpus, "depth"), ConfigError, "a condition is needed, and depth is number"),
        (lambda corpus: Sample(corpus, 0.5, by="url"), ConfigError, "a number is needed, and url is text"),
        (lambda corpus: Filter(corpus, "text"), ConfigError, "a condition is needed, and text is text"),
        (
            lambda corpus: Map(corpus, f"{FUNCTIONS}:missing"),
            ConfigError,
            "a function is named as module:name",
        ),
        (lambda corpus: Map(corpus, "nowhere"), ConfigError, "a function is named as module:name"),
        (lambda corpus: Filter(corpus.parent, "text is null"), ShardError, "no manifest.json here"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_written(corpus, tmp_path, stage, error, said):
    with pytest.raises(error, match=said):
        run(stage(corpus), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_has_one_corpus(corpus, tmp_path):
    run(Filter(corpus, "text contains 'a'"), tmp_path / "out")
    before = files_of(tmp_path / "out")
    run(Filter(corpus, "text contains 'a'"), tmp_path / "out")
    assert files_of(tmp_path / "out") == before
    with pytest.raises(ShardError, match=r"holds `filter` of .* give another --out"):
        run(Filter(corpus, "text contains 'b'"), tmp_path / "out")
    with pytest.raises(ShardError, match="holds a corpus: give another --out"):
        run(Filter(corpus, "text contains 'b'"), corpus)
    assert not (corpus / "lineage.json").exists()


def test_a_damaged_shard_is_named_and_mended_goes_on(corpus, tmp_path):
    shard = corpus / Manifest.load(corpus).shards[2].name
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-100])
    with pytest.raises(ShardError, match=rf"{shard.name}: .* bytes, the manifest says"):
        run(Filter(corpus, "text is not null"), tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()
    shard.write_bytes(whole)
    run(Filter(corpus, "text is not null"), tmp_path / "out")
    assert numbers_in(tmp_path / "out") == numbers_in(corpus)


def test_on_a_full_disk_nothing_is_taken_for_whole(corpus, tmp_path):
    program = f"""
import resource, signal, sys
from pathlib import Path
from shards.batch.job import run
from shards.batch.stages import Filter
from tinylm.errors import TinylmError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))
try:
    run(Filter({str(corpus)!r}, "text is not null"), Path({str(tmp_path / "out")!r}))
except TinylmError as error:
    print(error)
"""
    said = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "the disk is full" in said.stdout
    assert not (tmp_path / "out" / "manifest.json").exists()
    run(Filter(corpus, "text is not null"), tmp_path / "out")
    run(Filter(corpus, "text is not null"), tmp_path / "undisturbed")
    assert files_of(tmp_path / "out") == files_of(tmp_path / "undisturbed")


RUNS = f"""
import sys
from pathlib import Path
from shards.batch.job import run
from shards.batch.stages import Map
run(Map(sys.argv[1], "{FUNCTIONS}:slow"), Path(sys.argv[2]))
"""


def start(corpus, out):
    return subprocess.Popen([sys.executable, "-c", RUNS, str(corpus), str(out)], cwd=ROOT)


def test_two_at_one_job_make_one_corpus(corpus, tmp_path):
    both = [start(corpus, tmp_path / "out") for _ in range(2)]
    assert [process.wait(120) for process in both] == [0, 0]
    run(Map(corpus, f"{FUNCTIONS}:slow"), tmp_path / "alone")
    assert files_of(tmp_path / "out") == files_of(tmp_path / "alone")
    assert numbers_in(tmp_path / "out") == numbers_in(tmp_path / "alone")


@pytest.mark.long
def test_killed_at_any_moment_it_goes_on_and_does_nothing_twice(tmp_path):
    documents = [make_document(n, host=f"h{n % 5}.example", text=text_of(n)) for n in range(3000)]
    write_corpus(tmp_path / "in", documents, commits=30)
    run(Map(tmp_path / "in", f"{FUNCTIONS}:slow"), tmp_path / "undisturbed")
    source, kills, out = random.Random(5), 0, tmp_path / "out"
    while not (out / "manifest.json").exists() and kills < 40:
        process = start(tmp_path / "in", out)
        time.sleep(source.uniform(1, 3))
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    assert start(tmp_path / "in", out).wait(120) == 0
    assert kills > 1
    assert files_of(out) == files_of(tmp_path / "undisturbed")
    assert not list(verify(out))


def test_anybodys_lines_become_a_corpus(tmp_path):
    rows = [
        {
            "text": "one about otters",
            "url": "http://a.test/1",
            "title": "One",
            "date": "2024-05-01T00:00:00Z",
        },
        {"text": "two", "url": "http://a.test/1", "language": "de", "language_score": 0.5},
        {"text": "three \ud800 has half a character"},
        {"text": " "},
        {"body": "none"},
        {"text": 5},
        {"text": "no URL", "url": "nothing"},
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows) + "{cut\n\n[1]\n"
    (tmp_path / "data" / "_hidden").mkdir(parents=True)
    (tmp_path / "data" / "_hidden" / "a.jsonl").write_text('{"text": "hidden"}\n')
    (tmp_path / "data" / "a.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (tmp_path / "data" / "b.ndjson").write_text('{"text": "in another file"}\n')
    work = Import([str(tmp_path / "data")], identify, lambda text: ("en", 0.9), name="mine")
    manifest = run(work, tmp_path / "out")
    assert manifest.dropped == {"no_text": 3, "bad_line": 2}
    found = list(ShardReader(tmp_path / "out", split="all"))
    assert [row["text"] for row in found] == [
        "one about otters", "two", "three ? has half a character", "no URL", "in another file"
    ]  # fmt: skip
    assert len({row["id"] for row in found}) == 5
    assert [row["url"] for row in found[:2]] == ["http://a.test/1"] * 2
    assert (found[0]["fetched_at"].year, found[0]["title"], found[0]["rps_doc_word_count"]) == (
        2024,
        "One",
        3,
    )
    assert [(row["language"], row["language_score"]) for row in found[:2]] == [
        ("en", pytest.approx(0.9)),
        ("de", 0.5),
    ]
    assert found[3]["url"] == "import:mine/a.jsonl.gz#6"
    assert all(row["host"].startswith("mine-") for row in found[2:])
    assert {row["source"] for row in found} == {"import:mine"}


def identify(url):
    return (url, "a.test", 7) if url.startswith("http") else None


def test_anybodys_parquet_becomes_a_corpus_that_can_be_held_out(tmp_path):
    texts = [f"text {n} " * 20 for n in range(50)]
    (tmp_path / "data" / "folder.parquet").mkdir(parents=True)
    pq.write_table(pa.table({"text": pa.array(texts).dictionary_encode()}), tmp_path / "data" / "a.parquet")
    bad = pa.array([b"caf\xe9", b"good", None], pa.binary()).view(pa.string())
    pq.write_table(
        pa.table({"text": bad, "url": ["http://a.test/x", None, "http://a.test/y"]}),
        tmp_path / "data" / "folder.parquet" / "b.parquet",
    )
    manifest = run(Import([str(tmp_path / "data")], identify, lambda text: ("en", 1.0)), tmp_path / "out")
    assert (manifest.rows, manifest.dropped) == (52, {"no_text": 1})
    found = [row["text"] for row in ShardReader(tmp_path / "out", split="all")]
    assert found == [*texts, "caf\ufffd", "good"]
    held_out = hold_out(tmp_path / "out", 0.1)
    assert held_out.hosts
    assert len(summed(tmp_path / "out", "host")) > 10


def test_a_file_that_is_cut_off_is_one_error(tmp_path):
    whole = gzip.compress(b'{"text": "a"}\n' * 1000)
    (tmp_path / "a.jsonl.gz").write_bytes(whole[:-20])
    with pytest.raises(ShardError, match=r"a\.jsonl\.gz: cut off, or damaged"):
        run(Import([str(tmp_path / "a.jsonl.gz")], identify, lambda text: ("en", 1.0)), tmp_path / "out")
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_what_one_corpus_has_and_another_has_not(corpus, tmp_path):
    run(Filter(corpus, "text contains 'statistics'"), tmp_path / "out")
    lost, won = differences(corpus, tmp_path / "out", "host", 2)
    assert sum(row["documents"] for row in lost.groups) == 26
    assert lost.rules == {"text contains 'statistics'": 26}
    assert all("otters" in row["text"] for row in lost.samples)
    assert len(lost.samples) == 2
    assert (won.groups, won.samples, won.rules) == ([], [], {})
    with pytest.raises(ShardError, match="'opt_out' is no column to count by"):
        summed(corpus, "opt_out")


def test_an_entry_that_is_none_is_named(corpus, tmp_path):
    run(Filter(corpus, "text is not null"), tmp_path / "out")
    (tmp_path / "out" / "manifest.json").unlink()
    entry = tmp_path / "out" / "parts" / "000001.json"
    entry.write_text(entry.read_text()[:40])
    with pytest.raises(ShardCorrupt, match=r"000001\.json: not a part .*; remove it, and it is done again"):
        run(Filter(corpus, "text is not null"), tmp_path / "out")
    entry.unlink()
    run(Filter(corpus, "text is not null"), tmp_path / "out")
    assert numbers_in(tmp_path / "out") == numbers_in(corpus)
