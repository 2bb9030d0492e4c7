"""One call from its first attempt to its end.

Read `Call` from the top: `result` and `chunks` are what callers use, `_run_attempt` makes attempts
until one brings a piece of the answer, and `_handle_failure` decides what follows one that failed.
Once a piece has come nothing is tried again: the caller has something in hand that another attempt
would contradict.
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
from foundry_api.resilience.silence import TimeoutGuard
from foundry_api.types.errors import (
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
    from foundry_api.resilience.latency import Latencies
    from foundry_api.resilience.retry import Retry
    from foundry_api.types.events import EventBus

__all__ = ["Call", "CallContext", "CallRequest", "FailurePolicy"]

_P = TypeVar("_P")
_R = TypeVar("_R")


class CallRequest(msgspec.Struct, Generic[_R], frozen=True):
    """What the caller asked for, validated.

    Attributes:
        models: The models' names as the caller said them; each is tried when the one before failed.
        request: The request.
        timeout_s: Bound of the silence before and between tokens, or `auto`.
        deadline: By when the call has to be over.
        download: Whether a model that is not here may be downloaded first.
        cache: Whether the answer may come from the cache, and be kept there.
    """

    models: tuple[str, ...]
    request: _R
    timeout_s: float | Literal["auto"]
    deadline: Deadline
    download: bool = False
    cache: Literal["auto", "always", "never"] = "auto"


@dataclass(frozen=True, slots=True, kw_only=True)
class CallContext:
    """What all the calls of a client share.

    Attributes:
        services: The services to call.
        retry: How to try again.
        events: Who listens to what happens.
        latencies: What was measured of the models.
        closed: Tells whether the client was closed.
        binding: Binds the client to the running event loop, or refuses it.
        clock: Seconds of a monotonic clock.
        call_ids: Numbers the calls.
    """

    services: ServicePool
    retry: Retry
    events: EventBus
    latencies: Latencies
    closed: Callable[[], bool]
    binding: LoopBinding = field(default_factory=LoopBinding)
    clock: Callable[[], float] = time.perf_counter
    call_ids: Iterator[int] = field(default_factory=lambda: itertools.count(1))


class Call(Generic[_P, _R]):
    """A call, whole or as a stream, and its measurements.

    Args:
        context: What the client's calls share.
        request: The validated request.
        operation: What is asked of the service.
        service: The service to ask, where no other will do; None for any.
    """

    def __init__(
        self,
        context: CallContext,
        request: CallRequest[Any],
        operation: Operation[_P, Any, _R],
        service: ServiceHandle | None = None,
    ) -> None:
        self._context = context
        self._request = request
        self._operation = operation
        self._only = service
        self._policy: FailurePolicy | None = None  # few calls fail
        self._call_id = next(context.call_ids)
        self._started = self._attempt_started = context.clock()
        self._watch: TimeoutGuard | None = None
        self._attempt: Attempt[_P] | None = None
        self._attempts: tuple[AttemptRecord, ...] = ()
        self._model = request.models[0]
        self._service: str | None = None
        self._queued_s = 0.0
        self._chunk_count = 0
        self._first_token_s: float | None = None
        self._texts: list[str] = []
        self._keeps_result = True
        self._finished: Finished[_R] | None = None

    async def result(self, on_chunks: Callable[[list[_P]], None] | None = None) -> _R:
        """Return the whole answer.

        Args:
            on_chunks: Called with its chunks as they come.
        """
        watch = self._start()
        try:
            while chunks := await self._run_attempt(watch):
                if on_chunks is not None:
                    on_chunks(chunks)
        except BaseException as error:
            self._emit_failed(watch, error)
            raise
        self._emit_completed(watch)
        return self.outcome

    async def chunks(self) -> AsyncGenerator[_P]:
        """Yield the answer in chunks. Of a chat completion the last one tells how it ended."""
        self._keeps_result = False
        watch = self._start()
        try:
            while chunks := await self._run_attempt(watch):
                for chunk in chunks:
                    yield chunk
        except BaseException as error:
            self._emit_failed(watch, error)
            raise
        self._emit_completed(watch)
        final_chunk = self._operation.final_chunk(self.outcome)
        if final_chunk is not None:
            yield final_chunk

    @property
    def outcome(self) -> _R:
        """The result, once all of the chunks were taken."""
        assert self._finished is not None  # noqa: S101 - a mistake of ours
        return self._finished.result

    def extend_deadline(self, deadline: Deadline) -> None:
        """Somebody waits for the result who may have more time than who asked for it."""
        if self._watch is not None:
            self._watch.extend(deadline)

    def _start(self) -> TimeoutGuard:
        context = self._context
        watch = self._watch = TimeoutGuard(self._request.deadline)
        if context.binding.loop is not watch.loop:
            context.binding.bind()
        self._started = context.clock()
        if CallStarted in context.events.heard:
            context.events.emit(
                CallStarted(
                    call=self._call_id,
                    model=self._model,
                    request=self._operation.event_request(),
                    operation=self._operation.name,
                )
            )
        return watch

    async def _run_attempt(self, watch: TimeoutGuard) -> list[_P]:
        """Return the next chunks, from a new attempt where none runs; none at the answer's end."""
        while True:
            try:
                attempt = self._attempt
                if attempt is None:
                    attempt = await self._prepare_attempt(watch)
                    await attempt.send(*self._silence_bounds())
                if not (chunks := await attempt.read()):
                    await self._finish(attempt, watch)
                    return chunks
                if not self._chunk_count:
                    self._on_first_token(attempt)
                self._chunk_count += len(chunks)
                self._operation.collect(chunks, self._texts, keep_result=self._keeps_result)
            except FoundryError as error:
                await self._handle_failure(error, watch)
            else:
                return chunks

    async def _prepare_attempt(self, watch: TimeoutGuard) -> Attempt[_P]:
        """Return an attempt that has waited in line for its turn, wherever one was free first."""
        context, policy, request = self._context, self._policy, self._request
        name = policy.model if policy is not None else request.models[0]
        tried: AbstractSet[ServiceHandle] = policy.tried if policy is not None else frozenset()
        requeued = bool(self._attempts)
        self._model, self._service, self._attempt_started = name, None, context.clock()
        watch.suspend_silence("connecting")
        while True:
            watch.check()
            service = self._only or context.services.select(name, tried)
            if service is None:
                with watch:
                    service = await context.services.select_for_model(name, tried)
            attempt = self._attempt = Attempt(service, self._operation, watch, context.clock)
            try:
                await attempt.acquire(
                    name,
                    download=request.download,
                    requeued=requeued,
                    may_move=self._only is None and not tried,
                )
                break
            except Moved as moved:
                attempt.close(moved)
                self._queued_s += attempt.queued_s
                requeued = True
        connection = attempt.connection
        if attempt.model is not None:
            self._model = attempt.model.id
        self._service = connection.endpoint.base_url if connection is not None else None
        if AttemptStarted in context.events.heard:
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

    def _silence_bounds(self) -> tuple[float, float]:
        timeout_s, default_s = self._request.timeout_s, self._operation.default_timeout_s
        if timeout_s != "auto":
            return timeout_s, timeout_s
        if default_s is not None:
            return default_s, default_s
        return self._context.latencies.of(self._model).bounds_s

    def _on_first_token(self, attempt: Attempt[_P]) -> None:
        first_token_at = attempt.first_token_at
        if first_token_at is not None:
            self._first_token_s = first_token_at - attempt.sent_at
        if FirstToken in self._context.events.heard:
            self._context.events.emit(
                FirstToken(
                    call=self._call_id,
                    attempt=len(self._attempts) + 1,
                    model=self._model,
                    service=self._service or "",
                    time_to_first_token_s=self._first_token_s or 0.0,
                )
            )

    async def _finish(self, attempt: Attempt[_P], watch: TimeoutGuard) -> None:
        """End an attempt that was answered, and make the result."""
        context, operation = self._context, self._operation
        longest_gap_s = watch.longest_gap_s
        value = await attempt.finish()
        now = self._finish_attempt(attempt, None)
        budget = context.retry.budget
        if budget.left < budget.capacity:  # else there is nothing to fill up
            budget.deposit()
        if operation.measures_latency and self._first_token_s is not None:
            context.latencies.of(self._model).record_success(self._first_token_s, longest_gap_s)
        connection, model = attempt.target
        first_token_at = attempt.first_token_at
        self._finished = operation.complete(
            value,
            self._texts,
            AnswerFacts(
                connection=connection,
                model=model,
                status=attempt.status,
                headers=attempt.headers,
                attempts=self._attempts,
                time_to_first_token_s=self._first_token_s,
                streamed_s=None if first_token_at is None else now - first_token_at,
                total_s=now - self._started,
                queued_s=self._queued_s,
            ),
        )

    async def _handle_failure(self, error: FoundryError, watch: TimeoutGuard) -> None:
        """Prepare the next attempt, or raise the error if there is none."""
        context, attempt = self._context, self._attempt
        self._finish_attempt(attempt, error)
        if context.closed() and not isinstance(error, ClientClosed):
            closed = ClientClosed("the client was closed during the call")
            raise self._add_context(closed) from error
        self._add_context(error)
        if isinstance(error, ReadTimeout):
            # A bound that fell counts as a wait of that length, so that the next one is longer.
            latency = context.latencies.of(self._model)
            latency.record_timeout(error.limit_s, streaming=bool(self._chunk_count))
        was_sent = attempt is not None and attempt.was_sent
        if self._chunk_count or self._operation.is_final(error, was_sent=was_sent):
            raise error
        if (amended := self._operation.amend(error)) is not None:
            self._operation = amended
            return
        policy = self._policy = self._policy or FailurePolicy(
            context.retry, context.services, self._request.models
        )
        service = attempt.service if attempt is not None else None
        delay_s = policy.next_delay(error, service, watch.left_s)
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

    def _finish_attempt(self, attempt: Attempt[_P] | None, error: BaseException | None) -> float:
        """Close an attempt, record it, and return the moment at which it ended."""
        self._attempt = None
        if attempt is not None:
            attempt.close(error)
            self._queued_s += attempt.queued_s
            self._attempt_started = attempt.sent_at
        now = self._context.clock()
        if error is None or isinstance(error, FoundryError):
            self._attempts = (*self._attempts, AttemptRecord(now - self._attempt_started, error))
        return now

    def _add_context(self, error: FoundryError) -> FoundryError:
        """Add what only the call knows to an error."""
        failures = [attempt.error for attempt in self._attempts]
        error.previous_errors = tuple(failure for failure in failures[:-1] if failure is not None)
        error.partial = "".join(self._texts)
        model = self._model if self._operation.needs_model else None
        return error.with_context(model=model, attempts=len(failures))

    def _emit_failed(self, watch: TimeoutGuard, error: BaseException) -> None:
        watch.stop()
        if self._attempt is not None:  # the caller left
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
                    total_s=self._context.clock() - self._started,
                    tokens_per_second=None,
                    queued_s=self._queued_s,
                ),
                error=failure,
                chunks=self._chunk_count,
                content="".join(self._texts),
                operation=self._operation.name,
            )
        )

    def _emit_completed(self, watch: TimeoutGuard) -> None:
        watch.stop()
        finished = self._finished
        assert finished is not None  # noqa: S101 - as above
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


