"""`tinylm why` says of a URL what was promised, of what that was made, and what came of it."""

import time
from dataclasses import replace

import pytest

from crawler.frontier import Discovered
from crawler.urls import fingerprint, locate
from deploy.cli import why
from deploy.cli.app import main
from ranker.graph import LinkGraph, Target
from ranker.policy.orders import Simple
from ranker.policy.promise import DISCOVERY, INGREDIENTS, WORDS
from shards.errors import ShardError
from shards.writer import ShardWriter
from tests.conftest import eventually, open_frontier
from tests.crawler.driving import ack, lease_one, next_page
from tests.shards.conftest import make_document, make_fetch

ESSAY, SHOP = "https://a.test/essays/one", "https://a.test/shop"
QUEUED = "https://a.test/essays/two"


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def directory(tmp_path):
    """A page fetched twice, and one that was dropped."""
    with ShardWriter(tmp_path / "shards", crawl_id="c") as writer:
        for number, url, reason in ((1, ESSAY, ""), (1, SHOP, "language"), (2, ESSAY, "")):
            of_page = {
                "id": f"{fingerprint(url):016x}-{number}",
                "url": url,
                "host": locate(url).host,
                "fetched_at": 1_700_000_000_000 + 86_400_000 * number,
            }
            document = replace(
                make_document(1), **of_page, novelty=0.75, quality_model="online", inlinks=3, depth=2,
                signals={"rps_doc_word_count": 1234.0},
            )  # fmt: skip
            ingredients = {"depth": -0.0625, "parents, mean": 0.25, "of another policy": 0.1875, "votes": 0.0}
            fetch = replace(make_fetch(1, reason=reason), **of_page, ingredients=ingredients)
            writer.append(None if reason else document, (), fetch)
            writer.commit()
    return tmp_path / "shards"


@pytest.fixture
def tell(capsys):
    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main(["why", *map(str, arguments)])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return (err if ended.value.code else out).splitlines()

    return run


def row(lines, word):
    """What stands beside `word`."""
    [found] = (line for line in lines if line.startswith(word))
    return found.removeprefix(word).strip()


def test_a_kept_page_has_its_promise_and_its_worth_explained(directory, tell):
    lines = tell("https://A.test/essays/one#top", directory)
    assert lines[0] == ESSAY
    assert row(lines, "fetched") == "2023-11-16 22:13:20 UTC, status 200, the last of 2 times"
    assert row(lines, "promised") == "0.2500, by policy tinylm, chosen with probability 1"
    assert row(lines, "was worth") == (
        "0.5000: kept, quality 0.50 by online, 75% of the text new, 1,234 words; "
        "0 votes, 3 pages linked to it, 2 links from a seed"
    )
    assert row(lines, "expected").startswith("0.3750, before")


def test_ingredients_are_in_plain_words_the_largest_first(directory, tell):
    table = [line.split("│")[1:3] for line in tell(ESSAY, directory) if line.startswith("│")]
    assert [tuple(map(str.strip, cells)) for cells in table] == [
        ("+0.2500", "mean worth of the pages that link to it"),
        ("+0.1875", "of another policy"),
        ("-0.0625", "how far it is from a seed"),
        ("0.3750", "expected"),
    ]


def test_every_ingredient_of_the_policy_has_its_words():
    assert set(WORDS) == {*INGREDIENTS, DISCOVERY}
    assert len(set(WORDS.values())) == len(WORDS)


def test_a_dropped_page_says_why(directory, tell):
    assert row(tell(SHOP, directory), "was worth") == "0.0000: dropped, language"


def test_of_a_page_that_was_not_fetched_the_nearest_of_its_host_are_named(directory, tell):
    assert tell(QUEUED, directory) == [
        QUEUED, "was not fetched", f"but fetched was {ESSAY}", f"but fetched was {SHOP}",
    ]  # fmt: skip
    assert tell("http://b.test/", directory) == ["http://b.test/", "was not fetched"]


def test_without_a_directory_it_is_the_crawl_of_these_settings(directory, tell):
    assert tell(SHOP, "--data", directory.parent) == tell(SHOP, directory)


def test_what_cannot_be_answered_is_one_line(directory, tell, tmp_path):
    [line] = tell("mailto:x@a.test", directory)
    assert "'mailto:x@a.test' names no host and no http or https URL" in line
    assert "no manifest.json here" in tell(SHOP, tmp_path)[0]


