"""`tinylm frontier`: what a person may ask and tell a crawl while it runs."""

import sys
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from cyclopts import App
from rich.table import Table

from crawler.config import CrawlPlace
from crawler.frontier import Frontier
from crawler.frontier.records import ASIDE
from crawler.urls import canonical
from deploy.cli.hosts import hosts
from deploy.cli.names import host_named, names_of, urls_named
from deploy.console import Console
from deploy.crawl import attach
from deploy.status import next_turn
from deploy.summary import CAUSES, PAUSED
from ranker.config import GOOD_LABEL, ONLINE
from shards.errors import ShardError
from shards.manifest import is_corpus
from shards.takedown import documents_hit
from tinylm.config import layers
from tinylm.errors import ConfigError
from tinylm.terminal import say

app = App(
    name="frontier",
    help="Look after a crawl: what waits and why, hosts to pause or take down, dead letters, quality.",
    config=layers(frontier=CrawlPlace),
)

app.command(hosts)

_LONGEST_BLOCK = 10 * 365 * 24 * 3600  # seconds; a longer one is a typing error


@app.command
def why(*, frontier: CrawlPlace = CrawlPlace()) -> None:
    """How many hosts give nothing now, by cause, and when the next one wakes."""
    opened = attach(frontier)
    idle = opened.why_idle()
    table = Table.grid(padding=(0, 2))
    for cause, words in CAUSES.items():
        table.add_row(f"{idle[cause]:,}", "hosts" if idle[cause] != 1 else "host", words)
    Console().print(table)
    if opened.paused():
        say(PAUSED)
        return
    say("nothing wakes by itself" if idle["next_wake_seconds"] is None else next_turn(idle))


@app.command
def pause(host: str = "", *, everything: bool = False, frontier: CrawlPlace = CrawlPlace()) -> None:
    """Lease nothing of HOST, of this crawl, or of --everything on the server, until it is resumed."""
    _tell(attach(frontier), "pause", host, everything=everything)


@app.command
def resume(host: str = "", *, everything: bool = False, frontier: CrawlPlace = CrawlPlace()) -> None:
    """Go on with what was paused in the same words."""
    _tell(attach(frontier), "resume", host, everything=everything)


@app.command
def block(host: str, seconds: float, *, frontier: CrawlPlace = CrawlPlace()) -> None:
    """Ask nothing of HOST for SECONDS; 0 ends what it rests for, whoever said so: only its delay is left."""
    if not 0 <= seconds <= _LONGEST_BLOCK:
        raise ConfigError(
            f"seconds = {seconds!r}: 0 to {_LONGEST_BLOCK:,}; to stop a host for good, take it down"
        )
    opened, named = attach(frontier), host_named(host)
    hit = _waiting(opened, named)
    opened.block_until(named, time.time() + seconds)
    rests = f"nothing is asked of {named} for {seconds:g} s" if seconds else f"{named} rests its delay only"
    say(f"{rests}: {hit}")


@app.command
def take_down(what: str, *, frontier: CrawlPlace = CrawlPlace()) -> None:
    """Never fetch WHAT, a host or a URL, again, and forget what is queued of it.

    A name with a port is the whole host, a page without http:// or https:// both of them. At the walker's
    next commit no reader gives what the corpus has of it; `tinylm shards purge` removes that.
    """
    names, opened = names_of(what), attach(frontier)
    take_down_in(opened, names, documents_in(frontier.shards, names))


@app.command
def quality(model: str, *, label: str = GOOD_LABEL, frontier: CrawlPlace = CrawlPlace()) -> None:
    """Let MODEL say from now on how good a text is: `online`, or a path as for the setting `quality`.

    The walker opens it at its next step (of a run the latest checkpoint; say it again for a later one), and
    again after a restart. `tinylm status` names the model in use; one that cannot be opened changes nothing,
    and the walker's log says why.
    """
    # Absolute, as the walker may run in another directory; with the moment, so that the same path said again
    # is another wish: of a run it opens the latest checkpoint.
    if model != ONLINE:
        path = Path(model)
        model = str(path.resolve())
        if not path.exists():
            say(f"there is no {model} here; the walker looks where it runs")
    attach(frontier).publish("quality", {"model": model, "label": label, "at": time.time()})


