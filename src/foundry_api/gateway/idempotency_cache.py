"""The responses to requests with idempotency keys, bounded in number, in bytes and in time."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass

from foundry_api.gateway.errors import RequestError
from foundry_api.gateway.shared_room import SharedRoom
from foundry_api.types.errors import FoundryError

__all__ = ["IdempotencyCache", "Outcome", "SavedRequest", "SavedResponse"]

LIFETIME_S = 24 * 3600.0
# Of all keys. Beyond these, the key with the most of them loses its oldest response.
MAX_RESPONSES = 10_000
MAX_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class SavedResponse:
    """A response that is sent again to the same request."""

    body: bytes
    status: int
    content_type: str


# What followers of a running request get: its response, its error, or None if its client left.
Outcome = SavedResponse | RequestError | FoundryError | None


@dataclass(slots=True)
class SavedRequest:
    """A request with an idempotency key, while it runs and for a day afterwards."""

    fingerprint: bytes
    ended: asyncio.Future[Outcome]
    expires_at: float


class IdempotencyCache:
    """The requests with idempotency keys, by the caller's key and theirs."""

    def __init__(self, *, max_responses: int = MAX_RESPONSES, max_bytes: int = MAX_BYTES) -> None:
        self._entries: dict[tuple[str | None, str], SavedRequest] = {}
        self._room: SharedRoom[tuple[str | None, str]] = SharedRoom(
            max_entries=max_responses, max_bytes=max_bytes
        )

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, name: tuple[str | None, str], now: float) -> SavedRequest | None:
        """Return the entry of a request, unless it has expired."""
        entry = self._entries.get(name)
        if entry is not None and entry.expires_at <= now:
            self.remove(name)
            return None
        return entry

    def start(self, name: tuple[str | None, str], fingerprint: bytes) -> SavedRequest:
        """Add the entry of a request that runs; it does not expire."""
        ended: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        entry = self._entries[name] = SavedRequest(fingerprint, ended, math.inf)
        return entry

    def save(self, name: tuple[str | None, str], response: SavedResponse, now: float) -> None:
        """Keep the response of a request that ran."""
        entry = self._entries[name]
        entry.expires_at = now + LIFETIME_S
        entry.ended.set_result(response)
        self._room.add(name[0], name, len(response.body))
        while (surplus := self._room.take_surplus()) is not None:
            del self._entries[surplus]

    def remove(self, name: tuple[str | None, str]) -> None:
        """Forget a request."""
        del self._entries[name]
        self._room.discard(name[0], name)
