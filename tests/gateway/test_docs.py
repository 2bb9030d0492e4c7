"""The generated tables of docs/gateway.md."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.mark.parametrize("table", ["settings", "clients"])
def test_a_table_is_up_to_date(table: str) -> None:
    command = [sys.executable, str(TOOLS / f"draw_gateway_{table}.py"), "--check"]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
