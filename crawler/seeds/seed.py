"""`Seed`, by itself: the frontier and the walker need no more of this room, and none of its readers."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from crawler.errors import SeedError
from crawler.urls import MOST_CHARACTERS

# Characters of a source, and votes for one URL (Reddit's most liked post has 500,000).
LONGEST_SOURCE, _MOST_VOTES = 255, 1e9


class Seed(NamedTuple):
    """A start URL, its prior (in votes: 1 is one person's choice) and where it comes from."""

    url: str
    prior: float
    source: str
    """`KIND:NAME`, such as `search:brave:otters` or `reddit:programming`; `chosen`; the name of a list."""
    precision: float = 1.0
    """How far the prior is to be believed, 0 to 1: the weight of its label among people's votes."""


class Batch(NamedTuple):
    """Seeds that a source found together. It is resumed once they are given; then it settles its position."""

    seeds: list[Seed]
    facts: Mapping[str, Sequence[Any]] = {}
    """What else is known of each, in columns of their own where seeds become a file."""


@dataclass(slots=True)
class Progress:
    """How far a source has come and what it left out: shown while it runs, and said at its end."""

    unit: str = ""
    """What `done` and `total` count: bytes, queries, hosts."""
    total: float = 0.0
    """0 while nobody knows."""
    done: float = 0.0
    read: int = 0
    """Records seen, whatever became of them."""
    dropped: Counter[str] = field(default_factory=Counter)
    """What gave no seed and no page, by reason."""


def checked(seeds: Any) -> list[Seed]:
    """Seeds of whatever origin. Raises SeedError if these are none, or one is beyond its bounds."""
    try:
        found = [Seed(*seed) for seed in seeds]
        wrong = next((seed for seed in found if not _is_within(*seed)), None)
    except (TypeError, AttributeError) as error:
        raise SeedError(f"these are no seeds: {error}") from error
    if wrong:
        raise SeedError(
            f"the seed {str(wrong)[:300]} has a URL that is no address, a prior beyond {_MOST_VOTES:,.0f}, "
            f"a source of more than {LONGEST_SOURCE} characters or a precision that is not from 0 to 1"
        )
    return found


def _is_within(url: str, prior: float, source: str, precision: float) -> bool:
    address = url.isascii() and " " not in url and len(url) <= MOST_CHARACTERS
    named = isinstance(source, str) and len(source) <= LONGEST_SOURCE
    return address and abs(prior) <= _MOST_VOTES and named and 0 <= precision <= 1
