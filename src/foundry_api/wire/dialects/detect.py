"""Detects the generation of a service by its routes, because no service reports it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec

from foundry_api.types.access_errors import AuthenticationFailed
from foundry_api.types.errors import (
    CatalogUnavailable,
    ConfigurationError,
    FoundryError,
    ProtocolError,
    ServiceNotRunning,
    UnsupportedFeature,
)
from foundry_api.types.values import is_object
from foundry_api.wire.dialects.base import ServiceStatus, lowercase_keys, parse_error
from foundry_api.wire.dialects.cli010 import Cli010Dialect
from foundry_api.wire.dialects.gateway import GatewayDialect, parse_gateway_status
from foundry_api.wire.dialects.legacy import LegacyDialect
from foundry_api.wire.dialects.openai import MODELS_ROUTE, OpenAIDialect, parse_models
from foundry_api.wire.dialects.sdk1 import Sdk1Dialect
from foundry_api.wire.dialects.sdk2 import Sdk20Dialect, Sdk21Dialect
from foundry_api.wire.error_codes import get_error_class
from foundry_api.wire.errors import NOT_JSON
from foundry_api.wire.transport import OK, Request, fetch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from foundry_api.types.messages import ServiceGeneration
    from foundry_api.types.services import ServiceProtocol
    from foundry_api.wire.dialects.base import Dialect, ServiceClient
    from foundry_api.wire.transport import BufferedResponse, Transport

__all__ = ["detect_service", "get_dialect"]


MAX_STATUS_BYTES = 64 * 1024
MAX_LIST_BYTES = 16 * 2**20  # a service may list its complete catalog

BAD_REQUEST, UNAUTHORIZED, FORBIDDEN = 400, 401, 403
_NOT_FOUND = frozenset({404, 405})

# What servers answer to plain HTTP on a port of HTTPS: a gateway of ours; nginx; Go; Apache.
_NEEDS_HTTPS = (
    b"https_required",
    b"plain http request was sent to https port",
    b"http request to an https server",
    b"speaking plain http to an ssl-enabled",
)

_DIALECTS: Mapping[ServiceGeneration, Callable[[ServiceClient], Dialect]] = {
    "legacy": LegacyDialect,
    "cli-0.10": Cli010Dialect,
    "sdk-1": Sdk1Dialect,
    "sdk-2.0": Sdk20Dialect,
    "sdk-2.1": Sdk21Dialect,
    "gateway": GatewayDialect,
    "openai": OpenAIDialect,
}


class _Listing(msgspec.Struct, frozen=True):
    data: list[dict[str, Any]]


async def detect_service(
    transport: Transport,
    base_url: str,
    headers: Mapping[str, str],
    timeout_s: float,
    *,
    protocol: ServiceProtocol = "foundry",
) -> ServiceStatus:
    """Probe a service's routes until its generation is known, within `timeout_s` in total.

    A server of OpenAI's API is not one of Foundry Local, so its `protocol` has to be given.
    """

    async def get(path: str, max_bytes: int = MAX_STATUS_BYTES) -> BufferedResponse:
        request = Request("GET", f"{base_url}{path}", headers)
        response = await fetch(transport, request, timeout_s=timeout_s, max_bytes=max_bytes)
        if response.status == BAD_REQUEST and any(
            text in response.body.lower() for text in _NEEDS_HTTPS
        ):
            https_url = base_url.replace("http://", "https://", 1)
            raise ProtocolError(
                f"{base_url} speaks HTTPS, not HTTP",
                hint=f"Use {https_url}.",
                service=base_url,
                status=response.status,
            )
        if response.status in {UNAUTHORIZED, FORBIDDEN}:
            if response.status == FORBIDDEN and (denial := _find_refusal(response)):
                raise denial.with_context(service=base_url)
            refusal = (
                AuthenticationFailed if response.status == UNAUTHORIZED else ConfigurationError
            )
            raise refusal(
                f"{base_url} refuses the credential",
                hint="Give its key as api_key or FOUNDRY_API_KEY.",
                service=base_url,
                status=response.status,
            )
        return response

    try:
        async with asyncio.timeout(timeout_s):
            if protocol == "openai":
                status = await _match_openai(get, base_url)
            else:
                status = await _match_routes(get, base_url)
    except TimeoutError as error:
        raise ServiceNotRunning(
            f"{base_url} did not answer within {timeout_s:g} s", service=base_url
        ) from error
    if status is None:
        kind = "server of OpenAI's API" if protocol == "openai" else "Foundry Local service"
        raise ProtocolError(f"{base_url} is not a {kind}", service=base_url)
    return status


async def _match_routes(
    get: Callable[..., Awaitable[BufferedResponse]], base_url: str
) -> ServiceStatus | None:
    response = await get("/status")
    if response.status in _NOT_FOUND:
        return await _match_cli(get)
    if response.status != OK:
        if refusal := _find_refusal(response):
            raise refusal.with_context(service=base_url)
        return None
    status = lowercase_keys(response.body)
    pid = status.get("pid")
    if isinstance(cache_dir := status.get("modelcachepath"), str) and isinstance(pid, int):
        # SDK 2.x. Only 2.1 and later have a local catalog.
        listing = await get("/catalogs/local/v1/models", MAX_LIST_BYTES)
        if listing.status in _NOT_FOUND:
            return ServiceStatus("sdk-2.0", pid, cache_dir)
        if listing.status == OK:
            return ServiceStatus("sdk-2.1", pid, cache_dir)
        # It exists but fails: guessing 2.0 here would hide local models.
        raise parse_error(listing).with_context(service=base_url)
    if isinstance(cache_dir := status.get("modeldirpath"), str):
        return ServiceStatus("sdk-1", cache_dir=cache_dir)
    return parse_gateway_status(response.body)


def _find_refusal(response: BufferedResponse) -> FoundryError | None:
    """Return the error of a gateway that refuses the request for now, or from this key."""
    error = lowercase_keys(response.body).get("error")
    is_known = is_object(error) and get_error_class(error) is not None
    return parse_error(response) if is_known else None


async def _match_openai(
    get: Callable[..., Awaitable[BufferedResponse]], base_url: str
) -> ServiceStatus | None:
    response = await get(MODELS_ROUTE, MAX_LIST_BYTES)
    if response.status == OK:
        return ServiceStatus("openai") if parse_models(response.body) is not None else None
    if response.status in _NOT_FOUND:
        return None
    raise parse_error(response).with_context(service=base_url)  # such as while it loads a model


async def _match_cli(get: Callable[..., Awaitable[BufferedResponse]]) -> ServiceStatus | None:
    response = await get("/openai/status")
    status = lowercase_keys(response.body)
    if response.status == OK and ("modeldirpath" in status or "endpoints" in status):
        cache_dir = status.get("modeldirpath")
        return ServiceStatus("legacy", cache_dir=cache_dir if isinstance(cache_dir, str) else None)
    # The 0.10 server has no status route. Its listing has the member IsDelta, at the top level or
    # in its items; without network it fails with the catalog error of its core, SDK 1.x.
    listing = await get("/v1/models", MAX_LIST_BYTES)
    if "isdelta" in lowercase_keys(listing.body) or "isdelta" in _get_first_item(listing):
        return ServiceStatus("cli-0.10")
    if listing.status != OK and isinstance(parse_error(listing), CatalogUnavailable):
        return ServiceStatus("cli-0.10")
    return None


def _get_first_item(response: BufferedResponse) -> dict[str, Any]:
    try:
        items = msgspec.json.decode(response.body, type=_Listing).data
    except NOT_JSON:
        return {}
    return {key.lower(): value for key, value in items[0].items()} if items else {}


def get_dialect(service_generation: ServiceGeneration, client: ServiceClient) -> Dialect:
    if service_generation not in _DIALECTS:
        raise UnsupportedFeature(
            f"the service is of generation {service_generation}, which has no dialect yet",
            hint="Use service='embedded', or a service of the Foundry Local SDK.",
        ).with_context(service=client.base_url)
    return _DIALECTS[service_generation](client)
