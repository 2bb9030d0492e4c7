"""A program of the user's that runs for a while, without a window and without leaving a trace."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

__all__ = ["MAX_OUTPUT_BYTES", "Program", "running"]

MAX_OUTPUT_BYTES = 16 * 2**20
"""What is read of an output. The longest is the whole catalog as JSON, below 1 MB."""


class Program:
    """One run of a program.

    Its output goes to files, because a pipe would stay open as long as any process that the
    program left behind.
    """

    def __init__(self, process: subprocess.Popen[bytes], directory: Path) -> None:
        self._process = process
        self._directory = directory

    async def ended(self, within_s: float) -> bool:
        """Wait for its end; False if it runs on."""
        try:
            await asyncio.to_thread(self._process.wait, within_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    @property
    def code(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._process.poll()

    def output(self) -> str:
        """What it has printed so far."""
        return _text(self._directory / "out")

    def complaint(self) -> str:
        """The last line that it has printed, of its errors if there are any; empty without."""
        told = _text(self._directory / "err").strip() or self.output().strip()
        return told.splitlines()[-1].strip() if told else ""


@contextlib.contextmanager
def running(command: Sequence[str]) -> Generator[Program]:
    """Run a program until the block ends, which kills it if it has not ended by itself.

    What it has started is left alone: it may be the service's own process.

    Raises:
        OSError: It cannot be started.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        directory = Path(name)
        with (directory / "out").open("wb") as out, (directory / "err").open("wb") as err:
            process = subprocess.Popen(  # noqa: S603 - the user's own program; see foundry_cli
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                creationflags=_no_window(),
            )
        try:
            yield Program(process, directory)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def _text(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(MAX_OUTPUT_BYTES).decode("utf-8", "replace")


def _no_window() -> int:
    if sys.platform == "win32":
        return subprocess.CREATE_NO_WINDOW
    return 0
