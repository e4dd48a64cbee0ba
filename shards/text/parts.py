"""The state of several owners as one mapping of arrays, as numpy saves them: names after their owner's."""

from collections.abc import Mapping
from typing import Any


def joined(parts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """One mapping out of the owners' own."""
    return {f"{owner}.{name}": value for owner, part in parts.items() for name, value in part.items()}


def part_of(arrays: Mapping[str, Any], owner: str) -> dict[str, Any]:
    """What `joined` was given for `owner`."""
    prefix = f"{owner}."
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}
