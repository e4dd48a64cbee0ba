"""`tinylm why`: what a URL promised, what that was made of, and what its fetch brought."""

import heapq
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from crawler.config import CrawlPlace
from crawler.errors import ServerError
from crawler.frontier import Frontier
from crawler.urls import address, canonical, fingerprint, locate
from deploy.cli.hosts import position, robots_allow, say_host, waits
from deploy.cli.names import names_of
from deploy.console import Console
from deploy.crawl import NoServer, attach
from deploy.summary import remedy
from ranker.policy.promise import WORDS
from ranker.state import restored
from shards.manifest import Manifest, is_corpus
from shards.reader import ShardReader, fetch_rows, read_fetches
from shards.schema import FetchRow
from tinylm.terminal import say

_FACTS = ("quality", "quality_model", "novelty", "rps_doc_word_count", "karma", "inlinks", "depth")
# Fetched URLs named beside one that was not.
_NEAR = 3
# A fetch, and what is known of its document; None if it was dropped.
Fetched = tuple[FetchRow, Mapping[str, Any] | None]


def why(url: str, directory: Path | None = None, *, frontier: CrawlPlace = CrawlPlace()) -> None:
    """What URL promised, when it was fetched or why it waits, what it was worth; of a host as well.

    Parameters
    ----------
    url
        Or a host.
    directory
        Of the corpus; by default that of the crawl in --data.
    """
    corpus = directory or frontier.shards
    opened = None  # without a server the corpus says what it knows, later or never
    with suppress(NoServer, ServerError):
        opened = None if directory else attach(frontier)
    letters = opened.dead_letters() if opened else ()
    manifest = Manifest.load(corpus) if opened is None or is_corpus(corpus) else Manifest()
    down = manifest.taken_down | (opened.taken_down() if opened else set())
    console = Console()
    for name in names_of(url):  # without a scheme a page is one of https and one of http
        console.print(name, soft_wrap=True, highlight=False)
        host = locate(name).host if "://" in name else name
        if {name, host} & down:
            console.print("was taken down: nothing is told of it")
        elif name == host:
            say_host(name, opened, corpus)
        elif reason := {canonical(each): reason for each, reason in letters}.get(name):
            again = f"`tinylm frontier retry {name}` queues it again"
            say(f"was refused or given up, {reason}{remedy(reason)}: {again}")
        elif fetched := fetches_of(corpus, manifest, name):
            _print_fetched(console, fetched)
        else:
            asked = address(url) or name
            place = position(opened, dict.fromkeys((asked, name))) if opened else ""
            if not (manifest.state and _print_waiting(console, corpus, name)) and not place:
                _print_never_met(console, opened, corpus, manifest, name)
            elif opened is None:
                say("no server runs, which would say why it waits")
            else:
                say(place or "it waits in lists or on disk, behind the best of its host; or with the walker")
                if not robots_allow(opened, asked):
                    say(f"robots{remedy('robots')}: it will be refused")
                for line in waits(opened, host):
                    say(line)


def fetches_of(directory: Path, manifest: Manifest, url: str) -> list[Fetched]:
    """Every fetch of a URL, oldest first."""
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


def near_to(directory: Path, manifest: Manifest, url: str) -> list[str]:
    """The `_NEAR` fetched URLs of the same host that share the longest beginning with `url`."""
    host = locate(url).host
    fetched = {
        other
        for _, table in read_fetches(directory, manifest, ["url", "host"])
        for other, its_host in zip(table["url"].to_pylist(), table["host"].to_pylist(), strict=True)
        if its_host == host
    }
    path = url.partition("://")[2]

    def shared(other: str) -> int:
        pairs = zip(path, other.partition("://")[2], strict=False)
        return next((at for at, (a, b) in enumerate(pairs) if a != b), len(path))

    return heapq.nlargest(_NEAR, sorted(fetched), shared)


def _print_waiting(console: Console, directory: Path, url: str) -> bool:
    """Print what a URL promises by the walker's last state; False if it does not wait to be fetched."""
    graph, policy = restored(directory)
    row = graph.queued(fingerprint(url))
    if row is None:
        return False
    rows = np.array([row])
    ingredients = {name: float(values[0]) for name, values in policy.explain(rows)}
    evidence, promise = graph.evidence(row), float(policy.promise(rows)[0])
    console.print(f"waits to be fetched, and promises {promise:.4f} by policy {policy.name}")
    console.print(_found(evidence.karma, evidence.inlinks, evidence.depth))
    _print_ingredients(console, ingredients, sum(ingredients.values()))
    return True


def _print_never_met(
    console: Console, frontier: Frontier | None, directory: Path, manifest: Manifest, url: str
) -> None:
    """Print that a URL was not met, and what is nearest to it."""
    if frontier and (reason := frontier.out_of_scope([url]).get(url)):
        say(f"is out of the crawl's scope: {reason}")
    console.print("was never met" if manifest.state else "was not fetched")
    if any(shard.fetches is None for shard in manifest.shards):
        console.print("but of some shards the fetches were not logged")
    for near in near_to(directory, manifest, url):
        console.print(f"but fetched was {near}", soft_wrap=True, highlight=False)


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
