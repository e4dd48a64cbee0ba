"""Expressions over the columns of documents: which are meant, and what each is worth.

    text contains 'statistics' and language == 'en'
    where(kind == 'nonenglish', 0, min(prose_chars, 20000))

From loose to tight: `or`; `and`; `not`; `== != < <= > >= contains matches`, `is null`, `is not null`; `+ -`;
`* /`; unary `-`. And `min`, `max` of two, `where(condition, then, else)`, `log1p`. `contains` looks for words
in a text, or for an entry of a list; `matches` for a regular expression anywhere in a text.

There are two truth values: nothing equals null or is less or more than it, so that `not` of such a comparison
is true. Read once (`parse`), an expression is computed over columns of numpy (`evaluate`), or by an engine.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from tinylm.errors import ConfigError

_TOKEN = re.compile(
    r"""\s*(?: (?P<number>(?:\d[\d_]*\.?[\d_]*|\.\d+)(?:[eE][+-]?\d+)?)
             | (?P<string>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")
             | (?P<name>[^\W\d]\w*)
             | (?P<sign>[=!<>]=|[-+*/<>(),]) )""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\(['\"\\ntr])")
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r"}
# How tight an infix operator binds.
_TIGHTNESS = {
    "or": 1,
    "and": 2,
    **dict.fromkeys(("==", "!=", "<", "<=", ">", ">=", "contains", "matches", "is"), 4),
    **dict.fromkeys("+-", 5),
    **dict.fromkeys("*/", 6),
}
_NOT, _NEGATIVE = 3, 7
# Beside infix operators: of how many values each is.
FUNCTIONS = {"min": 2, "max": 2, "where": 3, "log1p": 1}
_WORDS = frozenset(("or", "and", "not", "contains", "matches", "is", "null", *FUNCTIONS))
# Brackets in brackets: more than anybody writes, and less than Python's stack holds.
_DEEPEST = 100


@dataclass(frozen=True, slots=True)
class Expression:
    """`operator` of `arguments`; "column" has a name, "value" a number or a string."""

    operator: str
    arguments: tuple[Any, ...]

    def __str__(self) -> str:
        """As it could be written, with brackets wherever one operator stands within another."""
        operator, arguments = self.operator, self.arguments
        if operator == "column":
            return str(arguments[0])
        if operator == "value":
            return repr(arguments[0])
        if operator in FUNCTIONS:
            return f"{operator}({', '.join(map(str, arguments))})"
        words = [
            f"({each})" if each.operator not in ("column", "value", *FUNCTIONS) else str(each)
            for each in arguments
        ]
        if operator == "is null":
            return f"{words[0]} is null"
        if len(words) == 1:
            return f"not {words[0]}" if operator == "not" else f"-{words[0]}"
        return f"{words[0]} {operator} {words[1]}"

    def conditions(self) -> "Iterator[Expression]":
        """Those that `and` puts together; itself if there is none."""
        if self.operator == "and":
            for argument in self.arguments:
                yield from argument.conditions()
        else:
            yield self

    def columns(self) -> Iterator[str]:
        """The names in it, as often as they are."""
        if self.operator == "column":
            yield self.arguments[0]
        else:
            for argument in self.arguments:
                if isinstance(argument, Expression):
                    yield from argument.columns()


class _Token(NamedTuple):
    kind: str
    text: str
    at: int


def parse(text: str) -> Expression:
    """Read an expression. Raises ConfigError, which says where it is none."""
    return _Parser(text).whole()


class _Parser:
    """Precedence climbing (Pratt 1973)."""

    def __init__(self, text: str) -> None:
        self._text, self._depth = text, 0
        self._tokens = [*self._split()]
        self._next = 0

    def _split(self) -> Iterator[_Token]:
        at = 0
        while found := _TOKEN.match(self._text, at):
            yield _Token(str(found.lastgroup), found[found.lastgroup or 0], found.start(found.lastgroup or 0))
            at = found.end()
        rest = self._text[at:]
        yield _Token("end", "", at + len(rest) - len(rest.lstrip()))

    def whole(self) -> Expression:
        tree = self._expression(0)
        if self._seen.kind != "end" or self._seen.at < len(self._text):
            raise self._fault("an operator, or the end")
        return tree

    @property
    def _seen(self) -> _Token:
        return self._tokens[self._next]

    def _take(self, *texts: str) -> _Token | None:
        """The next token, if it is one of these words or signs."""
        seen = self._seen
        if seen.kind not in ("name", "sign") or seen.text not in texts:
            return None
        self._next += 1
        return seen

    def _expect(self, text: str) -> None:
        if not self._take(text):
            raise self._fault(f"{text!r}")

    def _fault(self, expected: str) -> ConfigError:
        at = self._seen.at
        found = repr(self._text[at:][:20]) if at < len(self._text) else "the end"
        return ConfigError(f"{self._text!r}: {expected} is needed at character {at + 1}, not {found}")

    def _expression(self, least: int) -> Expression:
        """What binds tighter than `least`."""
        self._depth += 1
        if self._depth > _DEEPEST:
            raise ConfigError(f"{self._text[:60]!r}…: nested more than {_DEEPEST} deep")
        left = self._operand()
        compared = False
        while (tightness := _TIGHTNESS.get(self._seen.text, 0)) > least:
            if compared and tightness == _TIGHTNESS["=="]:
                raise self._fault("'and', since comparisons are not chained,")
            compared = tightness == _TIGHTNESS["=="]
            operator = self._seen.text
            self._next += 1
            if operator == "is":
                negated = self._take("not")
                self._expect("null")
                left = Expression("is null", (left,))
                left = Expression("not", (left,)) if negated else left
            else:
                right = self._expression(tightness)
                if operator in ("contains", "matches"):
                    self._check_pattern(operator, right)
                left = Expression(operator, (left, right))
        self._depth -= 1
        return left

    def _operand(self) -> Expression:
        if self._take("not"):
            return Expression("not", (self._expression(_NOT - 1),))
        if self._take("-"):
            return Expression("-", (self._expression(_NEGATIVE - 1),))
        if self._take("("):
            inner = self._expression(0)
            self._expect(")")
            return inner
        kind, text, _ = self._seen
        if kind == "number":
            self._next += 1
            digits = text.replace("_", "")
            return Expression("value", (int(digits) if digits.isdigit() else float(digits),))
        if kind == "string":
            self._next += 1
            # Any other backslash stays: it is a regular expression's.
            word = _ESCAPE.sub(lambda found: _ESCAPED.get(found[1], found[1]), text[1:-1])
            return Expression("value", (word,))
        if kind == "name" and text in ("True", "False"):
            self._next += 1
            return Expression("value", (text == "True",))
        if kind == "name" and text in FUNCTIONS:
            self._next += 1
            return self._call(text)
        if kind == "name" and text not in _WORDS:
            self._next += 1
            return Expression("column", (text,))
        raise self._fault("a column, a number or a 'word'")

    def _check_pattern(self, operator: str, right: Expression) -> None:
        [pattern] = right.arguments if right.operator == "value" else [None]
        if not isinstance(pattern, str):
            raise ConfigError(f"{self._text!r}: {operator} needs a 'word' on its right")
        if operator == "matches":
            try:
                pc.match_substring_regex(pa.array([""]), pattern)
            except pa.ArrowInvalid as error:
                raise ConfigError(f"{self._text!r}: no regular expression of RE2: {error}") from None

    def _call(self, name: str) -> Expression:
        self._expect("(")
        arguments = [self._expression(0)]
        while self._take(","):
            arguments.append(self._expression(0))
        self._expect(")")
        if len(arguments) != FUNCTIONS[name]:
            raise ConfigError(f"{self._text!r}: {name} takes {FUNCTIONS[name]} values, not {len(arguments)}")
        return Expression(name, tuple(arguments))


def evaluate(expression: Expression, columns: Mapping[str, NDArray[Any]]) -> Any:
    """The value for each row of `columns`, (rows,) each; one value if it has no columns.

    Null is None among objects, and NaN among numbers. Raises ConfigError for a column that is not there,
    TypeError or ValueError for what cannot be computed of these.
    """
    match expression:
        case Expression("value", (value,)):
            return value
        case Expression("column", (name,)):
            if name not in columns:
                raise missing(name, columns)
            found = columns[name]
            return found.astype(np.float64) if found.dtype.kind == "f" else found
        case Expression("contains" | "matches" as operator, (left, Expression("value", (pattern,)))):
            texts = pa.array(np.atleast_1d(evaluate(left, columns)), from_pandas=True)
            if operator == "contains" and pa.types.is_list(texts.type):
                return np.array([pattern in (entries or ()) for entries in texts.to_pylist()])
            look = pc.match_substring if operator == "contains" else pc.match_substring_regex
            return look(texts, pattern).fill_null(False).to_numpy(zero_copy_only=False)
        case Expression(operator, arguments):
            return _NUMPY[operator](*(evaluate(argument, columns) for argument in arguments))
    raise AssertionError(expression)


def missing(name: str, columns: Iterable[str]) -> ConfigError:
    """What to raise for a column that is not there."""
    return ConfigError(f"no column {name!r}; there is {', '.join(sorted(columns))}")


def _conditions(function: Callable[..., Any]) -> Callable[..., Any]:
    def checked(*values: Any) -> Any:
        if any(np.asarray(value).dtype != np.bool_ for value in values):
            raise TypeError("and, or, not are of what is true or false, not of numbers or words")
        return function(*values)

    return checked


def _is_null(value: Any) -> Any:
    array = np.asarray(value)
    if array.dtype == object:
        return np.array([one is None or one != one for one in array.ravel()]).reshape(array.shape)
    return np.isnan(array) if array.dtype.kind == "f" else np.zeros(array.shape, np.bool_)


_NUMPY: dict[str, Callable[..., Any]] = {
    "or": _conditions(np.logical_or),
    "and": _conditions(np.logical_and),
    "not": _conditions(np.logical_not),
    "==": np.equal,
    "!=": np.not_equal,
    "<": np.less,
    "<=": np.less_equal,
    ">": np.greater,
    ">=": np.greater_equal,
    "is null": _is_null,
    "+": np.add,
    "-": lambda *values: np.negative(*values) if len(values) == 1 else np.subtract(*values),
    "*": np.multiply,
    "/": np.divide,
    "min": np.minimum,
    "max": np.maximum,
    "where": np.where,
    "log1p": np.log1p,
}
