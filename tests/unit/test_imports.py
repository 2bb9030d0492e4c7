"""Importing the package loads only what is used."""

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
    "httptools",
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
    """Return the modules that a statement loads in a new interpreter."""
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


def test_importing_the_package_loads_few_modules() -> None:
    modules = modules_after("import foundry_api")
    assert heavy(modules) == set()
    assert {m for m in modules if m.startswith("foundry_api")} == {
        "foundry_api",
        "foundry_api._version",
    }
    assert len(modules) < 50


def test_importing_an_error_loads_nothing_heavy() -> None:
    assert heavy(modules_after("from foundry_api import FoundryError")) == set()


@pytest.mark.parametrize("client", ["FoundryAPIClient", "FoundryClient"])
def test_creating_a_client_loads_no_http_library_or_engine(
    client: str,
) -> None:
    """They are loaded by the first call, by the engine host and by the command."""
    modules = modules_after(f"from foundry_api import {client}; {client}()")
    assert heavy(modules) <= {"asyncio", "msgspec", "platformdirs", "psutil"}


def test_the_loopback_transport_loads_no_aiohttp() -> None:
    """It would add 200 ms to the first call."""
    modules = modules_after("import foundry_api.wire.http")
    assert heavy(modules) <= {"asyncio", "httptools", "msgspec"}


def test_the_engine_host_starts_without_its_control_api() -> None:
    """They would add 250 ms to each start."""
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
def test_low_level_modules_load_nothing_heavy(module: str) -> None:
    modules = modules_after(f"import foundry_api.{module}")
    assert heavy(modules) <= {"asyncio", "msgspec"}
    assert not {
        m for m in modules if m.startswith(("foundry_api.client.client", "foundry_api.engine"))
    }


def test_commands_that_do_not_serve_load_nothing_of_the_gateway() -> None:
    # `doctor` reads the gateway's keys, and `status` the file with its address.
    modules = modules_after(
        "import importlib\n"
        "from foundry_api.cli.verbs import VERBS\n"
        "for verb in VERBS.keys() - {'serve', 'keys', 'doctor'}:\n"
        "    importlib.import_module(f'foundry_api.cli.{verb}')"
    )
    assert "foundry_api.cli.chat" in modules
    loaded = {name for name in modules if name.startswith("foundry_api.gateway")}
    assert loaded <= {"foundry_api.gateway", "foundry_api.gateway.running"}


def test_the_command_that_serves_starts_the_engine_before_it_loads_the_gateway() -> None:
    """The engine starts meanwhile."""
    modules = modules_after("import foundry_api.cli.serve")
    assert heavy(modules) <= {"asyncio", "click", "msgspec", "platformdirs"}
    assert "foundry_api.gateway.gateway" not in modules


def test_the_gateway_starts_without_what_few_calls_use() -> None:
    modules = modules_after("import foundry_api.gateway.gateway")
    assert heavy(modules) <= {"aiohttp", "asyncio", "msgspec", "platformdirs"}
    unused = {
        "foundry_api.batch.runner",
        "foundry_api.gateway.openapi.document",
        "foundry_api.structured.output_spec",
        "foundry_api.wire.chat.tool_call_parser",
    }
    assert modules & unused == set()


def test_every_module_parses_as_python_3_11() -> None:
    for source in SOURCES:  # the error of a syntax has the name of the file
        ast.parse(source.read_bytes(), str(source), feature_version=(3, 11))


def test_no_module_is_longer_than_700_lines() -> None:
    lengths = {
        str(source.relative_to(PACKAGE)): len(source.read_text(encoding="utf-8").splitlines())
        for source in SOURCES
        if source.name != "generated.py"
    }
    assert {name: length for name, length in lengths.items() if length > 700} == {}
