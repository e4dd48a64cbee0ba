"""`Document`, `LinkRow`, `FetchRow`: the rows of the tables of a corpus, and their frozen Parquet schemas."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from shards.text.signals import COLUMNS

SCHEMA_VERSION = 3
"""1 had neither `quality_model`, `novelty` nor the rule signals; read, they are null. 2 had no fetches."""


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
    quality_model: str | None = None
    """What scored the text: `online`, or the name of another model."""
    novelty: float | None = None
    """Estimated share of the text's word 5-grams that no document before it had."""
    rps_doc_word_count: float | None = None
    """This and what follows: the rule signals (shards/text/signals.py), by the names of RedPajama-V2."""
    rps_doc_mean_word_length: float | None = None
    rps_doc_num_sentences: float | None = None
    rps_doc_symbol_to_word_ratio: float | None = None
    rps_doc_frac_no_alph_words: float | None = None
    rps_doc_frac_unique_words: float | None = None
    rps_doc_unigram_entropy: float | None = None
    rps_doc_stop_word_fraction: float | None = None
    rps_doc_frac_chars_top_2gram: float | None = None
    rps_doc_frac_chars_top_3gram: float | None = None
    rps_doc_frac_chars_top_4gram: float | None = None
    rps_doc_frac_lines_end_with_ellipsis: float | None = None
    rps_lines_start_with_bulletpoint: float | None = None
    rps_lines_ending_with_terminal_punctution_mark: float | None = None
    gopher_duplicate_line_fraction: float | None = None
    gopher_duplicate_line_character_fraction: float | None = None
    fineweb_short_line_fraction: float | None = None


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
    fetched_at: int
    """UTC, milliseconds."""
    status: int
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
    ingredients: Mapping[str, float]
    """What `expected` was made of: by name, contributions that add up to it."""


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
        pa.field("quality_model", pa.string()),
        pa.field("novelty", pa.float32()),
        *(pa.field(name, pa.float32()) for name in COLUMNS),
    ],
    metadata={"schema_version": str(SCHEMA_VERSION)},
)

ADDED: dict[str, int] = {"quality_model": 2, "novelty": 2, **dict.fromkeys(COLUMNS, 2)}
"""The schema version that brought a column, of those that were not there from the first."""


def by_version(columns: Iterable[str], schema: pa.Schema) -> tuple[list[str], list[str]]:
    """Of `columns`, those a file with this schema should have, and those that came after it was written."""
    version = int((schema.metadata or {}).get(b"schema_version", 1))
    there: list[str] = []
    later: list[str] = []
    for name in columns:
        (there if ADDED.get(name, 1) <= version else later).append(name)
    return there, later


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

FETCHES = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("url", pa.string(), nullable=False),
        pa.field("host", pa.string(), nullable=False),
        pa.field("fetched_at", pa.timestamp("ms", tz="UTC"), nullable=False),
        pa.field("status", pa.int16(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("worth", pa.float32(), nullable=False),
        pa.field("promise", pa.float32(), nullable=False),
        pa.field("propensity", pa.float32(), nullable=False),
        pa.field("policy", pa.string(), nullable=False),
        pa.field("expected", pa.float32(), nullable=False),
        pa.field("ingredients", pa.list_(pa.float32()), nullable=False),
    ],
    metadata={"schema_version": str(SCHEMA_VERSION)},
)
INGREDIENTS = "ingredients"
"""Key of a file's metadata: the names of the numbers in that column, in their order, as a JSON list."""
