"""`tinylm shards`, as a person uses it when something must be taken down."""

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
from tests.shards.conftest import make_document


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


def test_hosts_and_urls_are_taken_down_and_purged(corpus, tell):
    assert "no reader gives them" in tell("take-down", "A.test", "https://C.test/2#part")
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
