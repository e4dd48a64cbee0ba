"""The reader and the manifest: splits, fingerprints, and damage that is named."""

import json
from collections.abc import Callable
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.errors import ShardCorrupt, ShardError
from shards.manifest import FILE_NAME, HeldOut, Manifest
from shards.reader import RowGroup, ShardReader, verify
from shards.schema import ADDED, DOCUMENTS, SCHEMA_VERSION, row_of
from tinylm.files import sha256

HOSTS = ["a.example", "b.example", "c.example"]


@pytest.fixture
def directory(tmp_path, document, corpus):
    corpus(tmp_path, [document(n, host=HOSTS[n % 3]) for n in range(18)], commits=2)
    return tmp_path


def test_every_document_comes_back_as_it_was_appended(tmp_path, document, corpus):
    corpus(tmp_path, [document(n) for n in range(9)])
    rows = list(ShardReader(tmp_path))
    assert [row["id"] for row in rows] == [document(n).id for n in range(9)]
    assert [row["row"] for row in rows] == [0, 1, 2, 3, 0, 1, 2, 3, 0]
    for row, wanted in zip(rows, map(document, range(9)), strict=True):
        row["fetched_at"] = round(row["fetched_at"].timestamp() * 1000)
        row["opt_out"] = tuple(row["opt_out"])
        assert {name: row[name] for name in DOCUMENTS.names} == row_of(wanted)


def test_row_groups_come_in_the_order_of_commits(directory):
    groups = ShardReader(directory).row_groups
    assert [(group.index, group.rows) for group in groups] == [(0, 4), (1, 4), (2, 1)] * 2
    assert groups[0].shard < groups[3].shard


@pytest.mark.parametrize("hosts", [(), ("a.example",), tuple(HOSTS)])
@pytest.mark.parametrize("excluded", [(), ("0000000000000000-1", "0000000000000003-1")])
def test_train_and_held_out_partition_what_is_not_excluded(directory, hosts, excluded):
    manifest = replace(Manifest.load(directory), held_out=HeldOut(hosts=hosts, excluded=excluded))
    seen = {
        split: [row["id"] for row in ShardReader(directory, manifest, split)]
        for split in ("train", "held_out", "all")
    }
    assert sorted(seen["train"] + seen["held_out"] + list(excluded)) == sorted(seen["all"])
    for row in ShardReader(directory, manifest, "held_out"):
        assert row["host"] in hosts
    for row in ShardReader(directory, manifest, "train"):
        assert row["host"] not in hosts


def test_a_pinned_snapshot_does_not_see_a_later_commit(directory, document, corpus):
    pinned = ShardReader(directory)
    before = list(pinned)
    corpus(directory, [document(99)])
    assert list(pinned) == before
    assert len(list(ShardReader(directory))) == len(before) + 1


def test_only_the_columns_asked_for_come(directory):
    reader = ShardReader(directory)
    assert set(reader.documents(reader.row_groups[0], ("title",))[0]) == {"row", "title"}


def test_the_fingerprint_is_of_what_readers_see_and_of_nothing_else(directory):
    manifest = Manifest.load(directory)
    assert Manifest.load(directory).fingerprint == manifest.fingerprint
    same = [
        replace(manifest, version=99),
        replace(manifest, positions={"0": "9-9"}),
        replace(manifest, state=None),
        replace(manifest, dropped={"short": 3}),
    ]
    assert {other.fingerprint for other in same} == {manifest.fingerprint}
    first, second = manifest.shards
    different = [
        replace(manifest, shards=(first,)),
        replace(manifest, shards=(second, first)),
        replace(manifest, shards=(replace(first, sha256="0"), second)),
        replace(manifest, held_out=HeldOut(hosts=("a.example",))),
        replace(manifest, held_out=HeldOut(hosts=("a.example",), excluded=("x-1",))),
    ]
    assert len({other.fingerprint for other in (manifest, *different)}) == len(different) + 1


