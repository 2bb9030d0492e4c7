"""Runs the command line as a user does: another process, with a pipe or a terminal at its ends."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

import foundry_api
from foundry_api.engine import shared
from foundry_api.engine.process import HostOptions
from foundry_api.storage.paths import Paths
from support.loopback_catalog import catalog, entity

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = str(Path(foundry_api.__file__).resolve().parents[1])
TIMEOUT_S = 60


def environment(home: Path | None = None, **variables: str) -> dict[str, str]:
    """This process's environment, with the package on the path and warnings as errors."""
    own = {"PYTHONPATH": SOURCE, "PYTHONWARNINGS": "error", **variables}
    if home is not None:
        own["FOUNDRY_HOME"] = str(home)
    return {**os.environ, **own}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "foundry_api", *arguments]


def run(
    *arguments: str, home: Path | None = None, stdin: str | bytes = b"", **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, with a pipe at each of its streams."""
    finished = subprocess.run(
        command(*arguments),
        input=stdin.encode() if isinstance(stdin, str) else stdin,
        capture_output=True,
        env=environment(home, **variables),
        timeout=TIMEOUT_S,
        check=False,
    )
    assert b"Traceback" not in finished.stderr, finished.stderr.decode()
    return subprocess.CompletedProcess(
        finished.args,
        finished.returncode,
        finished.stdout.decode("utf-8").replace("\r\n", "\n"),
        finished.stderr.decode("utf-8").replace("\r\n", "\n"),
    )


@contextlib.contextmanager
def catalog_engine(home: Path) -> Iterator[None]:
    """A shared engine with the demo model, whose catalog has two models that are not cached."""
    entities = [
        entity("phi-4-mini", "Phi-4-mini-instruct-generic-cpu", 4),
        entity("far-away", "Far-away-generic-cpu", 3),
    ]
    paths = Paths.from_home(home)
    with catalog(entities) as url:
        shared.start(paths, idle_timeout_s=60, options=HostOptions(paths=paths, catalog_url=url))
        try:
            yield
        finally:
            shared.stop(paths)


class Terminal:
    """A command at a pseudo terminal, and the user in front of it."""

    def __init__(self, *arguments: str, home: Path) -> None:
        self._keyboard, device = os.openpty()
        try:
            self.process = subprocess.Popen(
                command(*arguments),
                stdin=device,
                stdout=device,
                stderr=device,
                env=environment(home, TERM="xterm"),
            )
        finally:
            os.close(device)
        self._screen = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._keyboard)

    def expect(self, text: str) -> str:
        """Read until a text is on the screen; what came with it."""
        give_up_at = time.monotonic() + TIMEOUT_S
        while text not in self._screen:
            readable, _, _ = select.select([self._keyboard], [], [], 1)
            if readable:
                self._screen += os.read(self._keyboard, 4096).decode("utf-8", "replace")
            assert time.monotonic() < give_up_at, self._screen
        seen, _, self._screen = self._screen.partition(text)
        return seen + text

    def say(self, line: str, answer: str) -> None:
        """Type a line, and wait for its answer."""
        os.write(self._keyboard, f"{line}\n".encode())
        self.expect(answer)

    def interrupt(self) -> None:
        """What Ctrl-C does, which needs the terminal to be the controlling one."""
        self.process.send_signal(signal.SIGINT)

    def end_of_input(self) -> None:
        """Press Ctrl-D."""
        os.write(self._keyboard, b"\x04")

    def exit_code(self) -> int:
        return self.process.wait(TIMEOUT_S)
