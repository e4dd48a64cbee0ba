"""`record`: a dataclass out of JSON that anybody may have written, each value of the type that is declared.

What is read from a file becomes a dataclass here or nowhere: a null, a list, a number in place of a string is
one error that names the field, where the file is read, and not a bug wherever the value is used.
"""

import math
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

# What code that reads somebody's JSON raises when that is of another form.
MALFORMED = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)

T = TypeVar("T")


@cache
def _hints(cls: Any) -> dict[str, Any]:
    return get_type_hints(cls)


def record(cls: type[T], value: object, name: str = "") -> T:
    """`value`, an object of JSON, as a `cls`. Raises ValueError for what is missing, unknown or another type.

    Fields are bool, int, finite float, str, None, Any, Literal, tuple[X, ...], dict[str, X], dataclasses, and
    unions of these.
    """
    if not isinstance(value, dict):
        raise ValueError(f"{name or 'it'} is not an object")
    prefix = f"{name}." if name else ""
    known: tuple[Any, ...] = fields(cls)  # type: ignore[arg-type]
    names = {field.name for field in known}
    if unknown := [str(key) for key in value if key not in names]:
        raise ValueError(f"{prefix}{unknown[0]:.60} is not known")
    for field in known:
        if field.name not in value and field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"{prefix}{field.name} is missing")
    hints = _hints(cls)  # type: ignore[arg-type]
    return cls(**{key: typed(hints[key], each, f"{prefix}{key}") for key, each in value.items()})


def typed(kind: Any, value: Any, name: str) -> Any:
    """`value` of JSON if it is of the type `kind`, lists as tuples; else raises ValueError about `name`."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        if value is None and NoneType in inner:
            return None
        *others, last = (each for each in inner if each is not NoneType)
        for each in others:
            try:
                return typed(each, value, name)
            except ValueError:
                continue
        return typed(last, value, name)
    if origin is tuple and isinstance(value, list):
        return tuple(typed(inner[0], each, f"{name}[{at}]") for at, each in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return {key: typed(inner[1], each, f"{name}.{key:.60}") for key, each in value.items()}
    if is_dataclass(kind) and isinstance(kind, type):
        return record(kind, value, name)
    if origin is Literal:
        fits = any(value == each and type(value) is type(each) for each in inner)
    elif kind is float:
        # Up to 2**1023: a larger whole number is none for floats.
        fits = type(value) in (int, float) and -1e308 < value < 1e308 and not math.isnan(value)
    else:
        fits = kind is Any or type(value) is kind
    if not fits:
        raise ValueError(f"{name} = {repr(value)[:60]}, not {getattr(kind, '__name__', kind)}")
    return value
