"""The columns of the files, frozen: what is changed here is another schema version."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.schema import DOCUMENTS, FETCHES, LINKS, SCHEMA_VERSION, document_id, parsed_id

FETCHED = """
id: string not null
url: string not null
host: string not null
fetched_at: timestamp[ms, tz=UTC] not null
status: int16 not null
"""
FROZEN = {
    "documents": (
        DOCUMENTS,
        f"""{FETCHED}
content_sha256: string not null
language: string not null
language_score: float not null
title: string not null
text: string not null
extractor: string not null
opt_out: list<item: string> not null
quality: float not null
promise: float not null
propensity: float not null
policy: string not null
karma: float not null
equity: float not null
inlinks: int32 not null
depth: int32 not null
crawl_id: string not null
quality_model: string
novelty: float
source: string
source_hops: int32
rps_doc_word_count: float
rps_doc_mean_word_length: float
rps_doc_num_sentences: float
rps_doc_symbol_to_word_ratio: float
rps_doc_frac_no_alph_words: float
rps_doc_frac_unique_words: float
rps_doc_unigram_entropy: float
rps_doc_stop_word_fraction: float
rps_doc_frac_chars_top_2gram: float
rps_doc_frac_chars_top_3gram: float
rps_doc_frac_chars_top_4gram: float
rps_doc_frac_lines_end_with_ellipsis: float
rps_lines_start_with_bulletpoint: float
rps_lines_ending_with_terminal_punctution_mark: float
gopher_duplicate_line_fraction: float
gopher_duplicate_line_character_fraction: float
fineweb_short_line_fraction: float
""",
    ),
    "links": (
        LINKS,
        """
src_id: string not null
dst_url: string not null
anchor: string not null
tag_path: string not null
position: int32 not null
nofollow: bool not null
""",
    ),
    "fetches": (
        FETCHES,
        f"""{FETCHED}
reason: string not null
worth: float not null
promise: float not null
propensity: float not null
policy: string not null
expected: float not null
ingredients: list<item: float> not null
source: string
source_hops: int32
""",
    ),
}


@pytest.mark.parametrize("table", FROZEN)
def test_the_columns_of_a_file_are_those_of_its_version(table):
    schema, columns = FROZEN[table]
    found = [f"{f.name}: {f.type}{'' if f.nullable else ' not null'}" for f in schema]
    assert found == [line for line in columns.splitlines() if line]
    assert schema.metadata == {b"schema_version": b"4"}
    assert SCHEMA_VERSION == 4


@given(st.integers(0, 2**64 - 1), st.integers(0))
def test_an_id_says_what_was_fetched_and_how_often(fingerprint, fetch_no):
    name = document_id(fingerprint, fetch_no)
    assert name.startswith(f"{fingerprint:016x}-")
    assert parsed_id(name) == (fingerprint, fetch_no)
