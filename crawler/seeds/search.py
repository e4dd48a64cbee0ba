"""Search engines as sources: a query brings its results as seeds, the rank of each as its prior.

What was asked is kept in the ledger, answers and quotas too: a query costs once, also if we die after it.
"""

import importlib
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from ipaddress import ip_address
from typing import Any, Protocol
from urllib.parse import urlsplit

from crawler.errors import SeedError
from crawler.fetch.client import Answered, AskError
from crawler.seeds.config import SearchConfig
from crawler.seeds.ledger import Ledger
from crawler.seeds.seed import LONGEST_SOURCE, Batch, Progress, Seed
from crawler.urls import address
from tinylm.errors import ConfigError

# Seconds that a quota is waited for; beyond, the command ends, and goes on later.
_PATIENCE = 60.0
# Of the first rest after a failure, doubled each time, and how often a page is asked for.
_REST, _TRIES = 2.0, 5
# How many queries in a row may fail before it is the engine that does.
_FAILURES = 3
# Seconds, or requests, of a quota: SQLite's numbers end.
_MOST = 10**15
# How long an answer holds; and the longest quota there is, whatever an answer says.
_FRESH_SECONDS, _LONGEST_QUOTA = 30 * 86400.0, 35 * 86400.0
_TABLES = """
create table if not exists answers (
    provider text, query text, page integer, at real not null, urls text not null, more integer not null,
    primary key (provider, query, page)
) without rowid;
create table if not exists quotas (
    provider text, seconds integer, remaining integer not null, until real not null,
    primary key (provider, seconds)
) without rowid;
create table if not exists given (provider text, query text, primary key (provider, query)) without rowid;
"""

Ask = Callable[..., Answered]


class QuotaUsed(AskError):
    """The provider answers nothing more for so many `seconds`."""

    def __init__(self, name: str, until: float, seconds: float) -> None:
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(until))
        super().__init__(f"{name}: its quota is used up until {at} UTC; the same command goes on then")
        self.seconds = seconds


class Provider(Protocol):
    """A search engine: how it is asked, and what its answers say. Any class that has this will do."""

    name: str
    key: str
    """The environment variable with its key; "" if it wants none."""
    windows: tuple[tuple[int, int], ...]
    """Requests that it allows in so many seconds, as far as its answers do not say."""
    pages: int
    """Of results that it gives to a query."""
    terms: str
    """What its terms say of storing results and of training on what they lead to."""

    def request(self, query: str, page: int, key: str) -> tuple[str, dict[str, str], dict[str, str]]:
        """URL, parameters and headers that ask for a page, the first of which is 0."""
        ...

    def results(self, found: Any) -> tuple[list[str], bool]:
        """URLs of an answer's JSON, best first, and whether there are more. May raise as bad JSON does."""
        ...


class SearXNG:
    """Your own instance of the metasearch engine (AGPL-3.0)."""

    name: str = "searxng"
    key: str = ""
    windows: tuple[tuple[int, int], ...] = ((1, 1),)
    pages: int = 10
    terms: str = "yours; the engines that it asks have their own"

    def __init__(self, config: SearchConfig) -> None:
        self._place = config.searxng.rstrip("/")

    def request(self, query: str, page: int, key: str) -> tuple[str, dict[str, str], dict[str, str]]:  # noqa: ARG002
        return f"{self._place}/search", {"q": query, "format": "json", "pageno": str(page + 1)}, {}

    def results(self, found: Any) -> tuple[list[str], bool]:
        urls = [str(each["url"]) for each in found["results"]]
        return urls, bool(urls)


class Brave:
    """Brave's Search API: only what it answers with 200 is billed."""

    name: str = "brave"
    key: str = "BRAVE_SEARCH_API_KEY"
    windows: tuple[tuple[int, int], ...] = ((1, 1), (2000, 2_592_000))
    pages: int = 10  # offset 9 is the last
    terms: str = "the plan Search grants storing results and training; cheaper plans do not"

    def __init__(self, _: SearchConfig) -> None:
        """It has one place."""

    def request(self, query: str, page: int, key: str) -> tuple[str, dict[str, str], dict[str, str]]:
        place = "https://api.search.brave.com/res/v1/web/search"
        # 400 characters and 50 words are what it takes.
        words = " ".join(query.split()[:50])[:400]
        return place, {"q": words, "count": "20", "offset": str(page)}, {"X-Subscription-Token": key}

    def results(self, found: Any) -> tuple[list[str], bool]:
        urls = [str(each["url"]) for each in found.get("web", {}).get("results", [])]
        return urls, bool(urls) and bool(found.get("query", {}).get("more_results_available", True))


