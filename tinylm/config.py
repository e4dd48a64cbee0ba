"""Where a setting comes from: flags over the environment over `tinylm.toml` over defaults.

Each room declares its settings as one frozen dataclass beside their owner. A command names the dataclasses
it takes, and `layers` gives cyclopts the two outer sources for each: for `crawl=CrawlConfig` the variables
`TINYLM_CRAWL_<FIELD>` and the table `[crawl]` of the file that `TINYLM_CONFIG` names (default: `tinylm.toml`
in the working directory). A key or a variable that the dataclass does not have is an error, not a silence.
"""

import json
import os
import re
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, fields
from numbers import Integral, Real
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple, get_args

from cyclopts import App, CycloptsError
from cyclopts.argument import ArgumentCollection
from cyclopts.config import Env, Toml

from tinylm.errors import ConfigError
from tinylm.files import replacing

CONFIG_VARIABLE = "TINYLM_CONFIG"
_PREFIX = "TINYLM_"
# What floats count without a fraction: nothing is as many; and the largest fp32, in which torch computes.
MOST, _MOST_FP32 = 10**15, 3e38
_SETTING = re.compile(rf"{_PREFIX}[A-Z]+_[A-Z0-9_]+")


def config_file() -> Path:
    """The settings file in force: `$TINYLM_CONFIG`, or `tinylm.toml` in the working directory."""
    return Path(os.environ.get(CONFIG_VARIABLE, "tinylm.toml"))


