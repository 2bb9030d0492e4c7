"""Messages between an engine host and the program that starts it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from foundry_api.engine.endpoint import ControlAddress, Endpoint
from foundry_api.types.messages import ServiceGeneration

if TYPE_CHECKING:
    from foundry_api.engine.endpoint import Origin

__all__ = [
    "HostConfig",
    "HostReady",
    "HostStartError",
    "HostStartResult",
    "ModelSource",
    "get_service_generation",
]


class ModelSource(msgspec.Struct, frozen=True):
    """A model directory to register, and the alias to serve it under."""

    path: str
    alias: str
    license: str | None = None


# A HostConfig travels on the command line, which other users can read: it must hold no secret.
class HostConfig(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The configuration of a host, sent from its parent.

    Attributes:
        data_dir: The engine's own directory.
        logs_dir: Where the engine writes its log.
        log_path: The host's own log, which its parent opens as its standard error.
        models: Registered before the host reports that it is ready.
        catalog_url: Replaces Microsoft's public catalog, for tests.
        threads: Threads that compute one model; None chooses a number from the CPUs.
        owner_pid: The process that a private host belongs to; None for a shared host.
        state_path: Where a shared host writes its address; None for a private one.
        idle_timeout_s: A shared host exits after so many seconds without a connection; 0 for never.
        port: Port of the REST service; 0 for any that is free.
    """

    data_dir: str
    logs_dir: str
    log_path: str
    models: tuple[ModelSource, ...] = ()
    catalog_url: str | None = None
    threads: int | None = None
    owner_pid: int | None = None
    state_path: str | None = None
    idle_timeout_s: float = 0.0
    port: int = 0


class HostReady(msgspec.Struct, frozen=True, kw_only=True, tag="ready"):
    """Reports that a host serves. A shared host also writes this to its state file.

    Attributes:
        create_time: Start time of the host's process in seconds since the epoch, which
            distinguishes it from a later process with the same pid; 0 in a private host, whose
            parent has its handle.
        control_url: Address of the control API.
        token: Bearer token of the control API.
        started_at: When it was ready, in seconds since the epoch.
        package_version: Version of foundry-api in the host; empty for hosts older than 0.1.0.
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

    # Leaves out the token, so that no log or traceback shows it.
    def __repr__(self) -> str:
        return f"HostReady(url={self.url!r}, pid={self.pid})"

    def to_endpoint(self, origin: Origin) -> Endpoint:
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
    """Reports why a host could not start.

    Attributes:
        message: The reason, without a full stop.
        hint: What to do; None if only the log may tell.
    """

    message: str
    hint: str | None = None


HostStartResult = HostReady | HostStartError


def get_service_generation(sdk_version: str) -> ServiceGeneration:
    """Return the generation of the service in a version of foundry-local-sdk."""
    major, _, rest = sdk_version.partition(".")
    if major == "1":
        return "sdk-1"
    return "sdk-2.0" if (major, rest.partition(".")[0]) == ("2", "0") else "sdk-2.1"
