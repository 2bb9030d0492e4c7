"""The responses that this client has stored in a service, and when they are deleted.

A stored response keeps a session of its model, and a 2.x service does not unload a model with a
session (docs/foundry-local-service.md, 1D).
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from foundry_api.types.errors import FoundryError, ResponseNotFound
from foundry_api.wire.dialects.base import QUICK_TIMEOUT_S, parse_error
from foundry_api.wire.endpoints.responses import RESPONSES_ROUTE
from foundry_api.wire.transport import MAX_SUCCESS_STATUS, fetch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from foundry_api.types.models import Model
    from foundry_api.wire.dialects.base import Catalog, Dialect, ServiceClient

__all__ = ["Retention", "StoredResponses"]

log = logging.getLogger("foundry_api")

# Until when a stored response is kept. The first two kinds are also deleted when the client closes.
Retention = Literal["until_unload", "conversation", "forever"]

RELEASE_S = 5.0


@dataclass(slots=True)
class _StoredResponse:
    model_id: str
    catalog: Catalog
    retention: Retention


class StoredResponses:
    """The responses that this client has stored in one service."""

    def __init__(self, client: ServiceClient, dialect: Dialect) -> None:
        self._client = client
        self._dialect = dialect
        self._responses: dict[str, _StoredResponse] = {}

    def __contains__(self, response_id: str) -> bool:
        return response_id in self._responses

    @property
    def is_empty(self) -> bool:
        return not self._responses

    def add(self, response_id: str, model: Model, retention: Retention) -> None:
        self._responses[response_id] = _StoredResponse(model.id, model.catalog, retention)

    def forget(self, response_id: str) -> None:
        """Remove a response that was deleted."""
        self._responses.pop(response_id, None)

    def list_catalogs(self, response_id: str) -> tuple[Catalog, ...]:
        """Return the catalogs whose route may have the response, the likeliest first."""
        stored, catalogs = self._responses.get(response_id), self._dialect.catalogs
        if stored is None or stored.catalog not in catalogs:
            return catalogs
        return (stored.catalog, *(other for other in catalogs if other != stored.catalog))

    def for_model(self, model: Model) -> tuple[str, ...]:
        """Return the ids of the responses that keep a model in memory."""
        return tuple(
            response_id
            for response_id, stored in self._responses.items()
            if stored.model_id == model.id
        )

    async def release(self, model: Model) -> bool:
        """Delete the responses of a model that is unloaded. Return whether there were any."""
        response_ids = [
            response_id
            for response_id in self.for_model(model)
            if self._responses[response_id].retention == "until_unload"
        ]
        await self._delete(response_ids)
        return bool(response_ids)

    async def release_all(self) -> None:
        """Delete the responses when the client closes, but those to be kept forever."""
        await self._delete(
            [
                response_id
                for response_id, stored in self._responses.items()
                if stored.retention != "forever"
            ]
        )

    async def _delete(self, response_ids: Iterable[str]) -> None:
        try:
            async with asyncio.timeout(RELEASE_S):
                # The newest first: a response may continue an older one.
                for response_id in reversed(list(response_ids)):
                    stored = self._responses.pop(response_id)
                    path = self._dialect.make_path(
                        stored.catalog, f"{RESPONSES_ROUTE}/{response_id}"
                    )
                    request = self._client.build_request("DELETE", path)
                    try:
                        response = await fetch(
                            self._client.transport, request, timeout_s=QUICK_TIMEOUT_S
                        )
                        if response.status > MAX_SUCCESS_STATUS:
                            raise parse_error(response)
                    except ResponseNotFound:
                        pass  # the service has a limit, and newer responses have replaced it
                    except FoundryError as error:
                        log.debug("the stored response %s was not deleted: %s", response_id, error)
        except TimeoutError:
            log.debug("%s did not delete its stored responses in time", self._client.base_url)
