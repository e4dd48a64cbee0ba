"""Batch rank reads the right links, and writes tables that are whole, current and joined by id."""

import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crawler.read import sitemaps
from crawler.urls import fingerprint, locate
from ranker.links.centrality import Graph, harmonic, pagerank
from ranker.links.rank import rank
from ranker.links.webgraph import LISTS, read_graph
from shards import columns
from shards.errors import ShardCorrupt, ShardError, ShardsLocked
from shards.holdout import hold_out
from shards.manifest import Manifest
from shards.reader import ShardReader
from shards.schema import Document, LinkRow
from shards.writer import ShardWriter

A, B, C, D = "https://a.example/1", "https://a.example/2", "https://b.example/", "https://x.c.org/"
PAGE = Document(
    id="", url="", host="", fetched_at=0, status=200, content_sha256="", language="en", language_score=1.0,
    title="", text="text", extractor="test 1", quality=0.5, promise=0.5, propensity=1.0, policy="bfs",
    karma=0.0, equity=0.0, inlinks=0, depth=0, crawl_id="c",
)  # fmt: skip


def silent(*_):
    pass


def name(url, fetch=1):
    return f"{fingerprint(url):016x}-{fetch}"


def page(url, fetch=1, **fields):
    return replace(PAGE, id=name(url, fetch), url=url, host=locate(url).host, **fields)


def link(source, target, fetch=1, *, tag_path="html/body", nofollow=False):
    return LinkRow(
        src_id=name(source, fetch),
        dst_url=target,
        anchor="",
        tag_path=tag_path,
        position=0,
        nofollow=nofollow,
    )


def write(directory, *commits):
    """Each commit is a list of (document or None, links of its page)."""
    with ShardWriter(directory, crawl_id="c", row_group_rows=2) as writer:
        for rows in commits:
            for document, links in rows:
                writer.append(document, links)
            writer.commit()
    return directory


def urls_of(web, known=(A, B, C, D)):
    """The URL of each node, given that all of `known` and no others are in the graph."""
    urls = sorted(known, key=fingerprint)
    assert web.graph.nodes == len(urls)
    return urls


def found(web, known=(A, B, C, D)):
    urls = urls_of(web, known)
    pairs = zip(web.graph.sources, web.graph.targets, strict=True)
    return {(urls[source], urls[target]) for source, target in pairs}


def graph_of(directory):
    return read_graph(ShardReader(directory, split="all"), silent)


def test_links_count_once_and_those_of_dropped_pages_too(tmp_path):
    rows = [
        (page(A), [link(A, B), link(A, B), link(A, A), link(A, C)]),
        (None, [link(B, C)]),
        (page(C), [link(C, D)]),
    ]
    web = graph_of(write(tmp_path, rows[:1], rows[1:]))
    assert found(web) == {(A, B), (A, C), (B, C), (C, D)}
    assert dict(zip(urls_of(web), web.fetched.tolist(), strict=True)) == {A: True, B: True, C: True, D: False}
    assert [web.hosts[number] for number in web.host] == [locate(url).host for url in urls_of(web)]


def test_nofollow_links_and_lists_do_not_count(tmp_path):
    robots, sitemap = "https://a.example/robots.txt", "https://a.example/sitemap.xml"
    rows = [
        (page(A), [link(A, B, nofollow=True), link(A, C)]),
        (None, [link(robots, sitemap, tag_path="robots/sitemap")]),
        (None, [link(sitemap, D, tag_path="urlset/url/loc")]),
    ]
    assert found(graph_of(write(tmp_path, rows)), (A, C)) == {(A, C)}


def test_every_kind_of_list_is_known():
    assert {root.rstrip("/") for root in LISTS} == {"robots", *sitemaps._ROOTS}


def test_only_the_latest_fetch_of_a_page_counts(tmp_path):
    old = [(page(A, 1, karma=5.0), [link(A, B, 1), link(A, C, 1)])]
    new = [(page(A, 2, karma=7.0), [link(A, C, 2)])]
    web = graph_of(write(tmp_path, new, old))
    assert found(web, (A, C)) == {(A, C)}
    assert web.karma[web.pages].tolist() == [7.0, 7.0]
    assert web.hosts == ["a.example", "b.example"]


def test_a_fetch_whose_links_are_all_nofollow_has_none(tmp_path):
    web = graph_of(
        write(tmp_path, [(page(A, 1), [link(A, C, 1)]), (page(A, 2), [link(A, C, 2, nofollow=True)])])
    )
    assert web.graph.nodes == 1
    assert found(web, (A,)) == set()


def test_a_corpus_without_links_has_even_ranks(tmp_path):
    write(tmp_path, [(page(A), []), (page(C), [])])
    table = rank(tmp_path, silent).rank
    assert table["pagerank"].to_pylist() == pytest.approx([0.5, 0.5])
    assert table["harmonic"].to_pylist() == [0, 0]


FETCH = st.tuples(
    st.integers(0, 3),  # of which page
    st.booleans(),  # kept or dropped
    st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=5),  # its links: to which page, nofollow
)


