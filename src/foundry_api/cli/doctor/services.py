"""The services that calls could use: at the given address, the shared engine, at known ports."""

from __future__ import annotations

import asyncio
import platform
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import psutil

from foundry_api.cli.doctor.environment import is_key_exposed
from foundry_api.cli.doctor.finding import CheckGroup, Finding, FindingKind
from foundry_api.cli.doctor.machine import run_abandonable
from foundry_api.core.connection import Connection
from foundry_api.engine import discovery, state
from foundry_api.engine.listener import find_other_user
from foundry_api.engine.models.registry_file import find_damage
from foundry_api.types.errors import (
    ConfigurationError,
    ConnectTimeout,
    FoundryError,
    ServiceNotRunning,
    UnsupportedFeature,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from foundry_api.cli.doctor.machine import DiagnosticContext
    from foundry_api.engine.endpoint import Endpoint

__all__ = ["GROUP", "ProbeResult", "State", "detect_confinement", "probe_address"]


State = Literal["service", "dead", "unreachable", "silent", "guarded", "foreign"]


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What is at an address.

    Attributes:
        url: The address.
        state: A Foundry Local `service`; nothing (`dead`); packets get lost (`unreachable`);
            something that accepts connections and does not answer (`silent`), that wants
            another credential (`guarded`), or that is no Foundry Local (`foreign`).
        endpoint: The service.
        problem: Why there is none, in words.
    """

    url: str
    state: State
    endpoint: Endpoint | None = None
    problem: str = ""


async def probe_address(
    machine: DiagnosticContext, url: str, *, with_key: bool = False
) -> ProbeResult:
    """See what is at an address.

    Args:
        machine: Its transport and settings.
        url: The address.
        with_key: Whether the API key is meant for this one.
    """
    api_key = machine.settings.api_key if with_key else None
    settings = replace(machine.settings, api_key=api_key)
    try:
        endpoint = await discovery.probe_explicit(settings, url, machine.get_transport)
    except FoundryError as error:
        return ProbeResult(url, _get_state(error), problem=error.message)
    return ProbeResult(url, "service", endpoint)


def _get_state(error: FoundryError) -> State:
    if isinstance(error, ConnectTimeout):
        return "unreachable"
    if isinstance(error, ConfigurationError):
        return "guarded"
    if isinstance(error, ServiceNotRunning):
        return "silent" if _is_timeout(error) else "dead"
    return "foreign"


def _is_timeout(error: ServiceNotRunning) -> bool:
    """Whether it accepted the connection: the time for the answer ran out, under its wrapping."""
    cause = error.__cause__
    return cause is not None and isinstance(cause.__cause__, TimeoutError)


FOUND = FindingKind("service-found", "ok", "A service answers")
NONE_RUNS = FindingKind(
    "no-service",
    "note",
    "No service runs",
    "Nothing has to be done: calls start an engine of their own. `foundry-api up` starts one that"
    " stays, which makes their start faster.",
)
CONFINED = FindingKind(
    "walled-in",
    "note",
    "127.0.0.1 is not the address of the computer itself in here",
    "To use a service that runs outside, set FOUNDRY_BASE_URL to the address at which the outside"
    " is reached, such as http://host.docker.internal:PORT; in WSL, `networkingMode=mirrored` makes"
    " 127.0.0.1 work.",
)
DEAD = FindingKind(
    "dead-port",
    "problem",
    "Nothing answers at the given address",
    "Start the service, correct FOUNDRY_BASE_URL, or unset it: then a service is found or started."
    " Foundry Local's port changes with every start of its service.",
)
UNREACHABLE = FindingKind(
    "unreachable-address",
    "problem",
    "The given address accepts no connection",
    "Check the address, and whether a firewall drops packets to it.",
)
SILENT = FindingKind(
    "silent-port",
    "problem",
    "What listens at the given address does not answer",
    "Restart the service. If it is only slow, wait until its model is loaded.",
)
FOREIGN = FindingKind(
    "foreign-server",
    "problem",
    "What answers at the given address is not Foundry Local",
    "Correct FOUNDRY_BASE_URL, or unset it: then a service is found or started.",
)
GUARDED = FindingKind(
    "credential-refused",
    "problem",
    "The service refuses the credential",
    "Set FOUNDRY_API_KEY to the key that whoever runs the service gave you.",
)
UNSUPPORTED = FindingKind(
    "unsupported-generation", "problem", "The service is of a generation not spoken here", "{hint}"
)
PORT_TAKEN = FindingKind(
    "port-taken",
    "warning",
    "Another program holds a port of Foundry Local's",
    "If Foundry Local is to use port {port}, end that program; otherwise nothing has to be done.",
)
SHARED_SILENT = FindingKind(
    "shared-host-silent",
    "problem",
    "The shared engine runs but does not answer",
    "Start it again: `foundry-api down`, then `foundry-api up`.",
)

_PROBLEM_KINDS = {
    "dead": DEAD,
    "unreachable": UNREACHABLE,
    "silent": SILENT,
    "guarded": GUARDED,
    "foreign": FOREIGN,
}


async def check_services(machine: DiagnosticContext) -> Iterable[Finding]:
    """Look where calls would look."""
    settings = machine.settings
    addresses = [service.base_url for service in settings.per_service() if service.base_url]
    parts = (
        [_check_given(machine, url) for url in addresses]
        if addresses
        else [
            _check_shared(machine),
            *(_check_known_port(machine, port) for port in machine.probes.ports),
        ]
    )
    findings = [finding for part in await asyncio.gather(*parts) for finding in part]
    if not addresses and not any(
        finding.id in {FOUND.id, SHARED_SILENT.id} for finding in findings
    ):
        ports = ", ".join(map(str, machine.probes.ports))
        findings.append(NONE_RUNS.make_finding(f"no shared engine, and nothing at ports {ports}"))
    if not any(finding.id == FOUND.id for finding in findings) and (walls := detect_confinement()):
        findings.append(CONFINED.make_finding(f"this program runs in {walls}"))
    return findings


def detect_confinement(release: str | None = None, root: Path = Path("/")) -> str:
    """What this program runs in that has a loopback of its own; empty on a plain machine.

    Args:
        release: The kernel's release; None asks the system.
        root: Where the file system begins.
    """
    if "microsoft" in (platform.release() if release is None else release).lower():
        return "the Windows Subsystem for Linux"
    marks = (root / ".dockerenv", root / "run" / ".containerenv")
    return "a container" if any(mark.exists() for mark in marks) else ""


async def _check_given(machine: DiagnosticContext, url: str) -> list[Finding]:
    if is_key_exposed(machine.settings, url):
        return []  # not even a connection: see the settings
    sight = await probe_address(machine, url, with_key=True)
    if sight.endpoint is None:
        return [_PROBLEM_KINDS[sight.state].make_finding(sight.problem)]
    try:
        Connection(sight.endpoint, machine.get_transport(), {}, None)
    except UnsupportedFeature as error:
        return [UNSUPPORTED.make_finding(f"{url}: {error.message}", hint=error.hint)]
    return [_make_found(sight.endpoint)]


async def _check_shared(machine: DiagnosticContext) -> list[Finding]:
    if endpoint := await machine.shared.get():
        return [_make_found(endpoint)]
    known = await run_abandonable(lambda: state.read_state(machine.paths.state_file))
    if known is None:
        return []  # nothing, or what a dead one left: see its state
    if await run_abandonable(lambda: find_damage(machine.paths)) is not None:
        return []  # the cause of its silence: see the models
    return [
        SHARED_SILENT.make_finding(f"process {known.pid} lives, and {known.url} does not answer")
    ]


async def _check_known_port(machine: DiagnosticContext, port: int) -> list[Finding]:
    url = f"http://127.0.0.1:{port}"
    if (user := await run_abandonable(lambda: find_other_user(url))) is not None:
        seen = f"port {port} is held by another user of this machine ({user}); calls pass it over"
        return [PORT_TAKEN.make_finding(seen, port=port)]
    sight = await probe_address(machine, url)
    if sight.endpoint is not None:
        return [_make_found(sight.endpoint)]
    if sight.state == "dead":
        return []
    return [PORT_TAKEN.make_finding(await _describe_holder(sight, port), port=port)]


async def _describe_holder(result: ProbeResult, port: int) -> str:
    name = await run_abandonable(lambda: _describe_listener(port))
    return f"port {port} is held by {name}: {result.problem}" if name else result.problem


def _describe_listener(port: int) -> str:
    """The process that listens on a port, where the system lets us see it."""
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,):
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
    except psutil.Error:
        pass  # another user's, or gone: it stays unnamed
    return ""


def _make_found(endpoint: Endpoint) -> Finding:
    pid = f", pid {endpoint.pid}" if endpoint.pid else ""
    version = f" {endpoint.sdk_version}" if endpoint.sdk_version else ""
    kind = "the shared engine" if endpoint.origin == "shared" else "a service"
    return FOUND.make_finding(
        f"{kind} at {endpoint.base_url} ({endpoint.service_generation}{version}{pid})"
    )


GROUP = CheckGroup(
    "Services",
    (check_services,),
    (
        FOUND,
        NONE_RUNS,
        CONFINED,
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
