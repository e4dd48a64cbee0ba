"""What the local web's access log says of a crawler's manners."""

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from crawler.fetch.robots import Rules
from deploy.demo.hosts import CALENDAR, Host


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
    with log.open() as lines:
        # A server that was killed may leave half a line at the end.
        complete = (line for line in lines if line.endswith("\n"))
        requests = sorted(map(json.loads, complete), key=lambda request: float(request["t"]))
    rules = {name: Rules(host.robots or "", "*") for name, host in hosts.items()}
    by_host: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for request in requests:
        by_host[request["host"]].append(request)
    # The log has a request's arrival and how long its answer took. Between an answer and the next request the
    # crawler waits; the way there and back makes its wait longer as seen from here, never shorter.
    gaps = [
        (max(delay, rules[host].crawl_delay), after["t"] - before["t"] - before["seconds"], before)
        for host, visits in by_host.items()
        for before, after in pairwise(visits)
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
        before_retry_after=sum(gap < before.get("retry_after", 0) for _, gap, before in gaps),
        trap_share=len(by_host[CALENDAR]) / max(1, len(requests)),
    )
