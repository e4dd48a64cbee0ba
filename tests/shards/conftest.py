"""Documents and corpora for the tests of the shards."""

from collections.abc import Callable
from pathlib import Path

import pytest

from shards.manifest import Manifest
from shards.schema import Document, FetchRow, LinkRow
from shards.writer import ShardWriter

MakeDocument = Callable[..., Document]


def make_document(number: int, *, host: str = "h.example", text: str = "") -> Document:
    return Document(
        id=f"{number:016x}-1",
        url=f"https://{host}/{number}",
        host=host,
        fetched_at=1_700_000_000_000 + number,
        status=200,
        content_sha256=f"{number:064x}",
        language="en",
        language_score=0.5,
        title=f"page {number}",
        text=text or f"This is the text of page {number}. " * 3,
        extractor="test 1",
        opt_out=("meta:noai",) if number % 2 else (),
        quality=0.5,
        promise=0.25,
        propensity=1.0,
        policy="tinylm",
        karma=0.0,
        equity=0.0,
        inlinks=0,
        depth=0,
        crawl_id="c",
    )


def make_link(number: int) -> LinkRow:
    return LinkRow(
        src_id=f"{number:016x}-1",
        dst_url="https://t.example/",
        anchor="there",
        tag_path="html/body",
        position=0,
        nofollow=False,
    )


def make_fetch(number: int, *, host: str = "h.example", reason: str = "") -> FetchRow:
    return FetchRow(
        id=f"{number:016x}-1",
        url=f"https://{host}/{number}",
        host=host,
        fetched_at=1_700_000_000_000 + number,
        status=200,
        reason=reason,
        worth=0.0 if reason else 0.5,
        promise=0.25,
        propensity=1.0,
        policy="tinylm",
        expected=0.375,
        ingredients={"host": 0.5, "depth": -0.125},
    )


def write_corpus(directory: Path, documents: list[Document], *, commits: int = 1) -> Manifest:
    """`documents` in `commits` shards, with row groups of 4."""
    with ShardWriter(directory, crawl_id="c", row_group_rows=4) as writer:
        for number in range(commits):
            for document in documents[number::commits]:
                writer.append(document, [make_link(1)], make_fetch(int(document.id[:16], 16)))
            writer.commit({"0": f"{number}-0"}, state=f"state {number}".encode())
        return writer.manifest


@pytest.fixture
def document() -> MakeDocument:
    return make_document


@pytest.fixture
def link() -> Callable[[int], LinkRow]:
    return make_link


@pytest.fixture
def fetch() -> Callable[..., FetchRow]:
    return make_fetch


@pytest.fixture
def corpus() -> Callable[..., Manifest]:
    return write_corpus
