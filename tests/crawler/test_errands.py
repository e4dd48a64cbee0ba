"""A robots.txt that moved to another host is asked for in that host's turn, or not at all."""

import asyncio
import json
import time
from itertools import pairwise

import pytest

from crawler.fetch.robots import HostRules
from crawler.frontier import SEED, Discovered, Frontier
from crawler.frontier.records import Asker
from tests.conftest import article, eventually, make_page, open_frontier, reply, worker

AGENT = "tinylm/0.1 (+https://lab.example/crawler)"
FORBIDS = (200, "", b"User-agent: *\nDisallow: /private\nCrawl-delay: 0.05\n")


def moved(to: str) -> tuple[int, str, bytes]:
    return 302, to, b""


class Crawl:
    """What workers do with leases, on a web that is a table of answers; without one a URL is not found."""

    def __init__(self, frontier: Frontier, web: dict[str, tuple[int, str, bytes]]) -> None:
        self.frontier, self.web = frontier, web
        self.rules = HostRules(frontier, AGENT)
        self.asked: list[str] = []

    def turn(self) -> int:
        """Lease what there is and bring it to its end; returns how much."""
        leases = self.frontier.lease(200)
        for lease in leases:
            if lease.kind != "robots" and not self.rules.read(lease).allow(lease.url):
                self.rules.tell(lease.robots_for, "")
                self.frontier.skip(lease, "robots")
                continue
            self.asked.append(lease.url)
            if lease.kind == "page":
                self.frontier.ack(lease, make_page(lease), latency=0.0, size=9)
                continue
            answer = self.web.get(lease.url, (404, "", b""))
            settled = asyncio.run(self.rules.settled(lease, lease.url, *answer))
            settled.end(self.frontier, lease, latency=0.0, size=9)
        return len(leases)

    def until(self, *urls: str) -> None:
        """Go on until these were asked for."""
        eventually(lambda: self.turn() >= 0 and set(urls) <= set(self.asked))

    def rest(self, turns: int = 8) -> None:
        """Go on for so many rests of every host."""
        for _ in range(turns):
            self.turn()
            time.sleep(0.04)


@pytest.fixture
def crawl(server):
    def begin(web, *urls, **settings) -> Crawl:
        frontier = open_frontier(server, partitions=3, backoff=0.01, **settings)
        frontier.put([Discovered(url, 0.5, SEED) for url in urls])
        return Crawl(frontier, web)

    return begin


def pass_time(frontier: Frontier) -> None:
    """Let every host have rested as long as it was to."""
    for prefix in frontier.prefixes:
        for host in frontier.client.zrange(f"{prefix}cooling", 0, -1):
            frontier.client.zadd(f"{prefix}cooling", {host: 1})
            frontier.client.hset(f"{prefix}h:{host.decode()}", "next", 1)


def errands(frontier: Frontier, host: str) -> list[list[object]]:
    """Who waits for what `host` is asked for."""
    found = frontier.client.hvals(f"{frontier.prefixes[frontier.partition_of(host)]}e:{host}")
    return [asker for askers in found for asker in json.loads(askers)]


A, B = "https://a.example", "https://b.example"


def test_the_other_host_is_asked_in_its_turn_and_by_its_own_rules_first(crawl):
    web = {f"{A}/robots.txt": moved(f"{B}/rules.txt"), f"{B}/rules.txt": FORBIDS}
    c = crawl(web, f"{A}/private", f"{A}/page")
    c.until(f"{A}/page")
    c.rest()
    assert c.asked == [f"{A}/robots.txt", f"{B}/robots.txt", f"{B}/rules.txt", f"{A}/page"]
    counts = c.frontier.counts()
    assert counts["fetched"] == 4
    assert counts["skipped:robots"] == 1
    assert counts["queued"] == 0
    assert c.frontier.finished()
    # And it waits as long as the rules want.
    assert (
        c.frontier.client.hget(
            f"{c.frontier.prefixes[c.frontier.partition_of('a.example')]}h:a.example", "crawl_delay"
        )
        == b"50"
    )


