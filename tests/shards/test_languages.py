"""Languages: what a word is in each, what the rules make of them, and how a new one is learned."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.text import languages
from shards.text.dedup import Novelty, signature, sketch
from shards.text.filters import RULES, judge
from shards.text.languages import Language, language, measured, row, words_of
from shards.text.signals import Signals
from tinylm.errors import ConfigError

GERMAN = (
    "Der Fluss sucht sich den steilsten Weg, und der Weg wird mit den Jahren zu einem Tal in den Bergen. "
)
CHINESE = "水在山谷中流过，带走了一些泥土。多年以后，这里有了一条河，人们可以在河上用船来往。"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Two words, three.", ["Two", "words,", "three."]),
        ("我们在家。", ["我", "们", "在", "家。"]),
        ("東京タワーに行く、か", ["東", "京", "タワー", "に", "行", "く、", "か"]),
        ("Linux是“系统”", ["Linux", "是“", "系", "统”"]),
        ("ที่นี่ OK", ["ที่", "นี่", "OK"]),
        ("한국어는 띄어 쓴다", ["한국어는", "띄어", "쓴다"]),
    ],
)
def test_words_are_what_unicode_and_white_space_part(text, words):
    assert words_of(text) == words


@given(st.text(alphabet=st.one_of(st.characters(), st.sampled_from("的河ひカーกี่ကို។。 a"))))
def test_no_character_is_lost_and_what_has_spaces_is_parted_there(text):
    assert "".join(words_of(text)) == "".join(text.split())
    assert (
        words_of(text.encode("ascii", "ignore").decode()) == text.encode("ascii", "ignore").decode().split()
    )


@pytest.mark.parametrize(("code", "text"), [("de", GERMAN), ("zh", CHINESE)])
def test_prose_is_kept_in_its_language_and_not_as_another_one(code, text):
    prose = "\n\n".join(f"{text}{number}. {text}" for number in range(8))
    kept = Signals(prose, code)
    assert kept.stop_words >= 2
    assert judge(
        kept, [rule for rule in RULES if "gram" not in rule.name and "duplicate" not in rule.name]
    ).keep
    assert judge(Signals(prose, "pl")).reason in ("gopher_stop_words", "gopher_mean_word_length")


def test_of_a_language_that_is_not_known_only_what_holds_in_any_is_asked():
    signals = Signals("ᓄᓇᕗᑦ " * 10, "iu")
    asked = {rule.name for rule in RULES if rule.breaks(signals)}
    assert "gopher_short" in asked
    assert not asked & {"gopher_stop_words", "c4_few_sentences", "gopher_mean_word_length"}
    assert signals.columns["rps_doc_stop_word_fraction"] is None
    assert judge(Signals(GERMAN * 9, "")).reason == judge(Signals(GERMAN * 9, "iu")).reason


def test_near_duplicates_in_chinese_are_found():
    lines = [f"{CHINESE}{chr(0x4E00 + 37 * number)}{chr(0x5E00 + 11 * number)}。" for number in range(40)]
    text, near, other = (
        "\n".join(lines),
        "\n".join(lines[:38]),
        "".join(chr(0x6000 + n * 7 % 5000) for n in range(900)),
    )
    assert (signature(text) == signature(near)).mean() > 0.8
    assert (signature(text) == signature(other)).mean() < 0.1
    novelty = Novelty()
    novelty.add(sketch(Signals(text, "zh")))
    assert novelty.near_duplicate(sketch(Signals(near, "zh")))
    assert not novelty.near_duplicate(sketch(Signals(other, "zh")))


def test_a_language_is_learned_from_its_texts(tmp_path, monkeypatch):
    """Klingon, as far as is known."""
    english = {str(n): f"The {n} ships are here and they have come to fight." for n in range(60)}
    other = {str(n): f"Naev {n} DujDaq tlhIngan pawta' ghaH Duj 'ej." for n in range(60)}
    found = measured("tlh", other, english)
    assert found.words == pytest.approx(8 / 11)
    assert found.word_length > 1.2
    assert found.stop_words >= {"duj", "ghah", "naev"}
    assert measured("tlh", {f"x{name}": text for name, text in other.items()}, english).words < 1
    with pytest.raises(ConfigError, match="fewer than fifty"):
        measured("tlh", dict(list(other.items())[:9]), english)
    with pytest.raises(ConfigError, match="0 texts in 'en'"):
        measured("tlh", other, {})
    (tmp_path / "table.toml").write_text(row("tlh", found) + "\n")
    monkeypatch.setenv(languages.TABLE, str(tmp_path / "table.toml"))
    languages._table.cache_clear()
    try:
        assert language("tlh") == found._replace(
            words=round(found.words, 2), word_length=round(found.word_length, 2)
        )
        assert language("de")
        (tmp_path / "table.toml").write_text("tlh = 1\n")
        languages._table.cache_clear()
        with pytest.raises(ConfigError, match="no table of languages"):
            language("tlh")
    finally:
        monkeypatch.undo()
        languages._table.cache_clear()


def test_every_language_of_the_table_has_stop_words_and_plausible_figures():
    table = languages._table()
    assert len(table) >= 30
    assert table["en"] == Language(
        frozenset({"the", "be", "to", "of", "and", "that", "have", "with"}), 1.0, 1.0
    )
    for code, of in table.items():
        assert 8 <= len(of.stop_words) <= 15, code
        assert 0.5 < of.words < 2, code
        assert 0.2 < of.word_length < 1.8, code
    shared = Counter(word for of in table.values() for word in of.stop_words)
    assert "the" not in {word for word, _ in shared.items()} - table["en"].stop_words
