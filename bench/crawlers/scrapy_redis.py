"""scrapy-redis and trafilatura, as its documentation puts them together: scheduler and pipeline in Redis."""

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import redis
import trafilatura
from scrapy import Request, Spider
from scrapy.crawler import AsyncCrawlerProcess
from scrapy.http import HtmlResponse, Response
from scrapy.linkextractors import LinkExtractor
from scrapy_redis.dupefilter import RFPDupeFilter
from scrapy_redis.queue import PriorityQueue

from bench.crawlers import CONCURRENCY, TRAFILATURA, Job


class Contestant(Spider):
    """Fetches the list; links go through a filter and a queue of their own, so are not fetched."""

    name = "contestant"

    def __init__(self, job: Job, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.job = job
        self.waiting = set(job.urls)
        self.links = LinkExtractor()
        server = redis.Redis.from_url(job.redis_url)
        self.seen = RFPDupeFilter(server, "found:dupefilter")
        self.found = PriorityQueue(server, self, "found:requests")

    async def start(self) -> AsyncIterator[Request]:
        for url in self.job.urls:
            yield Request(url, priority=1, callback=self.parse, errback=self.failed)

    def parse(self, response: Response, **_kwargs: Any) -> Iterator[Any]:
        if isinstance(response, HtmlResponse):
            for link in self.links.extract_links(response):
                request = Request(link.url, callback=self.parse)
                if not self.seen.request_seen(request):
                    self.found.push(request)
            if self.job.mode != "links":
                text = trafilatura.extract(response.text, url=response.url, **TRAFILATURA)
                if text:
                    yield {"url": response.url, "text": text}
        self._over(response.request)

    def failed(self, failure: Any) -> None:
        self._over(failure.request)

    def _over(self, request: Request | None) -> None:
        self.waiting.discard(request.url if request else "")
        if not self.waiting:
            self.crawler.engine.close_spider(self, "all of the list is fetched")


def crawl(job: Job) -> None:
    process = AsyncCrawlerProcess({
        "REDIS_URL": job.redis_url,
        "SCHEDULER": "scrapy_redis.scheduler.Scheduler",
        "DUPEFILTER_CLASS": "scrapy_redis.dupefilter.RFPDupeFilter",
        "SCHEDULER_PERSIST": True,
        "ITEM_PIPELINES": {"scrapy_redis.pipelines.RedisPipeline": 300},
        "CONCURRENT_REQUESTS": CONCURRENCY,
        "CONCURRENT_REQUESTS_PER_DOMAIN": CONCURRENCY,
        "DOWNLOAD_DELAY": 0,
        "ROBOTSTXT_OBEY": False,
        "COOKIES_ENABLED": False,
        "RETRY_ENABLED": False,
        "REDIRECT_ENABLED": False,
        "TELNETCONSOLE_ENABLED": False,
        "LOG_LEVEL": "ERROR",
    })  # fmt: skip
    process.crawl(Contestant, job=job)
    process.start()
    items = redis.Redis.from_url(job.redis_url).lrange("contestant:items", 0, -1)
    job.finish((item["url"], item["text"]) for item in map(json.loads, items))


if __name__ == "__main__":
    crawl(Job.given())
