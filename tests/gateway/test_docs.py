"""docs/gateway.md."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).parents[2] / "tools" / "draw_gateway_settings.py"


def test_the_table_of_settings_is_up_to_date() -> None:
    command = [sys.executable, str(PROGRAM), "--check"]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr
