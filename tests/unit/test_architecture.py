"""The layers of the package: imports go down only, and no package is part of a cycle.

The contracts are in pyproject.toml. Imports for types count.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import foundry_api

PACKAGE = Path(foundry_api.__file__).parent
PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"
FILES = {"__init__.py", "__main__.py", "_version.py", "py.typed", "testing.py"}
MAX_LAYERS = 9

LINT = (
    "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
)


def layers() -> list[str]:
    tool = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["tool"]
    return list(tool["importlinter"]["contracts"][0]["layers"])


def lint_imports(directory: Path) -> tuple[int, str]:
    """Check the package that is in this directory; its exit code and its output."""
    shutil.copy(PYPROJECT, directory)
    done = subprocess.run(
        [sys.executable, "-c", LINT],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(directory), "PYTHONUTF8": "1"},
        capture_output=True,
        check=False,
        encoding="utf-8",
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    ignored = shutil.ignore_patterns("__pycache__", "demo_model")
    shutil.copytree(PACKAGE, tmp_path / "foundry_api", ignore=ignored)
    return tmp_path


def add_line(directory: Path, module: str, line: str) -> None:
    path = directory.joinpath("foundry_api", *module.split(".")).with_suffix(".py")
    path.write_text(f"{path.read_text(encoding='utf-8')}\n{line}\n", encoding="utf-8")


def test_the_contracts_are_kept(copy: Path) -> None:
    code, output = lint_imports(copy)
    assert code == 0, output


def test_an_upward_import_breaks_a_contract(copy: Path) -> None:
    add_line(copy, "wire.sse", "def late():\n    from foundry_api.core import call")
    code, output = lint_imports(copy)
    assert code == 1
    assert "Imports go down only BROKEN" in output
    assert "foundry_api.wire.sse -> foundry_api.core.call" in output


def test_a_cycle_breaks_a_contract(copy: Path) -> None:
    add_line(copy, "core.attempt", "def late():\n    from foundry_api.core.call import Call")
    code, output = lint_imports(copy)
    assert code == 1
    assert "No cycles BROKEN" in output
    assert "No cycles are allowed in foundry_api.core." in output


def test_a_package_without_a_layer_breaks_a_contract(copy: Path) -> None:
    (copy / "foundry_api" / "helpers.py").write_text("", encoding="utf-8")
    code, output = lint_imports(copy)
    assert code == 1
    assert "helpers" in output


def test_there_are_at_most_nine_layers() -> None:
    assert len(layers()) <= MAX_LAYERS


def test_the_top_level_has_the_packages_and_nothing_else() -> None:
    packages = set(" ".join(layers()).replace("|", " ").replace(":", " ").split()) - {"testing"}
    entries = {path.name for path in PACKAGE.iterdir()} - {"__pycache__"}
    assert entries == packages | FILES


def test_the_picture_of_the_packages_is_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, "tools/draw_packages.py", "--check"], cwd=PYPROJECT.parent, check=False
    )
    assert done.returncode == 0


def test_every_file_on_the_page_exists() -> None:
    page = (PYPROJECT.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    names = set(re.findall(r"(?:[a-z_0-9]+/)+[a-z_0-9]+\.py", page))
    roots = (PACKAGE, PYPROJECT.parent)
    missing = [name for name in names if not any((root / name).exists() for root in roots)]
    assert missing == []
