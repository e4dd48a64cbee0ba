"""Deduplication: MB of text a second and core to signatures, beside datasketch's and datatrove's MinHash.

All get real pages, as they are (the peers fewer of the same ones), and make of each a MinHash of its word
5-grams in one process: ours and datasketch's of 128 values, datatrove's of 112, with its own shingles. A core
second is a CPU second of that process. Then a corpus of them is deduplicated as a user does it, and its audit
is shown; and the clusters of pages and of copies of them, with up to 1 % of their words exchanged, are
compared with those that datatrove's signatures and bands make. Datatrove runs in an environment of its own
(`make bench-setup`).
"""

import json
import statistics
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.parquet as pq
from cyclopts import App, Parameter
from resiliparse.extract.html2text import extract_plain_text
from rich.progress import Progress

from bench import pages
from bench.crawl import DATA
from bench.report import report
from crawler.read.encoding import decode
from shards.batch.dedup import Dedup, signatures
from shards.batch.job import committed, run
from shards.schema import Document
from shards.text.dedup import PERMUTATIONS, SHINGLE
from shards.writer import ShardWriter

_KEYS = ("mb_per_core_s", "ratio_datasketch", "ratio_datatrove", "audit_precision", "audit_recall")
PEER = Path(".venv-warc/bin/python")
_FEWEST_CHARACTERS = 500
# Reads JSON Lines of texts, and writes the CPU seconds that signatures took, and each one's keys by band.
_DATATROVE = """
import json, sys, time
from importlib.metadata import version
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
texts = [json.loads(line) for line in open(sys.argv[1])]
signer = MinhashDedupSignature(sys.argv[1] + "-out", MinhashConfig())
def sign(text):
    return signer.get_signature(signer.get_shingles(text))
sign(texts[0])
began = time.process_time()
keys = [[hash(tuple(band)) for band in sign(text)] for text in texts]
print(json.dumps([time.process_time() - began, version("datatrove"), keys]))
"""

app = App(name="python -m bench.dedup", help=__doc__)


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
        found = _measure(*((4_000_000, 1, 60) if quick else (120_000_000, 5, 400)))
    else:
        found = dict.fromkeys(_KEYS) | {"why": f"{DATA} is not there; TINYLM_TEST_DATA names its folder"}
    report(found | {"quick": quick}, out, "daft", "datasketch", "pyarrow")


