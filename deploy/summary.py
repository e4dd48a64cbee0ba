"""What a crawl came to: said at its end, and kept in its directory for whoever asks when no server runs."""

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from crawler.errors import CrawlError
from crawler.frontier import Frontier
from shards.manifest import Manifest, is_corpus
from tinylm.errors import Exit, FileError
from tinylm.files import read_json, write_json
from tinylm.records import record
from tinylm.terminal import tally

FILE_NAME = "summary.json"
# Said wherever somebody asks why nothing is fetched.
PAUSED = "The crawl is paused: `tinylm frontier resume`, with --everything if that was paused, lets it go on."
# Without an answer for two timeouts of a response, workers are asked after.
QUIET_SECONDS = 60.0
# A turn that is further away has a date.
_LONG_SECONDS = 600.0
# On about two lines of a terminal; the file, the dashboard and `tinylm shards list` have them all.
REASONS_SAID = 8
# Why hosts give nothing, by the names of `Frontier.why_idle`.
CAUSES = {
    "ready": "may be asked now",
    "cooling": "rest between requests",
    "blocked": "of those, asked for their rest (Retry-After, back-off) or were told to",
    "in_flight": "are being asked",
    "budget_spent": "have spent their budget, or their domain has",
    "paused": "were paused",
    "on_disk": "wait for what was spilled to come back",
    "no_robots": "have no robots.txt that answers",
}
# What the reasons begin with for which the walker leaves out a link; for the others, a page.
_OF_LINKS = ("scope_", "trap_", "links_")
_LANGUAGE = "in none of the `languages` to keep; what was fetched is not asked for again: begin anew"
_DEAD = "`tinylm frontier dead` says which, beside `tinylm server` after the end"
# What makes good what was refused or dropped for a reason.
_REMEDIES = {
    "forbidden_network": "its address is in none of allowed_networks; allow it and start the command again",
    "robots": "robots.txt does not let this user_agent in",
    "robots_unreachable": "robots.txt cannot be had, and without it nothing is asked for",
    "dns": "there is no such name, or no name server that knows it",
    "refused": "nobody listens there",
    "tls": "no certificate that can be trusted",
    "language": _LANGUAGE,
    "pre_language": _LANGUAGE,
    "opt_out": "it is not for training, see obey_opt_out",
}


class NothingKept(CrawlError):
    """A crawl that brought nothing, over all its runs; the message says why."""

    exit = Exit.NOTHING_KEPT


def not_fetched(counts: Mapping[str, int], *kinds: str) -> Counter[str]:
    """Attempts without a page, by reason: `skipped` for a rule of ours or the host's, or `failed`."""
    reasons: Counter[str] = Counter()
    for name, count in counts.items():
        kind, colon, reason = name.partition(":")
        if colon and kind in (kinds or ("skipped", "failed")):
            reasons[reason] += count
    return reasons


def pages_and_links(dropped: Mapping[str, int]) -> tuple[Counter[str], Counter[str]]:
    """What the walker dropped by reason: pages, and links."""
    links = Counter({reason: number for reason, number in dropped.items() if reason.startswith(_OF_LINKS)})
    return Counter(dropped) - links, links


def elsewhere(fetched: int, of_these: int) -> str:
    """What share of all that was `fetched` came from hosts that no seed named; empty if none did."""
    return f"{of_these / fetched:.0%} of it from hosts that no seed named" if of_these else ""


def waiting_for(workers: Iterable[Mapping[str, Any]]) -> str:
    """What a worker that may still be there waits for; the word of one that was killed stays published."""
    lately = time.time() - QUIET_SECONDS
    said = (each["waiting_for"] for each in workers if each.get("at", 0.0) > lately)
    return next(filter(None, said), "")


def moment(at: float) -> str:
    """Epoch seconds as a person reads them; what is beyond the years of calendars is cut there."""
    return f"{datetime.fromtimestamp(min(at, 253e9), UTC):%Y-%m-%d %H:%M:%S} UTC"


def when(seconds: float) -> str:
    """How far away a turn is; its date if that is more than minutes."""
    return (
        f"at {moment(time.time() + seconds)}" if seconds > _LONG_SECONDS else f"in {max(0.0, seconds):.1f} s"
    )


