"""The rooms of the package, and the one direction of their imports."""

from __future__ import annotations

import ast
import shutil
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import foundry_api

PACKAGE = Path(foundry_api.__file__).parent
LAYERS = (
    {"types"},
    {"storage", "resilience", "observe"},
    {"structured"},
    {"tools"},
    {"wire", "testing"},
    {"engine"},
    {"core"},
    {"batch", "monitor"},
    {"client"},
    {"cli", "integrations"},
)
"""From the ground up: a room imports from its own layer and from lower ones."""

FILES = {"__init__.py", "__main__.py", "_version.py", "py.typed", "testing.py"}

KNOWN_UPWARD = {
    ("batch.cluster.remote", "client.client"),
    ("batch.in_memory", "client.chat"),
    ("types.checks", "tools.definition"),
}
"""What is still to be turned around. Nothing may be added."""

KNOWN_CYCLES = {("tools.definition", "types.checks")}
"""Pairs of modules that still import each other. Nothing may be added."""


def module_name(package: Path, path: Path) -> str:
    parts = path.relative_to(package).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def runtime_imports(tree: ast.AST) -> set[str]:
    """The modules of the package that a module imports, in functions too, but not for types."""
    found: set[str] = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("foundry_api"):
            base = (node.module or "").removeprefix("foundry_api").lstrip(".")
            found |= {f"{base}.{alias.name}".lstrip(".") for alias in node.names} | {base}
        found |= runtime_imports(node)
    return found


def import_graph(package: Path) -> dict[str, set[str]]:
    paths = {module_name(package, path): path for path in package.rglob("*.py")}
    trees = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in paths.items()}
    return {
        name: (runtime_imports(tree) & paths.keys()) - {name, ""} for name, tree in trees.items()
    }


def layer_of(module: str) -> int | None:
    room = module.partition(".")[0]
    return next((number for number, rooms in enumerate(LAYERS) if room in rooms), None)


def upward_imports(graph: dict[str, set[str]]) -> set[tuple[str, str]]:
    found: set[tuple[str, str]] = set()
    for importer, imported in graph.items():
        own = layer_of(importer)
        for module in imported:
            other = layer_of(module)
            if own is not None and other is not None and other > own:
                found.add((importer, module))
    return found


def is_free_of_cycles(graph: dict[str, set[str]]) -> bool:
    known = {edge for one, other in KNOWN_CYCLES for edge in ((one, other), (other, one))}
    # A package's own __init__ and its modules count as one: `cli` and `cli.root` start together.
    rest = {
        name: {
            module
            for module in imported
            if (name, module) not in known
            and not module.startswith(f"{name}.")
            and not name.startswith(f"{module}.")
        }
        for name, imported in graph.items()
    }
    try:
        TopologicalSorter(rest).prepare()
    except CycleError:
        return False
    return True


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    return import_graph(PACKAGE)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    package = tmp_path / "foundry_api"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__", "demo_model"))
    return package


def add_import(package: Path, module: str, line: str) -> None:
    path = package.joinpath(*module.split(".")).with_suffix(".py")
    path.write_text(f"{path.read_text(encoding='utf-8')}\n{line}\n", encoding="utf-8")


def test_imports_go_down(graph: dict[str, set[str]]) -> None:
    assert upward_imports(graph) == KNOWN_UPWARD


def test_no_module_imports_itself_by_way_of_others(graph: dict[str, set[str]]) -> None:
    assert is_free_of_cycles(graph)


def test_an_upward_import_is_noticed(copy: Path) -> None:
    add_import(copy, "wire.sse", "def late():\n    from foundry_api.core import call")
    assert ("wire.sse", "core.call") in upward_imports(import_graph(copy)) - KNOWN_UPWARD


def test_a_cycle_is_noticed(copy: Path) -> None:
    add_import(copy, "core.attempt", "def late():\n    from foundry_api.core.call import Call")
    assert not is_free_of_cycles(import_graph(copy))


def test_the_top_level_has_the_rooms_and_nothing_else() -> None:
    rooms = set().union(*LAYERS) - {"testing"}
    assert {path.name for path in PACKAGE.iterdir()} - {"__pycache__"} == rooms | FILES
