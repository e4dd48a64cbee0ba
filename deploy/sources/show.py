"""`tinylm sources`: which source pays."""

import json
import math
from typing import Any, Literal

from crawler.config import CrawlPlace
from crawler.seeds.ledger import FILE_NAME, spent_in
from deploy.console import Console
from ranker.sources import Source, Sources, Yield, kind
from tinylm.terminal import say

_UNITS = ("queries", "billed", "probes", "requests")


def sources(
    *,
    by: Literal["kind", "source"] = "kind",
    number: int = 30,
    as_json: bool = False,
    frontier: CrawlPlace = CrawlPlace(),
) -> None:
    """What seeds brought by where they came from: good tokens per fetch, per query and per unit billed.

    Good tokens are those of documents that were kept, by their quality and their share of new text. Intervals
    are of 95 %, over hosts.

    Parameters
    ----------
    by
        Kinds of sources (search, reddit, …) or each of them (search:brave:otters).
    number
        Sources shown, those that pay most.
    as_json
        All of them, as one JSON object.
    """
    found = found_in(frontier, by, Sources(frontier.shards))
    if as_json:
        say(json.dumps({source.name: figures(source) for source in found}))
        return
    from rich.table import Table

    spent = [unit for unit in _UNITS if any(source.spent.get(unit) for source in found)]
    table = Table(
        "source", "fetches", "good tokens", "per fetch", "seeds alone", *(f"per {unit}" for unit in spent)
    )
    for source in found[:number]:
        costs = (_ratio(source.all.tokens, source.spent.get(unit, 0.0)) for unit in spent)
        row = f"{source.all.fetches:,}", f"{source.all.tokens:,.0f}", _said(source.all), _said(source.seeds)
        table.add_row(source.name, *row, *costs)
    Console().print(table)
    if len(found) > number:
        say(f"and {len(found) - number:,} more: --number {len(found)}")


def found_in(place: CrawlPlace, by: str, sums: Sources) -> list[Source]:
    """What a crawl's sources brought and cost, `sums` brought up to date. Raises ShardError, SeedError."""
    sums.update()
    return sums.by(kind if by == "kind" else str, spent_in(place.data / FILE_NAME))


def figures(source: Source) -> dict[str, Any]:
    """For JSON: null is what cannot be said."""

    def of(found: Yield) -> dict[str, Any]:
        numbers = {"per_fetch": found.per_fetch, "low": found.interval[0], "high": found.interval[1]}
        told = {name: None if math.isnan(value) else round(value, 2) for name, value in numbers.items()}
        return {"fetches": found.fetches, "tokens": round(found.tokens), "hosts": found.hosts} | told

    return {"seeds": of(source.seeds), "all": of(source.all), "spent": dict(source.spent)}


def _said(found: Yield) -> str:
    if not found.fetches:
        return "no fetch"
    low, high = found.interval
    return f"{found.per_fetch:,.0f}" + ("" if math.isnan(low) else f" ({low:,.0f} to {high:,.0f})")


def _ratio(tokens: float, amount: float) -> str:
    return f"{tokens / amount:,.0f}" if amount else ""
