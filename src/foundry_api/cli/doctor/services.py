"""Checks services: at the configured URL, the shared engine, and at known ports."""

from __future__ import annotations

import asyncio
import platform
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import psutil

from foundry_api.cli.doctor.context import run_abandonable
from foundry_api.cli.doctor.environment import is_key_exposed
from foundry_api.cli.doctor.finding import CheckGroup, Finding, FindingKind
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

    from foundry_api.cli.doctor.context import DiagnosticContext
    from foundry_api.engine.endpoint import Endpoint

__all__ = ["GROUP", "ProbeResult", "State", "detect_confinement", "probe_address"]

State = Literal["service", "dead", "unreachable", "silent", "guarded", "foreign"]


FOUND = FindingKind("service-found", "ok", "A service is running")
NONE_RUNS = FindingKind(
    "no-service",
    "note",
    "No service is running",
    "Nothing to do: each call starts a temporary engine. `foundry-api up` keeps an engine running,"
    " so that calls start faster.",
)
CONFINED = FindingKind(
    "walled-in",
    "note",
    "127.0.0.1 is not the address of the host in this environment",
    "To use a service on the host, set FOUNDRY_BASE_URL to the address of the host, such as"
    " http://host.docker.internal:PORT; in WSL, `networkingMode=mirrored` makes 127.0.0.1 work.",
)
DEAD = FindingKind(
    "dead-port",
    "problem",
    "Nothing responds at the configured URL",
    "Start the service, correct FOUNDRY_BASE_URL, or unset it to discover or start a service."
    " Foundry Local's port changes with every start of its service.",
)
UNREACHABLE = FindingKind(
    "unreachable-address",
    "problem",
    "The configured URL accepts no connections",
    "Check the address, and whether a firewall drops packets to it.",
)
SILENT = FindingKind(
    "silent-port",
    "problem",
    "The server at the configured URL does not respond",
    "Restart the service. If it is only slow, wait until its model is loaded.",
)
FOREIGN = FindingKind(
    "foreign-server",
    "problem",
    "The server at the configured URL is not Foundry Local",
    "Correct FOUNDRY_BASE_URL, or unset it to discover or start a service.",
)
GUARDED = FindingKind(
    "credential-refused",
    "problem",
    "The service rejects the API key",
    "Set FOUNDRY_API_KEY to a key from the operator of the service.",
)
UNSUPPORTED = FindingKind(
    "unsupported-generation", "problem", "The service has an unsupported generation", "{hint}"
)
PORT_TAKEN = FindingKind(
    "port-taken",
    "warning",
    "Another program uses a port of Foundry Local",
    "If Foundry Local should use port {port}, stop that program; otherwise there is nothing to do.",
)
SHARED_SILENT = FindingKind(
    "shared-host-silent",
    "problem",
    "The shared engine is running but does not respond",
    "Restart it: `foundry-api down`, then `foundry-api up`.",
)

