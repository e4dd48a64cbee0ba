"""Records of a WARC file a second and core, from the file to shards, beside datatrove's reader and extractor.

The file is made here, in the shape of Common Crawl's: the pages of trafilatura's evaluation, which people
marked, and documentation of 22 hosts, each with its request. A core second is a CPU second of any process of
a contestant, beyond those of its run over a file of one record; what is read is counted, whatever becomes of
it. Ours extracts all pages of all languages for the comparison; as users run it, for English and with the
first look, it is shown beside that. F1 is over what people marked in all marked pages: snippets that must be
in the text and snippets that must not; a page that was skipped counts as an empty text, one that calls itself
a copy of another (rel=canonical) among them. Datatrove runs twice, with the trafilatura that it pins and with
ours, each in an environment of its own (`make bench-setup`).
"""

import asyncio
import gzip
import json
import os
import re
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Annotated, Any

from backports import zstd
from cyclopts import App, Parameter
from rich.progress import Progress

from bench import pages
from bench.crawl import DATA
from bench.report import report
from crawler.archives.making import Pages
from crawler.archives.places import Places
from crawler.archives.warc import read_warc
from crawler.config import CrawlConfig
from crawler.read import extract
from crawler.read.extract import Extractor, Screen
from crawler.read.language import detect_language
from crawler.read.links import Canonicals
from crawler.read.pool import Extractors
from crawler.seeds.seed import Progress as Come
from crawler.urls import address

_TRUTH = DATA.parent / "extraction.tar.zst"
# datatrove with the trafilatura that it pins, and with ours.
_PEERS = {"datatrove": ".venv-warc", "datatrove_our_trafilatura": ".venv-warc-ours"}
_KEYS = ("records_per_core_s", "ratio_datatrove", "extraction_f1", "datatrove_f1", "bound")
_TICKS = os.sysconf("SC_CLK_TCK")
_POLL_SECONDS = 0.1  # between looks at the CPU times of who runs: what ends in between loses so much at most
_HEAD = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n"
# Its parts as FineWeb used them, but for the seconds a page may take, which are as many as ours.
_DATATROVE = """
import sys
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.extractors import Trafilatura
from datatrove.pipeline.readers import WarcReader
from datatrove.pipeline.writers import ParquetWriter
from importlib.metadata import version
folder, out, logs = sys.argv[1:]
LocalPipelineExecutor(
    [
        WarcReader(folder, glob_pattern="*.warc.gz"),
        Trafilatura(favour_precision=True, timeout=10),
        ParquetWriter(out),
    ],
    tasks=1, logging_dir=logs,
).run()
print(version("datatrove"), version("trafilatura"))
"""
# What Markdown writes of its own, and Unicode's spaces: the same is taken from a snippet and from a text.
_MARKUP = re.compile(r"[*_`#>|\\\[\]\s]+")

app = App(name="python -m bench.warc", help=__doc__)
Marked = dict[str, dict[str, list[str]]]


@app.default
def main(*, quick: Annotated[bool, Parameter(negative=())] = False, out: Path | None = None) -> None:
    """Alternate all contestants; the last line is JSON.

    Parameters
    ----------
    quick
        Few records, one round.
    out
        File that gets the JSON too.
    """
    if not _TRUTH.is_file():
        why = f"{_TRUTH} is not there; TINYLM_TEST_DATA names its folder"
        found: dict[str, Any] = dict.fromkeys(_KEYS) | {"why": why}
        print(why)
    else:
        found = _measure(
            marked=120 if quick else 2000, others=150 if quick else 2000, rounds=1 if quick else 3
        )
    report(found | {"quick": quick}, out, "fastwarc", "trafilatura", "resiliparse")


def _measure(marked: int, others: int, rounds: int) -> dict[str, Any]:
    truth, bodies = _marked(marked)
    bodies += [(row["url"], body) for row, body in _documentation(others)]
    Random(1).shuffle(bodies)
    why = {name: _missing(folder) for name, folder in _PEERS.items()}
    contestants: dict[str, Callable[[Path, Path], tuple[float, str]]] = {
        "ours": lambda file, work: _ours(file, work, "--no-prescreen", TINYLM_WALK_LANGUAGES=""),
        "ours_english": lambda file, work: _ours(file, work),
    } | {
        name: lambda file, work, folder=folder: _datatrove(folder, file, work)
        for name, folder in _PEERS.items() if not why[name]
    }  # fmt: skip
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    texts: dict[str, dict[str, str]] = {}
    versions: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as scratch, Progress() as bar:
        folder = Path(scratch)
        file, one = _written(folder / "all", bodies), _written(folder / "one", bodies[:1])
        task = bar.add_task("reading", total=(1 + rounds) * len(contestants))
        start: dict[str, float] = {}
        for number in range(1 + rounds):
            for name, run in [*contestants.items()][:: 1 if number % 2 else -1]:
                bar.update(task, description=name)
                work = folder / f"{name}-{number}"
                seconds, said = run(file if number else one, work)
                if not number:
                    start[name] = seconds
                else:
                    rates[name].append(len(bodies) / (seconds - start[name]))
                    versions[name] = said
                    if name in _PEERS:
                        texts[name] = _parquet_texts(work / "out")
                bar.advance(task)
        texts["ours"] = _our_texts(file, Extractor())
        texts["ours_copies_kept"] = _our_texts(file, _KeepsCopies())
        texts["ours_english"] = _our_texts(file, Extractor(Screen(("en",), 0.65)))
        parts = _parts(bodies)
    f1 = {name: _f1(truth, found) for name, found in texts.items()}
    english = {url for url, text in texts["ours_copies_kept"].items() if detect_language(text)[0] == "en"}
    of_english = {url: entry for url, entry in truth.items() if url in english}
    figures = _figures(rates, f1, versions, parts, why)
    f1_english = {name: _f1(of_english, found) for name, found in texts.items()}
    print(f"F1 of {len(of_english)} English pages: {f1_english}")
    return (
        figures
        | {"f1_english": f1_english, "english_pages": len(of_english)}
        | {"records": len(bodies), "marked_pages": len(truth), "start_s": start}
    )


