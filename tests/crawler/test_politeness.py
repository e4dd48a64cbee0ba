"""What the servers see: bounds that must hold always, however slow the machine is."""

import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise

import pytest

from crawler.frontier import Discovered
from tests.conftest import Site, article, eventually, fetched_pages, open_frontier, reply, worker

RESOLUTION = 0.001
DELAY, CRAWL_DELAY, BACKOFF, OWN_DELAY = 0.15, 0.6, 0.4, 0.5
HOSTS = [f"h{n}.test" for n in range(4)]


def gaps(site, host):
    hits = sorted(site.asked(host), key=lambda hit: hit.begun)
    return [after.begun - before.ended for before, after in pairwise(hits)]


@pytest.fixture(scope="module", params=[1, 3], ids="{} partitions".format)
def crawled(server, tmp_path_factory, request):
    """Hosts that ask for rest in every way, met by two workers; until when those of a 429 asked for it."""
    site, until = Site(), {}
    own = (f"*.own.test={OWN_DELAY}", "slow.test=0.01")
    frontier = open_frontier(server, delay=DELAY, backoff=BACKOFF, partitions=request.param, delay_of=own)
    for host in HOSTS:
        site.on(host, "*", reply(200, article(host)))
        site.on(host, "/robots.txt", reply(200, ""))
        site.on(host, "/5", reply(302, Location="/6"))
        site.on(host, "/6", reply(500))
    site.on("slow.test", "*", reply(200, article("slow")))
    site.on("www.own.test", "*", reply(200, article("own")))
    rules = f"User-agent: other\nCrawl-delay: 9\n\nUser-agent: *\nCrawl-delay: {CRAWL_DELAY}\n"
    site.on("slow.test", "/robots.txt", reply(200, rules))
    site.on("moved.test", "/robots.txt", reply(301, Location="/1"))
    site.on("moved.test", "/1", reply(301, Location="/2"))
    site.on("moved.test", "/2", reply(200, "User-agent: *\nDisallow: /page"))
    site.on("busy.test", "/page", reply(503))

    def busy_once(host, as_date):
        def answer(handler):
            if host in until:
                reply(200, article(f"{host}, free now"))(handler)
                return
            at = datetime.now(UTC) + timedelta(seconds=2)
            until[host] = int(at.timestamp()) if as_date else time.time() + 2
            reply(429, Retry_After=format_datetime(at, usegmt=True) if as_date else "2")(handler)

        return answer

    for host in ("seconds.test", "date.test"):
        site.on(host, "/page", busy_once(host, host == "date.test"))
    paths = {**dict.fromkeys(HOSTS, range(7)), "slow.test": range(3), "www.own.test": range(3)}
    frontier.put(Discovered(f"http://{host}/{n}", 0.5) for host, numbers in paths.items() for n in numbers)
    once = ("moved.test", "busy.test", "seconds.test", "date.test")
    frontier.put(Discovered(f"http://{host}/page", 0.5) for host in once)
    log = tmp_path_factory.mktemp("politeness") / "log"
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(worker(server, frontier, site, log, "--concurrency", "3"))
        eventually(frontier.finished, 120)
    yield site, frontier, until
    site.stop()


def test_two_workers_together_never_ask_a_host_sooner_than_its_delay(crawled):
    for host in HOSTS:
        assert len(crawled[0].asked(host)) == 1 + 7 + 2
        assert min(gaps(crawled[0], host)) >= DELAY - RESOLUTION


def test_a_host_with_a_delay_of_its_own_rests_as_long_as_that(crawled):
    assert len(crawled[0].asked("www.own.test")) == 4
    assert min(gaps(crawled[0], "www.own.test")) >= OWN_DELAY - RESOLUTION


def test_crawl_delay_is_obeyed_whatever_a_person_gave_the_host(crawled):
    assert len(crawled[0].asked("slow.test")) == 4
    assert min(gaps(crawled[0], "slow.test")) >= CRAWL_DELAY - RESOLUTION


def test_a_redirect_of_robots_waits_as_any_request_does(crawled):
    assert [hit.path for hit in crawled[0].asked("moved.test")] == ["/robots.txt", "/1", "/2"]
    assert min(gaps(crawled[0], "moved.test")) >= DELAY - RESOLUTION


@pytest.mark.parametrize("host", ["seconds.test", "date.test"])
def test_retry_after_is_obeyed_in_seconds_and_as_a_date(crawled, host):
    site, frontier, until = crawled
    _, second = site.asked(host, "/page")
    assert second.begun >= until[host] - 2 * RESOLUTION
    assert f"http://{host}/page" in fetched_pages(frontier)
    assert frontier.counts()["failed:status_429"] == 2


def test_a_bare_503_backs_off_twice_as_long_each_time(crawled):
    site, frontier, _ = crawled
    one, two, three = site.asked("busy.test", "/page")
    assert two.begun - one.ended >= BACKOFF
    assert three.begun - two.ended >= 2 * BACKOFF
    assert ("http://busy.test/page", "status_503") in frontier.dead_letters()
