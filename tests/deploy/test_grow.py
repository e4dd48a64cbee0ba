"""A crawl that grows draws from its sources while it runs, and is over when they and all they led to are."""

import json
import sqlite3
from collections import Counter
from contextlib import closing
from urllib.parse import parse_qs, urlsplit

import pytest

from crawler.config import CrawlConfig, FrontierConfig
from crawler.errors import SeedError
from crawler.seeds.config import GrowConfig, HostsConfig, SearchConfig
from deploy.crawl import Crawl
from deploy.sources.grow import checked
from ranker.config import WalkConfig
from shards.reader import ShardReader
from tests.conftest import reply
from tests.deploy.test_crawl import shown
from tests.deploy.test_read import page
from tinylm.errors import ConfigError


@pytest.fixture
def growing(site, tmp_path):
    """`grow(*sources)`: a crawl without seeds of its own, of a site of a hundred pages."""
    for n in range(100):
        # Of what there is to be asked for: two words that some pages share.
        subject = f"<p>Harbour{chr(97 + n % 8)} sealing{chr(97 + n % 8)} is what this page has more of.</p>"
        site.on("a.test", f"/{n}", reply(200, page(n).replace("</h1>", f"</h1>{subject}")))
    names = ("a.test", "engine.test")

    def grow(*sources, pages=1000):
        crawl = CrawlConfig(
            allowed_networks=(f"127.0.0.1/32:{site.port}",), workers=1, pages=pages,
            disk_reserve_gigabytes=0.0,
            resolve=tuple(f"{name}=127.0.0.1:{site.port}" for name in names), ip_delay=0.0, timeout=3.0,
        )  # fmt: skip
        frontier = FrontierConfig(data=tmp_path / "data", delay=0.0, latency_factor=0.0)
        search = SearchConfig(searxng=f"http://engine.test:{site.port}", number=2)
        growing = checked(GrowConfig(sources=sources, every=5, draw=12), search, HostsConfig())
        started = Crawl(frontier, crawl, WalkConfig(shard_seconds=2), growing=growing)
        reason = started.run([], shown())
        return reason, {row["url"]: row["source"] for row in ShardReader(frontier.shards, split="all")}

    return grow


def urls(tmp_path, name, numbers):
    path = tmp_path / name
    path.write_text("".join(f"http://a.test/{n}\n" for n in numbers))
    return str(path)


def test_all_sources_are_drawn_to_their_end_over_several_runs_and_once(growing, site, tmp_path):
    first, second = urls(tmp_path, "first.txt", range(20)), urls(tmp_path, "second.txt", range(20, 36))
    reason, found = growing(first, second, pages=10)
    assert reason == "the limit of 10 pages is reached"
    assert 0 < len(found) < 36
    reason, found = growing(first, second)
    assert reason.startswith("nothing left to fetch")
    expected = {f"http://a.test/{n}": "first.txt" if n < 20 else "second.txt" for n in range(36)}
    assert found == expected
    asked = len(site.hits)
    assert growing(first, second)[1] == expected
    assert len(site.hits) == asked


def engine(site, answers):
    """A search engine that gives three new pages to each of so many queries, and then refuses."""
    asked = []

    def answer(handler):
        asked.append(parse_qs(urlsplit(handler.path).query)["q"][0])
        if len(asked) > answers:
            reply(401)(handler)
            return
        found = [{"url": f"http://a.test/{57 + 3 * len(asked) + n}"} for n in range(3)]
        reply(200, json.dumps({"results": found}), Content_Type="application/json")(handler)

    site.on("engine.test", "*", answer)
    return asked


def test_queries_come_of_what_was_read_and_a_source_that_refuses_ends_nothing_else(growing, site, tmp_path):
    asked = engine(site, 3)
    reason, found = growing(urls(tmp_path, "first.txt", range(60)), "search")
    assert reason.startswith("nothing left to fetch")
    assert len(asked) == 4
    log = (tmp_path / "data" / "logs" / "grow.log").read_text()
    assert "search: searxng refuses: status 401" in log
    assert log.count("given up") == 1
    sources = Counter(found.values())
    assert sources["first.txt"] == 60
    assert [sources[f"search:searxng:{query}"] for query in asked] == [3, 3, 3, 0]
    with closing(sqlite3.connect(tmp_path / "data" / "sources.sqlite")) as db:
        arms = dict(db.execute("select source, arm from grown"))
    assert [arms.get(f"search:searxng:{query}") for query in asked] == ["search", "search", "search", None]


def test_a_crawl_that_no_query_comes_of_ends(growing, site, tmp_path):
    asked = engine(site, 99)
    reason, found = growing(urls(tmp_path, "first.txt", range(2)), "search")
    assert (reason.startswith("nothing left to fetch"), len(found), asked) == (True, 2, [])


def test_what_is_no_source_is_said_before_anything_starts(tmp_path, monkeypatch):
    (tmp_path / "hosts.txt").write_text("a.example\n")
    monkeypatch.chdir(tmp_path)
    for wrong in ("serach", "hosts:nowhere.csv", "."):
        with pytest.raises(SeedError, match="neither search, hosts:LIST nor a file of seeds"):
            checked(GrowConfig(sources=("hosts:hosts.txt", wrong)), SearchConfig(), HostsConfig())
    monkeypatch.delenv("BRAVE_SEARCH_API_KEY", raising=False)
    with pytest.raises(ConfigError, match="BRAVE_SEARCH_API_KEY"):
        checked(GrowConfig(sources=("search",)), SearchConfig(provider="brave"), HostsConfig())
    found = checked(GrowConfig(sources=("hosts:hosts.txt",)), SearchConfig(), HostsConfig())
    assert found["grow"].sources == (f"hosts:{tmp_path / 'hosts.txt'}",)