PROVIDERS: dict[str, Callable[[SearchConfig], Provider]] = {"searxng": SearXNG, "brave": Brave}
_FORBIDDEN = (
    "{}: status 403: it gives no JSON. In its settings.yml set `search.formats: [html, json]`, and "
    "`server.limiter: false` if only you can reach it (docs/sources.md#search has a file)"
)


def provider_of(config: SearchConfig) -> Provider:
    """The provider that `config` names: one of ours, or MODULE:CLASS. Raises ConfigError."""
    if config.provider in PROVIDERS:
        return PROVIDERS[config.provider](config)
    module, _, name = config.provider.partition(":")
    try:
        found: Provider = getattr(importlib.import_module(module), name)(config)
        missing = [
            field for field in (*Provider.__annotations__, "request", "results") if not hasattr(found, field)
        ]
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        known = ", ".join(PROVIDERS)
        raise ConfigError(
            f"provider = {config.provider!r}: neither {known} nor MODULE:CLASS ({error})"
        ) from error
    if missing:
        raise ConfigError(f"provider = {config.provider!r}: it has no {', '.join(missing)}")
    return found


def key_of(provider: Provider) -> str:
    """From the environment; "" if it wants none. Raises ConfigError if it is not there."""
    key = os.environ.get(provider.key, "") if provider.key else ""
    if provider.key and not key:
        raise ConfigError(f"{provider.name} wants a key: give it in the variable {provider.key}")
    return key


def own_networks(config: SearchConfig) -> tuple[str, ...]:
    """The one address that a provider at this machine, or at a numeric address, is at: you have named it."""
    parts = urlsplit(config.searxng)
    if config.provider != "searxng" or not parts.hostname:
        return ()
    with suppress(ValueError):
        at = ip_address("127.0.0.1" if parts.hostname == "localhost" else parts.hostname)
        return (f"{at}/{at.max_prefixlen}:{parts.port or (443 if parts.scheme == 'https' else 80)}",)
    return ()


