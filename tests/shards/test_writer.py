"""The writer: any sequence of appends, commits, crashes and full disks leaves a whole corpus."""

import random
import shutil
import signal
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

import shards.writer as writer_module
from shards.errors import ShardCorrupt, ShardError, ShardsLocked
from shards.manifest import FILE_NAME, HeldOut, Manifest
from shards.reader import ShardReader, fetch_rows, read_fetches, verify
from shards.schema import FetchRow
from shards.writer import ShardWriter
from tinylm.errors import FileError, TinylmError
from tinylm.files import replacing, sha256

WRITE = """
import sys
from pathlib import Path
from shards.schema import Document
from shards.writer import ShardWriter
FIELDS = dict(host="h", fetched_at=1, status=200, content_sha256="0", language="en", language_score=1.0,
    title="", extractor="x", quality=0.5, promise=0.5, propensity=1.0, policy="p", karma=0.0, equity=0.0,
    inlinks=0, depth=0, crawl_id="c")
with ShardWriter(Path(sys.argv[1]), crawl_id="c", row_group_rows=4) as writer:
    number = int(writer.manifest.positions.get("0", "0"))
    print("ready", flush=True)
    while True:
        for _ in range(7):
            number += 1
            text = f"text {number} " * 50
            writer.append(Document(id=f"{number:x}-1", url=f"https://h/{number}", text=text, **FIELDS))
        writer.commit({"0": str(number)}, state=str(number).encode())
"""


class Abandoned(BaseException):
    """Stands where a SIGKILL would: nothing of the writer runs after it."""


def files(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()} - {FILE_NAME, writer_module.LOCK_NAME}


def listed(manifest: Manifest) -> set[str]:
    names = {file.name for shard in manifest.shards for file in shard.files}
    return names | ({manifest.state.name} if manifest.state else set())


def ids(directory: Path) -> list[str]:
    return [document["id"] for document in ShardReader(directory, split="all")]


def logged(directory: Path) -> list[FetchRow]:
    tables = read_fetches(directory, Manifest.load(directory))
    return [row for _, table in tables for row in fetch_rows(table)]


