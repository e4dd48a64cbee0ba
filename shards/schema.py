"""The rows of a corpus: `Document`, `LinkRow`, `FetchRow`, and the Parquet schemas made of their annotations.

A new column is one line in one class, and `SCHEMA_VERSION` counts on: in `Document`, in `Content` if workers
find it (shards/text/content.py), in `COLUMNS` if it is measured of the text (shards/text/signals.py).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from types import NoneType
from typing import Annotated, Any, get_args, get_type_hints

import pyarrow as pa

from shards.text.content import Content, since
from shards.text.signals import COLUMNS

# 1 had neither `quality_model`, `novelty` nor the rule signals: read, they are null. 2 had no fetches,
# 3 no sources.
SCHEMA_VERSION = 4

# Milliseconds since 1970, UTC.
Moment = Annotated[int, pa.timestamp("ms", tz="UTC")]
# Of HTTP.
Status = Annotated[int, pa.int16()]


@dataclass(frozen=True, slots=True, kw_only=True)
class Document(Content):
    """One fetch of one page that was worth keeping."""

    id: str
    """Commit key, made by `document_id`."""
    url: str
    host: str
    fetched_at: Moment
    status: Status
    quality: float
    """Learned worth of the text, 0 to 1."""
    promise: float
    """What the policy expected of the fetch, 0 to 1."""
    propensity: float
    """Probability with which the frontier chose this URL, given what was ready."""
    policy: str
    karma: float
    equity: float
    """Cash the page had collected when it was fetched (OPIC)."""
    inlinks: int
    """Links to it seen before it was fetched."""
    depth: int
    """Links from the nearest seed."""
    crawl_id: str
    quality_model: str | None = since(2)
    """What scored the text: `online`, or the name of another model."""
    novelty: float | None = since(2)
    """Estimated share of the text's word 5-grams that no document before it had."""
    source: str | None = since(4)
    """That of the seed which first led to it, such as `search:brave:otters`."""
    source_hops: int | None = since(4)
    """Links from that seed; 0 for the seed itself."""
    signals: Mapping[str, float | None] = field(default_factory=dict)
    """The rule signals (shards/text/signals.py), each a column, by the names of RedPajama-V2."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkRow:
    """One link of one fetched page, kept or dropped: the crawl's graph."""

    src_id: str
    dst_url: str
    anchor: str
    tag_path: str
    position: int
    """Ordinal among the links of its page."""
    nofollow: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchRow:
    """One fetch that was judged, kept or dropped: what was expected of it, and what it brought."""

    id: str
    """As that of a document."""
    url: str
    host: str
    fetched_at: Moment
    status: Status
    reason: str = ""
    """Why there is no document; empty if there is."""
    worth: float
    """What the fetch brought, 0 to 1."""
    promise: float
    """What was promised when it was leased, 0 to 1."""
    propensity: float
    """Probability with which the frontier chose this URL, given what was ready."""
    policy: str
    expected: float
    """What the policy promised of it just before it learned from it."""
    ingredients: Annotated[Mapping[str, float], pa.list_(pa.float32())]
    """What `expected` was made of: by name, contributions that add up to it."""
    source: str | None = since(4)
    """As those of a document."""
    source_hops: int | None = since(4)


def document_id(fingerprint: int, fetch_no: int) -> str:
    """Id of the `fetch_no`-th fetch of the URL with this fingerprint: that in hex, a dash, the number."""
    return f"{fingerprint:016x}-{fetch_no}"


def parsed_id(of: str) -> tuple[int, int]:
    """Fingerprint of the URL, and number of the fetch: what `document_id` was given."""
    fingerprint, _, fetch_no = of.partition("-")
    return int(fingerprint, 16), int(fetch_no)


# Of 32 bits: seven digits are more than is known of a score, and half the bytes of a shard's numbers.
_ARROW: dict[Any, pa.DataType] = {
    str: pa.string(),
    str | None: pa.string(),
    float: pa.float32(),
    float | None: pa.float32(),
    int: pa.int32(),
    int | None: pa.int32(),
    bool: pa.bool_(),
    tuple[str, ...]: pa.list_(pa.string()),
}
# They stand before what `Document` has of `Content`: the order of the columns in files of every version.
_FIRST = ("id", "url", "host", "fetched_at", "status")


def _columns(rows: type) -> Iterator[pa.Field]:
    hints = get_type_hints(rows, include_extras=True)
    for name in sorted(hints, key=lambda name: name not in _FIRST):
        if name == "signals":
            yield from (pa.field(signal, pa.float32()) for signal in COLUMNS)
        else:
            hint = hints[name]
            kind = _ARROW[hint] if hint in _ARROW else hint.__metadata__[0]
            yield pa.field(name, kind, nullable=NoneType in get_args(hint))


_METADATA = {"schema_version": str(SCHEMA_VERSION)}
DOCUMENTS = pa.schema(_columns(Document), _METADATA)
LINKS = pa.schema(_columns(LinkRow), _METADATA)
FETCHES = pa.schema(_columns(FetchRow), _METADATA)
# Key of a file's metadata: the names of the numbers in that column, in their order, as a JSON list.
INGREDIENTS = "ingredients"
# The schema version that brought a column, of those that were not there from the first.
# All rule signals came with 2; one that is added now needs its own version here.
ADDED = {
    **{
        column.name: column.metadata["since"]
        for rows in (Document, FetchRow)
        for column in fields(rows)
        if column.metadata
    },
    **dict.fromkeys(COLUMNS, 2),
}


def row_of(document: Document) -> dict[str, Any]:
    """`document` by column."""
    return {
        name: document.signals.get(name) if name in COLUMNS else getattr(document, name)
        for name in DOCUMENTS.names
    }
