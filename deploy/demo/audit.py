"""What the local web's access log says of a crawler's manners: the other side's word for it."""

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from crawler.fetch.robots import Rules
from deploy.demo.hosts import CALENDAR, Host

Request = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """Manners of all workers together, as one visitor."""

    requests: int
    forbidden: int
    """Pages fetched against robots.txt."""
    too_early: int
    """Requests begun before the host's delay had passed since it answered the one before."""
    shortest_gap: float | None
    """Seconds between an answer and the next request to the same host."""
    before_retry_after: int
    """Requests to a host within the time a 429 asked for."""
    trap_share: float
    """Share of the requests that the infinite calendar got."""

    def __str__(self) -> str:
        gap = "none" if self.shortest_gap is None else f"{self.shortest_gap:.3f} s"
        return (
            f"{self.requests:,} requests, {self.forbidden} against robots.txt, {self.too_early} too early "
            f"(shortest gap {gap}), {self.before_retry_after} before a Retry-After had passed, "
            f"{self.trap_share:.1%} in the trap"
        )


def audit(log: Path, hosts: Mapping[str, Host], *, delay: float) -> Audit:
    """Judge the requests in `log` by the robots.txt of `hosts` and by `delay`, promised in seconds."""
    requests = list(_requests(log))
    rules = {name: Rules(host.robots or "", "*") for name, host in hosts.items()}
    by_host: dict[str, list[Request]] = defaultdict(list)
    for request in sorted(requests, key=lambda request: float(request["t"])):
        by_host[request["host"]].append(request)
    gaps = [
        (max(delay, rules[host].crawl_delay), gap, before.get("retry_after", 0))
        for host, visits in by_host.items()
        for before, gap in _gaps(visits)
    ]
    return Audit(
        requests=len(requests),
        forbidden=sum(
            request["path"] != "/robots.txt"
            and not rules[request["host"]].allow(f"http://{request['host']}{request['path']}")
            for request in requests
        ),
        too_early=sum(gap < asked for asked, gap, _ in gaps),
        shortest_gap=min((gap for _, gap, _ in gaps), default=None),
        before_retry_after=sum(gap < retry_after for _, gap, retry_after in gaps),
        trap_share=len(by_host[CALENDAR]) / max(1, len(requests)),
    )


def _gaps(visits: Iterable[Request]) -> Iterator[tuple[Request, float]]:
    for before, after in pairwise(visits):
        yield before, after["t"] - before["t"] - before["seconds"]


def _requests(log: Path) -> Iterator[Request]:
    with log.open() as lines:
        for line in lines:
            if line.endswith("\n"):
                yield json.loads(line)
