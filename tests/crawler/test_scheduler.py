"""Other people's spiders on the frontier: what Scrapy promises holds, and no process is the only one."""

import json
import re
import resource
import subprocess
import sys
import time
from collections import Counter
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

from crawler.frontier import Discovered
from tests.conftest import article, eventually, open_frontier, reply

# A spider as anybody might write it; two settings make it share the frontier.
SPIDER = """
import json, sys
import scrapy
from scrapy.crawler import AsyncCrawlerProcess

class Shop(scrapy.Spider):
    name = "shop"
    custom_settings = json.loads(sys.argv[1]) | {"SCHEDULER": "crawler.scheduler.FrontierScheduler"}
    start_urls = json.loads(sys.argv[2])

    def parse(self, response):
        yield {"url": response.url, "depth": response.meta["depth"]}
        for link in response.css("a::attr(href)").getall():
            yield response.follow(link)
        if response.url.endswith("/form"):
            for word in ("one", "two", "two"):
                yield scrapy.FormRequest(
                    response.url, formdata={"q": word}, callback=self.parse_answer, errback=self.failed,
                    cb_kwargs={"word": word}, meta={"tags": ("a", 1)}, headers={"X-Word": word},
                )
            yield response.follow("/broken", self.parse_broken)
            yield response.follow("/fails", self.parse, errback=self.failed)
            yield response.follow("/again", self.parse_again, dont_filter=True)
            yield response.follow("/huge", meta={"text": "t" * 2_000_000})

    def parse_answer(self, response, word):
        tags = response.meta["tags"]
        yield {"word": word, "tags": list(tags), "kind": str(type(tags)), "answer": response.text}

    def parse_again(self, response):
        times = response.meta.get("times", 0)
        yield {"again": times}
        if times < 2:
            yield response.follow("/again", self.parse_again, dont_filter=True, meta={"times": times + 1})

    def parse_broken(self, response):
        raise RuntimeError("a bug of theirs")

    def failed(self, failure):
        yield {"failed": failure.value.__class__.__name__}

if __name__ == "__main__":
    process = AsyncCrawlerProcess()
    process.crawl(Shop)
    process.start()
"""


@pytest.fixture
def spider(tmp_path, server):
    """Starts the spider on a frontier; what it scraped is in `items`."""
    (tmp_path / "shop.py").write_text(SPIDER)

    @contextmanager
    def start(frontier, name, *urls, **settings):
        chosen = {
            "TINYLM_FRONTIER": {
                "redis_url": server.url, "crawl_id": frontier.config.crawl_id, "delay": frontier.config.delay,
                "latency_factor": 0.0, "lease_seconds": 5.0, "backoff": 0.5,
            },
            "FEEDS": {str(tmp_path / f"{name}.jsonl"): {"format": "jsonlines"}},
            "RETRY_TIMES": 1,
            "USER_AGENT": "shop",
            "DOWNLOAD_DELAY": 0,
        } | settings  # fmt: skip
        with (tmp_path / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, str(tmp_path / "shop.py"), json.dumps(chosen), json.dumps(urls)],
                cwd=Path(__file__).parents[2],
                env={"PYTHONPATH": str(Path(__file__).parents[2])},
                stdout=log,
                stderr=log,
            )
            try:
                yield process
            finally:
                process.kill()
                process.wait()

    start.items = lambda name: [
        json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()
    ]
    start.log = lambda name: (tmp_path / f"{name}.log").read_text()
    return start


def base(site, host="127.0.0.1"):
    return f"http://{host}:{site.port}"


def test_requests_keep_all_they_carry_and_the_spider_ends_by_itself(server, site, spider):
    frontier = open_frontier(server)
    host = "127.0.0.1"

    def echo(handler):
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0)).decode()
        reply(200, f"{handler.command} {body} {handler.headers['X-Word']}" if body else article("form"))(
            handler
        )

    site.on(host, "/robots.txt", reply(200, "User-agent: *\nDisallow: /private"))
    site.on(host, "/", reply(200, article("shop", "/form", "/private", "/moved", "/form#part")))
    site.on(host, "/form", echo)
    site.on(host, "/moved", reply(302, Location="/target"))
    site.on(host, "/fails", reply(503))
    for path in ("/target", "/broken", "/again"):
        site.on(host, path, reply(200, "<p>text</p>"))
    with spider(frontier, "one", f"{base(site)}/") as process:
        assert process.wait(60) == 0, spider.log("one")
    items = spider.items("one")
    assert {item["url"].removeprefix(base(site)): item["depth"] for item in items if "url" in item} == {
        "/": 0, "/form": 1, "/target": 1,
    }  # fmt: skip
    answers = {item["word"]: item for item in items if "word" in item}
    assert answers["two"] == {
        "word": "two", "tags": ["a", 1], "kind": "<class 'tuple'>", "answer": "POST q=two two",
    }  # fmt: skip
    assert sorted(item["again"] for item in items if "again" in item) == [0, 1, 2]
    assert [item for item in items if "failed" in item] == [{"failed": "HttpError"}]
    asked = Counter(hit.path for hit in site.hits)
    assert asked == {
        "/robots.txt": 1, "/": 1, "/form": 3, "/moved": 1, "/target": 1, "/broken": 1, "/fails": 2,
        "/again": 3,
    }  # fmt: skip
    assert site.hits[0].path == "/robots.txt"
    assert "a bug of theirs" in spider.log("one")
    assert re.search("huge> is not queued: it has 2000[0-9]{3} bytes, 1048576 at most", spider.log("one"))
    prefix = frontier.prefixes[0]
    assert not frontier.client.exists(f"{prefix}requests", f"{prefix}leases", f"{prefix}pages")
    assert (frontier.counts()["skipped:robots"], frontier.counts()["refused"]) == (1, 0)


