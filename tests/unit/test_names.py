"""Names in the package are words that a newcomer can search for."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import foundry_api

PACKAGE = Path(foundry_api.__file__).parent
SUBPACKAGES = sorted(path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists())
# Participles and pronouns that say nothing of the value: `message` for `told`, `chunks` for `came`.
VAGUE_WORDS = {"told", "came", "whole", "wanted"}


def get_names(tree: ast.AST) -> set[str]:
    return {
        name
        for node in ast.walk(tree)
        for name in (getattr(node, field, None) for field in ("name", "id", "arg", "attr"))
        if isinstance(name, str)
    }


@pytest.mark.parametrize("package", [".", *SUBPACKAGES])
def test_no_name_has_a_vague_word(package: str) -> None:
    paths = PACKAGE.glob("*.py") if package == "." else (PACKAGE / package).rglob("*.py")
    vague = {
        f"{path.relative_to(PACKAGE)}: {name}"
        for path in paths
        for name in get_names(ast.parse(path.read_text(encoding="utf-8")))
        if VAGUE_WORDS & set(name.lower().split("_"))
    }
    assert vague == set()
