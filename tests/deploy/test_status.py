"""What `tinylm status` says: of quality, and why nothing is ready."""

import io
import time

import pytest
from rich.console import Console

from crawler.frontier import Discovered
from crawler.read.pool import Times
from deploy.cli.app import app
from deploy.status import StatusReader, table, verdict
from ranker.config import WalkConfig
from ranker.walker import Walker
from shards.writer import ShardWriter
from tests.conftest import open_frontier
from tests.ranker.test_walker import feed


def shown(frontier):
    said = io.StringIO()
    Console(width=160, file=said).print(table(StatusReader(frontier).read()))
    return said.getvalue()


def test_it_names_the_model_and_how_far_to_trust_it(server, tmp_path):
    frontier = open_frontier(server, delay=0)
    assert "no walker yet" in shown(frontier)
    with ShardWriter(tmp_path, crawl_id="c") as writer:
        walker = Walker(frontier, writer, WalkConfig(languages=()))
        feed(frontier, range(1, 4))
        walker.step()
        walker.commit()
    assert "0.50 (online, no votes yet, PSI 0.00, 100% of kept text new)" in shown(frontier)
    frontier.publish("walker", frontier.published("walker") | {"calibration_error": 0.081, "drift": 0.3})
    assert "(online, ECE 0.08, PSI 0.30" in shown(frontier)


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
    assert "no connection 1 set aside 0" in " ".join(shown(frontier).split())


def test_the_command_says_why_nothing_is_fetched(server, capsys):
    frontier = open_frontier(server)
    crawl = ["status", "--redis-url", server.url, "--crawl-id", frontier.config.crawl_id]
    for said in ("give it seeds", "is a `tinylm worker` running?"):
        with pytest.raises(SystemExit):
            app(crawl)
        assert said in capsys.readouterr().out
        frontier.put([Discovered("https://a.test/", 0.5)])
