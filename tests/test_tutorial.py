"""The steps of the tutorial run as they stand there, with the demo model and without a network."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TEXT = (Path(__file__).resolve().parents[1] / "docs" / "tutorial.md").read_text(encoding="utf-8")
# Blocks of another kind need a network, or a key that an earlier step printed.
BLOCKS = re.findall(r"^```(python|sh)\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
TITLES = [re.findall(r"^## (.+)$", TEXT.partition(code)[0], re.MULTILINE)[-1] for _, code in BLOCKS]


def run(command: list[str], directory: Path) -> subprocess.CompletedProcess[str]:
    programs = str(Path(sys.executable).parent)
    return subprocess.run(
        command,
        cwd=directory,
        env={
            **os.environ,
            "FOUNDRY_HOME": str(directory / "home"),
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "PYTHONUTF8": "1",
            "PYTHONWARNINGS": "error",
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )


def test_the_tutorial_has_steps() -> None:
    assert len(BLOCKS) >= 8


@pytest.mark.parametrize(("language", "code"), BLOCKS, ids=TITLES)
def test_a_step_works_as_written(language: str, code: str, tmp_path: Path) -> None:
    if language == "python":
        program = tmp_path / "program.py"
        program.write_text(code, encoding="utf-8")
        done = run([sys.executable, str(program)], tmp_path)
    else:
        shell = shutil.which("bash")
        if shell is None:
            pytest.skip("these steps are for a POSIX shell")
        done = run([shell, "-euc", code], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.strip()