def _measure(most_bytes: int, rounds: int, labelled: int) -> dict[str, Any]:
    texts = plain(most_bytes)
    print(f"{len(texts):,} pages, {megabytes(texts):.0f} MB of text")
    few = texts[: max(50, len(texts) // 40)]
    speeds: dict[str, list[float]] = defaultdict(list)
    contestants: dict[str, tuple[Callable[[list[str]], float], list[str]]] = {"ours": (_ours, texts)}
    found: dict[str, Any] = {}
    try:
        import_module("datasketch")

        contestants["datasketch"] = _datasketch, few
    except ImportError:
        found["why"] = "datasketch is not installed: make bench-setup"
    if PEER.exists():
        contestants["datatrove"] = lambda given: float(_datatrove(given)[0]), few[: max(20, len(few) // 8)]
    else:
        found["why"] = "datatrove is not installed: make bench-setup"
    for sign, given in contestants.values():
        sign(given[:2])  # what is loaded at the first call is not counted
    with Progress() as bar:
        task = bar.add_task("signing", total=rounds * len(contestants))
        for number in range(rounds):
            for name, (sign, given) in [*contestants.items()][:: 1 if number % 2 else -1]:
                speeds[name].append(megabytes(given) / sign(given))
                bar.update(task, description=name, advance=1)
    for name, of in speeds.items():
        print(f"{name:12} {statistics.median(of):8.2f} MB a core second")
    found["mb_per_core_s"] = round(statistics.median(speeds["ours"]), 1)
    for name in ("datasketch", "datatrove"):
        ratios = [ours / theirs for ours, theirs in zip(speeds["ours"], speeds[name], strict=False)]
        found[f"ratio_{name}"] = round(statistics.median(ratios), 1) if ratios else None
    with tempfile.TemporaryDirectory() as folder:
        found |= _audited(texts, Path(folder))
        if PEER.exists():
            found["clusters_as_datatrove"] = _same_clusters(texts[:labelled], Path(folder))
    return found | {"bound": "Daft's minhash of normalized text", "pages": len(texts)}


def plain(most_bytes: int) -> list[str]:
    """Text of real pages of all hosts and kinds, found fast, in a fixed random order."""
    rows = pages.table()
    Random(1).shuffle(rows)
    texts, size = [], 0
    for _, body in pages.bodies(rows[: max(200, most_bytes // 2500)]):
        text = extract_plain_text(decode(body, "text/html")[0], main_content=True)
        if len(text) >= _FEWEST_CHARACTERS:
            texts.append(text)
            size += len(text.encode())
    Random(2).shuffle(texts)
    return pages.head(texts, most_bytes)


def megabytes(texts: Iterable[str]) -> float:
    """Of UTF-8."""
    return sum(len(text.encode()) for text in texts) / 1e6


def _ours(texts: list[str]) -> float:
    table = pa.chunked_array([pa.array(texts, pa.large_string())])
    began = time.process_time()
    signatures(table)
    return time.process_time() - began


def _datasketch(texts: list[str]) -> float:
    from datasketch import MinHash

    began = time.process_time()
    for text in texts:
        words = text.lower().split()
        grams = (
            " ".join(words[at : at + SHINGLE]).encode() for at in range(max(1, len(words) - SHINGLE + 1))
        )
        MinHash(num_perm=PERMUTATIONS).update_batch(list(grams))
    return time.process_time() - began


def _datatrove(texts: list[str]) -> tuple[float, str, list[list[int]]]:
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        file.writelines(json.dumps(text) + "\n" for text in texts)
        file.flush()
        command = [str(PEER), "-c", _DATATROVE, file.name]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    seconds, version, keys = json.loads(said.splitlines()[-1])
    return seconds, version, keys


def corpus_of(texts: list[str], folder: Path) -> Path:
    """Documents of these texts as a corpus in `folder`, 2,000 a shard."""
    with ShardWriter(folder, crawl_id="bench", row_group_rows=256) as writer:
        for number, text in enumerate(texts):
            writer.append(_document(number, text), [])
            if number % 2000 == 1999 or number == len(texts) - 1:
                writer.commit({"0": f"{number}-0"}, state=b"")
    return folder


def _document(number: int, text: str) -> Document:
    filled = replace(_EMPTY, id=f"{number:016x}-1", url=f"http://h.test/{number}", text=text)
    return replace(filled, content_sha256=sha256(text.encode("utf-8", "replace")).hexdigest())


_EMPTY = Document(
    id="", url="", host="h.test", fetched_at=0, status=200, quality=0.5, promise=0, propensity=1, policy="",
    karma=0, equity=0, inlinks=0, depth=0, crawl_id="bench",
)  # fmt: skip


def _audited(texts: list[str], folder: Path) -> dict[str, Any]:
    corpus = corpus_of(texts, folder / "all")
    began = time.perf_counter()
    manifest = run(Dedup(corpus), folder / "unique")
    seconds = time.perf_counter() - began
    print(
        f"dedup: {manifest.rows:,} of {len(texts):,} documents stay, {seconds:.1f} s; audit {manifest.audit}"
    )
    return {
        "audit_precision": round(manifest.audit["precision"], 4),
        "audit_recall": round(manifest.audit["recall"], 4),
        "dedup_mb_per_s": round(megabytes(texts) / seconds, 1),
    }


def _same_clusters(texts: list[str], folder: Path) -> float:
    """Share of documents that are with the same others by datatrove's signatures and bands as by ours."""
    source, copies = Random(3), []
    for text in texts:
        words = text.split()
        for share in (0.0, 0.002, 0.005, 0.01):
            places = set(source.sample(range(len(words)), int(share * len(words))))
            copies.append(" ".join("changed" if at in places else word for at, word in enumerate(words)))
    theirs = _joined([(band, key) for band, key in enumerate(keys)] for keys in _datatrove(copies)[2])
    corpus = corpus_of(copies, folder / "labelled")
    run(Dedup(corpus, overlap=0.0001), folder / "clusters")
    with_whom: list[list[Any]] = [[("itself", number)] for number in range(len(copies))]
    for number in range(100):
        for file in part.verdicts if (part := committed(folder / "clusters", number)) else ():
            for row in pq.read_table(folder / "clusters" / file.name).to_pylist():
                if row["kept_instead"]:
                    with_whom[int(row["document"][:16], 16)].append(
                        ("itself", int(row["kept_instead"][:16], 16))
                    )
    ours = _joined(with_whom)
    return round(sum(ours[n] == theirs[n] for n in range(len(copies))) / len(copies), 4)


def _joined(keys: Iterable[Iterable[Any]]) -> list[frozenset[int]]:
    """The cluster of each, of those that have a key in common, directly or by others."""
    clusters: dict[int, set[int]] = {}
    first: dict[Any, int] = {}
    for number, of in enumerate(keys):
        mine = clusters[number] = {number}
        for key in of:
            theirs = clusters.get(first.setdefault(key, number), mine)
            if theirs is not mine:
                theirs |= mine
                for each in mine:
                    clusters[each] = theirs
                mine = theirs
    return [frozenset(clusters[number]) for number in range(len(clusters))]


if __name__ == "__main__":
    app()