def test_a_page_at_the_same_url_stays_a_page(crawl):
    web = {f"{A}/robots.txt": moved(f"{B}/page"), f"{B}/page": FORBIDS}
    c = crawl(web, f"{B}/page", f"{A}/page")
    c.until(f"{A}/page")
    c.rest()
    assert c.asked.count(f"{B}/page") == 2
    assert c.frontier.counts()["pages"] == 2


def test_another_hosts_own_robots_txt_is_asked_once_for_all(crawl):
    urls = [f"https://h{n}.example/page" for n in range(30)]
    web = {f"https://h{n}.example/robots.txt": moved(f"{B}/robots.txt") for n in range(30)}
    c = crawl(web | {f"{B}/robots.txt": (200, "", b"User-agent: *\nDisallow: /page")}, *urls)
    eventually(lambda: c.turn() >= 0 and c.frontier.counts()["skipped:robots"] == 30)
    c.frontier.put([Discovered("https://late.example/page", 0.5), Discovered(f"{B}/other", 0.5)])
    c.web["https://late.example/robots.txt"] = moved(f"{B}/robots.txt")
    eventually(lambda: c.turn() >= 0 and c.frontier.counts()["skipped:robots"] == 31)
    c.rest()
    assert c.asked.count(f"{B}/robots.txt") <= 2
    assert c.frontier.counts()["queued"] == 0


@pytest.mark.parametrize("taken_down", ["b.example", f"{B}/rules.txt"])
def test_what_was_taken_down_is_not_asked_and_is_no_robots_txt(crawl, taken_down):
    c = crawl({f"{A}/robots.txt": moved(f"{B}/rules.txt")}, f"{A}/page")
    c.frontier.take_down(taken_down)
    c.until(f"{A}/page")
    assert c.asked == [f"{A}/robots.txt", f"{A}/page"]


def test_what_is_taken_down_meanwhile_is_not_asked_either(crawl):
    c = crawl({f"{A}/robots.txt": moved(f"{B}/rules.txt")}, f"{A}/page")
    c.until(f"{B}/robots.txt")
    c.frontier.take_down("b.example")
    c.rest()
    pass_time(c.frontier)
    c.until(f"{A}/page")
    assert c.asked == [f"{A}/robots.txt", f"{B}/robots.txt", f"{A}/robots.txt", f"{A}/page"]


def test_where_it_moved_within_the_host_is_not_asked_once_that_was_taken_down(crawl):
    c = crawl({f"{A}/robots.txt": moved("/rules.txt"), f"{A}/rules.txt": FORBIDS}, f"{A}/page")
    c.until(f"{A}/robots.txt")
    c.frontier.take_down(f"{A}/rules.txt")
    c.until(f"{A}/page")
    assert c.asked == [f"{A}/robots.txt", f"{A}/robots.txt", f"{A}/page"]


def test_what_the_other_host_forbids_is_not_asked_and_is_no_robots_txt(crawl):
    web = {f"{A}/robots.txt": moved(f"{B}/private?q=1"), f"{B}/robots.txt": FORBIDS}
    c = crawl(web, f"{A}/page")
    c.until(f"{A}/page")
    assert c.asked == [f"{A}/robots.txt", f"{B}/robots.txt", f"{A}/page"]


def test_a_paused_host_is_not_asked_and_who_waits_for_it_does_so_for_a_while(crawl):
    c = crawl(
        {f"{A}/robots.txt": moved(f"{B}/rules.txt"), f"{B}/rules.txt": FORBIDS}, f"{A}/private", f"{A}/page"
    )
    c.frontier.pause("b.example")
    for n in range(1, 4):
        c.rest()
        assert c.asked == [f"{A}/robots.txt"] * n
        assert c.frontier.why_idle()["no_robots"] == 1
        pass_time(c.frontier)
    c.rest()
    pass_time(c.frontier)
    c.rest()
    assert c.asked == [f"{A}/robots.txt"] * 4
    assert sorted(c.frontier.dead_letters()) == [
        (f"{A}/page", "robots_moved"),
        (f"{A}/private", "robots_moved"),
    ]
    assert c.frontier.counts()["failed:robots_moved"] == 1
    # Who has them again, when the other host may be asked again, is told.
    c.frontier.resume("b.example")
    assert c.frontier.retry(f"{A}/page")
    c.until(f"{A}/page")
    assert c.asked.count(f"{B}/rules.txt") == 1


