"""Helpers of the service tests: waiting for conditions, model directories, other processes."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import psutil

import foundry_api

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

# Longer than anything takes on a busy machine, and shorter than the time limit of a test.
DEADLINE_S = 150.0

# Ways to damage an engine's list of registered models.
DAMAGED_REGISTRIES: tuple[Callable[[Path], object], ...] = (
    Path.touch,
    Path.mkdir,
    *((os.mkfifo,) if os.name == "posix" else ()),
    lambda path: path.write_bytes(b"{"),
    lambda path: path.write_bytes(b"\xff\xfe"),
    lambda path: path.write_bytes(b"[]"),
    lambda path: path.write_bytes(b"[" * 50_000),
    lambda path: path.write_bytes(b'{"models": [5]}'),
)

ROOT = str(Path(foundry_api.__file__).resolve().parents[1])


def has_ended(process: psutil.Process) -> bool:
    """Whether a process has ended, though its parent may not have asked for its exit code."""
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_until(condition: Callable[[], object], *, within_s: float = DEADLINE_S) -> None:
    """Wait until a condition holds; fail if it does not in time."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {within_s} s"
        time.sleep(0.01)


async def wait_until_async(
    condition: Callable[[], object], *, within_s: float = DEADLINE_S
) -> None:
    """Do the same as `wait_until` without blocking the event loop."""
    await asyncio.to_thread(wait_until, condition, within_s=within_s)


async def cancel_after(after_s: float, awaitable: Awaitable[object]) -> bool:
    """Cancel an awaitable after some seconds; return False if it was done by then."""
    try:
        async with asyncio.timeout(after_s):
            await awaitable
    except TimeoutError:
        return True
    return False


def make_model_directory(
    path: Path, *, content: str = "weights", context_length: int = 512
) -> Path:
    """Make a directory that passes the checks and can be registered, but not loaded."""
    path.mkdir(parents=True, exist_ok=True)
    model = {"context_length": context_length, "decoder": {"filename": "model.onnx"}}
    (path / "genai_config.json").write_text(json.dumps({"model": model}), encoding="utf-8")
    (path / "model.onnx").write_bytes(make_onnx_graph(content))
    (path / "tokenizer.json").write_text('{"model": {}}', encoding="utf-8")
    (path / "tokenizer_config.json").write_text('{"chat_template": "x"}', encoding="utf-8")
    return path


def make_onnx_graph(name: str) -> bytes:
    """Make an ONNX model whose graph has only a name."""
    return bytes(
        onnx.helper.make_model(onnx.helper.make_graph([], name, [], [])).SerializeToString()
    )


def list_hosts(home: Path) -> list[psutil.Process]:
    """List the engine hosts that run on a home, whose path is in their arguments."""
    marker = json.dumps(str(home))[1:-1]
    processes: list[psutil.Process] = []
    for process in psutil.process_iter():
        try:
            arguments = process.cmdline()
            zombie = process.status() == psutil.STATUS_ZOMBIE
        except psutil.Error:
            continue
        text = " ".join(arguments)
        if not zombie and "foundry_api.engine.host.main" in text and marker in text:
            processes.append(process)
    return processes


def start_program(source: str, *arguments: str, **options: object) -> subprocess.Popen[str]:
    """Run a Python program with this package on its path."""
    environ = {**os.environ, "PYTHONPATH": ROOT, "PYTHONWARNINGS": "error"}
    return subprocess.Popen(  # type: ignore[call-overload,no-any-return] # options are Popen's own
        [sys.executable, "-c", source, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environ,
        **options,
    )
