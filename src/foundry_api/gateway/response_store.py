"""Responses of the Responses API, kept in memory so that they can be read and continued."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from foundry_api.gateway.shared_room import SharedRoom

if TYPE_CHECKING:
    from foundry_api.types.messages import Message

__all__ = ["ResponseRun", "ResponseStore", "StoredResponse"]

# Of all keys. Beyond these, the key with the most of them loses its oldest response.
MAX_RESPONSES = 1024
MAX_BYTES = 64 * 2**20


class ResponseRun(Protocol):
    """A response that is generated in the background."""

    async def cancel(self) -> None:
        """End it, and wait until it has ended."""
        ...


@dataclass(slots=True)
class StoredResponse:
    """A response.

    Attributes:
        id: The id of the response.
        owner: The id of the key that created it; None without keys. Other keys cannot read it.
        response: The response as JSON.
        input_items: The items of the input, each as JSON.
        messages: The conversation with the answer, without instructions.
        created_at: When it was created, in seconds since the epoch.
        is_background: Whether it was created to run in the background.
        run: Its generation, while it runs in the background.
    """

    id: str
    owner: str | None
    response: bytes
    input_items: tuple[bytes, ...]
    messages: tuple[Message, ...]
    created_at: float = 0.0
    is_background: bool = False
    run: ResponseRun | None = None

    @property
    def size(self) -> int:
        """The bytes of its texts. The conversation counts too, which continued ones repeat."""
        return (
            len(self.response)
            + sum(map(len, self.input_items))
            + sum(len(message.content) for message in self.messages)
        )


class ResponseStore:
    """The last responses, bounded in number and in bytes."""

    def __init__(self, *, max_responses: int = MAX_RESPONSES, max_bytes: int = MAX_BYTES) -> None:
        self._responses: dict[str, StoredResponse] = {}
        self._room: SharedRoom[str] = SharedRoom(max_entries=max_responses, max_bytes=max_bytes)

    def __len__(self) -> int:
        return len(self._responses)

    def put(self, stored: StoredResponse) -> None:
        """Store a response, or its new state."""
        self._responses[stored.id] = stored
        self._room.add(stored.owner, stored.id, stored.size)
        while (surplus := self._room.take_surplus()) is not None:
            del self._responses[surplus]

    def get(self, identifier: str, owner: str | None) -> StoredResponse | None:
        """Return a response; None if it is unknown or belongs to another key."""
        stored = self._responses.get(identifier)
        if stored is None or stored.owner != owner:
            return None
        self._room.use(owner, identifier)
        return stored

    def list(self, owner: str | None) -> list[StoredResponse]:
        """Return the responses of a key, the oldest first."""
        owned = [stored for stored in self._responses.values() if stored.owner == owner]
        return sorted(owned, key=lambda stored: stored.created_at)

    def remove(self, stored: StoredResponse) -> None:
        """Forget a response, if it is stored."""
        if self._responses.pop(stored.id, None) is not None:
            self._room.discard(stored.owner, stored.id)
