"""`Spill`: the tail of every host on disk, so that memory holds only the best of each.

What a queue has no room for goes through a list on the server into one SQLite file, and comes back, best
tenth first, when the queue runs low: deferred, never dropped (BUbiNG's virtualizer, IRLbot's BEAST). The
server forgets an entry only once it was written down, and the file only `_KEPT_SECONDS` after the server took
it back, in a batch whose number makes saying it twice harmless; so whoever dies when, nothing is lost. One
process spills: the walker, who holds the lock of the shards beside which the file lies. The same file keeps
what a full server refuses (`Refused`), until it takes URLs again.
"""

import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from crawler.errors import FrontierError
from crawler.frontier.frontier import Frontier
from crawler.frontier.records import Discovered

_VERSION = 2
_WRITTEN_AT_ONCE = 20_000  # entries of one transaction: some MB
_FILLED_AT_ONCE = 64  # hosts of a partition and turn, so that a turn stays short
# A batch stays on file until the server has surely logged it: twice the two seconds it may lose, and some.
_KEPT_SECONDS = 10.0
# Refused links that are kept, at some 200 bytes each: on disk; in memory, where the walker's state has them.
_REFUSED_ON_DISK, _REFUSED_IN_MEMORY = 5_000_000, 50_000

_REFUSED = """
CREATE TABLE refused (
    url TEXT, referrer TEXT, least INTEGER, put REAL,  -- put: when the server took it, 0 while it waits
    PRIMARY KEY (url, referrer)
) WITHOUT ROWID;
CREATE INDEX refused_next ON refused (put, least);
"""
_SCHEMA = f"""{_REFUSED}
CREATE TABLE host (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE url (
    host INTEGER, batch INTEGER, least INTEGER, member TEXT,  -- least: minus the promise; the best come first
    PRIMARY KEY (host, batch, least, member)
) WITHOUT ROWID;
CREATE TABLE batch (host INTEGER, number INTEGER, at REAL, PRIMARY KEY (host, number)) WITHOUT ROWID;
"""


class Refused:
    """Links that a full server refused, at most `most`: kept until some time after it took them.

    So a server that lost its last second, and we too, is told again; to put twice changes nothing.
    """

    def __init__(self, db: sqlite3.Connection, path: Path, most: int) -> None:
        self._db, self._path, self._most = db, path, most
        self._db.execute("UPDATE refused SET put = 0 WHERE put > 0")
        [self._waiting] = self._db.execute("SELECT count(*) FROM refused").fetchone()

    @classmethod
    def in_memory(cls) -> Self:
        """Of a walker without a disk: its state has to carry them."""
        db = sqlite3.connect(":memory:", isolation_level=None)
        db.executescript(_REFUSED)
        return cls(db, Path(":memory:"), _REFUSED_IN_MEMORY)

    def __len__(self) -> int:
        return int(self._waiting)

    def add(self, links: Sequence[Discovered]) -> int:
        """Keep `links`, the best of them if there is no room for all; returns how many that leaves."""
        kept = sorted(links, key=lambda link: -link.promise)[: max(0, self._most - self._waiting)]
        with _told_clearly(self._path), _Transaction(self._db):
            self._waiting += self._db.executemany(
                "INSERT INTO refused VALUES (?, ?, ?, 0) "
                "ON CONFLICT DO UPDATE SET put = 0, least = excluded.least WHERE put > 0",
                ((url, referrer, round(-1e6 * promise)) for url, promise, referrer in kept),
            ).rowcount
        return len(links) - len(kept)

    def best(self, n: int) -> list[Discovered]:
        """The next `n` to be put again; all that wait, if that is not more."""
        found = self._db.execute(
            "SELECT url, -least / 1e6, referrer FROM refused WHERE put = 0 ORDER BY least LIMIT ?", (n,)
        )
        return [Discovered(*each) for each in found]

    def put(self, links: Sequence[Discovered]) -> None:
        """The server took `links`, or nobody wants them any more."""
        if not links and not self._waiting:
            return
        now = time.monotonic()
        with _told_clearly(self._path), _Transaction(self._db):
            self._waiting -= self._db.executemany(
                "UPDATE refused SET put = ? WHERE url = ? AND referrer = ? AND put = 0",
                ((now, url, referrer) for url, _, referrer in links),
            ).rowcount
            self._db.execute("DELETE FROM refused WHERE put > 0 AND put < ?", (now - _KEPT_SECONDS,))


