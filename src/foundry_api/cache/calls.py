"""Calls with a cache in front of them: found, shared with an identical one in flight, or made."""

from __future__ import annotations

import time
from contextlib import aclosing
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import msgspec

from foundry_api.cache.eligibility import is_served
from foundry_api.cache.entry import Entry
from foundry_api.cache.key import answer_key
from foundry_api.cache.making import Identity, Item, Making, Means
from foundry_api.cache.reports import Report
from foundry_api.cache.shared_stream import SharedStreams
from foundry_api.chat_call import ChatCall, last_chunk
from foundry_api.errors import (
    CallTimeout,
    ClientClosed,
    DeadlineExceeded,
    FoundryError,
    ServiceError,
    StreamInterrupted,
)
from foundry_api.messages import ChatRequest, Chunk, Completion, Timings
from foundry_api.resilience.deadline import Deadline
from foundry_api.resilience.watch import Watch

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from foundry_api.cache.store import ResponseCache
    from foundry_api.call import CallTools, Order
    from foundry_api.events import CacheSource

__all__ = ["CachedCall", "CachedCalls"]

GRACE_S = 0.1
"""The call of the engine ends at the deadline by itself and tells more; for so long it may."""


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
        streams: Answers in the making.
        makings: What makes them.
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
        self.streams: SharedStreams[Item] = SharedStreams()
        self.makings: WeakValueDictionary[object, Making] = WeakValueDictionary()
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
            self._known[name] = await self._identified(name, download=order.download)
        except ServiceError:
            return self._known.get(name)
        except CallTimeout:
            raise
        except FoundryError:
            return None
        return self._known[name]

    async def end(self) -> None:
        """The client is closed: end what is in the making."""
        await self.streams.end(ClientClosed("the client was closed during the call"))

    async def _identified(self, name: str, *, download: bool) -> Identity:
        service = await self.means.tools.services.having(name)
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
        self._report = Report(self._tools, order)

    async def completion(self) -> Completion[None]:
        """The whole answer."""
        async with aclosing(self._answer()) as items:
            async for item in items:
                if isinstance(item, Completion):
                    return item
        raise StreamInterrupted("the answer has no end")  # none of ours is without

    async def chunks(self) -> AsyncGenerator[Chunk]:
        """The answer in pieces, cut as they once came."""
        async with aclosing(self._answer()) as items:
            async for item in items:
                yield last_chunk(item) if isinstance(item, Completion) else item

    async def _answer(self) -> AsyncGenerator[Item]:
        identity = await self._identity()
        if identity is None:
            source = ChatCall(self._tools, self._order).answer()
        else:
            request = self._order.request
            source = self._known(identity, answer_key(identity.model, identity.generation, request))
        async with aclosing(source):
            async for item in source:
                yield item

    async def _identity(self) -> Identity | None:
        watch = Watch(self._order.deadline)
        try:
            with watch:
                return await self._calls.identify(self._order)
        finally:
            watch.stop()

    async def _known(self, identity: Identity, key: str) -> AsyncGenerator[Item]:
        """The answer of somebody who is known."""
        order, streams = self._order, self._calls.streams
        # Those share one making that would make it in the same way.
        flight = (key, order.timeout_s, order.models[1:], order.download)
        if not streams.running(flight) and (entry := await self._found(key)) is not None:
            for item in self._again(entry):
                yield item
            return
        making = self._calls.makings.get(flight) if streams.running(flight) else None
        leads = making is None
        if making is None:
            making = self._calls.makings[flight] = Making(self._calls.means, key, identity, order)
        making.allow(order.deadline)
        async with aclosing(self._shared(flight, making, leads=leads)) as items:
            async for item in items:
                yield item

    async def _found(self, key: str) -> Entry | None:
        kept = await self._calls.means.cache.get(key)
        return Entry.decoded(kept) if kept is not None else None

    def _again(self, entry: Entry) -> list[Item]:
        whole = entry.completion(self._timings())
        self._report.hit(whole, len(entry.pieces), "cache", self._calls.means.now() - entry.at)
        return [*entry.chunks(), whole]

    async def _shared(self, flight: object, making: Making, *, leads: bool) -> AsyncGenerator[Item]:
        """The answer that is being made, for this call first of all or for another."""
        pieces = 0
        if not leads:
            self._report.began()
        try:
            async with aclosing(self._awaited(flight, making)) as items:
                async for item in items:
                    if isinstance(item, Completion):
                        yield self._ended(item, pieces, leads=leads)
                    else:
                        pieces += 1
                        yield item if leads else msgspec.structs.replace(item, cached=True)
        except BaseException as error:
            if not leads or making.call is None:
                self._report.failed(error, self._timings())
            raise

    async def _awaited(self, flight: object, making: Making) -> AsyncGenerator[Item]:
        """What comes of a making, within this call's own deadline."""
        bound, text = self._order.deadline, list[str]()
        watch = Watch(Deadline(bound.at + GRACE_S, bound.limit_s))
        watch.ignore_silence("waiting for the first token")
        try:
            async with aclosing(self._calls.streams.follow(flight, making)) as items:
                while True:
                    with watch:
                        item = await anext(items, None)
                    if item is None:
                        return
                    text += [item.content] if isinstance(item, Chunk) else []
                    yield item
                    watch.ignore_silence("streaming")
        except DeadlineExceeded as error:
            error.partial = error.partial or "".join(text)
            raise
        finally:
            watch.stop()

    def _ended(self, whole: Completion[None], pieces: int, *, leads: bool) -> Completion[None]:
        timings = self._timings()
        if leads and not whole.cached:
            timings = msgspec.structs.replace(whole.timings, total_s=timings.total_s)
            return msgspec.structs.replace(whole, timings=timings)
        source: CacheSource = "cache" if whole.cached else "flight"
        whole = msgspec.structs.replace(
            whole, cached=True, attempts=(), headers=(), timings=timings
        )
        self._report.hit(whole, pieces, source, 0.0)
        return whole

    def _timings(self) -> Timings:
        return Timings(None, self._tools.clock() - self._started, None)