def test_what_was_taken_down_is_not_told(directory, tell):
    with ShardWriter(directory) as writer:
        writer.update(tombstones=("a.test",))
    assert tell(ESSAY, directory) == [ESSAY, "was taken down: nothing is told of it"]


def test_what_the_frontier_gave_up_does_not_wait(directory, restored, tell, server):
    frontier = open_frontier(server, delay=0, attempts=1)
    crawl = ("--data", directory.parent, "--redis-url", server.url, "--crawl-id", frontier.config.crawl_id)
    assert "waits to be fetched" in tell(QUEUED, *crawl)[1]
    frontier.put([Discovered(QUEUED, 0.5)])
    frontier.nack(lease_one(frontier), "dns", sent=False, final=True)
    assert tell(QUEUED, *crawl)[1:] == [
        "was refused or given up, dns (there is no such name, or no name server that knows it): "
        f"`tinylm frontier retry {QUEUED}` queues it again"
    ]  # fmt: skip
    frontier.take_down("a.test")
    assert tell(QUEUED, *crawl)[1:] == ["was taken down: nothing is told of it"]


def test_a_corpus_without_a_log_says_so(tmp_path, tell):
    with ShardWriter(tmp_path) as writer:
        writer.append(make_document(1))
        writer.commit()
    assert "of some shards the fetches were not logged" in tell(make_document(1).url, tmp_path)[-1]


class Told(Simple):
    """A policy that says what it expects, and of what that is made."""

    def explain(self, rows):
        return [("depth", 0.5 - self._graph.depth[rows]), ("inlinks", self._graph.inlinks[rows] / 2)]


@pytest.fixture
def restored(directory, monkeypatch):
    """What a walker would have known of this crawl when it was last committed."""
    with ShardWriter(directory) as writer:
        writer.commit(state=b"state")
    graph = LinkGraph()
    essay, queued = (Target(fingerprint(url), url) for url in (ESSAY, QUEUED))
    graph.seed(essay, 4.0, 1.0)
    graph.link(graph.take(essay), ESSAY, 0.5, [queued])
    monkeypatch.setattr(why, "restored", lambda of: (graph, Told(graph, "bfs")) if of == directory else None)


def test_a_url_that_waits_is_explained_out_of_the_walkers_last_state(directory, restored, tell):
    lines = tell(QUEUED, directory)
    assert "waits to be fetched, and promises 0.5000 by policy bfs" in lines
    assert "0 votes, 1 pages linked to it, 1 links from a seed" in lines
    rows = [line.split("│")[1:3] for line in lines if line.startswith("│")]
    assert [cells[0].strip() for cells in rows] == ["-0.5000", "+0.5000", "0.0000"]


def test_a_url_that_nobody_met_is_said_to_be(directory, restored, tell):
    assert tell("https://a.test/essays/three", directory)[1:3] == [
        "was never met", f"but fetched was {ESSAY}"
    ]  # fmt: skip


def test_a_fetched_url_is_answered_without_the_walkers_state(directory, restored, tell, monkeypatch):
    def lost(directory):
        raise ShardError(f"{directory}: no state")

    monkeypatch.setattr(why, "restored", lost)
    assert "dropped, language" in "".join(tell(SHOP, directory))
    assert tell(QUEUED, directory)[-1].endswith(": no state")


@pytest.fixture
def crawl(server, tmp_path, tell):
    """A frontier whose corpus has nothing yet, and `tinylm why` of it."""
    opened = open_frontier(server, attempts=3, delay=0)
    settings = ("--data", tmp_path, "--redis-url", server.url, "--crawl-id", opened.config.crawl_id)
    opened.url = server.url
    return opened, lambda what: "\n".join(tell(what, *settings))


def put(frontier, *urls, referrer=""):
    frontier.put(Discovered(url, 0.5 - 0.1 * at, referrer) for at, url in enumerate(urls))


PAGES = [f"http://a.test/{number}" for number in range(3)]


def test_a_url_says_how_many_of_its_host_come_first_and_that_it_is_asked_for(crawl):
    frontier, why = crawl
    put(frontier, *PAGES)
    assert "2 URLs of its host promise more" in why(PAGES[2])
    assert "a.test may be asked now" in why(PAGES[2])
    lease = next_page(frontier)
    assert "it is being asked for now" in why(lease.url)
    assert "a.test is being asked for a page" in why(PAGES[1])
    assert "was not fetched" in why("http://a.test/none")


