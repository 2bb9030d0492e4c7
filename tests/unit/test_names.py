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
# A callback is `on_event`, the rest of a time `remaining_s`, a scanner a noun. Methods of others,
# such as `file.tell()`, are not ours to name.
VAGUE_NAMES = {"tell", "scan", "left_s"}
METHODS_OF_OTHERS = {"tell"}


def get_names(tree: ast.AST) -> set[str]:
    return {
        name
        for node in ast.walk(tree)
        for field in ("name", "id", "arg", "attr")
        if isinstance(name := getattr(node, field, None), str)
        and not (field == "attr" and name in METHODS_OF_OTHERS)
    }


@pytest.mark.parametrize("package", [".", *SUBPACKAGES])
def test_no_name_has_a_vague_word(package: str) -> None:
    paths = PACKAGE.glob("*.py") if package == "." else (PACKAGE / package).rglob("*.py")
    vague = {
        f"{path.relative_to(PACKAGE)}: {name}"
        for path in paths
        for name in get_names(ast.parse(path.read_text(encoding="utf-8")))
        if name in VAGUE_NAMES or VAGUE_WORDS & set(name.lower().split("_"))
    }
    assert vague == set()
