"""Which hosts the local web has: one a distribution installed beside us, and one for Python itself.

Only metadata and file lists are read here, so that the web is up in about a second; a page's source is read
when the page is asked for. Nothing is ever imported. Private modules and tests are left out, as documentation
sites do.
"""

import re
import sys
import sysconfig
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path, PurePosixPath

from tinylm.errors import ConfigError

SUFFIX = ".test"
PYTHON = "python"
# Larger sources take a parser longer than all their neighbours together.
_MAX_SOURCE_BYTES = 200_000

# Parts of the standard library that the hosts with a fault serve in the place of python.test: nearly
# everything imports some of them, so a crawler meets these hosts early and on every machine.
_SHARES = {
    "busy": ("asyncio", "logging"),
    "slow": ("email", "json"),
    "private": ("http", "urllib", "xml", "multiprocessing"),
}
# Folders that are no documentation of anything, or other people's.
_SKIPPED_PARTS = {"test", "tests", "testing", "idlelib", "lib2to3", "site-packages", "dist-packages"}
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_REQUIREMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_PYTHON_README = """\
The standard library of {} as its own sources describe it. It comes with every Python. Every module has a
page with its description, its classes and its functions. The names of a module that begin with an underscore
are an implementation detail and are not described here."""


@dataclass(frozen=True, slots=True)
class Site:
    """The documentation of one distribution: `modules` maps a dotted name to its source file."""

    host: str
    title: str
    summary: str
    readme: str
    modules: Mapping[str, Path]
    requires: tuple[str, ...]


class Web:
    """All sites, and where a dotted name is documented in this web.

    `dependents` counts the sites that require the site of a host.
    """

    def __init__(self, sites: Iterable[Site]) -> None:
        self.sites = {site.host: site for site in sites}
        self.dependents = Counter(name + SUFFIX for site in self.sites.values() for name in site.requires)
        self.host_of: dict[str, str] = {}
        # Python first: a backport that brings a module of the same name does not take its links away.
        for site in sorted(self.sites.values(), key=lambda site: site.host != PYTHON + SUFFIX):
            for module in site.modules:
                self.host_of.setdefault(module, site.host)

    def module(self, dotted: str) -> tuple[str, str] | None:
        """The longest documented module that begins `dotted`, and the name within it."""
        module, rest = dotted, ""
        while module not in self.host_of:
            module, dot, last = module.rpartition(".")
            if not dot:
                return None
            rest = f"{last}.{rest}" if rest else last
        return module, rest


def discover(only: Collection[str] = ()) -> list[Site]:
    """The sites of the running interpreter's `sys.path`, sorted by host; with `only`, just these.

    The standard library's parts for hosts with a fault are always there. Raises ConfigError for a name in
    `only` that is not installed or has no public Python source.
    """
    wanted = {_normalise(name) for name in only}
    sites = {site.host: site for site in (*_installed(wanted), *_standard_library(wanted))}
    if missing := sorted(name for name in wanted if name + SUFFIX not in sites):
        raise ConfigError(
            f"packages: {', '.join(missing)}: not installed here, or without Python sources; "
            "name installed distributions, or leave it empty for all of them"
        )
    return [sites[host] for host in sorted(sites)]


def _normalise(name: str) -> str:
    """A distribution's name as PEP 503 compares it, which is also a host label."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _installed(wanted: set[str]) -> Iterator[Site]:
    seen = {PYTHON}
    for distribution in distributions():
        name = _normalise(distribution.metadata["Name"] or "")
        if not name or name in seen or (wanted and name not in wanted):
            continue
        seen.add(name)
        modules = {
            module: Path(str(distribution.locate_file(file)))
            for file in distribution.files or ()
            if (file.size or 0) <= _MAX_SOURCE_BYTES and (module := _module_name(file))
        }
        if modules:
            yield _site(name, distribution, dict(sorted(modules.items())))


def _site(name: str, distribution: Distribution, modules: dict[str, Path]) -> Site:
    metadata = distribution.metadata.json
    # What an extra would add is not required.
    entries = [entry for entry in distribution.requires or [] if "extra ==" not in entry]
    required = {_normalise(match[0]) for entry in entries if (match := _REQUIREMENT.match(entry))}
    return Site(
        host=name + SUFFIX,
        title=str(metadata["name"]),
        summary=str(metadata.get("summary", "")),
        readme=str(metadata.get("description", "")),
        modules=modules,
        requires=tuple(sorted({PYTHON, *required})),
    )


def _standard_library(wanted: set[str]) -> Iterator[Site]:
    root = Path(sysconfig.get_paths()["stdlib"])
    version = f"Python {sys.version_info.major}.{sys.version_info.minor}"
    shares: dict[str, dict[str, Path]] = {host: {} for host in (PYTHON, *_SHARES)}
    owner = {package: host for host, packages in _SHARES.items() for package in packages}
    for name, path in sorted(_walk(root, root)):
        shares[owner.get(name.partition(".")[0], PYTHON)][name] = path
    for host, modules in shares.items():
        if host == PYTHON and wanted and PYTHON not in wanted:
            continue
        parts = ", ".join(sorted({name.partition(".")[0] for name in modules}))
        yield Site(
            host=host + SUFFIX,
            title=version if host == PYTHON else f"{version}: {parts}",
            summary="The standard library, module by module.",
            readme=_PYTHON_README.format(version),
            modules=modules,
            requires=() if host == PYTHON else (PYTHON,),
        )


def _walk(root: Path, folder: Path) -> Iterator[tuple[str, Path]]:
    for path in folder.iterdir():
        if path.suffix == ".py":
            name = _module_name(PurePosixPath(path.relative_to(root).as_posix()))
            if name and path.stat().st_size <= _MAX_SOURCE_BYTES:
                yield name, path
        elif _is_public(path.name) and path.is_dir():
            yield from _walk(root, path)


def _module_name(file: PurePosixPath) -> str | None:
    """`pkg/sub/__init__.py` is `pkg.sub`; None for a private module, a test, or no module at all."""
    if file.suffix != ".py" or not all(_is_public(part) for part in file.parts[:-1]):
        return None
    if file.stem == "__init__":
        return ".".join(file.parts[:-1]) or None
    return ".".join((*file.parts[:-1], file.stem)) if _is_public(file.stem) else None


def _is_public(part: str) -> bool:
    return part not in _SKIPPED_PARTS and _NAME.fullmatch(part) is not None
