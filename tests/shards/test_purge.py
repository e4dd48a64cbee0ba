"""What was taken down: no reader gives it, and a purge takes it from the files, whenever it is killed."""

import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shards import writer
from shards.errors import ShardCorrupt, ShardsLocked
from shards.manifest import FILE_NAME, HeldOut, Manifest
from shards.reader import ShardReader, read_fetches, verify
from shards.takedown import Purged, purge
from shards.writer import LOCK_NAME, ShardWriter

HOSTS = ("a.test", "b.test", "c.test")
PURGE = """
import sys
from pathlib import Path
from shards.takedown import purge
print("ready", flush=True)
purge(Path(sys.argv[1]), lambda url: (url.split("/")[2], int(url.split('/')[3])))
"""


def host(url):
    return url.split("/")[2]


def place(url):
    return host(url), int(url.split("/")[3])


def host_of(number):
    return HOSTS[number % 3]


def url_of(number):
    return f"https://{host_of(number)}/{number}"


def write(directory, make, count, commits, row_group_rows=4):
    """Each document links to the next three; of every seventh page only links and fetch were kept."""
    with ShardWriter(directory, crawl_id="c", row_group_rows=row_group_rows) as writer:
        for commit in range(commits):
            for number in range(commit, count, commits):
                links = [replace(make.link(number), dst_url=url_of(number + step)) for step in (1, 2, 3)]
                kept = number % 7 > 0
                found = make.document(number, host=host_of(number)) if kept else None
                fetch = make.fetch(number, host=host_of(number), reason="" if kept else "language")
                writer.append(found, links, fetch)
            writer.commit({"0": f"{commit}-0"}, state=b"state")


def take_down(directory, *what):
    with ShardWriter(directory) as writer:
        writer.update(tombstones=writer.manifest.with_tombstones(what).tombstones)


def documents(directory):
    return [document["url"] for document in ShardReader(directory, split="all")]


def fetches(directory):
    """As in the files, whatever was taken down."""
    return [
        url
        for shard in Manifest.load(directory).shards
        for url in pq.read_table(directory / shard.fetches.name)["url"].to_pylist()
    ]


def links(directory):
    return [
        (row["src_id"], row["dst_url"])
        for shard in Manifest.load(directory).shards
        for row in pq.read_table(directory / shard.links.name).to_pylist()
    ]


def files(directory):
    return {path.name for path in directory.iterdir()} - {FILE_NAME, LOCK_NAME}


def listed(directory):
    manifest = Manifest.load(directory)
    return {file.name for shard in manifest.shards for file in shard.files} | {manifest.state.name}


@pytest.fixture
def make(document, link, fetch):
    return SimpleNamespace(document=document, link=link, fetch=fetch)


@pytest.fixture
def corpus_dir(tmp_path, make):
    directory = tmp_path / "corpus"
    write(directory, make, 60, 3)
    return directory


WHAT = st.sets(st.sampled_from([*HOSTS, *(url_of(n) for n in range(24)), "https://never.test/999"]))


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None
)
@given(what=WHAT, count=st.integers(1, 24), commits=st.integers(1, 3))
def test_readers_and_files_have_exactly_what_was_not_taken_down(tmp_path_factory, make, what, count, commits):
    directory = tmp_path_factory.mktemp("corpus")
    write(directory, make, count, commits)
    before, links_before, rows = documents(directory), links(directory), {}
    fetches_before = fetches(directory)
    for group in ShardReader(directory).row_groups:
        for found in ShardReader(directory).documents(group, ("url",)):
            rows[found["url"]] = group, found["row"]
    take_down(directory, *what)
    left = [url for url in before if not {url, host(url)} & what]
    assert documents(directory) == left
    for group in ShardReader(directory).row_groups:
        for found in ShardReader(directory).documents(group, ("url",)):
            assert rows[found["url"]] == (group, found["row"])
    fetches_left = [url for url in fetches_before if not {url, host(url)} & what]
    log = read_fetches(directory, Manifest.load(directory), ["url"])
    assert [url for _, table in log for url in table["url"].to_pylist()] == fetches_left

    purged = purge(directory, place)
    assert documents(directory) == left
    links_left = links(directory)
    met = (*before, *fetches_before, *(target for _, target in links_before))
    down = {url for url in met if {url, host(url)} & what}
    gone = down | what
    assert links_left == [
        (source, target)
        for source, target in links_before
        if target not in gone and url_of(int(source.partition("-")[0], 16)) not in gone
    ]
    assert fetches(directory) == fetches_left
    assert purged == Purged(
        len(before) - len(left),
        len(links_before) - len(links_left),
        len(fetches_before) - len(fetches_left),
    )
    assert not list(verify(directory))
    assert files(directory) == listed(directory)
    assert sum(shard.rows for shard in Manifest.load(directory).shards) == len(left)
    assert purge(directory, place) == Purged(0, 0, 0)


