"""Parquet of other makers is read where it lies, and is noticed when it changes."""

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from shards.errors import ShardCorrupt, ShardError
from shards.foreign import Listing, ParquetReader

TEXTS = [f"text {number}" for number in range(10)]


def write(path, texts, row_group_size=4, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"text": texts, **columns}), path, row_group_size=row_group_size)


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "b.parquet", TEXTS[6:])
    write(tmp_path / "a" / "a.parquet", TEXTS[:6], dump=["CC"] * 6, language_score=[0.9] * 6)
    (tmp_path / "README.md").write_text("not Parquet")
    return tmp_path


def read(reader):
    return [text for group in reader.row_groups for text in reader.texts(group)]


def test_all_files_below_a_folder_are_read_in_the_order_of_their_names(folder):
    reader = ParquetReader(folder)
    assert read(reader) == TEXTS
    assert [(group.shard, group.rows) for group in reader.row_groups] == [
        ("a/a.parquet", 4),
        ("a/a.parquet", 2),
        ("b.parquet", 4),
    ]
    assert reader.text_bytes >= sum(map(len, TEXTS))


def test_one_file_may_be_named(folder):
    assert read(ParquetReader(folder / "b.parquet")) == TEXTS[6:]


def test_a_url_reads_the_same(folder):
    memory = fsspec.filesystem("memory")
    memory.put(str(folder), "/parquet-test", recursive=True)
    try:
        assert read(ParquetReader("memory://parquet-test")) == TEXTS
        assert read(ParquetReader("memory://parquet-test/b.parquet")) == TEXTS[6:]
        assert Listing.of("memory://parquet-test") == Listing.of(folder)
    finally:
        memory.rm("/parquet-test", recursive=True)


def test_rows_are_chosen_by_their_place_and_nulls_left_out(tmp_path):
    write(tmp_path / "a.parquet", ["a", None, "c", "d", "e"], row_group_size=5, score=[1, 2, 3, 4, 5])
    reader = ParquetReader(tmp_path)
    [group] = reader.row_groups
    assert reader.documents(group, ("text", "score"), slice(0, None, 2)) == [
        {"row": 0, "text": "a", "score": 1},
        {"row": 2, "text": "c", "score": 3},
        {"row": 4, "text": "e", "score": 5},
    ]
    assert reader.documents(group, ("score",), slice(1, None, 2)) == [{"row": 3, "score": 4}]
    assert reader.texts(group) == ["a", "c", "d", "e"]


def test_a_kept_listing_does_not_see_later_files(folder, tmp_path):
    kept = folder / "kept"
    kept.mkdir()
    Listing.of(folder).save(kept)
    write(folder / "c.parquet", ["later"])
    assert read(ParquetReader(folder, Listing.load(kept))) == TEXTS
    assert Listing.load(kept).fingerprint != Listing.of(folder).fingerprint
    assert Listing.load(folder / "a") is None


def test_a_file_that_changed_or_is_gone_is_named(folder):
    reader = ParquetReader(folder)
    write(folder / "b.parquet", ["other 6", *TEXTS[7:]])
    with pytest.raises(ShardCorrupt, match=r"b\.parquet is another file than was listed"):
        read(reader)
    (folder / "b.parquet").unlink()
    with pytest.raises(ShardCorrupt, match=r"b\.parquet was listed, but it is not there"):
        read(reader)


def test_what_cannot_be_read_is_refused_with_the_reason(tmp_path):
    with pytest.raises(ShardError, match="so no corpus, and no other Parquet either"):
        ParquetReader(tmp_path)
    pq.write_table(pa.table({"content": ["a"], "id": ["b"]}), tmp_path / "a.parquet")
    with pytest.raises(ShardError, match=r"a\.parquet: no column `text`; there are: content, id"):
        ParquetReader(tmp_path)
    pq.write_table(pa.table({"text": [1]}), tmp_path / "a.parquet")
    with pytest.raises(ShardError, match="its column `text` is of int64, not of strings"):
        ParquetReader(tmp_path)
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(ShardError, match=r"a\.parquet cannot be read as Parquet"):
        ParquetReader(tmp_path)