@pytest.mark.parametrize("answer", [(503, "", b""), (429, "", b""), (500, "", b"")])
def test_an_answer_that_is_none_makes_the_host_back_off_and_ask_again(crawl, answer):
    web = {f"{A}/robots.txt": moved(f"{B}/rules.txt"), f"{B}/rules.txt": answer}
    c = crawl(web, f"{A}/page")
    eventually(lambda: c.turn() >= 0 and c.frontier.dead_letters())
    assert c.frontier.dead_letters() == [(f"{A}/page", "robots_moved")]
    assert c.asked.count(f"{A}/robots.txt") == 4
    assert f"{A}/page" not in c.asked


def chain(hosts: int) -> dict[str, tuple[int, str, bytes]]:
    web = {f"https://h{n}.example/robots.txt": moved(f"https://h{n + 1}.example/r{n}") for n in range(1)}
    web |= {
        f"https://h{n}.example/r{n - 1}": moved(f"https://h{n + 1}.example/r{n}") for n in range(1, hosts)
    }
    return web | {f"https://h{hosts}.example/r{hosts - 1}": (200, "", b"User-agent: *\nDisallow: /")}


@pytest.mark.parametrize(("hosts", "allowed"), [(1, False), (5, False), (6, True)])
def test_five_redirects_are_followed(crawl, hosts, allowed):
    c = crawl(chain(hosts), "https://h0.example/page")
    eventually(lambda: c.turn() >= 0 and c.frontier.finished())
    assert ("https://h0.example/page" in c.asked) is allowed
    assert c.frontier.counts()["skipped:robots"] == (not allowed)


def test_redirects_in_a_circle_are_no_robots_txt(crawl):
    web = {f"{A}/robots.txt": moved(f"{B}/robots.txt"), f"{B}/robots.txt": moved(f"{A}/robots.txt")}
    c = crawl(web, f"{A}/page")
    c.until(f"{A}/page")
    assert len(c.asked) <= 10
    assert c.asked.count(f"{A}/robots.txt") >= 3
    # Two that wait for each other do so until one of them asks again.
    c.frontier.put(
        [Discovered(f"{host}/page", 0.5, SEED) for host in ("https://c.example", "https://d.example")]
    )
    for one, other in (("c", "d"), ("d", "c")):
        c.web[f"https://{one}.example/robots.txt"] = moved(f"https://{other}.example/robots.txt")
    c.until("https://c.example/robots.txt", "https://d.example/robots.txt")
    pass_time(c.frontier)
    c.until("https://c.example/page", "https://d.example/page")
    assert c.frontier.counts()["dead"] == 0


def test_within_a_host_it_is_the_next_request_of_that_host(crawl):
    web = {
        "http://a.example/robots.txt": moved(f"{A}/robots.txt"),
        f"{A}/robots.txt": moved("/r"),
        f"{A}/r": FORBIDS,
    }
    c = crawl(web, "http://a.example/private", "http://a.example/page")
    c.until("http://a.example/page")
    assert c.asked == ["http://a.example/robots.txt", f"{A}/robots.txt", f"{A}/r", "http://a.example/page"]
    assert c.frontier.counts()["skipped:robots"] == 1


def test_the_file_of_one_origin_is_that_of_all_that_point_to_it(crawl):
    web = {"http://a.example/robots.txt": moved(f"{A}/robots.txt"), f"{A}/robots.txt": FORBIDS}
    c = crawl(web, "http://a.example/page", f"{A}/page", f"{A}/private")
    c.until("http://a.example/page", f"{A}/page")
    c.rest()
    assert c.asked.count(f"{A}/robots.txt") == 1
    assert f"{A}/private" not in c.asked


