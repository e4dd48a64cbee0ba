"""Expressions (shards/batch/expression.py) as Daft's, so that its engine computes what numpy would."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import daft
from daft import DataType, Schema
from daft.expressions import Expression as Native
from daft.functions import when

from shards.batch.expression import Expression, missing

_INFIX: dict[str, Callable[[Any, Any], Native]] = {
    "==": lambda left, right: left == right,
    "!=": lambda left, right: left != right,
    "<": lambda left, right: left < right,
    "<=": lambda left, right: left <= right,
    ">": lambda left, right: left > right,
    ">=": lambda left, right: left >= right,
    "+": lambda left, right: left + right,
    "-": lambda left, right: left - right,
    "*": lambda left, right: left * right,
    "/": lambda left, right: left / right,
    "or": lambda left, right: left | right,
    "and": lambda left, right: left & right,
}
_COMPARISONS = frozenset(("==", "!=", "<", "<=", ">", ">="))
_TRUTH, _NUMBER, _TEXT, _LIST = "a condition", "a number", "text", "a list"


def number_of(expression: Expression, schema: Schema, *, condition: bool = False) -> Native:
    """As `to_daft`, in 64 bits: the number that it is, or 1 and 0 for what is true or false.

    Raises TypeError also if it is of another kind, or no `condition` where one is needed.
    """
    found = _compiled(expression, schema)
    if found.kind != _TRUTH and (condition or found.kind != _NUMBER):
        needed = "a condition" if condition else "a number"
        raise TypeError(f"{needed} is needed, and {expression} is {found.kind.removeprefix('a ')}")
    return found.native.cast(DataType.float64())


class _Typed(NamedTuple):
    native: Native
    kind: str


def to_daft(expression: Expression, schema: Schema) -> Native:
    """`expression` over the columns of `schema`.

    Raises ConfigError for a column that is not there, TypeError if it cannot be computed of such columns.
    """
    return _compiled(expression, schema).native


def _compiled(expression: Expression, schema: Schema) -> _Typed:
    operator, arguments = expression.operator, expression.arguments
    if operator == "value":
        [value] = arguments
        kind = _TRUTH if isinstance(value, bool) else _TEXT if isinstance(value, str) else _NUMBER
        return _Typed(daft.lit(value), kind)
    if operator == "column":
        return _column(arguments[0], schema)
    if operator in ("contains", "matches"):
        return _Typed(
            _looked_for(operator, _compiled(arguments[0], schema), arguments[1].arguments[0]), _TRUTH
        )
    return _computed(operator, [_compiled(argument, schema) for argument in arguments])


def _column(name: str, schema: Schema) -> _Typed:
    if name not in schema.column_names():
        raise missing(name, schema.column_names())
    type_, column = schema[name].dtype, daft.col(name)
    if type_.is_boolean():
        return _Typed(column.fill_null(False), _TRUTH)
    if type_.is_string():
        return _Typed(column, _TEXT)
    if type_.is_list():
        return _Typed(column, _LIST)
    if type_ in (DataType.float32(), DataType.float64()):
        return _Typed(_without_nan(column), _NUMBER)
    if type_.is_numeric():
        return _Typed(column, _NUMBER)
    raise TypeError(f"column {name!r} is of {type_}, with which nothing can be computed")


def _looked_for(operator: str, where: _Typed, pattern: str) -> Native:
    if where.kind == _LIST and operator == "contains":
        found = where.native.list_contains(daft.lit(pattern))
    elif where.kind == _TEXT:
        found = where.native.contains(pattern) if operator == "contains" else where.native.regexp(pattern)
    else:
        raise TypeError(f"{operator} looks into a text, or contains into a list, not into {where.kind}")
    return found.fill_null(False)


def _computed(operator: str, values: Sequence[_Typed]) -> _Typed:
    natives, kinds = [value.native for value in values], {value.kind for value in values}
    if operator == "is null":
        return _Typed(natives[0].is_null(), _TRUTH)
    if operator in ("and", "or", "not"):
        if kinds != {_TRUTH}:
            raise TypeError("and, or, not are of what is true or false, not of numbers or words")
        return _Typed(~natives[0] if operator == "not" else _INFIX[operator](*natives), _TRUTH)
    if operator in _COMPARISONS and kinds == {_TEXT}:
        return _Typed(_INFIX[operator](*natives).fill_null(operator == "!="), _TRUTH)
    if operator == "where":
        return _where(values)
    if kinds - {_NUMBER, _TRUTH}:
        raise TypeError(f"{operator} is of numbers, not of {' and '.join(sorted(kinds))}")
    if operator in ("+", "*") and kinds == {_TRUTH}:  # as numpy has it: whether any is true, or all
        return _Typed(_INFIX["or" if operator == "+" else "and"](*natives), _TRUTH)
    numbers = [_number(value) for value in values]
    if operator in _COMPARISONS:
        return _Typed(_INFIX[operator](*numbers).fill_null(operator == "!="), _TRUTH)
    if operator in ("min", "max"):
        left, right = numbers
        first = left <= right if operator == "min" else left >= right
        return _Typed(when(first, left).when(~first, right).otherwise(daft.lit(None)), _NUMBER)
    if operator == "log1p":
        return _Typed(_without_nan(numbers[0].log1p()), _NUMBER)
    if len(numbers) == 1:
        return _Typed(daft.lit(0) - numbers[0], _NUMBER)
    found = _INFIX[operator](*numbers)
    return _Typed(_without_nan(found), _NUMBER)


def _where(values: Sequence[_Typed]) -> _Typed:
    condition, then, otherwise = values
    true = condition.native
    if condition.kind != _TRUTH:  # as in Python: any number but 0
        true = _INFIX["!="](_number(condition), daft.lit(0)).fill_null(True)
    if then.kind == otherwise.kind:
        return _Typed(when(true, then.native).otherwise(otherwise.native), then.kind)
    return _Typed(when(true, _number(then)).otherwise(_number(otherwise)), _NUMBER)


def _number(value: _Typed) -> Native:
    """In 64 bits, as numpy computes."""
    if value.kind not in (_NUMBER, _TRUTH):
        raise TypeError(f"a number is needed, not {value.kind}")
    return value.native.cast(DataType.float64())


def _without_nan(number: Native) -> Native:
    """Null instead of NaN, which is more than any number to the engine."""
    return when(number.is_nan(), daft.lit(None)).otherwise(number)
