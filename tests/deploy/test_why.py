"""`tinylm why` says of a URL what was promised, of what that was made, and what came of it."""

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
from tests.conftest import open_frontier
from tests.crawler.driving import lease_one
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
