"""`tinylm frontier`, as a person uses it beside a crawl."""

import time
from dataclasses import replace

import pytest

from crawler.frontier import Discovered
from deploy.cli.app import main
from shards.writer import ShardWriter
from tests.conftest import open_frontier
from tests.crawler.driving import ack, lease_one, next_page
from tests.shards.conftest import make_document, make_fetch


@pytest.fixture
def crawl(server):
    return open_frontier(server, delay=0, attempts=1)


@pytest.fixture
def tell(server, crawl, capsys):
    def run(*words):
        with pytest.raises(SystemExit) as ended:
            main(["frontier", *words, "--redis-url", server.url, "--crawl-id", crawl.config.crawl_id])
        said = capsys.readouterr()
        assert ended.value.code == (2 if "error:" in said.err else 0)
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
    assert "may be asked in 0.0 s" in said


def test_a_host_and_the_crawl_are_paused_and_resumed(crawl, tell):
    put(crawl, "https://a.test/1")
    for words in ([], ["a.test"]):
        tell("pause", *words)
        assert crawl.lease(1) == []
        assert ("tinylm frontier resume" in tell("why")) == (not words), "of a host its line says it"
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
    assert tell("dead") == "no dead letters\n"
    lease = next_page(crawl)
    assert lease.url == "https://a.test/1"
    ack(crawl, lease)
    assert crawl.finished()


def test_entries_of_the_stream_that_were_set_aside_are_dead_letters_too(crawl, tell):
    for text in ("first", "second"):
        crawl.client.xadd(f"{crawl.prefixes[0]}pages", {"page": text})
    entries = crawl.read_stream({}, 10)
    for entry in entries:
        crawl.set_aside(entry, entry.fault)
    lines = tell("dead").splitlines()
    assert sorted(line.split("\t")[1] for line in lines) == [entry.name for entry in entries]
    assert "no page" in lines[0]
    assert tell("drop", entries[0].name) == "1 dropped\n"
    assert tell("retry", "--all") == "1 queued again\n"
    assert tell("dead") == "no dead letters\n"
    assert len(crawl.read_stream({"0": entries[1].id}, 10)) == 1


def test_what_is_taken_down_is_gone(crawl, tell):
    put(crawl, "https://a.test/1", "https://a.test/2", "https://b.test/1")
    assert tell("take-down", "https://A.test/1").strip() == "taken down: https://a.test/1, 1 queued URL"
    assert tell("take-down", "B.test.:443").strip() == "taken down: b.test, 1 queued URL"
    assert "c.test hits nothing now (never met); it is remembered" in tell("take-down", "c.test")
    said = tell("take-down", "c.test/1").splitlines()
    assert [line.split()[:3] for line in said] == [
        [url, "hits", "nothing"] for url in ("https://c.test/1", "http://c.test/1")
    ]
    put(crawl, "https://c.test/1")
    assert next_page(crawl).url == "https://a.test/2"
    assert crawl.counts()["queued"] == 0


@pytest.mark.parametrize(
    "what",
    ["bücher.example", " BÜCHER.Example. ", "bücher.example:443", "https://xn--bcher-kva.example/a?b#c"],
)
def test_hosts_are_put_into_canonical_form(crawl, tell, what):
    put(crawl, "https://xn--bcher-kva.example/1", "https://xn--bcher-kva.example/2")
    assert tell("pause", what).strip() == "paused xn--bcher-kva.example: 2 queued URLs"
    assert crawl.lease(1) == []
    assert tell("resume", what).strip() == "resumed xn--bcher-kva.example: 2 queued URLs"
    assert "xn--bcher-kva.example for 60 s: 2 queued URLs" in tell("block", what, "60")
    assert crawl.lease(1) == []


def test_a_pause_that_hits_nothing_says_so(crawl, tell):
    assert "paused d.test: this hits nothing yet" in tell("pause", "d.test")
    assert tell("pause", "--everything").strip() == "paused every crawl on this server: every host of it"
    assert "resumed every crawl" in tell("resume", "--everything")


NO_PLACES = ["ftp://a.test/1", "foo bar", "http://", "/path", "*.a.test", "you@a.test", "https:/a.test", " "]


def test_what_can_be_neither_host_nor_url_is_refused(crawl, tell):
    verbs = ["take-down", "pause", "resume", "block", "drop", "retry"]
    for what, verb in [*((what, verbs[0]) for what in NO_PLACES), *(("foo bar", verb) for verb in verbs)]:
        said = tell(verb, what, *(["1"] if verb == "block" else []))
        assert f"error: {what!r} names no host and no http or https URL" in said
    assert crawl.taken_down() == set()


@pytest.mark.parametrize("seconds", ["nan", "inf", "1e300", "--seconds=-1"])
def test_a_host_is_blocked_for_a_time_that_there_is(tell, seconds):
    assert "error: seconds = " in tell("block", "a.test", seconds)


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


def test_hosts_are_listed_with_what_they_wait_for_most_queued_first(crawl, tell, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    crawl.set_rules(replace(crawl.config, attempts=3))
    put(crawl, *(f"https://a.test/{n}" for n in range(3)))
    crawl.nack(next_page(crawl), "timeout", retry_at=time.time() + 3600)
    put(crawl, "https://b.test/1", "https://b.test/2", "https://c.test/")
    tell("pause", "b.test")
    with ShardWriter(tmp_path / "shards", crawl_id="c") as writer:
        for number, reason in enumerate(("", "", "language")):
            about = {"url": f"https://a.test/{number}", "host": "a.test"}
            document = None if reason else replace(make_document(number), **about)
            writer.append(document, (), replace(make_fetch(number, reason=reason), **about))
        writer.commit()

    def rows(*words):
        said = tell("hosts", "--data", str(tmp_path), *words).splitlines()
        return [[cell.strip() for cell in line.split("│")[1:-1]] for line in said if line.startswith("│")]

    listed = rows()
    assert [row[:6] for row in listed] == [
        ["a.test", "3", "2", "2", "1", "0 s"],
        ["b.test", "2", "0", "0", "0", "0 s"],
        ["c.test", "1", "0", "0", "0", "0 s"],
    ]  # fmt: skip
    assert listed[0][6].startswith("resting, at 20")
    assert [row[6] for row in listed[1:]] == ["paused", "ready"]
    assert [row[0] for row in rows("-n", "1", "--by", "next")] == ["a.test"]
    assert [row[0] for row in rows("--host", "B.test", "--host", "nobody.test")] == ["b.test"]


@pytest.mark.parametrize("where", ["tinylm.toml", "settings.toml"])
def test_a_command_that_only_looks_passes_over_rules_that_a_file_has_for_others(
    crawl, tell, tmp_path, monkeypatch, where
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / where).write_text("[frontier]\ndelay = 2.0\nhot-per-host = 9\n")
    assert "nothing wakes by itself" in tell("why", "--data", str(tmp_path))
    (tmp_path / where).write_text("[frontier]\ndelays = 2.0\n")
    assert "error:" in tell("why", "--data", str(tmp_path))
