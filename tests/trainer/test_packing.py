"""Packing loses no token, fills rows as it says, and knows which document a position is of."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.data.packing import pack, segments

END = 0
DOCUMENTS = st.lists(
    st.lists(st.integers(1, 99), max_size=40).map(lambda ids: np.array(ids, np.uint16)), max_size=12
)
HOW = st.sampled_from(["concat", "best-fit"])


def pairs(rows):
    """Each predicted token with the one before it."""
    kept = np.arange(rows.ids.shape[1]) < rows.filled[:, None]
    return sorted(zip(rows.ids[kept].tolist(), rows.targets[kept].tolist(), strict=True))


@given(DOCUMENTS, st.integers(1, 20), HOW)
def test_every_token_is_predicted_once_from_the_one_before_it(documents, length, how):
    rows = pack(documents, END, length, how)
    strings = [[END, *document.tolist(), END] for document in documents]
    expected = [pair for string in strings for pair in pairwise(string)]
    assert pairs(rows) == sorted(expected)
    assert rows.documents == len(documents)


@given(DOCUMENTS, st.integers(1, 20))
def test_concat_pads_the_last_row_only(documents, length):
    rows = pack(documents, END, length)
    assert (rows.filled[:-1] == length).all()
    assert (rows.filled > 0).all()
    whole = np.concatenate([rows.targets.ravel(), []])[: rows.filled.sum()]
    assert whole.tolist() == [token for document in documents for token in (*document.tolist(), END)]


@given(DOCUMENTS, st.integers(1, 20))
def test_best_fit_cuts_only_what_is_longer_than_a_row(documents, length):
    rows = pack(documents, END, length, "best-fit")
    assert rows.cut == sum(len(document) + 1 > length for document in documents)
    assert (rows.filled > 0).all()
    # Two rows that are at most half full would have been one.
    assert (rows.filled * 2 <= length).sum() <= 1


@given(DOCUMENTS, st.integers(2, 20), HOW)
def test_no_segment_holds_two_documents(documents, length, how):
    """With a token that only one document has, a segment's tokens are of one document."""
    marked = [np.full(len(ids), number + 1, np.uint16) for number, ids in enumerate(documents)]
    rows = pack(marked, END, length, how)
    numbers = segments(rows.ids, rows.targets, END)
    for ids, segment, filled in zip(rows.ids, numbers, rows.filled, strict=True):
        for number in range(segment.max() + 1):
            assert len({*ids[:filled][segment[:filled] == number].tolist()} - {END}) <= 1


@pytest.mark.parametrize(("how", "cut"), [("concat", 2), ("best-fit", 1)])
def test_documents_in_more_than_one_row_are_counted(how, cut):
    documents = [np.full(length, 7, np.uint16) for length in (5, 9, 3, 4)]
    assert pack(documents, END, 8, how).cut == cut
