"""The closing test: one small language model, trained on what each crawl order harvested in as many fetches.

Crawls of the documentation web are simulated, without the hosts that are held out. A page is extracted and
judged when it is fetched, by what a crawl extracts and judges with, and that is its worth; oracles know the
prose that the table of pages gives it. The model reads the first tokens that were kept, again and again if
they are too few, and is measured on English prose of the held-out hosts. Model, tokenizer and steps are the
same for all; the draw of start pages and the seed of the weights differ from round to round.
"""

import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from random import Random
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
from cyclopts import App, Parameter
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from bench.choices import LENGTH, ROWS, VOCABULARY, stream, train
from bench.crawl import DATA
from bench.pages import body, fetched, head, table
from bench.report import report
from bench.search_and_rank import SEEDS, documentation
from crawler.read.extract import Extractor
from ranker.config import WalkConfig
from ranker.judge.judge import Judge
from ranker.replay.experiment import draw_starts, policies
from ranker.replay.simulator import Simulation
from ranker.replay.web import RecordedWeb, build
from trainer.evaluate import bits_per_byte
from trainer.model.architecture import ModelConfig
from trainer.model.model import GPT
from trainer.tokenizer import Tokenizer

ORDERS = ("tinylm", "opic", "bfs", "random")
HELD_OUT = ("docs.pytest.org", "docs.scrapy.org", "rand-mh.sourceforge.io", "www.libpng.org")
_HELD_OUT_BYTES = 100_000
_TOKENIZER_PAGES = 1500
_SIZES: dict[str, Any] = {"sequence_len": LENGTH, "width": 128, "layers": 5}

app = App(name="python -m bench.language_models", help=__doc__)


class Harvest(NamedTuple):
    """What one crawl kept: texts in the order of their fetches."""

    order: str
    round: int
    texts: list[str]


@app.default
def main(
    *only: str,
    quick: Annotated[bool, Parameter(negative=())] = False,
    rounds: int = 3,
    fetches: int = 400,
    tokens: int = 2_000_000,
    out: Path | None = None,
) -> None:
    """Crawl, train and measure; the last line is JSON. About 40 minutes on two cores.

    Parameters
    ----------
    only
        Crawl orders, oracles among them; ours, OPIC, BFS and random order, if none is given.
    quick
        One round, 100 fetches, 20,000 tokens: does it run at all.
    rounds
        Draws of start pages, each with weights of its own.
    fetches
        Of each crawl.
    tokens
        That each model reads.
    out
        File that gets the JSON too.
    """
    if quick:
        rounds, fetches, tokens = 1, 100, 20_000
    report(compare(only or ORDERS, rounds, fetches, tokens) | {"quick": quick}, out, "torch", "trafilatura")


def compare(orders: Sequence[str], rounds: int, fetches: int, tokens: int) -> dict[str, Any]:
    """Figures of all orders, with bits per byte by order under `lm_bpb`."""
    rows = table()
    outside = [row for row in rows if row["host"] in HELD_OUT and row["kind"] != "index"]
    inside = Random(0).sample([row for row in rows if row["host"] not in HELD_OUT], _TOKENIZER_PAGES)
    found: dict[str, list[dict[str, Any]]] = {order: [] for order in orders}
    with (
        TemporaryDirectory() as folder,
        Progress() as bar,
        ProcessPoolExecutor(mp_context=get_context("spawn")) as pool,
    ):
        crawls = [(order, number, rounds, fetches) for number in range(rounds) for order in orders]
        harvests = list(bar.track(pool.map(_crawl, crawls), len(crawls), description="crawling"))
        prose = pool.map(_kept, (inside, Random(0).sample(outside, len(outside))))
        tokenizer = Tokenizer.train(next(prose), VOCABULARY)
        held_out = head(next(prose), _HELD_OUT_BYTES)
        tokenizer.save(path := Path(folder) / "tokenizer.json")
        jobs = [(harvest.round, harvest.texts, tokens, path, held_out) for harvest in harvests]
        for harvest, result in zip(
            harvests, bar.track(pool.map(_measure, jobs), len(jobs), description="training"), strict=True
        ):
            found[harvest.order].append(result)
    _print(found)
    return {
        "lm_bpb": {order: round(mean(r["bpb"] for r in results), 4) for order, results in found.items()},
        "rounds": found,
        "fetches": fetches,
        "tokens": tokens,
        "held_out_bytes": sum(len(text.encode()) for text in held_out),
    }


