"""`tinylm why`: what a URL promised, what that was made of, and what its fetch brought."""

import heapq
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from crawler.config import FrontierConfig
from crawler.urls import canonicalize, fingerprint, locate
from ranker.graph import Evidence, LinkGraph
from ranker.policy.policy import Policy
from ranker.policy.promise import WORDS
from ranker.state import restored
from shards.manifest import Manifest
from shards.reader import ShardReader, fetch_rows, read_fetches
from shards.schema import FetchRow
from tinylm.errors import ConfigError

_FACTS = ("quality", "quality_model", "novelty", "rps_doc_word_count", "karma", "inlinks", "depth")
_NEAR = 3  # fetched URLs named beside one that was not
# Reads the graph and the policy as they were when the corpus in a directory was last committed.
Restore = Callable[[Path], tuple[LinkGraph, Policy]]
# A fetch, and what is known of its document; None if it was dropped.
Fetched = tuple[FetchRow, Mapping[str, Any] | None]


class Waiting(NamedTuple):
    """What a queued URL promises now."""

    policy: str
    promise: float
    ingredients: Mapping[str, float]
    evidence: Evidence


def why(url: str, directory: Path | None = None, *, frontier: FrontierConfig = FrontierConfig()) -> None:
    """What URL promised and what that was made of, when it was fetched, and what the fetch was worth.

    Parameters
    ----------
    directory
        Of the corpus; by default that of the crawl in --data.
    """
    corpus = directory or frontier.shards
    run(corpus, url, restored if Manifest.load(corpus).state else None)


def run(directory: Path, named: str, restore: Restore | None = None) -> None:
    """Print what the corpus in `directory` and the walker's state, if `restore` reads it, say of a URL.

    Raises ConfigError if `named` is no URL, ShardError if there is no corpus.
    """
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
        evidence = found.evidence
        console.print(f"waits to be fetched, and promises {found.promise:.4f} by policy {found.policy}")
        console.print(_found(evidence.karma, evidence.inlinks, evidence.depth))
        _print_ingredients(console, found.ingredients, sum(found.ingredients.values()))
    else:
        console.print("was not fetched" if restore is None else "was never met")
        if any(shard.fetches is None for shard in manifest.shards):
            console.print("but of some shards the fetches were not logged")
        for near in near_to(directory, url):
            console.print(f"but fetched was {near}", soft_wrap=True, highlight=False)


def fetches_of(directory: Path, url: str) -> list[Fetched]:
    """Every fetch of a URL, oldest first."""
    manifest = Manifest.load(directory)
    found: list[Fetched] = []
    for shard, urls in read_fetches(directory, manifest, ["url"]):
        # Most shards end here: one column was read. Those that have the URL are read with all of them.
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
        found += [(row, documents.get(row.id)) for row in fetch_rows(table) if row.url == url]
    return sorted(found, key=lambda each: each[0].fetched_at)


def waiting(graph: LinkGraph, policy: Policy, url: str) -> Waiting | None:
    """What a URL promises; None if it does not wait to be fetched."""
    row = graph.queued(fingerprint(url))
    if row is None:
        return None
    rows = np.array([row])
    ingredients = {name: float(values[0]) for name, values in policy.explain(rows)}
    return Waiting(policy.name, float(policy.promise(rows)[0]), ingredients, graph.evidence(row))


def near_to(directory: Path, url: str) -> list[str]:
    """The `_NEAR` fetched URLs of the same host that share the longest beginning with `url`."""
    host = locate(url).host
    fetched = {
        other
        for _, table in read_fetches(directory, Manifest.load(directory), ["url", "host"])
        for other, its_host in zip(table["url"].to_pylist(), table["host"].to_pylist(), strict=True)
        if its_host == host
    }
    path = url.partition("://")[2]

    def shared(other: str) -> int:
        pairs = zip(path, other.partition("://")[2], strict=False)
        return next((at for at, (a, b) in enumerate(pairs) if a != b), len(path))

    return heapq.nlargest(_NEAR, sorted(fetched), shared)


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


def _print_ingredients(console: Console, ingredients: Mapping[str, float], total: float) -> None:
    """Print what a worth is made of, the largest first, whichever way it counts."""
    if not ingredients:
        return
    table = Table("worth", "made of", show_footer=True)
    table.columns[0].footer, table.columns[0].justify = f"{total:.4f}", "right"
    table.columns[1].footer = "expected"
    for name, number in sorted(ingredients.items(), key=lambda item: -abs(item[1])):
        if number:  # 0 says nothing of this page
            table.add_row(f"{number:+.4f}", WORDS.get(name, name))
    console.print(table)
