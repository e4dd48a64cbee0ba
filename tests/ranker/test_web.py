"""Recorded webs: out of an edge list, out of our own shards, out of WARC files."""

import gzip
import logging
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from crawler.archives.warc import Exchange, WarcWriter
from crawler.urls import fingerprint, locate
from ranker.replay.web import RecordingError, read_edges, read_shards, read_warc
from shards.manifest import Manifest
from shards.schema import LinkRow
from shards.takedown import purge
from shards.writer import ShardWriter
from tests.conftest import article
from tests.crawler.conftest import DATA
from tests.shards.conftest import make_document, make_fetch
from tinylm.errors import ConfigError, TinylmError

HOME, ESSAY, SHOP, OLD = "http://a.test/", "http://a.test/essay", "http://b.test/shop", "http://b.test/old"
XHTML = "http://a.test/xhtml"


def links_of(web):
    """URL to the URLs it links to."""
    return {
        url: {web.urls[target] for target in web.links(page).tolist()} for page, url in enumerate(web.urls)
    }


def worth_of(web):
    return dict(zip(web.urls, web.worth.round(6).tolist(), strict=True))


# Edge lists


def test_an_edge_list_is_a_web(tmp_path):
    edges, pages = tmp_path / "small.parquet", tmp_path / "pages.tsv"
    pq.write_table(pa.table({"src": [7, 7, 7, 8, 7], "dst": [8, 8, 7, 7, 99]}), edges)
    pages.write_text("id\turl\tkind\tchars\n8\thttp://b.test/\tprose\t50\n7\thttp://a.test/\tstub\t3\n")
    web = read_edges(edges, pages, "where(kind == 'prose', min(chars, 20), 0)")
    assert (web.name, web.hosts) == ("small", ["b.test", "a.test"])
    assert links_of(web) == {"http://a.test/": {"http://b.test/"}, "http://b.test/": {"http://a.test/"}}
    assert worth_of(web) == {"http://b.test/": 20.0, "http://a.test/": 0.0}


def test_without_pages_all_ends_of_links_are_pages_of_one_host(tmp_path):
    edges = tmp_path / "bare.parquet"
    pq.write_table(pa.table({"src": [30, 30, 10, 20], "dst": [10, 20, 20, 20]}), edges)
    web = read_edges(edges, None, "pagerank")
    first, second, third = (f"http://graph/{number}" for number in (10, 20, 30))
    assert links_of(web) == {first: {second}, second: set(), third: {first, second}}
    assert web.hosts == ["graph"] * 3
    assert web.worth.sum() == pytest.approx(1)
    assert web.worth.argsort().tolist() == [2, 0, 1]
    with pytest.raises(ConfigError, match="no column 'chars'"):
        read_edges(edges, None, "chars")


@pytest.fixture
def small(tmp_path):
    """Writes a recorded web; what is given replaces its table of pages."""

    def write(**columns):
        edges, pages = tmp_path / "edges.parquet", tmp_path / "pages.parquet"
        given = {"id": [1, 2], "url": ["http://a.test/", "http://b.test/"], "chars": [1.0, None]}
        pq.write_table(pa.table({"src": [1], "dst": [2]}), edges)
        pq.write_table(pa.table(given | columns), pages)
        return edges, pages

    return write


@pytest.mark.parametrize(
    ("columns", "worth", "said"),
    [
        ({"id": [7, 7]}, "1", "edges: the table of pages has an id twice"),
        ({"id": ["a", "b"]}, "1", r"pages\.parquet: column 'id' is not a number everywhere"),
        ({"id": [1, None]}, "1", r"pages\.parquet: column 'id' is not a number everywhere"),
        ({"id": [[1], [2]]}, "1", r"pages\.parquet: column 'id' is not a number everywhere"),
        ({"id": [1.5, 2.0]}, "1", r"pages\.parquet: column 'id' is not a number everywhere"),
        ({"url": ["http://a.test/", None]}, "1", "edges: a page without a URL"),
        ({"id": [], "url": [], "chars": []}, "1", "edges: no pages"),
        ({}, "chars", "below 0 or no number for 1 of 2 pages"),
    ],
)
def test_a_table_of_pages_that_is_wrong_says_where(small, columns, worth, said):
    with pytest.raises(TinylmError, match=said):
        read_edges(*small(**columns), worth)


