"""The quality model: it learns what people choose, and goes on where it stopped."""

import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranker.judge.quality import HashedLinear
from shards.text.signals import Signals
from tests.conftest import saved
from tests.ranker.conftest import ESSAY, SHOP, text


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


@pytest.mark.parametrize("used", [HashedLinear, trained])
def test_it_goes_on_exactly_where_it_stopped(used):
    one, other = trained(), used()
    other.restore(saved(one.state()))
    for seed in range(300, 330):
        for model in (one, other):
            model.learn(text(ESSAY if seed % 3 else SHOP, seed), chosen=bool(seed % 3))
        assert one.score(text(ESSAY, seed)) == other.score(text(ESSAY, seed))
    for name, value in one.state().items():
        assert np.array_equal(value, other.state()[name])


TRAINED = trained(count=40).state()


@given(st.text(), st.booleans(), st.floats(0.01, 100))
def test_any_text_has_a_score_and_can_be_learned(content, chosen, weight):
    model = HashedLinear()
    model.restore(TRAINED)
    model.learn(content, chosen=chosen, weight=weight)
    assert 0 <= model.score(content) <= 1


def test_a_text_that_was_measured_already_is_the_same_text():
    one, other = trained(), trained()
    for seed in range(300, 310):
        words = text(ESSAY, seed)
        assert one.score(words) == other.score(Signals(words))
        assert one.learn(words, chosen=True) == other.learn(Signals(words), chosen=True)
        assert one.learn(words, chosen=False) == other.learn(Signals(words), chosen=False)


def area_under_curve(positives, negatives):
    """Probability that a positive scores above a negative."""
    order = np.argsort(np.concatenate((positives, negatives))).argsort() + 1
    least = len(positives) * (len(positives) + 1) / 2
    return float((order[: len(positives)].sum() - least) / (len(positives) * len(negatives)))


@pytest.mark.parametrize("held_host", ["", "docs.djangoproject.com"])
def test_votes_for_some_prose_pages_tell_prose_from_stubs_it_never_saw(real_pages, held_host):
    """One prose page in five has karma, and a few of the others by mistake; hosts may be new, too."""
    source = random.Random(1)
    held = {
        number
        for number, page in enumerate(real_pages)
        if (page.host == held_host if held_host else source.random() < 0.4)
    }
    model = HashedLinear()
    for number, page in enumerate(real_pages):
        if number not in held:
            chosen = source.random() < (0.2 if page.kind == "prose" else 0.01)
            model.learn(page.text, chosen=chosen, weight=5.0 if chosen else 1.0)
    scores = {"prose": [], "other": []}
    for number in held:
        page = real_pages[number]
        scores["prose" if page.kind == "prose" else "other"].append(model.score(page.text))
    others = scores["other"] or [model.score(page.text) for page in real_pages if page.kind != "prose"]
    assert area_under_curve(scores["prose"], others) > 0.9
