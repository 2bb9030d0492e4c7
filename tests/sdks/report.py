"""The programs, and what they were seen to do: `results.json`, and the table in docs/gateway.md.

It imports none of the clients, so that the table can be checked where they are not installed.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RESULTS = HERE / "results.json"


@dataclass(frozen=True)
class Outcome:
    """How a check ended.

    Attributes:
        error: Why it failed; empty if it passed.
        version: Version of the client.
    """

    error: str
    version: str


@dataclass(frozen=True)
class Program:
    """A program that checks one client.

    Attributes:
        name: Its file without the suffix.
        client: The name of the package or the program that it checks.
        environment: The environment of `.clients` that has it.
        limits: What does not work with it, and why; empty if all does.
        checks: What each check does, by the name of its function.
    """

    name: str
    client: str
    environment: str
    limits: str
    checks: dict[str, str]

    @property
    def path(self) -> Path:
        return HERE / "programs" / f"{self.name}.py"

    @property
    def python(self) -> Path:
        names = ("Scripts", "python.exe") if sys.platform == "win32" else ("bin", "python")
        return ROOT.joinpath(".clients", self.environment, *names)


def read_programs() -> list[Program]:
    """Read the programs in alphabetical order, without running them."""
    return [_read(path) for path in sorted((HERE / "programs").glob("use_*.py"))]


def _read(path: Path) -> Program:
    tree = ast.parse(path.read_bytes())
    constants: dict[str, Any] = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and node.targets[0].id in {"CLIENT", "ENVIRONMENT", "LIMITS"}
    }
    checks = {
        node.name: (ast.get_docstring(node) or "").rstrip(".")
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("check_")
    }
    return Program(
        path.stem,
        constants["CLIENT"],
        constants.get("ENVIRONMENT", "sdks"),
        constants.get("LIMITS", ""),
        checks,
    )


def read_pinned_version(program: Program) -> str | None:
    """Return the version that the program's environment pins; None for programs of the system."""
    pins = (HERE / f"{program.environment}.txt").read_text(encoding="utf-8")
    found = re.search(rf"^{re.escape(program.client)}==(\S+)", pins, re.MULTILINE)
    return found[1] if found else None


def write_results(outcomes: Mapping[str, Mapping[str, Outcome]]) -> None:
    """Record how all checks of all programs ended, without paths of this machine."""
    text = json.dumps(
        {
            name: {
                check: asdict(replace(outcome, error="".join(outcome.error.splitlines()[-1:])))
                for check, outcome in sorted(checks.items())
            }
            for name, checks in sorted(outcomes.items())
        },
        indent=1,
    )
    RESULTS.write_text(text + "\n", encoding="utf-8", newline="\n")


def read_results() -> dict[str, dict[str, Outcome]]:
    """Return what `write_results` recorded."""
    recorded = json.loads(RESULTS.read_text(encoding="utf-8"))
    return {
        name: {check: Outcome(**outcome) for check, outcome in checks.items()}
        for name, checks in recorded.items()
    }
