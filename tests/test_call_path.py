"""How much of the package a call passes: a limit for what a reader has to follow."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).parents[1] / "bench" / "call_path.py"


def test_a_warm_call_passes_at_most_150_calls_in_20_files() -> None:
    done = subprocess.run(
        [sys.executable, str(PROGRAM)], capture_output=True, check=True, encoding="utf-8"
    )
    match = re.fullmatch(r"(\d+) calls in (\d+) files", done.stdout.splitlines()[-1])
    assert match is not None
    calls, files = map(int, match.groups())
    assert 0 < calls <= 150
    assert 0 < files <= 20
