"""`Seed`, by itself: the frontier and the walker need no more of this room, and none of its readers."""

from typing import Any, NamedTuple

from crawler.errors import SeedError
from crawler.urls import MOST_CHARACTERS

# Characters of a source, the name of a file, and votes for one URL (Reddit's most liked post has 500,000).
_LONGEST_SOURCE, _MOST_VOTES = 255, 1e9


class Seed(NamedTuple):
    """A start URL, its prior (in votes: 1 is one person's choice) and where it comes from."""

    url: str
    prior: float
    source: str


def checked(seeds: Any) -> list[Seed]:
    """Seeds of whatever origin. Raises SeedError if these are none, or one is beyond its bounds."""
    try:
        found = [Seed(*seed) for seed in seeds]
        wrong = next((seed for seed in found if not _is_within(*seed)), None)
    except (TypeError, AttributeError) as error:
        raise SeedError(f"these are no seeds: {error}") from error
    if wrong:
        raise SeedError(
            f"the seed {str(wrong)[:300]} has a URL that is no address, a prior beyond {_MOST_VOTES:,.0f} "
            f"or a source of more than {_LONGEST_SOURCE} characters"
        )
    return found


def _is_within(url: str, prior: float, source: str) -> bool:
    address = url.isascii() and " " not in url and len(url) <= MOST_CHARACTERS
    return (
        address and abs(prior) <= _MOST_VOTES and isinstance(source, str) and len(source) <= _LONGEST_SOURCE
    )
