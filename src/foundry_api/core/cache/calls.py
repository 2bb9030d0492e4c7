"""Chat completions with a response cache.

An answer comes from the cache, from an identical call that is in progress, or from a new call.
"""

from __future__ import annotations

import time
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import msgspec

from foundry_api.core.cache.entry import Entry, make_key, may_serve, may_store
from foundry_api.core.cache.shared_work import JobDeduplicator, SharedJob
from foundry_api.core.chat import make_chat_call, make_final_chunk
from foundry_api.resilience.deadline import Deadline
from foundry_api.resilience.timeouts import TimeoutGuard
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

# At the deadline, the shared call raises an error with more details than a caller that waits for
# it has. So the waiting caller allows it this much longer.
DEADLINE_GRACE_S = 0.1


@dataclass(frozen=True, slots=True)
class ResponseIdentity:
    """The model and the service that a call is expected to be answered by."""

    model: str
    service_generation: ServiceGeneration
    service: str


@dataclass(frozen=True, slots=True)
class CacheContext:
    """State that all cached calls of a client share."""

    calls: CallContext
    cache: ResponseCache
    wall_clock: Callable[[], float]


@dataclass(frozen=True, slots=True)
class CacheLookup:
    """Where to look for the answer to a call."""

    identity: ResponseIdentity
    key: str
    job_key: Hashable  # equal for calls that may share one call of the engine