def test_a_missing_column_is_named_and_those_there_are(small, tmp_path):
    edges, pages = small()
    with pytest.raises(RecordingError, match=r"pages\.parquet: no column 'src'; there is id, url, chars"):
        read_edges(pages, pages, "1")
    pq.write_table(pa.table({"id": [1], "address": ["http://a.test/"]}), pages)
    with pytest.raises(RecordingError, match="no column 'url'; there is id, address"):
        read_edges(edges, pages, "1")


def test_files_that_are_no_tables_are_named(small, tmp_path):
    edges, pages = small()
    with pytest.raises(RecordingError, match=r"none\.parquet: cannot be read as a table"):
        read_edges(tmp_path / "none.parquet", pages, "1")
    (tmp_path / "pages.tsv.zst").write_bytes(b"not zstd")
    with pytest.raises(RecordingError, match=r"pages\.tsv\.zst: cannot be read as a table"):
        read_edges(edges, tmp_path / "pages.tsv.zst", "1")
    pages.write_bytes(b"not Parquet")
    with pytest.raises(RecordingError, match=r"pages\.parquet: cannot be read as a table"):
        read_edges(edges, pages, "1")


def test_quotes_in_a_table_are_letters_and_words_that_are_missing_empty(tmp_path, small):
    edges, _ = small()
    pages = tmp_path / "pages.tsv"
    pages.write_text('id\turl\ttitle\n1\thttp://a.test/\t"Half a quote\n2\thttp://b.test/\t\n')
    assert worth_of(read_edges(edges, pages, "title == ''")) == {"http://a.test/": 0, "http://b.test/": 1}


def test_other_peoples_web():
    """Real pages, with a worth each; the form in which others are given too."""
    edges, pages = DATA / "web" / "edges.parquet", DATA / "web" / "pages.tsv.zst"
    if not edges.is_file():
        pytest.skip(f"{edges} is not there; TINYLM_TEST_DATA names the folder of `web`")
    web = read_edges(edges, pages, "where(kind == 'nonenglish', 0, min(prose_chars, 20000))")
    assert len(web.urls) == 41_922
    assert len(set(web.hosts)) == 23
    assert web.worth.max() == 20_000
    assert len(web.targets) == web.starts[-1] > 100_000
    assert web.reachable(np.arange(20_000, 20_020)).mean() > 0.25


# Shards


class Crawl:
    """Writes what a walker would."""

    def __init__(self, directory):
        self.writer = ShardWriter(directory, crawl_id="c")

    def fetch(self, url, *targets, number=1, reason="", worth=0.5, quality=0.25, tag_path="html/body/p"):
        document_id = f"{fingerprint(url):016x}-{number}"
        of_page = {"id": document_id, "url": url, "host": locate(url).host}
        links = [
            LinkRow(
                src_id=document_id,
                dst_url=target.removeprefix("nofollow "),
                anchor="there",
                tag_path=tag_path,
                position=position,
                nofollow=target.startswith("nofollow "),
            )
            for position, target in enumerate(targets)
        ]
        document = replace(make_document(1), quality=quality, signals={"rps_doc_word_count": 80.0}, **of_page)
        fetch = replace(make_fetch(1), reason=reason, worth=0.0 if reason else worth, **of_page)
        self.writer.append(None if reason else document, links, fetch)

    def close(self):
        self.writer.commit()
        self.writer.close()


@pytest.fixture
def crawled(tmp_path):
    """A small crawl of two commits, with all that can happen to a page."""
    directory = tmp_path / "crawl"
    crawl = Crawl(directory)
    crawl.fetch(HOME, ESSAY, SHOP, f"nofollow {OLD}", "http://never.test/fetched", worth=0.125)
    crawl.fetch(ESSAY, HOME, worth=0.75, quality=0.5)
    crawl.fetch("http://a.test/sitemap.xml", OLD, reason="sitemap", tag_path="urlset/url/loc")
    crawl.writer.commit()
    crawl.fetch(OLD, SHOP, reason="redirect", tag_path="")
    crawl.fetch(SHOP, HOME, reason="language")
    crawl.fetch(HOME, ESSAY, OLD, number=2, worth=0.25)
    crawl.fetch(ESSAY, number=2, reason="not_modified")
    crawl.close()
    return directory