def remedy(reason: str) -> str:
    """What makes good what was refused or dropped for a reason, in brackets, if that can be said."""
    return f" ({_REMEDIES[reason]})" if reason in _REMEDIES else ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """A crawl at one moment, over all its runs."""

    at: float  # epoch seconds
    ended: str  # why; empty while it ran
    shards: str  # where the corpus is
    fetched: int
    fetched_elsewhere: int  # of hosts that no seed named
    bytes: int
    hosts: int
    kept: int  # documents that are committed
    text_bytes: int
    dropped: dict[str, int]  # pages that were fetched and not kept, by reason
    not_followed: dict[str, int]  # links that lead out of the scope or into a trap
    failed: dict[str, int]
    skipped: dict[str, int]  # URLs that were not asked for
    dead: int
    discovered: int
    queued: int
    paused: bool
    waiting_hosts: dict[str, int]  # that have something queued, by what they wait for
    next_at: float | None  # when the first of them may be asked, in epoch seconds
    next_host: str
    lacking: str  # what a worker's own machine lacked
    brought: int = 0  # pages that nobody fetched; not in summaries of before

    @classmethod
    def of(cls, frontier: Frontier, shards: Path, ended: str = "") -> Self:
        """The summary of now. Raises ServerError, and ShardError for a corpus that cannot be read."""
        counts, idle, now = frontier.counts(), frontier.why_idle(), time.time()
        corpus = Manifest.load(shards) if is_corpus(shards) else Manifest()
        wake = idle.pop("next_wake_seconds")
        pages, links = pages_and_links(corpus.dropped)
        counted = (
            "fetched",
            "fetched_elsewhere",
            "bytes",
            "hosts",
            "dead",
            "discovered",
            "queued",
            "brought",
        )
        return cls(
            at=now,
            ended=ended,
            shards=str(shards),
            **{name: counts[name] for name in counted},
            kept=corpus.rows,
            text_bytes=corpus.text_bytes,
            dropped=dict(pages),
            not_followed=dict(links),
            failed=dict(not_fetched(counts, "failed")),
            skipped=dict(not_fetched(counts, "skipped")),
            paused=frontier.paused(),
            next_at=None if wake is None else now + wake,
            next_host=idle.pop("next_wake"),
            waiting_hosts={cause: number for cause, number in idle.items() if number},
            lacking=waiting_for(frontier.published_by_workers()),
        )

    @property
    def work(self) -> tuple[object, ...]:
        """What changes with anything that is done."""
        return self.fetched, self.discovered, self.dropped, self.kept, self.failed, self.skipped, self.dead

    def write(self, directory: Path) -> None:
        """Make it what the directory of the crawl says of itself; raises FileError."""
        write_json(directory / FILE_NAME, asdict(self))

    @classmethod
    def load(cls, directory: Path) -> "Summary | None":
        """What was written last; None if nothing was. Raises FileError."""
        path = directory / FILE_NAME
        try:
            return record(Summary, read_json(path))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise FileError(f"{path}: {error}: remove it, the crawl writes another") from error

    def lines(self) -> Iterator[str]:
        """Say it all, a row a line."""
        rows = {
            "fetched": f"{self.fetched:,} answers of {self.hosts:,} hosts, {self.bytes / 1e6:,.1f} MB",
            "brought": f"{self.brought:,} pages of archives" if self.brought else "",
            "elsewhere": elsewhere(self.fetched, self.fetched_elsewhere),
            "kept": f"{self.kept:,} documents, {self.text_bytes / 1e6:,.1f} MB of text, in {self.shards}",
            "dropped": tally(self.dropped, REASONS_SAID),
            "failed": tally(self.failed, REASONS_SAID),
            "not asked": tally(self.skipped, REASONS_SAID),
            "unfollowed": tally(self.not_followed, REASONS_SAID),
            "dead": f"{self.dead:,}: {_DEAD}" if self.dead else "",
            "left": "; ".join(self.left()),
            "next": self._next_step(),
        }
        return (f"{name:<10} {text}" for name, text in rows.items() if text)

    def left(self) -> Iterator[str]:
        """What is queued, and what it waits for."""
        yield f"{self.queued:,} queued URLs" if self.queued else "nothing is queued"
        if self.paused:
            yield "the crawl is paused"
        for cause, words in CAUSES.items():
            if cause != "blocked" and (number := self.waiting_hosts.get(cause, 0)):
                yield f"hosts that {words}: {number:,}"
        if self.next_at and self.next_at > self.at and self.next_host:
            yield f"the first, {self.next_host}, may be asked at {moment(self.next_at)}"
        if self.lacking:
            yield f"a worker waited: {self.lacking}"

    def _next_step(self) -> str:
        if self.paused:
            return PAUSED
        if self.queued and set(self.waiting_hosts) - {"budget_spent"}:
            return "the same command goes on from here, with a higher limit if it reached one"
        if self.queued:
            return "budgets that are set higher, such as --pages-per-host, let it go on"
        return f"`tinylm shards list {self.shards}`" if self.kept else ""

    def nothing_kept(self) -> str:
        """Why a crawl has brought nothing."""
        reasons = (
            Counter(self.dropped) + Counter(self.failed) + Counter(self.skipped) + Counter(self.not_followed)
        )
        said = [f"{name} {count:,}{remedy(name)}" for name, count in reasons.most_common(REASONS_SAID)]
        what = "kept" if self.fetched or self.brought else "fetched"
        why = ", ".join(said) or (self.ended if self.discovered else "no seed that may be asked for")
        return f"nothing was {what} in all runs of this crawl: {why}"
