"""Probabilities that mean what they say, and a number that moves when the scores do."""

import io
import logging

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranker.judge.calibration import Calibration, Drift
from ranker.judge.quality import sigmoid

SCORES = st.floats(0, 1)


def expected_error(said, true):
    """ECE of probabilities against labels, in ten bins."""
    bins = np.minimum(9, (said * 10).astype(int))
    return sum(abs((said - true)[bins == number].sum()) for number in range(10)) / len(said)


def stream(source, count, slope, shift):
    """Scores of a model that is wrong about its own certainty, and what was chosen."""
    margins = source.normal(0, 2, count)
    chosen = source.random(count) < 1 / (1 + np.exp(-(slope * margins + shift)))
    return [(sigmoid(margin), bool(label)) for margin, label in zip(margins, chosen, strict=True)]


@pytest.mark.parametrize(("slope", "shift"), [(0.4, 0.0), (2.5, 0.5), (1.0, -1.5)])
def test_a_model_too_sure_or_too_timid_is_set_right(slope, shift):
    calibration, said, chosen = Calibration(), [], []
    examples = stream(np.random.default_rng(1), 3000, slope, shift)
    for score, label in examples:
        said.append(calibration(score))
        chosen.append(label)
        calibration.learn(score, chosen=label, weight=1.0)
    late = slice(1500, None)
    raw = expected_error(np.array([score for score, _ in examples])[late], np.array(chosen)[late])
    after = expected_error(np.array(said)[late], np.array(chosen)[late])
    assert after < 0.04 < raw
    assert calibration.error < 0.08


def test_a_change_of_the_model_is_followed():
    calibration = Calibration()
    source = np.random.default_rng(2)
    for slope in (0.5, 2.0):
        for score, label in stream(source, 2000, slope, 0.0):
            calibration.learn(score, chosen=label, weight=1.0)
        assert calibration(0.8) == pytest.approx(sigmoid(slope * np.log(4)), abs=0.06)


@given(SCORES)
def test_without_votes_a_score_stays_what_it_is(score):
    assert Calibration()(score) == pytest.approx(score, abs=1e-5)


@given(
    st.lists(st.tuples(SCORES, st.booleans(), st.floats(0.01, 10)), max_size=60),
    st.lists(SCORES, min_size=2, max_size=9),
)
def test_the_order_of_scores_is_never_turned_around(votes, scores):
    calibration = Calibration()
    for score, chosen, weight in votes:
        calibration.learn(score, chosen=chosen, weight=weight)
        assert 0 <= calibration.error <= 1
    said = [calibration(score) for score in sorted(scores)]
    assert said == sorted(said)
    assert all(0 <= value <= 1 for value in said)


def test_the_distribution_of_late_is_compared_with_the_one_before(caplog):
    source = np.random.default_rng(3)
    drift = Drift()
    with caplog.at_level(logging.WARNING):
        for score in source.beta(2, 2, 5000):
            drift.add(score)
        assert drift.index < 0.1
        assert not caplog.records
        for score in source.beta(2, 8, 1000):
            drift.add(score)
        assert drift.index > 0.25
        assert len(caplog.records) == 1
        for score in source.beta(2, 8, 8000):
            drift.add(score)
    assert drift.index < 0.1
    assert len(caplog.records) == 1


@pytest.mark.parametrize("part", [Calibration, Drift])
def test_it_goes_on_where_it_stopped(part):
    def learn(one, numbers):
        for score in numbers:
            if isinstance(one, Drift):
                one.add(score)
            else:
                one.learn(score, chosen=score > 0.4, weight=2.0)

    source = np.random.default_rng(4)
    one, other = part(), part()
    learn(one, source.random(1500))
    buffer = io.BytesIO()
    np.savez(buffer, **one.state())
    buffer.seek(0)
    with np.load(buffer) as arrays:
        other.restore(dict(arrays))
    numbers = source.random(50)
    learn(one, numbers)
    learn(other, numbers)
    for name, value in one.state().items():
        assert np.array_equal(value, other.state()[name])