def _figures(
    rates: dict[str, list[float]],
    f1: dict[str, float],
    versions: dict[str, str],
    parts: dict[str, float],
    why: dict[str, str],
) -> dict[str, Any]:
    for name, found in rates.items():
        rate = statistics.median(found)
        print(f"{name:26} {rate:6.1f} records a core second, F1 {f1[name]:.3f}; {versions[name]}")
    ratios = {
        mode: {
            peer: round(statistics.median(a / b for a, b in zip(rates[mode], rates[peer], strict=True)), 2)
            for peer in _PEERS
            if not why[peer]
        }
        for mode in ("ours", "ours_english")
    }
    # If all but trafilatura cost nothing.
    alone = 1000 / parts["trafilatura"]
    peer = max(
        (peer for peer in _PEERS if not why[peer]),
        key=lambda name: statistics.median(rates[name]),
        default="",
    )
    bound = (
        f"trafilatura takes {parts['trafilatura']:.1f} of {parts['extraction']:.1f} ms of extraction a record"
    )
    if peer:
        most = alone / statistics.median(rates[peer])
        bound += f"; {most:.2f} times {peer} if nothing else took time"
    print(f"{bound}\nratios {ratios}")
    return {
        "records_per_core_s": round(statistics.median(rates["ours"]), 1),
        "records_per_core_s_english": round(statistics.median(rates["ours_english"]), 1),
        "ratio_datatrove": min(ratios["ours"].values(), default=None),
        "ratios": ratios,
        "extraction_f1": f1["ours"],
        "datatrove_f1": max((f1[peer] for peer in _PEERS if peer in f1), default=None),
        "f1": f1,
        "bound": bound,
        "peers": versions,
    } | ({"why": "; ".join(filter(None, why.values()))} if any(why.values()) else {})


# The file


