"""What the servers see: bounds that must hold always, however slow the machine is."""

from contextlib import ExitStack
from itertools import pairwise

import pytest

from crawler.frontier import Discovered
from tests.conftest import article, eventually, open_frontier, reply, worker

RESOLUTION = 0.001


def gaps(site, host):
    hits = sorted(site.asked(host), key=lambda hit: hit.begun)
    return [after.begun - before.ended for before, after in pairwise(hits)]


@pytest.mark.parametrize("partitions", [1, 3])
def test_two_workers_together_never_ask_a_host_sooner_than_its_delay(server, site, tmp_path, partitions):
    frontier = open_frontier(server, delay=0.15, partitions=partitions, attempts=2)
    hosts = [f"h{n}.test" for n in range(4)]
    for host in hosts:
        site.on(host, "*", reply(200, article(host)))
        site.on(host, "/robots.txt", reply(200, ""))
        site.on(host, "/5", reply(302, Location="/6"))
        site.on(host, "/6", reply(500))
    frontier.put(Discovered(f"http://{host}/{n}", 0.5) for host in hosts for n in range(7))
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(worker(server, frontier, site, tmp_path / "log", "--concurrency", "3"))
        eventually(frontier.finished)
    for host in hosts:
        assert len(site.asked(host)) == 1 + 7 + 1
        assert min(gaps(site, host)) >= 0.15 - RESOLUTION


def test_crawl_delay_is_obeyed(server, site, tmp_path):
    frontier = open_frontier(server)
    site.on("a.test", "*", reply(200, article("page")))
    rules = "User-agent: other\nCrawl-delay: 9\n\nUser-agent: *\nCrawl-delay: 0.6\n"
    site.on("a.test", "/robots.txt", reply(200, rules))
    frontier.put(Discovered(f"http://a.test/{n}", 0.5) for n in range(3))
    with worker(server, frontier, site, tmp_path / "log"):
        eventually(frontier.finished)
    assert len(site.asked("a.test")) == 4
    assert min(gaps(site, "a.test")) >= 0.6 - RESOLUTION


def test_a_redirect_of_robots_waits_as_any_request_does(server, site, tmp_path):
    frontier = open_frontier(server, delay=0.4)
    site.on("a.test", "/robots.txt", reply(301, Location="/1"))
    site.on("a.test", "/1", reply(301, Location="/2"))
    site.on("a.test", "/2", reply(200, "User-agent: *\nDisallow: /page"))
    frontier.put([Discovered("http://a.test/page", 0.5)])
    with worker(server, frontier, site, tmp_path / "log"):
        eventually(frontier.finished)
    assert [hit.path for hit in site.asked("a.test")] == ["/robots.txt", "/1", "/2"]
    assert min(gaps(site, "a.test")) >= 0.4 - RESOLUTION
