"""Finding a service that runs already.

Nothing is believed before it answered over HTTP with a known fingerprint. Nothing at all is sent
before a TCP connection was accepted, so that on a machine without any service this takes a few
milliseconds and imports no HTTP library.
"""

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

KNOWN_PORTS = (5272, 5273, 39839)
"""Of early Windows builds and AI Toolkit, of the examples, of the documentation of 0.10."""

CONNECT_TIMEOUT_S = 0.2
RESPONSE_TIMEOUT_S = 0.6
CLI_PREFERENCE_S = 0.8
KNOWN_TIMEOUT_S = 5.0
"""For a service that is known to be there: by its address, or by a living process of ours.

A busy machine may keep it from answering for a while, and to pass it over would start a second
engine beside it.
"""

_CHECK_URL = (
    "Check base_url, --base-url or FOUNDRY_BASE_URL; without one, a service is found or started."
)


async def find(
    settings: Settings,
    paths: Paths,
    transport: Callable[[], Transport],
    *,
    ports: Sequence[int] = KNOWN_PORTS,
) -> Endpoint | None:
    """The first service that answers, or None.

    An explicit address is the only one looked at. Otherwise in this order: the shared host, what
    Foundry's own command names, the known ports; services of other users are passed over.

    Args:
        settings: Says whether an address was given.
        paths: Where the shared host's state lies.
        transport: Gives the transport to ask with; called only when something accepts.
        ports: The known ports.

    Raises:
        ServiceNotRunning: Nothing answers at the explicit address, or not in time.
        ConfigurationError: The service at the explicit address refuses the credential.
        ProtocolError: Something else answers at the explicit address.
    """
    if settings.base_url is not None:
        return await probe_explicit(settings, settings.base_url, transport)
    if endpoint := await find_shared(paths, transport):
        return endpoint
    named = asyncio.ensure_future(_find_by_command(transport))
    try:
        endpoint = await _find_first(
            [probe(f"http://127.0.0.1:{port}", "port", transport) for port in ports]
        )
        # The command is slow, and may hang: where a service is found, it is not waited for long.
        await asyncio.wait([named], timeout=None if endpoint is None else CLI_PREFERENCE_S)
        return (named.result() if named.done() else None) or endpoint
    finally:
        named.cancel()
        await asyncio.gather(named, return_exceptions=True)


async def probe_explicit(
    settings: Settings, base_url: str, transport: Callable[[], Transport]
) -> Endpoint:
    """The service at the address that the caller gave.

    Raises:
        ServiceNotRunning: Nothing answers there, or not in time.
        ConnectTimeout: Nothing accepts a connection there in time.
        ConfigurationError: The service refuses the credential.
        ProtocolError: Something else answers there.
    """
    if is_loopback(base_url):  # a look that needs no HTTP library, whose import takes a while
        await _require_open(base_url, settings.connect_timeout_s)
    headers = {"Authorization": f"Bearer {settings.api_key}"} if settings.api_key else {}
    try:
        status = await detect_service(transport(), base_url, headers, KNOWN_TIMEOUT_S)
    except ConnectTimeout:
        raise
    except ServiceNotRunning as error:
        if isinstance(error.__cause__, TimeoutError):
            raise _make_no_answer_error(base_url) from error
        raise _make_refused_error(base_url) from error
    return _make_endpoint(base_url, status, "explicit")


async def find_shared(paths: Paths, transport: Callable[[], Transport]) -> Endpoint | None:
    """The shared host, if it answers and is the one that wrote the state."""
    if not paths.state_file.exists():
        return None
    from foundry_api.engine import shared  # noqa: PLC0415 - psutil, which most starts do without

    known = shared.find_endpoint(paths)
    if known is None:
        return None
    answered = await probe(known.base_url, "shared", transport, timeout_s=KNOWN_TIMEOUT_S)
    return known if answered is not None and answered.pid == known.pid else None


async def probe(
    url: str,
    origin: Origin,
    transport: Callable[[], Transport],
    *,
    timeout_s: float = RESPONSE_TIMEOUT_S,
) -> Endpoint | None:
    """The service at an address that nobody gave, or None: any failure means there is none.

    One that another user of this machine runs is passed over: it would get the prompts.
    """
    if not await is_open(url, timeout_s / 3):  # the kernel connects; only the answer takes time
        return None
    if (user := find_other_user(url)) is not None:
        log.warning(
            "%s is passed over: another user of this machine (%s) listens there; give it as "
            "base_url or FOUNDRY_BASE_URL to use it",
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
    """Whether anything accepts a connection at an address."""
    try:
        await _probe_port(url, timeout_s)
    except OSError:  # TimeoutError is one
        return False
    return True


async def _require_open(url: str, timeout_s: float) -> None:
    try:
        await _probe_port(url, timeout_s)
    except TimeoutError as error:
        raise ConnectTimeout(
            f"{url} accepted no connection within {timeout_s:g} s",
            limit_s=timeout_s,
            stage="connecting",
            service=url,
        ) from error
    except OSError as error:
        raise _make_refused_error(url) from error


async def _probe_port(url: str, timeout_s: float) -> None:
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    async with asyncio.timeout(timeout_s):
        _, writer = await asyncio.open_connection(parts.hostname, port)
    writer.transport.abort()


async def _find_by_command(transport: Callable[[], Transport]) -> Endpoint | None:
    """The first service of those that Foundry's own command names, or None."""
    urls = await foundry_command.discover_urls()
    return await _find_first([probe(url, "cli", transport) for url in urls])


async def _find_first(candidates: Iterable[Awaitable[Endpoint | None]]) -> Endpoint | None:
    """The first candidate, by order, that is a service. All are looked at together."""
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
    return ServiceNotRunning(f"nothing accepts connections at {url}", hint=_CHECK_URL, service=url)


def _make_no_answer_error(url: str) -> ServiceNotRunning:
    return ServiceNotRunning(
        f"{url} accepts connections but did not answer within {KNOWN_TIMEOUT_S:g} s",
        hint=f"Restart the service. {_CHECK_URL}",
        service=url,
    )