@app.command
def dead(*, frontier: CrawlPlace = CrawlPlace()) -> None:
    """List the dead letters, and why: URLs given up on or refused, entries of the stream not to be read."""
    letters = attach(frontier).dead_letters()
    for url, reason in letters:
        say(f"{reason}\t{url}")
    if not letters:
        say("no dead letters", file=sys.stderr)


@app.command
def retry(*urls: str, all: bool = False, frontier: CrawlPlace = CrawlPlace()) -> None:  # noqa: A002
    """Queue the dead letters URLS, or --all, again."""
    opened = attach(frontier)
    say(f"{sum(map(opened.retry, _chosen(opened, urls, all))):,} queued again")


@app.command
def drop(*urls: str, all: bool = False, frontier: CrawlPlace = CrawlPlace()) -> None:  # noqa: A002
    """Forget the dead letters URLS, or --all; they are not fetched even if somebody links to them."""
    opened = attach(frontier)
    say(f"{sum(map(opened.drop, _chosen(opened, urls, all))):,} dropped")


def _chosen(frontier: Frontier, urls: tuple[str, ...], every: bool) -> list[str]:
    if not (urls or every):
        raise ConfigError("no dead letters are named: give URLs that `tinylm frontier dead` lists, or --all")
    pages = {page for url in urls if not url.startswith(ASIDE) for page in urls_named(url)}
    letters = (url for url, _ in frontier.dead_letters())
    return [letter for letter in letters if every or letter in urls or canonical(letter) in pages]


def _tell(frontier: Frontier, verb: Literal["pause", "resume"], host: str, *, everything: bool) -> None:
    """Do what `verb` says and print what that hit."""
    if host and everything:
        raise ConfigError(f"a HOST and --everything: give one of them; {host} would be left out")
    named = host_named(host) if host else ""
    hit = _waiting(frontier, named) if named else "every host of it"
    getattr(frontier, verb)(named, everything=everything)
    whole = "every crawl on this server" if everything else f"crawl {frontier.config.crawl_id!r}"
    say(f"{verb}d {named or whole}: {hit}")


def _waiting(frontier: Frontier, host: str) -> str:
    """What is hit with a host, in words."""
    count = frontier.waiting(host)
    if count is None:
        return "this hits nothing yet, as the host was never met; it is remembered all the same"
    return counted(count, "queued URL")


def counted(number: int, thing: str) -> str:
    """A number of things, in words."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def documents_in(directory: Path, names: Iterable[str]) -> Counter[str] | None:
    """Documents that each of `names` takes down; None if they cannot be counted, which keeps nothing up."""
    try:
        return documents_hit(directory, names) if is_corpus(directory) else None
    except ShardError as error:
        say(f"documents were not counted: {error}", file=sys.stderr)
        return None


def take_down_in(frontier: Frontier, names: Iterable[str], documents: Counter[str] | None) -> bool:
    """Take `names` down in a crawl; print what each hits there, and of the `documents` of its corpus.

    Returns whether any hits something.
    """
    hit = False
    for name in names:
        is_url = "://" in name
        queued = 0 if is_url else frontier.waiting(name)
        known = frontier.take_down(name)
        hit |= say_taken_down(name, documents, int(known) if is_url else queued)
    return hit


def say_taken_down(name: str, documents: Counter[str] | None, queued: int | None = None) -> bool:
    """Print what a take-down hit, so far as it was counted; never of nothing that it was "taken down"."""
    hit = [] if queued is None else [counted(queued, "queued URL")]
    if documents is not None:
        hit.append(counted(documents[name], "document"))
    if queued or (documents and documents[name]):
        say(f"taken down: {name}, {' and '.join(hit)}")
        return True
    say(f"{name} hits nothing now ({' and '.join(hit) or 'never met'}); it is remembered, and kept out")
    return False