def test_a_tombstone_is_another_snapshot_also_of_one_that_was_pinned_before(corpus_dir):
    pinned = Manifest.load(corpus_dir)
    take_down(corpus_dir, "a.test")
    reader = ShardReader(corpus_dir, pinned)
    assert reader.manifest.fingerprint == Manifest.load(corpus_dir).fingerprint != pinned.fingerprint
    assert {document["host"] for document in reader} == {"b.test", "c.test"}


def test_tombstones_stay_when_a_crawl_goes_on_and_when_they_are_purged(corpus_dir, document):
    take_down(corpus_dir, "a.test")
    purge(corpus_dir, place)
    with ShardWriter(corpus_dir) as writer:
        writer.append(document(60, host="a.test"))
        writer.append(document(61, host="b.test"))
        writer.commit({"0": "9-0"}, tombstones=["https://b.test/61"])
    assert Manifest.load(corpus_dir).tombstones == ("a.test", "https://b.test/61")
    assert not {"https://a.test/60", "https://b.test/61"} & set(documents(corpus_dir))


def test_what_is_held_out_loses_what_is_gone_and_stays_current(corpus_dir):
    with ShardWriter(corpus_dir) as writer:
        last = writer.manifest.shards[-1].name
        excluded = (f"{1:016x}-1", f"{2:016x}-1")
        writer.update(held_out=HeldOut(hosts=("a.test", "b.test"), excluded=excluded, through=last))
    take_down(corpus_dir, "b.test")
    purge(corpus_dir, place)
    manifest = Manifest.load(corpus_dir)
    assert (manifest.held_out.hosts, manifest.held_out.excluded) == (("a.test",), (f"{2:016x}-1",))
    assert manifest.held_out_is_current
    take_down(corpus_dir, "a.test")
    purge(corpus_dir, place)
    assert Manifest.load(corpus_dir).held_out is None


def test_nothing_is_purged_while_somebody_writes_or_from_a_damaged_corpus(corpus_dir):
    take_down(corpus_dir, "a.test")
    with ShardWriter(corpus_dir), pytest.raises(ShardsLocked, match="another process is writing here"):
        purge(corpus_dir, place)
    before = Manifest.load(corpus_dir)
    damaged = corpus_dir / before.shards[1].links.name
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(ShardCorrupt, match=f"{damaged.name}.*nothing was changed"):
        purge(corpus_dir, place)
    assert Manifest.load(corpus_dir) == before


@pytest.mark.long
def test_killed_at_any_moment_the_corpus_is_as_before_or_purged(tmp_path, make):
    """SIGKILL during a real purge; then the next one removes what is left of it."""
    original = tmp_path / "original"
    write(original, make, 700, 14, row_group_rows=64)
    take_down(original, "a.test", "https://b.test/1")
    left, chance = documents(original), random.Random(5)
    for attempt in range(8):
        directory = tmp_path / str(attempt)
        shutil.copytree(original, directory)
        kill_a_purge(directory, chance.uniform(0, 0.12))
        assert documents(directory) == left
        assert not list(verify(directory))
        purge(directory, place)
        assert files(directory) == listed(directory)
        assert not any("//a.test" in target for _, target in links(directory))
        assert not any("//a.test" in url for url in fetches(directory))
        assert documents(directory) == left


def kill_a_purge(directory: Path, seconds: float):
    process = subprocess.Popen(
        [sys.executable, "-c", PURGE, str(directory)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    process.stdout.readline()
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()


@pytest.mark.parametrize("moment", ["write_table", "save", "remove_unlisted"])
def test_killed_at_each_step_nothing_is_lost(corpus_dir, monkeypatch, moment):
    """The steps one by one: after some files, before the manifest, after it."""

    class Killed(BaseException):
        pass

    def killed(*_args, **_kwargs):
        raise Killed

    take_down(corpus_dir, "a.test")
    left = documents(corpus_dir)
    with monkeypatch.context() as patched:
        if moment == "save":
            patched.setattr(Manifest, "save", killed)
        else:
            # The fifth file; what is unlisted is removed at the start, too.
            owner, fatal = (writer, 5) if moment == "write_table" else (ShardWriter, 2)
            real, calls = getattr(owner, moment), []

            def after_some(*args):
                calls.append(1)
                return killed() if len(calls) == fatal else real(*args)

            patched.setattr(owner, moment, after_some)
        with pytest.raises(Killed):
            purge(corpus_dir, place)
    assert documents(corpus_dir) == left
    assert files(corpus_dir) > listed(corpus_dir)
    purge(corpus_dir, place)
    assert (documents(corpus_dir), files(corpus_dir)) == (left, listed(corpus_dir))
