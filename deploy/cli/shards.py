"""`tinylm shards`: what a corpus has, and what it must no longer have."""

from pathlib import Path

from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table

from crawler.config import FrontierConfig
from crawler.urls import fingerprint, locate
from deploy.cli.frontier import host_or_url
from deploy.crawl import attach
from shards.errors import ShardError, ShardsLocked
from shards.manifest import Manifest
from shards.reader import ShardReader
from shards.takedown import Purged, purge
from shards.writer import ShardWriter


def describe(directory: Path) -> None:
    """Print the shards of a corpus and what became of the pages that are not in it."""
    manifest = Manifest.load(directory)
    table = Table("shard", "documents", "text MB", "file MB", "SHA-256")
    for shard in manifest.shards:
        sizes = f"{shard.text_bytes / 1e6:.1f}", f"{shard.bytes / 1e6:.1f}"
        table.add_row(shard.name, f"{shard.rows:,}", *sizes, shard.sha256[:12])
    console = Console()
    console.print(table)
    console.print(f"{manifest.rows:,} documents, {manifest.text_bytes / 1e6:.1f} MB of text")
    dropped = sorted(manifest.dropped.items(), key=lambda item: -item[1])
    console.print("dropped: " + (", ".join(f"{reason} {count:,}" for reason, count in dropped) or "nothing"))
    held_out = manifest.held_out
    console.print(f"held out: {', '.join(held_out.hosts) if held_out else 'nothing yet: shards hold-out'}")
    if manifest.tombstones:
        console.print(f"taken down: {', '.join(manifest.tombstones)}")
    console.print(f"snapshot {manifest.fingerprint[:12]}, commit {manifest.version}")


def print_documents(directory: Path, url: str | None, limit: int) -> None:
    """Print documents of a corpus. Raises ShardError if none has `url`."""
    console = Console()
    shown = 0
    for document in ShardReader(directory, split="all"):
        if url is not None and document["url"] != url:
            continue
        console.rule(document["url"])
        facts = ("quality", "promise", "karma", "inlinks", "depth", "language")
        console.print({name: document[name] for name in facts})
        console.print(Markdown(document["text"]))
        shown += 1
        if shown == limit:
            return
    if url is not None and not shown:
        raise ShardError(f"{directory}: no document has the URL {url}")


def take_down(directory: Path, named: list[str], config: FrontierConfig) -> str:
    """Add hosts and URLs to the tombstones of a corpus; returns what was done, in words.

    While a crawl writes there they go to its frontier (`config`), from which the walker has them. Raises
    ShardError if there is no corpus, or if that is the frontier of another crawl.
    """
    what = [host_or_url(name) for name in named]
    manifest = Manifest.load(directory)
    try:
        with ShardWriter(directory) as writer:
            writer.update(tombstones=writer.manifest.with_tombstones(what).tombstones)
        return "no reader gives them any more; `tinylm shards purge` removes them from the files"
    except ShardsLocked:
        if config.crawl_id != manifest.crawl_id:
            raise ShardError(
                f"{directory}: crawl {manifest.crawl_id!r} is writing here: name it with --crawl-id, and its "
                "server with --redis-url or --data"
            ) from None
    frontier = attach(config)
    for name in what:
        frontier.take_down(name)
    return "not fetched any more; readers do not give them from the walker's next commit"


def purge_taken_down(directory: Path) -> Purged:
    """Rewrite the shards of a corpus without what was taken down."""
    return purge(directory, lambda url: (locate(url).host, fingerprint(url)))