def test_a_url_of_a_host_that_nobody_can_connect_to_says_so(crawl):
    frontier, why = crawl
    put(frontier, *PAGES)
    frontier.nack(lease_one(frontier), "dns", sent=False, back_off=True)
    said = why(PAGES[0])
    assert "a.test rests for its Retry-After, a failure or a person's word: in" in said
    assert "the last time dns, no connection 1 times on end (there is no such name" in said
    put(frontier, "http://b.test/0", "http://b.test/1")
    frontier.nack(lease_one(frontier), "dns", sent=False, final=True)
    assert "was refused or given up, dns (there is no such name" in why("http://b.test/1")
    assert "refused or given up: dns 2 (there is no such name" in why("b.test")
    assert "b.test was never met, or was given up and forgotten" in why("b.test")


def test_a_url_that_a_rule_refused_says_which(crawl):
    frontier, why = crawl
    put(frontier, "http://a.test/")
    frontier.skip(next_page(frontier), "robots")
    put(frontier, "http://b.test/")
    frontier.skip(lease_one(frontier), "forbidden_network")  # as its robots.txt is
    for url, reason in (("http://a.test/", "robots"), ("http://b.test/", "forbidden_network")):
        assert f"was refused or given up, {reason} (" in why(url)
    assert "refused or given up: robots 1 (robots.txt does not let this user_agent in)" in why("a.test")


def test_a_url_behind_the_best_of_its_host_and_one_that_robots_will_refuse_say_so(
    crawl, directory, restored, tell
):
    frontier, _ = crawl
    frontier.set_rules(replace(frontier.config, hot_per_host=1))
    put(frontier, f"{QUEUED}-better", QUEUED)
    rules = "User-agent: us\nDisallow: /essays/t\n"
    frontier.publish("settings", {"user_agent": "us (+https://x.test/)"})
    frontier.ack_robots(lease_one(frontier), rules, valid=3600, crawl_delay=0, latency=0, size=9)
    config = frontier.config
    settings = ("--redis-url", frontier.url, "--crawl-id", config.crawl_id, "--data", directory.parent)
    said = tell(QUEUED, *settings)
    assert "it waits in lists or on disk, behind the best of its host; or with the walker" in said
    assert "robots (robots.txt does not let this user_agent in): it will be refused" in said
    assert "queued 2 (1 behind the best), fetched 1" in said


def test_a_url_says_that_its_host_its_crawl_or_its_budget_keeps_it(crawl):
    frontier, why = crawl
    put(frontier, *PAGES)
    frontier.pause("a.test")
    assert "a.test is paused: `tinylm frontier resume a.test`" in why(PAGES[0])
    frontier.resume("a.test")
    frontier.pause()
    assert "The crawl is paused" in why(PAGES[0])
    frontier.resume()
    frontier.set_rules(replace(frontier.config, pages_per_found_host=1, pages_per_referring_domain=0))
    ack(frontier, lease_one(frontier))
    eventually(lambda: frontier.lease(1) == [] and frontier.why_idle()["budget_spent"])
    assert "a.test has spent its budget, or a.test has: 1 fetches; pages_per_host" in why(PAGES[0])
    frontier.stop("less than 5 GB of disk left")
    assert "the crawl stopped: less than 5 GB of disk left" in why(PAGES[0])
    year = time.time() + 366 * 86400
    put(frontier, "http://c.test/")
    frontier.block_until("c.test", year)
    assert "rests for its Retry-After, a failure or a person's word: at " in why("http://c.test/")
    assert time.strftime("at %Y-%m-%d", time.gmtime(year)) in why("c.test")
    frontier.take_down(PAGES[0])
    assert "was taken down" in why(PAGES[0])


def test_a_page_without_a_scheme_is_one_of_either(directory, tell):
    said = tell(ESSAY.removeprefix("https://"), directory)
    assert said[0] == ESSAY
    assert said[1].startswith("fetched")
    assert said[said.index(ESSAY.replace("https", "http")) + 1] == "was not fetched"
    assert tell("nothing at all", directory)[0].startswith("error: 'nothing at all' names no host")


def test_a_host_is_explained_out_of_the_corpus_where_no_server_runs(directory, tell):
    assert tell("a.test", directory) == [
        "a.test", "kept 2, language 1", "no server runs, which would say why it waits"
    ]  # fmt: skip
