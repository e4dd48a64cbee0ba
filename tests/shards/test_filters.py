"""The rules: text just inside and just outside each threshold, and real prose on the right side."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.text.filters import FIRST_LOOK, RULES, Verdict, judge
from shards.text.signals import Signals


def english(text):
    return Signals(text, "en")


PROSE = """
# How a river finds its way

Water takes the steepest path that is open to it, and in doing so it changes the ground it runs
over. A small hollow gathers a little more rain than its neighbours. The rain carries away some of
the soil, the hollow grows deeper, and so the next storm sends even more water through it. After a
few thousand years there is a valley.

"It never looks the same twice," the old ferryman used to say. He had crossed at this place for
forty years, and he knew where the bank would give way long before it did. Nobody believed him until
the spring of the great flood, when half of the lower meadow went down to the sea in a single night.

What decides the shape of a bend? The current is faster on the outside, where it cuts into the bank,
and slower on the inside, where it drops the sand that it can no longer carry. Each bend therefore
moves outwards a little every year. When two of them meet, the river takes the short cut, and a
quiet lake is left behind.
"""
CODE = """
## Reading a file

The function below opens a file, reads it line by line, and counts how often each word occurs. It
closes the file again even when something goes wrong in between, which is the point of the `with`
statement. The counts come back as a dictionary that you can sort as you like. If the file does not
exist, the error is left to the caller.

```python
def count(path):
    with open(path) as file:
        for line in file:
            for word in line.split():
                seen[word] += 1
    return seen
```

