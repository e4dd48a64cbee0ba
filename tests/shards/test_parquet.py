"""Parquet of other makers is read where it lies, and is noticed when it changes."""

import hashlib
import json
import shutil
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.errors import ShardCorrupt, ShardError
from shards.foreign import Listing, ParquetReader
from shards.manifest import Manifest

TEXTS = [f"text {number}" for number in range(10)]


def write(path: Path, texts, row_group_size=4, **columns):
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


@pytest.fixture
def doors(tmp_path):
    """Gives a folder as a path and as URLs of the same files; those of HTTP: tests/trainer/test_urls.py."""
    memory = fsspec.filesystem("memory")

    def doors(folder):
        memory.put(str(folder), "/parquet-test", recursive=True)
        return {"path": str(folder), "file": folder.resolve().as_uri(), "memory": "memory://parquet-test"}

    yield doors
    memory.rm("/parquet-test", recursive=True)


def test_a_url_reads_the_same(folder, doors):
    for place in doors(folder).values():
        assert read(ParquetReader(place)) == TEXTS
        assert read(ParquetReader(f"{place}/")) == TEXTS
        assert read(ParquetReader(f"{place}/b.parquet")) == TEXTS[6:]
        assert Listing.of(place) == Listing.of(folder)


# What notebooks, Spark, macOS and Delta put beside the data, each of them a Parquet file too.
HIDDEN = [
    ".ipynb_checkpoints/a-checkpoint.parquet",
    "_temporary/0/part-0.parquet",
    "a/._a.parquet",
    "_delta_log/00.checkpoint.parquet",
    "_metadata.parquet",
    "a/.b/c/d.parquet",
]


def test_names_that_begin_with_a_dot_or_underscore_are_left_out_by_path_and_url_alike(folder, doors):
    for name in HIDDEN:
        write(folder / name, ["read twice"])
    for place in doors(folder).values():
        assert read(ParquetReader(place)) == TEXTS
        assert read(ParquetReader(f"{place}/{HIDDEN[0]}")) == ["read twice"]  # who names it means it
        assert read(ParquetReader(f"{place}/_delta_log")) == ["read twice"]
        with pytest.raises(ShardError, match=r"no other Parquet either \(names that begin with . or _ are"):
            ParquetReader(f"{place}/nothing")


def test_a_folder_may_be_named_like_a_file_and_a_file_in_capitals(tmp_path, doors):
    write(tmp_path / "top" / "train.parquet" / "part-0.parquet", ["a"])
    write(tmp_path / "top" / "train.parquet" / "train.parquet", ["b"])
    write(tmp_path / "top" / "X.PARQUET", ["c"])
    for place in doors(tmp_path / "top").values():
        assert read(ParquetReader(place)) == ["c", "a", "b"]
        for folder in ("train.parquet", "train.parquet/"):
            assert read(ParquetReader(f"{place}/{folder}")) == ["a", "b"]
        assert read(ParquetReader(f"{place}/train.parquet/train.parquet")) == ["b"]
        assert read(ParquetReader(f"{place}/X.PARQUET")) == ["c"]


def test_symbolic_links_to_files_and_to_folders_named_like_files_are_followed(tmp_path):
    write(tmp_path / "elsewhere" / "a.parquet", ["a"])
    (tmp_path / "top").mkdir()
    (tmp_path / "top" / "file.parquet").symlink_to(tmp_path / "elsewhere" / "a.parquet")
    (tmp_path / "top" / "folder.parquet").symlink_to(tmp_path / "elsewhere")
    for place in (tmp_path / "top", (tmp_path / "top").as_uri()):
        listed = Listing.of(place)
        assert [file.name for file in listed.files] == ["file.parquet", "folder.parquet/a.parquet"]
        assert read(ParquetReader(place, listed)) == ["a", "a"]


PARTS = st.sampled_from(["a", "b.parquet", "C.Parquet", "_d", ".e", "._f.parquet", "g=1", "h.txt"])


@given(st.sets(st.lists(PARTS, min_size=1, max_size=3).map("/".join), max_size=6))
def test_of_any_folder_the_same_files_are_listed_by_path_and_by_url(tmp_path_factory, names):
    # A name cannot be both a file and a folder.
    names = [name for name in names if not any(other.startswith(f"{name}/") for other in names)]
    top = tmp_path_factory.mktemp("any")
    memory = fsspec.filesystem("memory")
    content = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": ["x"]}), content)
    for name in names:
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_bytes(content.getvalue())
        memory.pipe(f"/any-folder/{name}", content.getvalue().to_pybytes())
    seen = sorted(
        name
        for name in names
        if name.lower().endswith(".parquet") and not any(part[0] in "._" for part in name.split("/"))
    )
    try:
        for place in (top, top.as_uri(), "memory://any-folder"):
            if seen:
                assert [file.name for file in Listing.of(place).files] == seen
            else:
                with pytest.raises(ShardError, match="no other Parquet either"):
                    Listing.of(place)
    finally:
        shutil.rmtree(top)
        if names:
            memory.rm("/any-folder", recursive=True)


