"""Calls with a cache in front of them: found, shared with an identical one in flight, or made."""

from __future__ import annotations

import time
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import msgspec

from foundry_api.core.cache.entry import Entry, answer_key, may_serve, may_store
from foundry_api.core.cache.shared_work import JobDeduplicator, SharedJob
from foundry_api.core.chat import final_chunk, make_chat_call
from foundry_api.resilience.deadline import Deadline
from foundry_api.resilience.silence import TimeoutGuard
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
    from foundry_api.core.cache.shared_work import JobRun
    from foundry_api.core.call import CallContext, CallRequest
    from foundry_api.core.chat import ChatCall
    from foundry_api.types.events import CacheSource
    from foundry_api.types.messages import ServiceGeneration

__all__ = [
    "CacheContext",
    "CacheEvents",
    "CacheFill",
    "CacheWaiter",
    "CachedCall",
    "CachedCalls",
    "ResponseIdentity",
]


class CacheEvents:
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

    def emit_started(self) -> None:
        """The call began. Told at once if that is known, else ahead of its end."""
        self._number = next(self._tools.call_ids)
        model, request = self._order.models[0], self._order.request
        self._tools.events.emit(CallStarted(call=self._number, model=model, request=request))

    def emit_hit(
        self, completion: Completion[Any], pieces: int, source: CacheSource, age_s: float
    ) -> None:
        """The call was answered.

        Args:
            completion: The answer.
            pieces: In how many pieces it came.
            source: Where it came from.
            age_s: Seconds since it was made.
        """
        if not self._number:
            self.emit_started()
        self._ended = True
        emit = self._tools.events.emit
        emit(
            CacheHit(
                call=self._number,
                model=completion.model,
                service=completion.service,
                source=source,
                age_s=max(age_s, 0.0),
            )
        )
        emit(
            CallEnded(
                call=self._number,
                outcome="answered",
                model=completion.model,
                service=completion.service,
                attempts=(),
                timings=completion.timings,
                usage=completion.usage,
                finish_reason=completion.finish_reason,
                chunks=pieces,
                content=completion.content,
                cached=True,
            )
        )

    def failed(self, error: BaseException, timings: Timings) -> None:
        """The call failed, or its caller left; he may leave with the whole answer in hand."""
        if self._ended:
            return
        if not self._number:
            self.emit_started()
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


DEADLINE_GRACE_S = 0.1
"""The call of the engine ends at the deadline by itself and tells more; for so long it may."""


class CacheWaiter:
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
        flight: JobRun[Chunk, Completion[None]],
        mine: CacheFill,
    ) -> None:
        self._tools = tools
        self._started = started
        self._flight = flight
        self._mine = mine
        self._is_leader = flight.work is mine
        self._report = CacheEvents(tools, order)
        self._watch = TimeoutGuard(
            Deadline(order.deadline.at + DEADLINE_GRACE_S, order.deadline.limit_s)
        )
        self._watch.suspend_silence("waiting for the first token")

    def __enter__(self) -> Self:
        if not self._is_leader:
            self._report.emit_started()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._watch.stop()
        if isinstance(error, DeadlineExceeded) and not error.partial:
            error.partial = "".join(chunk.content for chunk in self._flight.items)
        if error is not None and (not self._is_leader or self._mine.call is None):
            self._report.failed(error, self._timings())

    async def chunks_after(self, than: int) -> list[Chunk]:
        """The pieces behind so many; none at the end."""
        with self._watch:
            await self._flight.wait_for_more(than)
        self._watch.suspend_silence("streaming")
        new_chunks = self._flight.items[than:]
        return new_chunks if self._is_leader else [_cached(chunk) for chunk in new_chunks]

    async def result(self) -> Completion[None]:
        """The whole answer, when it is there."""
        with self._watch:
            completion = await self._flight.result()
        timings = self._timings()
        if self._is_leader and not completion.cached:
            timings = msgspec.structs.replace(completion.timings, total_s=timings.total_s)
            return msgspec.structs.replace(completion, timings=timings)
        source: CacheSource = "cache" if completion.cached else "flight"
        completion = msgspec.structs.replace(
            completion, cached=True, attempts=(), headers=(), timings=timings
        )
        self._report.emit_hit(completion, len(self._flight.items), source, 0.0)
        return completion

    def _timings(self) -> Timings:
        return Timings(None, self._tools.monotonic() - self._started, None)


