"""The judge: what a page was worth, what is learned from it, and which model says so."""

import logging
from hashlib import sha256

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crawler.page import Page
from ranker.config import WalkConfig
from ranker.judge.judge import Judge
from shards.text.filters import RULES
from shards.text.signals import COLUMNS
from tests.conftest import saved
from tests.ranker.conftest import prose
from tests.ranker.test_fasttext import LANGUAGES
from tinylm.errors import ConfigError

CONFIG = WalkConfig(languages=())


def page(text, number=0, **fields):
    return Page(
        url=f"https://a.test/{number}",
        fetch_no=1,
        fetched_at=0,
        status=200,
        promise=0.5,
        propensity=1.0,
        text=text,
        content_sha256=sha256(text.encode("utf-8", "replace")).hexdigest(),
        **fields,
    )


def changed(text, count):
    """`text` with `count` of its words exchanged, evenly."""
    words = text.split(" ")
    for number in range(count):
        words[number * len(words) // count] = f"changed{number}"
    return " ".join(words)


def test_worth_is_quality_times_length_times_what_is_new():
    judge = Judge(CONFIG)
    first = judge(page(prose(1)), 0.0)
    words = len(prose(1).split())
    assert first.verdict.keep
    assert (first.novelty, first.quality) == (1.0, pytest.approx(0.5))
    assert first.worth == pytest.approx(first.quality * min(1.0, words / 300))
    half_known = f"{prose(1)}\n\n{prose(2)}\n\n{prose(3)}"
    second = judge(page(half_known), 0.0)
    assert second.verdict.keep
    assert 0.4 < second.novelty < 0.9
    assert second.worth == pytest.approx(second.quality * second.novelty)


def test_of_near_duplicates_the_first_is_kept_and_the_others_are_worth_nothing():
    judge = Judge(CONFIG)
    assert judge(page(prose(1)), 0.0).verdict.keep
    near = judge(page(changed(prose(1), 3)), 0.0)
    assert (near.verdict.reason, near.worth) == ("near_duplicate", 0.0)
    assert judge(page(prose(1)), 0.0).verdict.reason == "duplicate"
    assert judge(page(changed(prose(1), 100)), 0.0).verdict.keep


def test_a_page_that_was_dropped_is_no_first():
    judge = Judge(CONFIG)
    assert judge(page(prose(1), opt_out=("meta:noai",)), 0.0).verdict.reason == "opt_out"
    assert judge(page(prose(1)), 0.0).verdict.keep


def test_votes_are_for_a_text_wherever_it_stands_and_repetition_without_them_teaches_nothing():
    judge = Judge(CONFIG)
    judge(page(prose(1)), 50.0)
    before = saved(judge.online.state())
    for _ in range(9):
        judge(page(prose(1)), 0.0)
        judge(page(changed(prose(1), 3)), 0.0)
    assert all(np.array_equal(value, before[name]) for name, value in saved(judge.online.state()).items())
    for _ in range(9):
        judge(page(changed(prose(1), 3)), 50.0)
    assert judge.online.score(prose(1)) > 0.6


def test_a_document_knows_who_scored_it_and_its_signals():
    found = Judge(CONFIG)(page(prose(1)), 0.0)
    assert found.model == "online"
    assert set(found.signals) == set(COLUMNS)
    assert found.signals["rps_doc_word_count"] == len(prose(1).split())


@given(st.text(), st.floats(0, 1e6))
def test_any_page_is_judged(text, karma):
    found = Judge(CONFIG)(page(text), karma)
    assert 0 <= found.worth <= found.quality <= 1
    assert 0 <= found.novelty <= 1
    assert found.verdict.keep == (found.worth > 0)
    assert found.verdict.keep or found.verdict.reason in {rule.name for rule in RULES}


def feed(judge, numbers):
    """Every third page has votes; every tenth is nearly another one."""
    for number in numbers:
        text = changed(prose(number // 2), 2) if number % 10 == 9 else prose(number)
        judge(page(text, number), 20.0 * (number % 3 == 0))


def test_it_goes_on_exactly_where_it_stopped():
    one, other = Judge(CONFIG), Judge(CONFIG)
    feed(one, range(60))
    other.restore(saved(one.state()))
    assert other.status() == one.status()
    for judge in (one, other):
        feed(judge, range(30, 90))
    assert other.status() == one.status()
    for name, value in saved(one.state()).items():
        assert np.array_equal(value, saved(other.state())[name]), name


def test_what_is_published_says_how_far_it_can_be_trusted():
    judge = Judge(CONFIG)
    status = judge.status()
    assert (status["calibration_error"], status["quality_chosen"], status["drift"]) == (None, None, 0.0)
    feed(judge, range(120))
    status = judge.status()
    assert status["quality_model"] == "online"
    assert 0 <= status["calibration_error"] < 0.5
    assert status["quality_chosen"] > status["quality_unchosen"] - 0.2
    assert 0 < status["novelty"] <= 1


def test_no_flood_of_pages_without_votes_wears_quality_down(real_pages):
    """Votes for some prose first; then only what nobody voted for, most of it stubs."""
    judge = Judge(CONFIG)
    prose_pages = [page_ for page_ in real_pages if page_.kind == "prose"]
    others = [page_ for page_ in real_pages if page_.kind != "prose"]
    for number, (good, bad) in enumerate(zip(prose_pages[:200], others[:200], strict=False)):
        judge(page(good.text, number), 30.0 * (number % 3 == 0))
        judge(page(bad.text, number), 0.0)
    test = [good.text for good in prose_pages[300:360]]

    def mean():
        return float(np.mean([judge.calibration(judge.online.score(text)) for text in test]))

    before = mean()
    for number, bad in enumerate(others[200:] + prose_pages[200:300]):
        judge(page(bad.text, number), 0.0)
    assert mean() == pytest.approx(before, abs=0.03)


def test_votes_on_real_pages_give_probabilities_that_hold(real_pages):
    """Each page is scored before it is learned; the error is of the last few hundred of them."""
    judge = Judge(CONFIG)
    source = np.random.default_rng(2)
    for number, real in enumerate(real_pages):
        votes = source.random() < (0.4 if real.kind == "prose" else 0.02)
        judge(page(real.text, number), 20.0 * votes)
    assert judge.calibration.error < 0.12
    assert judge.status()["quality_chosen"] > judge.status()["quality_unchosen"] + 0.2


# Which model


def test_another_model_is_taken_while_it_runs_and_again_after_a_restart(classifier):
    judge = Judge(CONFIG)
    feed(judge, range(40))
    said = {"model": str(LANGUAGES), "label": "__label__en"}
    judge.heed(said)
    found = judge(page(prose(99)), 0.0)
    assert found.model == "fasttext lid.176.ftz __label__en"
    assert found.quality == pytest.approx(judge.model.score(prose(99)), abs=1e-5)
    again = Judge(CONFIG)
    again.restore(saved(judge.state()))
    assert again.model.name == judge.model.name
    again.heed({"model": str(classifier), "label": "__label__cc"})
    assert again.model.name == "fasttext hq.bin __label__cc"
    again.heed({"model": "online", "label": ""})
    assert again.online.score(prose(5)) == judge.online.score(prose(5)) != 0.5
    assert again(page(prose(98)), 0.0).model == "online"


def test_a_model_that_is_not_there_changes_nothing_and_is_said(caplog):
    judge = Judge(CONFIG)
    for _ in range(2):
        with caplog.at_level(logging.WARNING):
            judge.heed({"model": "/typo.bin", "label": ""})
    assert len(caplog.records) == 1
    assert "'/typo.bin': there is no model at this path" in caplog.text
    assert "online goes on judging" in caplog.text
    assert judge(page(prose(1)), 0.0).model == "online"
    again = Judge(CONFIG)
    again.restore(saved(judge.state()))
    assert again.model.name == "online"


def test_a_setting_that_names_no_model_is_an_error():
    with pytest.raises(ConfigError, match=r"quality = '/typo\.bin'"):
        Judge(WalkConfig(quality="/typo.bin"))
