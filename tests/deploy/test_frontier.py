"""`tinylm frontier`, as a person uses it beside a crawl."""

import pytest

from crawler.frontier import Discovered
from deploy.cli.app import main
from tests.conftest import open_frontier
from tests.crawler.driving import ack, lease_one, next_page


@pytest.fixture
def crawl(server):
    return open_frontier(server, delay=0, attempts=1)


@pytest.fixture
def tell(server, crawl, capsys):
    def run(*words):
        with pytest.raises(SystemExit) as ended:
            main(["frontier", *words, "--redis-url", server.url, "--crawl-id", crawl.config.crawl_id])
        said = capsys.readouterr()
        assert ended.value.code == (2 if said.err else 0)
        return said.out + said.err

    return run


def put(crawl, *urls):
    crawl.put(Discovered(url, 0.5) for url in urls)


def test_it_says_why_nothing_is_fetched(crawl, tell):
    assert "nothing wakes by itself" in tell("why")
    put(crawl, "https://a.test/1", "https://b.test/1")
    tell("pause", "b.test")
    said = tell("why")
    assert "1  host   rest between requests" in said
    assert "1  host   were paused" in said
    assert "the next one may be asked in 0.0 s" in said


def test_a_host_and_the_crawl_are_paused_and_resumed(crawl, tell):
    put(crawl, "https://a.test/1")
    for words in ([], ["a.test"]):
        tell("pause", *words)
        assert crawl.lease(1) == []
        tell("resume", *words)
        crawl.give_back(lease_one(crawl))
    tell("block", "a.test", "60")
    assert crawl.lease(1) == []
    assert 59 < crawl.why_idle()["next_wake_seconds"] <= 60


def test_dead_letters_are_listed_tried_again_and_dropped(crawl, tell):
    put(crawl, "https://a.test/1", "https://a.test/2", "https://b.test/1")
    for _ in range(3):
        crawl.nack(next_page(crawl), "timeout")
    assert tell("dead").splitlines()[0].startswith("timeout\thttps://")
    assert tell("retry", "https://a.test/1#part").strip() == "1 queued again"
    assert tell("drop", "--all").strip() == "2 dropped"
    assert tell("dead") == ""
    lease = next_page(crawl)
    assert lease.url == "https://a.test/1"
    ack(crawl, lease)
    assert crawl.finished()


def test_what_is_taken_down_is_gone(crawl, tell):
    put(crawl, "https://a.test/1", "https://a.test/2", "https://b.test/1")
    assert tell("take-down", "https://A.test/1").strip() == "taken down"
    assert tell("take-down", "b.test").strip() == "taken down"
    assert tell("take-down", "c.test").strip() == "taken down before it was met"
    put(crawl, "https://c.test/1")
    assert next_page(crawl).url == "https://a.test/2"
    assert crawl.counts()["queued"] == 0


def test_what_is_no_url_is_refused(tell):
    assert "'ftp://a.test/1' is not an http or https URL" in tell("take-down", "ftp://a.test/1")


def test_another_quality_model_is_asked_for(crawl, tell, tmp_path):
    path = tmp_path / "hq.bin"
    path.touch()
    assert tell("quality", str(path)) == ""
    first = crawl.published("quality")
    assert (first["model"], first["label"]) == (str(path), "__label__hq")
    tell("quality", str(path))
    assert crawl.published("quality") != first
    assert "there is no /nowhere/x.bin here" in tell("quality", "/nowhere/x.bin", "--label", "good")
    assert crawl.published("quality")["label"] == "good"
    assert tell("quality", "online") == ""
    assert crawl.published("quality")["model"] == "online"