class CachedCalls:
    """The cached calls of a client.

    `has_request_hooks` turns the cache off for calls with `cache="auto"`: a hook may change the
    request, and the key is made before.
    """

    def __init__(
        self,
        context: CallContext,
        cache: ResponseCache,
        *,
        has_request_hooks: bool = False,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.context = CacheContext(context, cache, wall_clock)
        self.jobs: JobDeduplicator[Chunk, Completion[None]] = JobDeduplicator()
        self._has_request_hooks = has_request_hooks
        self._identities: dict[str, ResponseIdentity] = {}

    def is_cacheable(self, request: CallRequest[ChatRequest]) -> bool:
        """Whether the answer may come from the cache and be stored there."""
        if self._has_request_hooks and request.cache == "auto":
            return False
        only_deterministic = self.context.cache.only_deterministic
        return may_serve(request.request, request.cache, only_deterministic=only_deterministic)

    def call(self, request: CallRequest[ChatRequest]) -> CachedCall:
        return CachedCall(self, request)

    async def resolve_identity(self, request: CallRequest[ChatRequest]) -> ResponseIdentity | None:
        """Return the model and service that will answer, without loading the model.

        None if they are unknown. The call itself then fails with the reason.
        """
        name = request.models[0]
        try:
            identity = await self._find_identity(name, download=request.download)
        except ServiceError:
            # The answers of a service that is down are still valid.
            return self._identities.get(name)
        except CallTimeout:
            raise
        except FoundryError:
            return None
        if identity is not None:
            self._identities[name] = identity
        return self._identities.get(name)

    async def end(self) -> None:
        """End all calls in progress: the client is closed."""
        await self.jobs.end(ClientClosed("the client was closed during the call"))

    async def _find_identity(self, name: str, *, download: bool) -> ResponseIdentity | None:
        service = await self.context.calls.services.select_for_model(name)
        if service.connection is None and service.breaker.state != "closed":
            return None  # only the probe of the breaker may look for the service
        connection = service.connection or await service.connect()
        model = await connection.resolve_cached(name, download=download)
        return ResponseIdentity(
            model.id, connection.endpoint.service_generation, connection.endpoint.base_url
        )


class CachedCall:
    """One call with the interface of `Call`."""

    def __init__(self, calls: CachedCalls, request: CallRequest[ChatRequest]) -> None:
        self._calls = calls
        self._request = request
        self._context = calls.context.calls
        self._started_at = self._context.monotonic()
        self._outcome: Completion[None] | None = None

    @property
    def outcome(self) -> Completion[None]:
        """The result. Available after the last chunk."""
        assert self._outcome is not None  # noqa: S101 - a bug if it fails
        return self._outcome

    async def result(self) -> Completion[None]:
        lookup = await self._make_lookup()
        if lookup is None:
            return await make_chat_call(self._context, self._request).result()
        if (entry := await self._find(lookup)) is not None:
            return self._replay(entry)
        async with self._join(lookup) as waiter:
            return await waiter.result()

    async def chunks(self) -> AsyncGenerator[Chunk]:
        """Yield the answer in the chunks in which the service sent it."""
        async with aclosing(self.blocks()) as blocks:
            async for chunks in blocks:
                for chunk in chunks:
                    yield chunk

    async def blocks(self) -> AsyncGenerator[list[Chunk]]:
        """As `chunks`, but yield the chunks that arrived together at once."""
        lookup = await self._make_lookup()
        if lookup is None:
            call = make_chat_call(self._context, self._request)
            async with aclosing(call.blocks()) as blocks:
                async for chunks in blocks:
                    yield chunks
            self._outcome = call.outcome
            return
        if (entry := await self._find(lookup)) is not None:
            completion = self._outcome = self._replay(entry)
            if chunks := entry.to_chunks():
                yield chunks
        else:
            async with self._join(lookup) as waiter:
                count = 0
                while new_chunks := await waiter.chunks_after(count):
                    count += len(new_chunks)
                    yield new_chunks
                completion = self._outcome = await waiter.result()
        yield [make_final_chunk(completion)]

    async def _make_lookup(self) -> CacheLookup | None:
        self._context.binding.bind()
        request = self._request
        guard = TimeoutGuard(request.deadline, self._context.timers)
        try:
            with guard:
                identity = await self._calls.resolve_identity(request)
        finally:
            guard.stop()
        if identity is None:
            return None
        key = make_key(identity.model, identity.service_generation, request.request)
        # Calls with other options must not share a call of the engine: the short timeout of one
        # would fail the other.
        job_key = (key, request.timeout_s, request.models[1:], request.download)
        return CacheLookup(identity, key, job_key)

    async def _find(self, lookup: CacheLookup) -> Entry | None:
        """Return the cached answer, unless an identical call is in progress."""
        if self._context.is_closed() or self._calls.jobs.get_running(lookup.job_key):
            return None
        guard = TimeoutGuard(self._request.deadline, self._context.timers)
        try:
            with guard:
                stored = await self._calls.context.cache.get(lookup.key)
        finally:
            guard.stop()
        return Entry.decode(stored) if stored is not None else None

    def _replay(self, entry: Entry) -> Completion[None]:
        """Return the result of a cache hit and emit its events."""
        total_s = self._context.monotonic() - self._started_at
        completion = entry.to_completion(Timings(None, total_s, None))
        age_s = self._calls.context.wall_clock() - entry.created_at
        events = CacheEvents(self._context, self._request)
        events.emit_hit(completion, len(entry.chunks), "cache", age_s)
        return completion

    @asynccontextmanager
    async def _join(self, lookup: CacheLookup) -> AsyncGenerator[CacheWaiter]:
        """Join the identical call in progress, or start one."""
        fill = CacheFill(self._calls.context, lookup.key, lookup.identity, self._request)
        async with self._calls.jobs.join(lookup.job_key, lambda: fill) as run:
            run.job.extend_deadline(self._request.deadline)
            with CacheWaiter(self._context, self._request, self._started_at, run, fill) as waiter:
                yield waiter


class CacheFill(SharedJob[Chunk, Completion[None]]):
    """Calls the engine and stores the answer, unless another program has just done so."""

    def __init__(
        self,
        context: CacheContext,
        key: str,
        identity: ResponseIdentity,
        request: CallRequest[ChatRequest],
    ) -> None:
        self.call: ChatCall | None = None  # the call of the engine, once it is made
        self._context = context
        self._key = key
        self._identity = identity
        self._request = request

    def extend_deadline(self, deadline: Deadline) -> None:
        if deadline.at > self._request.deadline.at:
            self._request = msgspec.structs.replace(self._request, deadline=deadline)
        if self.call is not None:
            self.call.extend_deadline(deadline)

    async def run(self, receive: Callable[[list[Chunk]], None]) -> Completion[None]:
        context, identity = self._context, self._identity
        async with context.cache.lock(self._key) as stored:
            entry = Entry.decode(stored) if stored is not None else None
            if entry is not None:
                receive(entry.to_chunks())
                return entry.to_completion(Timings(None, 0.0, None))  # each caller adds its own
            chunks: list[Chunk] = []

            def receive_new(new_chunks: list[Chunk]) -> None:
                chunks.extend(new_chunks)
                receive(new_chunks)

            context.calls.events.emit(CacheMiss(model=identity.model, service=identity.service))
            self.call = make_chat_call(context.calls, self._request)
            completion = await self.call.result(receive_new)
            await self._store(chunks, completion)
            return completion

    async def _store(self, chunks: list[Chunk], completion: Completion[None]) -> None:
        context, identity = self._context, self._identity
        # A fallback model may have answered, or a service that replaced the expected one. The key
        # does not describe such an answer.
        is_expected = (completion.model, completion.service_generation) == (
            identity.model,
            identity.service_generation,
        )
        if not is_expected or not may_store(completion.finish_reason):
            return
        data = Entry.from_answer(chunks, completion, created_at=context.wall_clock()).encode()
        if await context.cache.put(self._key, data, model=completion.model):
            context.calls.events.emit(
                CacheStored(model=completion.model, service=completion.service, bytes=len(data))
            )


class CacheWaiter:
    """Waits for an answer that is being made, with the deadline and the events of one caller.

    The leader is the caller whose `fill` makes the answer. The call of the engine emits its events,
    so the waiter of the leader emits none.
    """

    def __init__(
        self,
        context: CallContext,
        request: CallRequest[ChatRequest],
        started_at: float,
        run: JobRun[Chunk, Completion[None]],
        fill: CacheFill,
    ) -> None:
        self._context = context
        self._started_at = started_at
        self._run = run
        self._fill = fill
        self._is_leader = run.job is fill
        self._events = CacheEvents(context, request)
        self._guard = TimeoutGuard(
            Deadline(request.deadline.at + DEADLINE_GRACE_S, request.deadline.limit_s),
            context.timers,
        )
        self._guard.suspend_read_timeout("waiting for the first token")

    def __enter__(self) -> Self:
        if not self._is_leader:
            self._events.emit_started()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._guard.stop()
        if isinstance(error, DeadlineExceeded) and not error.partial:
            error.partial = "".join(chunk.content for chunk in self._run.items)
        # The leader may fail before the engine is called, such as while it waits for the lock.
        if error is not None and (not self._is_leader or self._fill.call is None):
            self._events.emit_failed(error, self._get_timings())

    async def chunks_after(self, count: int) -> list[Chunk]:
        """Return the chunks after the first `count`. An empty list marks the end."""
        with self._guard:
            await self._run.wait_for_more(count)
        self._guard.suspend_read_timeout("streaming")
        new_chunks = self._run.items[count:]
        if self._is_leader:
            return new_chunks
        return [
            chunk if chunk.cached else msgspec.structs.replace(chunk, cached=True)
            for chunk in new_chunks
        ]

    async def result(self) -> Completion[None]:
        with self._guard:
            completion = await self._run.result()
        timings = self._get_timings()
        if self._is_leader and not completion.cached:
            timings = msgspec.structs.replace(completion.timings, total_s=timings.total_s)
            return msgspec.structs.replace(completion, timings=timings)
        source: CacheSource = "cache" if completion.cached else "flight"
        completion = msgspec.structs.replace(
            completion, cached=True, attempts=(), headers=(), timings=timings
        )
        self._events.emit_hit(completion, len(self._run.items), source, 0.0)
        return completion

    def _get_timings(self) -> Timings:
        return Timings(None, self._context.monotonic() - self._started_at, None)


class CacheEvents:
    """Emits the events of one call that does not call the engine itself."""

    def __init__(self, context: CallContext, request: CallRequest[ChatRequest]) -> None:
        self._context = context
        self._request = request
        self._call_id = 0
        self._has_ended = False

    def emit_started(self) -> None:
        self._call_id = next(self._context.call_ids)
        model, request = self._request.models[0], self._request.request
        self._context.events.emit(CallStarted(call=self._call_id, model=model, request=request))

    def emit_hit(
        self, completion: Completion[Any], chunk_count: int, source: CacheSource, age_s: float
    ) -> None:
        if not self._call_id:
            self.emit_started()
        self._has_ended = True
        emit = self._context.events.emit
        emit(
            CacheHit(
                call=self._call_id,
                model=completion.model,
                service=completion.service,
                source=source,
                age_s=max(age_s, 0.0),  # the system clock may have been set back
            )
        )
        emit(
            CallEnded(
                call=self._call_id,
                outcome="answered",
                model=completion.model,
                service=completion.service,
                attempts=(),
                timings=completion.timings,
                usage=completion.usage,
                finish_reason=completion.finish_reason,
                chunks=chunk_count,
                content=completion.content,
                cached=True,
            )
        )

    def emit_failed(self, error: BaseException, timings: Timings) -> None:
        if self._has_ended:  # the caller left the stream after its last chunk
            return
        if not self._call_id:
            self.emit_started()
        failure = error if isinstance(error, FoundryError) else None
        self._context.events.emit(
            CallEnded(
                call=self._call_id,
                outcome="failed" if failure else "cancelled",
                model=(failure and failure.model) or self._request.models[0],
                service=failure.service if failure else None,
                attempts=(),
                timings=timings,
                error=failure,
            )
        )
