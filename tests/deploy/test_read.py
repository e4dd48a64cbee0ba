"""What archives hold becomes the corpus that a crawl of the same answers would have made, once."""

import bz2
import gzip
import signal
import sqlite3
from contextlib import closing, suppress

import pytest

from crawler.archives.warc import Exchange, WarcWriter
from crawler.config import CrawlConfig, FrontierConfig
from crawler.errors import SeedError
from crawler.seeds.seed import Seed
from deploy.cli.app import app
from deploy.crawl import Crawl
from deploy.summary import Summary
from ranker.config import WalkConfig
from shards.manifest import Manifest, is_corpus
from shards.reader import ShardReader, read_fetches
from tests.conftest import command, eventually, reply
from tests.deploy.test_crawl import shown
from tests.ranker.conftest import prose

LOOPBACK = {"TINYLM_CRAWL_ALLOWED_NETWORKS": "127.0.0.0/8", "TINYLM_CRAWL_DISK_RESERVE_GIGABYTES": "0"}


def fetches(shards):
    tables = read_fetches(shards, Manifest.load(shards), ["url", "reason", "fetched_at"])
    rows = [row for _, table in tables for row in table.to_pylist()]
    return [(row["url"], row["reason"]) for row in sorted(rows, key=lambda row: row["fetched_at"])]


def texts(shards):
    return {row["url"]: row["text"] for row in ShardReader(shards, split="all")}


def page(number, *links):
    """HTML whose text is kept, different for each number."""
    paragraphs = "".join(f"<p>{part}</p>" for part in prose(number).split("\n\n"))
    anchors = "".join(f'<a href="{link}">See {link}</a>' for link in links)
    return f"<html><body><main><h1>Page {number}</h1>{paragraphs}<p>{anchors}</p></main></body></html>"


def test_what_a_crawl_wrote_is_read_back_as_the_pages_it_made(site, tmp_path, monkeypatch):
    """URL, text and reason of every page; what is a copy of which may differ, but nothing here is one."""
    on = {
        "/": reply(200, page(1, "/a", "/packed", "/old", "/gone", "/picture", "/large", "/private", "/said")),
        "/a": reply(200, page(2)),
        "/packed": reply(200, gzip.compress(page(3).encode()), Content_Encoding="gzip"),
        "/old": reply(301, Location="/new"),
        "/new": reply(200, page(4)),
        "/gone": reply(404, page(5, "/b")),
        "/picture": reply(200, b"\\x89PNG", Content_Type="image/png"),
        "/large": reply(200, page(6) + " " * 1_200_000),
        "/private": reply(200, page(7)),
        "/said": reply(200, page(8), X_Robots_Tag="noai"),
        "/robots.txt": reply(200, "User-agent: *\nDisallow: /no\nContent-Usage: /private train-ai=n\n"
                             "Sitemap: http://a.test/sitemap.xml", Content_Type="text/plain"),
        "/sitemap.xml": reply(200, "<urlset><url><loc>http://a.test/listed</loc></url></urlset>",
                              Content_Type="application/xml"),
        "/listed": reply(200, page(9)),
    }  # fmt: skip
    for path, answer in on.items():
        site.on("a.test", path, answer)
    crawl = CrawlConfig(
        allowed_networks=(f"127.0.0.1/32:{site.port}",), resolve=(f"a.test=127.0.0.1:{site.port}",),
        workers=1, warc=True, megabytes_per_page=1.0, disk_reserve_gigabytes=0.0,
    )  # fmt: skip
    walk = WalkConfig(shard_seconds=3600)
    live = FrontierConfig(data=tmp_path / "live", delay=0.0, latency_factor=0.0)
    Crawl(live, crawl, walk).run([Seed("http://a.test/", 1.0, "test")], shown())
    warcs = sorted((tmp_path / "live" / "warc").glob("*.warc.gz"))
    asked = len(site.hits)

    for name, value in LOOPBACK.items():
        monkeypatch.setenv(name, value)
    options = ["--data", str(tmp_path / "read"), "--megabytes-per-page", "1", "--workers", "1"]
    app(["read", "warc", *map(str, warcs), *options], result_action="return_value")
    assert len(site.hits) == asked
    kinds = dict(fetches(live.shards))
    assert set(kinds.values()) >= {
        "",
        "redirect",
        "status_404",
        "media_type",
        "too_large",
        "robots",
        "sitemap",
        "opt_out",
    }
    assert dict(fetches(tmp_path / "read" / "shards")) == kinds
    assert texts(tmp_path / "read" / "shards") == texts(live.shards)
    documents = list(ShardReader(tmp_path / "read" / "shards", split="all"))
    assert {row["source"] for row in documents} == {f"warc:{warcs[0].name}"}
    assert {row["source_hops"] for row in documents} == {0}


def warc_of(folder, pages):
    """A WARC file of answers 200, by URL."""
    writer = WarcWriter(folder, "lab")
    for url, body in pages.items():
        writer.write(
            Exchange(
                url=url,
                address="192.0.2.1",
                request_line=b"GET / HTTP/1.1",
                request_headers=(),
                status_line=b"HTTP/1.1 200 OK",
                headers=((b"Content-Type", b"text/html"),),
                body=body.encode(),
            )
        )
    writer.close()
    [path] = folder.glob("*.warc.gz")
    return path


