"""The graph of a corpus: its pages and the URLs they link to, out of the shards' link tables.

A page is a canonical URL, known by its fingerprint; what counts are the links of its latest fetch, kept or
dropped, without nofollow and without those of lists (robots.txt, sitemaps, feeds), which nobody chose. A
redirect is a page with one link. No texts are read.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from crawler.urls import fingerprint, locate
from ranker.links.centrality import Graph
from shards.errors import ShardError
from shards.reader import ShardReader, read_links
from shards.schema import parsed_id

# How the tag paths of links begin that stand in no page.
LISTS = ("robots/", "urlset/", "sitemapindex/", "rss/", "RDF/", "feed/")
# Is told what is being done, how much of it is, and of how much.
Report = Callable[[str, int, int], None]


@dataclass(frozen=True)
class WebGraph:
    """Pages, fetched or only linked to, the links between them, and their hosts."""

    graph: Graph
    ids: pa.ChunkedArray
    """(documents,): of all documents, in the corpus's order."""
    urls: pa.ChunkedArray
    """(documents,)"""
    pages: NDArray[np.int64]
    """(documents,): the node of each one's URL; several have one, if it was fetched again."""
    karma: NDArray[np.float64]
    """(nodes,): of the latest document of a page, 0 if there is none."""
    fetched: NDArray[np.bool_]
    """(nodes,): whether a page is a document or has links."""
    hosts: list[str]
    host: NDArray[np.int32]
    """(nodes,): number of each page's host; -1 if its URL is unknown: dropped, and linked to by nobody."""