def _cached(chunk: Chunk) -> Chunk:
    return chunk if chunk.cached else msgspec.structs.replace(chunk, cached=True)


@dataclass(frozen=True, slots=True)
class ResponseIdentity:
    """Who will answer.

    Attributes:
        model: Id of the model.
        service_generation: Of the service.
        service: Its base URL.
    """

    model: str
    service_generation: ServiceGeneration
    service: str


@dataclass(frozen=True, slots=True)
class CacheContext:
    """What makings are made with.

    Attributes:
        tools: What the client's calls share.
        cache: Where the answers are kept.
        now: Seconds since the epoch.
    """

    tools: CallContext
    cache: ResponseCache
    now: Callable[[], float]


class CacheFill(SharedJob[Chunk, Completion[None]]):
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
        self,
        means: CacheContext,
        key: str,
        identity: ResponseIdentity,
        order: CallRequest[ChatRequest],
    ) -> None:
        self.call: ChatCall | None = None
        self._means = means
        self._key = key
        self._identity = identity
        self._order = order

    def extend_deadline(self, deadline: Deadline) -> None:
        """See `SharedJob.extend_deadline`."""
        if deadline.at > self._order.deadline.at:
            self._order = msgspec.structs.replace(self._order, deadline=deadline)
        if self.call is not None:
            self.call.extend_deadline(deadline)

    async def run(self, receive: Callable[[list[Chunk]], None]) -> Completion[None]:
        """See `SharedJob.run`. The whole answer comes of it."""
        async with self._means.cache.lock(self._key) as kept:
            entry = Entry.decoded(kept) if kept is not None else None
            if entry is None:
                return await self._call_engine(receive)
            receive(entry.chunks())
            return entry.completion(Timings(None, 0.0, None))  # every caller has his own

    async def _call_engine(self, receive: Callable[[list[Chunk]], None]) -> Completion[None]:
        means, identity, pieces = self._means, self._identity, list[Chunk]()

        def note(new_chunks: list[Chunk]) -> None:
            pieces.extend(new_chunks)
            receive(new_chunks)

        means.tools.events.emit(CacheMiss(model=identity.model, service=identity.service))
        self.call = make_chat_call(means.tools, self._order)
        completion = await self.call.result(note)
        await self._store(pieces, completion)
        return completion

    async def _store(self, pieces: list[Chunk], completion: Completion[None]) -> None:
        means, identity = self._means, self._identity
        # Another model may have answered in place of the first, or a service that came after it.
        expected = (completion.model, completion.service_generation) == (
            identity.model,
            identity.service_generation,
        )
        if not expected or not may_store(completion.finish_reason):
            return
        answer = Entry.of(pieces, completion, at=means.now()).encoded()
        if await means.cache.put(self._key, answer, model=completion.model):
            stored = CacheStored(
                model=completion.model, service=completion.service, bytes=len(answer)
            )
            means.tools.events.emit(stored)


