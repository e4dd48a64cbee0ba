"""The house: packages resolve here, light things stay light, imports keep their direction, help is there."""

import importlib
import json
import re
import shlex
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from cyclopts import App

from bench import house
from deploy.cli.app import app

ROOT = Path(__file__).parent.parent
PACKAGES = ("tinylm", "shards", "crawler", "ranker", "trainer", "deploy")
HEAVY = {"torch", "scrapy", "pyarrow", "trafilatura", "fastapi", "redis", "aiohttp", "tokenizers"}


def loaded_by(code):
    """Top-level modules in `sys.modules` of a fresh interpreter that ran `code`."""
    script = (
        "import contextlib, io, json, sys\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        f"    {code}\n"
        "print(json.dumps([*sys.modules]))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return {name.partition(".")[0] for name in json.loads(ended.stdout)}


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_resolves_inside_the_checkout(package):
    """Names as plain as these exist on package indexes too; one installed by accident could win."""
    module = importlib.import_module(package)
    assert Path(module.__file__).parent == ROOT / package


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_itself_holds_a_docstring_and_nothing_else(package):
    names = {name for name in vars(importlib.import_module(package)) if not name.startswith("__")}
    source = (ROOT / package / "__init__.py").read_text()
    assert importlib.import_module(package).__doc__
    assert not re.search(r"^(from|import) ", source, re.MULTILINE), names


@pytest.mark.parametrize(
    "module", ["crawler.frontier", "crawler.seeds.read", "crawler.config", "ranker.config"]
)
def test_what_every_node_imports_loads_no_scrapy_and_no_torch(module):
    assert loaded_by(f"import {module}").isdisjoint({"scrapy", "torch", "twisted", "trafilatura", "fastapi"})


def test_help_loads_nothing_heavy():
    assert loaded_by('import deploy.cli.app; deploy.cli.app.app(["--help"])').isdisjoint(HEAVY)


def test_torch_stays_away_from_the_crawl_and_scrapy_from_the_trainer():
    assert "torch" not in loaded_by("import crawler.fetch.worker, ranker.walker")
    assert loaded_by("import trainer.pretrain").isdisjoint(
        {"scrapy", "redis", "fastapi", "crawler", "ranker"}
    )


def test_imports_keep_their_direction():
    ended = subprocess.run(
        [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "0 broken" in ended.stdout


def commands(group=app, prefix=()):
    """Every command as (words, App), those of groups included."""
    for name in group:
        if not name.startswith("-"):
            words = (*prefix, name)
            yield words, group[name]
            yield from commands(group[name], words)


COMMANDS: dict[tuple[str, ...], App] = dict(commands())


def test_there_are_commands():
    assert {("crawl",), ("demo",), ("chat",), ("shards", "verify"), ("config",)} <= set(COMMANDS)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_has_a_help_text(words):
    assert len(COMMANDS[words].help.split()) >= 3


def promised():
    """Every `tinylm …` command in the blocks of code, fenced or indented, of the README and the guides."""
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))):
        text = page.read_text().replace("\\\n", " ")
        fenced = re.findall(r"^```[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        indented = re.findall(r"^ {4}.*$", text, re.MULTILINE)
        for line in "\n".join([*fenced, *indented]).splitlines():
            for part in line.split("&&"):
                if found := re.match(r"\s*(?:\$ )?(?:\S*/)?tinylm\s+(\w[^#|>]*)", part):
                    yield page.name, found[1].strip()


def test_pages_promise_commands():
    assert len({page for page, _ in promised()}) > 4


@pytest.mark.parametrize(("file", "line"), sorted(set(promised())))
def test_what_the_readme_promises_exists(file, line):
    words = shlex.split(line)
    longest = max((n for n in (1, 2) if tuple(words[:n]) in COMMANDS), default=0)
    assert longest, f"{file}: tinylm {line}"
    known = {
        name
        for argument in COMMANDS[tuple(words[:longest])].assemble_argument_collection()
        for name in argument.names
    }
    flags = {word.partition("=")[0] for word in words if word.startswith("--")}
    assert flags <= known | {"--help", "--version"}, f"{file}: tinylm {line}"


def in_the_readmes_map():
    """The folders of the README's tree, as paths."""
    readme = (ROOT / "README.md").read_text()
    [block] = re.findall(r"^## What is where\n\n((?: {4}.*\n)+)", readme, re.MULTILINE)
    above: list[str] = []
    for line in block.splitlines():
        spaces, name = re.match(r" {4}( *)(\w+)/", line).groups()
        above[len(spaces) // 2 :] = [name]
        yield "/".join(above)


def test_the_readmes_map_has_every_folder_of_code_once():
    """Folders with .py files in the packages, and the scripts of the frontier."""
    folders = {path.parent for name in PACKAGES for path in (ROOT / name).rglob("*.py")}
    there = {str(folder.relative_to(ROOT)) for folder in folders} | {"crawler/frontier/lua"}
    assert sorted(in_the_readmes_map()) == sorted(there)


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_pages_that_a_page_names_are_there(page):
    rooms = "|".join((*PACKAGES, "tests", "bench", "docs"))
    text = page.read_text()
    files = re.findall(rf"(?<![\w/.-])((?:{rooms})/[\w/.]+\.(?:py|lua|md))", text)
    links = [link for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text) if "://" not in link]
    missing = [name for name in files if not (ROOT / name).exists()]
    assert missing + [link for link in links if not (page.parent / link).exists()] == []


def test_decisions_are_dated_and_short():
    """By room, each at most sixty words: what, why, what was measured."""
    lines = (ROOT / "docs" / "decisions.md").read_text().splitlines()
    decisions = [line for line in lines if line.startswith("- ")]
    assert all(re.match(r"- 20\d\d-\d\d-\d\d \S", line) for line in decisions)
    assert [line for line in decisions if len(line.split()) > 62] == []


def test_the_house_keeps_its_shape():
    """`python -m bench.house` shows what is in the way."""
    modules = house.read(ROOT)
    folders = Counter(path.parent for name in PACKAGES for path in (ROOT / name).rglob("*.py"))
    assert max(folders.values()) <= 1 + house.GOALS["largest_folder"]  # and its __init__.py
    assert house.cycles(modules) == []
    assert len(house.one_caller_helpers(modules)) <= house.GOALS["one_caller_helpers"]