PROBLEM_KINDS = {
    "dead": DEAD,
    "unreachable": UNREACHABLE,
    "silent": SILENT,
    "guarded": GUARDED,
    "foreign": FOREIGN,
}


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What is at a URL: a service, or why there is none."""

    url: str
    # `dead`: nothing listens. `unreachable`: packets are lost. `silent`: accepts connections and
    # does not respond. `guarded`: refuses the API key. `foreign`: is not Foundry Local.
    state: State
    endpoint: Endpoint | None = None
    problem: str = ""


async def probe_address(
    context: DiagnosticContext, url: str, *, with_key: bool = False
) -> ProbeResult:
    """Find out what is at a URL; send the API key only to a configured URL."""
    api_key = context.settings.api_key if with_key else None
    settings = replace(context.settings, api_key=api_key)
    try:
        endpoint = await discovery.probe_explicit(settings, url, context.get_transport)
    except FoundryError as error:
        return ProbeResult(url, _get_state(error), problem=error.message)
    return ProbeResult(url, "service", endpoint)


def _get_state(error: FoundryError) -> State:
    if isinstance(error, ConnectTimeout):
        return "unreachable"
    if isinstance(error, ConfigurationError):
        return "guarded"
    if isinstance(error, ServiceNotRunning):
        # A timeout below the wrapping error: the connection was accepted, but nothing came.
        cause = error.__cause__
        is_silent = cause is not None and isinstance(cause.__cause__, TimeoutError)
        return "silent" if is_silent else "dead"
    return "foreign"


async def check_services(context: DiagnosticContext) -> Iterable[Finding]:
    settings = context.settings
    urls = [service.base_url for service in settings.per_service() if service.base_url]
    checks = (
        [_check_configured(context, url) for url in urls]
        if urls
        else [
            _check_shared(context),
            *(_check_known_port(context, port) for port in context.probes.ports),
        ]
    )
    findings = [finding for part in await asyncio.gather(*checks) for finding in part]
    ids = {finding.id for finding in findings}
    if not urls and not ids & {FOUND.id, SHARED_SILENT.id}:
        ports = ", ".join(map(str, context.probes.ports))
        findings.append(NONE_RUNS.make_finding(f"no shared engine, and nothing at ports {ports}"))
    if FOUND.id not in ids and (environment := detect_confinement()):
        findings.append(CONFINED.make_finding(f"this program runs in {environment}"))
    return findings


def detect_confinement(release: str | None = None, root: Path = Path("/")) -> str:
    """Name the virtual environment that has its own loopback interface; empty without one."""
    if "microsoft" in (platform.release() if release is None else release).lower():
        return "the Windows Subsystem for Linux"
    marks = (root / ".dockerenv", root / "run" / ".containerenv")
    return "a container" if any(mark.exists() for mark in marks) else ""


async def _check_configured(context: DiagnosticContext, url: str) -> list[Finding]:
    if is_key_exposed(context.settings, url):
        return []  # not even a connection is made; the check of the settings reports it
    probe = await probe_address(context, url, with_key=True)
    if probe.endpoint is None:
        return [PROBLEM_KINDS[probe.state].make_finding(probe.problem)]
    try:
        Connection(probe.endpoint, context.get_transport(), {}, None)
    except UnsupportedFeature as error:
        return [UNSUPPORTED.make_finding(f"{url}: {error.message}", hint=error.hint)]
    return [_make_found(probe.endpoint)]


async def _check_shared(context: DiagnosticContext) -> list[Finding]:
    if endpoint := await context.shared.get():
        return [_make_found(endpoint)]
    known = await run_abandonable(lambda: state.read_state(context.paths.state_file))
    if known is None:
        return []  # not running; the check of leftovers reports the state file of a dead one
    if await run_abandonable(lambda: find_damage(context.paths)) is not None:
        return []  # the reason why it does not respond, which the check of models reports
    evidence = f"process {known.pid} is running, but {known.url} does not respond"
    return [SHARED_SILENT.make_finding(evidence)]


async def _check_known_port(context: DiagnosticContext, port: int) -> list[Finding]:
    url = f"http://127.0.0.1:{port}"
    if (user := await run_abandonable(lambda: find_other_user(url))) is not None:
        evidence = f"port {port} is used by another user of this machine ({user}); calls skip it"
        return [PORT_TAKEN.make_finding(evidence, port=port)]
    probe = await probe_address(context, url)
    if probe.endpoint is not None:
        return [_make_found(probe.endpoint)]
    if probe.state == "dead":
        return []
    process = await run_abandonable(lambda: _describe_listener(port))
    evidence = f"port {port} is used by {process}: {probe.problem}" if process else probe.problem
    return [PORT_TAKEN.make_finding(evidence, port=port)]


def _describe_listener(port: int) -> str:
    """Describe the process that listens on a port; empty if the system does not show it."""
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,):
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
    except psutil.Error:
        pass  # of another user, or gone
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
