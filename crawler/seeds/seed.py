"""`Seed`, by itself: the frontier and the walker need no more of this room, and none of its readers."""

import json
from collections.abc import Sequence
from typing import NamedTuple

from crawler.errors import SeedError
from crawler.urls import MOST_CHARACTERS

# Characters of a source, the name of a file, and votes for one URL (Reddit's most liked post has 500,000).
_LONGEST_SOURCE, _MOST_VOTES = 255, 1e9


class Seed(NamedTuple):
    """A start URL, its prior (in votes: 1 is one person's choice) and where it comes from."""

    url: str
    prior: float
    source: str


def packed(seeds: Sequence[Seed]) -> bytes:
    """Seeds as an entry of the stream. Raises SeedError for one beyond its bounds."""
    for seed in seeds:
        _check(seed)
    return json.dumps(seeds).encode()


def unpacked(data: bytes) -> list[Seed]:
    """What was `packed`. Raises SeedError if these bytes are no seeds within their bounds."""
    try:
        seeds = [Seed(*seed) for seed in json.loads(data)]
    except (ValueError, TypeError, RecursionError) as error:
        raise SeedError(f"these are no seeds: {str(error)[:200]}") from error
    for seed in seeds:
        _check(seed)
    return seeds


def _check(seed: Seed) -> None:
    url, prior, source = seed
    if (
        not (isinstance(url, str) and len(url) <= MOST_CHARACTERS and url.isascii() and " " not in url)
        or not (isinstance(prior, int | float) and abs(prior) <= _MOST_VOTES)
        or not (isinstance(source, str) and len(source) <= _LONGEST_SOURCE)
    ):
        raise SeedError(
            f"the seed {str(url)[:100]!r} of {str(source)[:100]!r} has a URL that is not canonical, a prior "
            f"beyond {_MOST_VOTES:,.0f} or a source of more than {_LONGEST_SOURCE} characters"
        )
