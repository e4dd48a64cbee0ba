"""Raw Parquet to packed batches: tokens a second and core, and the time to go on deep in an epoch.

The text is that of real documentation pages, in the order of their sites. All contenders read the same
Parquet (MosaicML streaming a copy in its own format) on one core, with one BPE of 32,768 tokens, and make
batches of 8 rows of 2,048. Others are timed twice: with `tokenizers`, as they are used, and with our encoder.
"""

import io
import json
import os
import re
import statistics
import tarfile
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, get_args

os.environ |= {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"}

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from backports import zstd
from cyclopts import App, Parameter
from resiliparse.extract.html2text import extract_plain_text
from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench import loaders
from bench.crawl import DATA
from bench.report import report
from shards.foreign import ParquetReader
from trainer.data.batch import IGNORE
from trainer.data.loader import cut
from trainer.data.packing import Packing, pack
from trainer.tokenizer import SPLIT, Tokenizer

_VOCABULARY = 32_768
_ROW_GROUP, _ROW_GROUPS_A_FILE = 1024, 4
_QUICK_HOSTS = ("docs.pytest.org", "docs.scrapy.org", "cmake.org", "docs.djangoproject.com")
_DEPTHS = (0.01, 0.5, 0.99)
_STEP_ROWS = 64
_KEYS = ("tokens_per_core_s", "ratio_hf_datasets", "ratio_litdata", "ratio_mosaicml", "resume_s")

app = App(name="python -m bench.loader", help=__doc__)
console = Console()


@app.default
def main(*, quick: Annotated[bool, Parameter(negative=())] = False, out: Path | None = None) -> None:
    """Measure, print tables, and as the last line the figures as JSON.

    Parameters
    ----------
    quick
        A tenth of the text and one round, within a minute or so.
    out
        File that gets the JSON too.
    """
    if not DATA.is_dir():
        report(dict.fromkeys(_KEYS) | {"why": f"{DATA} is not there"}, out)
        return
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "text"
        texts = _corpus(folder, _QUICK_HOSTS if quick else ())
        path = Path(scratch) / "tokenizer.json"
        Tokenizer.train(texts[:: max(1, len(texts) // 2500)], _VOCABULARY).save(path)
        tokenizer = Tokenizer.load(path)
        found: dict[str, Any] = {"quick": quick, "text_mb": round(sum(map(len, texts)) / 1e6, 1)}
        found["encoders"] = _encoders(texts[: 1000 if quick else 4000], tokenizer, path)
        found["stages"] = _stages(folder, tokenizer)
        found["packing"] = _packing(texts, tokenizer)
        found |= _speed(folder, tokenizer, path, rounds=1 if quick else 5)
        found |= _resume(folder, tokenizer)
        found["shuffle"] = _shuffle(Path(scratch) / "numbers", tokenizer)
    _show(found)
    report(found, out, "fastokens", "tokenizers", "datasets", "tiktoken")  # others: extras in pyproject.toml


def _corpus(folder: Path, hosts: tuple[str, ...]) -> list[str]:
    """Write the main texts of real pages as FineWeb-like Parquet; returns them, in its order."""
    texts: list[str] = []
    archives = sorted(DATA.glob("*.tar.zst"))
    chosen = [path for path in archives if not hosts or path.name.removesuffix(".tar.zst") in hosts]
    for path in track(chosen, "text of pages", console=console):
        with tarfile.open(fileobj=io.BytesIO(zstd.decompress(path.read_bytes()))) as tar:
            for member in tar:
                if member.name.endswith((".html", ".htm")) and (file := tar.extractfile(member)):
                    page = file.read().decode("utf-8", "replace")
                    texts.append(extract_plain_text(page, main_content=True))
    texts = [text for text in texts if len(text) > 200]
    folder.mkdir()
    rows = _ROW_GROUP * _ROW_GROUPS_A_FILE
    for number, begin in enumerate(range(0, len(texts), rows)):
        table = pa.table({"text": texts[begin : begin + rows]})
        pq.write_table(table, folder / f"{number:03d}.parquet", row_group_size=_ROW_GROUP, compression="zstd")
    return texts


def _encoders(texts: list[str], tokenizer: Tokenizer, path: Path) -> dict[str, Any]:
    """Tokens a second and core of each encoder, and the share of texts that get the ids of the first."""
    makers: dict[str, Callable[[], loaders.Encode]] = {
        "tokenizers": partial(loaders.by_tokenizers, path),
        "tiktoken": partial(loaders.by_tiktoken, tokenizer, SPLIT),
        "fastokens": partial(loaders.by_our_encoder, tokenizer),
    }
    expected: list[list[int]] = []
    found: dict[str, Any] = {}
    for name, make in makers.items():
        try:
            encode = make()
        except ImportError as error:
            found[name] = {"tokens_per_core_s": None, "why": str(error)}
            continue
        began = time.process_time()
        ids = list(encode(texts))
        seconds = time.process_time() - began
        listed = [list(map(int, part)) for part in ids]
        expected = expected or listed
        same = sum(one == other for one, other in zip(listed, expected, strict=True)) / len(texts)
        speed = sum(map(len, listed)) / seconds
        found[name] = {"tokens_per_core_s": round(speed), "same_ids": same}
    return found


def _stages(folder: Path, tokenizer: Tokenizer) -> dict[str, float]:
    """Microseconds a thousand tokens by stage, an epoch of slices going through each."""
    reader = ParquetReader(folder)
    clock = [time.process_time()]
    slices = [
        [row["text"] for row in reader.documents(part.group, rows=slice(part.number, None, part.of))]
        for part in cut(reader.row_groups, 64)
    ]
    clock.append(time.process_time())
    encoded = [[tokenizer.encode_array(text).astype(np.uint16) for text in texts] for texts in slices]
    clock.append(time.process_time())
    for documents in encoded:
        pack(documents, tokenizer.endoftext, loaders.SEQUENCE_LEN, "best-fit")
    clock.append(time.process_time())
    tokens = sum(len(document) for documents in encoded for document in documents)
    spent = zip(("read", "encode", "pack"), np.diff(clock).tolist(), strict=True)
    return {name: round(seconds / tokens * 1e9, 1) for name, seconds in spent}


def _packing(texts: list[str], tokenizer: Tokenizer) -> dict[str, Any]:
    """Padding, and documents that do not lie in one row, of windows of 512 documents."""
    documents = [tokenizer.encode_array(text) for text in texts[:10_240]]
    found = {}
    for length in (256, 2048):
        for how in get_args(Packing):
            parts = range(0, len(documents), 512)
            rows = [pack(documents[n : n + 512], 0, length, how) for n in parts]
            used = sum(int(row.filled.sum()) for row in rows)
            room = sum(row.ids.size for row in rows)
            split = sum(row.cut for row in rows) / len(documents)
            found[f"{how} {length}"] = {"cut": round(split, 4), "padding": round(1 - used / room, 4)}
    return found


def _speed(folder: Path, tokenizer: Tokenizer, path: Path, rounds: int) -> dict[str, Any]:
    """Tokens a second and core of ours over three epochs, of others over their first few million tokens."""
    encoders = {"": loaders.by_tokenizers(path), "_same_encoder": loaders.by_our_encoder(tokenizer)}

    def here(suffix: str, most: int) -> float:
        texts = loaders.hf_texts(loaders.hf_datasets(folder))
        return loaders.speed_of(loaders.batches(texts, encoders[suffix], tokenizer.endoftext), most)

    def elsewhere(name: str, suffix: str, most: int) -> float:
        return loaders.speed_elsewhere(name, folder, path, "ours" if suffix else "theirs", most)

    peers: dict[str, Callable[[str, int], float]] = {
        "hf_datasets": here,
        "litdata": partial(elsewhere, "litdata"),
        "mosaicml": partial(elsewhere, "mosaicml"),
    }
    whole = _tokens_of(folder, tokenizer)
    speeds: dict[str, list[float]] = {"ours": []}
    why: dict[str, str] = {}
    for _ in track(range(rounds), "rounds", console=console):
        speeds["ours"].append(_our_speed(folder, tokenizer, 3 * whole))
        for name, measure in peers.items():
            for suffix in encoders:
                most = min(whole, 2_000_000 if suffix else 1_000_000)
                try:
                    speeds.setdefault(name + suffix, []).append(measure(suffix, most))
                except Exception as error:  # a peer that does not run here is a line, not the end
                    why[name] = f"{type(error).__name__}: {error}"[:200]
    found: dict[str, Any] = {"tokens_per_core_s": round(statistics.median(speeds["ours"]))}
    for name in (name + suffix for name in peers for suffix in encoders):
        theirs = speeds.get(name, [])
        ratios = [us / them for us, them in zip(speeds["ours"], theirs, strict=False)]
        found[f"ratio_{name}"] = round(statistics.median(ratios), 2) if ratios else None
        found[f"{name}_tokens_per_core_s"] = round(statistics.median(theirs)) if theirs else None
    return found | {"why": why}


def _tokens_of(folder: Path, tokenizer: Tokenizer) -> int:
    reader = ParquetReader(folder)
    texts = (text for group in reader.row_groups for text in reader.texts(group))
    return sum(len(tokenizer.encode_array(text)) + 1 for text in texts)


def _our_speed(folder: Path, tokenizer: Tokenizer, most: int) -> float:
    loader = loaders.ours(folder, tokenizer)
    tokens, began = 0, time.process_time()
    while tokens < most:
        tokens += sum(int((batch["targets"] != IGNORE).sum()) for batch in loader.next_step())
    speed = tokens / (time.process_time() - began)
    loader.close()
    return speed


def _resume(folder: Path, tokenizer: Tokenizer) -> dict[str, Any]:
    """Seconds from nothing to the first batch at depths of an epoch; that of the deepest is `resume_s`."""
    loader = loaders.ours(folder, tokenizer)
    steps = _tokens_of(folder, tokenizer) // (loaders.SEQUENCE_LEN * loaders.ROWS)
    wanted = {max(1, int(depth * steps)): depth for depth in _DEPTHS}
    states = {}
    for step in range(1, max(wanted) + 1):
        loader.next_step()
        if step in wanted:
            states[wanted[step]] = (loader.state(), loader.next_step() if step == max(wanted) else None)
    loader.close()
    seconds, exact = {}, True
    for depth, (state, expected) in states.items():
        began = time.perf_counter()
        resumed = loaders.ours(folder, tokenizer)
        resumed.restore(state)
        [batch] = resumed.next_step()
        seconds[str(depth)] = round(time.perf_counter() - began, 3)
        resumed.close()
        exact &= expected is None or torch.equal(batch["ids"], expected[0]["ids"])
    size = len(json.dumps(states[_DEPTHS[-1]][0]))
    found = {"resume_s": seconds[str(_DEPTHS[-1])], "resume_s_by_depth": seconds, "resume_exact": exact}
    return found | {"state_bytes": size, "hf_datasets_resume_s_by_depth": _hf_resume(folder, tokenizer)}


def _hf_resume(folder: Path, tokenizer: Tokenizer) -> dict[str, float]:
    """The same of HF's streaming, whose shuffle buffer is not in its state: what was in it is not read."""
    try:
        dataset = loaders.hf_datasets(folder)
        documents = sum(group.rows for group in ParquetReader(folder).row_groups)
        wanted = {max(1, int(depth * documents)): depth for depth in _DEPTHS}
        states = {}
        for number, _ in enumerate(dataset, 1):
            if number in wanted:
                states[wanted[number]] = dataset.state_dict()
        found = {}
        for depth, state in states.items():
            began = time.perf_counter()
            resumed = loaders.hf_datasets(folder)
            resumed.load_state_dict(state)
            once = (batch["text"] for batch in resumed.iter(batch_size=64))
            next(loaders.batches(once, loaders.by_our_encoder(tokenizer), 0), None)
            found[str(depth)] = round(time.perf_counter() - began, 3)
    except ImportError:
        return {}
    return found


def _shuffle(folder: Path, tokenizer: Tokenizer) -> dict[str, float]:
    """How often two of a step's 64 rows are of one row group, of 64; fully shuffled it is 1 in 64."""
    folder.mkdir()
    for number in range(16):
        groups = range(number * 4, number * 4 + 4)
        texts = [f"<{group}> " * 9 for group in groups for _ in range(512)]
        pq.write_table(pa.table({"text": texts}), folder / f"{number:02d}.parquet", row_group_size=512)
    size, rows = {"sequence_len": 64, "device_batch_size": 8}, 64 * 512
    loader = loaders.ours(folder, tokenizer, **size, tokens_per_step=_STEP_ROWS * 64)
    steps = (
        [_group(tokenizer.decode(row)) for batch in loader.next_step() for row in batch["ids"].tolist()]
        for _ in range(rows // _STEP_ROWS)
    )
    found = {"full": 1 / 64, "ours": float(np.mean([_alike(step) for step in steps]))}
    loader.close()
    try:
        read = (_group(row["text"]) for row in loaders.hf_datasets(folder))
        found[f"hf_buffer_{loaders.BUFFER}"] = float(
            np.mean([_alike(list(islice(read, _STEP_ROWS))) for _ in range(rows // _STEP_ROWS)])
        )
    except ImportError:
        pass
    return {name: round(value, 4) for name, value in found.items()}


def _group(text: str) -> int:
    found = re.search(r"<(\d+)>", text)
    assert found
    return int(found[1])


def _alike(groups: list[int]) -> float:
    """The share of pairs that are equal."""
    pairs = sum(count * (count - 1) for count in Counter(groups).values())
    return pairs / (len(groups) * (len(groups) - 1))


def _show(found: dict[str, Any]) -> None:
    table = Table("loader", "tokens / core s", "ours is so many times faster")
    table.add_row("tinylm", f"{found['tokens_per_core_s']:,}", "")
    for name in (key.removeprefix("ratio_") for key in found if key.startswith("ratio_")):
        speed, ratio = found[f"{name}_tokens_per_core_s"], found[f"ratio_{name}"]
        table.add_row(name, f"{speed:,}" if speed else "-", str(ratio or "-"))
    console.print(table)
    for part in ("encoders", "stages", "packing", "shuffle", "resume_s_by_depth", "why"):
        console.print(part, found[part])


if __name__ == "__main__":
    app()
