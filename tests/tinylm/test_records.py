"""A dataclass out of JSON: of the declared types, or one error that names the field."""

import json
import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinylm.records import record, typed


@dataclass(frozen=True)
class Part:
    name: str
    sizes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Whole:
    number: int
    share: float
    parts: tuple[Part, ...]
    kind: Literal["a", "b"] = "a"
    best: Part | None = None
    counts: dict[str, int] | None = None
    flag: bool = False
    more: Any = None


GOOD = {"number": 1, "share": 0.5, "parts": [{"name": "x", "sizes": [1, 2]}], "best": {"name": "y"}}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def test_what_was_written_is_read_again():
    whole = record(Whole, GOOD)
    assert whole == Whole(1, 0.5, (Part("x", (1, 2)),), best=Part("y"))
    assert record(Whole, json.loads(json.dumps(asdict(whole)))) == whole


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"number": None}, "number = None, not int"),
        ({"number": True}, "number = True, not int"),
        ({"number": 1.0}, "number = 1.0, not int"),
        ({"share": math.nan}, "share = nan, not float"),
        ({"share": 10**400}, "share = 1000"),
        ({"parts": {}}, r"parts = \{\}, not tuple"),
        ({"parts": [3]}, r"parts\[0\] is not an object"),
        ({"parts": [{}]}, r"parts\[0\].name is missing"),
        ({"parts": [{"name": "x", "sizes": ["1"]}]}, r"parts\[0\].sizes\[0\] = '1', not int"),
        ({"kind": "c"}, "kind = 'c', not"),
        ({"best": {"name": None}}, "best.name = None, not str"),
        ({"counts": {"a": "b"}}, "counts.a = 'b', not int"),
        ({"another": 1}, "another is not known"),
    ],
)
def test_what_is_of_another_type_is_named(changed, says):
    with pytest.raises(ValueError, match=f"^{says}"):
        record(Whole, GOOD | changed)


@given(JSON | st.fixed_dictionaries(dict.fromkeys(GOOD, JSON)))
def test_any_json_is_a_record_or_a_value_error(found):
    try:
        whole = record(Whole, found)
    except ValueError:
        return
    assert type(whole.number) is int
    assert all(type(part) is Part for part in whole.parts)


def test_a_union_is_any_of_its_kinds():
    assert typed(int | str | None, None, "x") is None
    assert typed(int | str, "a", "x") == "a"
    with pytest.raises(ValueError, match="not str"):
        typed(int | str, 1.5, "x")
