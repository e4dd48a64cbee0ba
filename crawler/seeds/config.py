"""Settings of the sources of seeds, a class each. Imported by --help: nothing heavy is imported here."""

from dataclasses import dataclass
from pathlib import Path

from cyclopts import Parameter


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class SeedsTo:
    """Where seeds go."""

    out: Path | None = None
    """A file for them instead of the crawl, begun anew: .parquet, .csv, or - for stdout."""
