"""Whether the models that somebody wants are in memory."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from foundry_api.errors import FoundryError
from foundry_api.monitor.latest import Latest

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from foundry_api.connection import Connection

__all__ = ["WantedModels"]

RETRY_S = 30.0
"""Finding what a name means may cost the service 4 s for its catalog, so it is not tried often."""


class WantedModels:
    """Names of models, and the ids that they mean.

    An id, with its version or without, tells itself. What an alias means is asked for in the
    background, because that may take seconds.

    Args:
        names: Aliases, ids, or ids without version, in any case.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._meant: dict[str, str] = {}
        self._asking: Latest[dict[str, str]] = Latest()
        self._connection: Connection | None = None
        self._ask_at = 0.0

    def in_memory(self, loaded: Iterable[str]) -> dict[str, str]:
        """The names whose models are in memory, with their ids."""
        ids = {id_.lower(): id_ for id_ in loaded}
        without_version = {id_.rpartition(":")[0] or id_: full for id_, full in ids.items()}
        found = {
            name: ids.get(self._meant.get(name, name).lower())
            or without_version.get(name.strip().lower())
            for name in self.names
        }
        return {name: id_ for name, id_ in found.items() if id_ is not None}

    async def ask(self, connection: Connection, missing: Iterable[str]) -> None:
        """Find out what names mean, some time soon.

        Args:
            connection: Whom to ask.
            missing: The names.
        """
        if connection is not self._connection:
            await self._asking.forget()
            self._connection, self._meant, self._ask_at = connection, {}, 0.0
        names = [name for name in missing if name not in self._meant]
        now = asyncio.get_running_loop().time()
        if not names or (now < self._ask_at and not self._asking.pending):
            return
        self._ask_at = now + RETRY_S
        if await self._asking.refresh(lambda: _meaning(connection, names), 0.0):
            self._meant |= self._asking.value or {}

    async def aclose(self) -> None:
        """End what goes on in the background."""
        await self._asking.forget()


async def _meaning(connection: Connection, names: Iterable[str]) -> dict[str, str]:
    meant: dict[str, str] = {}
    for name in names:
        try:
            meant[name] = (await connection.resolve(name, download=True)).id
        except FoundryError:  # it is missing either way, which the sample tells
            continue
    return meant
