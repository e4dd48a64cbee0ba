"""What `tinylm shards list` and `show` print."""

from pathlib import Path

from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table

from shards.errors import ShardError
from shards.manifest import Manifest
from shards.reader import ShardReader


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
