"""Importing the package costs nothing until a part of it is used."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import foundry_api

PACKAGE = Path(foundry_api.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))
HEAVY = {
    "aiohttp",
    "asyncio",
    "click",
    "foundry_local_sdk",
    "langchain_core",
    "llm",
    "msgspec",
    "onnxruntime",
    "openai",
    "platformdirs",
    "psutil",
    "pydantic",
    "rich",
}


def modules_after(statement: str) -> set[str]:
    """The modules in a fresh interpreter after a statement, beyond those without it."""
    program = (
        "import sys; before = set(sys.modules)\n"
        f"{statement}\n"
        "import json; print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run(
        [sys.executable, "-S", "-c", program],
        capture_output=True,
        check=True,
        env={**environment, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
    )
    return set(json.loads(done.stdout))


def heavy(modules: set[str]) -> set[str]:
    return {module.partition(".")[0] for module in modules} & HEAVY


def test_importing_the_package_loads_nothing_heavy_and_little_at_all() -> None:
    modules = modules_after("import foundry_api")
    assert heavy(modules) == set()
    assert {m for m in modules if m.startswith("foundry_api")} == {
        "foundry_api",
        "foundry_api._version",
    }
    assert len(modules) < 50


def test_an_error_type_loads_nothing_heavy() -> None:
    assert heavy(modules_after("from foundry_api import FoundryError")) == set()


@pytest.mark.parametrize("client", ["FoundryAPIClient", "FoundryClient"])
def test_the_client_loads_neither_the_http_library_nor_the_engine_nor_the_command_line(
    client: str,
) -> None:
    """They come with the first call, with the engine host and with the command."""
    modules = modules_after(f"from foundry_api import {client}; {client}()")
    assert heavy(modules) <= {"asyncio", "msgspec", "platformdirs", "psutil"}


def test_the_engine_host_starts_without_the_imports_of_its_control_api() -> None:
    """They take 250 ms, which every start would wait for."""
    modules = modules_after("import foundry_api.engine.host.main")
    assert heavy(modules) <= {"asyncio", "msgspec"}


@pytest.mark.parametrize(
    "module",
    [
        "types.errors",
        "types.settings",
        "types.messages",
        "types.checks",
        "wire.sse",
        "wire.transport",
        "core.call",
    ],
)
def test_the_ground_floor_stands_alone(module: str) -> None:
    modules = modules_after(f"import foundry_api.{module}")
    assert heavy(modules) <= {"asyncio", "msgspec"}
    assert not {
        m for m in modules if m.startswith(("foundry_api.client.client", "foundry_api.engine"))
    }


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_module_is_python_3_11(source: Path) -> None:
    ast.parse(source.read_text(encoding="utf-8"), feature_version=(3, 11))


@pytest.mark.parametrize(
    "source",
    [path for path in SOURCES if path.name != "generated.py"],
    ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_no_module_is_longer_than_700_lines(source: Path) -> None:
    assert len(source.read_text(encoding="utf-8").splitlines()) <= 700