@given(at=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_a_flipped_bit_is_an_error_or_harmless_and_verify_always_finds_it(tmp_path_factory, at, bit):
    directory, good, name, wanted = _damaged(tmp_path_factory)
    path = directory / name
    data = bytearray(good)
    data[at % len(data)] ^= 1 << bit
    path.write_bytes(data)
    try:
        outcome = list(ShardReader(directory, split="all"))
    except ShardCorrupt as error:
        outcome = str(error)
    assert outcome == wanted or f"{path}: " in outcome
    assert [found for found, _ in verify(directory)] == [name]
    path.write_bytes(good)


_made: list = []


@pytest.fixture(autouse=True)
def _makers(document, corpus):
    _make[:] = [document, corpus]


_make: list = []


def _damaged(factory):
    if not _made:
        directory = factory.mktemp("flipped")
        document, corpus = _make
        name = corpus(directory, [document(n) for n in range(9)]).shards[0].name
        _made[:] = [
            directory,
            (directory / name).read_bytes(),
            name,
            list(ShardReader(directory, split="all")),
        ]
    return _made


def _truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def _grow(path):
    path.write_bytes(path.read_bytes() + b"x")


def _remove(path):
    path.unlink()


def _flip_in_text(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 0x10
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [_truncate, _grow, _remove, _flip_in_text])
def test_a_damaged_shard_is_named(directory, damage: Callable):
    name = Manifest.load(directory).shards[0].name
    damage(directory / name)
    assert [found for found, _ in verify(directory)] == [name]
    if damage is not _flip_in_text:
        with pytest.raises(ShardCorrupt, match=name):
            list(ShardReader(directory))


def test_damaged_links_and_state_are_found_by_verify(directory):
    manifest = Manifest.load(directory)
    assert manifest.state is not None
    (directory / manifest.shards[0].links.name).unlink()
    (directory / manifest.state.name).write_bytes(b"?" * manifest.state.bytes)
    assert {name for name, _ in verify(directory)} == {manifest.shards[0].links.name, manifest.state.name}


def test_a_whole_corpus_has_nothing_to_report(directory):
    assert list(verify(directory)) == []


def test_another_shard_under_a_listed_name_is_damage(directory, tmp_path_factory, document, corpus):
    other = tmp_path_factory.mktemp("other")
    name = corpus(other, [document(n) for n in range(3)]).shards[0].name
    manifest = Manifest.load(directory)
    first = manifest.shards[0]
    (directory / first.name).write_bytes((other / name).read_bytes())
    forged = replace(first, bytes=(directory / first.name).stat().st_size)
    reader = ShardReader(directory, replace(manifest, shards=(forged,)))
    with pytest.raises(ShardCorrupt, match=first.name):
        reader.documents(RowGroup(first.name, 0, 4))


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b'"x"', b"{}", b"\xff\xfe", b'{"schema_version": 1}', b"[" * 100_000]
    + [
        json.dumps(
            {"schema_version": 1, "shards": [part], "held_out": None, "state": None, "crawl_id": "c"}
        ).encode()
        for part in ({}, [], None, "x", {"name": "x"})
    ],
)
def test_what_is_no_manifest_is_named(tmp_path, content):
    (tmp_path / FILE_NAME).write_bytes(content)
    with pytest.raises(ShardCorrupt, match=r"manifest\.json: not a manifest"):
        Manifest.load(tmp_path)


def test_an_unknown_field_of_the_manifest_is_not_ignored(directory):
    path = directory / FILE_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | {"not_yet": []}))
    with pytest.raises(ShardCorrupt, match="not_yet"):
        Manifest.load(directory)


@pytest.mark.parametrize("version", [0, SCHEMA_VERSION + 1, "1", None])
def test_another_schema_version_is_refused_with_what_to_do(directory, version):
    path = directory / FILE_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": version, "new": 1}))
    with pytest.raises(
        ShardError, match=f"{path}.*schema version {version}, not 1 to {SCHEMA_VERSION}: use the tinylm"
    ):
        Manifest.load(directory)


def test_no_manifest_is_no_corpus(tmp_path):
    with pytest.raises(ShardError, match=f"{tmp_path}: no manifest.json here"):
        ShardReader(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ShardError, match=r"no manifest\.json here"):
        Manifest.load(tmp_path / "file")


def test_a_manifest_comes_back_as_it_was_saved(directory):
    manifest = replace(
        Manifest.load(directory),
        held_out=HeldOut(hosts=("münchen.example",), excluded=("1-1",)),
        dropped={"language": 2},
    )
    assert manifest.save(directory) == Manifest.load(directory)


def as_version_1(directory):
    """What a corpus looked like before schema version 2."""
    manifest = Manifest.load(directory)
    names = [name for name in DOCUMENTS.names if name not in ADDED]
    schema = pa.schema([DOCUMENTS.field(name) for name in names], metadata={"schema_version": "1"})
    shards = []
    for shard in manifest.shards:
        path = directory / shard.name
        table = pq.read_table(path).select(names).cast(schema)
        pq.write_table(table, path, row_group_size=4, write_page_checksum=True)
        shards.append(replace(shard, bytes=path.stat().st_size, sha256=sha256(path)))
    path = replace(manifest, shards=tuple(shards)).save(directory) and directory / FILE_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 1}))


def test_a_corpus_of_version_1_reads_on_and_what_came_later_is_null(directory, document, corpus):
    before = list(ShardReader(directory))
    as_version_1(directory)
    assert list(verify(directory)) == []
    assert [{**row, **dict.fromkeys(ADDED)} for row in before] == list(ShardReader(directory))
    corpus(directory, [replace(document(99), novelty=0.5)])
    *old, new = ShardReader(directory)
    assert {row["novelty"] for row in old} == {None}
    assert new["novelty"] == 0.5
    assert json.loads((directory / FILE_NAME).read_text())["schema_version"] == SCHEMA_VERSION


def test_a_shard_of_this_version_without_its_columns_is_damage(directory):
    shard = Manifest.load(directory).shards[0]
    path = directory / shard.name
    table = pq.read_table(path).drop_columns(["novelty"])
    pq.write_table(table, path, row_group_size=4, write_page_checksum=True)
    forged = replace(shard, bytes=path.stat().st_size)
    reader = ShardReader(directory, replace(Manifest.load(directory), shards=(forged,)))
    with pytest.raises(ShardCorrupt, match=shard.name):
        list(reader)
