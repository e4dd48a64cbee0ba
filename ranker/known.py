"""`Known`: a growing set of 64-bit numbers at 8 bytes each."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

_MERGE_AT = 50_000


class Known:
    """Numbers met before: a sorted array, and a small set of recent ones merged into it now and then."""

    def __init__(self, numbers: Iterable[int] = ()) -> None:
        self._sorted: NDArray[np.uint64] = np.unique(np.fromiter(numbers, dtype=np.uint64))
        self._recent: set[int] = set()

    def __contains__(self, number: int) -> bool:
        if number in self._recent:
            return True
        at = int(np.searchsorted(self._sorted, np.uint64(number)))
        return at < len(self._sorted) and int(self._sorted[at]) == number

    def __len__(self) -> int:
        return len(self._sorted) + len(self._recent)

    def add(self, number: int) -> None:
        if number not in self:
            self._recent.add(number)
            if len(self._recent) >= _MERGE_AT:
                self._merge()

    def to_array(self) -> NDArray[np.uint64]:
        """All numbers, ascending."""
        self._merge()
        return self._sorted

    def _merge(self) -> None:
        recent = np.fromiter(self._recent, dtype=np.uint64, count=len(self._recent))
        self._sorted = np.union1d(self._sorted, recent)
        self._recent = set()
