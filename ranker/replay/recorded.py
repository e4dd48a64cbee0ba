"""A recorded web, to be crawled again in a simulator: pages, their links, and what each was worth."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from ranker.links.centrality import Graph, pagerank
from ranker.replay.worth import evaluate
from tinylm.errors import TinylmError

_NOWHERE = "http://graph/"
"""Where pages are whose URLs name no host."""
PAGERANK = "pagerank"
"""The worth that needs no table of pages."""


class RecordingError(TinylmError):
    """A recorded web that cannot be read."""


@dataclass(frozen=True)
class RecordedWeb:
    """Pages numbered from 0. A page that is not in the recording does not exist: links to it are left out."""

    name: str
    urls: Sequence[str]
    hosts: Sequence[str]
    worth: NDArray[np.float64]
    """(pages,), not negative."""
    targets: NDArray[np.int32]
    """(links,): where each link leads, those of page 0 first, each at most once a page."""
    starts: NDArray[np.int64]
    """(pages + 1,): the links of page i are those from starts[i] up to starts[i + 1]."""

    def links(self, page: int) -> NDArray[np.int32]:
        """Where the links of a page lead."""
        return self.targets[self.starts[page] : self.starts[page + 1]]

    def reachable(self, start: NDArray[np.int64]) -> NDArray[np.bool_]:
        """(pages,) Whether links lead from one of the pages `start` to each page."""
        reached = np.zeros(len(self.urls), np.bool_)
        edge = np.unique(start)
        while len(edge):
            reached[edge] = True
            lengths = self.starts[edge + 1] - self.starts[edge]
            offsets = np.repeat(self.starts[edge] - np.cumsum(lengths) + lengths, lengths)
            linked = np.unique(self.targets[offsets + np.arange(lengths.sum())])
            edge = linked[~reached[linked]]
        return reached


def read_edges(edges: Path, pages: Path | None, worth: str) -> RecordedWeb:
    """A web out of a Parquet table of links (`src`, `dst`) and a table of pages (`id`, `url`, and more).

    The pages are tab-separated or Parquet, plain or compressed with zstd. `worth` is an expression over their
    columns (`ranker.replay.worth`), or "pagerank". Without pages, every end of a link is a page of one host.
    Raises RecordingError for files that are not of this form, ConfigError for a worth that is none.
    """
    links = _read(lambda: pq.read_table(edges), edges)
    sources, targets = (_numbers(links, name, edges) for name in ("src", "dst"))
    if pages is None:
        ids = np.unique(np.concatenate([sources, targets]))
        urls: list[str] = [f"{_NOWHERE}{number}" for number in ids]
        columns: dict[str, Any] = {}
    else:
        table = _read(lambda: _table(pages), pages)
        ids, urls = _numbers(table, "id", pages), _column(table, "url", pages).to_pylist()
        columns = {name: _array(table[name]) for name in table.column_names}
    return build(edges.stem, ids, urls, sources, targets, columns, worth)


def build(
    name: str,
    ids: NDArray[np.int64],
    urls: list[str],
    sources: NDArray[np.int64],
    targets: NDArray[np.int64],
    columns: Mapping[str, NDArray[Any]],
    worth: str,
) -> RecordedWeb:
    """A web of pages, (pages,) each, and of links from `sources` to `targets`, (links,) of any ids.

    `worth` as for `read_edges`, over `columns`. Raises RecordingError if an id is there twice, or no page is.
    """
    if not len(ids):
        raise RecordingError(f"{name}: no pages")
    order = np.argsort(ids, kind="stable")
    if np.any(np.diff(ids[order]) == 0):
        raise RecordingError(f"{name}: the table of pages has an id twice")
    source, target = (_positions(ids, order, ends) for ends in (sources, targets))
    known = (source >= 0) & (target >= 0)
    # The other way round: grouped by where links come from.
    graph = Graph.of(len(ids), target[known], source[known])
    if worth == PAGERANK:
        values = pagerank(Graph.of(len(ids), source[known], target[known]))
    else:
        values = evaluate(worth, columns, len(ids))
    if not all(urls):
        raise RecordingError(f"{name}: a page without a URL")
    urls = [url if "://" in url else f"{_NOWHERE}{url}" for url in map(str, urls)]
    hosts = [url.partition("://")[2].partition("/")[0] for url in urls]
    return RecordedWeb(name, urls, hosts, values, graph.sources, graph.starts)


def _positions(
    ids: NDArray[np.int64], order: NDArray[np.int64], wanted: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Where each wanted id stands in `ids`; -1 where it does not."""
    at = np.minimum(np.searchsorted(ids, wanted, sorter=order), len(ids) - 1)
    return np.where(ids[order[at]] == wanted, order[at], -1)


def _table(path: Path) -> pa.Table:
    if path.name.endswith(".parquet"):
        return pq.read_table(path)
    with (
        pa.OSFile(str(path)) as file,
        pa.CompressedInputStream(file, "zstd") if path.suffix == ".zst" else file as raw,
    ):
        return pa.csv.read_csv(raw, parse_options=pa.csv.ParseOptions(delimiter="\t", quote_char=False))


def _read(read: Callable[[], pa.Table], path: Path) -> pa.Table:
    try:
        return read()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise RecordingError(f"{path}: cannot be read as a table ({error})") from error


def _column(table: pa.Table, name: str, path: Path) -> pa.ChunkedArray:
    if name not in table.column_names:
        raise RecordingError(f"{path}: no column {name!r}; there is {', '.join(table.column_names)}")
    return table[name]


def _numbers(table: pa.Table, name: str, path: Path) -> NDArray[np.int64]:
    try:
        column = _column(table, name, path).cast(pa.int64())
    except pa.ArrowException as error:
        raise RecordingError(f"{path}: column {name!r} is not a number everywhere ({error})") from error
    if column.null_count:
        raise RecordingError(f"{path}: column {name!r} is not a number everywhere (some are missing)")
    numbers: NDArray[np.int64] = column.to_numpy()
    return numbers


def _array(column: pa.ChunkedArray) -> NDArray[Any]:
    """Words become str, what is missing becomes '' or nan."""
    if pa.types.is_string(column.type) or pa.types.is_null(column.type):
        return np.array(["" if word is None else word for word in column.to_pylist()], object)
    values: NDArray[Any] = column.to_numpy()
    return values