def test_a_url_that_somebody_puts_is_parsed_and_start_requests_are_made_once(server, site, spider):
    frontier = open_frontier(server)
    site.on("127.0.0.1", "*", reply(200, "<p>text</p>"))
    frontier.put([Discovered(f"{base(site)}/put", 0.5)])
    for name in ("first", "second"):
        with spider(frontier, name, f"{base(site)}/start") as process:
            assert process.wait(60) == 0, spider.log(name)
    assert Counter(hit.path for hit in site.hits) == {"/robots.txt": 1, "/put": 1, "/start": 1}


@pytest.mark.long
def test_two_processes_share_a_crawl_and_a_killed_one_loses_and_repeats_nothing(server, site, spider):
    """Only what was in the killed process's hands is fetched again: one page a host at most."""
    frontier = open_frontier(server, delay=0.03)
    hosts = ["127.0.0.1", "localhost"]
    pages = 60
    for host in hosts:
        site.on(host, "/robots.txt", reply(404))
        for n in range(pages):
            links = [f"/{2 * n + 1}", f"/{2 * n + 2}"] if 2 * n + 2 < pages else []
            site.on(host, f"/{n}", reply(200, article(f"{host} {n}", *links)))
    urls = [f"{base(site, host)}/0" for host in hosts]
    with spider(frontier, "a", *urls) as victim, spider(frontier, "b", *urls) as survivor:
        eventually(lambda: len(site.hits) > 30)
        victim.kill()
        victim.wait()
        killed = time.time()
        with spider(frontier, "c", *urls) as successor:
            assert survivor.wait(90) == 0, spider.log("b")
            assert successor.wait(90) == 0, spider.log("c")
    asked = Counter((hit.host, hit.path) for hit in site.hits)
    reachable = {(host, f"/{n}") for host in hosts for n in range(1 + 2 * ((pages - 1) // 2))}
    assert asked.keys() == reachable | {(host, "/robots.txt") for host in hosts}
    repeated = [key for key, times in asked.items() if times > 1]
    assert len(repeated) <= len(hosts)
    assert all(
        min(hit.begun for hit in site.hits if (hit.host, hit.path) == key) < killed for key in repeated
    )
    for host in hosts:
        hits = sorted((hit for hit in site.hits if hit.host == host), key=lambda hit: hit.begun)
        gaps = [later.begun - earlier.ended for earlier, later in pairwise(hits)]
        assert min(gaps) >= 0.03 - 0.001
    assert not frontier.client.exists(f"{frontier.prefixes[0]}requests")


def test_robots_txt_is_followed_to_another_host(server, site, spider):
    frontier = open_frontier(server, delay=0.05)
    moved = f"{base(site, 'localhost')}/rules.txt"
    site.on("127.0.0.1", "/robots.txt", reply(302, Location=moved))
    site.on("localhost", "/rules.txt", reply(200, "User-agent: *\nDisallow: /private"))
    site.on("127.0.0.1", "/open", reply(200, article("open", "/private")))
    site.on("127.0.0.1", "/private", reply(200, article("private")))
    with spider(frontier, "one", f"{base(site)}/open") as process:
        assert process.wait(60) == 0, spider.log("one")
    assert [(hit.host, hit.path) for hit in site.hits] == [
        ("127.0.0.1", "/robots.txt"), ("localhost", "/robots.txt"), ("localhost", "/rules.txt"),
        ("127.0.0.1", "/open"),
    ]  # fmt: skip
    assert (frontier.counts()["skipped:robots"], frontier.counts()["refused"]) == (1, 0)


def test_what_this_machine_lacks_is_no_hosts_failure(server, site, spider):
    frontier, under_way = open_frontier(server, attempts=1), []

    def slow(handler):
        under_way.append(True)
        time.sleep(2)
        reply(200, article("slow"))(handler)

    site.on("127.0.0.1", "/robots.txt", reply(404))
    site.on("127.0.0.1", "/", slow)
    site.on("localhost", "*", reply(200, article("other", "/two")))
    site.on("localhost", "/robots.txt", reply(404))
    with spider(frontier, "shop", f"{base(site)}/") as process:
        eventually(lambda: under_way)
        before = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (3, before[1]))
        frontier.put([Discovered(f"{base(site, 'localhost')}/", 0.5)])
        eventually(lambda: "waiting, nothing is lost: Too many open files" in spider.log("shop"))
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, before)
        assert process.wait(60) == 0
    assert site.asked("localhost", "/")
    assert frontier.dead_letters() == []
    assert frontier.counts()["failed_connections"] == 0
