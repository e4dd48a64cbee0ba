"""tinylm: one worker with one extraction process, and a reader of the stream that pushes the links.

The reader stands for the walker without what the peers do not do: judging and ranking. What it pushes goes to
another crawl on the same server, so that only the list is fetched.
"""

import sys
from typing import cast

from bench.crawlers import CONCURRENCY, Job
from crawler.config import CrawlConfig, FrontierConfig
from crawler.fetch.worker import run
from crawler.frontier import Discovered, Frontier, connect
from crawler.page import Extracted, Page
from crawler.read.encoding import decode
from crawler.read.extract import Extractor, Screen
from tinylm.processes import start, stop

_BATCH = 64


class LinksOnly(Extractor):
    """The first tier alone, without the look at the text."""

    def __call__(self, body: bytes, url: str, content_type: str, nofollow: bool, seconds: float) -> Extracted:
        del seconds
        return self.look(decode(body, content_type)[0], url, nofollow=nofollow)


EXTRACTORS = {"links": LinksOnly(), "documents": Extractor(), "two tiers": Extractor(Screen(("en",), 0.65))}


def open_frontier(job: Job, crawl_id: str = "list") -> Frontier:
    """Without politeness."""
    settings = FrontierConfig(crawl_id=crawl_id, delay=0, latency_factor=0, exploration=0)
    return Frontier(connect(job.redis_url), settings)


def work(job: Job) -> None:
    config = CrawlConfig(allowed_networks=("127.8.0.0/16",), concurrency=CONCURRENCY, extractors=1)
    run(open_frontier(job), config, EXTRACTORS[job.mode])


def crawl(job: Job) -> None:
    frontier, found = open_frontier(job), open_frontier(job, "found")
    frontier.put(Discovered(url, 1.0) for url in job.urls)
    worker = start([sys.executable, "-m", "bench.crawlers.ours", sys.argv[1], "worker"])
    positions: dict[str, str] = {}
    waiting, documents = set(job.urls), []
    while waiting:
        entries = frontier.read_stream(positions, _BATCH, 0.5)
        links: dict[str, Discovered] = {}
        for entry in entries:
            page = cast("Page", entry.content)
            positions[entry.partition] = entry.id
            waiting.discard(page.url)
            if page.text:
                documents.append((page.url, page.text))
            links.update((link.url, Discovered(link.url, 0.0)) for link in page.links)
        found.put(links.values())
        frontier.trim_stream(positions)
    job.finish(documents)
    stop([worker])


if __name__ == "__main__":
    (work if "worker" in sys.argv else crawl)(Job.given())
