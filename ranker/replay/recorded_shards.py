"""Our own crawl as a recorded web: the pages of its log of fetches, and the links between them."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from crawler.page import LISTS
from ranker.links.webgraph import Links, Names, counted, latest, split_ids
from ranker.replay.recorded import RecordedWeb, RecordingError, build
from shards.reader import ShardReader, read_fetches, read_links
from shards.schema import DOCUMENTS, FETCHES

_NOT_PAGES = (*LISTS, "not_modified")
"""Reasons of fetches that are lists, or that only said that an earlier one still holds."""
_LOGGED = ("url", "host", "status", "reason", "worth", "promise", "propensity", "policy", "expected")
_WORDS = "rps_doc_word_count"


def read_shards(directory: Path, worth: str = "worth") -> RecordedWeb:
    """The web that the crawl in `directory` saw: each page as it was fetched last, also if it was dropped.

    Links are those people follow: without nofollow and without those of lists (robots.txt, sitemaps, feeds),
    which are no pages either. A redirect is a page with one link. `worth` is an expression
    (`ranker.replay.worth`) over the log of fetches and the documents, all but the text, with `length` for its
    words; for a page that was dropped those of documents are 0 and ''. Raises RecordingError if a shard has
    no log of fetches, ShardError if a file is damaged, ConfigError for a worth that is none.
    """
    reader = ShardReader(directory, split="all")
    if without := [shard.name for shard in reader.manifest.shards if shard.fetches is None]:
        raise RecordingError(
            f"{directory / without[0]}: its fetches were not logged when it was written, so what was dropped "
            "is not known; only a crawl by this version can be replayed"
        )
    log = _latest(reader)
    keys, fetches = split_ids(log["id"].to_pylist())
    sources, targets = [np.zeros(0, np.uint64)], [np.zeros(0, np.uint64)]
    for shard in reader.manifest.shards:
        links = counted(read_links(directory, shard), Names())
        followed = _of(links, keys, fetches)[links.page]
        sources.append(links.pages[links.page[followed]])
        targets.append(links.targets[links.target[followed]])
    return build(
        directory.name,
        keys.view(np.int64),
        log["url"].to_pylist(),
        np.concatenate(sources).view(np.int64),
        np.concatenate(targets).view(np.int64),
        _Columns(reader, log),
        worth,
    )


def _latest(reader: ShardReader) -> pa.Table:
    """The last fetch of each page, in the order of their keys."""
    schema = pa.schema([FETCHES.field(name) for name in ("id", *_LOGGED)])
    tables = [table for _, table in read_fetches(reader.location, reader.manifest, schema.names)]
    log = pa.concat_tables([schema.empty_table(), *(table.cast(schema) for table in tables)])
    log = log.filter(pa.array([reason not in _NOT_PAGES for reason in log["reason"].to_pylist()], pa.bool_()))
    return log.take(pa.array(latest(*split_ids(log["id"].to_pylist()))))


def _of(links: Links, keys: NDArray[np.uint64], fetches: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(pages of links,) Whether each is one of the fetches `keys`, ascending, and `fetches`."""
    at = np.searchsorted(keys, links.pages)
    there = at < len(keys)
    there[there] = (keys[at[there]] == links.pages[there]) & (fetches[at[there]] == links.fetches[there])
    return there


class _Columns(Mapping[str, NDArray[Any]]):
    """What is known of each row of the log, (rows,), read when it is asked for."""

    def __init__(self, reader: ShardReader, log: pa.Table) -> None:
        self._reader, self._log = reader, log
        known = {"id", "text", *_LOGGED}
        of_documents = [
            field.name for field in DOCUMENTS if field.name not in known and _is_value(field.type)
        ]
        self._names = (*_LOGGED, *of_documents, "length")

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self._names:
            raise KeyError(name)
        if name in _LOGGED:
            return _array(self._log[name].to_pylist(), FETCHES.field(name).type)
        return self._of_documents(_WORDS if name == "length" else name)

    def _of_documents(self, name: str) -> NDArray[Any]:
        kind = DOCUMENTS.field(name).type
        values = {
            document["id"]: document[name]
            for group in self._reader.row_groups
            for document in self._reader.documents(group, ("id", name))
        }
        nothing = "" if pa.types.is_string(kind) else 0
        return _array([values.get(fetch, nothing) for fetch in self._log["id"].to_pylist()], kind)


def _is_value(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _array(values: list[Any], kind: pa.DataType) -> NDArray[Any]:
    """Words become str, numbers float; a number that was not measured is NaN."""
    return np.array(values, object if pa.types.is_string(kind) else np.float64)