class Links(NamedTuple):
    """Links of a shard: pages and targets once each, and two numbers a link."""

    pages: NDArray[np.uint64]
    fetches: NDArray[np.int64]
    """Number of the fetch of each of `pages`."""
    targets: NDArray[np.uint64]
    hosts: NDArray[np.int32]
    """Of `targets`."""
    page: NDArray[np.int32]
    target: NDArray[np.int32]

    def of(self, pages: NDArray[np.uint64], fetches: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(links,): whether each is of one of these fetches of `pages`, which are in ascending order."""
        at = np.searchsorted(pages, self.pages)
        among = at < len(pages)
        among[among] = (pages[at[among]] == self.pages[among]) & (fetches[at[among]] == self.fetches[among])
        return among[self.page]


class Names(dict[str, int]):
    """Numbers names in the order in which they are met."""

    def __missing__(self, name: str) -> int:
        self[name] = len(self)
        return self[name]


def read_graph(reader: ShardReader, report: Report) -> WebGraph:
    """The graph of a reader's corpus; raises ShardCorrupt for a damaged file, ShardError if it is empty."""
    names = Names()
    groups = []
    for done, group in enumerate(reader.row_groups):
        report("documents", done, len(reader.row_groups))
        groups.append(_documents(reader.documents(group, ("id", "url", "host", "karma")), names))
    parts = []
    for done, shard in enumerate(reader.manifest.shards):
        report("links", done, len(reader.manifest.shards))
        parts.append(counted(read_links(reader.location, shard), names))
    if not any(len(of_group) for of_group, *_ in groups):
        raise ShardError(f"{reader.location}: no documents, so no graph of them")
    ids, urls, *numbers = zip(*groups, strict=True)
    keys, fetches, hosts, karma = map(np.concatenate, numbers)
    parts = _of_latest_fetch(parts, keys, fetches)
    nodes = np.unique(
        np.concatenate([keys, *(array for part in parts for array in (part.pages, part.targets))])
    )
    pages = np.searchsorted(nodes, keys)
    host = np.full(nodes.size, -1, dtype=np.int32)
    fetched = np.zeros(nodes.size, dtype=np.bool_)
    for part in parts:
        host[np.searchsorted(nodes, part.targets)] = part.hosts
        fetched[np.searchsorted(nodes, part.pages)] = True
    host[pages] = hosts
    fetched[pages] = True
    found = np.zeros(nodes.size)
    # The latest document's karma stays: later fetches are written over earlier ones.
    for number in np.argsort(fetches, kind="stable"):
        found[pages[number]] = karma[number]
    # Only hosts that have a page, numbered anew in their order.
    used = np.unique(host[host >= 0])
    host = np.where(host < 0, -1, np.searchsorted(used, host)).astype(np.int32)
    every = list(names)
    known = [every[number] for number in used]
    graph = _graph(nodes, parts)
    return WebGraph(graph, pa.chunked_array(ids), pa.chunked_array(urls), pages, found, fetched, known, host)


def _documents(rows: list[dict[str, Any]], names: Names) -> tuple[Any, ...]:
    """(rows,) each: ids, URLs, fingerprints of the URLs, numbers of the fetches, hosts' numbers, karma."""
    ids = [row["id"] for row in rows]
    return (
        pa.array(ids, pa.string()),
        pa.array([row["url"] for row in rows], pa.string()),
        *split_ids(ids),
        np.array([names[row["host"]] for row in rows], dtype=np.int32),
        np.array([row["karma"] for row in rows], dtype=np.float64),
    )


def counted(columns: dict[str, Any], names: Names) -> Links:
    """The links of one shard that count, and the pages that have any, counted or not."""
    source, target = (columns[name].indices.to_numpy() for name in ("src_id", "dst_url"))
    paths = columns["tag_path"]
    listed = np.array([path.startswith(LISTS) for path in paths.dictionary.to_pylist()], dtype=np.bool_)
    chosen = ~listed[paths.indices.to_numpy()]
    kept = chosen & ~columns["nofollow"].to_numpy(zero_copy_only=False)
    pages = np.unique(source[chosen])
    targets, target = np.unique(target[kept], return_inverse=True)
    keys, fetches = split_ids(columns["src_id"].dictionary.take(pages).to_pylist())
    urls = columns["dst_url"].dictionary.take(targets).to_pylist()
    return Links(
        keys,
        fetches,
        np.array([fingerprint(url) for url in urls], dtype=np.uint64),
        np.array([names[locate(url).host] for url in urls], dtype=np.int32),
        np.searchsorted(pages, source[kept]).astype(np.int32),
        target.astype(np.int32),
    )


def split_ids(ids: list[str]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Fingerprints of the URLs and numbers of the fetches in these ids of documents."""
    parts = [parsed_id(document) for document in ids]
    keys = np.array([key for key, _ in parts], dtype=np.uint64)
    return keys, np.array([number for _, number in parts], dtype=np.int64)


def latest(keys: NDArray[np.uint64], fetches: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where the last fetch of each page stands among these, pages in the order of their keys."""
    order = np.lexsort((fetches, keys))
    ends = np.ones(len(keys), dtype=np.bool_)
    ends[:-1] = keys[order][1:] != keys[order][:-1]
    return order[ends]


def _of_latest_fetch(parts: list[Links], keys: NDArray[np.uint64], fetches: NDArray[np.int64]) -> list[Links]:
    """Without links of pages that were fetched again, and without targets that only those name."""
    every = np.concatenate([keys, *(part.pages for part in parts)])
    number = np.concatenate([fetches, *(part.fetches for part in parts)])
    last = latest(every, number)
    kept = []
    for part in parts:
        links = part.of(every[last], number[last])
        used, target = np.unique(part.target[links], return_inverse=True)
        kept.append(
            part._replace(
                targets=part.targets[used],
                hosts=part.hosts[used],
                page=part.page[links],
                target=target.astype(np.int32),
            )
        )
    return kept


def _graph(nodes: NDArray[np.uint64], parts: list[Links]) -> Graph:
    sources = [np.searchsorted(nodes, part.pages).astype(np.int32)[part.page] for part in parts]
    targets = [np.searchsorted(nodes, part.targets).astype(np.int32)[part.target] for part in parts]
    nothing = np.zeros(0, dtype=np.int32)
    return Graph.of(nodes.size, np.concatenate([nothing, *sources]), np.concatenate([nothing, *targets]))
