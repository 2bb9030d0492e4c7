"""Runs a child process and reads what it prints, line by line."""

from __future__ import annotations

import asyncio
import os
import subprocess
from typing import TYPE_CHECKING

from foundry_api.storage.process import BACKGROUND_FLAGS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

__all__ = ["read_tail", "run_child"]

GRACE_S = 2.0
MAX_LINE_BYTES = 64 * 1024
TAIL_BYTES = 4096
TAIL_LINES = 3
# The child must use the packages of its own environment, whatever the caller has set.
FOREIGN_VARIABLES = (
    "PYTHONHOME",
    "PYTHONPATH",
    "PYTHONSTARTUP",
    "VIRTUAL_ENV",
    "__PYVENV_LAUNCHER__",
)


async def run_child(
    command: Sequence[str | Path], log_path: Path, on_line: Callable[[str], object]
) -> int:
    """Run a command to its end and return its exit status.

    Its standard output goes to `on_line`, its standard error to the end of the log. Its standard
    input stays open and ends with this process, also when this process is killed. If this call is
    cancelled or `on_line` raises, the command is stopped before the call ends.

    Raises:
        OSError: The command cannot be started.
    """
    with log_path.open("ab") as log:
        process = subprocess.Popen(  # noqa: ASYNC220, S603 - starting takes milliseconds; no shell
            [str(part) for part in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env={
                name: value for name, value in os.environ.items() if name not in FOREIGN_VARIABLES
            },
            # A terminal's Ctrl-C is for this process, which then stops the child.
            start_new_session=True,
            creationflags=BACKGROUND_FLAGS,  # the same for Windows
        )
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[str | None] = asyncio.Queue()

    def read_lines() -> None:
        stream = process.stdout
        while stream and (line := stream.readline(MAX_LINE_BYTES)):
            loop.call_soon_threadsafe(lines.put_nowait, line.decode("utf-8", "replace").rstrip())
        loop.call_soon_threadsafe(lines.put_nowait, None)

    reading = loop.run_in_executor(None, read_lines)
    try:
        while (line := await lines.get()) is not None:
            on_line(line)
        await asyncio.to_thread(process.wait)
    finally:
        if process.poll() is None:
            await asyncio.shield(asyncio.to_thread(_stop, process))
        await asyncio.shield(reading)
        for stream in (process.stdin, process.stdout):
            if stream:
                stream.close()
    return process.returncode


def read_tail(log_path: Path, prefix: str = "") -> str:
    """Return the last lines of a log that have a prefix, on one line and without it."""
    try:
        with log_path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    # A progress bar repeats its line after a carriage return.
    lines = [line.rpartition("\r")[2].strip() for line in text.rstrip().splitlines()]
    found = [line.removeprefix(prefix) for line in lines if line and line.startswith(prefix)]
    return " ".join(found[-TAIL_LINES:])


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