@settings(max_examples=40)
@given(st.lists(FETCH, min_size=1, max_size=8).filter(lambda fetches: any(kept for _, kept, _ in fetches)))
def test_the_graph_is_that_of_the_latest_fetches(fetches):
    urls = (A, B, C, D)
    rows, latest, count = [], {}, Counter()
    for number, kept, targets in fetches:
        url = urls[number]
        count[url] += 1
        links = [link(url, urls[to], count[url], nofollow=nofollow) for to, nofollow in targets]
        rows.append((page(url, count[url]) if kept else None, links))
        if kept or links:  # a fetch that left no trace is none
            latest[url] = {urls[to] for to, nofollow in targets if not nofollow}
    known = {*latest, *(target for targets in latest.values() for target in targets)}
    with tempfile.TemporaryDirectory() as directory:
        web = graph_of(write(Path(directory), rows[::2], rows[1::2]))
    expected = {(url, target) for url, targets in latest.items() for target in targets if target != url}
    assert found(web, tuple(known)) == expected
    assert {url for url, was in zip(urls_of(web, known), web.fetched, strict=True) if was} == set(latest)


def four_pages(directory):
    return write(
        directory,
        [(page(A, karma=9.0), [link(A, B), link(A, C)]), (page(B), [link(B, C)])],
        [(page(C), [link(C, A), link(C, D)])],
    )


def test_the_table_holds_what_the_graph_says(tmp_path):
    ranking = rank(four_pages(tmp_path), silent)
    table = pq.read_table(columns.path_of(tmp_path, "rank", Manifest.load(tmp_path)))
    assert table.equals(ranking.rank)
    assert table["id"].to_pylist() == [name(url) for url in (A, B, C)]
    a, b, c, d = range(4)
    pages = Graph.of(4, np.array([a, a, b, c, c]), np.array([b, c, c, a, d]))
    assert table["pagerank"].to_pylist() == pytest.approx(pagerank(pages)[:3])
    karma = pagerank(pages, np.array([1.0, 0, 0, 0]))
    assert table["karma_pagerank"].to_pylist() == pytest.approx(karma[:3])
    assert table["harmonic"].to_pylist() == pytest.approx(harmonic(pages)[:3])
    hosts = Graph.of(3, np.array([0, 1, 1]), np.array([1, 0, 2]))
    for kind in ("host", "domain"):
        assert table[f"{kind}_pagerank"].to_pylist() == pytest.approx(pagerank(hosts)[[0, 0, 1]])
        assert table[f"{kind}_harmonic"].to_pylist() == pytest.approx(harmonic(hosts)[[0, 0, 1]])


def test_the_rank_of_all_hosts_pages_is_one_whole(tmp_path):
    hosts = rank(four_pages(tmp_path), silent).hosts
    rows = {row["host"]: row for row in hosts.to_pylist()}
    assert {host: (row["pages"], row["documents"]) for host, row in rows.items()} == {
        "a.example": (2, 2),
        "b.example": (1, 1),
        "x.c.org": (1, 0),
    }
    assert rows["x.c.org"]["domain"] == "c.org"
    assert np.isnan(rows["x.c.org"]["harmonic"])
    assert sum(row["pages_pagerank"] for row in rows.values()) == pytest.approx(1)
    assert sum(row["pagerank"] for row in rows.values()) == pytest.approx(1)


def test_a_second_time_nothing_is_done(tmp_path):
    rank(four_pages(tmp_path), silent)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "columns").iterdir()}
    assert rank(tmp_path, silent) is None
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "columns").iterdir()} == before


def test_a_corpus_that_changed_is_ranked_again_beside_the_old_table(tmp_path):
    rank(four_pages(tmp_path), silent)
    first = columns.path_of(tmp_path, "rank", Manifest.load(tmp_path))
    hold_out(tmp_path, 0.3)
    assert rank(tmp_path, silent) is not None
    second = columns.path_of(tmp_path, "rank", Manifest.load(tmp_path))
    assert second != first
    assert pq.read_table(second).equals(pq.read_table(first))


def test_links_alone_are_a_change_too(tmp_path):
    first = rank(four_pages(tmp_path), silent)
    write(tmp_path, [(None, [link(D, A)])])
    second = rank(tmp_path, silent)
    assert second.rank["pagerank"][0].as_py() > first.rank["pagerank"][0].as_py()
    assert columns.path_of(tmp_path, "rank", Manifest.load(tmp_path)).exists()
    assert len(list((tmp_path / "columns").glob("rank-*"))) == 1


def test_a_table_that_is_no_table_is_written_again(tmp_path):
    four_pages(tmp_path)
    (tmp_path / "columns").mkdir()
    columns.path_of(tmp_path, "rank", Manifest.load(tmp_path)).write_bytes(b"PAR1 not")
    assert rank(tmp_path, silent) is not None


def test_without_karma_there_is_no_rank_from_karma(tmp_path):
    assert "karma_pagerank" not in rank(write(tmp_path, [(page(A), [link(A, C)])]), silent).rank.column_names


@pytest.mark.parametrize("damage", ["gone", "cut", "flipped"])
def test_damaged_links_are_named(tmp_path, damage):
    four_pages(tmp_path)
    path = tmp_path / Manifest.load(tmp_path).shards[0].links.name
    data = bytearray(path.read_bytes())
    if damage == "gone":
        path.unlink()
    else:
        data[10] ^= 0xFF
        path.write_bytes(data[:-1] if damage == "cut" else data)
    with pytest.raises(ShardCorrupt, match=path.name):
        rank(tmp_path, silent)
    assert not list((tmp_path / "columns").glob("*.parquet*"))


def test_an_empty_corpus_is_refused(tmp_path):
    with pytest.raises(ShardError, match="no documents, so no graph"):
        rank(write(tmp_path), silent)


def test_two_do_not_rank_one_corpus_at_once(tmp_path):
    four_pages(tmp_path)
    with columns.writing(tmp_path), pytest.raises(ShardsLocked, match="another process"):
        rank(tmp_path, silent)
    assert rank(tmp_path, silent) is not None
