"""Where a service answers, and how this program may control it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from foundry_api.types.messages import ServiceGeneration

__all__ = ["ControlAddress", "Endpoint", "Origin"]

Origin = Literal["explicit", "shared", "cli", "port", "embedded"]


@dataclass(frozen=True, slots=True)
class ControlAddress:
    """The control API of an engine host.

    Attributes:
        url: Its address, without a slash at its end.
        token: Must come with every request as a bearer token.
    """

    url: str
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A service that answered.

    Attributes:
        base_url: Its address, without a slash at its end.
        service_generation: Which Foundry Local it is.
        origin: How it was found: `explicit` by its URL, `shared` by our state file, `cli` by
            Foundry's own command, `port` at a known port, `embedded` started by this process.
        pid: Its process; None where the service does not tell.
        control: The host's control API; None for services that are not ours.
        sdk_version: Version of foundry-local-sdk in the host; None for services that are not ours.
        log_path: The host's log; None for services that are not ours.
        started_at: When the host announced itself, in seconds since the epoch; None if unknown.
    """

    base_url: str
    service_generation: ServiceGeneration
    origin: Origin
    pid: int | None = None
    control: ControlAddress | None = None
    sdk_version: str | None = None
    log_path: str | None = None
    started_at: float | None = None
