"""`tinylm demo`: seeds to chat in one go, by the same commands a user would type.

Each stage leaves whole files behind and looks for them first, so a demo that was stopped, at any point,
goes on where it was, and a finished one says so.
"""

import json
import os
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from crawler.config import CrawlConfig, FrontierConfig
from crawler.seeds.read import read_seeds
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
from tinylm.files import replacing
from tinylm.processes import start, stop

_USER_AGENT = "tinylm-demo (+http://python.test/)"
_START_SECONDS = 30.0
_PAGES = 3000
_DELAY = 0.1
_CRAWL_HOURS = 120 / 3600
_RANKS = 2
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
        _crawl(data)
        _hold_out(data)
        _pretrain(data)
        _instruct(data)
        _fine_tune(data)
        _talk(data)
    console.print(f"\nall of it took {time.monotonic() - began:.0f} s; what to try next:", style="bold")
    console.print(_next_steps(data), soft_wrap=True)


def _stage(name: str) -> None:
    console.print(f"\n[bold]{name}[/bold]")


# Seeds to shards


def _crawl(data: Path) -> None:
    _stage("1  crawl: karma seeds, a frontier, workers, and a walker that says what is next")
    done = data / "crawl.json"
    if not done.exists():
        with local_web(data) as web:
            dump = _reddit_dump(data)
            seeds = list(read_seeds(str(dump)))
            reason = Crawl(*_crawl_settings(data, web)).run(seeds, show_crawl)
        _write_summary(done, data, reason)
        manners = audit(_access_log(data), build_hosts(Web(discover())), delay=_DELAY)
        console.print(f"the web's own log: {manners}", soft_wrap=True)
    summary = json.loads(done.read_text())
    console.print(
        f"{summary['reason']}: {summary['documents']:,} documents, {summary['text_bytes'] / 1e6:.1f} MB of "
        f"text, in {summary['shards']} shards; dropped {_top(summary['dropped'])}"
    )


def _crawl_settings(data: Path, web: dict[str, Any]) -> tuple[FrontierConfig, CrawlConfig, WalkConfig]:
    frontier = FrontierConfig(
        data=data,
        delay=_DELAY,
        latency_factor=1.0,
        backoff=2.0,
        lease_seconds=40.0,
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
    ready = data / "web" / "ready.json"
    ready.parent.mkdir(parents=True, exist_ok=True)
    ready.unlink(missing_ok=True)
    argv = [sys.executable, "-m", "deploy.demo.web", "--ready-file", str(ready)]
    argv += ["--access-log", str(_access_log(data)), "--packages", packages]
    log = data / "logs" / "web.log"
    process = start(argv, log=log)
    try:
        give_up = time.monotonic() + _START_SECONDS
        while not ready.exists():
            if process.poll() is not None or time.monotonic() > give_up:
                raise StageError(f"the local web did not start; see {log}")
            time.sleep(0.05)
        web: dict[str, Any] = json.loads(ready.read_text())
        console.print(f"a web of {len(web['resolve'])} hosts on loopback, port {web['port']}", style="dim")
        yield web
        if process.poll() is not None:
            raise StageError(f"the local web died; see {log}, and start the same command again")
    finally:
        stop([process], patience=10)


def _access_log(data: Path) -> Path:
    return data / "web" / "access.log"


def _reddit_dump(data: Path) -> Path:
    dump = data / "web" / "RS_demo.zst"
    if not dump.exists():
        write_dump(dump, discover())
    return dump


def _write_summary(path: Path, data: Path, reason: str) -> None:
    manifest = Manifest.load(data / "shards")
    summary = {
        "reason": reason,
        "documents": manifest.rows,
        "text_bytes": manifest.text_bytes,
        "shards": len(manifest.shards),
        "dropped": manifest.dropped,
    }
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(summary, indent=1))


def _top(dropped: dict[str, int], most: int = 4) -> str:
    ranked = sorted(dropped.items(), key=lambda item: -item[1])[:most]
    return ", ".join(f"{count:,} {reason}" for reason, count in ranked)


