"""`tinylm frontier`: what a person may ask and tell a crawl while it runs."""

import time
from pathlib import Path

from cyclopts import App
from rich.console import Console
from rich.table import Table

from crawler.config import FrontierConfig
from crawler.errors import FrontierError
from crawler.frontier import Frontier
from crawler.frontier.records import ASIDE
from crawler.urls import canonicalize
from deploy.crawl import attach
from ranker.config import GOOD_LABEL, ONLINE
from tinylm.config import layers

app = App(
    name="frontier",
    help="Look after a crawl: what waits and why, hosts to pause or take down, dead letters, quality.",
    config=layers(frontier=FrontierConfig),
)

_CAUSES = {
    "ready": "may be asked now",
    "cooling": "rest between requests",
    "blocked": "of those, asked for their rest (Retry-After, back-off) or were told to",
    "in_flight": "are being asked",
    "budget_spent": "have had their pages_per_host",
    "paused": "were paused",
    "on_disk": "wait for what was spilled to come back",
    "no_robots": "have no robots.txt that answers",
}


@app.command
def why(*, frontier: FrontierConfig = FrontierConfig()) -> None:
    """How many hosts give nothing now, by cause, and when the next one wakes."""
    idle = attach(frontier).why_idle()
    table = Table.grid(padding=(0, 2))
    for cause, words in _CAUSES.items():
        table.add_row(f"{idle[cause]:,}", "hosts" if idle[cause] != 1 else "host", words)
    Console().print(table)
    wake = idle["next_wake_seconds"]
    print("nothing wakes by itself" if wake is None else f"the next one may be asked in {wake:.1f} s")


@app.command
def pause(host: str = "", *, everything: bool = False, frontier: FrontierConfig = FrontierConfig()) -> None:
    """Lease nothing of HOST, of this crawl, or of --everything on the server, until it is resumed."""
    attach(frontier).pause(host, everything=everything)


@app.command
def resume(host: str = "", *, everything: bool = False, frontier: FrontierConfig = FrontierConfig()) -> None:
    """Go on with what was paused in the same words."""
    attach(frontier).resume(host, everything=everything)


@app.command
def block(host: str, seconds: float, *, frontier: FrontierConfig = FrontierConfig()) -> None:
    """Ask nothing of HOST for SECONDS."""
    attach(frontier).block_until(host, time.time() + seconds)


@app.command
def take_down(what: str, *, frontier: FrontierConfig = FrontierConfig()) -> None:
    """Never fetch WHAT, a host or a URL, again, and forget what is queued of it.

    At the walker's next commit no reader gives what the corpus has of it; `tinylm shards purge` removes that.
    """
    known = attach(frontier).take_down(host_or_url(what))
    print("taken down" if known else "taken down before it was met")


@app.command
def quality(model: str, *, label: str = GOOD_LABEL, frontier: FrontierConfig = FrontierConfig()) -> None:
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
            print(f"there is no {model} here; the walker looks where it runs")
    attach(frontier).publish("quality", {"model": model, "label": label, "at": time.time()})


@app.command
def dead(*, frontier: FrontierConfig = FrontierConfig()) -> None:
    """List the dead letters, and why: URLs given up on, and entries of the stream that cannot be read."""
    for url, reason in attach(frontier).dead_letters():
        print(f"{reason}\t{url}")


@app.command
def retry(*urls: str, all: bool = False, frontier: FrontierConfig = FrontierConfig()) -> None:  # noqa: A002
    """Queue the dead letters URLS, or --all, again."""
    opened = attach(frontier)
    print(f"{sum(map(opened.retry, _chosen(opened, urls, all))):,} queued again")


@app.command
def drop(*urls: str, all: bool = False, frontier: FrontierConfig = FrontierConfig()) -> None:  # noqa: A002
    """Forget the dead letters URLS, or --all; they are not fetched even if somebody links to them."""
    opened = attach(frontier)
    print(f"{sum(map(opened.drop, _chosen(opened, urls, all))):,} dropped")


def _chosen(frontier: Frontier, urls: tuple[str, ...], every: bool) -> list[str]:
    return [url for url, _ in frontier.dead_letters()] if every else [_canonical(url) for url in urls]


def host_or_url(what: str) -> str:
    """A host or a URL that somebody typed, as the frontier and the corpus know it."""
    return _canonical(what) if "://" in what else what.lower()


def _canonical(url: str) -> str:
    canonical = url if url.startswith(ASIDE) else canonicalize(url)
    if canonical is None:
        raise FrontierError(f"{url!r} is not an http or https URL")
    return canonical