def test_redirects_within_a_host_end(crawl):
    c = crawl({f"{A}/robots.txt": moved("/robots.txt")}, f"{A}/page")
    c.until(f"{A}/page")
    assert c.asked == [f"{A}/robots.txt"] * 6 + [f"{A}/page"]


def test_a_worker_that_dies_at_any_step_loses_nothing(crawl):
    web = {f"{A}/robots.txt": moved(f"{B}/rules.txt"), f"{B}/rules.txt": FORBIDS}
    c = crawl(web, f"{A}/private", f"{A}/page", attempts=10)
    tell, settled = c.rules.tell, c.rules.settled

    class Dead(Exception):
        pass

    def dies(*args, **kwargs):
        raise Dead

    async def dies_then(*args, **kwargs):
        await settled(*args, **kwargs)
        raise Dead

    for name, broken in (
        ("settled", dies_then),
        ("tell", dies),
        ("settled", dies_then),
        ("settled", dies_then),
    ):
        setattr(c.rules, name, broken)
        for _ in range(6):
            try:
                c.turn()
            except Dead:
                break
            time.sleep(0.04)
        c.rules.tell, c.rules.settled = tell, settled
        for prefix in c.frontier.prefixes:  # its leases run out
            for token in c.frontier.client.zrange(f"{prefix}deadlines", 0, -1):
                c.frontier.client.zadd(f"{prefix}deadlines", {token: 1})
        c.frontier.reap()
        pass_time(c.frontier)
    eventually(lambda: pass_time(c.frontier) or (c.turn() >= 0 and f"{A}/page" in c.asked))
    assert f"{A}/private" not in c.asked
    assert c.frontier.counts()["dead"] == 0
    c.rest()
    assert c.frontier.counts()["queued"] == 0


def test_askers_that_come_while_a_host_turns_out_to_be_forbidden_are_told_too(crawl):
    """A worker learns that a host is in a network where it may not go, while others are sent there."""
    web = {f"https://h{n}.example/robots.txt": moved(f"{B}/{n}") for n in range(3)}
    c = crawl(web, "https://h0.example/page")
    c.turn()
    for n in (1, 2):
        [lease] = eventually(lambda: [lease for lease in c.frontier.lease(9) if lease.host == "b.example"])
        assert lease.url == f"{B}/robots.txt"
        c.frontier.put([Discovered(f"https://h{n}.example/page", 0.5, SEED)])
        c.rules.forbid(lease)
        c.until(f"https://h{n}.example/robots.txt")
        c.frontier.skip(lease, "forbidden_network")
    [lease] = eventually(lambda: [lease for lease in c.frontier.lease(9) if lease.host == "b.example"])
    c.rules.forbid(lease)
    c.frontier.skip(lease, "forbidden_network")
    c.rest()
    assert not [url for url in c.asked if url.startswith(B)]
    assert c.frontier.counts()["queued"] == 0
    assert not c.frontier.client.keys(
        f"{c.frontier.prefixes[c.frontier.partition_of('b.example')]}[he]:b.example"
    )
    # And who comes when the host is forgotten.
    c.web["https://late.example/robots.txt"] = moved(f"{B}/late")
    c.frontier.put([Discovered("https://late.example/page", 0.5, SEED)])
    c.until("https://late.example/robots.txt")
    [lease] = eventually(lambda: [lease for lease in c.frontier.lease(9) if lease.host == "b.example"])
    c.rules.forbid(lease)
    c.until("https://late.example/page")


def test_an_answer_that_nobody_waits_for_changes_nothing(crawl):
    c = crawl({f"{A}/robots.txt": FORBIDS}, f"{A}/private", f"{A}/page")
    c.until(f"{A}/robots.txt")
    for rules in ("", None):
        assert not c.frontier.answer(Asker("a.example", "", 1), rules, valid=99.0, crawl_delay=0.0)
        assert not c.frontier.answer(Asker("new.example", "", 1), rules, valid=99.0, crawl_delay=0.0)
    c.until(f"{A}/page")
    c.rest()
    assert f"{A}/private" not in c.asked