class Committing(RuleBasedStateMachine):
    """Appends, commits and restarts, with crashes before and after every file of a commit."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="tinylm-test-"))
        self.next = self.crashes = 0
        self.committed: list[str] = []
        self.buffered: list[str] = []
        self.state: bytes | None = None
        self.open()

    def open(self) -> None:
        self.writer = ShardWriter(self.directory, crawl_id="c", row_group_rows=3)

    def teardown(self) -> None:
        self.writer.close()
        shutil.rmtree(self.directory)

    @rule(count=st.integers(1, 8))
    def append(self, count: int) -> None:
        for _ in range(count):
            self.next += 1
            document = MAKE["document"](self.next)
            self.writer.append(document, [MAKE["link"](self.next)], MAKE["fetch"](self.next))
            self.buffered.append(document.id)

    @rule()
    def append_links_of_a_dropped_page(self) -> None:
        self.writer.append(None, [MAKE["link"](0)])

    @rule()
    def append_the_fetch_of_a_dropped_page(self) -> None:
        self.writer.append(None, (), MAKE["fetch"](0, reason="language"))

    @rule(with_state=st.booleans())
    def commit(self, with_state: bool) -> None:
        state = f"{self.next}".encode() if with_state else None
        self.writer.commit({"0": str(self.next)}, state=state)
        self.note_commit(state)

    def note_commit(self, state: bytes | None) -> None:
        self.committed += self.buffered
        self.buffered = []
        self.state = self.state if state is None else state

    @rule(files_written=st.integers(0, 5), before_rename=st.booleans())
    def crash(self, files_written: int, before_rename: bool) -> None:
        """Abandon a commit at its n-th file (links, fetches, documents, state, manifest), then restart."""
        written = 0
        whole = Path.replace

        def killed(path: Path, target: Path) -> Path:
            nonlocal written
            written += 1
            if written > files_written and before_rename:
                raise Abandoned
            result = whole(path, target)
            if written > files_written:
                raise Abandoned
            return result

        self.crashes += 1
        state = f"crash {self.crashes}".encode()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Path, "replace", killed)
            patch.setattr(Path, "unlink", lambda path, missing_ok=False: None)
            with suppress(Abandoned):
                self.writer.commit({"0": str(self.next)}, state=state)
        self.writer.close()
        last = Manifest.load(self.directory).state
        if last and (self.directory / last.name).read_bytes() == state:
            self.note_commit(state)
        self.buffered = []
        self.open()

    @rule()
    def restart(self) -> None:
        self.writer.close()
        self.buffered = []
        self.open()
        assert files(self.directory) == listed(self.writer.manifest)

    @invariant()
    def committed_rows_are_there_once(self) -> None:
        assert ids(self.directory) == self.committed
        assert [row.id for row in logged(self.directory) if not row.reason] == self.committed

    @invariant()
    def every_listed_file_is_whole(self) -> None:
        assert list(verify(self.directory)) == []
        assert listed(self.writer.manifest) <= files(self.directory)

    @invariant()
    def the_state_is_that_of_the_last_commit(self) -> None:
        assert self.writer.state() == self.state


MAKE: dict[str, object] = {}


@pytest.fixture(autouse=True)
def _makers(document, link, fetch) -> None:
    MAKE.update(document=document, link=link, fetch=fetch)


def test_any_sequence_of_appends_commits_and_crashes_leaves_a_whole_corpus():
    run_state_machine_as_test(Committing, settings=settings(max_examples=25, stateful_step_count=15))


def test_a_writer_killed_again_and_again_loses_and_repeats_no_row(tmp_path):
    """Real SIGKILLs, at random moments of a process that does nothing but commit."""
    moment = random.Random(7)
    for _ in range(6):
        child = subprocess.Popen([sys.executable, "-c", WRITE, str(tmp_path)], stdout=subprocess.PIPE)
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(moment.uniform(0.02, 0.4))
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        manifest = Manifest.load(tmp_path)
        assert list(verify(tmp_path)) == []
        last = int(manifest.positions.get("0", "0"))
        assert ids(tmp_path) == [f"{number:x}-1" for number in range(1, last + 1)]
    assert last > 0
    with ShardWriter(tmp_path) as writer:
        assert files(tmp_path) == listed(writer.manifest)
        assert writer.state() == str(last).encode()


def test_a_second_writer_is_refused_in_this_process_and_in_another(tmp_path):
    with ShardWriter(tmp_path, crawl_id="c"):
        with pytest.raises(ShardsLocked, match=str(tmp_path)):
            ShardWriter(tmp_path, crawl_id="c")
        other = subprocess.run(
            [sys.executable, "-c", WRITE, str(tmp_path)], capture_output=True, text=True, check=False
        )
        assert "ShardsLocked" in other.stderr
    ShardWriter(tmp_path, crawl_id="c").close()


def test_a_directory_belongs_to_one_crawl_from_its_first_opening_on(tmp_path):
    ShardWriter(tmp_path, crawl_id="c").close()
    with pytest.raises(ShardError, match=r"holds crawl 'c', not 'd'"):
        ShardWriter(tmp_path, crawl_id="d")
    with ShardWriter(tmp_path) as writer:
        assert writer.manifest.crawl_id == "c"


def test_shards_without_a_manifest_are_neither_removed_nor_written_over(tmp_path, document, corpus):
    corpus(tmp_path, [document(1)])
    (tmp_path / FILE_NAME).unlink()
    before = files(tmp_path)
    with pytest.raises(ShardCorrupt, match=r"manifest\.json"):
        ShardWriter(tmp_path, crawl_id="c")
    assert files(tmp_path) == before


def test_a_directory_that_cannot_be_written_is_an_error_that_names_it(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ShardError, match="file/corpus: cannot be written"):
        ShardWriter(tmp_path / "file" / "corpus")


def test_a_text_that_is_no_unicode_is_refused_and_does_not_spoil_the_next_commit(tmp_path, document):
    with ShardWriter(tmp_path) as writer:
        with pytest.raises(UnicodeEncodeError):
            writer.append(document(1, text="\ud800"))
        writer.append(document(2))
        assert writer.commit().rows == 1


def test_links_of_dropped_pages_are_kept_and_change_nothing_for_readers(tmp_path, document, link, corpus):
    before = corpus(tmp_path, [document(1)])
    with ShardWriter(tmp_path) as writer:
        writer.append(None, [link(5)])
        after = writer.commit()
    assert len(after.shards) == 2
    assert after.rows == 1
    assert after.fingerprint == before.fingerprint


def test_a_fetch_comes_back_as_it_was_logged(tmp_path, fetch):
    exact = fetch(1)
    rows = [exact, replace(exact, ingredients={}), fetch(3, reason="status_404")]
    with ShardWriter(tmp_path) as writer:
        for row in rows:
            writer.append(None, (), row)
        after = writer.commit()
    [shard] = after.shards
    assert (shard.rows, shard.row_groups) == (0, ())
    assert logged(tmp_path) == [rows[0], replace(exact, ingredients={"host": 0.0, "depth": 0.0}), rows[2]]


def test_ingredients_that_come_on_the_way_are_0_before(tmp_path, fetch):
    """A policy that was exchanged, or that learned of something new, within one commit."""
    with ShardWriter(tmp_path) as writer:
        writer.append(None, (), replace(fetch(1), ingredients={"host": 0.5}))
        writer.append(None, (), replace(fetch(2), ingredients={"words": 0.25, "host": 1.0}))
        writer.commit()
        writer.append(None, (), replace(fetch(3), ingredients={"words": 2.0}))
        writer.commit()
    first, second, third = (row.ingredients for row in logged(tmp_path))
    assert (first, second) == ({"host": 0.5}, {"host": 1.0, "words": 0.25})
    assert third == {"words": 2.0}


def test_without_fetches_there_is_no_log(tmp_path, document):
    with ShardWriter(tmp_path) as writer:
        writer.append(document(1))
        assert writer.commit().shards[0].fetches is None
    assert logged(tmp_path) == []
    assert not list(tmp_path.glob("fetches-*"))


def test_a_damaged_log_is_named(tmp_path, document, corpus):
    manifest = corpus(tmp_path, [document(1)])
    path = tmp_path / manifest.shards[0].fetches.name
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)
    assert [name for name, _ in verify(tmp_path)] == [path.name]
    with pytest.raises(ShardCorrupt, match=path.name):
        logged(tmp_path)
    path.unlink()
    with pytest.raises(ShardCorrupt, match=f"{path.name}.*not there"):
        logged(tmp_path)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 kB."""
    mount = tmp_path / "disk"
    mount.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", mount], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("a file system of its own needs the right to mount one")
    yield mount
    subprocess.run(["umount", mount], check=True)


