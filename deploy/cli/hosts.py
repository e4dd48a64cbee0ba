"""Hosts as the frontier and the corpus know them: a list of them, and why one is asked nothing now."""

import heapq
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Literal

import pyarrow.compute as pc
from cyclopts import Parameter
from rich.table import Table

from crawler.config import CrawlPlace, own
from crawler.frontier import Frontier
from deploy.cli.names import host_named
from deploy.console import Console
from deploy.crawl import attach
from deploy.summary import PAUSED, remedy, when
from shards.manifest import Manifest, is_corpus
from shards.reader import read_fetches
from tinylm.terminal import say, tally


def hosts(
    *,
    host: Annotated[tuple[str, ...], Parameter(negative=())] = (),
    number: Annotated[int, Parameter(name=("--number", "-n"))] = 20,
    by: Literal["queued", "fetched", "failed", "next"] = "queued",
    frontier: CrawlPlace = CrawlPlace(),
) -> None:
    """List hosts: queued, fetched, kept and failed URLs, the delay, and what each waits for.

    Every host is looked at, some hundreds at a time between which the crawl goes on: half a minute a million.
    `kept` reads two columns of the corpus, where it is on this machine.

    Parameters
    ----------
    host
        These hosts only.
    number
        Hosts shown.
    by
        What there is most of in the first: URLs queued, fetched, failed attempts, or the longest wait.
    """
    opened = attach(frontier)
    names: Iterable[str] = map(host_named, host) if host else opened.hosts()
    shown = heapq.nlargest(number, opened.facts(names), key=attrgetter(by))
    ended = ended_of(frontier.shards, [each.host for each in shown]) if shown else {}
    table = Table("host", "queued", "fetched", "kept", "failed", "delay", "waits")
    for each in shown:
        counts = (each.queued, each.fetched, ended[each.host][""], each.failed)
        own_delay = own(opened.config.delay_of, each.host)
        delay = max(opened.config.delay if own_delay is None else own_delay, each.crawl_delay)
        next_at = f", {when(each.next)}" if each.next > 0 else ""
        table.add_row(each.host, *(f"{count:,}" for count in counts), f"{delay:g} s", each.state + next_at)
    Console().print(table)


def ended_of(directory: Path, hosts: Collection[str] = ()) -> defaultdict[str, Counter[str]]:
    """How often fetches ended how, by host and the reason of a drop, "" for what was kept.

    Of `hosts`, for which there need not be a corpus yet, or of all of a corpus.
    """
    found: defaultdict[str, Counter[str]] = defaultdict(Counter)
    manifest = Manifest() if hosts and not is_corpus(directory) else Manifest.load(directory)
    for _, table in read_fetches(directory, manifest, ["host", "reason"]):
        table = table.filter(pc.field("host").isin([*hosts])) if hosts else table
        counts = table.group_by(["host", "reason"]).aggregate([([], "count_all")])
        for host, reason, count in zip(*(column.to_pylist() for column in counts.columns), strict=True):
            found[host][reason] += count
    return found


def say_host(host: str, frontier: Frontier | None, corpus: Path) -> None:
    """Print what is known of a host, and why nothing of it is asked for now."""
    ended = ended_of(corpus, [host])[host]
    say(", ".join(filter(None, (f"kept {ended.pop('', 0):,}", tally(ended)))))
    for line in waits(frontier, host) if frontier else ("no server runs, which would say why it waits",):
        say(line)


def waits(frontier: Frontier, host: str) -> Iterator[str]:
    """Why nothing of a host is asked for now."""
    begins = (f"http://{host}/", f"http://{host}:", f"https://{host}/", f"https://{host}:")
    letters = Counter(reason for url, reason in frontier.dead_letters() if url.startswith(begins))
    for reason, count in letters.most_common():
        yield f"refused or given up: {reason} {count:,}{remedy(reason)}"
    facts = next(frontier.facts([host]), None)
    if facts is None:
        yield f"{host} was never met, or was given up and forgotten"
        return
    rules, domain = frontier.config, facts.domain
    if reached := frontier.reached():
        yield f"the crawl stopped: {reached}"
    if frontier.paused():
        yield PAUSED
    told = " for its Retry-After, a failure or a person's word" if facts.told_off else ""
    yield {
        "gone": f"{host} was taken down",
        "asked": f"{host} is being asked for a page",
        "paused": f"{host} is paused: `tinylm frontier resume {host}`",
        "spent": f"{host} has spent its budget, or {domain} has: {facts.fetched:,} fetches; pages_per_host = "
        f"{rules.pages_per_host:,} if it was chosen, else pages_per_found_host = "
        f"{rules.pages_per_found_host:,} and more for links from elsewhere",
        "moved": f"the robots.txt of {host} is at another host, which is asked first",
        "on_disk": f"what {host} has queued is on the walker's disk, and comes back",
        "domain": f"other hosts of {domain} have their turn, domain_concurrency = {rules.domain_concurrency}",
        "resting": f"{host} rests{told}: {when(facts.next)}",
        "ready": f"{host} may be asked now; hosts that promise more come first",
        "idle": f"nothing of {host} is queued",
    }[facts.state]
    for setting in ("delay_of", "pages_of"):
        if (given := own(getattr(rules, setting), host)) is not None:
            yield f"{setting} gives it {given:,g} of its own"
    yield f"queued {facts.queued:,} ({facts.deferred:,} behind the best), fetched {facts.fetched:,}"
    if facts.failed:
        on_end = f", no connection {facts.unreached} times on end" if facts.unreached else ""
        yield f"failed {facts.failed:,}, the last time {facts.failure}{on_end}{remedy(facts.failure)}"


def position(frontier: Frontier, urls: Iterable[str]) -> str:
    """Where the first of `urls` that the frontier has queued, or asks for, stands; "" if it has none."""
    for place, number in (frontier.place(url) for url in urls):
        if place == "asked":
            return "it is being asked for now"
        if place == "due":
            return f"it is fetched again: {when(number)}"
        if place == "queued":
            return f"{number:,} URLs of its host promise more" if number else "it is the next of its host"
    return ""


def robots_allow(frontier: Frontier, url: str) -> bool:
    """Whether the robots.txt of a URL, if it is known, lets the crawl's user agent in."""
    from crawler.fetch.robots import Rules  # with Scrapy behind it, which no other command here needs

    host, member = frontier.locate(url)
    agent = frontier.published("settings").get("user_agent", "")
    return Rules(frontier.robots(host, member.partition("/")[0]) or "", agent).allow(url)
