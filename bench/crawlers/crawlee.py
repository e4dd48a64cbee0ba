"""Crawlee for Python and trafilatura: its fastest parser, its request queue and dataset in memory."""

import asyncio

import trafilatura
from crawlee import ConcurrencySettings, Request
from crawlee.crawlers import ParselCrawler, ParselCrawlingContext
from crawlee.storage_clients import MemoryStorageClient
from crawlee.storages import RequestQueue

from bench.crawlers import CONCURRENCY, TRAFILATURA, Job


async def crawl(job: Job) -> None:
    storage = MemoryStorageClient()
    found = await RequestQueue.open(alias="found", storage_client=storage)
    crawler = ParselCrawler(
        storage_client=storage,
        max_requests_per_crawl=len(job.urls),
        max_request_retries=0,
        use_session_pool=False,
        retry_on_blocked=False,
        configure_logging=False,
        ignore_http_error_status_codes=[404],
        concurrency_settings=ConcurrencySettings(
            min_concurrency=CONCURRENCY, desired_concurrency=CONCURRENCY, max_concurrency=CONCURRENCY
        ),
    )

    @crawler.router.default_handler
    async def handle(context: ParselCrawlingContext) -> None:
        await found.add_requests(await context.extract_links(strategy="all"))
        if job.mode != "links":
            body = await context.http_response.read()
            text = trafilatura.extract(body, url=context.request.url, **TRAFILATURA)
            if text:
                await context.push_data({"url": context.request.url, "text": text})

    await crawler.run([Request.from_url(url) for url in job.urls])
    data = await crawler.get_data(limit=len(job.urls))
    job.finish((str(item["url"]), str(item["text"])) for item in data.items)


if __name__ == "__main__":
    asyncio.run(crawl(Job.given()))
