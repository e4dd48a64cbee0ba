"""A job: each part of the work done once, whoever dies, and then one manifest.

What makes files a part of the new corpus is `parts/000012.json`, put where nothing was: the attempt that gets
it there first has won, any other finds it, removes its own files and yields. So any number of processes, of
machines too, may work at one job; killed, it goes on with the parts that are not there. Once all are, the
manifest lists them in their order (as Hadoop's manifest committer does), and the corpus is there.

The engine is Daft, on this machine or on a Ray cluster: it hands parts to processes, gives a part of a node
that died to another, and takes in nodes that join. Nothing of that is ours, and it may try a part twice.
"""

import json
import os
import shutil
import signal
import uuid
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

import pyarrow as pa

from shards.errors import ShardCorrupt, ShardError
from shards.files import is_url, open_bytes
from shards.manifest import FILE_NAME, FileEntry, Manifest, ShardEntry, is_corpus
from shards.schema import DOCUMENTS, LINKS
from shards.writer import write_documents, write_table
from tinylm import __version__
from tinylm.errors import FileError, TinylmError
from tinylm.files import TEMPORARY_SUFFIX, read_json, sync_directory, sync_file
from tinylm.processes import watch_parent
from tinylm.records import record

E = TypeVar("E", ShardEntry, FileEntry)

LINEAGE, PARTS = "lineage.json", "parts"
_ROW_GROUP_ROWS = 256
# Of a part that failed for a reason that may be gone: memory, or a network that was away.
_TRIES = 3
# Of processes while no part ends: a document may kill two before it is left out.
_DEATHS = 12

VERDICTS = pa.schema([
    ("document", pa.string()),
    ("stage", pa.string()),
    ("rule", pa.string()),
    ("value", pa.float64()),
    ("threshold", pa.float64()),
    ("keep", pa.bool_()),
    ("kept_instead", pa.string()),
])  # fmt: skip
"""A row for each document that was looked at and each rule; without a threshold 1 is yes and 0 no."""


@dataclass(frozen=True, slots=True)
class Parent:
    """A snapshot that was read."""

    location: str
    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Lineage:
    """Of what a corpus was made, how, and by which tinylm; beside its manifest, and there before it."""

    stage: str
    settings: dict[str, Any]
    parents: tuple[Parent, ...]
    version: str = __version__

    @classmethod
    def load(cls, directory: Path | str) -> "Lineage | None":
        """That of the corpus in `directory`; None if no stage made it. Raises ShardCorrupt."""
        path = Path(directory) / LINEAGE
        try:
            return record(cls, read_json(path))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, FileError) as error:
            raise ShardCorrupt(f"{path}: not a lineage ({error})") from error


class Made(NamedTuple):
    """What became of some documents of a part."""

    documents: pa.Table
    verdicts: pa.Table
    dropped: Mapping[str, int]
    of: ShardEntry | None = None
    """The shard at `location` whose files of links and fetches become the new one's."""
    location: str = ""


class Work(ABC):
    """A stage with what it reads; sent to whoever does a part."""

    stage: ClassVar[str]
    in_python: ClassVar[bool] = False
    """Whether Python's own code does most of it, of which one process runs on one core."""

    @property
    @abstractmethod
    def parents(self) -> tuple[Parent, ...]:
        """The snapshots that it reads."""

    @property
    @abstractmethod
    def parts(self) -> int:
        """How many parts there are."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """All that the result depends on beside the parents, as JSON has it."""

    @abstractmethod
    def made(self, number: int, attempt: Path) -> Iterator[Made]:
        """Do the part `number`: the same whenever it is done. Each of what it gives becomes a shard.

        `attempt` is a folder of its own, that stays if this process dies.
        """

    def prepare(self, out: Path, ray: str, note: Callable[[str], None]) -> None:  # noqa: B027
        """Do what has to be there before the first part, and tell `note` of it; what is there is found."""

    def manifest(self, shards: tuple[ShardEntry, ...], out: Path) -> Manifest:  # noqa: ARG002 (some look there)
        """That of the new corpus, all parts of which are in `out`."""
        return Manifest(shards=shards)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What is committed of a part."""

    shards: tuple[ShardEntry, ...]
    verdicts: tuple[FileEntry, ...]
    looked_at: int
    dropped: dict[str, int] = field(default_factory=dict)

    @property
    def files(self) -> Iterator[ShardEntry | FileEntry]:
        for shard in self.shards:
            yield from shard.files
        yield from self.verdicts


