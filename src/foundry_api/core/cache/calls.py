"""Calls with a cache in front of them: found, shared with an identical one in flight, or made."""

from __future__ import annotations

import time
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import msgspec

from foundry_api.core.cache.entry import Entry, answer_key, is_kept, is_served
from foundry_api.core.cache.shared_work import SharedWork, Work
from foundry_api.core.chat import final_chunk, make_chat_call
from foundry_api.resilience.deadline import Deadline
from foundry_api.resilience.silence import Watch
from foundry_api.types.errors import (
    CallTimeout,
    ClientClosed,
    DeadlineExceeded,
    FoundryError,
    ServiceError,
)
from foundry_api.types.events import CacheHit, CacheMiss, CacheStored, CallEnded, CallStarted
from foundry_api.types.messages import ChatRequest, Chunk, Completion, Timings

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Hashable
    from types import TracebackType

    from foundry_api.core.cache.base import ResponseCache
    from foundry_api.core.cache.shared_work import Flight
    from foundry_api.core.call import CallContext, CallRequest
    from foundry_api.core.chat import ChatCall
    from foundry_api.types.events import CacheSource
    from foundry_api.types.messages import Generation

__all__ = ["CachedCall", "CachedCalls", "Identity", "Making", "Means", "Report", "Ride"]


class Report:
    """The events of one call that asks no engine.

    Args:
        tools: What the client's calls share.
        order: What the caller ordered.
    """

    def __init__(self, tools: CallContext, order: CallRequest[ChatRequest]) -> None:
        self._tools = tools
        self._order = order
        self._number = 0
        self._ended = False

    def began(self) -> None:
        """The call began. Told at once if that is known, else ahead of its end."""
        self._number = next(self._tools.call_ids)
        model, request = self._order.models[0], self._order.request
        self._tools.events.emit(CallStarted(call=self._number, model=model, request=request))

    def hit(self, whole: Completion[Any], pieces: int, source: CacheSource, age_s: float) -> None:
        """The call was answered.

        Args:
            whole: The answer.
            pieces: In how many pieces it came.
            source: Where it came from.
            age_s: Seconds since it was made.
        """
        if not self._number:
            self.began()
        self._ended = True
        emit = self._tools.events.emit
        emit(
            CacheHit(
                call=self._number,
                model=whole.model,
                service=whole.service,
                source=source,
                age_s=max(age_s, 0.0),
            )
        )
        emit(
            CallEnded(
                call=self._number,
                outcome="answered",
                model=whole.model,
                service=whole.service,
                attempts=(),
                timings=whole.timings,
                usage=whole.usage,
                finish_reason=whole.finish_reason,
                chunks=pieces,
                content=whole.content,
                cached=True,
            )
        )

    def failed(self, error: BaseException, timings: Timings) -> None:
        """The call failed, or its caller left; he may leave with the whole answer in hand."""
        if self._ended:
            return
        if not self._number:
            self.began()
        failure = error if isinstance(error, FoundryError) else None
        self._tools.events.emit(
            CallEnded(
                call=self._number,
                outcome="failed" if failure else "cancelled",
                model=(failure and failure.model) or self._order.models[0],
                service=failure.service if failure else None,
                attempts=(),
                timings=timings,
                error=failure,
            )
        )


GRACE_S = 0.1
"""The call of the engine ends at the deadline by itself and tells more; for so long it may."""


