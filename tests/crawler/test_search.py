"""Search engines: each query is asked and paid once, within quotas, whatever an engine answers."""

import json
import sys
import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from crawler.config import CrawlConfig
from crawler.errors import NetworkForbidden, SeedError
from crawler.fetch.client import AskError, Client
from crawler.seeds import search as module
from crawler.seeds.config import SearchConfig
from crawler.seeds.ledger import Ledger
from crawler.seeds.search import QuotaUsed, Search, own_networks, provider_of, search
from crawler.seeds.seed import Progress
from tests.conftest import reply
from tinylm.errors import ConfigError

MONTH = 2_592_000


def results(*urls, more=True):
    """An answer that both engines' readers understand."""
    found = [{"url": url, "title": "t"} for url in urls]
    return json.dumps(
        {"results": found, "web": {"results": found}, "query": {"more_results_available": more}}
    )


@pytest.fixture
def clock():
    return [1_000_000.0]


@pytest.fixture
def engine(site, clock, monkeypatch):
    """`engine(ledger, answers, provider)`: a loopback engine that gives these answers in turn."""

    def make(ledger, answers, provider="searxng", **config):
        left, asked, slept = list(answers), [], []

        def sleep(seconds):
            slept.append(seconds)
            clock[0] += seconds

        def answer(handler):
            query = {name: values[0] for name, values in parse_qs(urlsplit(handler.path).query).items()}
            asked.append(query | {"key": handler.headers.get("X-Subscription-Token")})
            (left.pop(0) if left else reply(200, results()))(handler)

        site.on("engine.test", "*", answer)
        monkeypatch.setenv("BRAVE_SEARCH_API_KEY", "sesame")
        place = f"http://engine.test:{site.port}"
        request = module.Brave.request
        monkeypatch.setattr(
            module.Brave, "request", lambda *of: (f"{place}/brave", *request(*of)[1:]), raising=True
        )
        crawl = CrawlConfig(allowed_networks=(f"127.0.0.1/32:{site.port}",), timeout=2.0,
                            resolve=(f"engine.test=127.0.0.1:{site.port}",))  # fmt: skip
        opened = Client.sync(crawl)
        ask = opened.__enter__()
        closing.append(opened)
        configured = SearchConfig(provider=provider, searxng=place, **config)
        progress = Progress()
        return Search(configured, ask, ledger, progress, sleep, lambda: clock[0]), asked, slept, progress

    closing = []
    yield make
    for opened in closing:
        opened.__exit__(None, None, None)


def urls_of(batch):
    return [seed.url for seed in batch.seeds]


def test_ranks_are_priors_over_pages_and_each_question_costs_once(engine, tmp_path):
    pages = [reply(200, results(*(f"http://{n}.example/" for n in page))) for page in ("ab", "bc", "c", "z")]
    with Ledger(tmp_path / "sources.sqlite") as ledger:
        asked_of, asked, _, _ = engine(ledger, pages, result_pages=9)
        batch = asked_of.seeds("sea otters")
        assert urls_of(batch) == ["http://a.example/", "http://b.example/", "http://c.example/"]
        assert [round(seed.prior, 2) for seed in batch.seeds] == [1.0, 0.63, 0.5]
        assert {(seed.source, seed.precision) for seed in batch.seeds} == {("search:searxng:sea otters", 0.0)}
        # The third page had nothing new.
        assert [query["pageno"] for query in asked] == ["1", "2", "3"]
        assert ledger.spent() == {"search:searxng:sea otters": {"queries": 1, "billed": 3}}
    with Ledger(tmp_path / "sources.sqlite") as ledger:
        asked_of, asked, _, _ = engine(ledger, [], result_pages=9)
        assert urls_of(asked_of.seeds("sea otters")) == urls_of(batch)
        assert asked == []
        assert ledger.spent() == {"search:searxng:sea otters": {"queries": 1, "billed": 3}}


def test_what_is_no_answer_is_asked_again_later_each_time(engine):
    bad = [reply(500), reply(200, "<html>no JSON"), reply(200, "null"), reply(429, "", Retry_After="9")]
    with Ledger(":memory:") as ledger:
        asked_of, asked, slept, _ = engine(ledger, [*bad, reply(200, results("http://a.example/"))])
        assert urls_of(asked_of.seeds("q")) == ["http://a.example/"]
        assert len(asked) == 5
        assert [seconds for seconds in slept if seconds >= 2] == [2, 4, 8, 16]
        assert ledger.spent() == {"search:searxng:q": {"queries": 1, "billed": 1}}
        asked_of, _, _, _ = engine(ledger, [reply(503)] * 5)
        with pytest.raises(
            AskError, match=r"searxng does not answer 'p' \(status 503\); the same command goes on"
        ):
            asked_of.seeds("p")