class _Section:
    """The outer sources of one dataclass; no other dataclass's arguments are visible to them."""

    def __init__(self, name: str, owner: type) -> None:
        self._name = name
        self._fields = {field.name for field in fields(owner)}

    def __call__(self, app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
        path = config_file()
        if CONFIG_VARIABLE in os.environ and not path.is_file():
            raise ConfigError(f"{CONFIG_VARIABLE}={path}: there is no such file")
        prefix = f"{_PREFIX}{self._name.upper()}_"
        known = {prefix + field.upper() for field in self._fields}
        for variable in sorted(os.environ):
            if variable.startswith(prefix) and variable not in known:
                raise ConfigError(f"{variable}: [{self._name}] has no such setting")
        own: Any = [argument for argument in arguments if argument.field_info.name in self._fields]
        visible = ArgumentCollection(own)  # type: ignore[no-untyped-call]
        Env(prefix, command=False)(app, commands, visible)
        try:
            Toml(path, root_keys=(self._name,), use_commands_as_keys=False)(app, commands, visible)
        except CycloptsError as error:
            raise ConfigError(f"{path}: {_one_line(error)}") from error
        except RecursionError as error:
            raise ConfigError(f"{path}: nested too deeply") from error
        for argument in own:
            for token in argument.tokens:  # which cyclopts would round
                if "." in str(token.value) and int in (get_args(argument.hint) or (argument.hint,)):
                    raise ConfigError(f"{argument.field_info.name} = {token.value}: must be a whole number")


def layers(**sections: type) -> list[_Section]:
    """The outer sources of `sections` (table name = dataclass), for `cyclopts.App(config=...)`.

    A command raises ConfigError if `TINYLM_CONFIG` names a file that is not there, if the file is not TOML,
    and for a key or a variable that names no setting.
    """
    return [_Section(name, owner) for name, owner in sections.items()]


def write_file(path: Path, **sections: Any) -> None:
    """Write the settings of `sections` (table name = dataclass instance) to `path`, as a `tinylm.toml`."""
    tables = [f"[{name}]\n{_toml_table(settings)}\n" for name, settings in sections.items()]
    with replacing(path) as temporary:
        temporary.write_text("\n".join(tables), encoding="utf-8")


def inherited_environment(path: Path) -> dict[str, str]:
    """The environment for a child whose settings are those in `path` and no others."""
    kept = {name: value for name, value in os.environ.items() if not _SETTING.fullmatch(name)}
    return kept | {CONFIG_VARIABLE: str(path.resolve())}


class Setting(NamedTuple):
    """One setting in force and where its value came from."""

    section: str
    name: str
    value: Any
    source: str


def in_force(**sections: type) -> Iterator[Setting]:
    """Every setting of `sections` as a command started now, here, without flags would see it.

    Raises ConfigError as the command would, and for a table of the file that is none of `sections`.
    """
    _refuse_unknown_tables(sections)
    for section, owner in sections.items():
        app = App(config=layers(**{section: owner}))

        def probe(*, settings: Any = owner()) -> Any:  # noqa: B008 (frozen)
            return settings

        probe.__annotations__["settings"] = owner
        app.default(probe)
        arguments = app.assemble_argument_collection()
        try:
            for layer in app.config:
                layer(app, (), arguments)
            settings = app([], result_action="return_value", exit_on_error=False, print_error=False)
        except CycloptsError as error:
            raise ConfigError(_one_line(error)) from error
        sources = {
            argument.field_info.name: _describe(argument.tokens[0].source, argument.tokens[0].keyword)
            for argument in arguments
            if argument.tokens
        }
        for field in fields(owner):
            yield Setting(
                section, field.name, getattr(settings, field.name), sources.get(field.name, "default")
            )


def _refuse_unknown_tables(sections: Iterable[str]) -> None:
    path = config_file()
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: {error}") from error
    for table in tables:
        if table not in sections:
            raise ConfigError(f"{path}: [{table}] is none of [{'], ['.join(sections)}]")


def _one_line(error: CycloptsError) -> str:
    return " ".join(str(error).removeprefix(type(error).__name__).split())


def _describe(source: str, keyword: str | None) -> str:
    return f"environment {keyword}" if source == "env" else source


def _toml_table(settings: Any) -> str:
    """The fields of `settings` that differ from their defaults, as lines of a TOML table."""
    lines = []
    for field in fields(settings):
        value = getattr(settings, field.name)
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        if value != default and value is not None:
            lines.append(f"{field.name} = {_toml_value(value)}")
    return "\n".join(lines)


def _toml_value(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case int() | float():
            return str(value)
        case list() | tuple():
            return "[" + ", ".join(_toml_value(item) for item in value) + "]"
        case _:
            return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


def require(config: object, field: str, holds: bool, rule: str) -> None:
    """Raise `ConfigError` that names `field`, its value in `config` and the `rule`, unless that `holds`."""
    if not holds:
        raise ConfigError(f"{field} = {getattr(config, field)!r}: {rule}")


def require_within(config: Any, least: float, most: float, *names: str) -> None:
    """Raise `ConfigError` for the first of these fields that is no number from `least` to `most`.

    One that is declared an int has to be whole; None is what it is where that is declared.
    """
    kinds = {field.name: get_args(field.type) or (field.type,) for field in fields(config)}
    for name in names:
        value, whole = getattr(config, name), float not in kinds[name]
        number = isinstance(value, Integral if whole else Real) and not isinstance(value, bool)
        holds = (number and least <= value <= most) or (value is None and NoneType in kinds[name])
        require(config, name, holds, f"a {'whole ' if whole else ''}number from {least:g} to {most:g}")


def require_positive(config: Any, *names: str) -> None:
    """Raise `ConfigError` for the first of these fields that is not above zero, or no such number."""
    for name in names:
        require_within(config, 0, MOST if isinstance(getattr(config, name), int) else _MOST_FP32, name)
        require(config, name, getattr(config, name) > 0, "must be above 0")


def require_several(config: object, *names: str) -> None:
    """Raise `ConfigError` for the first of these fields that is no texts; one alone is the list of it."""
    for name in names:
        if isinstance(value := getattr(config, name), str):
            object.__setattr__(config, name, (value,))
        elif not all(isinstance(each, str) for each in value):
            require(config, name, False, "each must be text")
