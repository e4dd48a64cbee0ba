"""The edge: errors become one line and an exit code."""

import ast
import re
from pathlib import Path

import pytest

from crawler.errors import LeaseLost
from deploy.cli.app import main
from shards.errors import ShardCorrupt
from tinylm import errors
from tinylm.errors import ConfigError, Exit, TinylmError, exit_on_error


@pytest.mark.parametrize("kind", [TinylmError, ConfigError, ShardCorrupt, LeaseLost])
def test_what_the_user_can_act_on_is_one_line_and_exit_code_2(kind, capsys):
    with pytest.raises(SystemExit) as ended, exit_on_error():
        raise kind("pages = 0: at least 1")
    assert ended.value.code == 2
    assert capsys.readouterr() == ("", "error: pages = 0: at least 1\n")


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/dev/null/x", "/dev/null/x: Not a directory"),
        ("/", "/: Is a directory"),
        ("/dev/full", "No space left on device"),
    ],
)
def test_what_the_system_refuses_is_one_line_too(path, said, capsys):
    with pytest.raises(SystemExit) as ended, exit_on_error():
        Path(path).write_text("x")
    assert ended.value.code == 2
    assert capsys.readouterr() == ("", f"error: {said}\n")


def test_an_interrupt_is_exit_code_130(capsys):
    with pytest.raises(SystemExit) as ended, exit_on_error():
        raise KeyboardInterrupt
    assert ended.value.code == 130
    assert "interrupted" in capsys.readouterr().err


def test_a_command_that_is_interrupted_says_so(monkeypatch, capsys):
    def interrupted(**_):
        raise KeyboardInterrupt

    monkeypatch.setattr("deploy.cli.app.in_force", interrupted)
    with pytest.raises(SystemExit) as ended:
        main(["config"])
    assert ended.value.code == 130
    assert "interrupted; the same command goes on" in capsys.readouterr().err


@pytest.mark.parametrize("bug", [ZeroDivisionError, OSError("of our own"), TimeoutError])
def test_a_bug_keeps_its_traceback(bug):
    with pytest.raises((ZeroDivisionError, OSError)), exit_on_error():
        raise bug


def test_success_passes_through():
    with exit_on_error():
        done = True
    assert done


def test_the_tree_in_the_docstring_is_that_of_the_code():
    root = Path(__file__).parents[2]
    files = (path for room in ("tinylm", "shards", "crawler", "ranker", "trainer", "deploy")
             for path in (root / room).rglob("*.py"))  # fmt: skip
    bases = {
        node.name: {base.id for base in node.bases if isinstance(base, ast.Name)}
        for path in files
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    }
    ours = {"TinylmError"}
    while more := {name for name, of in bases.items() if of & ours} - ours:
        ours |= more
    tree = errors.__doc__.partition("\n")[2]
    assert set(re.findall(r"\b(?:[A-Z][a-z]+){2,}\b", tree)) == {name for name in ours if name[0] != "_"}


def test_the_table_of_exit_codes_is_the_one_there_is():
    page = (Path(__file__).parents[2] / "docs" / "exit-codes.md").read_text()
    assert re.findall(r"^\| (\d+) \| `(\w+)` \| \S", page, re.MULTILINE) == [
        (str(code.value), code.name) for code in Exit
    ]


def test_a_package_that_is_not_installed_is_named_with_the_extra_that_has_it(capsys):
    extras = {"scrapy": "crawl", "fasttext": "crawl", "lxml_html_clean": "crawl", "backports.zstd": "crawl"}
    for module, extra in (extras | {"torch": "train", "uvicorn": "serve", "gguf": "export"}).items():
        with pytest.raises(SystemExit) as ended, exit_on_error():
            raise ModuleNotFoundError(f"No module named {module!r}", name=module)
        assert ended.value.code == Exit.ERROR
        assert f"error: {module} is not installed; the extra [{extra}] has it" in capsys.readouterr().err
    with pytest.raises(ModuleNotFoundError), exit_on_error():
        raise ModuleNotFoundError("No module named 'crawler.nothing'", name="crawler.nothing")