class Spill:
    """The file at `path`; a context manager. While it is open, `frontier` keeps only the best in memory.

    Raises FrontierError if the file is of another version, no database, or cannot be written.
    """

    def __init__(self, frontier: Frontier, path: Path) -> None:
        self._frontier = frontier
        self._restarts = frontier.restarts
        self._path = path
        try:
            self._db = sqlite3.connect(path, isolation_level=None)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
            self._open()
            self.refused = Refused(self._db, path, _REFUSED_ON_DISK)
        except sqlite3.Error as error:
            raise FrontierError(f"{path}: cannot hold the tail of the frontier ({error})") from error
        self._say_again()
        frontier.has_disk = True

    def _open(self) -> None:
        [version] = self._db.execute("PRAGMA user_version").fetchone()
        if version == 0:
            self._db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {_VERSION}; COMMIT;")
        elif version == 1:  # which had no table of what a full server refuses
            self._db.executescript(f"BEGIN; {_REFUSED} PRAGMA user_version = {_VERSION}; COMMIT;")
        elif version != _VERSION:
            raise FrontierError(
                f"{self._path}: version {version}, not {_VERSION}: use the tinylm that wrote it"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._frontier.has_disk = False
        self._db.close()

    def count(self) -> int:
        """URLs on disk that are not on their way back."""
        [count] = self._db.execute("SELECT count(*) FROM url WHERE batch = 0").fetchone()
        return int(count)

    def turn(self) -> None:
        """Write down what waits, then give back what is wanted. Raises FrontierError if the disk is full."""
        if self._frontier.restarts != self._restarts:
            self._restarts = self._frontier.restarts
            self._say_again()
        with _told_clearly(self._path):
            for partition in range(self._frontier.config.partitions):
                self._write(partition)
                for host, batch in self._frontier.thirsty(partition, _FILLED_AT_ONCE):
                    self._give_back(partition, host, batch + 1)
            self._forget()

    def _write(self, partition: int) -> None:
        found: list[tuple[str, int, str]] = []
        while found := self._frontier.spooled(partition, found, _WRITTEN_AT_ONCE):
            with _Transaction(self._db):
                ids = {host: self._id(host) for host in {host for host, _, _ in found}}
                self._db.executemany(
                    "INSERT OR IGNORE INTO url VALUES (?, 0, ?, ?)",
                    ((ids[host], -promise, member) for host, promise, member in found),
                )

    def _id(self, host: str) -> int:
        self._db.execute("INSERT OR IGNORE INTO host (name) VALUES (?)", (host,))
        [number] = self._db.execute("SELECT id FROM host WHERE name = ?", (host,)).fetchone()
        return int(number)

    def _give_back(self, partition: int, name: str, batch: int) -> None:
        host = self._id(name)
        best = "SELECT least, member FROM url WHERE host = ? AND batch = 0 ORDER BY least LIMIT ?"
        urls = self._db.execute(best, (host, self._frontier.config.hot_per_host)).fetchall()
        with _Transaction(self._db):
            self._db.executemany(
                "UPDATE url SET batch = ? WHERE host = ? AND batch = 0 AND least = ? AND member = ?",
                ((batch, host, least, member) for least, member in urls),
            )
            self._db.execute("INSERT OR REPLACE INTO batch VALUES (?, ?, ?)", (host, batch, time.time()))
        self._refill(partition, name, host, batch, urls)

    def _refill(
        self, partition: int, name: str, host: int, batch: int, urls: Iterable[tuple[int, str]]
    ) -> None:
        [least] = self._db.execute(
            "SELECT min(least) FROM url WHERE host = ? AND batch = 0", (host,)
        ).fetchone()
        links = [(member, -promise) for promise, member in urls]
        self._frontier.refill(partition, name, batch, links, -1 if least is None else -least)

    def _say_again(self) -> None:
        """Batches that a crash, ours or the server's, may have kept from arriving; others change nothing."""
        batches = self._db.execute("SELECT host, name, number FROM batch JOIN host ON id = host").fetchall()
        for host, name, number in batches:
            urls = self._db.execute(
                "SELECT least, member FROM url WHERE host = ? AND batch = ?", (host, number)
            )
            self._refill(self._frontier.partition_of(name), name, host, number, urls.fetchall())

    def _forget(self) -> None:
        old = "SELECT host, number FROM batch WHERE at < ?"
        done = self._db.execute(old, (time.time() - _KEPT_SECONDS,)).fetchall()
        if done:
            with _Transaction(self._db):
                self._db.executemany("DELETE FROM url WHERE host = ? AND batch = ?", done)
                self._db.executemany("DELETE FROM batch WHERE host = ? AND number = ?", done)


class _Transaction:
    """All of it or nothing; sqlite3's own context manager does not begin one."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._db.execute("COMMIT")
        elif self._db.in_transaction:  # a full disk may have ended it
            self._db.execute("ROLLBACK")


@contextmanager
def _told_clearly(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise FrontierError(f"{path}: {error}; nothing is lost, free some space and start again") from error
