"""Worth as an expression: what it can say, and what it refuses in one line."""

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranker.replay.worth import evaluate
from tinylm.errors import ConfigError

COLUMNS = {
    "kind": np.array(["prose", "nonenglish", "stub"], object),
    "chars": np.array([50, 30_000, 7]),
    "share": np.array([0.5, 0.25, np.nan]),
}


@pytest.mark.parametrize(
    ("expression", "worth"),
    [
        ("1", [1, 1, 1]),
        ("chars", [50, 30_000, 7]),
        ("where(kind == 'nonenglish', 0, min(chars, 20000))", [50, 0, 7]),
        ("where(kind != 'stub', max(chars, 100), 0)", [100, 30_000, 0]),
        ("chars / 2 + 3 * chars - 1", [174, 104_999, 23.5]),
        ("--chars - -1", [51, 30_001, 8]),
        ("log1p(chars)", np.log1p([50, 30_000, 7])),
        ("where(chars >= 50, chars < 100, chars <= 7)", [1, 0, 1]),
        ("(chars > 10) * 2.5", [2.5, 2.5, 0]),
        ("kind contains 'o' and not chars > 100", [1, 0, 0]),
        ("where(kind == 'stub', 0, share)", [0.5, 0.25, 0]),
        ("2 * (chars == 7) + 1e-3", [0.001, 0.001, 2.001]),
    ],
)
def test_expressions(expression, worth):
    found = evaluate(expression, COLUMNS, 3)
    assert found.dtype == np.float64
    assert found == pytest.approx(np.array(worth, np.float64))


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("text", "no column 'text'; there is chars, kind, share"),
        ("chars +", "at character"),
        ("", "at character"),
        ("chars - 10", "below 0 or no number for 1 of 3 pages"),
        ("share", "below 0 or no number for 1 of 3 pages"),
        ("chars / 0", "below 0 or no number for 3 of 3 pages"),
        ("chars ** 2", r"worth = 'chars \*\* 2': a column, .* at character 8, not '\* 2'"),
        ("min(chars)", "min takes 2 values, not 1"),
        ("where(chars, 1)", "where takes 3 values, not 2"),
        ("exit(1)", "an operator, or the end is needed at character 5"),
        ("chars.dtype", "an operator, or the end is needed at character 6"),
        ("chars[0]", "an operator, or the end is needed at character 6"),
        ("min(chars, y=3)", r"'\)' is needed at character 13"),
        ("1 < chars < 3", "comparisons are not chained"),
        ("not chars", "of what is true or false, not of numbers"),
        ("[chars]", "is needed at character 1"),
        ("lambda: 1", "is needed at character 7"),
        ("__import__('os')", "is needed at character 11"),
        ("None", "no column 'None'"),
        ("kind + 1", "worth = 'kind \\+ 1'"),
        ("kind", "worth = 'kind'"),
        ("'prose'", "worth = \"'prose'\""),
    ],
)
def test_what_is_no_worth_is_said(expression, said):
    with pytest.raises(ConfigError, match=said):
        evaluate(expression, COLUMNS, 3)


@given(st.text("chars kind()+-*/<>=!'\".,0129[]{}\n\0", max_size=15))
def test_anything_is_a_worth_or_refused(expression):
    with suppress(ConfigError):
        worth = evaluate(expression, COLUMNS, 3)
        assert worth.shape == (3,)
        assert np.all(worth >= 0)
