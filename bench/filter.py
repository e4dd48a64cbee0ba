"""A filter: documents with the word "statistics", beside DuckDB, Polars and Hugging Face datasets.

Real pages, repeated under other ids until there are enough, lie in our shards; everybody reads those, and
writes what has the word to Parquet: ours as `tinylm shards filter` does it, with a verdict on every document,
links and fetches taken over, and a commit; the others only the documents. Each run is a process of its own,
its imports not counted, with two threads (ours also on one core); rounds alternate. Beside that, all rules
are asked of the same texts by us and by datatrove's filters of the same papers (`make bench-setup`),
documents a CPU second.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter
from rich.progress import Progress

from bench.crawl import DATA
from bench.dedup import PEER, corpus_of, megabytes, plain
from bench.report import report
from shards.text.filters import RULES
from shards.text.signals import Signals

_KEYS = ("mb_per_core_s", "ratio_hf_datasets", "ratio_duckdb", "ratio_polars", "rules_ratio_datatrove")
_REPEATED_BYTES = 120_000_000
# Each gets the folder of the corpus and where to write; the seconds of `go` are what counts.
_CONTESTANTS = {
    "ours": """
from pathlib import Path
from shards.batch.job import run
from shards.batch.stages import Filter
import daft, shards.batch.native
def go(): run(Filter(corpus, "text contains 'statistics'"), Path(out))
""",
    "duckdb": """
import duckdb
duckdb.sql("set threads = 2")
def go(): duckdb.sql(f"copy (select * from read_parquet('{corpus}/shard-*.parquet') "
    f"where contains(text, 'statistics')) to '{out}' (format parquet, compression zstd)")
""",
    "polars": """
import polars as pl
def go(): pl.scan_parquet(f"{corpus}/shard-*.parquet").filter(
    pl.col("text").str.contains("statistics", literal=True)).sink_parquet(out)
""",
    "hf_datasets": """
import datasets
datasets.disable_progress_bars()
files = f"{corpus}/shard-*.parquet"
data = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=out + "-cache")
def has(row): return "statistics" in row["text"]
def go(): data.filter(has, num_proc=2, load_from_cache_file=False).to_parquet(out)
""",
}
_RUN = """
import os, sys, time
corpus, out = sys.argv[1:]
{code}
began = time.perf_counter()
go()
print(time.perf_counter() - began)
"""
_DATATROVE = """
import json, sys, time
from datatrove.data import Document
from datatrove.pipeline.filters import (
    C4QualityFilter, FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter)
texts = [json.loads(line) for line in open(sys.argv[1])]
filters = [GopherQualityFilter(), GopherRepetitionFilter(), C4QualityFilter(), FineWebQualityFilter()]
def ask(text):
    return [bool(one.filter(Document(text=text, id="")) is True) for one in filters]
ask(texts[0])
began = time.process_time()
for text in texts:
    ask(text)
print(json.dumps(time.process_time() - began))
"""
_SETTINGS = os.environ | {"POLARS_MAX_THREADS": "2", "HF_HUB_OFFLINE": "1"}

app = App(name="python -m bench.filter", help=__doc__)


@app.default
def main(*, quick: Annotated[bool, Parameter(negative=())] = False, out: Path | None = None) -> None:
    """Alternate ours and theirs; the last line is JSON.

    Parameters
    ----------
    quick
        Little text, one round.
    out
        File that gets the JSON too.
    """
    if DATA.is_dir():
        found = _measure(8_000_000 if quick else 1_000_000_000, 1 if quick else 3)
    else:
        found = dict.fromkeys(_KEYS) | {"why": f"{DATA} is not there; TINYLM_TEST_DATA names its folder"}
    report(found | {"quick": quick}, out, "daft", "duckdb", "polars", "datasets", "pyarrow")


def _measure(most_bytes: int, rounds: int) -> dict[str, Any]:
    texts = plain(min(most_bytes, _REPEATED_BYTES))
    repeated = texts * max(1, round(most_bytes / 1e6 / megabytes(texts)))
    size = megabytes(repeated)
    print(f"{len(repeated):,} documents, {size:.0f} MB of text")
    speeds: dict[str, list[float]] = defaultdict(list)
    why = ""
    with tempfile.TemporaryDirectory() as folder, Progress() as bar:
        corpus = corpus_of(repeated, Path(folder) / "corpus")
        names = [*_CONTESTANTS, "ours on one core"]
        task = bar.add_task("filtering", total=rounds * len(names))
        for number in range(rounds):
            for name in names[:: 1 if number % 2 else -1]:
                seconds, error = _seconds(name, corpus, Path(folder) / "out")
                if seconds:
                    speeds[name].append(size / seconds)
                why = why or error
                bar.update(task, description=name, advance=1)
    for name, of in speeds.items():
        print(f"{name:18} {statistics.median(of):8.0f} MB a second")
    ratios = {
        f"ratio_{name}": round(statistics.median(map(float.__truediv__, speeds["ours"], speeds[name])), 2)
        if speeds[name] else None
        for name in ("hf_datasets", "duckdb", "polars")
    }  # fmt: skip
    found = {"mb_per_core_s": round(statistics.median(speeds["ours on one core"])), **ratios, **_rules(texts)}
    return found | {"mb": round(size)} | ({"why": why} if why else {})


def _seconds(name: str, corpus: Path, out: Path) -> tuple[float, str]:
    """How long it took, or 0 and why it did not."""
    code = _CONTESTANTS[name.partition(" ")[0]]
    alone = ["taskset", "-c", "0"] if name.endswith("one core") else []
    command = [*alone, sys.executable, "-c", _RUN.format(code=code), str(corpus), str(out)]
    done = subprocess.run(command, capture_output=True, text=True, env=_SETTINGS, check=False)
    for path in out.parent.glob(f"{out.name}*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    if done.returncode:
        return 0.0, f"{name}: {done.stderr.strip().splitlines()[-1][:200]}; make bench-setup"
    return float(done.stdout.split()[-1]), ""


def _rules(texts: list[str]) -> dict[str, Any]:
    few = texts[: min(300, len(texts))]
    began = time.process_time()
    for text in few:
        signals = Signals(text, "en")
        for rule in RULES:
            rule.breaks(signals)
    ours = len(few) / (time.process_time() - began)
    if not PEER.exists():
        return {"rules_per_core_s": round(ours), "rules_ratio_datatrove": None}
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        file.writelines(json.dumps(text) + "\n" for text in few)
        file.flush()
        said = subprocess.run(
            [str(PEER), "-c", _DATATROVE, file.name], capture_output=True, text=True, check=True
        )
    theirs = len(few) / float(said.stdout.splitlines()[-1])
    print(f"all rules: {ours:,.0f} documents a core second, datatrove {theirs:,.1f}")
    return {"rules_per_core_s": round(ours), "rules_ratio_datatrove": round(ours / theirs, 1)}


if __name__ == "__main__":
    app()