def test_a_crawl_is_a_web_as_it_was_fetched_last(crawled):
    web = read_shards(crawled)
    assert links_of(web) == {HOME: {ESSAY, OLD}, ESSAY: {HOME}, SHOP: {HOME}, OLD: {SHOP}}
    assert worth_of(web) == {HOME: 0.25, ESSAY: 0.75, SHOP: 0.0, OLD: 0.0}
    assert dict(zip(web.urls, web.hosts, strict=True))[SHOP] == "b.test"
    assert web.name == "crawl"


def test_worth_is_said_in_columns_of_documents_and_log(crawled):
    assert worth_of(read_shards(crawled, "quality * min(length, 60)")) == {
        HOME: 15.0,
        ESSAY: 30.0,
        SHOP: 0.0,
        OLD: 0.0,
    }
    english = "where(language == 'en', worth, 2)"
    assert worth_of(read_shards(crawled, english)) == {HOME: 0.25, ESSAY: 0.75, SHOP: 2.0, OLD: 2.0}
    assert worth_of(read_shards(crawled, "where(reason == 'language', 1, 0)"))[SHOP] == 1.0
    assert read_shards(crawled, "pagerank").worth.sum() == pytest.approx(1)
    with pytest.raises(ConfigError, match=r"no column 'text'; there is .*length.*quality.*worth"):
        read_shards(crawled, "text")
    with pytest.raises(ConfigError, match="no number for 2 of 4 pages"):
        read_shards(crawled, "novelty")


def test_what_was_taken_down_is_in_no_web(crawled):
    with ShardWriter(crawled) as writer:
        writer.update(tombstones=writer.manifest.with_tombstones(["b.test"]).tombstones)
    assert links_of(read_shards(crawled)) == {HOME: {ESSAY}, ESSAY: {HOME}}
    purge(crawled, lambda url: (locate(url).host, fingerprint(url)))
    assert links_of(read_shards(crawled)) == {HOME: {ESSAY}, ESSAY: {HOME}}


def test_a_corpus_without_a_log_of_fetches_says_so(tmp_path):
    with ShardWriter(tmp_path) as writer:
        writer.append(make_document(1))
        writer.commit()
    [shard] = Manifest.load(tmp_path).shards
    with pytest.raises(RecordingError, match=f"{shard.name}: its fetches were not logged"):
        read_shards(tmp_path)


def test_an_empty_crawl_is_no_web(tmp_path):
    ShardWriter(tmp_path).close()
    with pytest.raises(RecordingError, match="no pages"):
        read_shards(tmp_path)


# WARC files


def write(folder, *responses):
    """Of (URL, status, body, headers)."""
    writer = WarcWriter(folder, "lab")
    for url, status, body, headers in responses:
        named = {"Content-Type": "text/html; charset=utf-8"} | headers
        writer.write(
            Exchange(
                url=url,
                address="192.0.2.1",
                request_line=b"GET / HTTP/1.1",
                request_headers=(),
                status_line=b"HTTP/1.1 %d x" % status,
                headers=tuple((name.encode(), value.encode()) for name, value in named.items()),
                body=body if isinstance(body, bytes) else body.encode(),
            )
        )
    writer.close()
    [path] = set(folder.glob("*.warc.gz")) - {folder / "first.warc.gz"}
    return path


@pytest.fixture
def folder(tmp_path):
    write(
        tmp_path,
        (HOME, 200, article("home", "/essay", "http://B.test/shop#x", "/old page", "mailto:x@a.test"), {}),
        (ESSAY, 200, gzip.compress(article("essay", "/").encode()), {"Content-Encoding": "gzip"}),
        (SHOP, 200, "<p>Buy <a href='/old'>old things</a><a rel=nofollow href='//a.test/'>x</a>", {}),
        (OLD, 302, "moved", {"Location": "//a.test/essay"}),
        ("http://a.test/missing", 404, article("missing", "/"), {}),
        ("http://a.test/quiet", 200, article("quiet", "/"), {"X-Robots-Tag": "nofollow", "Refresh": "0;/"}),
        (
            XHTML,
            200,
            "<html xmlns='http://www.w3.org/1999/xhtml'/>",
            {"Content-Type": "text/xml", "Refresh": "0;/"},
        ),
        ("http://a.test/feed", 200, "<rss><item><link>/</link></item></rss>", {"Content-Type": "text/xml"}),
        ("http://a.test/data", 200, "<data/>", {"Content-Type": "text/xml"}),
        ("http://a.test/logo.png", 200, b"\x89PNG", {"Content-Type": "image/png"}),
        ("http://a.test/robots.txt", 200, "User-agent: *", {"Content-Type": "text/plain"}),
    )
    return tmp_path


