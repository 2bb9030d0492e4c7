"""The peers, each in an environment of its own: `.venv-peers/NAME`, made on first use."""

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
OURS = ("aiohttp", "foundry-api")
"""These two run in our own environment."""


def python_of(peer: str) -> Path:
    """The interpreter that has a peer.

    Raises:
        CalledProcessError: It could not be installed.
    """
    if peer in OURS:
        return Path(sys.executable)
    home = ROOT / ".venv-peers" / peer
    python = home / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    stamp = home / "installed.txt"
    pins = ROOT / "bench" / "peers" / f"requirements-{peer}.txt"
    wanted = pins.read_text(encoding="utf-8")
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != wanted:
        print(f"installing {peer}, once", flush=True)
        venv.create(home, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "-r", pins], check=True)
        stamp.write_text(wanted, encoding="utf-8")
    return python


def environment() -> dict[str, str]:
    """Of the workers: litellm would ask the internet for prices, and allow 500 connections."""
    litellm = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "AIOHTTP_CONNECTOR_LIMIT_PER_HOST": "2000"}
    return {**os.environ, **litellm}


def work(job: str, peer: str, base_url: str, *more: str) -> Any:
    """What a job printed for a peer, in a process of its own.

    Args:
        job: Name of a function of `peers/worker.py`.
        peer: One of the names above, or several with commas between them.
        base_url: The service to call.
        more: Further arguments of the job.
    """
    python = python_of(peer.split(",", maxsplit=1)[0])
    command = [python, WORKER, job, peer, base_url, *more]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, env=environment())
    return json.loads(done.stdout.splitlines()[-1])