Try it with a file of your own, and compare the result with what your editor says about the number
of words. They often differ: a hyphen may or may not divide a word. Both answers are right for the
question that they answer.
"""
QUOTED = "\n".join(f'He turned around and said to the {noun}, "I have seen this before."' for noun in
                   ("baker", "miller", "sailor", "farmer", "teacher"))  # fmt: skip


def rule(name):
    return next(rule.breaks for rule in RULES if rule.name == name)


def words(count, word="word"):
    return " ".join([word] * count)


def lines(*parts):
    return "\n".join(line for line, count in parts for _ in range(count))


def distinct(count, line="line number {} of this text"):
    return "\n".join(line.format(number) for number in range(count))


CASES = [
    ("gopher_short", words(50), words(49)),
    ("gopher_long", words(100_000), words(100_001)),
    ("gopher_mean_word_length", words(9, "abc"), words(9, "ab")),
    ("gopher_mean_word_length", words(9, "a" * 10), words(9, "a" * 11)),
    ("gopher_symbols", words(9) + " #tag", words(8) + " #tag"),
    ("gopher_symbols", words(10) + "...", words(9) + "..."),
    ("gopher_symbols", words(10) + "…", words(9) + "…"),
    ("gopher_symbols", words(3) + "\n## Heading\n### Heading", words(3) + " #a #b"),
    ("gopher_bullets", lines(("- item", 9), ("end", 1)), lines(("• item", 10), ("end", 1))),
    ("gopher_ellipsis", lines(("so...", 3), ("end.", 7)), lines(("so…", 4), ("end.", 6))),
    ("gopher_alphabetic", words(8) + " 1 2", words(7) + " 1 2 3"),
    ("gopher_stop_words", "The word of", "the THE word"),
    ("gopher_duplicate_lines", distinct(6) + "\n" + lines(("x", 4)), distinct(5) + "\n" + lines(("x", 5))),
    (
        "gopher_duplicate_characters",
        lines(("a" * 20, 2), ("b" * 60, 1)),
        lines(("a" * 21, 2), ("b" * 60, 1)),
    ),
    ("gopher_top_2_gram", "a b a b " + "c" * 27, "a b a b " + "c" * 20),
    ("gopher_top_3_gram", "a b c " * 2 + "d" * 50, "a b c " * 2 + "d" * 40),
    ("gopher_top_4_gram", "a b c d " * 2 + "e" * 75, "a b c d " * 2 + "e" * 65),
    ("c4_lorem_ipsum", "Lorem and ipsum", "So: Lorem Ipsum dolor"),
    ("c4_few_sentences", "One. Two! Three?", "One. Two! 3.5"),
    ("c4_few_sentences", 'He said "no." She said "yes!" (They left.)', "a.b c.d e.f"),
    (
        "fineweb_line_punctuation",
        lines(("it ends.", 12), ("it does not", 88)),
        lines(("it ends.", 11), ("it does not", 89)),
    ),
    (
        "fineweb_short_lines",
        lines(("short", 67), ("x" * 30, 33)),
        lines(("x" * 29, 68), ("x" * 30, 32)),
    ),
]


@pytest.mark.parametrize(("name", "inside", "outside"), CASES)
def test_a_rule_breaks_just_outside_its_threshold(name, inside, outside):
    assert not rule(name)(english(inside))
    assert rule(name)(english(outside))


def test_every_rule_has_a_case_and_a_name_of_its_own():
    assert {name for name, _, _ in CASES} == {rule.name for rule in RULES}
    assert len(RULES) == len({rule.name for rule in RULES})


FIRST_CASES = [
    ("pre_short", words(30), words(29)),
    ("pre_alphabetic", words(65) + " 1" * 35, words(64) + " 1" * 36),
    ("pre_stop_words", "The word of", "the THE word"),
    ("pre_few_sentences", "One.", "One,"),
    ("pre_line_punctuation", lines(("ends.", 8), ("does not", 92)), lines(("ends.", 7), ("does not", 93))),
    ("pre_short_lines", lines(("short", 75), ("x" * 30, 25)), lines(("short", 76), ("x" * 30, 24))),
]


@pytest.mark.parametrize(("name", "inside", "outside"), FIRST_CASES)
def test_the_first_look_leaves_room(name, inside, outside):
    [breaks] = (rule.breaks for rule in FIRST_LOOK if rule.name == name)
    assert not breaks(english(inside))
    assert breaks(english(outside))


def test_every_rule_of_the_first_look_has_a_case():
    assert [name for name, _, _ in FIRST_CASES] == [rule.name for rule in FIRST_LOOK]


@given(st.text(alphabet="the of 12.,\n", max_size=300))
def test_what_the_first_look_rules_out_the_rules_do_too(text):
    assert judge(english(text), FIRST_LOOK).keep or not judge(english(text)).keep


@pytest.mark.parametrize("text", [PROSE, CODE, PROSE + CODE, QUOTED + "\n" + PROSE])
def test_real_prose_is_kept(text):
    assert judge(english(text)) == Verdict(True)
    assert judge(english(text), FIRST_LOOK) == Verdict(True)


def test_code_fences_are_not_judged_as_prose():
    listing = "```\n" + "x = {1: [2, 3]}\n" * 200 + "```\n"
    assert judge(english(CODE + listing)) == Verdict(True)
    assert judge(english(listing)).reason == "gopher_short"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "gopher_short"),
        ("Home | About | Contact", "gopher_short"),
        (words(60, "the of"), "gopher_mean_word_length"),
        (words(60, "buy"), "gopher_stop_words"),
        ((PROSE.strip() + "\n") * 2, "gopher_duplicate_lines"),
        (PROSE + "\nLorem ipsum dolor sit amet.", "c4_lorem_ipsum"),
        (re.sub(r"[.!?]", ",", PROSE), "c4_few_sentences"),
        (re.sub(r"\W+$", "", PROSE, flags=re.MULTILINE), "fineweb_line_punctuation"),
    ],
)
def test_what_is_dropped_is_dropped_for_the_first_reason(text, reason):
    assert judge(english(text)) == Verdict(False, reason)


@given(st.text(max_size=300))
def test_a_verdict_is_total_deterministic_and_explained(text):
    verdict = judge(english(text))
    assert verdict == judge(english(text))
    assert verdict.keep == (verdict.reason == "")
    assert verdict.keep or verdict.reason == next(rule.name for rule in RULES if rule.breaks(english(text)))


@given(st.text(alphabet="ab .\n#`-…", max_size=300))
def test_every_share_is_a_share(text):
    signals = english(text)
    shares = [
        signals.alphabetic_fraction,
        signals.duplicate_line_fraction,
        signals.duplicate_line_characters,
        signals.bullet_line_fraction,
    ]
    assert all(0 <= share <= 1 for share in shares)


class Counting(str):
    """A line whose tests are counted."""

    tested = 0

    def startswith(self, *args):
        Counting.tested += 1
        return super().startswith(*args)


@pytest.mark.parametrize(
    "text",
    ["a" * 1_000_000, "a " * 500_000, "```\n" * 250_000, "." * 1_000_000, "#" * 1_000_000, ".'" * 500_000,
     "\n" * 1_000_000, " " * 1_000_000, "`" * 1_000_000, '."' * 500_000],
)  # fmt: skip
def test_a_megabyte_of_one_thing_is_judged(text):
    """Were a rule quadratic, ten of these would outlast the suite's time limit."""
    for rule in RULES:
        rule.breaks(english(text))


def test_measurements_look_at_each_line_once():
    signals = english("")
    signals.__dict__["lines"] = [Counting("- x")] * 1000
    assert signals.bullet_line_fraction == 1
    assert Counting.tested == 1000
