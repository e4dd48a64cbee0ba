"""`Content`: what a page contains, as a worker finds it and a document keeps it.

Not in shards/schema.py, because workers and their children load this: pyarrow would weigh 40 MB in each.
"""

from dataclasses import dataclass, field, fields
from typing import Any


def since(version: int) -> Any:
    """A column that schema version `version` brought: None in a document from before."""
    return field(default=None, metadata={"since": version})


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """Columns of a document that say what its page contains."""

    content_sha256: str = ""
    """Of the text: what makes two pages the same document."""
    language: str = ""
    language_score: float = 0.0
    title: str = ""
    text: str = ""
    """Main content as Markdown."""
    extractor: str = ""
    """Name and version."""
    opt_out: tuple[str, ...] = ()
    """Signals against use for training seen on the page, for example `meta:noai`."""


def values(part: type, owner: Any) -> dict[str, Any]:
    """The fields of the dataclass `part` by name, of an `owner` that has them all; nothing is copied."""
    return {field.name: getattr(owner, field.name) for field in fields(part)}
