"""Finds a service that already runs."""

# A service counts only after it has answered over HTTP with a known fingerprint. Nothing is sent
# before a TCP connection is accepted, so on a machine without a service the search takes a few
# milliseconds and imports no HTTP library.

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from foundry_api.engine import foundry_command
from foundry_api.engine.endpoint import Endpoint
from foundry_api.engine.listener import find_other_user
from foundry_api.types.errors import ConnectTimeout, FoundryError, ServiceNotRunning
from foundry_api.wire.dialects.detect import detect_service
from foundry_api.wire.transport import is_loopback

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from foundry_api.engine.endpoint import Origin
    from foundry_api.storage.paths import Paths
    from foundry_api.types.services import ServiceProtocol
    from foundry_api.types.settings import Settings
    from foundry_api.wire.dialects.base import ServiceStatus
    from foundry_api.wire.transport import Transport

__all__ = [
    "KNOWN_PORTS",
    "KNOWN_TIMEOUT_S",
    "find",
    "find_shared",
    "is_open",
    "probe",
    "probe_explicit",
]

log = logging.getLogger("foundry_api")

# Used by early Windows builds and AI Toolkit, by the examples, and by the documentation of 0.10.
KNOWN_PORTS = (5272, 5273, 39839)

CONNECT_TIMEOUT_S = 0.2
RESPONSE_TIMEOUT_S = 0.6

# How long to wait for Foundry's own command, whose service is preferred, after a service was found
# at a known port.
COMMAND_EXTRA_S = 0.8

# For a service that is known to run, by its address or by the process of the shared host. On a busy
# machine it may answer late, and skipping it would start a second engine.
KNOWN_TIMEOUT_S = 5.0

_URL_HINT = (
    "Check base_url, --base-url or FOUNDRY_BASE_URL; without one, a service is found or started."
)


async def find(
    settings: Settings,
    paths: Paths,
    transport: Callable[[], Transport],
    *,
    ports: Sequence[int] = KNOWN_PORTS,
) -> Endpoint | None:
    """Find a service, or return None.

    If the settings have an address, only that is tried, and its failure is raised. Otherwise the
    order is: the shared host, the addresses that Foundry's own command reports, the known ports.
    """
    if settings.base_url is not None:
        return await probe_explicit(settings, settings.base_url, transport)
    if endpoint := await find_shared(paths, transport):
        return endpoint
    by_command = asyncio.ensure_future(_find_by_command(transport))
    try:
        endpoint = await _find_first(
            [probe(f"http://127.0.0.1:{port}", "port", transport) for port in ports]
        )
        # The command is slow and may hang. Once a port has a service, it gets little more time.
        await asyncio.wait([by_command], timeout=None if endpoint is None else COMMAND_EXTRA_S)
        return (by_command.result() if by_command.done() else None) or endpoint
    finally:
        by_command.cancel()
        await asyncio.gather(by_command, return_exceptions=True)


async def probe_explicit(
    settings: Settings,
    base_url: str,
    transport: Callable[[], Transport],
    protocol: ServiceProtocol = "foundry",
) -> Endpoint:
    """Return the service at the configured address, or raise why it cannot be used."""
    if is_loopback(base_url):  # fails fast, before the import of the HTTP library
        timeout_s = settings.connect_timeout_s
        try:
            await _open_connection(base_url, timeout_s)
        except TimeoutError as error:
            raise ConnectTimeout(
                f"{base_url} accepted no connection within {timeout_s:g} s",
                limit_s=timeout_s,
                stage="connecting",
                service=base_url,
            ) from error
        except OSError as error:
            raise _make_refused_error(base_url) from error
    headers = {"Authorization": f"Bearer {settings.api_key}"} if settings.api_key else {}
    try:
        status = await detect_service(
            transport(), base_url, headers, KNOWN_TIMEOUT_S, protocol=protocol
        )
    except ConnectTimeout:
        raise
    except ServiceNotRunning as error:
        if isinstance(error.__cause__, TimeoutError):
            raise ServiceNotRunning(
                f"{base_url} accepts connections but did not answer within {KNOWN_TIMEOUT_S:g} s",
                hint=f"Restart the service. {_URL_HINT}",
                service=base_url,
            ) from error
        raise _make_refused_error(base_url) from error
    return _make_endpoint(base_url, status, "explicit")


async def find_shared(paths: Paths, transport: Callable[[], Transport]) -> Endpoint | None:
    """Return the shared host, if it answers and is the one that wrote the state file."""
    if not paths.state_file.exists():
        return None
    from foundry_api.engine import shared  # noqa: PLC0415 - psutil, which most starts do not need

    endpoint = shared.find_endpoint(paths)
    if endpoint is None:
        return None
    found = await probe(endpoint.base_url, "shared", transport, timeout_s=KNOWN_TIMEOUT_S)
    # Another service may have taken the port since the host wrote its state.
    return endpoint if found is not None and found.pid == endpoint.pid else None


async def probe(
    url: str,
    origin: Origin,
    transport: Callable[[], Transport],
    *,
    timeout_s: float = RESPONSE_TIMEOUT_S,
) -> Endpoint | None:
    """Return the service at an address that may have one, or None on any failure."""
    # The kernel accepts a connection at once, even if the service is slow to answer.
    if not await is_open(url, timeout_s / 3):
        return None
    # A service of another user would receive the prompts.
    if (user := find_other_user(url)) is not None:
        log.warning(
            "%s is skipped: another user of this machine (%s) listens there; to use it, set "
            "base_url or FOUNDRY_BASE_URL",
            url,
            user,
        )
        return None
    try:
        status = await detect_service(transport(), url, {}, timeout_s)
    except FoundryError:
        return None
    return _make_endpoint(url, status, origin)


async def is_open(url: str, timeout_s: float = CONNECT_TIMEOUT_S) -> bool:
    """Return whether anything accepts a connection at an address."""
    try:
        await _open_connection(url, timeout_s)
    except OSError:  # TimeoutError is one
        return False
    return True


async def _open_connection(url: str, timeout_s: float) -> None:
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    async with asyncio.timeout(timeout_s):
        _, writer = await asyncio.open_connection(parts.hostname, port)
    writer.transport.abort()


async def _find_by_command(transport: Callable[[], Transport]) -> Endpoint | None:
    urls = await foundry_command.discover_urls()
    return await _find_first([probe(url, "cli", transport) for url in urls])


async def _find_first(candidates: Iterable[Awaitable[Endpoint | None]]) -> Endpoint | None:
    """Return the first candidate, in their order, that is a service. All run at the same time."""
    tasks = [asyncio.ensure_future(candidate) for candidate in candidates]
    try:
        for task in tasks:
            if endpoint := await task:
                return endpoint
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return None


def _make_endpoint(url: str, status: ServiceStatus, origin: Origin) -> Endpoint:
    return Endpoint(
        base_url=url, service_generation=status.service_generation, origin=origin, pid=status.pid
    )


def _make_refused_error(url: str) -> ServiceNotRunning:
    return ServiceNotRunning(f"nothing accepts connections at {url}", hint=_URL_HINT, service=url)