def dump_of(folder, pages):
    """An XML dump of a wiki, a stream of bzip2 for each few pages; titles are the ends of URLs."""
    folder.mkdir()
    head = "<mediawiki><siteinfo><base>http://h0.test/Main</base></siteinfo>"
    parts = [
        f"<page><title>{url.rpartition('/')[2]}</title><ns>0</ns><revision><text>{text}</text></revision></page>"
        for url, text in pages.items()
    ]
    path = folder / "x.xml.bz2"
    path.write_bytes(b"".join(bz2.compress(part.encode()) for part in (head, *parts, "</mediawiki>")))
    return path


@pytest.mark.parametrize("kind", ["warc", "dump"])
def test_reading_goes_on_after_sigkill_and_a_second_run_adds_nothing(tmp_path, kind):
    hosts = 5 if kind == "warc" else 1
    urls = [f"http://h{n % hosts}.test/{n}" for n in range(130)]
    # Of each page the next is linked: queued before it is brought, and not asked for afterwards.
    links = [*urls[1:], "http://h0.test/never"]
    if kind == "warc":
        path = warc_of(tmp_path / "of", {url: page(n, links[n]) for n, url in enumerate(urls)})
    else:
        wikitext = [f"{prose(n)}\n\nSee [[{links[n].rpartition('/')[2]}]]." for n in range(130)]
        path = dump_of(tmp_path / "of", dict(zip(urls, wikitext, strict=True)))
    data = tmp_path / "data"
    arguments = "read", kind, str(path), "--data", str(data)
    with command(tmp_path / "log", *arguments, **LOOPBACK) as process:
        ledger = data / "sources.sqlite"
        eventually(lambda: ledger.exists() and settled(ledger))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    # Its walker, which waits for the server to come back, commits what it has before the next one walks.
    for adds in ("", "kept 0; dropped: nothing"):
        with command(tmp_path / "again", *arguments, **LOOPBACK) as process:
            assert process.wait(120) == 0, (tmp_path / "again").read_text()
        assert adds in (tmp_path / "again").read_text()
    assert "was read before" in (tmp_path / "again").read_text()
    assert rows(data / "shards") == len(set(texts(data / "shards"))) == len(urls)
    assert set(texts(data / "shards")) == set(urls)
    summary = Summary.load(data)
    assert (summary.fetched, summary.queued) == (0, 1)


def settled(ledger):
    with closing(sqlite3.connect(ledger, timeout=10)) as db, suppress(sqlite3.OperationalError):
        return db.execute("select 1 from positions where position != 'done'").fetchone()


def rows(shards):
    return Manifest.load(shards).rows if is_corpus(shards) else 0


def test_a_file_that_is_cut_short_or_no_archive_costs_what_is_damaged(tmp_path, capsys, monkeypatch):
    for name, value in LOOPBACK.items():
        monkeypatch.setenv(name, value)
    urls = [f"http://h.test/{n}" for n in range(4)]
    path = warc_of(tmp_path / "warc", {url: page(n) for n, url in enumerate(urls)})
    path.write_bytes(path.read_bytes()[:-1200])
    noise = tmp_path / "noise.warc.gz"
    noise.write_bytes(b"no archive")
    options = "--data", str(tmp_path / "data")
    app(["read", "warc", str(noise), str(path), *options], result_action="return_value")
    assert "kept 3; dropped: nothing" in capsys.readouterr().out
    with pytest.raises(SeedError, match=r"missing\.warc: No such file or directory"):
        app(["read", "warc", str(tmp_path / "missing.warc"), *options], result_action="return_value")


def test_beside_a_crawl_its_walker_judges_what_is_brought(site, tmp_path, monkeypatch):
    for name, value in LOOPBACK.items():
        monkeypatch.setenv(name, value)
    path = warc_of(tmp_path / "warc", {f"http://b.test/{n}": page(10 + n) for n in range(3)})
    site.on("a.test", "/", reply(200, page(1)))
    crawl = CrawlConfig(
        allowed_networks=(f"127.0.0.1/32:{site.port}",), resolve=(f"a.test=127.0.0.1:{site.port}",),
        workers=1, disk_reserve_gigabytes=0.0,
    )  # fmt: skip
    frontier, brought = FrontierConfig(data=tmp_path / "data", delay=0.0, latency_factor=0.0), []

    def bring(_):
        if not brought:
            brought.append(path)
            app(["read", "warc", str(path), "--data", str(tmp_path / "data")], result_action="return_value")

    Crawl(frontier, crawl, WalkConfig(shard_seconds=3600)).run(
        [Seed("http://a.test/", 1.0, "test")], shown(each=bring)
    )
    found = {row["url"]: row["source"] for row in ShardReader(frontier.shards, split="all")}
    assert found == {"http://a.test/": "test"} | {f"http://b.test/{n}": f"warc:{path.name}" for n in range(3)}
