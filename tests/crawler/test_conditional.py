"""A page that is fetched again is asked for only if it has changed."""

import subprocess
import sys
from pathlib import Path

from crawler.frontier import Discovered
from tests.conftest import article, eventually, fetched_pages, open_frontier, reply

# A worker whose leases carry the validators of an earlier fetch.
WORKER = """
import sys
from dataclasses import replace
from crawler.config import CrawlConfig, FrontierConfig
from crawler.frontier import Frontier, connect
from crawler.fetch.worker import run

class Again(Frontier):
    def lease(self, n):
        return [
            replace(lease, etag='"v1"', last_modified="Tue, 01 Jul 2025 10:00:00 GMT")
            for lease in super().lease(n)
        ]

url, crawl_id, port = sys.argv[1:]
frontier = FrontierConfig(crawl_id=crawl_id, delay=0.03, latency_factor=0)
crawl = CrawlConfig(allowed_networks=(f"127.0.0.1/32:{port}",), resolve=(f"a.test=127.0.0.1:{port}",))
run(Again(connect(url), frontier), crawl)
"""


def test_an_unchanged_page_is_not_sent_again_and_a_changed_one_brings_new_validators(server, site, tmp_path):
    frontier = open_frontier(server)
    asked = {}

    def unless(etag):
        def answer(handler):
            asked[handler.path] = handler.headers["If-None-Match"], handler.headers["If-Modified-Since"]
            if asked[handler.path][0] == etag:
                reply(304)(handler)
            else:
                reply(200, article("changed"), ETag='W/"v2"', Last_Modified="now")(handler)

        return answer

    site.on("a.test", "/robots.txt", reply(404))
    site.on("a.test", "/same", unless('"v1"'))
    site.on("a.test", "/changed", unless('"v2"'))
    useless = {"/long": '"' + "x" * 600 + '"', "/latin": '"\xe9"', "/none": ""}
    for path, etag in useless.items():
        site.on("a.test", path, reply(200, article(path), ETag=etag))
    frontier.put(Discovered(f"http://a.test{path}", 0.5) for path in ("/same", "/changed", *useless))
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", WORKER, server.url, frontier.config.crawl_id, str(site.port)],
            cwd=Path(__file__).parents[2],
            stdout=log,
            stderr=log,
        )
        try:
            eventually(frontier.finished)
        finally:
            process.terminate()
            process.wait(60)
    pages = fetched_pages(frontier)
    assert asked["/same"] == ('"v1"', "Tue, 01 Jul 2025 10:00:00 GMT")
    same, changed = pages["http://a.test/same"], pages["http://a.test/changed"]
    assert (same.status, same.reason, same.unchanged, same.text) == (304, "not_modified", True, "")
    assert (same.etag, same.last_modified) == ('"v1"', "Tue, 01 Jul 2025 10:00:00 GMT")
    assert (changed.unchanged, changed.etag, changed.last_modified) == (False, 'W/"v2"', "now")
    assert {pages[f"http://a.test{path}"].etag for path in useless} == {""}