# Shards to a model


def _hold_out(data: Path) -> None:
    held_out = hold_out(data / "shards", WalkConfig().held_out)
    console.print(f"held out from all training: {', '.join(held_out.hosts)}")


def _pretrain(data: Path) -> None:
    _stage("2  pretrain: a small decoder, streaming the shards, two ranks")
    _torchrun("pretrain", {"shards": data / "shards", "out": data / "pretrain", **_PRETRAIN})


def _instruct(data: Path) -> None:
    _stage("3  instructions: questions that the documents answer")
    out = data / "instructions.jsonl"
    if out.exists():
        console.print(f"done before: {out}")
        return
    _run([sys.executable, "-m", "trainer.instructions", "--shards", data / "shards", "--out", out])


def _fine_tune(data: Path) -> None:
    _stage("4  fine-tune: from completing to answering")
    paths = {"data": data / "instructions.jsonl", "init-from": data / "pretrain", "out": data / "sft"}
    _torchrun("sft", {**paths, **_SFT})


def _torchrun(module: str, flags: Mapping[str, object]) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={_RANKS}"]
    arguments = [part for name, value in flags.items() for part in (f"--{name}", value)]
    _run([*launcher, "-m", f"trainer.{module}", *arguments])


def _run(argv: Sequence[object]) -> None:
    """Run a command in the foreground; Ctrl-C ends it in order (a trainer saves first)."""
    words = [str(word) for word in argv]
    console.print("$ " + shlex.join(words).replace(sys.executable, "python"), style="dim", soft_wrap=True)
    environment = dict(os.environ, OMP_NUM_THREADS="1", PYTHONUNBUFFERED="1")
    process = start(words, env=environment)
    try:
        code = process.wait()
    except KeyboardInterrupt:
        stop([process], patience=60)
        raise
    if code:
        command = next(word for word in words if word.startswith("trainer."))
        raise StageError(f"{command} ended with code {code}; start the same command again to go on")


# A model to talk to


def _talk(data: Path) -> None:
    from deploy.cli.model import print_stream
    from trainer.generate import Generator

    _stage("5  talk")
    prompt, question = _opening(data), _question(data)
    console.print(f"complete: [bold]{escape(prompt)}[/bold]", end="", soft_wrap=True)
    print_stream(Generator.load(data / "pretrain").complete(prompt, max_tokens=60, seed=1))
    console.print(f"ask: [bold]{escape(question)}[/bold]", soft_wrap=True)
    answer = Generator.load(data / "sft").chat([{"role": "user", "content": question}], max_tokens=96, seed=1)
    print_stream(answer)


def _opening(data: Path) -> str:
    """The first words of a text the model has not seen."""
    reader = ShardReader(data / "shards", split="held_out")
    texts = (text for group in reader.row_groups for text in reader.texts(group))
    best = max(texts, key=lambda text: len(text.split()), default="The")
    prose = next((line for line in best.splitlines() if len(line.split()) > 8 and line[0].isalpha()), best)
    return " ".join(prose.split()[:6])


def _question(data: Path) -> str:
    """A question kept from fine-tuning."""
    with (data / "instructions.val.jsonl").open() as lines:
        return str(json.loads(next(lines))["messages"][0]["content"])


def _next_steps(data: Path) -> str:
    tinylm = Path(sys.argv[0]) if Path(sys.argv[0]).name == "tinylm" else "tinylm"
    return f"""
  {tinylm} complete "The function returns" --run {data}/pretrain
  {tinylm} chat --run {data}/sft
  {tinylm} shards list {data}/shards          what was kept and what was dropped, and why
  {tinylm} shards show {data}/shards          read some of it
  {tinylm} dashboard --data {data} --runs {data}/pretrain --runs {data}/sft
  {tinylm} crawl https://your.site/ --user-agent "your-crawler (+https://your.site/about)"

  shards {data}/shards   models {data}/pretrain {data}/sft   logs {data}/logs"""