def run(
    work: Work,
    out: Path,
    ray: str = "",
    done: Callable[[Part], None] = lambda _: None,
    note: Callable[[str], None] = lambda _: None,
) -> Manifest:
    """Do what is left of `work`, and make `out` the corpus that comes of it.

    `ray` is the address of a cluster whose nodes all reach `out`. `done` is told of each part, also of those
    that were there, and `note` of what goes before. Raises ShardError if `out` holds another corpus or job,
    or if a part cannot be done.
    """
    out = out.resolve()
    _begin(work, out)
    driver, deaths, left = os.getpid(), 0, list(range(work.parts))

    def attempt(number: int) -> str:
        if os.getppid() == driver:  # a process of its own: the engine's go on without us otherwise
            _end_with(driver)
        return json.dumps(_attempt(work, out, number))

    while True:
        there = {number: part for number in left if (part := committed(out, number))}
        for part in there.values():
            done(part)
        deaths = deaths if not there else 0
        left = [number for number in left if number not in there]
        if not left:
            return _finish(work, out)
        try:
            work.prepare(out, ray, note)
            for number, line in each(attempt, left, ray, in_python=work.in_python):
                said = json.loads(line)
                if "error" in said:
                    raise ShardError(f"{out}: part {number} of {work.parts}: {said['error']}")
                done(record(Part, said))
                left = [other for other in left if other != number]
        except TinylmError:
            raise
        except Exception as error:  # of the engine: a process died, and it knows no more
            deaths += 1
            if deaths == _DEATHS:
                why = str(error).partition("\n")[0]
                raise ShardError(f"{out}: {deaths} processes died, perhaps of memory: {why}") from error


@cache
def _end_with(driver: int) -> None:
    watch_parent(signal.SIGKILL, driver)


def committed(out: Path, number: int) -> Part | None:
    """What is committed of that part; None if it is not done. Raises ShardCorrupt."""
    path = out / PARTS / _name(number)
    try:
        return record(Part, read_json(path))
    except FileNotFoundError:
        return None
    except (ValueError, FileError) as error:
        raise ShardCorrupt(f"{path}: not a part ({error}); remove it, and it is done again") from error


def _begin(work: Work, out: Path) -> None:
    """Write down whose job this is; raises ShardError if it is another's."""
    lineage = Lineage(stage=work.stage, settings=work.settings(), parents=work.parents)
    try:
        (out / PARTS).mkdir(parents=True, exist_ok=True)
        if _put(out / LINEAGE, asdict(lineage)):
            if is_corpus(out):
                (out / LINEAGE).unlink()
                raise ShardError(f"{out}: holds a corpus: give another --out")
            return
    except OSError as error:
        raise ShardError(f"{out}: cannot be written ({error.strerror})") from error
    before = Lineage.load(out)
    if before and _digest(before) != _digest(lineage):
        of = ", ".join(f"{one.location} {one.fingerprint[:12]}" for one in before.parents)
        how = json.dumps(before.settings)
        raise ShardError(f"{out}: holds `{before.stage}` of {of} with {how}: give another --out")


def _digest(lineage: Lineage) -> str:
    """Another version of tinylm goes on with what one began."""
    return json.dumps(asdict(replace(lineage, version="")), sort_keys=True)


def each(
    do: Callable[[int], str], numbers: Sequence[int], ray: str = "", *, in_python: bool = False
) -> Iterator[tuple[int, str]]:
    """What `do` returns for each number, as they end: on all cores of this machine, or of a Ray cluster."""
    os.environ.setdefault("DAFT_PROGRESS_BAR", "0")
    import daft

    # Once in a process, and for good.
    if ray:
        daft.set_runner_ray(ray, noop_if_initialized=True)
    elif daft.get_or_infer_runner_type() != "native":
        daft.set_runner_native()
    if not numbers:
        return
    # A process for Python's own code, which one core would do alone; threads for what is done by libraries.
    done = daft.func(do, return_dtype=daft.DataType.string(), use_process=in_python)
    frame = daft.from_pydict({"number": list(numbers)})
    frame = frame.into_partitions(len(numbers)) if ray else frame.into_batches(1)
    for row in frame.select(daft.col("number"), done(daft.col("number")).alias("said")).iter_rows():
        yield row["number"], row["said"]


def _attempt(work: Work, out: Path, number: int) -> dict[str, Any]:
    """Do a part, or find it done: its entry, or the `error` for which there is none."""
    for again in range(_TRIES - 1, -1, -1):
        try:
            return asdict(committed(out, number) or _commit(work, out, number))
        except Exception as error:
            if part := committed(out, number):  # meanwhile, and perhaps our files were cleared away
                return asdict(part)
            if isinstance(error, TinylmError):
                return {"error": str(error)}
            if not again:
                return {"error": f"{type(error).__name__}: {error}"}
    raise AssertionError


