"""Column tables are joined by id, whole or absent, of the right snapshot, and never half understood."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shards import columns
from shards.errors import ShardError
from shards.holdout import hold_out
from shards.manifest import Manifest
from shards.reader import ShardReader
from tinylm.errors import FileError


@pytest.fixture
def directory(tmp_path, corpus, document):
    """Ten documents of two hosts in two shards; `inlinks` stays 0."""
    corpus(tmp_path, [document(number, host=f"h{number % 2}.example") for number in range(10)], commits=2)
    return tmp_path


def put(directory, table, name="worth", manifest=None):
    manifest = manifest or Manifest.load(directory)
    path = columns.path_of(directory, name, manifest)
    with columns.writing(directory):
        columns.write(path, pa.table(table), manifest)
    return path


def ids(count=10):
    return [f"{number:016x}-1" for number in range(count)]


def read(directory, name="worth", split="all"):
    """The column by document id."""
    reader = ShardReader(directory, split=split)
    column = columns.read_column(reader, name)
    return {
        document["id"]: column.values[group][document["row"]]
        for group in reader.row_groups
        for document in reader.documents(group, ("id",))
    }


def test_a_table_in_any_order_is_joined_by_id(directory):
    order = np.random.default_rng(0).permutation(10)
    put(directory, {"id": [ids()[number] for number in order], "worth": order})
    assert read(directory) == {name: number for number, name in enumerate(ids())}


def test_a_column_of_the_documents_needs_no_table(directory):
    assert set(read(directory, "promise").values()) == {0.25}


def test_what_is_not_in_the_split_has_no_number_and_needs_none(directory):
    held_out = hold_out(directory, 0.4)
    trained_on = [name for number, name in enumerate(ids()) if f"h{number % 2}.example" not in held_out.hosts]
    put(directory, {"id": trained_on, "worth": [1.0] * len(trained_on)})
    reader = ShardReader(directory)
    values = np.concatenate([*columns.read_column(reader, "worth").values.values()])
    assert values.size == 10
    assert np.isnan(values).sum() == 10 - len(trained_on) > 0


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_a_number_that_is_none_names_file_column_and_document(directory, value):
    path = put(directory, {"id": ids(), "worth": [1.0] * 9 + [value]})
    with pytest.raises(
        ShardError, match=rf"{path.name}: column 'worth' is null, NaN or infinite for document {ids()[9]}"
    ):
        read(directory)


def test_a_document_without_a_row_is_named(directory):
    path = put(directory, {"id": ids(8), "worth": range(8)})
    with pytest.raises(ShardError, match=rf"{path.name}: no row for document {ids()[8]}"):
        read(directory)


def test_a_document_with_two_rows_is_refused(directory):
    put(directory, {"id": [*ids(), ids()[0]], "worth": range(11)})
    with pytest.raises(ShardError, match="a document has two rows"):
        read(directory)


def test_a_missing_column_is_named_with_those_there_are(directory):
    put(directory, {"id": ids(), "worth": range(10)})
    with pytest.raises(ShardError, match=r"no numbers called 'worht'; there are: .*quality, .*worth"):
        read(directory, "worht")


def test_a_column_of_text_is_refused(directory):
    path = put(directory, {"id": ids(), "colour": ["red"] * 10})
    with pytest.raises(ShardError, match=rf"{path.name}: no numbers called 'colour'"):
        read(directory, "colour")
    with pytest.raises(ShardError, match="column 'title' holds no numbers"):
        read(directory, "title")


def test_a_table_of_another_snapshot_is_refused_and_one_of_this_preferred(directory):
    before = Manifest.load(directory)
    put(directory, {"id": ids(), "worth": [1.0] * 10})
    hold_out(directory, 0.4)
    with pytest.raises(ShardError, match=r"computed from manifest .*, this is .*: compute it again"):
        read(directory)
    put(directory, {"id": ids(), "worth": [2.0] * 10})
    assert set(read(directory).values()) == {2.0}
    pinned = columns.read_column(ShardReader(directory, before, "all"), "worth")
    assert {value for values in pinned.values.values() for value in values} == {1.0}


def test_two_tables_with_one_column_are_refused(directory):
    for name in ("one", "other"):
        put(directory, {"id": ids(), "worth": range(10)}, name)
    with pytest.raises(ShardError, match=r"one-.* and .*other-.*: both have a column 'worth'"):
        read(directory)


def test_a_table_that_joins_by_something_else_is_none(directory):
    put(directory, {"host": ["h0.example"], "worth": [1]})
    with pytest.raises(ShardError, match="no numbers called 'worth'"):
        read(directory)


def test_a_damaged_table_is_named_or_read_as_it_was(directory):
    """Not every byte of a page's header matters."""
    path = put(directory, {"id": ids(), "worth": range(10)})
    data = path.read_bytes()
    damaged = [
        data[:50],
        *(data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :] for at in range(0, len(data), 7)),
    ]
    refused = []
    for content in damaged:
        path.write_bytes(content)
        try:
            assert read(directory) == {name: number for number, name in enumerate(ids())}
        except ShardError as error:
            refused.append(str(error))
    assert len(refused) > len(damaged) / 2
    assert all(path.name in message or "no numbers called" in message for message in refused)


def test_a_write_that_fails_leaves_what_was_there(directory, monkeypatch):
    path = put(directory, {"id": ids(), "worth": range(10)})
    before = path.read_bytes()

    def fail(table, where, **_):
        where.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", fail)
    with pytest.raises(FileError, match="the disk is full"):
        put(directory, {"id": ids(), "worth": range(10)})
    assert path.read_bytes() == before
    assert not list(path.parent.glob("*.tmp"))


def test_facts_of_nothing_are_none(directory):
    assert columns.facts_of(directory / "nothing.parquet") == {}
