"""`tinylm demo`: seeds to chat in one go, by the same commands a user would type.

Each stage leaves complete files behind and looks for them first, so a demo that was stopped, at any point,
goes on where it was, and a finished one says so.
"""

import json
import os
import shlex
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from crawler.config import CrawlConfig, FrontierConfig
from crawler.seeds.read import read_seeds
from deploy.console import Console
from deploy.crawl import Crawl, sigterm_as_interrupt
from deploy.demo.audit import audit
from deploy.demo.dump import write_dump
from deploy.demo.hosts import build_hosts
from deploy.demo.sites import Web, discover
from deploy.status import show_crawl
from ranker.config import WalkConfig
from shards.holdout import hold_out
from shards.manifest import Manifest
from shards.reader import ShardReader
from tinylm.errors import TinylmError
from tinylm.files import read_json, write_json
from tinylm.processes import start, stop

_USER_AGENT = "tinylm-demo (+http://python.test/)"
# The web is ready in about one second where nothing else runs.
_START_SECONDS = 30.0
# Fetches; about 1,300 pages of them are kept, 7 MB of text.
_PAGES = 3000
# Seconds between two fetches of a host, a tenth of what a crawl of the real web begins with.
_DELAY = 0.1
# The fetches take half a minute on two quiet cores: a crawl that takes four times as long ends here.
_CRAWL_HOURS = 120 / 3600
_RANKS = 2
# 360 steps of 2,048 tokens read half of the kept documents once: a minute and a half on two quiet cores.
_PRETRAIN = {"device-batch-size": 4, "tokens-per-step": 2048, "steps": 360, "eval-every": 120}
_SFT = {"device-batch-size": 4, "tokens-per-step": 2048, "epochs": 1}

console = Console(highlight=False)


class StageError(TinylmError):
    """A stage of the demo failed; it has said why itself."""


def run(data: Path) -> None:
    """Go through all stages in `data`."""
    data.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with sigterm_as_interrupt():
        _stage("1  crawl: karma seeds, a frontier, workers, and a walker that says what is next")
        crawled = data / "crawl.json"
        if not crawled.exists():
            write_json(crawled, {"reason": _crawl(data)})
        _print_summary(read_json(crawled)["reason"], Manifest.load(data / "shards"))
        held_out = hold_out(data / "shards", WalkConfig().held_out)
        console.print(f"held out from all training: {', '.join(held_out.hosts)}")

        _stage("2  pretrain: a small decoder, streaming the shards, two ranks")
        _torchrun("pretrain", {"shards": data / "shards", "out": data / "pretrain", **_PRETRAIN})

        _stage("3  instructions: questions that the documents answer")
        instructions = data / "instructions.jsonl"
        if instructions.exists():
            console.print(f"done before: {instructions}")
        else:
            _run("trainer.instructions", "--shards", data / "shards", "--out", instructions)

        _stage("4  fine-tune: from completing to answering")
        paths = {"data": instructions, "init-from": data / "pretrain", "out": data / "sft"}
        _torchrun("sft", {**paths, **_SFT})

        _stage("5  talk")
        _talk(data)
    console.print(f"\nall of it took {time.monotonic() - began:.0f} s; what to try next:", style="bold")
    console.print(next_steps(data), soft_wrap=True)


def _stage(name: str) -> None:
    console.print(f"\n{name}", style="bold")


def _crawl(data: Path) -> str:
    """Crawl the local web into `data` until nothing is left to do; returns why the crawl ended."""
    sites = discover()
    dump = data / "web" / "RS_demo.zst"
    with local_web(data) as web:
        if not dump.exists():
            write_dump(dump, sites)
        reason = Crawl(*crawl_settings(data, web)).run(list(read_seeds(str(dump))), show_crawl)
    manners = audit(data / "web" / "access.log", build_hosts(Web(sites)), delay=_DELAY)
    console.print(f"the web's own log: {manners}", soft_wrap=True)
    return reason


def _print_summary(reason: str, manifest: Manifest) -> None:
    most_dropped = sorted(manifest.dropped.items(), key=lambda item: -item[1])[:4]
    console.print(
        f"{reason}: {manifest.rows:,} documents, {manifest.text_bytes / 1e6:.1f} MB of text, in "
        f"{len(manifest.shards)} shards; dropped "
        + ", ".join(f"{count:,} {reason}" for reason, count in most_dropped)
    )


