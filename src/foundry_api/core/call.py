"""One call to a service, with its retries.

`result`, `chunks` and `blocks` are the entry points. All read the answer with `_next_chunks`, which
starts an attempt if none is running. `_handle_failure` decides whether a failed attempt is retried.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import msgspec

from foundry_api.core.attempt import Attempt
from foundry_api.core.loop_binding import LoopBinding
from foundry_api.core.operation import AnswerFacts
from foundry_api.resilience.deadline import Deadline
from foundry_api.resilience.limiter import Moved
from foundry_api.resilience.prompt_reading import MIN_TOKENS
from foundry_api.resilience.timeouts import DEFAULT_S, TimeoutGuard, Timers
from foundry_api.types.access_errors import (
    AuthenticationFailed,
    PermissionDenied,
    QuotaExceeded,
)
from foundry_api.types.checks import ReadTimeouts, Timeout
from foundry_api.types.errors import (
    CallTimeout,
    CircuitOpen,
    ClientClosed,
    ContextOverflow,
    FoundryError,
    ModelError,
    QueueFull,
    ReadTimeout,
    ServerError,
    ServiceCrashed,
    ServiceError,
    ServiceNotRunning,
    StreamInterrupted,
    UnsupportedFeature,
)
from foundry_api.types.events import (
    AttemptStarted,
    CallEnded,
    CallStarted,
    FirstToken,
    RetryScheduled,
)
from foundry_api.types.messages import AttemptRecord, Timings

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
    from collections.abc import Set as AbstractSet

    from foundry_api.core.operation import Finished, Operation
    from foundry_api.core.service_pool import ServiceHandle, ServicePool
    from foundry_api.resilience.retry import Retry
    from foundry_api.resilience.timeouts import Latencies
    from foundry_api.types.events import EventBus

__all__ = ["Call", "CallContext", "CallRequest", "FailurePolicy"]

_RequestT = TypeVar("_RequestT")  # the validated arguments of the caller, such as a ChatRequest
_ChunkT = TypeVar("_ChunkT")  # the parts in which a stream yields the answer
_ResultT = TypeVar("_ResultT")  # what the caller gets, such as a Completion

# Another service may succeed where one failed with these.
FAILOVER_ERRORS = (
    ServiceError,
    ModelError,
    QueueFull,
    QuotaExceeded,
    AuthenticationFailed,
    PermissionDenied,
    ReadTimeout,
    UnsupportedFeature,
)
# With these a service is gone, so that it gets no more work if another one takes its calls.
LOST_SERVICE_ERRORS = (ServiceNotRunning, ServiceCrashed, StreamInterrupted, CircuitOpen)

# Errors that the model may have caused. ServiceNotRunning is not among them: a service that is gone
# cannot run another model either.
MODEL_FALLBACK_ERRORS = (
    ModelError,
    ContextOverflow,
    ServerError,
    ServiceCrashed,
    StreamInterrupted,
    ReadTimeout,
)
# Services that differ in their models: another one may have the next model.
SERVICE_FALLBACK_ERRORS = (ServiceError, QueueFull, QuotaExceeded, AuthenticationFailed)


class CallRequest(msgspec.Struct, Generic[_RequestT], frozen=True):
    """A validated request with the options of its call."""

    models: tuple[str, ...]  # the first one is called, the others are fallbacks in this order
    request: _RequestT
    timeout_s: Timeout  # read timeout before and between tokens
    deadline: Deadline
    download: bool = False  # whether a missing model may be downloaded first
    cache: Literal["auto", "always", "never"] = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class CallContext:
    """State that all calls of a client share."""

    services: ServicePool
    retry: Retry
    events: EventBus
    latencies: Latencies
    is_closed: Callable[[], bool]
    binding: LoopBinding = field(default_factory=LoopBinding)
    timers: Timers = field(default_factory=Timers)
    monotonic: Callable[[], float] = time.perf_counter
    call_ids: Iterator[int] = field(default_factory=lambda: itertools.count(1))


class Call(Generic[_ChunkT, _ResultT]):
    """A call that returns its answer at once or as a stream of chunks.

    With `service`, only that service is called; without it, any service of the client.
    """

    def __init__(
        self,
        context: CallContext,
        request: CallRequest[Any],
        operation: Operation[_ChunkT, Any, _ResultT],
        service: ServiceHandle | None = None,
    ) -> None:
        self._context = context
        self._request = request
        self._operation = operation
        self._required_service = service
        self._policy: FailurePolicy | None = None  # created by the first failure: few calls fail
        self._call_id = next(context.call_ids)
        self._started_at = self._attempt_started_at = 0.0  # set when it starts
        self._guard: TimeoutGuard | None = None
        self._attempt: Attempt[_ChunkT] | None = None
        self._attempts: tuple[AttemptRecord, ...] = ()
        self._model = request.models[0]
        self._service: str | None = None
        self._queued_s = 0.0
        self._chunk_count = 0
        self._first_token_s: float | None = None
        self._texts: list[str] = []
        self._keeps_result = True
        self._finished: Finished[_ResultT] | None = None

    async def result(self, on_chunks: Callable[[list[_ChunkT]], None] | None = None) -> _ResultT:
        """Return the complete answer. `on_chunks` receives its chunks as they arrive."""
        guard = self._start()
        try:
            while self._finished is None:
                chunks = await self._next_chunks(guard, to_end=on_chunks is None)
                if chunks and on_chunks is not None:
                    on_chunks(chunks)
        except BaseException as error:
            self._fail(guard, error)
            raise
        return self._complete(guard)

    async def chunks(self) -> AsyncGenerator[_ChunkT]:
        """Yield the answer in chunks. The last chunk of a chat completion has its finish reason."""
        self._keeps_result = False
        guard = self._start()
        try:
            while chunks := await self._next_chunks(guard):
                for chunk in chunks:
                    yield chunk
        except BaseException as error:
            self._fail(guard, error)
            raise
        final_chunk = self._operation.make_final_chunk(self._complete(guard))
        if final_chunk is not None:
            yield final_chunk

    async def blocks(self) -> AsyncGenerator[list[_ChunkT]]:
        """As `chunks`, but yield the chunks that arrived together at once.

        Nothing runs for each chunk then, which matters where many are passed on. The final chunk
        comes together with those before it if the service has sent everything.
        """
        self._keeps_result = False
        guard = self._start()
        try:
            while chunks := await self._next_chunks(guard, finish_early=True):
                if self._finished is not None:
                    break
                yield chunks
        except BaseException as error:
            self._fail(guard, error)
            raise
        final_chunk = self._operation.make_final_chunk(self._complete(guard))
        if final_chunk is not None:
            chunks.append(final_chunk)
        if chunks:
            yield chunks

    @property
    def outcome(self) -> _ResultT:
        """The result. Available after the last chunk."""
        assert self._finished is not None  # noqa: S101 - a bug if it fails
        return self._finished.result

    def extend_deadline(self, deadline: Deadline) -> None:
        # A cached call may serve several callers, and a later caller may have more time.
        if self._guard is not None:
            self._guard.extend(deadline)

    def _start(self) -> TimeoutGuard:
        context = self._context
        guard = self._guard = TimeoutGuard(self._request.deadline, context.timers)
        # `bind` checks this too; comparing first saves a function call on every prompt.
        if context.binding.loop is not guard.loop:
            context.binding.bind()
        self._started_at = context.monotonic()
        if CallStarted in context.events.observed_types:
            context.events.emit(
                CallStarted(
                    call=self._call_id,
                    model=self._model,
                    request=self._operation.get_event_request(),
                    operation=self._operation.name,
                )
            )
        return guard

    async def _next_chunks(
        self, guard: TimeoutGuard, *, to_end: bool = False, finish_early: bool = False
    ) -> list[_ChunkT]:
        """Return the next chunks of the answer, after a retry if necessary. Empty at its end.

        With `to_end` nobody sees them before the end, so that they are returned together, and the
        last ones when the call is finished. Only the first one may have an observer. With
        `finish_early` the call is finished with the last ones if the service has sent everything.
        """
        if not self._chunk_count and FirstToken in self._context.events.observed_types:
            to_end = False
        while True:
            try:
                attempt = self._attempt
                if attempt is None:
                    attempt = await self._prepare_attempt(guard)
                    await attempt.send(self._get_read_timeouts_s(attempt))
                if not (chunks := await attempt.read(to_end=to_end)):
                    await self._finish(attempt, guard)
                    return chunks
                if not self._chunk_count:
                    self._on_first_token(attempt)
                self._collect(chunks)
                if (to_end and attempt.is_complete) or (finish_early and attempt.has_ended):
                    await self._finish(attempt, guard)
            except FoundryError as error:
                await self._handle_failure(error, guard)
            else:
                return chunks

    def _collect(self, chunks: list[_ChunkT]) -> None:
        self._chunk_count += len(chunks)
        self._operation.collect(chunks, self._texts, keep_result=self._keeps_result)

    async def _prepare_attempt(self, guard: TimeoutGuard) -> Attempt[_ChunkT]:
        """Select a service and return an attempt that holds a slot there, with the model loaded."""
        context, policy, request = self._context, self._policy, self._request
        name = policy.model if policy is not None else request.models[0]
        tried: AbstractSet[ServiceHandle] = policy.tried if policy is not None else frozenset()
        # Without a model, the name is that of the request, and any service may get it.
        target_model = name if self._operation.needs_model else ""
        # A retry has waited for its slot already, so it need not queue behind newer calls.
        requeued = bool(self._attempts)
        self._model, self._service, self._attempt_started_at = name, None, context.monotonic()
        guard.suspend_read_timeout("connecting")
        while True:
            guard.check()
            service = self._required_service or context.services.select(target_model, tried)
            if service is None:
                with guard:
                    service = await context.services.select_for_model(target_model, tried)
            attempt = self._attempt = Attempt(service, self._operation, guard, context.monotonic)
            try:
                await attempt.acquire(
                    name,
                    download=request.download,
                    requeued=requeued,
                    may_move=self._required_service is None and not tried,
                )
                break
            except Moved as moved:
                # Another service has a free slot while this call waits: select again.
                attempt.close(moved)
                self._queued_s += attempt.queued_s
                requeued = True
        connection = attempt.connection
        if attempt.model is not None:
            self._model = attempt.model.id
        self._service = connection.endpoint.base_url if connection is not None else None
        if AttemptStarted in context.events.observed_types:
            context.events.emit(
                AttemptStarted(
                    call=self._call_id,
                    attempt=len(self._attempts) + 1,
                    model=self._model,
                    service=self._service or "",
                    queued_s=attempt.queued_s,
                )
            )
        return attempt

    def _get_read_timeouts_s(self, attempt: Attempt[_ChunkT]) -> tuple[float, float]:
        """Return the read timeouts before the first token and between two tokens."""
        timeout_s, default_s = self._request.timeout_s, self._operation.default_timeout_s
        if isinstance(timeout_s, ReadTimeouts):
            return timeout_s
        if timeout_s != "auto":
            return timeout_s, timeout_s
        if default_s is not None:
            return default_s, default_s
        bounds_s = self._context.latencies.for_model(self._model).bounds_s
        connection = attempt.connection
        if connection is not None and connection.dialect.manages_calls:
            # Calls queue in the service, so that their waits differ more than those for an engine.
            # The keep-alives of a gateway are 15 s apart.
            return max(bounds_s[0], DEFAULT_S), max(bounds_s[1], DEFAULT_S)
        return bounds_s

    def _on_first_token(self, attempt: Attempt[_ChunkT]) -> None:
        first_token_at = attempt.first_token_at
        if first_token_at is not None:
            self._first_token_s = first_token_at - attempt.sent_at
        if FirstToken in self._context.events.observed_types:
            self._context.events.emit(
                FirstToken(
                    call=self._call_id,
                    attempt=len(self._attempts) + 1,
                    model=self._model,
                    service=self._service or "",
                    time_to_first_token_s=self._first_token_s or 0.0,
                )
            )

    async def _finish(self, attempt: Attempt[_ChunkT], guard: TimeoutGuard) -> None:
        """Close a successful attempt and build the result."""
        context, operation = self._context, self._operation
        longest_gap_s = guard.longest_gap_s  # `finish` may reset it
        value = await attempt.finish()
        ended_at = self._finish_attempt(attempt, None)
        budget = context.retry.budget
        if budget.left < budget.capacity:  # saves a call: it is full unless calls failed
            budget.deposit()
        if operation.measures_latency and self._first_token_s is not None:
            context.latencies.for_model(self._model).record_success(
                self._first_token_s, longest_gap_s
            )
        connection, model = attempt.get_target()
        first_token_at = attempt.first_token_at
        self._finished = finished = operation.complete(
            value,
            self._texts,
            AnswerFacts(
                connection=connection,
                model=model,
                status=attempt.status,
                headers=attempt.headers,
                attempts=self._attempts,
                time_to_first_token_s=self._first_token_s,
                streamed_s=None if first_token_at is None else ended_at - first_token_at,
                total_s=ended_at - self._started_at,
                queued_s=self._queued_s,
            ),
        )
        usage, first_token_s = finished.usage, self._first_token_s
        if (
            usage is not None
            and usage.prompt_tokens >= MIN_TOKENS
            and first_token_s is not None
            and attempt.is_only_call  # another one would have slowed the reading down
        ):
            attempt.service.readings.for_model(self._model).record(
                operation.measure_prompt(), usage.prompt_tokens, first_token_s
            )

    async def _handle_failure(self, error: FoundryError, guard: TimeoutGuard) -> None:
        """Prepare for another attempt, or raise the error if the call has failed."""
        context, attempt = self._context, self._attempt
        self._finish_attempt(attempt, error)
        if attempt is not None and attempt.abandoned and isinstance(error, CallTimeout):
            attempt.service.abandoned_reads.report(error, attempt.abandoned)
        if context.is_closed() and not isinstance(error, ClientClosed):
            closed = ClientClosed("the client was closed during the call")
            raise self._add_context(closed) from error
        self._add_context(error)
        if isinstance(error, ReadTimeout):
            # A timeout counts as a wait of its limit, so that the next limit is longer.
            latency = context.latencies.for_model(self._model)
            latency.record_timeout(error.limit_s, streaming=bool(self._chunk_count))
        was_sent = attempt is not None and attempt.was_sent
        # Never retry once the caller has chunks: another attempt would give a different answer.
        if self._chunk_count or self._operation.is_final(error, was_sent=was_sent):
            raise error
        if (amended := self._operation.amend(error)) is not None:
            self._operation = amended
            return
        policy = self._policy = self._policy or FailurePolicy(
            context.retry, context.services, self._request.models
        )
        service = attempt.service if attempt is not None else None
        delay_s = policy.get_next_delay_s(error, service, guard.remaining_s)
        if delay_s is None:
            raise error
        context.events.emit(
            RetryScheduled(
                call=self._call_id,
                attempt=len(self._attempts),
                model=self._model,
                service=self._service,
                error=error,
                delay_s=delay_s,
            )
        )
        if delay_s:
            await context.retry.sleep(delay_s)

    def _finish_attempt(
        self, attempt: Attempt[_ChunkT] | None, error: BaseException | None
    ) -> float:
        """Close an attempt, record it, and return the time at which it ended."""
        self._attempt = None
        if attempt is not None:
            attempt.close(error)
            self._queued_s += attempt.queued_s
            self._attempt_started_at = attempt.sent_at
        ended_at = self._context.monotonic()
        if error is None or isinstance(error, FoundryError):  # else the caller cancelled it
            record = AttemptRecord(ended_at - self._attempt_started_at, error)
            self._attempts = (*self._attempts, record)
        return ended_at

    def _add_context(self, error: FoundryError) -> FoundryError:
        errors = [attempt.error for attempt in self._attempts]
        error.previous_errors = tuple(previous for previous in errors[:-1] if previous is not None)
        error.partial = "".join(self._texts)
        model = self._model if self._operation.needs_model else None
        return error.with_context(model=model, attempts=len(errors))

    def _fail(self, guard: TimeoutGuard, error: BaseException) -> None:
        guard.stop()
        if self._attempt is not None:  # the caller cancelled the call or left the stream
            self._collect(self._attempt.chunks)
            self._finish_attempt(self._attempt, error)
        failure = error if isinstance(error, FoundryError) else None
        self._context.events.emit(
            CallEnded(
                call=self._call_id,
                outcome="failed" if failure else "cancelled",
                model=self._model,
                service=self._service,
                attempts=self._attempts,
                timings=Timings(
                    time_to_first_token_s=self._first_token_s,
                    total_s=self._context.monotonic() - self._started_at,
                    tokens_per_second=None,
                    queued_s=self._queued_s,
                ),
                error=failure,
                chunks=self._chunk_count,
                content="".join(self._texts),
                operation=self._operation.name,
            )
        )

    def _complete(self, guard: TimeoutGuard) -> _ResultT:
        """Emit the last event and return the result."""
        guard.stop()
        finished = self._finished
        assert finished is not None  # noqa: S101 - a bug if it fails
        self._context.events.emit(
            CallEnded(
                call=self._call_id,
                outcome="answered",
                model=self._model,
                service=self._service,
                attempts=self._attempts,
                timings=finished.timings,
                usage=finished.usage,
                finish_reason=finished.finish_reason,
                chunks=self._chunk_count,
                content="".join(self._texts) if finished.content is None else finished.content,
                operation=self._operation.name,
            )
        )
        return finished.result


class FailurePolicy:
    """Decides whether and where one call is tried again.

    In this order: at another service, at the same one after a delay, with the next model.
    """

    def __init__(self, retry: Retry, services: ServicePool, models: Sequence[str]) -> None:
        self.model, *self._fallbacks = models
        self.tried: set[ServiceHandle] = set()  # the services that failed with the current model
        self._retry = retry
        self._services = services
        self._failures = 0

    def get_next_delay_s(
        self, error: FoundryError, service: ServiceHandle | None, remaining_s: float
    ) -> float | None:
        """Return the seconds until the next attempt, or None if the call has failed.

        `remaining_s` are the seconds until the call's deadline.
        """
        if isinstance(error, FAILOVER_ERRORS) and service is not None and service not in self.tried:
            self.tried.add(service)
            if self._services.has_untried(self.tried, self.model) and (
                service.problem
                or isinstance(error, LOST_SERVICE_ERRORS)
                or self._retry.budget.try_spend()
            ):
                return 0.0
        delay_s = self._get_retry_delay(error, remaining_s)
        if delay_s is None and self._fallbacks and self._may_fall_back(error):
            self.model = self._fallbacks.pop(0)
            self.tried.clear()
            self._failures = 0
            return 0.0
        return delay_s

    def _may_fall_back(self, error: FoundryError) -> bool:
        if self._services.has_offers and isinstance(error, SERVICE_FALLBACK_ERRORS):
            return True
        return isinstance(error, MODEL_FALLBACK_ERRORS)

    def _get_retry_delay(self, error: FoundryError, remaining_s: float) -> float | None:
        # A call that has made an attempt waits for the breaker; a new call is refused at once.
        waits_for_breaker = isinstance(error, CircuitOpen) and self._failures > 0
        if not (error.retryable or waits_for_breaker) or self._failures >= self._retry.retries:
            return None
        self._failures += 1
        delay_s = self._retry.delay_s(error, self._failures)
        if delay_s >= remaining_s:
            error.hint = f"{error.hint} The deadline leaves no time for another attempt."
            return None
        if not (waits_for_breaker or self._retry.budget.try_spend()):
            error.hint = f"{error.hint} So many calls failed that the retry budget is spent."
            return None
        return delay_s