@pytest.mark.parametrize("fill", [0, 100_000])
def test_a_full_disk_keeps_what_was_committed_and_the_rows_for_later(small_disk, document, fill):
    with ShardWriter(small_disk, crawl_id="c") as writer:
        writer.append(document(1))
        writer.commit({"0": "1-0"}, state=b"first")
        ballast = small_disk / "ballast"
        ballast.write_bytes(bytes(fill))
        noise = random.Random(1)
        writer.append(document(2, text="".join(map(chr, noise.choices(range(33, 0x3000), k=150_000)))))
        with pytest.raises(FileError, match="the disk is full"):
            writer.commit({"0": "2-0"}, state=bytes(200_000))
        assert ids(small_disk) == [document(1).id]
        assert list(verify(small_disk)) == []
        assert writer.state() == b"first"
        assert not list(small_disk.glob("*.tmp"))
        ballast.unlink()
        subprocess.run(["mount", "-o", "remount,size=4m", small_disk], check=True)
        writer.commit({"0": "2-0"}, state=b"second")
        assert ids(small_disk) == [document(1).id, document(2).id]
        assert writer.manifest.positions == {"0": "2-0"}
        assert files(small_disk) == listed(writer.manifest)


def test_positions_of_partitions_that_a_commit_does_not_name_stay(tmp_path):
    with ShardWriter(tmp_path) as writer:
        writer.commit({"0": "5-0", "1": "7-0"})
        writer.commit({"1": "8-0"})
        assert Manifest.load(tmp_path).positions == {"0": "5-0", "1": "8-0"}


