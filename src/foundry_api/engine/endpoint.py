"""The address of a service and of its control API."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from foundry_api.types.messages import ServiceGeneration

__all__ = ["ControlAddress", "Endpoint", "Origin"]

Origin = Literal["explicit", "shared", "cli", "port", "embedded"]


@dataclass(frozen=True, slots=True)
class ControlAddress:
    """The control API of an engine host: its URL without a trailing slash, and its bearer token."""

    url: str
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A service that answered.

    Attributes:
        base_url: Its address, without a trailing slash.
        service_generation: Which generation of Foundry Local it is.
        origin: How it was found: `explicit` by its URL, `shared` by the state file, `cli` by
            Foundry's own command, `port` at a known port, `embedded` started by this process.
        pid: Its process; None if the service does not report it.
        control: The control API of an engine host; None for other services, as the rest.
        sdk_version: Version of foundry-local-sdk in the host.
        log_path: The host's log.
        started_at: When the host was ready, in seconds since the epoch.
    """

    base_url: str
    service_generation: ServiceGeneration
    origin: Origin
    pid: int | None = None
    control: ControlAddress | None = None
    sdk_version: str | None = None
    log_path: str | None = None
    started_at: float | None = None