def test_strings_of_every_form_are_read_and_a_column_of_nulls_is_nothing(tmp_path):
    values = pa.array(["a", None, "b", "a"])
    forms = (
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.dictionary(pa.int32(), pa.string()),
        pa.dictionary(pa.int8(), pa.large_string()),
    )
    for number, form in enumerate(forms):
        write(tmp_path / f"{number}.parquet", values.cast(form), row_group_size=2)
    write(tmp_path / "null.parquet", pa.nulls(3))
    write(tmp_path / "none.parquet", pa.array([], pa.string()))
    assert read(ParquetReader(tmp_path)) == ["a", "b", "a"] * len(forms)
    assert [file.row_groups for file in Listing.of(tmp_path / "null.parquet").files] == [()]


def test_a_text_of_nothing_or_white_space_is_no_document(tmp_path):
    write(tmp_path / "a.parquet", ["a", "", " \n\t", "\u3000\u00a0\u2028", None, "\u200b", "b", " c "], 8)
    reader = ParquetReader(tmp_path)
    [group] = reader.row_groups
    assert [document["row"] for document in reader.documents(group)] == [0, 5, 6, 7]
    assert reader.documents(group, rows=slice(1, None, 4)) == [{"row": 5, "text": "\u200b"}]


def test_a_listing_from_before_is_read_as_it_was_pinned(tmp_path):
    write(tmp_path / "a.parquet", ["a", "", None, "b"])
    Listing.of(tmp_path).save(tmp_path)
    path = tmp_path / "listing.json"
    before = {"files": json.loads(path.read_text())["files"]}
    path.write_text(json.dumps(before))
    reader = ParquetReader(tmp_path, Listing.load(tmp_path))
    assert read(reader) == ["a", "", "b"]
    assert reader.fingerprint == hashlib.sha256(json.dumps(before, sort_keys=True).encode()).hexdigest()
    assert reader.fingerprint != Listing.of(tmp_path).fingerprint


def raw_strings(*values):
    """An array that says it is of strings, of bytes that nobody looked at."""
    array = pa.array(values, pa.binary())
    return pa.Array.from_buffers(pa.string(), len(array), array.buffers(), array.null_count)


NO_UTF8 = [
    b"caf\xe9",
    b"\xed\xa0\xbd",
    b"\xed\xa0\xbd\xed\xb8\x80",
    b"\xff",
    b"a\xe2\x82",
    b"\xc0\xaf",
    b"\xf5",
]


@pytest.mark.parametrize("form", [pa.string(), pa.large_string(), pa.string_view()], ids=str)
def test_what_is_not_utf8_is_read_with_replacement_characters_and_said_once(tmp_path, capsys, form):
    array = raw_strings(b"fine", *NO_UTF8, None, b"", "é".encode()).cast(form)
    write(tmp_path / "a.parquet", array, row_group_size=3)
    reader = ParquetReader(tmp_path)
    assert read(reader) == ["fine", *(raw.decode(errors="replace") for raw in NO_UTF8), "é"]
    assert read(reader)[1:3] == ["caf\ufffd", "\ufffd\ufffd\ufffd"]
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert said[0].startswith(f"warning: {tmp_path}/a.parquet: text in row group 0 is not UTF-8")


def test_a_row_group_of_other_rows_than_its_footer_says_is_damage(tmp_path):
    write(tmp_path / "a.parquet", TEXTS)
    listing = Listing.of(tmp_path)
    Listing.save(listing, tmp_path)
    path = tmp_path / "listing.json"
    path.write_text(path.read_text().replace("   4,", "   5,"))
    with pytest.raises(
        ShardCorrupt, match=r"a\.parquet: row group 0 is damaged \(4 rows, its footer says 5\)"
    ):
        read(ParquetReader(tmp_path, Listing.load(tmp_path)))


def test_a_folder_with_a_corpus_in_it_is_no_other_parquet(tmp_path):
    shards = tmp_path / "crawl" / "shards"
    write(shards / "x.parquet", ["x"])
    (shards / "manifest.json").write_text('{"someone": "else\'s"}')
    assert read(ParquetReader(tmp_path / "crawl")) == ["x"]
    write(shards / "shard-000000-main.parquet", ["held out, perhaps"])
    Manifest(shards=()).save(shards)
    for place in (tmp_path / "crawl", tmp_path):
        with pytest.raises(ShardError, match=rf"no corpus, but {tmp_path}/crawl/shards is one: did you mean"):
            ParquetReader(place)
    with pytest.raises(ShardError, match=rf"no corpus; did you mean {tmp_path}/crawl/shards\?"):
        Manifest.load(tmp_path / "crawl")


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
    twice = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    pq.write_table(twice, tmp_path / "a.parquet")
    with pytest.raises(ShardError, match=r"a\.parquet: two columns `text`; there are: text, text"):
        ParquetReader(tmp_path)
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(ShardError, match=r"a\.parquet cannot be read as Parquet"):
        ParquetReader(tmp_path)
