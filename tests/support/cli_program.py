"""Run the CLI in another process, with pipes or with a pseudo terminal."""

from __future__ import annotations

import atexit
import codecs
import contextlib
import functools
import os
import re
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
from support.command_server import CommandServer
from support.loopback_catalog import make_entity, run_catalog

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = str(Path(foundry_api.__file__).resolve().parents[1])
TIMEOUT_S = 150  # longer than any command takes on a busy machine
AT_START = ("PYTHON", "LANG", "LC_")
"""Variables that Python reads when it starts."""


def make_environment(home: Path | None = None, **variables: str) -> dict[str, str]:
    """Return this process's environment, with the package on the path and warnings as errors."""
    variables = {"PYTHONPATH": SOURCE, "PYTHONWARNINGS": "error", **variables}
    if home is not None:
        variables["FOUNDRY_HOME"] = str(home)
    return {**os.environ, **variables}


def make_command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "foundry_api", *arguments]


def run(
    *arguments: str, home: Path | None = None, stdin: str | bytes = b"", **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, with pipes as its standard streams.

    On Linux it starts as a copy of a process that has imported it: see `command_server.py`.
    """
    data = stdin.encode() if isinstance(stdin, str) else stdin
    environ = make_environment(home, **variables)
    if sys.platform == "linux" and not any(name.startswith(AT_START) for name in variables):
        code, output, errors = get_command_server().run(arguments, data, environ, TIMEOUT_S)
    else:
        finished = subprocess.run(
            make_command(*arguments),
            input=data,
            capture_output=True,
            env=environ,
            timeout=TIMEOUT_S,
            check=False,
        )
        code, output, errors = finished.returncode, finished.stdout, finished.stderr
    assert b"Traceback" not in errors, errors.decode()
    return subprocess.CompletedProcess(
        make_command(*arguments),
        code,
        output.decode("utf-8").replace("\r\n", "\n"),
        errors.decode("utf-8").replace("\r\n", "\n"),
    )


@functools.cache
def get_command_server() -> CommandServer:
    """Return the server of this process, which starts when the first command runs."""
    server = CommandServer(make_environment())
    atexit.register(server.close)
    return server


@contextlib.contextmanager
def catalog_engine(home: Path) -> Iterator[None]:
    """Run a shared engine with the demo model and a catalog of two models that are not cached."""
    entities = [
        make_entity("phi-4-mini", "Phi-4-mini-instruct-generic-cpu", 4),
        make_entity("far-away", "Far-away-generic-cpu", 3),
    ]
    paths = Paths.from_home(home)
    with run_catalog(entities) as url:
        shared.start(paths, idle_timeout_s=60, options=HostOptions(paths=paths, catalog_url=url))
        try:
            yield
        finally:
            shared.stop(paths)


class Terminal:
    """A command in a pseudo terminal, with methods for the user's input."""

    def __init__(self, *arguments: str, home: Path, **variables: str) -> None:
        self._terminal, device = os.openpty()
        # This terminal does not answer when it is asked for the position of the cursor.
        variables = {"TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1", **variables}
        try:
            self.process = subprocess.Popen(
                make_command(*arguments),
                stdin=device,
                stdout=device,
                stderr=device,
                env=make_environment(home, **variables),
            )
        finally:
            os.close(device)
        self._output = ""
        # A read may end within a character.
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._terminal)

    def expect(self, text: str) -> str:
        """Read the output until it has a text; return the output up to it.

        The terminal may break the text into lines at its spaces.
        """
        pattern = re.compile(r"\s+".join(map(re.escape, text.split(" "))))
        deadline = time.monotonic() + TIMEOUT_S
        while (match := pattern.search(self._output)) is None:
            readable, _, _ = select.select([self._terminal], [], [], 1)
            if readable:
                self._output += self._decode(self._read())
            assert time.monotonic() < deadline, self._output
        output, self._output = self._output[: match.end()], self._output[match.end() :]
        return output

    def _read(self) -> bytes:
        try:
            return os.read(self._terminal, 4096)
        except OSError as error:  # the command has ended
            raise AssertionError(self._output) from error

    def type_line(self, line: str, answer: str) -> None:
        """Type a line and wait for its answer."""
        os.write(self._terminal, f"{line}\n".encode())
        self.expect(answer)

    def interrupt(self) -> None:
        """Send SIGINT, as Ctrl-C does in a controlling terminal, which this one is not."""
        self.process.send_signal(signal.SIGINT)

    def press(self, keys: str) -> None:
        """Send keys, such as `\\x03` for Ctrl-C at a prompt that reads single keys."""
        os.write(self._terminal, keys.encode())

    def send_end_of_input(self) -> None:
        """Press Ctrl-D."""
        os.write(self._terminal, b"\x04")

    def exit_code(self) -> int:
        """Return the exit code, as a shell reports it: 128 and the number of a signal."""
        code = self.process.wait(TIMEOUT_S)
        return 128 - code if code < 0 else code
