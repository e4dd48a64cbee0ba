"""Where a setting comes from: flags over the environment over `tinylm.toml` over the crawl's directory.

Each room declares its settings as one frozen dataclass beside their owner. A command names the dataclasses
it takes, and `layers` gives cyclopts the outer sources for each: for `crawl=CrawlConfig` the variables
`TINYLM_CRAWL_<FIELD>`, the table `[crawl]` of the file that `TINYLM_CONFIG` names (default: `tinylm.toml` in
the working directory), and what was said of the same crawl before and written down in its directory (`keep`).
A table, a key or a variable that names no setting is an error for every command, whichever it takes.
"""

import json
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from difflib import get_close_matches
from importlib import import_module
from numbers import Integral, Real
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple, get_args

from cyclopts import App, CycloptsError, Token
from cyclopts.argument import ArgumentCollection
from cyclopts.config import Dict, Env

from tinylm.errors import ConfigError
from tinylm.files import replacing
from tinylm.terminal import entered

CONFIG_VARIABLE = "TINYLM_CONFIG"
# Where a crawl's directory has its settings, and in which form; `keep` writes them.
KEPT, _KEPT_VERSION = "settings.toml", 1
# Characters of a value that is told: lists of hosts are long.
_SHOWN = 80
HIDDEN = "***"
"""What stands in a URL for a password that is not written."""
# The tables of tinylm.toml and whose settings they are: by name, as this room imports none of the others.
_TABLES = {
    "frontier": "crawler.config:FrontierConfig",
    "crawl": "crawler.config:CrawlConfig",
    "walk": "ranker.config:WalkConfig",
    "reddit": "crawler.seeds.config:RedditConfig",
    "search": "crawler.seeds.config:SearchConfig",
    "hosts": "crawler.seeds.config:HostsConfig",
    "wiki": "crawler.seeds.config:WikiConfig",
    "grow": "crawler.seeds.config:GrowConfig",
    "pretrain": "trainer.config:PretrainConfig",
    "instructions": "trainer.config:InstructionsConfig",
    "sft": "trainer.config:SFTConfig",
}
_PREFIX = "TINYLM_"
# What floats count without a fraction: nothing is as many; and the largest fp32, in which torch computes.
MOST, _MOST_FP32 = 10**15, 3e38
_SETTING = re.compile(rf"{_PREFIX}[A-Z]+_[A-Z0-9_]+")
# Variables that are no settings: of a process, of `tinylm begin`, of docker-compose.yml.
_OTHERS = {
    f"{_PREFIX}{name}"
    for name in (
        "CONFIG", "LOG", "HEARTBEAT", "PARENT", "SEEDS", "IMAGE", "CLUSTER", "DASHBOARD_PORT", "REDIS_MEMORY",
        "REDIS_CONTAINER_MEMORY", "WORKER_MEMORY", "WALKER_MEMORY",
    )
}  # fmt: skip
# And those of tests, and what Kubernetes sets in every container beside a Service called tinylm or tinylm-….
_OF_OTHERS = re.compile(rf"{_PREFIX}(TEST_\w+|(\w+_)?(SERVICE_HOST|SERVICE_PORT\w*|PORT|PORT_\d+_\w+))")

_said: frozenset[str] = frozenset()


def config_file() -> Path:
    """The settings file in force: `$TINYLM_CONFIG`, or `tinylm.toml` in the working directory."""
    return Path(os.environ.get(CONFIG_VARIABLE, "tinylm.toml"))


def tables() -> dict[str, type]:
    """The tables of tinylm.toml, with the dataclasses of their settings."""
    places = {table: place.split(":") for table, place in _TABLES.items()}
    return {table: getattr(import_module(module), name) for table, (module, name) in places.items()}


def said() -> frozenset[str]:
    """The settings of a crawl that this command was given by flag, variable or file: not by its directory."""
    return _said


