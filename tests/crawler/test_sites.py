"""Chosen sites, lists of feeds, and the articles of a wiki by its API."""

import json
from urllib.parse import parse_qs, urlsplit

import pytest

from crawler.config import CrawlConfig
from crawler.errors import NetworkForbidden, SeedError
from crawler.fetch.client import AskError
from crawler.seeds.config import WikiConfig
from crawler.seeds.ledger import Ledger
from crawler.seeds.seed import Progress
from crawler.seeds.sites import seeds_of_sites, seeds_of_wiki
from tests.conftest import reply


def sites(*named):
    progress = Progress()
    with Ledger(":memory:") as ledger:
        found = [
            s for batch in seeds_of_sites([str(n) for n in named], ledger, progress) for s in batch.seeds
        ]
    return found, +progress.dropped


def test_a_site_is_its_front_page_and_where_its_sitemap_most_often_is():
    found, _ = sites("docs.example.org", "http://example.net/guide/")
    assert [seed.url for seed in found] == [
        "https://docs.example.org/", "https://docs.example.org/sitemap.xml",
        "http://example.net/guide/", "http://example.net/sitemap.xml",
    ]  # fmt: skip
    assert [seed.precision for seed in found] == [1, 0, 1, 0]
    assert {seed.source for seed in found} == {"sites:docs.example.org", "sites:example.net"}
    for wrong in ("no site", "localhost", "ftp://a.example/"):
        with pytest.raises(SeedError, match="neither a site"):
            sites(wrong)


OPML = """<?xml version="1.0"?><opml version="2.0"><head><title>x</title></head><body>
<outline text="science"><outline type="rss" xmlUrl="http://a.example/feed" htmlUrl="http://a.example/"/>
<outline><outline xmlUrl="http://b.example/atom?x=1&amp;y=2"/></outline></outline>
<outline xmlUrl="feed://c.example/"/><outline xmlUrl="http://a.example/feed"/></body></opml>"""


def test_feeds_and_sites_of_an_opml_file_are_taken_however_they_are_nested(tmp_path):
    path = tmp_path / "feeds.opml"
    path.write_text(OPML)
    found, dropped = sites(path)
    assert [(seed.url, seed.precision) for seed in found] == [
        ("http://a.example/", 1.0), ("http://a.example/feed", 0.0), ("http://b.example/atom?x=1&y=2", 0.0),
    ]  # fmt: skip
    assert dropped == {"bad_url": 1}
    assert {seed.source for seed in found} == {"sites:feeds.opml"}


BOMB = '<!DOCTYPE opml [<!ENTITY a "aaaaaaaaaa">' + "".join(
    f'<!ENTITY {chr(98 + n)} "{f"&{chr(97 + n)};" * 10}">' for n in range(9)
)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no OPML"),
        ("<html></html>", "does not begin with <opml>"),
        ("no XML", "no OPML"),
        ("\x00", "no OPML"),
    ],
)
def test_what_is_no_opml_is_one_error(tmp_path, text, says):
    path = tmp_path / "x.opml"
    path.write_text(text)
    with pytest.raises(SeedError, match=says):
        sites(path)


def test_entities_are_not_expanded_and_files_not_read(tmp_path):
    path, secret = tmp_path / "x.opml", tmp_path / "secret"
    secret.write_text("http://secret.example/")
    path.write_text(
        f'<!DOCTYPE opml [<!ENTITY f SYSTEM "{secret}">]><opml>{FEED % 1}<outline xmlUrl="&f;"/></opml>'
    )
    assert [seed.url for seed in sites(path)[0]] == ["http://a.example/1?x=1&y=2"]
    path.write_text(f'{BOMB}]><opml><outline xmlUrl="&j;"/></opml>')
    with pytest.raises(SeedError, match=r"x\.opml"):
        sites(path)


FEED = '<outline xmlUrl="http://a.example/%d?x=1&y=2"/>\n'  # with the bare `&` that many have


def test_a_list_that_is_cut_off_or_nested_without_end_is_one_error(tmp_path):
    path, feeds = tmp_path / "x.opml", "".join(FEED % n for n in range(100))
    path.write_text(f"<opml><body>{feeds}</body></opml>")
    assert len(sites(path)[0]) == 100
    for text in (
        f"<opml><body>{feeds}",
        f"<opml><body>{feeds}"[:-20],
        f"<opml><body>{'<outline>' * 1000}{'</outline>' * 1000}{feeds}</body></opml>",
    ):
        path.write_text(text)
        with pytest.raises(SeedError, match=r"x\.opml: an OPML file that is cut off"):
            sites(path)


# A wiki


def titles(n, of):
    return [{"title": f"T{k}", "canonicalurl": f"http://wiki.test/wiki/T{k}"} for k in range(n, of)]


