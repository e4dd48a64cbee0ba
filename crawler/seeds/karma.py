"""Karma as a prior: what people up-voted, summed over all submissions of a page, with error bars.

The rule is WebText's (Radford et al. 2019: at least 3 votes) on the unit OpenWebText2 uses (all submissions
of one URL). What both leave out: URLs are made canonical before they are summed; a crosspost counts for the
page it shows; a score that was captured before anybody could vote is imputed from what its month, subreddit
and age lead to; and how much a vote says depends on where it was given. A subreddit's usual score, and a
page's own excess over it, are shrunk towards what is usual by empirical Bayes, on log(1 + score): karma.sql.

DuckDB holds the posts, in a file, and spills what memory has no room for: a year of Reddit needs a disk.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from crawler.errors import SeedError
from crawler.seeds.config import RedditConfig
from crawler.seeds.dumps import Post, posts_of
from crawler.seeds.ledger import Ledger
from crawler.seeds.seed import LONGEST_SOURCE, Batch, Progress, Seed
from crawler.urls import address, canonical

FILE_NAME = "karma.duckdb"
FACTS = ("karma", "karma_se", "votes", "posts", "subreddits", "authors", "max")
# Posts of one commit: 2 to 6 seconds of work that a kill costs. In memory they take 60 MB.
_COMMITTED = 200_000
# Of DuckDB. With Python's own 150 MB it stays below 400 beside the window of one dump.
_MEMORY = "200MB"
_ROWS = 50_000
# Posts whose URLs are grouped together, in that memory: 6 million of different ones worked, 40 did not.
_GROUPED = 4_000_000
_GIVEN = 1000
_COLUMNS = pa.schema(
    [("url", pa.string()), ("subreddit", pa.string()), ("author", pa.uint32()), ("month", pa.int32()),
     ("score", pa.float64()), ("age", pa.float64()), ("dump", pa.int32())]
)  # fmt: skip
_TABLES = """
create table if not exists dumps (
    dump integer primary key, path text, identity text,
    position bigint, seen bigint, dropped text, over boolean
);
create table if not exists posts (
    url text, subreddit text, author uinteger, month integer, score double, age double, dump integer
);
"""


def seeds_of_dumps(
    dumps: Sequence[Path], config: RedditConfig, place: Path | str, ledger: Ledger, progress: Progress
) -> Iterator[Batch]:
    """Seeds of all `dumps` together, those that promise most first; `place` is DuckDB's file.

    A dump is read once, and goes on in its middle if that was interrupted. Raises SeedError if one is damaged
    or holds no submissions: the posts of the others are kept.
    """
    progress.unit, progress.total = "bytes", sum(path.stat().st_size for path in map(_there, dumps))
    with _opened(place) as db:
        numbers = [_read(db, path, config, progress) for path in dumps]
        words = [config.least_votes, *(_identity(path) for path in dumps)]
        yield from _seeds(db, numbers, words, config, ledger, progress)


def seeds_of_posts(
    posts: Sequence[Post], names: Sequence[str], config: RedditConfig, ledger: Ledger, progress: Progress
) -> Iterator[Batch]:
    """Seeds of posts that were asked for, `names` of them, as of a dump."""
    with _opened(":memory:") as db:
        _insert(db, posts, 0)
        yield from _seeds(db, [0], names, config, ledger, progress)


@contextmanager
def _opened(place: Path | str) -> Iterator[duckdb.DuckDBPyConnection]:
    """DuckDB's file. Raises SeedError, also within, if another process has it, or it or the disk fails."""
    if isinstance(place, Path):
        place.parent.mkdir(parents=True, exist_ok=True)
    try:
        with closing(duckdb.connect(str(place))) as db:
            db.execute(
                f"set memory_limit = '{_MEMORY}'; set threads = 1; set preserve_insertion_order = false"
            )
            db.execute(_TABLES)
            yield db
    except duckdb.OperationalError as error:
        if "Conflicting lock" in str(error):
            todo = "another command reads dumps into it: wait for that, or end it"
        elif "not a valid" in str(error):
            todo = "remove it, and the dumps are read anew"
        else:
            todo = "what was committed is kept: see that its disk has room, and run the same command again"
        raise SeedError(f"{place}: {str(error).splitlines()[0]}; {todo}") from error


