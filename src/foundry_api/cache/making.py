"""The making of one answer, for all that wait for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from foundry_api.cache.eligibility import is_kept
from foundry_api.cache.entry import Entry
from foundry_api.cache.shared_work import Work
from foundry_api.chat_call import ChatCall
from foundry_api.events import CacheMiss, CacheStored
from foundry_api.messages import ChatRequest, Chunk, Completion, Timings

if TYPE_CHECKING:
    from collections.abc import Callable

    from foundry_api.cache.store import ResponseCache
    from foundry_api.call import CallTools, Order
    from foundry_api.messages import Generation
    from foundry_api.resilience.deadline import Deadline

__all__ = ["Identity", "Making", "Means"]


@dataclass(frozen=True, slots=True)
class Identity:
    """Who will answer.

    Attributes:
        model: Id of the model.
        generation: Of the service.
        service: Its base URL.
    """

    model: str
    generation: Generation
    service: str


@dataclass(frozen=True, slots=True)
class Means:
    """What makings are made with.

    Attributes:
        tools: What the client's calls share.
        cache: Where the answers are kept.
        now: Seconds since the epoch.
    """

    tools: CallTools
    cache: ResponseCache
    now: Callable[[], float]


class Making(Work[Chunk, Completion[None]]):
    """Makes an answer and keeps it, unless another program just did.

    Args:
        means: What it is made with.
        key: The answer's.
        identity: Who is expected to answer.
        order: What the first caller ordered.

    Attributes:
        call: The call of the engine, once it was made.
    """

    def __init__(
        self, means: Means, key: str, identity: Identity, order: Order[ChatRequest]
    ) -> None:
        self.call: ChatCall | None = None
        self._means = means
        self._key = key
        self._identity = identity
        self._order = order

    def allow(self, deadline: Deadline) -> None:
        """See `Work.allow`."""
        if deadline.at > self._order.deadline.at:
            self._order = msgspec.structs.replace(self._order, deadline=deadline)
        if self.call is not None:
            self.call.allow(deadline)

    async def run(self, receive: Callable[[list[Chunk]], None]) -> Completion[None]:
        """See `Work.run`. The whole answer comes of it."""
        async with self._means.cache.turn(self._key) as kept:
            entry = Entry.decoded(kept) if kept is not None else None
            if entry is None:
                return await self._called(receive)
            receive(entry.chunks())
            return entry.completion(Timings(None, 0.0, None))  # every caller has his own

    async def _called(self, receive: Callable[[list[Chunk]], None]) -> Completion[None]:
        means, identity, pieces = self._means, self._identity, list[Chunk]()

        def note(came: list[Chunk]) -> None:
            pieces.extend(came)
            receive(came)

        means.tools.events.emit(CacheMiss(model=identity.model, service=identity.service))
        self.call = ChatCall(means.tools, self._order)
        whole = await self.call.completion(note)
        await self._keep(pieces, whole)
        return whole

    async def _keep(self, pieces: list[Chunk], whole: Completion[None]) -> None:
        means, identity = self._means, self._identity
        # Another model may have answered in place of the first, or a service that came after it.
        expected = (whole.model, whole.generation) == (identity.model, identity.generation)
        if not expected or not is_kept(whole.finish_reason):
            return
        answer = Entry.of(pieces, whole, at=means.now()).encoded()
        if await means.cache.put(self._key, answer, model=whole.model):
            stored = CacheStored(model=whole.model, service=whole.service, bytes=len(answer))
            means.tools.events.emit(stored)