def _crawl(job: tuple[str, int, int, int]) -> Harvest:
    """A crawl in one of the orders, from one of so many draws of start pages, of so many fetches."""
    order, number, rounds, fetches = job
    simulation, reader, rows = _simulation(), Reader(), {row["url"]: row for row in table()}
    web = simulation.web
    start = draw_starts(web, SEEDS, rounds, seed=0, of_hosts=False)[number]
    simulation.crawl(
        policies((order,), web, fetches)[order],
        start,
        fetches,
        seed=number,
        worth=lambda page: reader(rows[web.urls[page]]),
    )
    return Harvest(order, number, reader.texts)


@cache
def _simulation() -> Simulation:
    return Simulation(_with_pages_to_train_on(documentation(DATA)))


def _with_pages_to_train_on(web: RecordedWeb) -> RecordedWeb:
    hosts = {row["host"] for row in table()} - {*HELD_OUT}
    ids = np.flatnonzero(np.isin(np.array(web.hosts), list(hosts)))
    sources = np.repeat(np.arange(len(web.urls)), np.diff(web.starts))
    urls = [web.urls[page] for page in ids.tolist()]
    return build(
        web.name, ids, urls, sources, web.targets.astype(np.int64), {"worth": web.worth[ids]}, "worth"
    )


class Reader:
    """Pages as a crawl reads them: extracted, judged, and kept or not."""

    def __init__(self) -> None:
        self._extract, self._judge = Extractor(), Judge(WalkConfig())
        self.texts: list[str] = []
        """What was kept."""

    def __call__(self, row: dict[str, str]) -> float:
        """What a page of the table is worth."""
        found = self._extract(body(row), row["url"], "text/html", False, 10.0)
        judged = self._judge(page := fetched(row["url"], found), 0.0)
        if judged.verdict.keep:
            self.texts.append(page.text)
        return judged.worth


def _kept(rows: Sequence[dict[str, str]]) -> list[str]:
    """What a crawl would have kept of these pages."""
    reader = Reader()
    for row in rows:
        reader(row)
    return reader.texts


def _measure(job: tuple[int, list[str], int, Path, list[str]]) -> dict[str, Any]:
    """Train on the first tokens of a harvest, and measure."""
    seed, texts, tokens, path, held_out = job
    tokenizer = Tokenizer.load(path)
    torch.set_num_threads(1)
    ids = stream(texts, tokenizer)
    torch.manual_seed(seed)
    model = GPT(ModelConfig(vocab_size=tokenizer.vocab_size, **_SIZES))
    began = time.process_time()
    train(model, ids[:tokens], tokens // (ROWS * LENGTH))
    return {
        "bpb": round(bits_per_byte(model, tokenizer, held_out), 4),
        "documents": len(texts),
        "harvested_tokens": len(ids),
        "parameters": model.parameters_count,
        "cpu_s": round(time.process_time() - began),
    }


def _print(found: dict[str, list[dict[str, Any]]]) -> None:
    table = Table("order", "bits per byte", "of each round", "documents", "tokens harvested")
    for order, results in found.items():
        means = {name: mean(result[name] for result in results) for name in results[0]}
        each = "  ".join(f"{result['bpb']:.3f}" for result in results)
        table.add_row(
            order, f"{means['bpb']:.3f}", each, f"{means['documents']:,.0f}",
            f"{means['harvested_tokens']:,.0f}",
        )  # fmt: skip
    Console().print(table)


if __name__ == "__main__":
    app()
