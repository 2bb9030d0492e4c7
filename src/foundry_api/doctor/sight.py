"""What is at an address, whatever it is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from foundry_api.errors import (
    ConfigurationError,
    ConnectTimeout,
    FoundryError,
    ServiceNotRunning,
)
from foundry_api.service import discover

if TYPE_CHECKING:
    from foundry_api.doctor.machine import Machine
    from foundry_api.service.endpoint import Endpoint

__all__ = ["Sight", "State", "look_at"]

State = Literal["service", "dead", "unreachable", "silent", "guarded", "foreign"]


@dataclass(frozen=True, slots=True)
class Sight:
    """What is at an address.

    Attributes:
        url: The address.
        state: A Foundry Local `service`; nothing (`dead`); packets get lost (`unreachable`);
            something that accepts connections and does not answer (`silent`), that wants
            another credential (`guarded`), or that is no Foundry Local (`foreign`).
        endpoint: The service.
        trouble: Why there is none, in words.
    """

    url: str
    state: State
    endpoint: Endpoint | None = None
    trouble: str = ""


async def look_at(machine: Machine, url: str, *, with_key: bool = False) -> Sight:
    """See what is at an address.

    Args:
        machine: Its transport and settings.
        url: The address.
        with_key: Whether the API key is meant for this one.
    """
    api_key = machine.settings.api_key if with_key else None
    settings = replace(machine.settings, api_key=api_key)
    try:
        endpoint = await discover.explicit(settings, url, machine.transport)
    except FoundryError as error:
        return Sight(url, _state(error), trouble=error.message)
    return Sight(url, "service", endpoint)


def _state(error: FoundryError) -> State:
    if isinstance(error, ConnectTimeout):
        return "unreachable"
    if isinstance(error, ConfigurationError):
        return "guarded"
    if isinstance(error, ServiceNotRunning):
        return "silent" if _was_silent(error) else "dead"
    return "foreign"


def _was_silent(error: ServiceNotRunning) -> bool:
    """Whether it accepted the connection: the time for the answer ran out, under its wrapping."""
    cause = error.__cause__
    return cause is not None and isinstance(cause.__cause__, TimeoutError)
