"""`tinylm shards`, as a person uses it when something must be taken down."""

import re
from dataclasses import replace

import pytest

from crawler.frontier import Discovered
from crawler.urls import fingerprint
from deploy.cli.app import main
from shards.manifest import Manifest
from shards.reader import ShardReader
from shards.writer import ShardWriter
from tests.conftest import open_frontier
from tests.crawler.driving import next_page
from tests.shards.conftest import make_document, make_fetch


@pytest.fixture
def corpus(tmp_path):
    with ShardWriter(tmp_path, crawl_id="c") as writer:
        for number, host in enumerate(["a.test", "b.test", "c.test"]):
            document = make_document(number, host=host)
            writer.append(replace(document, id=f"{fingerprint(document.url):016x}-1"))
        writer.commit({"0": "1-0"})
    return tmp_path


def hosts(directory):
    return [document["host"] for document in ShardReader(directory, split="all")]


@pytest.fixture
def tell(corpus, capsys):
    def run(verb, *words):
        with pytest.raises(SystemExit) as ended:
            main(["shards", verb, str(corpus), *words])
        said = capsys.readouterr()
        assert ended.value.code == (2 if said.err else 0)
        return said.out + said.err

    return run


def test_documents_are_shown_by_host_by_url_and_any(corpus, tell):
    assert "https://a.test/0" in (first := tell("show", "--limit", "1"))
    assert "1 of 3" in first
    assert "https://b.test/1" in (said := tell("show", "--host", "B.test"))
    assert "1 of 1" in said
    assert "https://c.test/2" in tell("show", "--url", "https://c.test/2#part")
    assert "3 of 3" in tell("show", "--sample", "--limit", "9")
    assert "no document is of x.test" in tell("show", "--host", "x.test")


def test_what_was_dropped_is_shown_by_reason_and_hosts_are_tallied(corpus, tell):
    with ShardWriter(corpus, crawl_id="c") as writer:
        for number, reason in enumerate(["", "pre_short", "pre_short", "duplicate"], 10):
            host = "d.test" if number < 12 else "e.test"
            document = None if reason else make_document(number, host=host)
            writer.append(document, [], make_fetch(number, host=host, reason=reason))
        writer.commit({"0": "2-0"})
    assert "1 of 2" in (said := tell("show", "--reason", "pre_short", "--limit", "1"))
    assert "'status': 200" in said
    assert "1 of 1" in tell("show", "--reason", "pre_short", "--host", "e.test")
    assert "no fetch dropped for language is there" in tell("show", "--reason", "language")
    said = tell("hosts", "--top", "1")
    assert "2 hosts were fetched from" in said
    assert re.search(r"d\.test\W+2\W+1\W+pre_short 1", said)


def test_hosts_and_urls_are_taken_down_and_purged(corpus, tell):
    said = tell("take-down", "A.test", "https://C.test/2#part")
    assert "taken down: a.test, 1 document\ntaken down: https://c.test/2, 1 document\nno reader gives" in said
    assert hosts(corpus) == ["b.test"]
    assert "taken down: a.test, https://c.test/2" in tell("list")
    assert "2 documents, 0 links and 0 logged fetches are gone" in tell("purge")
    assert Manifest.load(corpus).rows == 1
    assert "0 documents" in tell("purge")


def test_beside_a_crawl_its_frontier_is_told(corpus, tell, server):
    frontier = open_frontier(server, crawl_id="c", delay=0)
    frontier.put([Discovered("https://a.test/9", 0.9), Discovered("https://b.test/9", 0.5)])
    with ShardWriter(corpus, crawl_id="c"):
        said = tell("take-down", "a.test", "--redis-url", server.url, "--crawl-id", "other")
        assert "crawl 'c' is writing here: name it with --crawl-id" in said
        said = tell("take-down", "a.test", "--redis-url", server.url, "--crawl-id", "c")
        assert "from the walker's next commit" in said
        assert "another process is writing here" in tell("purge")
    assert frontier.taken_down() == {"a.test"}
    assert next_page(frontier).url == "https://b.test/9"


@pytest.mark.parametrize(
    "what", ["A.TEST.", "a.test:443", "a.test:8080", " a.test ", "a.test/", "a.test/0", "HTTPS://a.test/0#x"]
)
def test_a_take_down_finds_its_document_however_the_name_is_written(corpus, tell, what):
    assert "1 document\n" in tell("take-down", what)
    assert hosts(corpus) == ["b.test", "c.test"]
    assert "1 documents, 0 links and 0 logged fetches are gone" in tell("purge")


def test_a_take_down_that_hits_nothing_says_so(corpus, tell):
    assert tell("take-down", "d.test").startswith("d.test hits nothing now (0 documents); it is remembered")
    assert Manifest.load(corpus).tombstones == ("d.test",)
    assert "'/path' names no host" in tell("take-down", "a.test", "/path")
    assert "nothing to take down" in tell("take-down")
    assert hosts(corpus) == ["a.test", "b.test", "c.test"]


def test_a_host_is_taken_down_with_all_its_ports(tmp_path, tell, corpus):
    old = tmp_path / "old"
    with ShardWriter(old, crawl_id="c") as writer:
        for number, host in enumerate(["a.test:8080", "[::1]:8080", "a.test"]):
            writer.append(make_document(number, host=host))
        writer.commit({"0": "1-0"})
        writer.update(tombstones=("[::1]",))
    assert hosts(old) == ["a.test:8080", "a.test"]
    with ShardWriter(old) as writer:
        writer.update(tombstones=("a.test",))
    assert hosts(old) == ["[::1]:8080"]


def test_what_is_damaged_can_be_taken_down(corpus, tell):
    (corpus / Manifest.load(corpus).shards[0].name).write_bytes(b"PAR1")
    with pytest.raises(SystemExit):
        main(["shards", "take-down", str(corpus), "a.test"])
    assert Manifest.load(corpus).tombstones == ("a.test",)


def test_a_page_is_shown_however_its_url_is_written(corpus, tell):
    assert "https://a.test/0" in tell("show", "--url", "HTTPS://A.test:443/0#x")
    assert "no document has the URL https://a.test/9 or http://a.test/9" in tell("show", "--url", "a.test/9")


def test_a_number_of_things_to_show_is_above_0(corpus, capsys):
    for words in (["rank", str(corpus), "--top", "-1"], ["show", str(corpus), "--limit", "0"]):
        with pytest.raises(SystemExit) as ended:
            main(["shards", *words])
        assert ended.value.code
        assert "Must be >= 1" in "".join(capsys.readouterr())
