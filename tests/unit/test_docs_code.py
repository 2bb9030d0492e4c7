"""The Python code in the documentation: its names, methods and arguments exist.

The blocks are fragments, such as a call on a `client` that an earlier block made, so they are not
run. docs/tutorial.md has whole programs, which tests/test_tutorial.py runs.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import foundry_api
from foundry_api import FoundryAPIClient, FoundryClient

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CHECKOUT = Path(__file__).parents[2]
PAGES = [CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^( *)```python\n(.*?)^ *```", re.MULTILINE | re.DOTALL)


def find_blocks() -> Iterator[Any]:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in BLOCK.finditer(text):
            line = text.count("\n", 0, match.start()) + 1
            yield pytest.param(textwrap.dedent(match[2]), id=f"{page.name}:{line}")


def get_keywords(function: Callable[..., Any]) -> set[str] | None:
    """Return the names of the arguments of a function; None if it takes any."""
    names: set[str] = set()
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is not parameter.VAR_KEYWORD:
            names.add(parameter.name)
            continue
        # Not evaluated: the annotations of other arguments are imported for type checkers only.
        options = re.fullmatch(r"Unpack\[(\w+)\]", str(parameter.annotation))
        if options is None:
            return None
        kind = getattr(foundry_api, options[1])
        names |= kind.__required_keys__ | kind.__optional_keys__
    return names


def make_client(code: str) -> object:
    """Make the client that a block uses; None for one of another package."""
    made = re.search(r"(\w+)\([^\n]*\) as client\b|\bclient = ([\w.]+)\(", code)
    name = (made[1] or made[2]) if made is not None else "FoundryAPIClient"
    kinds = {"FoundryAPIClient": FoundryAPIClient, "FoundryClient": FoundryClient}
    return kinds[name]() if name in kinds else None


def find_on_client(node: ast.expr, client: object) -> Any:
    """Return what an expression such as `client.models.load` is; None if it is not of a client."""
    names: list[str] = []
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    if not (isinstance(node, ast.Name) and node.id == "client" and names):
        return None
    value: Any = client
    for name in reversed(names):
        value = getattr(value, name)  # the test fails with the name that does not exist
    return value


@pytest.mark.parametrize("code", [*find_blocks()])
def test_names_methods_and_arguments_exist(code: str) -> None:
    tree = compile(
        code, "block", "exec", ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True
    )
    assert isinstance(tree, ast.Module)
    client = make_client(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("foundry_api"):
            module = importlib.import_module(node.module or "")
            assert [one.name for one in node.names if not hasattr(module, one.name)] == []
        if client is None:
            continue
        if isinstance(node, ast.Attribute):
            find_on_client(node, client)
        if isinstance(node, ast.Call) and callable(method := find_on_client(node.func, client)):
            keywords = get_keywords(method)
            used = {one.arg for one in node.keywords if one.arg is not None}
            assert keywords is None or used <= keywords, ast.unparse(node)
