"""The real services of every generation that runs here, each in an environment of its own.

    with running("1.2.4", home, catalog_url) as service:
        service.base_url, service.process

`dev.py test` makes the environments of the older ones; the newest is this environment's own.
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

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["RunningEngine", "run_engine"]

ROOT = Path(__file__).resolve().parents[2]
HOME_VARIABLES = ("HOME", "USERPROFILE", "TMPDIR", "TEMP", "TMP")
"""Where engines leave what they do not clear away: empty logs, databases of their telemetry."""


@dataclass(frozen=True)
class RunningEngine:
    """A service and its process."""

    base_url: str
    process: subprocess.Popen[bytes]
    log_path: Path


def get_python(engine: str) -> Path:
    """The interpreter beside which a version of foundry-local-sdk is installed."""
    if engine == version("foundry-local-sdk"):
        return Path(sys.executable)
    python = (
        ROOT / ".engines" / engine / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    )
    assert python.exists(), f"no engine {engine}: `python3 dev.py test` installs it"
    return python


@contextlib.contextmanager
def run_engine(
    engine: str, home: Path, catalog_url: str, *, port: int = 0
) -> Iterator[RunningEngine]:
    """Run the service of one version; it ends with the block.

    Args:
        engine: The version of foundry-local-sdk.
        home: Its directory; downloaded models lie in `cache` below it.
        catalog_url: The catalog that it asks.
        port: Where it listens; 0 for any free port.
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
        yield RunningEngine(announced["url"], process, log_path)
    finally:
        process.stdin.close()
        process.stdout.close()
        try:
            process.wait(10)
        finally:
            process.kill()
            process.wait()
