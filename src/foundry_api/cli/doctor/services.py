"""The services that calls could use: at the given address, the shared engine, at known ports."""

from __future__ import annotations

import asyncio
import platform
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import psutil

from foundry_api.cli.doctor.environment import in_the_clear
from foundry_api.cli.doctor.finding import Finding, Group, Kind
from foundry_api.cli.doctor.machine import in_thread
from foundry_api.core.connection import Connection
from foundry_api.engine import discovery, state
from foundry_api.engine.listener import other_user
from foundry_api.engine.models.registry_file import damage_of
from foundry_api.types.errors import (
    ConfigurationError,
    ConnectTimeout,
    FoundryError,
    ServiceNotRunning,
    UnsupportedFeature,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from foundry_api.cli.doctor.machine import Machine
    from foundry_api.engine.endpoint import Endpoint

__all__ = ["GROUP", "Sight", "State", "look_at", "walled_in"]


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
        endpoint = await discovery.explicit(settings, url, machine.transport)
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


FOUND = Kind("service-found", "ok", "A service answers")
NONE_RUNS = Kind(
    "no-service",
    "note",
    "No service runs",
    "Nothing has to be done: calls start an engine of their own. `foundry-api up` starts one that"
    " stays, which makes their start faster.",
)
WALLED = Kind(
    "walled-in",
    "note",
    "127.0.0.1 is not the address of the computer itself in here",
    "To use a service that runs outside, set FOUNDRY_BASE_URL to the address at which the outside"
    " is reached, such as http://host.docker.internal:PORT; in WSL, `networkingMode=mirrored` makes"
    " 127.0.0.1 work.",
)
DEAD = Kind(
    "dead-port",
    "problem",
    "Nothing answers at the given address",
    "Start the service, correct FOUNDRY_BASE_URL, or unset it: then a service is found or started."
    " Foundry Local's port changes with every start of its service.",
)
UNREACHABLE = Kind(
    "unreachable-address",
    "problem",
    "The given address accepts no connection",
    "Check the address, and whether a firewall drops packets to it.",
)
SILENT = Kind(
    "silent-port",
    "problem",
    "What listens at the given address does not answer",
    "Restart the service. If it is only slow, wait until its model is loaded.",
)
FOREIGN = Kind(
    "foreign-server",
    "problem",
    "What answers at the given address is not Foundry Local",
    "Correct FOUNDRY_BASE_URL, or unset it: then a service is found or started.",
)
GUARDED = Kind(
    "credential-refused",
    "problem",
    "The service refuses the credential",
    "Set FOUNDRY_API_KEY to the key that whoever runs the service gave you.",
)
UNSUPPORTED = Kind(
    "unsupported-generation", "problem", "The service is of a generation not spoken here", "{hint}"
)
PORT_TAKEN = Kind(
    "port-taken",
    "warning",
    "Another program holds a port of Foundry Local's",
    "If Foundry Local is to use port {port}, end that program; otherwise nothing has to be done.",
)
SHARED_SILENT = Kind(
    "shared-host-silent",
    "problem",
    "The shared engine runs but does not answer",
    "Start it again: `foundry-api down`, then `foundry-api up`.",
)

_TROUBLES = {
    "dead": DEAD,
    "unreachable": UNREACHABLE,
    "silent": SILENT,
    "guarded": GUARDED,
    "foreign": FOREIGN,
}


async def examine(machine: Machine) -> Iterable[Finding]:
    """Look where calls would look."""
    settings = machine.settings
    given = [each.base_url for each in settings.each() if each.base_url]
    parts = (
        [_given(machine, url) for url in given]
        if given
        else [_shared(machine), *(_known(machine, port) for port in machine.senses.ports)]
    )
    found = [finding for part in await asyncio.gather(*parts) for finding in part]
    if not given and not any(finding.id in {FOUND.id, SHARED_SILENT.id} for finding in found):
        ports = ", ".join(map(str, machine.senses.ports))
        found.append(NONE_RUNS.seen(f"no shared engine, and nothing at ports {ports}"))
    if not any(finding.id == FOUND.id for finding in found) and (walls := walled_in()):
        found.append(WALLED.seen(f"this program runs in {walls}"))
    return found


def walled_in(release: str | None = None, root: Path = Path("/")) -> str:
    """What this program runs in that has a loopback of its own; empty on a plain machine.

    Args:
        release: The kernel's release; None asks the system.
        root: Where the file system begins.
    """
    if "microsoft" in (platform.release() if release is None else release).lower():
        return "the Windows Subsystem for Linux"
    marks = (root / ".dockerenv", root / "run" / ".containerenv")
    return "a container" if any(mark.exists() for mark in marks) else ""


async def _given(machine: Machine, url: str) -> list[Finding]:
    if in_the_clear(machine.settings, url):
        return []  # not even a connection: see the settings
    sight = await look_at(machine, url, with_key=True)
    if sight.endpoint is None:
        return [_TROUBLES[sight.state].seen(sight.trouble)]
    try:
        Connection(sight.endpoint, machine.transport(), {}, None)
    except UnsupportedFeature as error:
        return [UNSUPPORTED.seen(f"{url}: {error.message}", hint=error.hint)]
    return [_found(sight.endpoint)]


async def _shared(machine: Machine) -> list[Finding]:
    if endpoint := await machine.shared.get():
        return [_found(endpoint)]
    known = await in_thread(lambda: state.read(machine.paths.state_file))
    if known is None:
        return []  # nothing, or what a dead one left: see its state
    if await in_thread(lambda: damage_of(machine.paths)) is not None:
        return []  # the cause of its silence: see the models
    return [SHARED_SILENT.seen(f"process {known.pid} lives, and {known.url} does not answer")]


async def _known(machine: Machine, port: int) -> list[Finding]:
    url = f"http://127.0.0.1:{port}"
    if (user := await in_thread(lambda: other_user(url))) is not None:
        seen = f"port {port} is held by another user of this machine ({user}); calls pass it over"
        return [PORT_TAKEN.seen(seen, port=port)]
    sight = await look_at(machine, url)
    if sight.endpoint is not None:
        return [_found(sight.endpoint)]
    if sight.state == "dead":
        return []
    return [PORT_TAKEN.seen(await _holder(sight, port), port=port)]


async def _holder(sight: Sight, port: int) -> str:
    name = await in_thread(lambda: _listener(port))
    return f"port {port} is held by {name}: {sight.trouble}" if name else sight.trouble


def _listener(port: int) -> str:
    """The process that listens on a port, where the system lets us see it."""
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,):
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
    except psutil.Error:
        pass  # another user's, or gone: it stays unnamed
    return ""


def _found(endpoint: Endpoint) -> Finding:
    pid = f", pid {endpoint.pid}" if endpoint.pid else ""
    version = f" {endpoint.sdk_version}" if endpoint.sdk_version else ""
    kind = "the shared engine" if endpoint.origin == "shared" else "a service"
    return FOUND.seen(f"{kind} at {endpoint.base_url} ({endpoint.generation}{version}{pid})")


GROUP = Group(
    "Services",
    (examine,),
    (
        FOUND,
        NONE_RUNS,
        WALLED,
        DEAD,
        UNREACHABLE,
        SILENT,
        FOREIGN,
        GUARDED,
        UNSUPPORTED,
        SHARED_SILENT,
        PORT_TAKEN,
    ),
)
