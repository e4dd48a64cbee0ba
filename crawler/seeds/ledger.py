"""`Ledger`: how far each source of seeds has come and what it has spent, beside the crawl that it feeds."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Self

from crawler.errors import SeedError

FILE_NAME = "sources.sqlite"
# Seconds in which another command may be writing to it.
_PATIENCE = 30.0
_TABLES = """
create table if not exists positions (job text primary key, position text not null) without rowid;
create table if not exists spent (
    source text, unit text, amount real not null, primary key (source, unit)
) without rowid;
"""


class Ledger:
    """The SQLite file at `path` (":memory:": none); a context manager. Each call is a transaction.

    Sources give their seeds first and settle their position then: whoever dies between the two gives some of
    them twice, which count once. Unless it `resumes` each begins anew, for what is given to a file that is
    written as a whole. Raises SeedError if the file is no such ledger, or cannot be written.
    """

    def __init__(self, path: Path | str, *, resumes: bool = True) -> None:
        self.resumes = resumes
        try:
            if isinstance(path, Path):
                path.parent.mkdir(parents=True, exist_ok=True)
            self.db = sqlite3.connect(path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False)
            """For tables of a source's own: what was asked before, quotas."""
            self.db.execute("pragma journal_mode=wal")
            self.db.executescript(_TABLES)
        except (sqlite3.Error, OSError) as error:
            raise SeedError(f"{path}: no ledger of sources, or it cannot be written ({error})") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All that is written within, or nothing of it."""
        self.db.execute("begin immediate")
        try:
            yield
        except BaseException:
            self.db.execute("rollback")
            raise
        self.db.execute("commit")

    def position(self, job: str) -> str:
        """Where a source goes on; "" if it has not begun."""
        found = self.db.execute("select position from positions where job = ?", (job,)).fetchone()
        return str(found[0]) if found and self.resumes else ""

    def settle(self, job: str, position: str) -> None:
        """All that `job` has before `position` was given."""
        if self.resumes:
            self.db.execute("insert or replace into positions values (?, ?)", (job, position))

    def spend(self, source: str, unit: str, amount: float = 1.0) -> None:
        """`source` cost so much more: `queries`, `billed` requests, `probes`, other `requests`."""
        self.db.execute(
            "insert into spent values (?, ?, ?) on conflict do update set amount = amount + excluded.amount",
            (source, unit, amount),
        )

    def spent(self) -> dict[str, dict[str, float]]:
        """By source and unit."""
        return _spent(self.db)


def spent_in(path: Path) -> dict[str, dict[str, float]]:
    """What a ledger says was spent, also on a disk that cannot be written; {} if there is none."""
    if not path.exists():
        return {}
    try:
        with Ledger(path) as ledger:
            return ledger.spent()
    except SeedError:
        # Without what its last minutes wrote: a log beside it cannot be read from such a disk.
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?immutable=1", uri=True)) as db:
            return _spent(db)


def _spent(db: sqlite3.Connection) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for source, unit, amount in db.execute("select source, unit, amount from spent"):
        found.setdefault(source, {})[unit] = amount
    return found