class Search:
    """A provider with its quotas and its cache: one query after the other."""

    def __init__(
        self,
        config: SearchConfig,
        ask: Ask,
        ledger: Ledger,
        progress: Progress,
        sleep: Callable[[float], object] = time.sleep,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.provider = provider_of(config)
        self._config, self._ask, self._ledger, self._progress = config, ask, ledger, progress
        self._sleep, self._now = sleep, now
        self._key = key_of(self.provider)
        ledger.db.executescript(_TABLES)

    def seeds(self, query: str) -> Batch:
        """The results of a query.

        Raises AskError if there is no answer to it, QuotaUsed if no question is left for now, and SeedError
        if the provider refuses us.
        """
        source = f"search:{self.provider.name}:{query}"[:LONGEST_SOURCE]
        urls: dict[str, None] = {}
        for page in range(min(self._config.result_pages, self.provider.pages)):
            found, more = self._page(query, page, source)
            before = len(urls)
            for url in found:
                self._progress.read += 1
                if at := address(url):
                    urls[at] = None
                else:
                    self._progress.dropped["bad_url"] += 1
            if not more or len(urls) == before:
                break
        if not urls:
            self._progress.dropped["query_without_results"] += 1
        # As DCG discounts a rank (Järvelin and Kekäläinen 2002): 1, 0.63, 0.5, … of a vote. An engine's order
        # is no person's choice, so that it is no label.
        return Batch([Seed(url, 1 / math.log2(1 + rank), source, 0.0) for rank, url in enumerate(urls, 1)])

    def given(self) -> set[str]:
        """Queries whose seeds were given."""
        rows = self._ledger.db.execute("select query from given where provider = ?", (self.provider.name,))
        return {query for (query,) in rows}

    def answered(self) -> list[str]:
        """Those that have an answer, or a part of it, whose seeds were not: somebody died in between."""
        rows = self._ledger.db.execute(
            "select distinct query from answers where provider = ?", (self.provider.name,)
        )
        given = self.given()
        return [query for (query,) in rows if query not in given]

    def settle(self, query: str) -> None:
        """The seeds of `query` were given to the crawl; what goes to a file is none of its."""
        if self._ledger.resumes:
            self._ledger.db.execute("insert or ignore into given values (?, ?)", (self.provider.name, query))

    def _page(self, query: str, page: int, source: str) -> tuple[list[str], bool]:
        kept = self._ledger.db.execute(
            "select urls, more from answers where provider = ? and query = ? and page = ? and at > ?",
            (self.provider.name, query, page, self._now() - _FRESH_SECONDS),
        ).fetchone()
        if kept:
            return json.loads(kept[0]), bool(kept[1])
        urls, more = self._answer(query, page)
        with self._ledger.transaction():
            self._ledger.db.execute(
                "insert or replace into answers values (?, ?, ?, ?, ?, ?)",
                (self.provider.name, query, page, self._now(), json.dumps(urls), more),
            )
            self._ledger.spend(source, "billed")
            if page == 0:
                self._ledger.spend(source, "queries")
        return urls, more

    def _answer(self, query: str, page: int) -> tuple[list[str], bool]:
        """Ask until there is an answer, within the quotas, later each time."""
        url, params, headers = self.provider.request(query, page, self._key)
        rest, why = _REST, ""
        for _ in range(_TRIES):
            self._wait_for_quota()
            try:
                answer = self._ask(url, params=params, headers={"Accept": "application/json", **headers})
                self._count(answer.headers)
                if answer.status == 200:
                    urls, more = self.provider.results(json.loads(answer.body))
                    return [url for url in urls if isinstance(url, str)], more
                why = f"status {answer.status}"
                if answer.status == 403 and self.provider.name == "searxng":
                    raise SeedError(_FORBIDDEN.format(url))
                if answer.status in (401, 402, 403, 404):
                    where = self.provider.key or urlsplit(url).netloc
                    raise SeedError(f"{self.provider.name} refuses: {why}; see to its key and plan ({where})")
                if answer.status in (400, 422):  # of this query
                    break
                if answer.retry_after > _PATIENCE:
                    self._limit([(0, 0, answer.retry_after)])
                    continue
                rest = max(rest, answer.retry_after)
            except AskError as error:
                why = str(error)
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                why = "its answer is no JSON of results"
            self._sleep(rest)
            rest *= 2
        raise AskError(
            f"{self.provider.name} does not answer {query[:80]!r} ({why}); the same command goes on from here"
        )

    def _wait_for_quota(self) -> None:
        while True:
            [(until,)] = self._ledger.db.execute(
                "select coalesce(max(until), 0) from quotas where provider = ? and remaining <= 0",
                (self.provider.name,),
            )
            if not (wait := max(0.0, until - self._now())):
                return
            if wait > _PATIENCE:
                raise QuotaUsed(self.provider.name, until, wait)
            self._sleep(wait)

    def _count(self, headers: Mapping[str, str]) -> None:
        """One request less of each window, or what the answer says is left of it."""
        now = self._now()
        said = list(_said_windows(headers))
        for seconds, limit in [(seconds, limit) for limit, seconds in self.provider.windows if not said]:
            kept = self._ledger.db.execute(
                "select remaining, until from quotas where provider = ? and seconds = ? and until > ?",
                (self.provider.name, seconds, now),
            ).fetchone()
            left, until = kept or (limit, now + seconds)
            said.append((seconds, left - 1, until - now))
        self._limit(said)

    def _limit(self, windows: Iterable[tuple[int, int, float]]) -> None:
        """Seconds, requests that are left and seconds until the next, of each."""
        self._ledger.db.executemany(
            "insert or replace into quotas values (?, ?, ?, ?)",
            [
                (self.provider.name, seconds, left, self._now() + min(reset, _LONGEST_QUOTA))
                for seconds, left, reset in windows
            ],
        )


def _said_windows(headers: Mapping[str, str]) -> Iterator[tuple[int, int, float]]:
    """Seconds, requests that are left and seconds until the next, of each window that an answer tells.

    As in the IETF's draft of RateLimit fields of 2021: `X-RateLimit-Policy: 1;w=1, 15000;w=2592000`.
    """
    names = ("X-RateLimit-Policy", "X-RateLimit-Remaining", "X-RateLimit-Reset")
    policies, left, resets = ([part.strip() for part in headers.get(name, "").split(",")] for name in names)
    with suppress(ValueError):
        for policy, remaining, reset in zip(policies, left, resets, strict=False):
            _, window, seconds = policy.partition("w=")
            if window and math.isfinite(until := float(reset)):
                yield min(int(seconds.partition(";")[0]), _MOST), min(int(remaining), _MOST), until


def search(queries: Iterable[str], search: Search, progress: Progress) -> Iterator[Batch]:
    """Seeds of one query after the other; those that bring no answer are counted.

    Raises as `Search.seeds` does if several in a row do, or all.
    """
    failed, failures, answers = AskError(""), 0, 0
    for query in queries:
        try:
            batch = search.seeds(query)
        except QuotaUsed:
            raise
        except AskError as error:
            failed, failures = error, failures + 1
            progress.dropped["query_failed"] += 1
            if failures == _FAILURES:
                break
            continue
        failures, answers = 0, answers + 1
        yield batch
        search.settle(query)
        progress.done += 1
    if failures == _FAILURES or (failures and not answers):
        raise failed
