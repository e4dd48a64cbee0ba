"""What `tinylm status` says: of quality, and why nothing is ready."""

import io
import re
import time
from datetime import UTC, datetime

import pytest
from rich.console import Console

from crawler.frontier import Discovered, Limits
from crawler.read.pool import Times
from deploy.cli.app import app
from deploy.status import StatusReader, line, table, verdict
from ranker.config import WalkConfig
from ranker.walker import Walker
from shards.writer import ShardWriter
from tests.conftest import open_frontier
from tests.crawler.driving import ack, lease_one, next_page
from tests.ranker.test_walker import feed


def shown(frontier, width=160):
    said = io.StringIO()
    Console(width=width, file=said).print(table(StatusReader(frontier).read(), "Waiting."))
    return said.getvalue()


def test_it_names_the_model_and_how_far_to_trust_it(server, tmp_path):
    frontier = open_frontier(server, delay=0)
    assert "no walker yet" in shown(frontier)
    with ShardWriter(tmp_path, crawl_id="c") as writer:
        walker = Walker(frontier, writer, WalkConfig(languages=()))
        feed(frontier, range(1, 4))
        walker.step()
        walker.commit()
    assert "tells nothing before people's votes: 8 pages with some are missing, or see --quality" in shown(
        frontier
    )
    voted = {"votes_missing": 0, "calibration_error": 0.081, "drift": 0.3}
    frontier.publish("walker", frontier.published("walker") | voted)
    assert "0.50 (online, ECE 0.08, PSI 0.30, 100% of kept text new)" in shown(frontier)


def test_it_says_what_a_workers_machine_lacks_while_it_does(server):
    frontier = open_frontier(server)
    frontier.put([Discovered("https://a.test/", 0.5)])
    for seconds_ago, waiting_for, said in (
        (0, "no room: make some", True),
        (3600, "no room", False),
        (0, "", False),
    ):
        lacking = {"waiting_for": waiting_for, "at": time.time() - seconds_ago}
        frontier.publish("worker:here:1", Times().state() | lacking)
        text = verdict(StatusReader(frontier).read(), 100).text
        assert (text == f"A worker waits, nothing is lost: {waiting_for}.") == said


def test_it_counts_hosts_to_which_no_connection_was_made(server):
    frontier = open_frontier(server)
    frontier.put([Discovered("https://a.test/", 0.5)])
    [lease] = frontier.lease(1)
    frontier.nack(lease, "dns", sent=False)
    assert "no connection to 1" in shown(frontier)


def test_the_command_says_why_nothing_is_fetched(server, capsys):
    frontier = open_frontier(server)
    crawl = ["status", "--redis-url", server.url, "--crawl-id", frontier.config.crawl_id]
    for said in ("give it seeds", "is no `tinylm worker` running?", "The crawl is paused"):
        with pytest.raises(SystemExit):
            app(crawl)
        assert said in capsys.readouterr().out
        if frontier.counts()["discovered"]:
            frontier.pause()
        frontier.put([Discovered("https://a.test/", 0.5)])


@pytest.mark.parametrize(("age", "said"), [(0, "no room"), (3600, "")])
def test_what_a_workers_machine_lacks_is_told_while_the_worker_is_there(server, age, said):
    frontier = open_frontier(server)
    times = Times()
    frontier.publish("worker:a:1", times.state() | {"waiting_for": "", "at": time.time()})
    frontier.publish("worker:b:1", times.state() | {"waiting_for": "no room", "at": time.time() - age})
    assert StatusReader(frontier).read().waiting_for == said


@pytest.mark.parametrize("width", [60, 80, 160])
def test_the_bar_and_each_fact_have_a_line_of_their_own_however_narrow_the_terminal_is(server, width):
    frontier = open_frontier(server)
    frontier.set_limits(Limits(pages=2, bytes=10**6, until=time.time() + 60, failed_connections=10))
    frontier.put([Discovered("https://a.test/", 0.5)])
    ack(frontier, lease_one(frontier))
    lines = shown(frontier, width).splitlines()
    assert lines[0].strip()
    assert not lines[0].strip("━╺╸ ")
    names = [line.split()[0] for line in lines[1:] if not line.startswith(" ")]
    assert names == [
        "fetched",
        "elsewhere",
        "queued",
        "kept",
        "quality",
        "hosts",
        "extraction",
        "dropped",
        "now",
    ]
    assert max(map(len, lines)) <= width


def test_one_reading_tells_no_rate(server):
    frontier = open_frontier(server)
    reader = StatusReader(frontier)
    assert reader.read().rate is None
    assert "pages/s" not in shown(frontier)
    assert "/s" not in line(reader.read(), 100)


def test_a_crawl_that_only_waits_says_for_whom_and_until_when(server):
    frontier = open_frontier(server, delay=0)
    frontier.put([Discovered("https://a.test/", 0.5), Discovered("https://a.test/2", 0.5)])
    frontier.nack(next_page(frontier), "status_503", retry_at=time.time() + 366 * 86400)
    year = datetime.now(UTC).year + 1
    said = verdict(StatusReader(frontier).read(), 100).text
    assert re.search(rf"rests; the next, a\.test, may be asked at {year}-", said)
    assert said in line(StatusReader(frontier).read()._replace(quiet=6.0), 100)


def test_a_crawl_that_goes_well_is_said_to_fetch(server, capsys, monkeypatch):
    frontier = open_frontier(server, delay=0)
    frontier.put([Discovered("https://a.test/", 0.5)])

    def fetch(seconds):
        ack(frontier, lease_one(frontier))

    monkeypatch.setattr("deploy.cli.crawl.time.sleep", fetch)
    with pytest.raises(SystemExit):
        app(["status", "--redis-url", server.url, "--crawl-id", frontier.config.crawl_id])
    assert "pages a second" in capsys.readouterr().out