def crawl_settings(data: Path, web: dict[str, Any]) -> tuple[FrontierConfig, CrawlConfig, WalkConfig]:
    """Settings for a crawl of a few minutes; `web` is what `local_web` yields."""
    frontier = FrontierConfig(
        data=data,
        delay=_DELAY,
        latency_factor=1.0,
        backoff=2.0,
        lease_seconds=40.0,
        # No host gets more than an eighth of the fetches.
        pages_per_host=_PAGES // 8,
    )
    crawl = CrawlConfig(
        user_agent=_USER_AGENT,
        pages=_PAGES,
        hours=_CRAWL_HOURS,
        disk_reserve_gigabytes=0.5,
        allowed_networks=(f"127.0.0.0/8:{web['port']}",),
        resolve=tuple(web["resolve"]),
        concurrency=8,
        # The hosts share eight loopback addresses: a gap between all their requests would only cost time.
        ip_concurrency=4,
        ip_delay=0.0,
        timeout=15.0,
        extract_timeout=5.0,
    )
    return frontier, crawl, WalkConfig(shard_seconds=10.0, row_group_rows=64)


@contextmanager
def local_web(data: Path, packages: str = "") -> Iterator[dict[str, Any]]:
    """The local web, of all packages or of these, for as long as the block lasts; its logs go to `data`.

    Yields its port and where its hosts are. Raises StageError if it does not start, or died meanwhile.
    """
    ready, log = data / "web" / "ready.json", data / "logs" / "web.log"
    ready.parent.mkdir(parents=True, exist_ok=True)
    ready.unlink(missing_ok=True)
    argv = [sys.executable, "-m", "deploy.demo.web", "--ready-file", str(ready)]
    argv += ["--access-log", str(data / "web" / "access.log"), "--packages", packages]
    process = start(argv, log=log)
    try:
        give_up = time.monotonic() + _START_SECONDS
        while not ready.exists():
            if process.poll() is not None or time.monotonic() > give_up:
                raise StageError(f"the local web did not start; see {log}")
            time.sleep(0.05)
        web: dict[str, Any] = read_json(ready)
        console.print(f"a web of {len(web['resolve'])} hosts on loopback, port {web['port']}", style="dim")
        yield web
        if process.poll() is not None:
            raise StageError(f"the local web died; see {log}, and start the same command again")
    finally:
        stop([process], patience=10)


def _torchrun(module: str, flags: Mapping[str, object]) -> None:
    arguments = [part for name, value in flags.items() for part in (f"--{name}", value)]
    launcher = ["torch.distributed.run", "--standalone", f"--nproc-per-node={_RANKS}", "-m"]
    _run(*launcher, f"trainer.{module}", *arguments)


def _run(*words: object) -> None:
    """Run a module in the foreground; Ctrl-C ends it in order (a trainer saves first)."""
    argv = [sys.executable, "-m", *(str(word) for word in words)]
    console.print("$ " + shlex.join(["python", *argv[1:]]), style="dim", soft_wrap=True)
    process = start(argv, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"})
    try:
        code = process.wait()
    except KeyboardInterrupt:
        stop([process], patience=60)
        raise
    if code:
        module = next(word for word in argv if word.startswith("trainer."))
        raise StageError(f"{module} ended with code {code}; start the same command again to go on")


def _talk(data: Path) -> None:
    """Complete the first words of a text, and answer a question, that the models have not seen."""
    from deploy.cli.model import print_stream
    from trainer.generate import Generator

    reader = ShardReader(data / "shards", split="held_out")
    texts = (text for group in reader.row_groups for text in reader.texts(group))
    longest = max(texts, key=lambda text: len(text.split()), default="The")
    # A line of prose, neither a heading nor code, if there is one.
    sentences = (line for line in longest.splitlines() if len(line.split()) > 8 and line[0].isalpha())
    prompt = " ".join(next(sentences, longest).split()[:6])
    console.print(f"complete: {prompt}", end="", soft_wrap=True)
    print_stream(Generator.load(data / "pretrain").complete(prompt, max_tokens=60, seed=1))

    with (data / "instructions.val.jsonl").open() as lines:
        question = json.loads(next(lines))["messages"][0]["content"]
    console.print(f"ask: {question}", soft_wrap=True)
    answer = Generator.load(data / "sft").chat([{"role": "user", "content": question}], max_tokens=96, seed=1)
    print_stream(answer)


def next_steps(data: Path) -> str:
    """Commands to try on what the demo made."""
    tinylm = Path(sys.argv[0]) if Path(sys.argv[0]).name == "tinylm" else "tinylm"
    return f"""
  {tinylm} complete "The function returns" --run {data}/pretrain
  {tinylm} chat --run {data}/sft
  {tinylm} shards list {data}/shards          what was kept and what was dropped, and why
  {tinylm} shards show {data}/shards          read some of it
  {tinylm} dashboard --data {data} --runs {data}/pretrain --runs {data}/sft
  {tinylm} crawl https://your.site/ --user-agent "your-crawler (+https://your.site/about)"

  shards {data}/shards   models {data}/pretrain {data}/sft   logs {data}/logs"""
