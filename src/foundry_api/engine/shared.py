"""The shared host: started by `foundry-api start`, used by every program of this user."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

import psutil

from foundry_api.engine import state
from foundry_api.engine.process import START_TIMEOUT_S, HostOptions, HostProcess
from foundry_api.engine.state import is_alive
from foundry_api.storage.lock import FileLock, LockTimeout
from foundry_api.types.errors import ConfigurationError, ServiceStartFailed

if TYPE_CHECKING:
    from collections.abc import Generator

    from foundry_api.engine.endpoint import Endpoint
    from foundry_api.storage.paths import Paths

__all__ = ["IDLE_TIMEOUT_S", "find_endpoint", "start", "stop"]

IDLE_TIMEOUT_S = 30 * 60.0
LEAVE_TIMEOUT_S = 5.0
POLL_S = 0.01


def start(
    paths: Paths, idle_timeout_s: float = IDLE_TIMEOUT_S, *, options: HostOptions | None = None
) -> tuple[Endpoint, bool]:
    """Have a shared host running. Blocks until it serves.

    Args:
        paths: Its directories.
        idle_timeout_s: It leaves after so many seconds without use; 0 never.
        options: What it serves; None for the defaults.

    Returns:
        Where it serves, and whether it did so before.

    Raises:
        ServiceStartFailed: It did not come up.
        ConfigurationError: Something else lies where its state is to be.
    """
    options = options or HostOptions(paths=paths)
    with _locked(paths):
        if running := state.read_state(paths.state_file):
            return running.to_endpoint("shared"), True
        _remove_state(paths)
        host = HostProcess.start_shared(options, idle_timeout_s=idle_timeout_s)
        announcement = host.wait_ready()
        host.detach()
        return announcement.to_endpoint("shared"), False


def stop(paths: Paths) -> bool:
    """End the shared host. Blocks until it is gone.

    Returns:
        Whether there was one.

    Raises:
        ServiceStartFailed: Another `start` or `stop` did not end in time.
        ConfigurationError: Something else lies where its state is to be.
    """
    if not paths.state.is_dir():
        return False
    with _locked(paths):
        running = state.read_state(paths.state_file)
        if running is not None and (process := state.find_process(running)):
            _end_process(process)
        _remove_state(paths)
        return running is not None


def find_endpoint(paths: Paths) -> Endpoint | None:
    """Where the shared host serves, if its process lives. Whether it answers is for HTTP to say."""
    running = state.read_state(paths.state_file)
    return running.to_endpoint("shared") if running else None


@contextlib.contextmanager
def _locked(paths: Paths) -> Generator[None]:
    """Hold the lock of the shared host.

    Raises:
        ServiceStartFailed: Another process held it for the whole wait.
    """
    paths.create()
    lock = FileLock(paths.lock_file, timeout_s=START_TIMEOUT_S + LEAVE_TIMEOUT_S)
    try:
        lock.__enter__()
    except LockTimeout as error:
        raise ServiceStartFailed(
            str(error), hint="Another `foundry-api up` or `down` is running; try again."
        ) from error
    try:
        yield
    finally:
        lock.__exit__()


def _remove_state(paths: Paths) -> None:
    try:
        paths.state_file.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"{paths.state_file} cannot be removed: {error.strerror}",
            hint="Move it away; it is to be a file of this program's.",
        ) from error


def _end_process(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):  # it left by itself meanwhile
        process.terminate()
        if not _has_exited(process):
            process.kill()
            _has_exited(process)


def _has_exited(process: psutil.Process) -> bool:
    """Wait for the end of a process. One that its new parent has not reaped yet is gone."""
    give_up_at = time.monotonic() + LEAVE_TIMEOUT_S
    while is_alive(process):
        if time.monotonic() >= give_up_at:
            return False
        time.sleep(POLL_S)
    return True