def test_what_hosts_are_asked_for_is_bounded(crawl):
    urls = [f"https://h{n}.example/page" for n in range(150)]
    web = {f"https://h{n}.example/robots.txt": moved(f"{B}/same") for n in range(150)}
    c = crawl(web, *urls)
    c.frontier.pause("b.example")
    eventually(lambda: c.turn() >= 0 and len(c.asked) == 150)
    assert len(errands(c.frontier, "b.example")) == 100
    for n in range(150):
        c.web[f"https://h{n}.example/robots.txt"] = moved(f"{B}/{n}")
    pass_time(c.frontier)
    eventually(lambda: c.turn() >= 0 and len(c.asked) == 300)
    assert len(errands(c.frontier, "b.example")) == 199  # 99 more files, one host for each
    c.frontier.take_down("b.example")
    assert errands(c.frontier, "b.example") == []
    assert c.frontier.counts()["queued"] == 150


def test_workers_ask_nobody_who_may_not_be_asked_and_good_work_goes_on(server, site, forbidden, tmp_path):
    """Of two workers, with more hosts that point to one that is slow than they have requests in flight."""
    delay = 0.2
    site.on("victim.test", "/robots.txt", reply(200, "User-agent: *\nDisallow: /shop\n"))
    site.on(
        "slow.test", "*", lambda handler: (time.sleep(1), reply(200, "User-agent: *\nDisallow:\n")(handler))
    )
    targets = {
        "shop": "http://victim.test/shop?q=", "list": "http://victim.test/list?q=", "slow": "http://slow.test/",
        "gone": "http://gone.test/", "paused": "http://paused.test/", "lan": f"http://127.0.0.1:{forbidden.port}/",
    }  # fmt: skip
    pointing = {
        f"{kind}{n}.test": to for kind, to in targets.items() for n in range(12 if kind == "slow" else 3)
    }
    for number, (host, to) in enumerate(pointing.items()):
        site.on(host, "/robots.txt", reply(302, Location=f"{to}{number}"))
        site.on(host, "/page", reply(200, article(host)))
    for host in ("gone.test", "paused.test", *(f"good{n}.test" for n in range(4))):
        site.on(host, "*", reply(200, article(host)))
        site.on(host, "/robots.txt", reply(404))
    frontier = open_frontier(server, delay=delay, partitions=3)
    frontier.take_down("gone.test")
    frontier.pause("paused.test")
    frontier.put([Discovered(f"http://{host}/page", 0.9, SEED) for host in pointing])
    frontier.put([Discovered(f"http://good{n}.test/{k}", 0.5, SEED) for n in range(4) for k in range(30)])
    options = "--concurrency", "4"
    with (
        worker(server, frontier, site, tmp_path / "1", *options) as one,
        worker(server, frontier, site, tmp_path / "2", *options) as two,
    ):
        eventually(
            lambda: all(
                site.asked(host, "/page") for host in pointing if not host.startswith(("paused", "slow"))
            )
        )
        asked_of_slow = len(site.asked("slow.test"))
        good = sum(len(site.asked(f"good{n}.test")) for n in range(4))
        eventually(lambda: len(site.asked("slow.test")) >= asked_of_slow + 2)
        assert sum(len(site.asked(f"good{n}.test")) for n in range(4)) >= good + 4
        for process in (one, two):
            process.terminate()
        for process in (one, two):
            assert process.wait(60) == 0
    assert site.asked("gone.test") == site.asked("paused.test") == []
    assert forbidden.connections == 0
    assert sorted(hit.path.partition("?")[0] for hit in site.asked("victim.test")) == ["/list"] * 3 + [
        "/robots.txt"
    ]
    for host in ("victim.test", "slow.test"):
        hits = sorted(site.asked(host), key=lambda hit: hit.begun)
        assert all(after.begun - before.ended >= delay - 0.05 for before, after in pairwise(hits))
    assert not [host for host in pointing if host.startswith("paused") and site.asked(host, "/page")]
    assert frontier.counts()["fetched"] == len(site.hits)
