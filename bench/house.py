"""The size and shape of the house. It reads the six packages and runs nothing.

Lines: all of .py, .lua and .html, the demo's included. Folders: .py files without `__init__.py`. Comments:
lines that begin with # or --, of the .py and .lua lines. A one-caller helper: a private function or method of
at most five lines whose name is used once in the product. Cycles: groups of modules that import each other
when loaded, imports for type checkers only left out.
"""

import ast
import statistics
from collections import Counter
from pathlib import Path
from typing import Annotated, NamedTuple

from cyclopts import App, Parameter

from bench.report import report

ROOMS = ("tinylm", "shards", "crawler", "ranker", "trainer", "deploy")
GOALS = {"product_lines": 21_500, "largest_folder": 10, "one_caller_helpers": 30, "comment_share": 0.03}
SHORT = 5
Function = ast.FunctionDef | ast.AsyncFunctionDef


class Module(NamedTuple):
    name: str
    tree: ast.Module


def read(root: Path) -> list[Module]:
    files = sorted(path for room in ROOMS for path in (root / room).rglob("*.py"))
    return [
        Module(
            ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"),
            ast.parse(path.read_text()),
        )
        for path in files
    ]


def lines(root: Path, room: str, *suffixes: str) -> list[str]:
    files = (path for path in (root / room).rglob("*") if path.suffix in suffixes)
    return [line for path in files for line in path.read_text().splitlines()]


def functions(modules: list[Module]) -> list[Function]:
    return [
        node
        for module in modules
        for node in ast.walk(module.tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def length(function: Function) -> int:
    return (function.end_lineno or function.lineno) - function.lineno + 1


def one_caller_helpers(modules: list[Module]) -> list[str]:
    """`module:line name` of each."""
    uses: Counter[str] = Counter()
    for module in modules:
        for node in ast.walk(module.tree):
            if isinstance(node, ast.Name):
                uses[node.id] += 1
            elif isinstance(node, ast.Attribute):
                uses[node.attr] += 1
    return [
        f"{module.name}:{function.lineno} {function.name}"
        for module in modules
        for function in functions([module])
        if function.name.startswith("_")
        and not function.name.startswith("__")
        and length(function) <= SHORT
        and uses[function.name] == 1
    ]


def imports(module: Module, known: set[str]) -> set[str]:
    """Modules of ours that are loaded with this one."""
    found: set[str] = set()
    todo: list[ast.stmt] = list(module.tree.body)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.update(
                full if (full := f"{node.module}.{alias.name}") in known else node.module
                for alias in node.names
            )
        elif not isinstance(node, Function):
            todo += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]
    return found & known


def cycles(modules: list[Module]) -> list[set[str]]:
    """Groups of more than one module that can all reach each other."""
    known = {module.name for module in modules}
    edges = {module.name: imports(module, known) for module in modules}

    def reach(start: str) -> set[str]:
        seen: set[str] = set()
        todo = [start]
        while todo:
            for name in edges[todo.pop()] - seen:
                seen.add(name)
                todo.append(name)
        return seen

    reached = {name: reach(name) for name in edges}
    groups = {frozenset({b for b in reached[a] if a in reached[b]}) for a in edges if a in reached[a]}
    return [set(group) for group in groups if len(group) > 1]


app = App(name="python -m bench.house", help=__doc__)


@app.default
def main(*, quick: Annotated[bool, Parameter(negative=())] = False, out: Path | None = None) -> None:
    """Print the figures beside their goals.

    Parameters
    ----------
    quick
        Changes nothing: it takes two seconds.
    out
        File for the figures.
    """
    root = Path(__file__).parents[1]
    modules = read(root)
    code = [line.strip() for room in ROOMS for line in lines(root, room, ".py", ".lua")]
    sizes = sorted(map(length, functions(modules)))
    files = [path.parent for room in ROOMS for path in (root / room).rglob("*.py") if path.stem != "__init__"]
    folders = Counter(str(folder.relative_to(root)) for folder in files)
    rooms = {room: len(lines(root, room, ".py", ".lua", ".html")) for room in ROOMS}
    helpers, circles = one_caller_helpers(modules), cycles(modules)
    figures = {
        "product_lines": sum(rooms.values()),
        "lines": rooms,
        "largest_folder": max(folders.values()),
        "function_median": statistics.median(sizes),
        "function_p90": sizes[len(sizes) * 9 // 10],
        "one_caller_helpers": len(helpers),
        "comment_share": round(sum(line.startswith(("#", "--")) for line in code) / len(code), 4),
        "import_cycles": len(circles),
    }
    for name, found in figures.items():
        print(f"{name:20} {found}" + (f"  (goal {GOALS[name]})" if name in GOALS else ""))
    print("one-caller helpers:", *helpers, sep="\n  ")
    print("import cycles:", *[" ".join(sorted(circle)) for circle in circles], sep="\n  ")
    report(figures | {"folders": dict(folders), "quick": quick}, out)


if __name__ == "__main__":
    app()