class Ride:
    """Waits for an answer that is being made, within the caller's own deadline, and reports it.

    The call of the engine reports itself: that of the caller for whom it is made needs no more.

    Args:
        tools: What the client's calls share.
        order: What the caller ordered.
        started: When he did, on the tools' clock.
        flight: The making under way.
        mine: What would have made the answer, had nobody begun before.
    """

    def __init__(
        self,
        tools: CallContext,
        order: CallRequest[ChatRequest],
        started: float,
        flight: Flight[Chunk, Completion[None]],
        mine: Making,
    ) -> None:
        self._tools = tools
        self._started = started
        self._flight = flight
        self._mine = mine
        self._leads = flight.work is mine
        self._report = Report(tools, order)
        self._watch = Watch(Deadline(order.deadline.at + GRACE_S, order.deadline.limit_s))
        self._watch.ignore_silence("waiting for the first token")

    def __enter__(self) -> Self:
        if not self._leads:
            self._report.began()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._watch.stop()
        if isinstance(error, DeadlineExceeded) and not error.partial:
            error.partial = "".join(chunk.content for chunk in self._flight.came)
        if error is not None and (not self._leads or self._mine.call is None):
            self._report.failed(error, self._timings())

    async def more(self, than: int) -> list[Chunk]:
        """The pieces behind so many; none at the end."""
        with self._watch:
            await self._flight.more(than)
        self._watch.ignore_silence("streaming")
        came = self._flight.came[than:]
        return came if self._leads else [_cached(chunk) for chunk in came]

    async def whole(self) -> Completion[None]:
        """The whole answer, when it is there."""
        with self._watch:
            whole = await self._flight.result()
        timings = self._timings()
        if self._leads and not whole.cached:
            timings = msgspec.structs.replace(whole.timings, total_s=timings.total_s)
            return msgspec.structs.replace(whole, timings=timings)
        source: CacheSource = "cache" if whole.cached else "flight"
        whole = msgspec.structs.replace(
            whole, cached=True, attempts=(), headers=(), timings=timings
        )
        self._report.hit(whole, len(self._flight.came), source, 0.0)
        return whole

    def _timings(self) -> Timings:
        return Timings(None, self._tools.clock() - self._started, None)


def _cached(chunk: Chunk) -> Chunk:
    return chunk if chunk.cached else msgspec.structs.replace(chunk, cached=True)


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

    tools: CallContext
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
        self, means: Means, key: str, identity: Identity, order: CallRequest[ChatRequest]
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
            self.call.extend_deadline(deadline)

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
        self.call = make_chat_call(means.tools, self._order)
        whole = await self.call.result(note)
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
        tools: CallContext,
        cache: ResponseCache,
        *,
        hooked: bool = False,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.means = Means(tools, cache, now)
        self.work: SharedWork[Chunk, Completion[None]] = SharedWork()
        self._hooked = hooked
        self._known: dict[str, Identity] = {}

    def serves(self, order: CallRequest[ChatRequest]) -> bool:
        """Whether the answer may come from the cache, and be kept there."""
        if self._hooked and order.cache == "auto":
            return False
        only_deterministic = self.means.cache.only_deterministic
        return is_served(order.request, order.cache, only_deterministic=only_deterministic)

    def call(self, order: CallRequest[ChatRequest]) -> CachedCall:
        """One call."""
        return CachedCall(self, order)

    async def identify(self, order: CallRequest[ChatRequest]) -> Identity | None:
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

    def __init__(self, calls: CachedCalls, order: CallRequest[ChatRequest]) -> None:
        self._calls = calls
        self._order = order
        self._tools = calls.means.tools
        self._started = self._tools.clock()
        self._outcome: Completion[None] | None = None

    @property
    def outcome(self) -> Completion[None]:
        """The result, once all of the chunks were taken."""
        assert self._outcome is not None  # noqa: S101 - a mistake of ours
        return self._outcome

    async def result(self) -> Completion[None]:
        """The whole answer."""
        known = await self._identified()
        if known is None:
            return await make_chat_call(self._tools, self._order).result()
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
            self._outcome = self._again(entry)
            source = _replayed(entry, self._outcome)
        else:
            source = self._followed(known)
        async with aclosing(source):
            async for chunk in source:
                yield chunk

    async def _unserved(self) -> AsyncGenerator[Chunk]:
        call = make_chat_call(self._tools, self._order)
        async with aclosing(call.chunks()) as chunks:
            async for chunk in chunks:
                yield chunk
        self._outcome = call.outcome

    async def _followed(self, known: Known) -> AsyncGenerator[Chunk]:
        async with self._joined(known) as ride:
            position = 0
            while came := await ride.more(position):
                position += len(came)
                for chunk in came:
                    yield chunk
            self._outcome = whole = await ride.whole()
        yield final_chunk(whole)

    async def _identified(self) -> Known | None:
        self._tools.binding.bind()
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
    yield final_chunk(whole)
