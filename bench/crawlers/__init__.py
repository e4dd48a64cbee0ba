"""The contestants of bench/crawl.py: each fetches a list, says `done`, then writes what it extracted."""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple, Self

CONCURRENCY = 16
TRAFILATURA: dict[str, Any] = {
    "output_format": "markdown", "include_comments": False, "include_formatting": True, "fast": True
}  # fmt: skip
"""What crawler/read/extract.py asks of it."""


class Job(NamedTuple):
    """What a contestant is to do; its process gets it as a file."""

    urls: list[str]
    redis_url: str
    mode: str
    """`links`, `documents` (every page is extracted), or `two tiers`."""
    out: str

    @classmethod
    def given(cls) -> Self:
        return cls(**json.loads(Path(sys.argv[1]).read_text()))

    def finish(self, documents: Iterable[tuple[str, str]]) -> None:
        """Say so, and once the clock has been read, write URL and text of each document."""
        print("done", flush=True)
        sys.stdin.readline()
        with Path(self.out).open("w", encoding="utf-8") as file:
            file.writelines(json.dumps([url, text]) + "\n" for url, text in documents)
