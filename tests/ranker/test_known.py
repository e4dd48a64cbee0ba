"""`Known` behaves as a set of 64-bit numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ranker.known
from ranker.known import Known

numbers = st.integers(0, (1 << 64) - 1) | st.integers(0, 20) | st.integers((1 << 64) - 20, (1 << 64) - 1)


@given(st.lists(numbers), st.lists(numbers), st.lists(numbers), st.integers(1, 5))
def test_it_is_a_set_whenever_it_merges(first, added, asked, merge_at):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranker.known, "_MERGE_AT", merge_at)
        known, model = Known(first), set(first)
        for number in added:
            known.add(number)
            model.add(number)
            assert number in known
            assert len(known) == len(model)
        for number in [*asked, *first]:
            assert (number in known) == (number in model)
        assert known.to_array().tolist() == sorted(model)
        assert known.to_array().dtype == np.uint64


@given(st.lists(numbers))
def test_its_array_is_all_it_needs_to_go_on(given_numbers):
    known = Known(given_numbers)
    again = Known(map(int, known.to_array()))
    assert again.to_array().tolist() == known.to_array().tolist()
    assert Known(known.to_array()).to_array().tolist() == known.to_array().tolist()