@pytest.fixture
def wiki(site):
    """A wiki of 7 articles, 3 at a time; `faults` answer the first questions. Returns what it was asked."""
    asked = []

    def make(faults=()):
        left = list(faults)

        def answer(handler):
            query = {name: values[0] for name, values in parse_qs(urlsplit(handler.path).query).items()}
            asked.append(query | {"agent": handler.headers["User-Agent"]})
            if left:
                left.pop(0)(handler)
                return
            start = int(query.get("gapcontinue", 0))
            end = min(7, start + 3)
            found = {"query": {"pages": titles(start, end)}}
            if end < 7:
                found["continue"] = {"gapcontinue": str(end), "continue": "gapcontinue||"}
            reply(200, json.dumps(found), Content_Type="application/json")(handler)

        site.on("wiki.test", "*", answer)
        return asked

    return make


def articles(site, ledger, *, stop=None, api="", **config):
    crawl = CrawlConfig(
        allowed_networks=(f"127.0.0.1/32:{site.port}",),
        resolve=(f"wiki.test=127.0.0.1:{site.port}",),
        user_agent="lab/1.0 (+http://lab.test)",
        timeout=2.0,
    )
    slept, urls = [], []
    batches = seeds_of_wiki(
        api or f"http://wiki.test:{site.port}/w/api.php",
        WikiConfig(**config),
        crawl,
        ledger,
        Progress(),
        slept.append,
    )
    for number, batch in enumerate(batches):
        urls += [seed.url for seed in batch.seeds]
        assert {seed.source for seed in batch.seeds} <= {"wiki:wiki.test"}
        if number == stop:
            batches.close()
            break
    return urls, slept


ALL = [f"http://wiki.test/wiki/T{n}" for n in range(7)]


def test_all_articles_are_listed_politely_and_a_second_run_asks_nobody(site, wiki, tmp_path):
    asked = wiki()
    with Ledger(tmp_path / "x.sqlite") as ledger:
        assert articles(site, ledger) == (ALL, [1.0, 1.0])
        assert ledger.spent() == {"wiki:wiki.test": {"requests": 3}}
        assert {query["maxlag"] for query in asked} == {"5"}
        assert {query["gapfilterredir"] for query in asked} == {"nonredirects"}
        assert {query["agent"] for query in asked} == {"lab/1.0 (+http://lab.test)"}
        assert articles(site, ledger) == ([], [])
    assert len(asked) == 3


def test_it_goes_on_where_it_was_stopped(site, wiki, tmp_path):
    wiki()
    with Ledger(tmp_path / "x.sqlite") as ledger:
        first, _ = articles(site, ledger, stop=1)
    with Ledger(tmp_path / "x.sqlite") as ledger:
        rest, _ = articles(site, ledger)
    # What nobody said was given comes again.
    assert (first, rest) == (ALL[:6], ALL[3:])


def test_a_category_or_a_search_is_another_list(site, wiki):
    asked = wiki()
    with Ledger(":memory:") as ledger:
        articles(site, ledger, category="Rivers")
        articles(site, ledger, search="otters")
    assert {query.get("gcmtitle") for query in asked} == {"Category:Rivers", None}
    assert {query.get("gsrsearch") for query in asked} == {"otters", None}


def test_a_wiki_that_lags_refuses_or_says_nonsense_is_asked_again_later_each_time(site, wiki):
    lag = json.dumps({"error": {"code": "maxlag", "info": "Waiting for a database server: 6 seconds lagged"}})
    wiki([reply(200, lag, Retry_After="40"), reply(500), reply(200, "<html>"), reply(200, "[]"), reply(429)])
    with Ledger(":memory:") as ledger:
        urls, slept = articles(site, ledger)
        assert urls == ALL
        assert slept == [40, 10, 20, 40, 80, 1, 1]
        wiki([reply(503)] * 8)
        with pytest.raises(AskError, match=r"does not answer \(status 503\); the same command goes on"):
            articles(site, ledger, search="x")


def test_what_is_no_api_is_one_error(site, wiki, forbidden):
    with Ledger(":memory:") as ledger:
        wiki([reply(404)])
        with pytest.raises(SeedError, match=r"ends in /api\.php is needed"):
            articles(site, ledger)
        wiki([reply(200, json.dumps({"error": {"code": "readapidenied", "info": "You need to log in"}}))])
        with pytest.raises(SeedError, match="refuses: readapidenied: You need to log in"):
            articles(site, ledger)
        with pytest.raises(NetworkForbidden):
            articles(site, ledger, api=f"http://127.0.0.1:{forbidden.port}/api.php")
    assert forbidden.connections == 0
