"""The real services of all generations that run here, each in its own environment.

    with run_engine("1.2.4", home, catalog_url) as service:
        service.base_url, service.pid

`dev.py test` creates the environments of the older SDKs; this environment has the newest one.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["RunningEngine", "run_engine"]

ROOT = Path(__file__).resolve().parents[2]
HOME_VARIABLES = ("HOME", "USERPROFILE", "TMPDIR", "TEMP", "TMP")
"""Engines leave empty logs and telemetry databases in these directories."""


@dataclass(frozen=True)
class RunningEngine:
    """A service and the id of its process."""

    base_url: str
    pid: int
    log_path: Path


def get_python(engine: str) -> Path:
    """Return the interpreter of the environment with a version of foundry-local-sdk."""
    if engine == version("foundry-local-sdk"):
        return Path(sys.executable)
    python = (
        ROOT / ".engines" / engine / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    )
    if not python.exists() and "WINDOWS_TEST_RECORD" in os.environ:  # set by tools/windows/run.py
        pytest.skip("the Windows of tools/windows has the newest engine only")
    assert python.exists(), f"no engine {engine}: `python3 dev.py test` installs it"
    return python


@contextlib.contextmanager
def run_engine(
    engine: str, home: Path, catalog_url: str, *, port: int = 0
) -> Iterator[RunningEngine]:
    """Run the service of one version until the end of the block.

    Args:
        engine: The version of foundry-local-sdk.
        home: Its directory; downloaded models are in its subdirectory `cache`.
        catalog_url: The URL of its model catalog.
        port: The port on which it listens; 0 for any free port.
    """
    home.mkdir(parents=True, exist_ok=True)
    log_path = home / "serve.log"
    settings = json.dumps({"home": str(home), "catalog_url": catalog_url, "port": port})
    with log_path.open("ab") as log:
        process = subprocess.Popen(
            [str(get_python(engine)), "-I", str(Path(__file__).with_name("serve.py")), settings],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env={**os.environ, **dict.fromkeys(HOME_VARIABLES, str(home))},
            start_new_session=True,
        )
    assert process.stdin
    assert process.stdout
    try:
        line = process.stdout.readline()
        assert line, log_path.read_text(encoding="utf-8", errors="replace")[-2000:]
        announced = json.loads(line)
        assert announced["version"] == engine
        yield RunningEngine(announced["url"], announced["pid"], log_path)
    finally:
        process.stdin.close()
        process.stdout.close()
        try:
            process.wait(10)
        finally:
            process.kill()
            process.wait()
