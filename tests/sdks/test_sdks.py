"""Each check of each program, and the code in docs/gateway.md."""

from __future__ import annotations

import os
import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from sdks.report import ROOT, read_programs

if TYPE_CHECKING:
    from collections.abc import Callable

    from sdks.report import Outcome, Program

CHECKS = [
    pytest.param(program, check, id=f"{program.client}-{check.removeprefix('check_')}")
    for program in read_programs()
    for check in program.checks
]


@pytest.mark.parametrize(("program", "check"), CHECKS)
def test_client(
    run_program: Callable[[Program], dict[str, Outcome]], program: Program, check: str
) -> None:
    error = run_program(program)[check].error
    assert not error, error


PAGE = (ROOT / "docs" / "gateway.md").read_text(encoding="utf-8")
DOCUMENTED = dict(
    re.findall(r"^### (\S+)\n\n```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
)


@pytest.mark.parametrize("client", DOCUMENTED)
def test_documented_code_runs(variables: dict[str, str], client: str) -> None:
    [program] = [one for one in read_programs() if one.client == client]
    code = DOCUMENTED[client].replace("http://127.0.0.1:5270", variables["GATEWAY_URL"])
    done = subprocess.run(
        [program.python, "-c", code.replace("fk_...", variables["GATEWAY_KEY"])],
        env={**os.environ, **variables},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
