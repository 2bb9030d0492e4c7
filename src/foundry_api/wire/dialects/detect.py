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
from foundry_api.wire.dialects.base import BAD_JSON, ServiceStatus, error_of, folded
from foundry_api.wire.dialects.cli010 import Cli010Dialect
from foundry_api.wire.dialects.legacy import LegacyDialect
from foundry_api.wire.dialects.sdk1 import Sdk1Dialect
from foundry_api.wire.dialects.sdk2 import Sdk20Dialect, Sdk21Dialect
from foundry_api.wire.transport import Request, fetch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from foundry_api.types.messages import Generation
    from foundry_api.wire.dialects.base import Dialect, Wire
    from foundry_api.wire.transport import Reply, Transport

__all__ = ["dialect_of", "identify"]


MAX_STATUS_BYTES = 64 * 1024
MAX_LIST_BYTES = 16 * 2**20
"""A service lists its whole catalog, which is too long for the other bound."""

_OK = 200
_REFUSED = frozenset({401, 403})
_MISSING = frozenset({404, 405})


async def identify(
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
    asked = _Asked(transport, base_url, headers, timeout_s)
    try:
        async with asyncio.timeout(timeout_s):
            return await _identified(asked)
    except TimeoutError as error:
        raise ServiceNotRunning(
            f"{base_url} did not answer within {timeout_s:g} s", service=base_url
        ) from error


class _List(msgspec.Struct, frozen=True):
    data: list[dict[str, Any]]


class _Asked:
    """One service, asked route by route."""

    def __init__(
        self, transport: Transport, base_url: str, headers: Mapping[str, str], timeout_s: float
    ) -> None:
        self.base_url = base_url
        self._transport = transport
        self._headers = headers
        self._timeout_s = timeout_s

    async def get(self, path: str, *, max_bytes: int = MAX_STATUS_BYTES) -> Reply:
        """The answer of one route.

        Raises:
            ConfigurationError: The service wants another credential.
        """
        request = Request("GET", f"{self.base_url}{path}", self._headers)
        reply = await fetch(
            self._transport, request, timeout_s=self._timeout_s, max_bytes=max_bytes
        )
        if reply.status in _REFUSED:
            raise ConfigurationError(
                f"{self.base_url} refuses the credential",
                hint="Give its key as api_key or FOUNDRY_API_KEY.",
                service=self.base_url,
                status=reply.status,
            )
        return reply


async def _identified(asked: _Asked) -> ServiceStatus:
    reply = await asked.get("/status")
    if reply.status == _OK:
        return await _sdk(asked, folded(reply.body))
    if reply.status in _MISSING:
        return await _cli(asked)
    raise _foreign(asked)


async def _sdk(asked: _Asked, told: Mapping[str, Any]) -> ServiceStatus:
    """2.x says `modelCachePath` and `pid`, 1.x `modelDirPath`; only 2.1 has the local catalog."""
    pid = told.get("pid")
    if isinstance(cache := told.get("modelcachepath"), str) and isinstance(pid, int):
        return ServiceStatus(await _sdk2(asked), pid, cache)
    if isinstance(cache := told.get("modeldirpath"), str):
        return ServiceStatus("sdk-1", cache_dir=cache)
    raise _foreign(asked)


async def _sdk2(asked: _Asked) -> Generation:
    reply = await asked.get("/catalogs/local/v1/models", max_bytes=MAX_LIST_BYTES)
    if reply.status in _MISSING:
        return "sdk-2.0"
    if reply.status == _OK:
        return "sdk-2.1"
    raise error_of(reply).located(service=asked.base_url)


async def _cli(asked: _Asked) -> ServiceStatus:
    reply = await asked.get("/openai/status")
    told = folded(reply.body)
    if reply.status == _OK and ("modeldirpath" in told or "endpoints" in told):
        cache = told.get("modeldirpath")
        return ServiceStatus("legacy", cache_dir=cache if isinstance(cache, str) else None)
    listed = await asked.get("/v1/models", max_bytes=MAX_LIST_BYTES)
    if "isdelta" in folded(listed.body) or "isdelta" in _first_item(listed):
        return ServiceStatus("cli-0.10")
    if listed.status != _OK and isinstance(error_of(listed), CatalogUnavailable):
        return ServiceStatus("cli-0.10")  # as its core, SDK 1.x, answers without network
    raise _foreign(asked)


def _first_item(reply: Reply) -> dict[str, Any]:
    try:
        items = msgspec.json.decode(reply.body, type=_List).data
    except BAD_JSON:
        return {}
    return {key.lower(): value for key, value in items[0].items()} if items else {}


def _foreign(asked: _Asked) -> ProtocolError:
    return ProtocolError(f"{asked.base_url} is not a Foundry Local service", service=asked.base_url)


_DIALECTS: Mapping[Generation, Callable[[Wire], Dialect]] = {
    "legacy": LegacyDialect,
    "cli-0.10": Cli010Dialect,
    "sdk-1": Sdk1Dialect,
    "sdk-2.0": Sdk20Dialect,
    "sdk-2.1": Sdk21Dialect,
}


def dialect_of(generation: Generation, wire: Wire) -> Dialect:
    """The dialect of a generation, for one service.

    Raises:
        UnsupportedFeature: There is none for it.
    """
    if generation not in _DIALECTS:
        raise UnsupportedFeature(
            f"the service is of generation {generation}, which has no dialect yet",
            hint="Use service='embedded', or a service of the Foundry Local SDK.",
        ).located(service=wire.base_url)
    return _DIALECTS[generation](wire)
