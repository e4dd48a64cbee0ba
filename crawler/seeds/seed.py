"""`Seed`, by itself: the frontier and the walker need no more of this room, and none of its readers."""

from typing import NamedTuple


class Seed(NamedTuple):
    """A start URL, its prior (in votes: 1 is one person's choice) and where it comes from."""

    url: str
    prior: float
    source: str
