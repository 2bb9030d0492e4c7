"""Starts and stops the shared host, which every program of this user can use."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

import psutil

from foundry_api.engine import state
from foundry_api.engine.process import START_TIMEOUT_S, HostOptions, HostProcess
from foundry_api.engine.state import is_alive
from foundry_api.storage.lock import FileLock, LockTimeout
from foundry_api.storage.private_file import remove_file
from foundry_api.types.errors import ConfigurationError, ServiceStartFailed

if TYPE_CHECKING:
    from collections.abc import Generator

    from foundry_api.engine.endpoint import Endpoint
    from foundry_api.storage.paths import Paths

__all__ = ["IDLE_TIMEOUT_S", "find_endpoint", "start", "stop"]

IDLE_TIMEOUT_S = 30 * 60.0
EXIT_TIMEOUT_S = 5.0
POLL_S = 0.01


def start(
    paths: Paths, idle_timeout_s: float = IDLE_TIMEOUT_S, *, options: HostOptions | None = None
) -> tuple[Endpoint, bool]:
    """Start the shared host if it does not run, and wait until it serves.

    Returns its endpoint and whether it ran before. With an `idle_timeout_s` of 0 it runs until it
    is stopped.
    """
    options = options or HostOptions(paths=paths)
    with _locked(paths):
        if running := state.read_state(paths.state_file):
            return running.to_endpoint("shared"), True
        _remove_state(paths)
        host = HostProcess.start_shared(options, idle_timeout_s=idle_timeout_s)
        ready = host.wait_ready()
        host.detach()
        return ready.to_endpoint("shared"), False


def stop(paths: Paths) -> bool:
    """Stop the shared host, wait until it is gone, and return whether there was one."""
    if not paths.state.is_dir():
        return False
    with _locked(paths):
        running = state.read_state(paths.state_file)
        if running is not None and (process := state.find_process(running)):
            with contextlib.suppress(psutil.NoSuchProcess):  # it has exited since the check
                process.terminate()
                if not _wait_exit(process):
                    process.kill()
                    _wait_exit(process)
        _remove_state(paths)
        return running is not None


def find_endpoint(paths: Paths) -> Endpoint | None:
    """Return the endpoint of the shared host if its process runs, without a request to it."""
    running = state.read_state(paths.state_file)
    return running.to_endpoint("shared") if running else None


@contextlib.contextmanager
def _locked(paths: Paths) -> Generator[None]:
    paths.create()
    lock = FileLock(paths.lock_file, timeout_s=START_TIMEOUT_S + EXIT_TIMEOUT_S)
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
        remove_file(paths.state_file)  # on Windows, another program may be reading it
    except OSError as error:
        raise ConfigurationError(
            f"{paths.state_file} cannot be removed: {error.strerror}",
            hint="Move it away; this path must be free for a file of foundry-api.",
        ) from error


def _wait_exit(process: psutil.Process) -> bool:
    # psutil's own wait would also wait for the new parent to reap the process. is_alive() is False
    # for a zombie.
    deadline = time.monotonic() + EXIT_TIMEOUT_S
    while is_alive(process):
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_S)
    return True
