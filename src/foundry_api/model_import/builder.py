"""The environment with the packages that convert models, and its installation."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
import shutil
import sys
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from foundry_api.model_import.child import read_tail, run_child
from foundry_api.model_import.errors import ModelBuilderMissing, ModelImportFailed
from foundry_api.observe.format import format_bytes
from foundry_api.storage.lock import FileLock, LockTimeout
from foundry_api.storage.paths import PRIVATE_DIRECTORY, Paths
from foundry_api.storage.private_file import replace_file

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Generator, Sequence

    # Called with a percentage, None if it is unknown, and with what is done.
    Report = Callable[[float | None, str], object]

__all__ = ["PROGRAM", "REQUIREMENTS", "Builder", "describe_size", "hold_lock"]

PROGRAM = Path(__file__).with_name("program") / "convert.py"
REQUIREMENTS = Path(__file__).with_name("program") / "requirements.txt"
# An older pip does not report the progress of a download.
PIP = "pip==26.3"

LOCK_POLL_S = 0.5
WAITING = "waiting for another program that installs the packages"
MIN_FREE_BYTES = 3 * 2**30
PACKAGES = 40  # about as many are installed, so that the bar moves evenly
COLLECTING = 80.0  # percent of the installation after which pip unpacks what it has downloaded

PYTHON_HINT = (
    "Check the network. If it works, there is no build of it for this Python or system: use a "
    "64-bit Python 3.11 to 3.14."
)
NETWORK_HINT = "Check the network and the disk, then run it again: it continues."

_COLLECTING = re.compile(r"Collecting ([\w.-]+)")
_DOWNLOADING = re.compile(r"\s*(?:Downloading|Using cached) (\S+)")
_BYTES = re.compile(r"Progress (\d+) of (\d+)")


def describe_size() -> str:
    """Say how much the installation downloads and occupies."""
    # Linux on x86-64: the packages of NVIDIA's libraries, which PyTorch's own build needs there,
    # have 2.9 GB. Without them 1.3 GB are occupied (measured).
    if sys.platform == "linux":
        return "up to 3 GB to download and 7 GB on the disk (1.3 GB with a CPU build of PyTorch)"
    return "about 0.5 GB to download and 1.5 GB on the disk"


@dataclass(frozen=True)
class Builder:
    """The environment of the builder.

    Attributes:
        directory: Its place; created on first use.
        program: The program that runs in it.
        requirements: The file with the packages.
    """

    directory: Path
    program: Path = PROGRAM
    requirements: Path = REQUIREMENTS

    @classmethod
    def from_home(cls, home: Path | None) -> Builder:
        """Return the environment of a home directory."""
        return cls(Paths.from_home(home).cache / "model-builder")

    @property
    def interpreter(self) -> Path:
        name = "Scripts/python.exe" if sys.platform == "win32" else "bin/python"
        return self._environment / name

    @property
    def log_path(self) -> Path:
        return self.directory / "setup.log"

    @property
    def recipe(self) -> str:
        """A digest of what is installed, with which Python, and where."""
        pins = self.requirements.read_text(encoding="utf-8")
        return hashlib.sha256(f"{pins}\0{PIP}\0{self._origin}".encode()).hexdigest()

    @property
    def version(self) -> str:
        """A digest of the packages and the program, on which a converted model depends."""
        content = self.requirements.read_bytes() + self.program.read_bytes()
        return hashlib.sha256(content).hexdigest()[:32]

    def is_ready(self) -> bool:
        """Whether everything is installed."""
        try:
            installed = self._stamp.read_text(encoding="utf-8")
            return installed == self.recipe and self.interpreter.is_file()
        except (OSError, ValueError):
            return False

    def require_ready(self) -> None:
        """Raise ModelBuilderMissing unless everything is installed."""
        if not self.is_ready():
            raise ModelBuilderMissing(
                f"the packages that convert models are not installed: {describe_size()}"
            )

    def command(self, *arguments: str | Path) -> list[str | Path]:
        """Return the command that runs the program in the environment."""
        # Isolated: a module in the caller's directory must not take the place of a package.
        return [self.interpreter, "-I", "-u", "-X", "utf8", self.program, *arguments]

    async def set_up(self, report: Report) -> None:
        """Install the packages, unless they are. A stopped installation continues.

        Raises:
            ModelImportFailed: It failed; the message has the reason of pip.
        """
        self._make_directory()
        async with hold_lock(self.directory / "setup.lock", lambda: report(None, WAITING)):
            if self.is_ready():
                return
            with self._naming_the_disk():
                await self._make_environment(report)
            await self._run_pip(["install", PIP], report)
            # Wheels only: a package that had to be compiled would fail in a less clear way.
            options = ["--only-binary=:all:", "--progress-bar=raw", "-r", str(self.requirements)]
            await self._run_pip(["install", *options], report)
            report(None, "checking the packages")
            await self._check()
            replace_file(self._stamp, self.recipe.encode())

    @property
    def _environment(self) -> Path:
        return self.directory / "venv"

    @property
    def _origin(self) -> str:
        # An environment is bound to the Python that made it, and to its place.
        return f"{sys.version}\n{sys.executable}\n{self._environment}"

    @property
    def _stamp(self) -> Path:
        return self.directory / "installed"

    def _make_directory(self) -> None:
        with self._naming_the_disk():
            self.directory.mkdir(parents=True, exist_ok=True, mode=PRIVATE_DIRECTORY)
            free = shutil.disk_usage(self.directory).free
        if not self.is_ready() and free < MIN_FREE_BYTES:
            raise ModelImportFailed(
                f"{self.directory} has {format_bytes(free)} free; the packages that convert models "
                f"need {describe_size()}",
                step="setup",
                hint="Free some disk space, or set FOUNDRY_HOME to a directory on another disk.",
            )

    @contextlib.contextmanager
    def _naming_the_disk(self) -> Generator[None]:
        try:
            yield
        except OSError as error:
            raise ModelImportFailed(
                f"{self.directory} cannot be used: {error.strerror or error}",
                step="setup",
                hint="Set FOUNDRY_HOME to a directory that you can write to.",
            ) from error

    async def _make_environment(self, report: Report) -> None:
        # The marker is written last: without it, the environment was not completed.
        marker = self.directory / "origin"
        with contextlib.suppress(FileNotFoundError, ValueError):
            if marker.read_text(encoding="utf-8") == self._origin and self.interpreter.is_file():
                return
        report(None, "creating the environment")
        marker.unlink(missing_ok=True)
        self._stamp.unlink(missing_ok=True)
        await asyncio.to_thread(venv.create, self._environment, clear=True, with_pip=True)
        replace_file(marker, self._origin.encode())

    async def _run_pip(self, arguments: Sequence[str], report: Report) -> None:
        progress = _PipProgress(report)
        # Through the program, so that pip ends with this process: nobody else would end it.
        command = self.command("pip", *arguments, "--no-input", "--disable-pip-version-check")
        status = await self._run(command, progress.read_line)
        if status == 0:
            return
        reason = read_tail(self.log_path, "ERROR: ") or read_tail(self.log_path)
        raise ModelImportFailed(
            f"the packages that convert models could not be installed: {reason}",
            step="setup",
            log_path=str(self.log_path),
            hint=PYTHON_HINT if "No matching distribution" in reason else NETWORK_HINT,
        )

    async def _check(self) -> None:
        if await self._run(self.command("modules"), lambda _: None):
            raise ModelImportFailed(
                f"the packages that convert models do not work: {read_tail(self.log_path)}",
                step="setup",
                log_path=str(self.log_path),
            )

    async def _run(self, command: Sequence[str | Path], on_line: Callable[[str], object]) -> int:
        with self._naming_the_disk():
            return await run_child(command, self.log_path, on_line)


class _PipProgress:
    """Turns the lines of pip into a percentage."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._package = ""
        self._count = 0

    def read_line(self, line: str) -> None:
        if match := _COLLECTING.match(line):
            self._count += 1
            self._package = match[1]
            self._report(self._percent, self._package)
        elif match := _DOWNLOADING.match(line):
            self._package = match[1].partition("-")[0]
        elif match := _BYTES.match(line):
            done, size = format_bytes(int(match[1])), format_bytes(int(match[2]))
            self._report(self._percent, f"{self._package}, {done} of {size}")
        elif line.startswith("Installing collected packages"):
            self._report(COLLECTING, "unpacking")

    @property
    def _percent(self) -> float:
        return min(COLLECTING, COLLECTING * self._count / PACKAGES)


@contextlib.asynccontextmanager
async def hold_lock(path: Path, on_wait: Callable[[], object]) -> AsyncGenerator[None]:
    """Hold a lock between programs; call `on_wait` once if another one has it."""
    lock = FileLock(path, timeout_s=0)
    is_first = True
    while True:
        try:
            lock.__enter__()
            break
        except LockTimeout:
            if is_first:
                on_wait()
            is_first = False
            await asyncio.sleep(LOCK_POLL_S)
    try:
        yield
    finally:
        lock.__exit__()
