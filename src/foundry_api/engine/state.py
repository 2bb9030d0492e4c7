"""What a host is told when it starts, and what it answers: one JSON text each way."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import psutil

from foundry_api.engine.endpoint import ControlAddress, Endpoint
from foundry_api.storage.private_file import read_file, replace_file
from foundry_api.types.messages import ServiceGeneration

if TYPE_CHECKING:
    from foundry_api.engine.endpoint import Origin

__all__ = [
    "HostConfig",
    "HostDetails",
    "HostReady",
    "HostStartError",
    "HostStartResult",
    "ModelSource",
    "find_process",
    "get_own_create_time",
    "get_process",
    "get_service_generation",
    "is_alive",
    "parse_state",
    "read_state",
    "remove_state",
    "write_state",
]


class ModelSource(msgspec.Struct, frozen=True):
    """A model directory to register.

    Attributes:
        path: The directory.
        alias: The name to serve it under.
        license: Its licence, for listings.
    """

    path: str
    alias: str
    license: str | None = None


class HostConfig(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a host needs to know. It travels on the command line, so it holds no secret.

    Attributes:
        data_dir: The engine's own directory.
        logs_dir: Where the engine writes its log.
        log_path: The host's own log, already opened as its standard error.
        models: Registered before the host announces itself.
        catalog_url: Another public catalog than Microsoft's; for tests.
        owner_pid: The process it lives for; None for a shared host.
        state_path: Where a shared host leaves its address; None for a private one.
        idle_timeout_s: A shared host leaves after so many seconds without a connection; 0 never.
    """

    data_dir: str
    logs_dir: str
    log_path: str
    models: tuple[ModelSource, ...] = ()
    catalog_url: str | None = None
    owner_pid: int | None = None
    state_path: str | None = None
    idle_timeout_s: float = 0.0


class HostDetails(msgspec.Struct, frozen=True, kw_only=True):
    """What a running host tells of itself.

    Attributes:
        url: The engine's address.
        sdk_version: The version of foundry-local-sdk.
        log_path: Its log.
        started_at: When it was ready, in seconds since the epoch.
        owner_pid: The process it lives for; None for a shared host.
        idle_timeout_s: Seconds after which a shared host leaves; 0 never.
        problems: Models that could not be registered at the start, and why.
        catalog_url: Another public catalog than Microsoft's; for tests.
    """

    url: str
    sdk_version: str
    log_path: str
    started_at: float
    owner_pid: int | None
    idle_timeout_s: float
    problems: tuple[str, ...] = ()
    catalog_url: str | None = None


class HostReady(msgspec.Struct, frozen=True, kw_only=True, tag="ready"):
    """A host that serves.

    Attributes:
        url: The engine's address.
        pid: The host's process.
        create_time: When that process began, in seconds since the epoch, which tells it from a
            later one of the same pid; 0 in a private host, whose parent has its handle.
        control_url: The control API's address.
        token: The control API's bearer token.
        service_generation: The engine's generation.
        sdk_version: The version of foundry-local-sdk.
        log_path: The host's log.
        started_at: When it was ready, in seconds since the epoch.
        package_version: The version of foundry-api that runs it; empty before 0.1.0 told it.
    """

    url: str
    pid: int
    control_url: str
    token: str
    service_generation: ServiceGeneration
    sdk_version: str
    log_path: str
    started_at: float
    create_time: float = 0.0
    package_version: str = ""

    def __repr__(self) -> str:
        """Without the token."""
        return f"Announcement(url={self.url!r}, pid={self.pid})"

    def to_endpoint(self, origin: Origin) -> Endpoint:
        """The same as callers know it."""
        return Endpoint(
            base_url=self.url,
            service_generation=self.service_generation,
            origin=origin,
            pid=self.pid,
            control=ControlAddress(self.control_url, self.token),
            sdk_version=self.sdk_version,
            log_path=self.log_path,
            started_at=self.started_at,
        )


class HostStartError(msgspec.Struct, frozen=True, kw_only=True, tag="failed"):
    """A host that could not start.

    Attributes:
        message: Why, in one sentence without a full stop.
        hint: What to do; None where only the log can tell.
    """

    message: str
    hint: str | None = None


HostStartResult = HostReady | HostStartError


def get_service_generation(sdk_version: str) -> ServiceGeneration:
    """The generation of the service in a version of foundry-local-sdk."""
    major, _, rest = sdk_version.partition(".")
    if major == "1":
        return "sdk-1"
    return "sdk-2.0" if (major, rest.partition(".")[0]) == ("2", "0") else "sdk-2.1"


MAX_BYTES = 64 * 1024
CLOCK_SLACK_S = 2.0
"""A process's creation time is computed from the wall clock's, which may have been corrected."""


def get_own_create_time() -> float:
    """When this process began, in seconds since the epoch."""
    return psutil.Process().create_time()


def write_state(path: Path | str, announcement: HostReady) -> None:
    """Put the state in place, whole or not at all, readable by this user only."""
    replace_file(path, msgspec.json.encode(announcement))


def read_state(path: Path) -> HostReady | None:
    """The state, or None if no shared host lives.

    What a dead host left is not removed here: between the look and the removal a new host may
    have put its own in place. Who holds the lock may remove it.
    """
    state = parse_state(path)
    return state if state is not None and find_process(state) is not None else None


def remove_state(path: Path | str, *, pid: int) -> None:
    """Remove the state, if it is still that of this process."""
    state = parse_state(Path(path))
    if state is not None and state.pid == pid:
        with contextlib.suppress(OSError):  # open in a reader on Windows; it is stale from now on
            Path(path).unlink(missing_ok=True)


def find_process(state: HostReady) -> psutil.Process | None:
    """The process that wrote a state, if it is still running."""
    return get_process(state.pid, state.create_time)


def get_process(pid: int, create_time: float) -> psutil.Process | None:
    """The process of that number, if it still is the one that began at that time."""
    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - create_time) <= CLOCK_SLACK_S
    except (psutil.Error, ValueError, OverflowError):  # a pid from a damaged file may be anything
        return None
    return process if same and is_alive(process) else None


def parse_state(path: Path) -> HostReady | None:
    """The state as some host wrote it; None without a file, or with a damaged one."""
    try:
        return msgspec.json.decode(read_file(path, MAX_BYTES), type=HostReady)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def is_alive(process: psutil.Process) -> bool:
    """Whether this very process runs still: not another of the same pid, and no zombie."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
