"""Clients of others against `foundry-api serve`: `python3 dev.py test --sdks`.

Other runs don't collect this directory. Each file of `programs/` uses one client as its
documentation shows, in an environment of `.clients`.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from foundry_api.gateway.keys.database import KeyDatabase
from foundry_api.gateway.keys.types import Limit, NewKey
from sdks.report import HERE, Outcome, Program, read_programs, write_results
from support.cli_program import make_command, make_environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from foundry_api.engine.endpoint import Endpoint

TIMEOUT_S = 600
NOWHERE = "http://127.0.0.1:9"
"""Port 9 is reserved for a service that discards what it gets; none runs today."""

RATE = Limit(20, "m")
"""After twenty calls one more every three seconds: a wait that a client sits out."""


def pytest_configure(config: pytest.Config) -> None:
    missing = {str(one.python) for one in read_programs() if not one.python.exists()}
    if missing:
        raise pytest.UsageError(f"{', '.join(missing)} is missing. Run: python3 dev.py test --sdks")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give the tests the time that large packages need to start on a busy machine."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.timeout(TIMEOUT_S))


@contextlib.contextmanager
def serve(home: Path, base_url: str) -> Iterator[str]:
    """Run `foundry-api serve` as a process of its own; yield its address."""
    environment = make_environment(home, FOUNDRY_GATEWAY_BASE_URL=base_url, PYTHONUNBUFFERED="1")
    command = make_command("serve", "--port", "0", "--drain", "0")
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        try:
            assert process.stdout is not None
            line = ""
            while not line.startswith("Serving at "):  # it may warn before that
                line = process.stdout.readline()
                assert line
            yield line.split()[2].rstrip(".,").removesuffix("/v1")
        finally:
            process.kill()


@pytest.fixture(scope="session")
def variables(
    engine: Endpoint, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, str]]:
    """What the programs need to know: two gateways, and keys of them."""
    home = tmp_path_factory.mktemp("served")
    database = KeyDatabase(home / "gateway")

    def create(name: str, **limits: object) -> str:
        return database.create(NewKey(name=name, **limits))[1]  # type: ignore[arg-type]

    keys = {
        "GATEWAY_KEY": create("all", scopes=frozenset({"inference", "manage", "metrics"})),
        "GATEWAY_KEY_OF_ONE_MODEL": create("one-model", models=frozenset({"demo"})),
    }
    for program in read_programs():
        keys[f"GATEWAY_KEY_LIMITED_{program.name}"] = create(f"limited-{program.name}", rate=RATE)
    with (
        serve(home, engine.base_url) as url,
        # Without keys: nobody may reach it but this machine, and nothing is behind it.
        serve(tmp_path_factory.mktemp("alone"), NOWHERE) as url_without_service,
    ):
        yield {
            **keys,
            "GATEWAY_URL": url,
            "GATEWAY_URL_WITHOUT_SERVICE": url_without_service,
            "PYTHONWARNINGS": "default",  # of packages that are not ours
        }


@pytest.fixture(scope="session")
def run_program(variables: dict[str, str]) -> Iterator[Callable[[Program], dict[str, Outcome]]]:
    """Run all checks of a program, once in a session; record the results if all programs ran."""
    outcomes: dict[str, dict[str, Outcome]] = {}

    def run(program: Program) -> dict[str, Outcome]:
        if program.name not in outcomes:
            limited = variables[f"GATEWAY_KEY_LIMITED_{program.name}"]
            finished = subprocess.run(
                [program.python, HERE / "programs" / "run_checks.py", program.path],
                env={**os.environ, **variables, "GATEWAY_KEY_LIMITED": limited},
                capture_output=True,
                encoding="utf-8",
                timeout=TIMEOUT_S / 2,
                check=False,
            )
            assert finished.returncode == 0, finished.stderr
            lines = [json.loads(line) for line in finished.stdout.splitlines()]
            outcomes[program.name] = {line.pop("check"): Outcome(**line) for line in lines}
        return outcomes[program.name]

    yield run
    if set(outcomes) == {program.name for program in read_programs()}:
        write_results(outcomes)
