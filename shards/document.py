"""`Document` and `LinkRow`: the rows of the two tables of a corpus, and their frozen Parquet schemas."""

from dataclasses import dataclass, field

import pyarrow as pa

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One fetch of one page that was worth keeping."""

    id: str
    """Commit key: URL fingerprint in hex, a dash, the number of this fetch of it."""
    url: str
    host: str
    fetched_at: int
    """UTC, milliseconds."""
    status: int
    content_sha256: str
    """Of the text: what makes two pages the same document."""
    language: str
    language_score: float
    title: str
    text: str
    """Main content as Markdown."""
    extractor: str
    """Name and version."""
    opt_out: list[str] = field(default_factory=list)
    """Signals against use for training seen on the page, for example `meta:noai`."""
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


DOCUMENTS = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("url", pa.string(), nullable=False),
        pa.field("host", pa.string(), nullable=False),
        pa.field("fetched_at", pa.timestamp("ms", tz="UTC"), nullable=False),
        pa.field("status", pa.int16(), nullable=False),
        pa.field("content_sha256", pa.string(), nullable=False),
        pa.field("language", pa.string(), nullable=False),
        pa.field("language_score", pa.float32(), nullable=False),
        pa.field("title", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("extractor", pa.string(), nullable=False),
        pa.field("opt_out", pa.list_(pa.string()), nullable=False),
        pa.field("quality", pa.float32(), nullable=False),
        pa.field("promise", pa.float32(), nullable=False),
        pa.field("propensity", pa.float32(), nullable=False),
        pa.field("policy", pa.string(), nullable=False),
        pa.field("karma", pa.float32(), nullable=False),
        pa.field("equity", pa.float32(), nullable=False),
        pa.field("inlinks", pa.int32(), nullable=False),
        pa.field("depth", pa.int32(), nullable=False),
        pa.field("crawl_id", pa.string(), nullable=False),
    ],
    metadata={"schema_version": str(SCHEMA_VERSION)},
)

LINKS = pa.schema(
    [
        pa.field("src_id", pa.string(), nullable=False),
        pa.field("dst_url", pa.string(), nullable=False),
        pa.field("anchor", pa.string(), nullable=False),
        pa.field("tag_path", pa.string(), nullable=False),
        pa.field("position", pa.int32(), nullable=False),
        pa.field("nofollow", pa.bool_(), nullable=False),
    ],
    metadata={"schema_version": str(SCHEMA_VERSION)},
)
