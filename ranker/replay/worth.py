"""What a page of a recorded web is worth, as an expression over the columns of its table of pages."""

import ast
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinylm.errors import ConfigError

_OPERATORS: dict[type, Callable[..., Any]] = {
    ast.Add: np.add,
    ast.Sub: np.subtract,
    ast.Mult: np.multiply,
    ast.Div: np.divide,
    ast.USub: np.negative,
    ast.Eq: np.equal,
    ast.NotEq: np.not_equal,
    ast.Lt: np.less,
    ast.LtE: np.less_equal,
    ast.Gt: np.greater,
    ast.GtE: np.greater_equal,
}
_FUNCTIONS: dict[str, tuple[Callable[..., Any], int]] = {
    "min": (np.minimum, 2),
    "max": (np.maximum, 2),
    "where": (np.where, 3),
    "log1p": (np.log1p, 1),
}


def evaluate(expression: str, columns: Mapping[str, NDArray[Any]], rows: int) -> NDArray[np.float64]:
    """(rows,) The value of `expression`.

    It is made of numbers, 'words', columns, + - * /, comparisons, min, max, where and log1p.

    Raises ConfigError for anything else, and for a worth that is below 0 or no number.
    """
    try:
        tree = ast.parse(expression, mode="eval")
    except SyntaxError as error:
        raise ConfigError(f"worth = {expression!r}: {error.msg} at character {error.offset}") from None
    try:
        with np.errstate(all="ignore"):
            worth = np.broadcast_to(_value(tree.body, columns), rows).astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"worth = {expression!r}: {error}") from None
    if bad := int(np.sum(~(np.isfinite(worth) & (worth >= 0)))):
        raise ConfigError(f"worth = {expression!r}: below 0 or no number for {bad:,} of {rows:,} pages")
    return worth


def _value(node: ast.expr, columns: Mapping[str, NDArray[Any]]) -> Any:
    match node:
        case ast.Constant(value=int() | float() | str() as value):
            return value
        case ast.Name(id=name):
            if name not in columns:
                raise ValueError(f"no column {name!r}; there is {', '.join(sorted(columns))}")
            return columns[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return np.negative(_value(operand, columns))
        case (
            ast.BinOp(left=left, op=op, right=right) | ast.Compare(left=left, ops=[op], comparators=[right])
        ) if type(op) in _OPERATORS:
            return _OPERATORS[type(op)](_value(left, columns), _value(right, columns))
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if name in _FUNCTIONS:
            function, count = _FUNCTIONS[name]
            if len(arguments) != count:
                raise ValueError(f"{name} takes {count} values, not {len(arguments)}")
            return function(*(_value(argument, columns) for argument in arguments))
    raise ValueError(f"{ast.unparse(node)!r} is not allowed here")