def test_a_long_rest_that_an_engine_asks_for_outlives_us(engine, clock, tmp_path):
    for answers, asked_then in (([reply(429, "", Retry_After="3600")], 1), ([], 0)):
        with Ledger(tmp_path / "sources.sqlite") as ledger:
            asked_of, asked, _, _ = engine(ledger, answers)
            with pytest.raises(QuotaUsed, match="its quota is used up until 1970-01-12 14:46:40 UTC") as told:
                asked_of.seeds("p")
            assert (len(asked), told.value.seconds) == (asked_then, 3600)
    clock[0] += 3600
    with Ledger(tmp_path / "sources.sqlite") as ledger:
        asked_of, asked, _, _ = engine(ledger, [])
        asked_of.seeds("p")
        assert len(asked) == 1


@pytest.mark.parametrize("reset", ["1e18", "inf", "nan", "-5", "later", "1" * 5000])
@pytest.mark.parametrize("left", ["0", "9" * 30])
def test_whatever_an_answer_says_of_its_quota_ends_nothing(engine, clock, reset, left):
    with Ledger(":memory:") as ledger:
        answer = brave(200, "http://a.example/", left=f"1, {left}", reset=f"1, {reset}")
        asked_of, _, _, _ = engine(ledger, [answer], "brave")
        assert urls_of(asked_of.seeds("a")) == ["http://a.example/"]
        clock[0] += 35 * 86400
        asked_of.seeds("b")


def test_an_answer_that_is_cut_off_hangs_or_is_nested_without_end_is_asked_again(engine):
    def cut(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "999")
        handler.end_headers()
        handler.wfile.write(b'{"results": [')
        handler.close_connection = True

    def hang(handler):
        time.sleep(3)
        handler.close_connection = True

    with Ledger(":memory:") as ledger:
        bad = [cut, hang, reply(200, "[" * 200_000)]
        asked_of, asked, _, _ = engine(ledger, [*bad, reply(200, results("http://a.example/"))])
        assert urls_of(asked_of.seeds("q")) == ["http://a.example/"]
        assert len(asked) == 4
        assert ledger.spent() == {"search:searxng:q": {"queries": 1, "billed": 1}}


def test_a_query_that_brings_no_answer_ends_nothing_and_several_in_a_row_do(engine):
    with Ledger(":memory:") as ledger:
        good = reply(200, results("http://a.example/"))
        asked_of, asked, _, progress = engine(ledger, [reply(422), good, *[reply(500)] * 5, good])
        batches = list(search(["bad", "good", "worse", "fine"], asked_of, progress))
        assert [urls_of(batch) for batch in batches] == [["http://a.example/"]] * 2
        assert (progress.done, dict(progress.dropped), len(asked)) == (2, {"query_failed": 2}, 8)
        for queries, answers in ((["one"], [reply(422)]), ("abcd", [good, *[reply(422)] * 3])):
            asked_of, asked, _, progress = engine(ledger, answers)
            with pytest.raises(AskError, match="status 422"):
                list(search(queries, asked_of, progress))
            assert len(asked) == len(answers)


def test_a_query_is_settled_once_its_seeds_were_given(engine):
    with Ledger(":memory:") as ledger:
        pages = [reply(200, results("http://a.example/")), *[reply(503)] * 5]
        asked_of, _, _, progress = engine(ledger, pages, result_pages=2)
        with pytest.raises(AskError):
            asked_of.seeds("half")
        asked_of, _, _, progress = engine(ledger, [reply(200, results("http://b.example/"))])
        batches = search(["whole", "never"], asked_of, progress)
        next(batches)
        batches.close()  # as a kill does
        assert (sorted(asked_of.answered()), asked_of.given()) == (["half", "whole"], set())
        for _ in search(["whole"], asked_of, progress):
            pass
        assert (asked_of.answered(), asked_of.given()) == (["half"], {"whole"})


def test_what_goes_to_a_file_is_not_given_to_the_crawl(engine, tmp_path):
    place = tmp_path / "sources.sqlite"
    with Ledger(place, resumes=False) as ledger:
        asked_of, _, _, progress = engine(ledger, [reply(200, results("http://a.example/"))])
        assert len(list(search(["q"], asked_of, progress))) == 1
    with Ledger(place) as ledger:
        asked_of, _, _, _ = engine(ledger, [])
        assert asked_of.answered() == ["q"]


def test_a_searxng_that_gives_no_json_is_told_which_settings_to_change(engine):
    with Ledger(":memory:") as ledger:
        asked_of, _, _, _ = engine(ledger, [reply(403)])
        with pytest.raises(SeedError, match=r"search\.formats: \[html, json\].*server\.limiter: false"):
            asked_of.seeds("q")


def brave(status=200, *urls, left="1, 100", reset="1, 86400", more=True):
    told = {"Policy": f"1;w=1, 15000;w={MONTH}", "Limit": "1, 15000", "Remaining": left, "Reset": reset}
    headers = {f"X_RateLimit_{name}": value for name, value in told.items()}
    return reply(status, results(*urls, more=more), **headers)