def test_replacing_never_writes_into_the_old_file(tmp_path):
    path, old = tmp_path / "f", tmp_path / "old"
    path.write_text("old")
    old.hardlink_to(path)
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert (path.read_text(), old.read_text()) == ("new", "old")


def test_replacing_leaves_the_old_file_when_the_block_fails(tmp_path):
    path = tmp_path / "f"
    path.write_text("old")

    def write_half() -> None:
        with replacing(path) as temporary:
            temporary.write_text("ne")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_replacing_says_which_file_cannot_be_written(tmp_path):
    def write_nowhere() -> None:
        with replacing(tmp_path / "missing" / "f") as temporary:
            temporary.write_text("x")

    with pytest.raises(TinylmError, match="missing/f: cannot be written"):
        write_nowhere()


def test_a_damaged_state_is_refused(tmp_path, document, corpus):
    manifest = corpus(tmp_path, [document(1)])
    assert manifest.state is not None
    path = tmp_path / manifest.state.name
    assert sha256(path) == manifest.state.sha256
    path.write_bytes(b"other")
    with ShardWriter(tmp_path) as writer, pytest.raises(ShardError, match=manifest.state.name):
        writer.state()


def test_only_the_latest_state_stays_on_disk(tmp_path, document, corpus):
    corpus(tmp_path, [document(n) for n in range(4)], commits=4)
    assert len(list(tmp_path.glob("state-*"))) == 1


def test_an_update_changes_nothing_but_what_it_names(tmp_path, document, corpus):
    before = corpus(tmp_path, [document(1)])
    with ShardWriter(tmp_path) as writer:
        after = writer.update(held_out=HeldOut(hosts=("h.example",)))
    assert after == Manifest.load(tmp_path)
    assert (after.shards, after.positions, after.state) == (before.shards, before.positions, before.state)
    assert after.version == before.version + 1


def test_all_that_is_held_is_counted_and_text_by_itself(tmp_path, document, link, fetch):
    with ShardWriter(tmp_path) as writer:
        writer.append(document(1), fetch=fetch(1))
        assert writer.buffered_text == len(document(1).text.encode())
        held = writer.buffered_bytes
        assert held > writer.buffered_text
        many = [replace(link(2), dst_url=f"https://t.example/{number}") for number in range(9000)]
        writer.append(None, many, fetch(2, reason="no_text"))
        assert writer.buffered_text == len(document(1).text.encode())
        assert writer.buffered_bytes > held + sum(
            len(row.dst_url + row.anchor + row.tag_path) for row in many
        )
        tracemalloc.start()
        before = pa.total_allocated_bytes() + tracemalloc.get_traced_memory()[0]
        counted = writer.buffered_bytes
        for number in range(3, 23):
            writer.append(None, [replace(row, anchor=f"{number} words of it") for row in many])
        now = pa.total_allocated_bytes() + tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        counted = writer.buffered_bytes - counted
        assert now - before < 1.2 * counted + 5e6  # rows that are not in columns yet
        writer.commit()
        assert (writer.buffered_text, writer.buffered_bytes, writer.buffered_rows) == (0, 0, 0)
        [shard] = writer.manifest.shards
    links = pq.read_table(tmp_path / shard.links.name)
    assert links.num_rows == 21 * 9000
    assert links["dst_url"][-1].as_py() == "https://t.example/8999"
