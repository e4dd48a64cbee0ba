"""What is known of a URL before it is fetched: who links to it, what they were worth, what people said.

Equity is OPIC's cash (Abiteboul et al. 2003), personalised: it enters with the karma of seeds and flows along
links, so a page far from anything chosen has little of it (RankMass, Cho & Schonfeld 2007).
"""

from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np

from ranker.known import Known

_KEPT_BY_LINKS = 0.85
"""Share of a page's cash that flows on; the rest returns to the seeds, where it entered."""


@dataclass(slots=True)
class Evidence:
    """About one URL that was discovered and not fetched yet."""

    equity: float = 0.0
    inlinks: int = 0
    parent_worth: float = 0.0
    """Sum over the inlinks."""
    depth: int = 0
    karma: float = 0.0

    @property
    def mean_parent(self) -> float | None:
        """Mean worth of the pages that link to it; None if there are none."""
        return self.parent_worth / self.inlinks if self.inlinks else None


class LinkGraph:
    """Evidence of every queued URL, by fingerprint: about 250 bytes each, 8 once it was fetched."""

    def __init__(self) -> None:
        self._queued: dict[int, Evidence] = {}
        self._fetched = Known()

    def __len__(self) -> int:
        return len(self._queued)

    def seed(self, key: int, karma: float, cash: float) -> Evidence | None:
        """A seed: people's votes for it, and the cash they are worth; None if it was fetched before."""
        if key in self._fetched:
            return None
        evidence = self._queued.setdefault(key, Evidence())
        evidence.karma += karma
        evidence.equity += cash
        evidence.depth = 0
        return evidence

    def queued(self, key: int) -> Evidence | None:
        """The evidence of a URL that waits; None if it was fetched or never met."""
        return self._queued.get(key)

    def fetched(self, key: int) -> Evidence:
        """The evidence that led to a fetch, no longer kept."""
        self._fetched.add(key)
        return self._queued.pop(key, None) or Evidence()

    def link(self, page: Evidence, worth: float | None, keys: Iterable[int]) -> dict[int, Evidence]:
        """A page of this worth links to `keys`: its cash is split among them.

        None is the worth of a list, such as a sitemap: nobody chose those links, so they are no inlinks.
        Returns the evidence of those that were not fetched before.
        """
        targets = list(dict.fromkeys(keys))
        share = _KEPT_BY_LINKS * page.equity / max(1, len(targets))
        found = {}
        for key in targets:
            if key in self._fetched:
                continue
            evidence = self._queued.get(key)
            if evidence is None:
                evidence = self._queued[key] = Evidence(depth=page.depth + 1)
            evidence.equity += share
            if worth is not None:
                evidence.inlinks += 1
                evidence.parent_worth += worth
            evidence.depth = min(evidence.depth, page.depth + 1)
            found[key] = evidence
        return found

    def redirect(self, page: Evidence, keys: Iterable[int]) -> dict[int, Evidence]:
        """A page turned out to be elsewhere: what was known of it is known of `keys`, a step deeper.

        Returns the evidence of those that were not fetched before. Depth ends a chain that would never end.
        """
        found = {}
        for key in keys:
            if key in self._fetched:
                continue
            target = found[key] = self._queued.setdefault(key, Evidence(depth=page.depth + 1))
            target.equity += page.equity
            target.inlinks += page.inlinks
            target.parent_worth += page.parent_worth
            target.depth = min(target.depth, page.depth + 1)
            target.karma += page.karma
        return found

    def state(self) -> dict[str, Any]:
        """What is needed to go on later, as arrays."""
        rows = np.array([astuple(evidence) for evidence in self._queued.values()], dtype=np.float64)
        return {
            "queued": np.fromiter(self._queued, dtype=np.uint64, count=len(self._queued)),
            "evidence": rows.reshape(-1, len(Evidence.__slots__)),
            "fetched": self._fetched.to_array(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self._fetched = Known(map(int, state["fetched"]))
        self._queued = {
            int(key): Evidence(equity, int(inlinks), parent_worth, int(depth), karma)
            for key, (equity, inlinks, parent_worth, depth, karma) in zip(
                state["queued"], state["evidence"].tolist(), strict=True
            )
        }
