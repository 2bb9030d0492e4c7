"""Which generation answers at an address. None of them says, so their routes are looked at."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec

from foundry_api.types.errors import (
    CatalogUnavailable,
    ConfigurationError,
    ProtocolError,
    ServiceNotRunning,
    UnsupportedFeature,
)
from foundry_api.wire.dialects.base import BAD_JSON, ServiceStatus, lowercase_keys, parse_error
from foundry_api.wire.dialects.cli010 import Cli010Dialect
from foundry_api.wire.dialects.legacy import LegacyDialect
from foundry_api.wire.dialects.sdk1 import Sdk1Dialect
from foundry_api.wire.dialects.sdk2 import Sdk20Dialect, Sdk21Dialect
from foundry_api.wire.transport import Request, fetch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from foundry_api.types.messages import ServiceGeneration
    from foundry_api.wire.dialects.base import Dialect, ServiceClient
    from foundry_api.wire.transport import BufferedResponse, Transport

__all__ = ["detect_service", "get_dialect"]


MAX_STATUS_BYTES = 64 * 1024
MAX_LIST_BYTES = 16 * 2**20
"""A service lists its whole catalog, which is too long for the other bound."""

_OK = 200
_UNAUTHORIZED = frozenset({401, 403})
_NOT_FOUND = frozenset({404, 405})


async def detect_service(
    transport: Transport, base_url: str, headers: Mapping[str, str], timeout_s: float
) -> ServiceStatus:
    """Look at a service's routes until its generation is known.

    Args:
        transport: Sends the requests.
        base_url: The service's address, without a slash at its end.
        headers: Sent with every request, such as a credential.
        timeout_s: For all requests together, in seconds.

    Raises:
        ServiceNotRunning: Nothing answers there, or not in time.
        ConfigurationError: The service wants another credential.
        ProtocolError: What answers is not a Foundry Local service.
    """
    fingerprint = _Fingerprint(transport, base_url, headers, timeout_s)
    try:
        async with asyncio.timeout(timeout_s):
            return await _match_fingerprint(fingerprint)
    except TimeoutError as error:
        raise ServiceNotRunning(
            f"{base_url} did not answer within {timeout_s:g} s", service=base_url
        ) from error


class _List(msgspec.Struct, frozen=True):
    data: list[dict[str, Any]]


class _Fingerprint:
    """One service, asked route by route."""

    def __init__(
        self, transport: Transport, base_url: str, headers: Mapping[str, str], timeout_s: float
    ) -> None:
        self.base_url = base_url
        self._transport = transport
        self._headers = headers
        self._timeout_s = timeout_s

    async def get(self, path: str, *, max_bytes: int = MAX_STATUS_BYTES) -> BufferedResponse:
        """The answer of one route.

        Raises:
            ConfigurationError: The service wants another credential.
        """
        request = Request("GET", f"{self.base_url}{path}", self._headers)
        response = await fetch(
            self._transport, request, timeout_s=self._timeout_s, max_bytes=max_bytes
        )
        if response.status in _UNAUTHORIZED:
            raise ConfigurationError(
                f"{self.base_url} refuses the credential",
                hint="Give its key as api_key or FOUNDRY_API_KEY.",
                service=self.base_url,
                status=response.status,
            )
        return response


async def _match_fingerprint(fingerprint: _Fingerprint) -> ServiceStatus:
    response = await fingerprint.get("/status")
    if response.status == _OK:
        return await _match_sdk(fingerprint, lowercase_keys(response.body))
    if response.status in _NOT_FOUND:
        return await _match_cli(fingerprint)
    raise _unknown_service(fingerprint)


async def _match_sdk(fingerprint: _Fingerprint, status: Mapping[str, Any]) -> ServiceStatus:
    """2.x says `modelCachePath` and `pid`, 1.x `modelDirPath`; only 2.1 has the local catalog."""
    pid = status.get("pid")
    if isinstance(cache_dir := status.get("modelcachepath"), str) and isinstance(pid, int):
        return ServiceStatus(await _match_sdk2(fingerprint), pid, cache_dir)
    if isinstance(cache_dir := status.get("modeldirpath"), str):
        return ServiceStatus("sdk-1", cache_dir=cache_dir)
    raise _unknown_service(fingerprint)


async def _match_sdk2(fingerprint: _Fingerprint) -> ServiceGeneration:
    response = await fingerprint.get("/catalogs/local/v1/models", max_bytes=MAX_LIST_BYTES)
    if response.status in _NOT_FOUND:
        return "sdk-2.0"
    if response.status == _OK:
        return "sdk-2.1"
    raise parse_error(response).with_context(service=fingerprint.base_url)


async def _match_cli(fingerprint: _Fingerprint) -> ServiceStatus:
    response = await fingerprint.get("/openai/status")
    status = lowercase_keys(response.body)
    if response.status == _OK and ("modeldirpath" in status or "endpoints" in status):
        cache_dir = status.get("modeldirpath")
        return ServiceStatus("legacy", cache_dir=cache_dir if isinstance(cache_dir, str) else None)
    listing = await fingerprint.get("/v1/models", max_bytes=MAX_LIST_BYTES)
    if "isdelta" in lowercase_keys(listing.body) or "isdelta" in _get_first_item(listing):
        return ServiceStatus("cli-0.10")
    if listing.status != _OK and isinstance(parse_error(listing), CatalogUnavailable):
        return ServiceStatus("cli-0.10")  # as its core, SDK 1.x, answers without network
    raise _unknown_service(fingerprint)


def _get_first_item(response: BufferedResponse) -> dict[str, Any]:
    try:
        items = msgspec.json.decode(response.body, type=_List).data
    except BAD_JSON:
        return {}
    return {key.lower(): value for key, value in items[0].items()} if items else {}


def _unknown_service(fingerprint: _Fingerprint) -> ProtocolError:
    return ProtocolError(
        f"{fingerprint.base_url} is not a Foundry Local service", service=fingerprint.base_url
    )


_DIALECTS: Mapping[ServiceGeneration, Callable[[ServiceClient], Dialect]] = {
    "legacy": LegacyDialect,
    "cli-0.10": Cli010Dialect,
    "sdk-1": Sdk1Dialect,
    "sdk-2.0": Sdk20Dialect,
    "sdk-2.1": Sdk21Dialect,
}


def get_dialect(service_generation: ServiceGeneration, client: ServiceClient) -> Dialect:
    """The dialect of a generation, for one service.

    Raises:
        UnsupportedFeature: There is none for it.
    """
    if service_generation not in _DIALECTS:
        raise UnsupportedFeature(
            f"the service is of generation {service_generation}, which has no dialect yet",
            hint="Use service='embedded', or a service of the Foundry Local SDK.",
        ).with_context(service=client.base_url)
    return _DIALECTS[service_generation](client)