def _marked(most: int) -> tuple[Marked, list[tuple[str, bytes]]]:
    """What people marked, by URL, and the pages."""
    files: dict[str, bytes] = {}
    with zstd.open(_TRUTH) as stream, tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            if content := archive.extractfile(member):
                files[member.name.rpartition("/")[2]] = content.read()
    # Some have a name instead of a URL.
    found = [
        (address(url) or f"http://evaluation.test/{number}", entry)
        for number, (url, entry) in enumerate(json.loads(files["evaldata.json"]).items())
        if entry["file"] in files
    ]
    chosen = sorted(found)[:: max(1, len(found) // most)]
    return dict(chosen), [(url, files[entry["file"]]) for url, entry in chosen]


def _documentation(most: int) -> Iterator[tuple[dict[str, str], bytes]]:
    rows = pages.table()
    return pages.bodies(Random(2).sample(rows, most))


def _written(folder: Path, bodies: list[tuple[str, bytes]]) -> Path:
    folder.mkdir()
    path = folder / "made.warc.gz"
    with path.open("wb") as file:
        for url, body in bodies:
            file.write(
                _record("request", url, b"GET / HTTP/1.1\r\n\r\n", "application/http; msgtype=request")
            )
            block = _HEAD.encode() + body
            file.write(_record("response", url, block, "application/http; msgtype=response"))
    return path


def _record(kind: str, url: str, block: bytes, media_type: str) -> bytes:
    fields = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Date: 2026-01-16T09:18:33Z\r\nWARC-Target-URI: {url}\r\n"
        f"WARC-Record-ID: <urn:uuid:{uuid.uuid4()}>\r\nContent-Type: {media_type}\r\n"
        f"WARC-Identified-Payload-Type: text/html\r\nContent-Length: {len(block)}\r\n\r\n"
    )
    return gzip.compress(fields.encode() + block + b"\r\n\r\n", 6, mtime=0)


# Who reads it


def _ours(file: Path, work: Path, *options: str, **more: str) -> tuple[float, str]:
    argv = [sys.executable, "-m", "deploy.cli.app", "read", "warc", str(file), "--data", str(work), *options]
    settings = {
        "TINYLM_CRAWL_WORKERS": "1",
        "TINYLM_CRAWL_ALLOWED_NETWORKS": "127.0.0.0/8",
        "TINYLM_CRAWL_DISK_RESERVE_GIGABYTES": "0",
    }
    seconds, said = _core_seconds(argv, settings | more)
    return seconds, said.strip().splitlines()[-1]


def _datatrove(environment: str, file: Path, work: Path) -> tuple[float, str]:
    argv = [
        f"{environment}/bin/python",
        "-c",
        _DATATROVE,
        str(file.parent),
        str(work / "out"),
        str(work / "logs"),
    ]
    seconds, said = _core_seconds(argv, {"PYTHONPATH": ""})
    return seconds, "datatrove {}, trafilatura {}".format(*said.split()[-2:])


def _missing(environment: str) -> str:
    python = Path(environment, "bin/python")
    return "" if python.exists() else f"{python} is not there: make bench-setup"


def _core_seconds(argv: list[str], settings: dict[str, str]) -> tuple[float, str]:
    """CPU seconds of a command and of all that it starts, told by a mark in their environment; its output."""
    mark = f"WARC_BENCH_MARK={uuid.uuid4().hex}"
    environment = os.environ | settings | dict([mark.split("=")])
    spent: dict[int, int] = {}
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(argv, env=environment, stdout=output, stderr=errors)
        ours: dict[int, bool] = {}
        while process.poll() is None:
            for path in Path("/proc").glob("[0-9]*"):
                pid = int(path.name)
                try:
                    if not ours.get(pid):  # what was forked has its environment from then on
                        ours[pid] = mark.encode() in (path / "environ").read_bytes()
                    if ours[pid]:
                        fields = (path / "stat").read_text().rpartition(")")[2].split()
                        spent[pid] = int(fields[11]) + int(fields[12])
                except OSError:
                    continue
            time.sleep(_POLL_SECONDS)
        output.seek(0)
        errors.seek(0)
        if process.returncode:
            raise SystemExit(f"{argv[:4]} failed: {errors.read()[-2000:]}")
        return sum(spent.values()) / _TICKS, output.read()


# What came of it


def _parquet_texts(folder: Path) -> dict[str, str]:
    import pyarrow.parquet as pq

    found: dict[str, str] = {}
    for path in folder.glob("**/*.parquet"):
        for row in pq.read_table(path, columns=["text", "metadata"]).to_pylist():
            found[row["metadata"]["url"]] = row["text"]
    assert found, f"datatrove wrote no text into {folder}"
    return found


class _KeepsCopies(Extractor):
    """Extracts also what calls itself a copy of another page (rel=canonical), which a crawl leaves out."""

    def __init__(self) -> None:
        super().__init__()
        self._canonicals = _Unbelieved()


class _Unbelieved(Canonicals):
    def elsewhere(self, *_: Any) -> str | None:
        return None


def _our_texts(file: Path, extractor: Extractor) -> dict[str, str]:
    """The texts that are brought to the walker, which judges them: datatrove's steps for that are others."""

    async def read() -> dict[str, str]:
        made = Pages(extractors, "*", "bench", 4_000_000, come)
        return {
            page.url: page.text
            async for page, _ in made.of(read_warc(places, str(file), "", come), 1)
            if page and not page.reason
        }

    come = Come()
    with Places(CrawlConfig()) as places, closing(Extractors(extractor, 1, 10.0)) as extractors:
        return asyncio.run(read())


def _plain(text: str) -> str:
    return _MARKUP.sub(" ", text)


def _f1(truth: Marked, texts: dict[str, str]) -> float:
    found = wrong = missed = 0
    for url, entry in truth.items():
        text = _plain(texts.get(url, ""))
        have = [_plain(snippet) in text for snippet in entry.get("with") or []]
        found, missed = found + sum(have), missed + len(have) - sum(have)
        wrong += sum(_plain(snippet) in text for snippet in entry.get("without") or [])
    return round(2 * found / max(1, 2 * found + wrong + missed), 4)


def _parts(bodies: list[tuple[str, bytes]]) -> dict[str, float]:
    """Milliseconds of CPU a record in extraction, and of those in trafilatura."""
    spent = 0.0
    module: Any = extract
    original = module.main_text

    def timed(html: str, url: str) -> Any:
        nonlocal spent
        began = time.process_time()
        try:
            return original(html, url)
        finally:
            spent += time.process_time() - began

    module.main_text = timed
    try:
        extractor, began = Extractor(), time.process_time()
        for url, body in bodies:
            extractor(body, url, "text/html", False, 10.0)
        total = time.process_time() - began
    finally:
        module.main_text = original
    return {"extraction": 1000 * total / len(bodies), "trafilatura": 1000 * spent / len(bodies)}


if __name__ == "__main__":
    app()
