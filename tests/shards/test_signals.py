"""The rule signals: their names, their values, and what the fast way to n-grams must agree with."""

import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.schema import DOCUMENTS
from shards.text.signals import COLUMNS, Signals

SHARES = [name for name in COLUMNS if "_frac" in name or "_fraction" in name or name.startswith("rps_lines")]
TEXT = """The river, the sea and the river.

- It ends here.
- It ends here.

`code` 42 …
"""


def test_the_columns_of_a_document_are_the_signals():
    assert DOCUMENTS.names[-len(COLUMNS) :] == list(COLUMNS)
    assert set(Signals("").columns) == set(COLUMNS)


def test_a_text_measured_by_hand():
    columns = Signals(TEXT, "en").columns
    words = TEXT.split()
    wanted = {
        "rps_doc_word_count": 18,
        "rps_doc_mean_word_length": sum(map(len, words)) / 18,
        "rps_doc_num_sentences": 3,
        "rps_doc_symbol_to_word_ratio": 1 / 18,
        "rps_doc_frac_no_alph_words": 4 / 18,
        "rps_doc_frac_unique_words": 12 / 18,
        "rps_doc_stop_word_fraction": 4 / 18,
        "rps_doc_frac_lines_end_with_ellipsis": 1 / 4,
        "rps_lines_start_with_bulletpoint": 2 / 4,
        "rps_lines_ending_with_terminal_punctution_mark": 3 / 4,
        "fineweb_short_line_fraction": 3 / 4,
        "gopher_duplicate_line_fraction": 1 / 4,
        "rps_doc_frac_chars_top_4gram": 2 * len("- It ends here.") / len(TEXT),
    }
    for name, value in wanted.items():
        assert columns[name] == pytest.approx(value), name


def test_the_entropy_of_equally_frequent_words_is_the_logarithm_of_their_number():
    assert Signals("a b c d " * 5).columns["rps_doc_unigram_entropy"] == pytest.approx(math.log(4))


@given(st.text())
def test_any_text_has_all_signals_and_shares_are_shares(text):
    columns = Signals(text, "en").columns
    assert all(math.isfinite(value) and value >= 0 for value in columns.values())
    assert all(columns[name] <= 1 for name in SHARES if "top_" not in name)


@given(st.lists(st.sampled_from(["a", "b", "cc", "é", "D"]), max_size=60))
def test_the_most_frequent_ngram_is_the_first_that_a_counter_finds(words):
    text = " ".join(words)
    for n in (2, 3, 4):
        grams = Counter(zip(*(words[i:] for i in range(n)), strict=False))
        wanted = 0.0
        if grams and (top := grams.most_common(1)[0])[1] > 1:
            wanted = top[1] * len(" ".join(top[0])) / len(text)
        assert Signals(text).top_ngrams[n] == pytest.approx(wanted)


@given(st.text())
def test_words_are_hashed_alike_whatever_their_case_and_punctuation(text):
    hashes = Signals(text).hashes
    assert (hashes != 0).all()
    assert Signals(f"({text.lower().strip()}) ... !").hashes.tolist() == Signals(text.lower()).hashes.tolist()
    assert Signals("Word, (word) 'WORD' — word!").hashes.tolist() == [Signals("word").hashes[0]] * 4


def test_hashes_are_the_same_in_every_process():
    assert Signals("Hello, world").hashes.tolist() == [907060870, 980881731]
