"""Expressions: what they mean, the same to numpy and to the engine, and what is refused in one line."""

import daft
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.batch.expression import evaluate, parse
from shards.batch.native import to_daft
from tinylm.errors import ConfigError

TABLE = pa.table({
    "text": ["the statistics of otters", "it's a \"quote\"", None, "", "Statistics\n1.5 %"],
    "kind": ["prose", None, "stub", "prose", "list"],
    "words": pa.array([4, 2, 0, 0, 3], pa.int32()),
    "share": pa.array([0.5, None, float("nan"), 0.1, -2.0], pa.float32()),
    "nofollow": [True, False, False, True, False],
    "opt_out": [["meta:noai"], [], ["robots:ai-train=n", "meta:noai"], [], None],
})  # fmt: skip
COLUMNS = {
    "text": np.array(TABLE["text"].to_pylist(), object),
    "kind": np.array(TABLE["kind"].to_pylist(), object),
    "words": TABLE["words"].to_numpy(),
    "share": TABLE["share"].to_numpy(),
    "nofollow": TABLE["nofollow"].to_numpy(),
    "opt_out": np.array([*TABLE["opt_out"].to_pylist(), []], object)[:-1],
}


def of_numpy(text):
    with np.errstate(all="ignore"):
        return np.broadcast_to(evaluate(parse(text), COLUMNS), 5).tolist()


def of_daft(text):
    frame = daft.from_arrow(TABLE)
    return frame.select(to_daft(parse(text), frame.schema()).alias("found")).to_pydict()["found"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("text contains 'statistics'", [1, 0, 0, 0, 0]),
        ("text matches '(?i)statistics'", [1, 0, 0, 0, 1]),
        (r"text matches '\d\.\d'", [0, 0, 0, 0, 1]),
        (r"text contains 'it\'s a \"quote\"'", [0, 1, 0, 0, 0]),
        (r"text contains 's\n1'", [0, 0, 0, 0, 1]),
        ('text contains "it\'s"', [0, 1, 0, 0, 0]),
        ("not text contains 'a' and words < 3", [0, 0, 1, 1, 0]),
        ("opt_out contains 'meta:noai'", [1, 0, 1, 0, 0]),
        ("text is null", [0, 0, 1, 0, 0]),
        ("share is not null and share > 0", [1, 0, 0, 1, 0]),
        ("not share > 0", [0, 1, 1, 0, 1]),
        ("kind != 'stub'", [1, 1, 0, 1, 1]),
        ("kind == 'prose' or kind == 'list' and words > 9", [1, 0, 0, 1, 0]),
        ("nofollow", [1, 0, 0, 1, 0]),
        ("share == 0.1", [0, 0, 0, 0, 0]),  # as 32 bits have it, it is more
        ("words / 0 > 5", [1, 1, 0, 0, 1]),
        ("-words - -1 * 2", [-2, 0, 2, 2, -1]),
        ("(words > 1) + (words > 2)", [1, 1, 0, 0, 1]),
        ("where(nofollow, 'yes', kind) == 'yes'", [1, 0, 0, 1, 0]),
        ("True and not False", [1, 1, 1, 1, 1]),
    ],
)
def test_an_expression_is_the_same_to_numpy_and_to_the_engine(text, found):
    assert of_numpy(text) == found
    assert of_daft(text) == found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "a column, a number or a 'word' is needed at character 1, not the end"),
        ("text contains", "is needed at character 14, not the end"),
        ("text contains words", "contains needs a 'word' on its right"),
        ("text matches '['", "no regular expression"),
        ("text contains 'open", 'is needed at character 15, not "\'open"'),
        ("words > 1 words", "an operator, or the end is needed at character 11"),
        ("1 < words < 3", "'and', since comparisons are not chained, is needed at character 11"),
        ("words is 3", "'null' is needed at character 10"),
        ("(" * 5000, "nested more than 100 deep"),
        ("not " * 5000 + "nofollow", "nested more than 100 deep"),
        ("-" * 5000 + "words", "nested more than 100 deep"),
        ("min(words)", "min takes 2 values, not 1"),
        ("__import__('os')", "an operator, or the end is needed at character 11"),
        ("words.dtype", "an operator, or the end is needed at character 6"),
    ],
)
def test_what_is_none_is_said_with_its_place(text, said):
    with pytest.raises(ConfigError) as error:
        parse(text)
    assert said in str(error.value)


@pytest.mark.parametrize(
    "text", ["nothing > 1", "kind + 1", "words and nofollow", "not words", "words contains 'a'"]
)
def test_what_cannot_be_computed_is_said_by_both(text):
    for of in (of_numpy, of_daft):
        with pytest.raises((ConfigError, TypeError, pa.ArrowException)):
            of(text)


NUMBERS = st.recursive(
    st.sampled_from(["words", "share", "0", "2", "0.5", "1e3"]),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("+-*/"), inner).map("({0[0]} {0[1]} {0[2]})".format),
        st.tuples(st.sampled_from(["min", "max"]), inner, inner).map("{0[0]}({0[1]}, {0[2]})".format),
        inner.map("-{}".format),
        inner.map("log1p({})".format),
        st.tuples(inner, inner, inner).map("where({0[0]} >= 1, {0[1]}, {0[2]})".format),
    ),
    max_leaves=5,
)
CONDITIONS = st.recursive(
    st.one_of(
        st.tuples(NUMBERS, st.sampled_from(["==", "!=", "<", "<=", ">", ">="]), NUMBERS).map(" ".join),
        st.sampled_from(
            ["text contains 'o'", "kind matches '^p'", "kind != 'stub'", "text is null", "nofollow"]
        ),
        NUMBERS.map("({}) is not null".format),
    ),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map("({0[0]} {0[1]} {0[2]})".format),
        inner.map("not ({})".format),
    ),
    max_leaves=4,
)


@given(CONDITIONS)
def test_any_condition_is_the_same_to_numpy_and_to_the_engine(text):
    assert of_numpy(text) == of_daft(text)


@given(st.text("wordstxk ()+-*/<>=!'\".,019\\[]nistu\n\0", max_size=20))
def test_anything_is_an_expression_or_refused(text):
    try:
        of_numpy(text)
    except (ConfigError, TypeError, ValueError, pa.ArrowException):
        return
