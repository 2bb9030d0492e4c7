"""The other clients, each in its own environment, `.venv-peers/NAME`, created on first use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
WORKER = ROOT / "bench" / "peers" / "worker.py"
PEERS = ("openai", "ollama", "litellm")
# An asyncio protocol with nothing around it: what any client on asyncio costs at least.
FLOOR = "asyncio"
# These run in this project's environment.
OURS = ("aiohttp", FLOOR, "foundry-api")


def find_python(peer: str) -> Path:
    """Return the Python interpreter of a peer, and install the peer if necessary."""
    if peer in OURS:
        return Path(sys.executable)
    home = ROOT / ".venv-peers" / peer
    python = home / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    stamp = home / "installed.txt"
    pins = ROOT / "bench" / "peers" / f"requirements-{peer}.txt"
    requirements = pins.read_text(encoding="utf-8")
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != requirements:
        print(f"installing {peer} (once)", flush=True)
        venv.create(home, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "-r", pins], check=True)
        stamp.write_text(requirements, encoding="utf-8")
    return python


def environment() -> dict[str, str]:
    # litellm would download prices, and allow only 500 connections.
    litellm = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "AIOHTTP_CONNECTOR_LIMIT_PER_HOST": "2000"}
    return {**os.environ, **litellm}


def run_job(job: str, peer: str, base_url: str, *more: str) -> Any:
    """Run a job of `peers/worker.py` in its own process and return its JSON.

    `peer` is a name, or several separated by commas that run in the same environment.
    """
    python = find_python(peer.split(",", maxsplit=1)[0])
    command = [python, WORKER, job, peer, base_url, *more]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, env=environment())
    return json.loads(done.stdout.splitlines()[-1])
