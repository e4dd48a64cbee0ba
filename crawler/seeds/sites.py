"""Chosen sites: their front pages, sitemaps and feeds, lists of feeds (OPML), the articles of a MediaWiki.

Only addresses are made here. Workers read them as any page: in turn, within robots.txt, also what is a list.
"""

import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

from lxml import etree

from crawler.config import CrawlConfig
from crawler.errors import SeedError
from crawler.fetch.client import Answered, AskError, Client
from crawler.seeds.config import WikiConfig
from crawler.seeds.ledger import Ledger
from crawler.seeds.seed import LONGEST_SOURCE, Batch, Progress, Seed
from crawler.urls import address

# Of an OPML file: 10,000 feeds have 3 MB.
_MOST_BYTES = 32 << 20
# What is not named in robots.txt is most often here; it costs one request if it is not.
_SITEMAP, _OF_A_SITEMAP = "/sitemap.xml", 0.5
# Seconds between two questions to a wiki, of the first rest when it is behind or refuses (doubled each time);
# and how often one is asked.
_PACE, _REST, _LONGEST_REST, _TRIES = 1.0, 5.0, 300.0, 8
# Seconds that a wiki's copies may be behind its master: what Wikimedia asks of programs.
_MAXLAG = "5"
# An `&` that means itself, as many lists have it in their addresses.
_BARE = re.compile(rb"&(?!#?\w{1,31};)")
# Errors of XML behind which nothing is read.
_ENDS = ("ERR_TAG_NOT_FINISHED", "ERR_GT_REQUIRED", "ERR_RESOURCE_LIMIT")
# Errors that pass.
_LATER = ("maxlag", "ratelimited", "readonly")


def seeds_of_sites(named: list[str], _: Ledger, progress: Progress) -> Iterator[Batch]:
    """Seeds of sites (hosts or URLs), and of all feeds and sites in OPML files. Raises SeedError."""
    progress.unit, progress.total = "sites", len(named)
    for name in named:
        path = Path(name)
        seeds = list(_of_opml(path, progress)) if path.is_file() else _of_site(name)
        progress.read += 1
        progress.done += 1
        yield Batch(seeds)


def _of_site(name: str) -> list[Seed]:
    url = address(name if "://" in name else f"https://{name}/")
    if url is None or (not urlsplit(url).hostname or "." not in str(urlsplit(url).hostname)):
        raise SeedError(f"{name}: neither a site, such as docs.example.org, nor an OPML file that is there")
    source = f"sites:{urlsplit(url).hostname}"[:LONGEST_SOURCE]
    return [Seed(url, 1.0, source), Seed(urljoin(url, _SITEMAP), _OF_A_SITEMAP, source, 0.0)]


def _of_opml(path: Path, progress: Progress) -> Iterator[Seed]:
    """Feeds and sites of an OPML file, however they are nested."""
    data = path.read_bytes()
    if len(data) > _MOST_BYTES:
        raise SeedError(f"{path}: {len(data):,} bytes; a list of feeds has at most {_MOST_BYTES:,}")
    try:
        parser = etree.XMLParser(resolve_entities=False, no_network=True, recover=True, huge_tree=False)
        root = etree.fromstring(_BARE.sub(b"&amp;", data), parser)
    except (etree.XMLSyntaxError, ValueError) as error:
        raise SeedError(f"{path}: no OPML ({error})") from error
    if root is None or root.tag != "opml":
        raise SeedError(f"{path}: no OPML: it does not begin with <opml>")
    ends = next((each for each in parser.error_log if each.type_name in _ENDS), None)
    if ends or b"</opml" not in data.replace(b"\0", b""):
        why = f"damaged from line {ends.line} on ({ends.message})" if ends else "it has no end"
        raise SeedError(f"{path}: an OPML file that is cut off: {why}")
    source = f"sites:{path.name}"[:LONGEST_SOURCE]
    seen: set[str] = set()
    for outline in root.iter("outline"):
        # A feed is a list: what it names is chosen, it is no text itself.
        for attribute, precision in (("htmlUrl", 1.0), ("xmlUrl", 0.0)):
            if not (said := outline.get(attribute, "").strip()):
                continue
            if (url := address(said)) is None:
                progress.dropped["bad_url"] += 1
            elif url not in seen:
                seen.add(url)
                yield Seed(url, 1.0, source, precision)