@dataclass(frozen=True, slots=True)
class CacheLookup:
    """What is known of a call before it is made.

    Attributes:
        identity: Who will answer.
        key: The answer's.
        flight: The same for all calls that may share one making.
    """

    identity: ResponseIdentity
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
        self.means = CacheContext(tools, cache, now)
        self.work: JobDeduplicator[Chunk, Completion[None]] = JobDeduplicator()
        self._hooked = hooked
        self._known: dict[str, ResponseIdentity] = {}

    def is_cacheable(self, order: CallRequest[ChatRequest]) -> bool:
        """Whether the answer may come from the cache, and be kept there."""
        if self._hooked and order.cache == "auto":
            return False
        only_deterministic = self.means.cache.only_deterministic
        return may_serve(order.request, order.cache, only_deterministic=only_deterministic)

    def call(self, order: CallRequest[ChatRequest]) -> CachedCall:
        """One call."""
        return CachedCall(self, order)

    async def resolve_identity(self, order: CallRequest[ChatRequest]) -> ResponseIdentity | None:
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

    async def _identified(self, name: str, *, download: bool) -> ResponseIdentity | None:
        service = await self.means.tools.services.select_for_model(name)
        if service.connection is None and service.breaker.state != "closed":
            return None  # whether it is back is for the breaker's probe to find out
        connection = service.connection or await service.connect()
        model = await connection.resolve_cached(name, download=download)
        return ResponseIdentity(
            model.id, connection.endpoint.service_generation, connection.endpoint.base_url
        )


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
        self._started = self._tools.monotonic()
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
        if (entry := await self._lookup(known)) is not None:
            return self._replay_result(entry)
        async with self._join(known) as ride:
            return await ride.result()

    async def chunks(self) -> AsyncGenerator[Chunk]:
        """The answer in pieces, cut as they once came."""
        known = await self._identified()
        if known is None:
            source = self._uncached()
        elif (entry := await self._lookup(known)) is not None:
            self._outcome = self._replay_result(entry)
            source = _replay(entry, self._outcome)
        else:
            source = self._follow(known)
        async with aclosing(source):
            async for chunk in source:
                yield chunk

    async def _uncached(self) -> AsyncGenerator[Chunk]:
        call = make_chat_call(self._tools, self._order)
        async with aclosing(call.chunks()) as chunks:
            async for chunk in chunks:
                yield chunk
        self._outcome = call.outcome

    async def _follow(self, known: CacheLookup) -> AsyncGenerator[Chunk]:
        async with self._join(known) as ride:
            position = 0
            while new_chunks := await ride.chunks_after(position):
                position += len(new_chunks)
                for chunk in new_chunks:
                    yield chunk
            self._outcome = completion = await ride.result()
        yield final_chunk(completion)

    async def _identified(self) -> CacheLookup | None:
        self._tools.binding.bind()
        watch, order = TimeoutGuard(self._order.deadline), self._order
        try:
            with watch:
                identity = await self._calls.resolve_identity(order)
        finally:
            watch.stop()
        if identity is None:
            return None
        key = answer_key(identity.model, identity.service_generation, order.request)
        # Those share one making that would make it in the same way.
        return CacheLookup(identity, key, (key, order.timeout_s, order.models[1:], order.download))

    async def _lookup(self, known: CacheLookup) -> Entry | None:
        """The answer, if it is in the cache, and is not being made right now."""
        if self._tools.is_closed() or self._calls.work.running(known.flight):
            return None
        watch = TimeoutGuard(self._order.deadline)
        try:
            with watch:
                kept = await self._calls.means.cache.get(known.key)
        finally:
            watch.stop()
        return Entry.decoded(kept) if kept is not None else None

    def _replay_result(self, entry: Entry) -> Completion[None]:
        completion = entry.completion(Timings(None, self._tools.monotonic() - self._started, None))
        age_s = self._calls.means.now() - entry.at
        CacheEvents(self._tools, self._order).emit_hit(
            completion, len(entry.pieces), "cache", age_s
        )
        return completion

    @asynccontextmanager
    async def _join(self, known: CacheLookup) -> AsyncGenerator[CacheWaiter]:
        """The making of the answer, begun for this call or before."""
        mine = CacheFill(self._calls.means, known.key, known.identity, self._order)
        async with self._calls.work.join(known.flight, lambda: mine) as flight:
            flight.work.extend_deadline(self._order.deadline)
            with CacheWaiter(self._tools, self._order, self._started, flight, mine) as ride:
                yield ride


async def _replay(entry: Entry, completion: Completion[None]) -> AsyncGenerator[Chunk]:
    for chunk in entry.chunks():
        yield chunk
    yield final_chunk(completion)