def test_a_warc_is_a_web(folder):
    web = read_warc([folder], "links")
    assert links_of(web) == {
        HOME: {ESSAY, SHOP},
        ESSAY: {HOME},
        SHOP: {OLD},
        OLD: {ESSAY},
        "http://a.test/missing": set(),
        "http://a.test/quiet": set(),
        XHTML: {HOME},
    }
    assert worth_of(web) == {
        HOME: 3,
        ESSAY: 1,
        SHOP: 1,
        OLD: 1,
        "http://a.test/missing": 0,
        "http://a.test/quiet": 0,
        XHTML: 1,
    }


def test_worth_is_said_of_what_was_extracted(folder):
    [path] = folder.glob("*.warc.gz")
    plain = folder / "plain.warc"
    plain.write_bytes(gzip.decompress(path.read_bytes()))
    texts = read_warc([path], "text_chars")
    assert np.array_equal(texts.worth, read_warc([plain], "text_chars").worth)
    long = {url for url, chars in worth_of(texts).items() if chars > 500}
    assert long == {HOME, ESSAY, "http://a.test/quiet"}
    size = worth_of(read_warc([path], "where(language == 'en', bytes, 0)"))
    assert size[ESSAY] == len(article("essay", "/"))
    assert size["http://a.test/missing"] == 0
    assert worth_of(read_warc([path], "where(status == 302, 1, 0)"))[OLD] == 1


def test_the_last_of_several_responses_counts(folder):
    [path] = folder.glob("*.warc.gz")
    path.rename(folder / "first.warc.gz")
    write(folder, (HOME, 200, article("home again", "/quiet"), {}))
    files = [folder / "first.warc.gz", *sorted(set(folder.glob("2*.warc.gz")))]
    assert links_of(read_warc(files, "1"))[HOME] == {"http://a.test/quiet"}


def test_damage_is_skipped_and_told(folder, caplog):
    [path] = folder.glob("*.warc.gz")
    data = bytearray(path.read_bytes())
    starts = [at for at in range(len(data)) if data[at : at + 4] == b"\x1f\x8b\x08\x00"]
    data[starts[1] + 40] ^= 0xFF
    path.write_bytes(data)
    with caplog.at_level(logging.WARNING):
        web = read_warc([path], "1")
    assert HOME not in web.urls
    assert len(web.urls) == 6
    assert "1 places are damaged" in caplog.text


def test_files_without_a_page_are_no_web(tmp_path):
    with pytest.raises(RecordingError, match="no pages"):
        read_warc([tmp_path], "1")
    (tmp_path / "x.warc").write_bytes(b"x")
    with pytest.raises(RecordingError, match="x: no pages"):
        read_warc([tmp_path], "1")
    with pytest.raises(RecordingError, match=r"none\.warc: cannot be read"):
        read_warc([tmp_path / "none.warc"], "1")


def test_other_peoples_pages(conformance, tmp_path):
    """Real pages, of all kinds and languages."""
    [content] = (content for name, content in conformance.items() if name.endswith("/warcfile.warc.gz"))
    (tmp_path / "warcfile.warc.gz").write_bytes(content)
    web = read_warc([tmp_path], "text_chars")
    assert len(web.urls) == 16
    assert (web.worth > 100).mean() > 0.5
    assert np.median(read_warc([tmp_path], "links").worth) > 20


def test_pages_known_by_name_alone_are_pages_of_one_host(tmp_path):
    pq.write_table(pa.table({"src": [1], "dst": [2]}), tmp_path / "edges.parquet")
    pq.write_table(pa.table({"id": [1, 2], "url": ["Zebra", "Lion/x"]}), tmp_path / "pages.parquet")
    web = read_edges(tmp_path / "edges.parquet", tmp_path / "pages.parquet", "1")
    assert list(web.urls) == ["http://graph/Zebra", "http://graph/Lion/x"]
    assert set(web.hosts) == {"graph"}