def seeds_of_wiki(
    api: str,
    config: WikiConfig,
    crawl: CrawlConfig,
    ledger: Ledger,
    progress: Progress,
    sleep: Callable[[float], object] = time.sleep,
) -> Iterator[Batch]:
    """Articles of any MediaWiki by its API (`…/w/api.php`): all of it, of a category, or of a search.

    Raises SeedError if it is no such API, AskError if it does not answer.
    """
    job = f"wiki {api} {config.category} {config.search}"
    position = ledger.position(job)
    if position == "done":
        return
    go_on: dict[str, str] = json.loads(position or "{}")
    generator = {"generator": "allpages", "gapnamespace": "0", "gaplimit": "max"}
    generator["gapfilterredir"] = "nonredirects"
    if config.category:
        name = config.category if ":" in config.category else f"Category:{config.category}"
        generator = {"generator": "categorymembers", "gcmtitle": name, "gcmnamespace": "0", "gcmlimit": "max"}
    elif config.search:
        generator = {
            "generator": "search",
            "gsrsearch": config.search,
            "gsrnamespace": "0",
            "gsrlimit": "max",
        }
    asks = {
        "action": "query",
        "format": "json",
        "formatversion": "2",
        "prop": "info",
        "inprop": "url",
    } | generator
    source, progress.unit = f"wiki:{urlsplit(api).hostname}"[:LONGEST_SOURCE], "articles"
    with Client.sync(crawl) as ask:
        while True:
            answer = _asked(ask, api, asks | {"maxlag": _MAXLAG} | go_on, sleep)
            ledger.spend(source, "requests")
            pages = answer.get("query", {}).get("pages", [])
            progress.read += len(pages)
            progress.done += len(pages)
            progress.dropped["redirect"] += sum("redirect" in page for page in pages)
            articles = [page for page in pages if "redirect" not in page]
            urls = [address(str(page.get("canonicalurl") or page.get("fullurl") or "")) for page in articles]
            progress.dropped["bad_url"] += urls.count(None)
            yield Batch([Seed(url, 1.0, source) for url in urls if url])
            go_on = {name: str(value) for name, value in answer.get("continue", {}).items()}
            ledger.settle(job, json.dumps(go_on) if go_on else "done")
            if not go_on:
                return
            sleep(_PACE)


def _asked(
    ask: Callable[..., Answered], api: str, params: dict[str, str], sleep: Callable[[float], object]
) -> dict[str, Any]:
    """An answer of the API; one that is behind, refuses or is no JSON is asked again, later each time."""
    rest, why = _REST, ""
    for _ in range(_TRIES):
        asked_to_wait = 0.0
        try:
            answer = ask(api, params=params, headers={"Accept": "application/json"})
            asked_to_wait = answer.retry_after
            if answer.status == 404:
                raise SeedError(f"{api}: nothing is there; an address that ends in /api.php is needed")
            found = json.loads(answer.body) if answer.status == 200 else {}
            error = found.get("error", {})
            if answer.status == 200 and not error:
                return dict(found)
            why = (
                f"{error.get('code')}: {error.get('info', '')[:200]}" if error else f"status {answer.status}"
            )
            if error and error.get("code") not in _LATER:
                raise SeedError(f"{api} refuses: {why}")
        except AskError as error:
            why = str(error)
        except (ValueError, AttributeError, TypeError):
            why = "its answer is no JSON of MediaWiki's API"
        if asked_to_wait > _LONGEST_REST:
            why = f"it asks to be left alone for {asked_to_wait:,.0f} s"
            break
        sleep(max(min(rest, _LONGEST_REST), asked_to_wait))
        rest *= 2
    raise AskError(f"{api} does not answer ({why}); the same command goes on from here")
