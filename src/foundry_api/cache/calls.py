"""Calls with a cache in front of them: found, shared with an identical one in flight, or made."""

from __future__ import annotations

import time
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from foundry_api.cache.eligibility import is_served
from foundry_api.cache.entry import Entry
from foundry_api.cache.key import answer_key
from foundry_api.cache.making import Identity, Making, Means
from foundry_api.cache.reports import Report
from foundry_api.cache.ride import Ride
from foundry_api.cache.shared_work import SharedWork
from foundry_api.chat_call import ChatCall, last_chunk
from foundry_api.errors import CallTimeout, ClientClosed, FoundryError, ServiceError
from foundry_api.messages import ChatRequest, Chunk, Completion, Timings
from foundry_api.resilience.watch import Watch

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Hashable

    from foundry_api.cache.store import ResponseCache
    from foundry_api.call import CallTools, Order

__all__ = ["CachedCall", "CachedCalls"]


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a call before it is made.

    Attributes:
        identity: Who will answer.
        key: The answer's.
        flight: The same for all calls that may share one making.
    """

    identity: Identity
    key: str
    flight: Hashable


class CachedCalls:
    """A client's calls that its cache serves.

    Args:
        tools: What the client's calls share.
        cache: Where the answers are kept.
        hooked: Whether requests pass hooks that may change what is asked, of which no key could
            know; then only calls that ask for it are served.
        now: Seconds since the epoch.

    Attributes:
        means: What answers are made with.
        work: Answers in the making.
    """

    def __init__(
        self,
        tools: CallTools,
        cache: ResponseCache,
        *,
        hooked: bool = False,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.means = Means(tools, cache, now)
        self.work: SharedWork[Chunk, Completion[None]] = SharedWork()
        self._hooked = hooked
        self._known: dict[str, Identity] = {}

    def serves(self, order: Order[ChatRequest]) -> bool:
        """Whether the answer may come from the cache, and be kept there."""
        if self._hooked and order.cache == "auto":
            return False
        only_deterministic = self.means.cache.only_deterministic
        return is_served(order.request, order.cache, only_deterministic=only_deterministic)

    def call(self, order: Order[ChatRequest]) -> CachedCall:
        """One call."""
        return CachedCall(self, order)

    async def identify(self, order: Order[ChatRequest]) -> Identity | None:
        """Who will answer. No model is loaded for it, and nothing is asked a second time.

        While the service is away it is who answered before: what was kept is good still. None
        where that can't be known; then the call itself will tell why.
        """
        name = order.models[0]
        try:
            found = await self._identified(name, download=order.download)
        except ServiceError:
            return self._known.get(name)
        except CallTimeout:
            raise
        except FoundryError:
            return None
        if found is not None:
            self._known[name] = found
        return self._known.get(name)

    async def end(self) -> None:
        """The client is closed: end what is in the making."""
        await self.work.end(ClientClosed("the client was closed during the call"))

    async def _identified(self, name: str, *, download: bool) -> Identity | None:
        service = await self.means.tools.services.having(name)
        if service.connection is None and service.breaker.state != "closed":
            return None  # whether it is back is for the breaker's probe to find out
        connection = service.connection or await service.connect()
        model = await connection.meaning(name, download=download)
        return Identity(model.id, connection.endpoint.generation, connection.endpoint.base_url)


class CachedCall:
    """One call that the cache serves, whole or as a stream.

    Args:
        calls: The client's.
        order: What the caller ordered.
    """

    def __init__(self, calls: CachedCalls, order: Order[ChatRequest]) -> None:
        self._calls = calls
        self._order = order
        self._tools = calls.means.tools
        self._started = self._tools.clock()
        self._whole: Completion[None] | None = None

    @property
    def whole(self) -> Completion[None]:
        """The whole answer, once all of its pieces were taken."""
        assert self._whole is not None  # noqa: S101 - a mistake of ours
        return self._whole

    async def completion(self) -> Completion[None]:
        """The whole answer."""
        known = await self._identified()
        if known is None:
            return await ChatCall(self._tools, self._order).completion()
        if (entry := await self._found(known)) is not None:
            return self._again(entry)
        async with self._joined(known) as ride:
            return await ride.whole()

    async def chunks(self) -> AsyncGenerator[Chunk]:
        """The answer in pieces, cut as they once came."""
        known = await self._identified()
        if known is None:
            source = self._unserved()
        elif (entry := await self._found(known)) is not None:
            self._whole = self._again(entry)
            source = _replayed(entry, self._whole)
        else:
            source = self._followed(known)
        async with aclosing(source):
            async for chunk in source:
                yield chunk

    async def _unserved(self) -> AsyncGenerator[Chunk]:
        call = ChatCall(self._tools, self._order)
        async with aclosing(call.chunks()) as chunks:
            async for chunk in chunks:
                yield chunk
        self._whole = call.whole

    async def _followed(self, known: Known) -> AsyncGenerator[Chunk]:
        async with self._joined(known) as ride:
            position = 0
            while came := await ride.more(position):
                position += len(came)
                for chunk in came:
                    yield chunk
            self._whole = whole = await ride.whole()
        yield last_chunk(whole)

    async def _identified(self) -> Known | None:
        self._tools.bind()
        watch, order = Watch(self._order.deadline), self._order
        try:
            with watch:
                identity = await self._calls.identify(order)
        finally:
            watch.stop()
        if identity is None:
            return None
        key = answer_key(identity.model, identity.generation, order.request)
        # Those share one making that would make it in the same way.
        return Known(identity, key, (key, order.timeout_s, order.models[1:], order.download))

    async def _found(self, known: Known) -> Entry | None:
        """The answer, if it is in the cache, and is not being made right now."""
        if self._tools.closed() or self._calls.work.running(known.flight):
            return None
        watch = Watch(self._order.deadline)
        try:
            with watch:
                kept = await self._calls.means.cache.get(known.key)
        finally:
            watch.stop()
        return Entry.decoded(kept) if kept is not None else None

    def _again(self, entry: Entry) -> Completion[None]:
        whole = entry.completion(Timings(None, self._tools.clock() - self._started, None))
        age_s = self._calls.means.now() - entry.at
        Report(self._tools, self._order).hit(whole, len(entry.pieces), "cache", age_s)
        return whole

    @asynccontextmanager
    async def _joined(self, known: Known) -> AsyncGenerator[Ride]:
        """The making of the answer, begun for this call or before."""
        mine = Making(self._calls.means, known.key, known.identity, self._order)
        async with self._calls.work.join(known.flight, lambda: mine) as flight:
            flight.work.allow(self._order.deadline)
            with Ride(self._tools, self._order, self._started, flight, mine) as ride:
                yield ride


async def _replayed(entry: Entry, whole: Completion[None]) -> AsyncGenerator[Chunk]:
    for chunk in entry.chunks():
        yield chunk
    yield last_chunk(whole)