def _commit(work: Work, out: Path, number: int) -> Part:
    """Make the files of a part, then its entry, and return it; the winner's, if another was first."""
    folder = out / PARTS / f"{number:06d}-{uuid.uuid4().hex[:8]}"
    folder.mkdir()

    def placed(entry: E) -> E:
        # By the digest, so that two attempts never write different bytes to one name.
        name = f"{entry.name.removesuffix('.parquet')}-{entry.sha256[:8]}.parquet"
        (folder / entry.name).replace(out / name)
        return replace(entry, name=name)

    try:
        shards, verdicts, dropped, looked_at = [], [], Counter[str](), 0
        for at, made in enumerate(work.made(number, folder)):
            name = f"{number:06d}{at:03d}"
            shard = placed(_shard(folder, name, made))
            fetches = placed(shard.fetches) if shard.fetches else None
            shards.append(replace(shard, links=placed(shard.links), fetches=fetches))
            path = folder / f"verdicts-{name}.parquet"
            verdicts.append(placed(write_table(path, made.verdicts, ["stage", "rule", "threshold"])))
            dropped.update(made.dropped)
            looked_at += made.documents.num_rows + sum(made.dropped.values())
        sync_directory(out)
        part = Part(
            shards=tuple(shards), verdicts=tuple(verdicts), looked_at=looked_at, dropped=dict(dropped)
        )
        if _put(out / PARTS / _name(number), asdict(part)):
            return part
        if (won := committed(out, number)) is None:
            raise ShardError(f"{out}: the entry of part {number} went away: start the same command again")
        for name in {file.name for file in part.files} - {file.name for file in won.files}:
            (out / name).unlink(missing_ok=True)
        return won
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _shard(folder: Path, name: str, made: Made) -> ShardEntry:
    documents = made.documents.select(DOCUMENTS.names).cast(DOCUMENTS)
    fetches = None
    if made.of:
        links = _taken_over(made.location, made.of.links, folder / f"links-{name}.parquet")
        if made.of.fetches:
            fetches = _taken_over(made.location, made.of.fetches, folder / f"fetches-{name}.parquet")
    else:
        links = write_table(folder / f"links-{name}.parquet", LINKS.empty_table())
    return write_documents(folder, name, documents, _ROW_GROUP_ROWS, links, fetches)


def _taken_over(location: str, entry: FileEntry, path: Path) -> FileEntry:
    """A file of the parent as one of ours: the same bytes on the disk if it is on this disk."""
    try:
        if is_url(location):
            raise OSError
        os.link(Path(location, entry.name), path)
    except OSError:  # of another disk, or of a file system without hard links
        with open_bytes(location, entry.name) as source, path.open("wb") as copy:
            shutil.copyfileobj(source, copy, 1 << 20)
        sync_file(path)
    return replace(entry, name=path.name)


def _name(number: int) -> str:
    return f"{number:06d}.json"


def _put(path: Path, value: Any) -> bool:
    """Make `value` as JSON the file `path`, whole, if there is none; whether there was none."""
    temporary = path.with_name(f"{uuid.uuid4().hex}{TEMPORARY_SUFFIX}")
    try:
        temporary.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
        sync_file(temporary)
        os.link(temporary, path)
        sync_directory(path.parent)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    return True


def _finish(work: Work, out: Path) -> Manifest:
    """The manifest of the parts, and nothing that is not listed beside it."""
    if (out / FILE_NAME).exists():
        return Manifest.load(out)
    parts = [part for number in range(work.parts) if (part := committed(out, number))]
    dropped = Counter[str]()
    for part in parts:
        dropped.update(part.dropped)
    manifest = work.manifest(tuple(shard for part in parts for shard in part.shards), out)
    manifest = replace(manifest, dropped=dict(dropped)).save(out)
    listed = {file.name for part in parts for file in part.files}
    for pattern in ("shard-*", "links-*", "fetches-*", "verdicts-*", f"*{TEMPORARY_SUFFIX}"):
        for path in out.glob(pattern):
            if path.name not in listed:
                path.unlink(missing_ok=True)
    for path in (out / PARTS).iterdir():  # of attempts that were killed
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.suffix == TEMPORARY_SUFFIX:
            path.unlink(missing_ok=True)
    return manifest