def test_brave_is_asked_within_all_its_windows_and_they_outlive_us(engine, clock, tmp_path, capfd):
    with Ledger(tmp_path / "sources.sqlite") as ledger:
        last = brave(200, "http://b.example/", left="1, 0", more=False)
        answers = [brave(200, "http://a.example/", left="0, 1"), last]
        asked_of, asked, slept, _ = engine(ledger, answers, "brave", result_pages=5)
        assert urls_of(asked_of.seeds("q " * 300)) == ["http://a.example/", "http://b.example/"]
        assert slept == [1.0]  # of the window of a second, which was used up
        assert {query["key"] for query in asked} == {"sesame"}
        assert [query["offset"] for query in asked] == ["0", "1"]
        assert len(asked[0]["q"].split()) == 50
    with Ledger(tmp_path / "sources.sqlite") as ledger:
        asked_of, asked, _, _ = engine(ledger, [], "brave")
        with pytest.raises(AskError, match=r"brave: its quota is used up until 1970-01-13 .* UTC") as told:
            asked_of.seeds("p")
        assert asked == []
        clock[0] += 86_401
        asked_of.seeds("p")
        assert len(asked) == 1
    assert "sesame" not in str(told.value) + "".join(capfd.readouterr())
    assert b"sesame" not in (tmp_path / "sources.sqlite").read_bytes()


def test_what_is_not_said_of_a_quota_is_counted(engine):
    with Ledger(":memory:") as ledger:
        asked_of, _, slept, _ = engine(ledger, [])
        for query in "abc":
            asked_of.seeds(query)
        assert slept == [1.0, 1.0]  # one a second


def test_a_key_that_is_missing_or_refused_is_one_error(engine, monkeypatch):
    with Ledger(":memory:") as ledger:
        asked_of, _, _, _ = engine(ledger, [brave(401)], "brave")
        with pytest.raises(SeedError, match="brave refuses: status 401; see to its key and plan"):
            asked_of.seeds("q")
        monkeypatch.delenv("BRAVE_SEARCH_API_KEY")
        with pytest.raises(ConfigError, match="give it in the variable BRAVE_SEARCH_API_KEY"):
            Search(SearchConfig(provider="brave"), None, ledger, Progress())


def test_any_other_engine_is_a_class_of_a_few_lines_as_the_docs_have_it(engine, site, tmp_path, monkeypatch):
    docs = (Path(__file__).parents[2] / "docs" / "sources.md").read_text()
    code = docs.split("```python\n")[1].split("```")[0]
    assert "https://search.example" in code
    place = f"http://engine.test:{site.port}"
    (tmp_path / "mine.py").write_text(code.replace("https://search.example", place))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("MY_KEY", "sesame")
    with Ledger(":memory:") as ledger:
        items = [{"link": "http://a.example/"}, {"link": 1}, {"link": "no url"}]
        asked_of, asked, _, _ = engine(ledger, [reply(200, json.dumps({"items": items}))], "mine:Mine")
        assert urls_of(asked_of.seeds("q")) == ["http://a.example/"]
        assert asked == [{"q": "q", "page": "0", "key": None}]
    sys.modules.pop("mine")
    for wrong in ("mine:Other", "nowhere:Mine", "google", "json:JSONDecoder"):
        with pytest.raises(ConfigError, match="provider = "):
            provider_of(SearchConfig(provider=wrong))


def test_an_engine_outside_the_allowed_networks_is_not_asked(forbidden):
    config = SearchConfig(searxng=f"http://127.0.0.1:{forbidden.port}")
    crawl = CrawlConfig(allowed_networks=("127.0.0.2/32",))
    with Client.sync(crawl) as ask, Ledger(":memory:") as ledger, pytest.raises(NetworkForbidden):
        Search(config, ask, ledger, Progress()).seeds("q")
    assert forbidden.connections == 0
    # One that was named by its address may be asked: at that port, and nothing else there.
    assert own_networks(config) == (f"127.0.0.1/32:{forbidden.port}",)
    assert own_networks(SearchConfig(searxng="http://searx.example/")) == ()


def test_queries_follow_each_other_and_a_bad_one_is_counted(engine):
    with Ledger(":memory:") as ledger:
        asked_of, _, _, progress = engine(
            ledger, [reply(200, results("http://a.example/", "mailto:x")), reply(200, results())]
        )
        batches = list(search(["one", "two"], asked_of, progress))
    assert [urls_of(batch) for batch in batches] == [["http://a.example/"], []]
    assert progress.done == 2
    assert progress.dropped == {"bad_url": 1, "query_without_results": 1}


def test_the_settings_for_a_searxng_are_those_that_its_refusal_names():
    root = Path(__file__).parents[2]
    settings = yaml.safe_load((root / "deploy" / "searxng.yml").read_text())
    assert (settings["search"]["formats"], settings["server"]["limiter"]) == (["html", "json"], False)
    [service] = yaml.safe_load((root / "deploy" / "searxng.compose.yml").read_text())["services"].values()
    assert service["image"].startswith("${SEARXNG_IMAGE:?")
    assert service["ports"] == ["127.0.0.1:${SEARXNG_PORT:-8888}:8080"]
    assert service["volumes"] == ["./deploy/searxng.yml:/etc/searxng/settings.yml:ro"]
    assert SearchConfig().searxng.endswith(":8888")
