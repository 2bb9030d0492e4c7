"""The responses that a client had a service store: they are released when nobody needs them.

A stored response keeps a session of its model, and a 2.x service unloads no model that has one
(foundry-local-service.md, 1D).
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

__all__ = ["Hold", "StoredResponses"]

log = logging.getLogger("foundry_api")

Hold = Literal["free", "talking", "kept"]
"""Until when a stored response stays: until its model is unloaded, until the conversation ends that
it is part of, or until somebody deletes it. The client's own end ends the first two."""

RELEASE_S = 5.0


@dataclass(slots=True)
class _Kept:
    """Where a response is, and whether somebody still wants it."""

    model_id: str
    catalog: Catalog
    retain: Hold


class StoredResponses:
    """Those of one service that this client had stored.

    Args:
        wire: How to reach it.
        dialect: How to talk to it.
    """

    def __init__(self, wire: ServiceClient, dialect: Dialect) -> None:
        self._wire = wire
        self._dialect = dialect
        self._kept: dict[str, _Kept] = {}

    def __contains__(self, response_id: str) -> bool:
        return response_id in self._kept

    def add(self, response_id: str, model: Model, hold: Hold) -> None:
        """Take note of one.

        Args:
            response_id: Its id.
            model: The model that made it.
            hold: Until when it stays.
        """
        self._kept[response_id] = _Kept(model.id, model.catalog, hold)

    def forget(self, response_id: str) -> None:
        """It is gone."""
        self._kept.pop(response_id, None)

    def catalogs(self, response_id: str) -> tuple[Catalog, ...]:
        """Where a response may be, the likeliest first."""
        kept = self._kept.get(response_id)
        catalogs = self._dialect.catalogs
        if kept is None or kept.catalog not in catalogs:
            return catalogs
        return (kept.catalog, *(each for each in catalogs if each != kept.catalog))

    def for_model(self, model: Model) -> tuple[str, ...]:
        """The ids of those that keep a model in memory."""
        return tuple(name for name, kept in self._kept.items() if kept.model_id == model.id)

    async def release(self, model: Model) -> bool:
        """Delete those of a model that nobody holds. Whether there were any."""
        free = [name for name in self.for_model(model) if self._kept[name].retain == "free"]
        await self._delete(free)
        return bool(free)

    async def release_all(self) -> None:
        """Delete those of all models, but those that are to be kept: the client closes."""
        await self._delete([name for name, kept in self._kept.items() if kept.retain != "kept"])

    async def _delete(self, names: Iterable[str]) -> None:
        try:
            async with asyncio.timeout(RELEASE_S):
                for name in reversed(list(names)):  # those that are chained to others first
                    await self._delete_one(name, self._kept.pop(name))
        except TimeoutError:
            log.debug("%s did not delete its stored responses in time", self._wire.base_url)

    async def _delete_one(self, name: str, kept: _Kept) -> None:
        path = self._dialect.make_path(kept.catalog, f"{RESPONSES_ROUTE}/{name}")
        request = self._wire.build_request("DELETE", path)
        try:
            reply = await fetch(self._wire.transport, request, timeout_s=QUICK_TIMEOUT_S)
            if reply.status > MAX_SUCCESS_STATUS:
                raise parse_error(reply)
        except ResponseNotFound:
            return  # newer ones pushed it out
        except FoundryError as error:
            log.debug("the stored response %s was not deleted: %s", name, error)