def _seeds(
    db: duckdb.DuckDBPyConnection,
    numbers: list[int],
    words: Sequence[object],
    config: RedditConfig,
    ledger: Ledger,
    progress: Progress,
) -> Iterator[Batch]:
    """Seeds of the posts of these dumps, from where the ledger says; `words` name the job."""
    job = f"karma {hashlib.sha256(json.dumps(words).encode()).hexdigest()}"
    start = int(ledger.position(job) or 0)
    _name_pages(db, numbers, progress)
    values = {"dumps": numbers, "least": config.least_votes, "start": start}
    for statement in duckdb.extract_statements((Path(__file__).parent / "karma.sql").read_text()):
        found = db.execute(statement, {name: values[name] for name in statement.named_parameters})
    while rows := found.fetchmany(_GIVEN):
        seeds = [
            Seed(url, prior, f"reddit:{subreddit}"[:LONGEST_SOURCE], precision)
            for url, prior, subreddit, precision, *_ in rows
        ]
        yield Batch(seeds, dict(zip(FACTS, zip(*(row[4:] for row in rows), strict=True), strict=True)))
        start += len(rows)
        ledger.settle(job, str(start))


def _insert(db: duckdb.DuckDBPyConnection, posts: Sequence[Post], dump: int) -> None:
    if not posts:
        return
    columns = [*zip(*posts, strict=True), [dump] * len(posts)]
    batch = [pa.array(column, field.type) for column, field in zip(columns, _COLUMNS, strict=True)]
    db.register("batch", pa.table(batch, schema=_COLUMNS))
    db.execute("insert into posts select * from batch")
    db.unregister("batch")


def _there(path: Path) -> Path:
    if not path.is_file():
        raise SeedError(f"{path}: no such file; a dump of Reddit's submissions is needed, or --road archive")
    return path


def _identity(path: Path) -> str:
    about = path.resolve().stat()
    return f"{path.resolve()} {about.st_size} {about.st_mtime_ns}"


def _read(db: duckdb.DuckDBPyConnection, path: Path, config: RedditConfig, progress: Progress) -> int:
    """Bring the posts of a dump into the table, as far as they are not; the number of the dump there."""
    name, identity = str(path.resolve()), _identity(path)
    known = db.execute("select * from dumps where path = ? and identity = ?", (name, identity)).fetchone()
    if known is None:
        # Another file of this name was read before: what it held is not counted twice.
        db.execute("delete from posts where dump in (select dump from dumps where path = ?)", (name,))
        db.execute("delete from dumps where path = ?", (name,))
        [(number,)] = db.execute("select coalesce(max(dump), 0) + 1 from dumps").fetchall()
        known = number, name, identity, 0, 0, "{}", False
        db.execute("insert into dumps values (?, ?, ?, ?, ?, ?, ?)", known)
    number, _, _, at, seen, said, over = known
    dropped, began, before = progress.dropped, progress.done, progress.dropped.copy()
    dropped.update(json.loads(said))
    progress.read += seen
    if over:
        progress.done += path.stat().st_size
        return int(number)

    def commit(rows: list[Post], *, over: bool) -> None:
        db.begin()
        _insert(db, rows, number)
        db.execute(
            "update dumps set position = ?, seen = ?, dropped = ?, over = ? where dump = ?",
            (at, seen, json.dumps(dropped - before), over, number),
        )
        db.commit()
        rows.clear()

    def tell(read: int) -> None:
        progress.done = began + read

    rows: list[Post] = []
    records = posts_of(path, at, dropped, tell, config.media_hosts)
    while part := list(islice(records, _ROWS)):
        rows += [post for post, _ in part if post]
        at, seen, progress.read = part[-1][1], seen + len(part), progress.read + len(part)
        if len(rows) >= _COMMITTED:
            commit(rows, over=False)
    if not seen or seen == (dropped - before)["bad_line"]:
        raise SeedError(
            f"{path}: no line is a submission in the public dumps' format (one JSON object a line)"
        )
    commit(rows, over=True)
    progress.done = began + path.stat().st_size
    return int(number)


def _name_pages(db: duckdb.DuckDBPyConnection, dumps: list[int], progress: Progress) -> None:
    """Make the canonical form of each URL, once: of a year's posts a third are of the same."""
    db.execute(
        "create or replace temp table pages "
        "(number uhugeint, page uhugeint, named bool, address text, name text)"
    )
    [(posts,)] = db.execute("select count(*) from posts").fetchall()
    parts = 1 + posts // _GROUPED
    for part in range(parts):
        urls = db.cursor().execute(
            "select url, count(*) from posts "
            "where list_contains($dumps, dump) and hash(url) % $parts = $part group by url",
            {"dumps": dumps, "parts": parts, "part": part},
        )
        while rows := urls.fetchmany(_ROWS):
            named: list[tuple[Any, ...]] = []
            for url, n in rows:
                found = address(url)
                named.append((url, found, found and canonical(found)))
                progress.dropped["bad_url"] += 0 if found else n
            columns = [pa.array(column, pa.string()) for column in zip(*named, strict=True)]
            db.register("batch", pa.table(columns, ["url", "address", "name"]))
            db.execute(
                "insert into pages "
                "select md5_number(url), md5_number(name), address = name, address, name from batch"
            )
            db.unregister("batch")
