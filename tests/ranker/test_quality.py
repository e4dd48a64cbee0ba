"""The quality model: it learns what people choose, and goes on where it stopped."""

import io
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranker.quality import HashedLinear

ESSAY = (
    "because",
    "however",
    "therefore",
    "although",
    "question",
    "history",
    "argument",
    "river",
    "evidence",
    "thought",
    "people",
    "change",
)
SHOP = (
    "buy",
    "cart",
    "price",
    "shipping",
    "discount",
    "login",
    "checkout",
    "coupon",
    "offer",
    "sale",
    "free",
    "click",
)
COMMON = ("the", "of", "and", "to", "in", "is", "it", "that", "for", "with", "as", "on")


def text(words, seed):
    source = random.Random(seed)
    return " ".join(source.choice(words if source.random() < 0.4 else COMMON) for _ in range(200))


def trained(count=60, share=0.25):
    model = HashedLinear()
    for seed in range(count):
        chosen = seed % round(1 / share) == 0
        model.learn(text(ESSAY if chosen else SHOP, seed), chosen=chosen)
    return model


def test_it_learns_to_separate_what_was_chosen_from_the_rest():
    model = trained()
    essays = [model.score(text(ESSAY, seed)) for seed in range(1000, 1030)]
    shops = [model.score(text(SHOP, seed)) for seed in range(1000, 1030)]
    assert min(essays) > max(shops)
    assert min(essays) > 0.5 > max(shops)


def test_untrained_it_does_not_know():
    model = HashedLinear()
    assert model.score("anything") == 0.5
    for seed in range(7):
        model.learn(text(ESSAY, seed), chosen=True)
        model.learn(text(SHOP, seed), chosen=False)
    assert model.score(text(ESSAY, 99)) == 0.5
    model.learn(text(ESSAY, 7), chosen=True)
    assert model.score(text(ESSAY, 99)) > 0.5


def test_negatives_alone_teach_it_nothing():
    model = HashedLinear()
    for seed in range(50):
        model.learn(text(SHOP, seed), chosen=False)
    assert model.score(text(SHOP, 1)) == 0.5


def test_a_rare_choice_weighs_as_much_as_all_the_rest():
    """One chosen page in ten: were the classes not balanced, everything would look unchosen."""
    model = trained(count=200, share=0.1)
    assert np.mean([model.score(text(ESSAY, seed)) for seed in range(1000, 1010)]) > 0.6


def test_pages_without_votes_however_many_do_not_wear_it_down():
    model = trained()
    before = model.score(text(ESSAY, 2000))
    for seed in range(3000, 3400):
        model.learn(text(ESSAY + SHOP, seed), chosen=False)
    assert model.score(text(ESSAY, 2000)) > 0.9 * before


def saved(model):
    buffer = io.BytesIO()
    np.savez(buffer, **model.state())
    buffer.seek(0)
    with np.load(buffer) as arrays:
        return dict(arrays)


@pytest.mark.parametrize("used", [HashedLinear, trained])
def test_it_goes_on_exactly_where_it_stopped(used):
    one, other = trained(), used()
    other.restore(saved(one))
    for seed in range(300, 330):
        for model in (one, other):
            model.learn(text(ESSAY if seed % 3 else SHOP, seed), chosen=bool(seed % 3))
        assert one.score(text(ESSAY, seed)) == other.score(text(ESSAY, seed))
    for name, value in one.state().items():
        assert np.array_equal(value, other.state()[name])


@given(st.text(), st.booleans(), st.floats(0.01, 100))
def test_any_text_has_a_score_and_can_be_learned(content, chosen, weight):
    model = trained(count=40)
    model.learn(content, chosen=chosen, weight=weight)
    assert 0 <= model.score(content) <= 1
