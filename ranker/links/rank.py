"""Batch rank: what the finished link table of a corpus says of its documents, pages, hosts and domains.

Written as two tables beside the shards: `rank`, a row for each document (see `shards.columns`), and `hosts`,
a row for each host, fetched or only linked to.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from crawler.urls import domain
from ranker.links.centrality import Floats, Graph, harmonic, pagerank
from ranker.links.webgraph import Report, WebGraph, read_graph
from shards import columns
from shards.manifest import Manifest
from shards.reader import ShardReader

_STEPS = 5  # of which `report` is told


@dataclass(frozen=True)
class Ranking:
    """What was computed: the tables that were written, and the size of the graph behind them."""

    rank: pa.Table
    """`id`, and the numbers of docs/rank.md."""
    hosts: pa.Table
    urls: pa.ChunkedArray
    """Of the documents, in the order of `rank`."""
    pages: int
    links: int


def rank(directory: Path, report: Report) -> Ranking | None:
    """Rank the corpus in `directory` as its manifest is now; None if that was done before.

    Raises ShardError for a corpus without documents, ShardCorrupt for a damaged one, ShardsLocked while
    another process ranks it.
    """
    manifest = Manifest.load(directory)
    # Of the link tables, as a commit of dropped pages adds links and no documents.
    links = hashlib.sha256("".join(shard.links.sha256 for shard in manifest.shards).encode()).hexdigest()
    path = columns.path_of(directory, "rank", manifest)
    if columns.facts_of(path).get("links") == links:
        return None
    with columns.writing(directory):
        web = read_graph(ShardReader(directory, manifest, split="all"), report)
        found = _rank(web, report)
        columns.write(columns.path_of(directory, "hosts", manifest), found.hosts, manifest, links=links)
        columns.write(path, found.rank, manifest, links=links)
    return found


def _rank(web: WebGraph, report: Report) -> Ranking:
    pages = web.pages
    report("PageRank", 0, _STEPS)
    ranks = pagerank(web.graph)
    numbers = {"pagerank": ranks[pages]}
    if web.karma.max(initial=0) > 0:
        report("PageRank from karma", 1, _STEPS)
        teleport = np.log1p(np.maximum(0, web.karma))
        numbers["karma_pagerank"] = pagerank(web.graph, teleport)[pages]
    report("harmonic centrality", 2, _STEPS)
    numbers["harmonic"] = _harmonic(web.graph, web.fetched)[pages]
    report("hosts", 3, _STEPS)
    hosts = _hosts(web, ranks)
    report("domains", 4, _STEPS)
    domains = _domains(web, hosts["domain"].to_pylist())
    for name in ("pagerank", "harmonic"):
        numbers[f"host_{name}"] = hosts[name].to_numpy()[web.host[pages]]
        numbers[f"domain_{name}"] = domains[name][web.host[pages]]
    table = pa.table({"id": web.ids, **numbers})
    return Ranking(table, hosts, web.urls, web.graph.nodes, len(web.graph.sources))


def _harmonic(graph: Graph, fetched: NDArray[np.bool_]) -> Floats:
    """Harmonic centrality of what was fetched, NaN of the rest.

    What was not fetched has no links, so it lies on no way: left out, it changes nothing but the cost.
    """
    found = np.full(graph.nodes, np.nan)
    found[fetched] = harmonic(graph.among(fetched))
    return found


def _hosts(web: WebGraph, ranks: Floats) -> pa.Table:
    """Host by host: its domain, size, the rank its pages hold, and its own place in the graph of hosts."""
    count = len(web.hosts)
    known = web.host >= 0
    graph = web.graph.grouped(web.host, count)
    documents = np.bincount(web.host[np.unique(web.pages)], minlength=count)
    return pa.table(
        {
            "host": web.hosts,
            "domain": [domain(host) for host in web.hosts],
            "pages": np.bincount(web.host[known], minlength=count),
            "documents": documents,
            "pages_pagerank": np.bincount(web.host[known], ranks[known], minlength=count),
            "pagerank": pagerank(graph),
            "harmonic": _harmonic(graph, _any_fetched(web.host, web.fetched, count)),
        }
    )


def _domains(web: WebGraph, domains: list[str]) -> dict[str, Floats]:
    """The numbers of each host's domain: (hosts,) each."""
    numbers = {name: number for number, name in enumerate(dict.fromkeys(domains))}
    of_host = np.array([numbers[name] for name in domains], dtype=np.int32)
    of_page = np.where(web.host < 0, -1, of_host[web.host])
    graph = web.graph.grouped(of_page, len(numbers))
    fetched = _any_fetched(of_page, web.fetched, len(numbers))
    return {"pagerank": pagerank(graph)[of_host], "harmonic": _harmonic(graph, fetched)[of_host]}


def _any_fetched(group: NDArray[np.int32], fetched: NDArray[np.bool_], groups: int) -> NDArray[np.bool_]:
    found = np.zeros(groups, dtype=np.bool_)
    found[group[fetched & (group >= 0)]] = True
    return found
