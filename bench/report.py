"""The last line of a benchmark: its figures as JSON, with what they were measured on."""

import json
import os
import platform
import subprocess
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tinylm import __version__


def report(figures: dict[str, Any], out: Path | None, *packages: str) -> None:
    """Print `figures` with the commit, the machine and the versions of `packages`; `out` gets them too."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    found = figures | {
        "commit": commit.stdout.strip(),
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "versions": {"tinylm": __version__, "python": platform.python_version()}
        | {package: _version(package) for package in packages},
    }
    if out:
        out.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found))


def why_not(module: str, name: str) -> str:
    """Why `name` of the package `module` cannot be used here, and what to do; empty if it can."""
    try:
        getattr(import_module(module), name)
    except Exception as error:
        if not find_spec(module):
            return f"{module} is not installed: make setup"
        cause: BaseException = error
        while cause.__cause__:
            cause = cause.__cause__
        said = str(cause).splitlines()[0][:200]
        advice = "pip uninstall torchvision" if "torchvision" in said else "make clean setup"
        return f"{module} is installed and does not load ({said}): {advice}"
    return ""


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
