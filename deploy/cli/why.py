"""`tinylm why`: what a URL promised and of what that was made, and what its fetch brought."""

import heapq
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from crawler.urls import canonicalize, fingerprint, locate
from ranker.graph import Evidence, LinkGraph, Rows
from ranker.policy.promise import WORDS
from shards.manifest import Manifest
from shards.reader import ShardReader, fetch_rows, read_fetches
from shards.schema import FetchRow
from tinylm.errors import ConfigError

_FACTS = ("quality", "quality_model", "novelty", "rps_doc_word_count", "karma", "inlinks", "depth")
_NEAR = 3


class Explains(Protocol):
    """What is needed of a policy."""

    name: str

    def promise(self, rows: Rows) -> NDArray[Any]:
        """(n,) What the queued URLs of (n,) rows promise."""

    def explain(self, rows: Rows) -> list[tuple[str, NDArray[Any]]]:
        """What their worth is expected to be made of: names and (n,) contributions."""


Restore = Callable[[Path], tuple[LinkGraph, Explains]]
"""The graph and the policy as they were when the corpus in a directory was last committed."""


class Fetched(NamedTuple):
    """A fetch, and what is known of its document; None if it was dropped."""

    fetch: FetchRow
    document: Mapping[str, Any] | None


class Waiting(NamedTuple):
    """What a queued URL promises now."""

    policy: str
    promise: float
    ingredients: Mapping[str, float]
    evidence: Evidence


def run(directory: Path, named: str, restore: Restore | None = None) -> None:
    """Print all of that. Raises ConfigError if `named` is no URL, ShardError if there is no corpus."""
    url = canonicalize(named)
    if url is None:
        raise ConfigError(f"{named}: not the address of a page")
    console = Console()
    console.print(url, soft_wrap=True, highlight=False)
    manifest = Manifest.load(directory)
    if manifest.is_taken_down(url, locate(url).host):
        console.print("was taken down: nothing is told of it")
    elif fetched := fetches_of(directory, url):
        _print_fetched(console, fetched)
    elif restore and (found := waiting(*restore(directory), url)):
        _print_waiting(console, found)
    else:
        console.print("was not fetched" if restore is None else "was never met")
        if any(shard.fetches is None for shard in manifest.shards):
            console.print("but of some shards the fetches were not logged")
        for near in near_to(directory, url):
            console.print(f"but fetched was {near}", soft_wrap=True, highlight=False)


def fetches_of(directory: Path, url: str) -> list[Fetched]:
    """Every fetch of a URL, the first one first."""
    manifest = Manifest.load(directory)
    found = []
    for shard, urls in read_fetches(directory, manifest, ["url"]):
        if url not in urls["url"].to_pylist():
            continue
        of_shard = replace(manifest, shards=(shard,))
        [(_, table)] = read_fetches(directory, of_shard)
        reader = ShardReader(directory, of_shard, split="all")
        documents = {
            document["id"]: document
            for group in reader.row_groups
            for document in reader.documents(group, ("id", *_FACTS))
        }
        found += [Fetched(row, documents.get(row.id)) for row in fetch_rows(table) if row.url == url]
    return sorted(found, key=lambda each: each.fetch.fetched_at)


def waiting(graph: LinkGraph, policy: Explains, url: str) -> Waiting | None:
    """What a URL promises; None if it does not wait to be fetched."""
    row = graph.queued(fingerprint(url))
    if row is None:
        return None
    rows = np.array([row])
    ingredients = {name: float(values[0]) for name, values in policy.explain(rows)}
    return Waiting(policy.name, float(policy.promise(rows)[0]), ingredients, graph.evidence(row))


def near_to(directory: Path, url: str) -> list[str]:
    """Of the URLs that were fetched on the same host, those that begin most like it."""
    host = locate(url).host
    fetched = {
        other
        for _, table in read_fetches(directory, Manifest.load(directory), ["url", "host"])
        for other, its_host in zip(table["url"].to_pylist(), table["host"].to_pylist(), strict=True)
        if its_host == host
    }
    place = url.partition("://")[2]
    return heapq.nlargest(_NEAR, sorted(fetched), lambda other: _same_start(place, other.partition("://")[2]))


def _same_start(one: str, other: str) -> int:
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), len(one))


def _print_fetched(console: Console, fetched: list[Fetched]) -> None:
    fetch, document = fetched[-1]
    moment = datetime.fromtimestamp(fetch.fetched_at / 1000, UTC)
    again = f", the last of {len(fetched)} times" if len(fetched) > 1 else ""
    table = Table.grid(padding=(0, 2))
    table.add_row("fetched", f"{moment:%Y-%m-%d %H:%M:%S} UTC, status {fetch.status}{again}")
    chosen = f"chosen with probability {fetch.propensity:.3g}"
    table.add_row("promised", f"{fetch.promise:.4f}, by policy {fetch.policy}, {chosen}")
    table.add_row("was worth", f"{fetch.worth:.4f}: {_why(fetch, document)}")
    table.add_row("expected", f"{fetch.expected:.4f}, before that was learned")
    console.print(table)
    _print_ingredients(console, fetch.ingredients, fetch.expected)


def _why(fetch: FetchRow, document: Mapping[str, Any] | None) -> str:
    if fetch.reason:
        return f"dropped, {fetch.reason}"
    if document is None:
        return "kept"
    facts = [f"quality {document['quality']:.2f} by {document['quality_model']}"]
    if document["novelty"] is not None:
        facts.append(f"{document['novelty']:.0%} of the text new")
    if document["rps_doc_word_count"] is not None:
        facts.append(f"{document['rps_doc_word_count']:,.0f} words")
    return f"kept, {', '.join(facts)}; {_found(document['karma'], document['inlinks'], document['depth'])}"


def _found(karma: float, inlinks: int, depth: int) -> str:
    return f"{karma:g} votes, {inlinks:,} pages linked to it, {depth:,} links from a seed"


def _print_waiting(console: Console, found: Waiting) -> None:
    evidence = found.evidence
    console.print(f"waits to be fetched, and promises {found.promise:.4f} by policy {found.policy}")
    console.print(_found(evidence.karma, evidence.inlinks, evidence.depth))
    _print_ingredients(console, found.ingredients, sum(found.ingredients.values()))


def _print_ingredients(console: Console, ingredients: Mapping[str, float], total: float) -> None:
    """The largest first, whichever way it counts."""
    if not ingredients:
        return
    table = Table("worth", "made of", show_footer=True)
    table.columns[0].footer, table.columns[0].justify = f"{total:.4f}", "right"
    table.columns[1].footer = "expected"
    for name, number in sorted(ingredients.items(), key=lambda item: -abs(item[1])):
        if number:
            table.add_row(f"{number:+.4f}", WORDS.get(name, name))
    console.print(table)
