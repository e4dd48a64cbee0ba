"""`Times`: how long extraction takes and how often it fails, of one worker or of all."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Self


class Times:
    """How long pages took, in a histogram of powers of two, and what became of those that failed."""

    def __init__(self) -> None:
        self._buckets: Counter[int] = Counter()
        self.failed: Counter[str] = Counter()

    def add(self, seconds: float, failure: str) -> None:
        self._buckets[int(seconds * 1000).bit_length()] += 1
        if failure:
            self.failed[failure] += 1

    def quantile(self, share: float) -> int:
        """Milliseconds that at least this share of the pages stayed below; rounded up to a power of two."""
        wanted = share * self._buckets.total()
        for bits in sorted(self._buckets):
            wanted -= self._buckets[bits]
            if wanted <= 0:
                return 1 << bits
        return 0

    def state(self) -> dict[str, dict[str, int]]:
        """What a worker publishes."""
        return {
            "buckets": {str(bits): pages for bits, pages in self._buckets.items()},
            "failed": dict(self.failed),
        }

    @classmethod
    def of_all(cls, states: Iterable[Mapping[str, Mapping[str, int]]]) -> Self:
        """What several workers published, together."""
        times = cls()
        for state in states:
            times._buckets.update({int(bits): pages for bits, pages in state["buckets"].items()})
            times.failed.update(state["failed"])
        return times

    def summary(self) -> dict[str, Any]:
        """For a status display."""
        return {
            "extracted": self._buckets.total(),
            "p50_ms": self.quantile(0.5),
            "p99_ms": self.quantile(0.99),
            "failed": dict(self.failed),
        }