FAILOVER_ERRORS = (ServiceError, ModelError, QueueFull, UnsupportedFeature)
"""What one service failed with, or lacks, says nothing of the next one."""

MODEL_FALLBACK_ERRORS = (
    ModelError,
    ContextOverflow,
    ServerError,
    ServiceCrashed,
    StreamInterrupted,
    ReadTimeout,
)
"""What a model was the cause of. A service that is gone has no other model either."""


class FailurePolicy:
    """Decides what follows the failed attempts of one call.

    Args:
        retry: How to try again.
        services: The services to call.
        models: The names of the models, in the order in which to try them.

    Attributes:
        model: Name of the model to ask for now.
        tried: Services that failed for it.
    """

    def __init__(self, retry: Retry, services: ServicePool, models: Sequence[str]) -> None:
        self.model, *self._fallbacks = models
        self.tried: set[ServiceHandle] = set()
        self._retry = retry
        self._services = services
        self._failures = 0

    def next_delay(
        self, error: FoundryError, service: ServiceHandle | None, left_s: float
    ) -> float | None:
        """Return seconds until the next attempt; None if the error is final, as its hint may say.

        Args:
            error: What ended the last attempt, before its first token.
            service: Who was asked; None if none was found.
            left_s: Seconds until the call's deadline.
        """
        if service is not None and self._failover(error, service):
            return 0.0
        delay_s = self._retry_delay(error, left_s)
        if delay_s is None and self._fallback_model(error):
            return 0.0
        return delay_s

    def _failover(self, error: FoundryError, service: ServiceHandle) -> bool:
        if not isinstance(error, FAILOVER_ERRORS) or service in self.tried:
            return False
        self.tried.add(service)
        return self._services.has_untried(self.tried) and self._retry.budget.try_spend()

    def _retry_delay(self, error: FoundryError, left_s: float) -> float | None:
        # A call that had begun waits for the breaker; a new one is refused at once.
        waits_for_breaker = isinstance(error, CircuitOpen) and self._failures > 0
        if not (error.retryable or waits_for_breaker) or self._failures >= self._retry.retries:
            return None
        self._failures += 1
        delay_s = self._retry.delay_s(error, self._failures)
        if delay_s >= left_s:
            error.hint = f"{error.hint} Its deadline leaves no time for another attempt."
            return None
        if not (waits_for_breaker or self._retry.budget.try_spend()):
            error.hint = f"{error.hint} So many calls failed that the retry budget is spent."
            return None
        return delay_s

    def _fallback_model(self, error: FoundryError) -> bool:
        if not self._fallbacks or not isinstance(error, MODEL_FALLBACK_ERRORS):
            return False
        self.model = self._fallbacks.pop(0)
        self.tried.clear()
        self._failures = 0
        return True