class _Sources:
    """The outer sources of `sections` (table = dataclass); no arguments but theirs are visible to them.

    With the settings of a frontier among them, the one that its directory holds is the last; or `kept` is.
    """

    def __init__(self, sections: dict[str, type], kept: Path | None = None) -> None:
        self._sections = sections
        self.kept = kept
        self.found: dict[str, str] = {}
        """Where the settings that are no defaults were found."""

    def __call__(self, app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
        global _said
        path = config_file()
        if CONFIG_VARIABLE in os.environ and not path.is_file():
            raise ConfigError(f"{CONFIG_VARIABLE}={path}: there is no such file")
        _check_variables()
        own: dict[str, Any] = {}
        for table, owner in self._sections.items():
            names = {field.name for field in fields(owner)}
            mine: Any = [argument for argument in arguments if argument.field_info.name in names]
            own[table] = ArgumentCollection(mine)  # type: ignore[no-untyped-call]
            Env(f"{_PREFIX}{table.upper()}_", command=False)(app, commands, own[table])
        self._apply(path, app, own)
        if "frontier" in own:
            given = _given(own)
            data = given["data"].value if "data" in given else self._sections["frontier"]().data
            kept = (Path(data) / KEPT).absolute()
            # The children of `tinylm crawl` are told to read it as their file; nobody said it to them.
            _said = frozenset(name for name, token in given.items() if token.source != str(kept))
            identity = {name: token.value for name, token in given.items()}
            self.kept = kept if of_this_crawl(kept, identity) else None
        if self.kept:
            self._apply(self.kept, app, own)
        for argument in (argument for mine in own.values() for argument in mine):
            for word in (str(token.value) for token in argument.tokens):
                # Python has them as half surrogates: no file of settings, and few libraries, take those.
                if "\ufffd" in entered(word) and "\ufffd" not in word:
                    name = argument.field_info.name
                    raise ConfigError(f"{name} = {entered(word)}: text whose bytes are UTF-8")
        for name, token in _given(own).items():
            known = {"env": f"environment {token.keyword}", "cli": token.keyword or ""}
            self.found[name] = known.get(token.source, token.source.removeprefix(f"{Path.cwd()}/"))

    def _apply(self, path: Path, app: App, own: dict[str, Any]) -> None:
        """Give those of our arguments that have no value yet the one that the file at `path` has."""
        settings, source = _read(path), str(path.absolute())
        for table, mine in own.items():
            names = {argument.field_info.name for argument in mine}
            if isinstance(given := settings.get(table), dict):  # a command may have no use for some of them
                settings[table] = {name: given[name] for name in given if name.replace("-", "_") in names}
            # Commands by name, or what is called as one of the application's (`sources`) would be left out.
            layer = Dict(settings, root_keys=(table,), source=source)
            try:
                layer(app, (), mine)
            except CycloptsError as error:
                raise ConfigError(f"{path}: {_one_line(error)}") from error


def whole(_app: App, _commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """The last source of a command: it has nothing, and refuses a fraction of what is counted."""
    for argument in arguments:
        for token in argument.tokens:
            if "." in str(token.value) and int in (get_args(argument.hint) or (argument.hint,)):
                raise ConfigError(f"{argument.field_info.name} = {token.value}: must be a whole number")


def layers(**sections: type) -> list[Any]:
    """The outer sources of `sections` (table name = dataclass), for `cyclopts.App(config=...)`.

    A command raises ConfigError if `TINYLM_CONFIG` names a file that is not there, if a file is not TOML, and
    for a table, a key or a variable that names no setting.
    """
    return [_Sources(sections), whole]


def _given(own: Mapping[str, ArgumentCollection]) -> dict[str, Token]:
    """The first word of each setting that has some, by its name."""
    every = [argument for mine in own.values() for argument in mine if argument.tokens]
    return {argument.field_info.name: argument.tokens[0] for argument in every}


def _read(path: Path) -> dict[str, Any]:
    """The tables of a file of settings, {} if it is not there; raises ConfigError for what is no setting."""
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: {error}") from error
    if (version := found.pop("version", _KEPT_VERSION)) != _KEPT_VERSION:
        raise ConfigError(f"{path} has version {version}, not {_KEPT_VERSION}: another tinylm wrote it")
    names = {table: {field.name for field in fields(owner)} for table, owner in tables().items()}

    def right(name: str, among: Iterable[str]) -> str:
        owners = [f"[{table}]" for table in names if name.replace("-", "_") in names[table]]
        return f"it is one of {' and '.join(owners)}" if owners else _nearest(name, among)

    for table, settings in found.items():
        if table not in names:
            raise ConfigError(f"{path}: {table} is no table of settings: {right(table, names)}")
        for name in settings if isinstance(settings, dict) else ():
            if name.replace("-", "_") not in names[table]:
                raise ConfigError(f"{path}: [{table}] has no setting {name}: {right(name, names[table])}")
    return found


def _nearest(name: str, names: Iterable[str]) -> str:
    close = get_close_matches(name, names, 1)
    return f"did you mean {close[0]}?" if close else "`tinylm config` shows what there is"


def _check_variables() -> None:
    """Raise ConfigError for a variable that is named as ours are, and is none."""
    settings = {
        f"{_PREFIX}{table.upper()}_{field.name.upper()}": _PREFIX + field.name.upper()
        for table, owner in tables().items()
        for field in fields(owner)
    }
    names = settings.keys() | _OTHERS
    for name in sorted(os.environ):
        if name.startswith(_PREFIX) and name not in names and not _OF_OTHERS.fullmatch(name):
            # Its table may have been left out, or be another one.
            bare = re.sub(rf"^{_PREFIX}({'|'.join(tables()).upper()})_", _PREFIX, name)
            without_table = [full for full, short in settings.items() if short in (name, bare)]
            right = _nearest(name, without_table or names)
            raise ConfigError(f"{name}: there is no such variable: {right}")


def of_this_crawl(kept: Path, said: Mapping[str, str]) -> bool:
    """Whether the file `kept` has settings of the crawl that is `said`: on that server, of that name."""
    usual, stored = tables()["frontier"](), _read(kept).get("frontier", {})
    return kept.is_file() and all(
        without_password(said[name]) == stored.get(name, getattr(usual, name))
        for name in ("redis_url", "crawl_id")
        if name in said
    )


def without_password(url: str) -> str:
    """A server's URL as it may be written."""
    url = re.sub(r"([?&]password=)[^&#]*", rf"\1{HIDDEN}", url)
    return re.sub(r"(?<=://)([^/:]*):.*@", rf"\1:{HIDDEN}@", url)


def keep(path: Path, **sections: Any) -> list[str]:
    """Write the settings of `sections` (table name = dataclass instance) to `path`, as a `tinylm.toml`.

    What is at its default is left out, and other tables stay as they are. Returns a line for each setting
    that was another before, if there was a file.
    """
    known, stored, differences = path.is_file(), _read(path), []
    for table, settings in sections.items():
        usual, was = type(settings)(), stored.get(table, {})
        now = stored[table] = {}
        for name in (field.name for field in fields(settings)):
            value, default = getattr(settings, name), getattr(usual, name)
            if value != default and value is not None:
                now[name] = value
            old, new = _toml_value(was.get(name, default)), _toml_value(value)
            if new != old:
                new, old = (f"{each[:_SHOWN]}..." if len(each) > _SHOWN else each for each in (new, old))
                differences.append(f"[{table}] {name} = {new}, was {old}")
    text = [f"version = {_KEPT_VERSION}\n"]
    for table, settings in stored.items():
        lines = [f"{name} = {_toml_value(value)}\n" for name, value in settings.items()]
        text.append("".join([f"\n[{table}]\n", *lines]))
    with replacing(path) as temporary:
        temporary.write_text("".join(text), encoding="utf-8")
    return differences if known else []


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


def in_force(*flags: str) -> Iterator[Setting]:
    """Every setting as a command started now, here, would see it, those of the frontier with `flags`.

    Raises ConfigError as the command would.
    """
    kept = None
    for section, owner in tables().items():
        sources = _Sources({section: owner}, kept)
        app = App(config=[sources, whole])

        def probe(*, settings: Any = owner()) -> Any:  # noqa: B008 (frozen)
            return settings

        probe.__annotations__["settings"] = owner
        app.default(probe)
        argv = flags if section == "frontier" else ()
        try:
            settings = app(argv, result_action="return_value", exit_on_error=False, print_error=False)
        except CycloptsError as error:
            raise ConfigError(_one_line(error)) from error
        kept = sources.kept
        for field in fields(owner):
            value, source = getattr(settings, field.name), sources.found.get(field.name, "default")
            yield Setting(section, field.name, value, source)


def _one_line(error: CycloptsError) -> str:
    return " ".join(str(error).removeprefix(type(error).__name__).split())


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


def listed(values: Iterable[str]) -> tuple[str, ...]:
    """The entries of a setting that lists names: given one by one, or several with commas between them."""
    return tuple(entry for value in values for each in value.split(",") if (entry := each.strip()))


def require(config: object, field: str, holds: bool, rule: str) -> None:
    """Raise `ConfigError` that names `field`, its value in `config` and the `rule`, unless that `holds`."""
    if not holds:
        value = getattr(config, field)
        shown = without_password(value) if isinstance(value, str) else value
        raise ConfigError(f"{field} = {shown!r}: {rule}")


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
