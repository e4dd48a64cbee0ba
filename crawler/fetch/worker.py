"""One worker process: Scrapy's engine around `LeaseSpider`."""

import logging
from collections.abc import Callable

from scrapy.crawler import AsyncCrawlerProcess

from crawler.config import CrawlConfig
from crawler.fetch.guard import AddressGuard
from crawler.fetch.resolver import Resolver
from crawler.fetch.robots import product_token
from crawler.fetch.spider import LeaseSpider
from crawler.frontier import Frontier
from crawler.page import Extracted
from crawler.read.extract import Extractor

_DOWNLOADER_MIDDLEWARES = (
    "scrapy.downloadermiddlewares.offsite.OffsiteMiddleware",
    "scrapy.downloadermiddlewares.httpauth.HttpAuthMiddleware",
    "scrapy.downloadermiddlewares.stats.DownloaderStats",
    "scrapy.downloadermiddlewares.httpcompression.HttpCompressionMiddleware",
)


def run(frontier: Frontier, config: CrawlConfig, extract: Callable[..., Extracted] | None = None) -> None:
    """Fetch until SIGTERM or SIGINT; then finish what is in flight and give the rest back.

    `extract` is what the extraction processes call (default: an `Extractor` that extracts every page).

    Raises ConfigError for a setting that cannot work and ServerError if the frontier's server stays away.
    """
    config.check_user_agent()
    Resolver(config.resolve, AddressGuard(config.allowed_networks))
    process = AsyncCrawlerProcess(_settings(config), install_root_handler=False)
    logging.getLogger("scrapy").setLevel(logging.getLogger().level)
    crawler = process.create_crawler(LeaseSpider)
    process.crawl(
        crawler,
        frontier=frontier,
        config=config,
        extract=extract or Extractor(agent=product_token(config.user_agent)),
    )
    process.start()
    if isinstance(crawler.spider, LeaseSpider) and crawler.spider.fatal:
        raise crawler.spider.fatal


def _settings(config: CrawlConfig) -> dict[str, object]:
    """What Scrapy would do on its own and the frontier does for all workers together is off.

    So are middlewares that have nothing to do. Its scheduler, scraper and spider middlewares see no request.
    """
    handler = "crawler.fetch.handler.GuardedDownloadHandler"
    return {
        "TINYLM_ALLOWED_NETWORKS": list(config.allowed_networks),
        "TINYLM_RESOLVE": list(config.resolve),
        "USER_AGENT": config.user_agent,
        "DOWNLOAD_HANDLERS": {
            "http": handler, "https": handler, "file": None, "ftp": None, "s3": None, "data": None
        },
        "DOWNLOAD_VERIFY_CERTIFICATES": True,
        "TWISTED_REACTOR": "twisted.internet.asyncioreactor.AsyncioSelectorReactor",
        "CONCURRENT_REQUESTS": config.concurrency,
        "DOWNLOAD_TIMEOUT": config.timeout,
        "DOWNLOAD_MAXSIZE": int(config.megabytes_per_page * 1e6),
        "DOWNLOAD_WARNSIZE": 0,
        "DOWNLOADER_MIDDLEWARES": {
            **dict.fromkeys(_DOWNLOADER_MIDDLEWARES), "crawler.fetch.handler.BoundedCompression": 590
        },
        "HTTPPROXY_ENABLED": False,
        "REDIRECT_ENABLED": False,
        "METAREFRESH_ENABLED": False,
        "RETRY_ENABLED": False,
        "COOKIES_ENABLED": False,
        "ROBOTSTXT_OBEY": False,
        "TELNETCONSOLE_ENABLED": False,
        "REMOTE_CONTROL_ENABLED": False,
        "EXTENSIONS": {
            "scrapy.extensions.corestats.CoreStats": None,
            "scrapy.extensions.logstats.LogStats": None,
        },
    }  # fmt: skip
