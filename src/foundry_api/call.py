"""One chat completion from its first attempt to its last token."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import msgspec

from foundry_api.attempt import ChatAttempt
from foundry_api.errors import ClientClosed, ContextOverflow, FoundryError, SilenceTimeout
from foundry_api.events import AttemptStarted, CallEnded, CallStarted, FirstToken, RetryScheduled
from foundry_api.messages import Attempt, ChatRequest, Chunk, Completion, Timings
from foundry_api.recovery import Recovery
from foundry_api.resilience.deadline import Deadline
from foundry_api.resilience.watch import Watch

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator

    from foundry_api.events import Events
    from foundry_api.messages import Usage
    from foundry_api.resilience.latency import Latencies
    from foundry_api.resilience.retry import Retry
    from foundry_api.services import Services

__all__ = ["CallTools", "ChatCall", "Order"]

SHORTEST_RATED_S = 0.001
"""An answer that came in one burst says nothing of the engine's speed."""


class Order(msgspec.Struct, frozen=True):
    """What the caller ordered.

    Attributes:
        models: The models' names as the caller said them; each is tried when the one before failed.
        request: The checked request.
        timeout_s: Bound of the silence before and between tokens, or `auto`.
        deadline: By when the call has to be over.
        download: Whether a model that is not here may be downloaded first.
    """

    models: tuple[str, ...]
    request: ChatRequest
    timeout_s: float | Literal["auto"]
    deadline: Deadline
    download: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CallTools:
    """What all the calls of a client share.

    Attributes:
        services: Whom to ask.
        retry: How to try again.
        events: Who wants to hear what happens.
        latencies: What was seen of the models.
        closed: Tells whether the client was closed.
        clock: Seconds of a monotonic clock.
        numbers: Numbers the calls.
    """

    services: Services
    retry: Retry
    events: Events
    latencies: Latencies
    closed: Callable[[], bool]
    clock: Callable[[], float] = time.perf_counter
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))


class ChatCall:
    """Makes attempts until one brings a token, and measures them.

    After the first token nothing is tried again: the caller has text in hand that another attempt
    would contradict.

    Args:
        tools: What the client's calls share.
        order: What the caller ordered.
    """

    def __init__(self, tools: CallTools, order: Order) -> None:
        self._tools = tools
        self._order = order
        self._request = order.request
        self._recovery = Recovery(tools.retry, tools.services, order.models)
        self._number = next(tools.numbers)
        self._started = self._attempt_started = tools.clock()
        self._attempt: ChatAttempt | None = None
        self._attempts: tuple[Attempt, ...] = ()
        self._model = order.models[0]
        self._service: str | None = None
        self._queued_s = 0.0
        self._text: list[str] = []
        self._raw: list[bytes] = []
        self._first_token_s: float | None = None

    async def chunks(self) -> AsyncGenerator[Chunk]:
        """The answer in pieces; the last one carries finish reason, usage and timings."""
        watch = self._begin()
        try:
            while isinstance(came := await self._next(watch), list):
                for piece in came:
                    yield piece
        except BaseException as error:
            self._tell_failure(watch, error)
            raise
        self._tell_answer(watch, came.whole)
        yield came.last

    async def completion(self) -> Completion:
        """The whole answer."""
        watch = self._begin()
        self._raw = []
        try:
            while isinstance(came := await self._next(watch), list):
                self._raw += [piece.raw for piece in came]
        except BaseException as error:
            self._tell_failure(watch, error)
            raise
        self._tell_answer(watch, came.whole)
        return came.whole

    async def _next(self, watch: Watch) -> list[Chunk] | _Answer:
        """The next pieces of the answer, and at its end the whole of it."""
        while True:
            try:
                attempt = self._attempt or await self._send(watch)
                if pieces := await attempt.read():
                    self._note(attempt, pieces)
                    return pieces
                return await self._finish(attempt, watch)
            except FoundryError as error:
                await self._after(error, watch)

    async def _send(self, watch: Watch) -> ChatAttempt:
        tools, name = self._tools, self._recovery.model
        self._model, self._service, self._attempt_started = name, None, tools.clock()
        watch.ignore_silence("connecting")
        with watch:
            service = await tools.services.having(name, self._recovery.tried)
        attempt = self._attempt = ChatAttempt(service, self._request, watch, tools.clock)
        await attempt.prepare(name, download=self._order.download, again=bool(self._attempts))
        connection, model = attempt.found
        self._model, self._service = model.id, connection.endpoint.base_url
        self._tell_attempt(attempt)
        await attempt.send(*self._silence_bounds())
        return attempt

    def _silence_bounds(self) -> tuple[float, float]:
        timeout_s = self._order.timeout_s
        if timeout_s == "auto":
            return self._tools.latencies.of(self._model).bounds_s
        return timeout_s, timeout_s

    def _note(self, attempt: ChatAttempt, pieces: list[Chunk]) -> None:
        if not self._text:
            self._first_token_s = attempt.time_to_first_token_s
            self._tell_first_token(self._first_token_s or 0.0)
        self._text += [piece.content for piece in pieces]

    async def _finish(self, attempt: ChatAttempt, watch: Watch) -> _Answer:
        longest_gap_s = watch.longest_gap_s
        ending = await attempt.finish()
        now = self._close(attempt, None)
        self._tools.retry.budget.succeeded()
        if self._first_token_s is not None:
            self._tools.latencies.of(self._model).answered(self._first_token_s, longest_gap_s)
        connection, _ = attempt.found
        whole = Completion(
            content="".join(self._text),
            model=self._model,
            service=connection.endpoint.base_url,
            generation=connection.endpoint.generation,
            finish_reason=ending.finish_reason,
            usage=ending.usage,
            timings=Timings(
                time_to_first_token_s=self._first_token_s,
                total_s=now - self._started,
                tokens_per_second=_rate(attempt.first_token_at, now, ending.usage),
                queued_s=self._queued_s,
            ),
            attempts=self._attempts,
            raw=(*self._raw, ending.raw),
        )
        return _Answer(whole)

    async def _after(self, error: FoundryError, watch: Watch) -> None:
        """Prepare the next attempt, or raise the error if there is none."""
        attempt = self._attempt
        self._close(attempt, error)
        if self._tools.closed() and not isinstance(error, ClientClosed):
            closed = ClientClosed("the client was closed during the call")
            raise self._completed(closed) from error
        self._completed(error)
        self._learn(error)
        if self._text:
            raise error
        if self._fit_into_context(error):
            return
        delay_s = self._recovery.after(error, attempt.service if attempt else None, watch.left_s)
        if delay_s is None:
            raise error
        self._tell_retry(error, delay_s)
        if delay_s:
            await self._tools.retry.sleep(delay_s)

    def _close(self, attempt: ChatAttempt | None, error: BaseException | None) -> float:
        """The moment at which an attempt ended."""
        self._attempt = None
        if attempt is not None:
            attempt.close(error)
            self._queued_s += attempt.queued_s
            self._attempt_started = attempt.sent_at
        now = self._tools.clock()
        if error is None or isinstance(error, FoundryError):
            self._attempts = (*self._attempts, Attempt(now - self._attempt_started, error))
        return now

    def _completed(self, error: FoundryError) -> FoundryError:
        """The error with what only the call knows."""
        failures = [attempt.error for attempt in self._attempts]
        error.earlier = tuple(failure for failure in failures[:-1] if failure is not None)
        error.partial = "".join(self._text)
        return error.located(model=self._model, attempts=len(failures))

    def _learn(self, error: FoundryError) -> None:
        if isinstance(error, SilenceTimeout):
            latency = self._tools.latencies.of(self._model)
            latency.fell(error.limit_s, streaming=bool(self._text))

    def _fit_into_context(self, error: FoundryError) -> bool:
        """Ask for what fits, when the caller set no bound and the service's default overflows.

        The service adds 2048 output tokens to the prompt and refuses when that is more than the
        context, though the answer may be short (foundry-local-service.md, 4.5).
        """
        if not isinstance(error, ContextOverflow) or self._is_bounded():
            return False
        if error.context_length is None or error.prompt_tokens is None:
            return False
        room = error.context_length - error.prompt_tokens
        if room < 1:
            return False
        self._request = msgspec.structs.replace(self._request, max_tokens=room)
        return True

    def _is_bounded(self) -> bool:
        bounds = {"max_tokens", "max_completion_tokens"}
        return self._request.max_tokens is not None or not bounds.isdisjoint(self._request.extra)

    def _begin(self) -> Watch:
        self._started = self._tools.clock()
        if self._tools.events.hears(CallStarted):
            self._tools.events.emit(
                CallStarted(call=self._number, model=self._model, request=self._request)
            )
        return Watch(self._order.deadline)

    def _tell_attempt(self, attempt: ChatAttempt) -> None:
        if not self._tools.events.hears(AttemptStarted):
            return
        self._tools.events.emit(
            AttemptStarted(
                call=self._number,
                attempt=len(self._attempts) + 1,
                model=self._model,
                service=self._service or "",
                queued_s=attempt.queued_s,
            )
        )

    def _tell_first_token(self, seconds: float) -> None:
        if not self._tools.events.hears(FirstToken):
            return
        self._tools.events.emit(
            FirstToken(
                call=self._number,
                attempt=len(self._attempts) + 1,
                model=self._model,
                service=self._service or "",
                time_to_first_token_s=seconds,
            )
        )

    def _tell_retry(self, error: FoundryError, delay_s: float) -> None:
        self._tools.events.emit(
            RetryScheduled(
                call=self._number,
                attempt=len(self._attempts),
                model=self._model,
                service=self._service,
                error=error,
                delay_s=delay_s,
            )
        )

    def _tell_answer(self, watch: Watch, whole: Completion) -> None:
        watch.stop()
        self._tools.events.emit(
            CallEnded(
                call=self._number,
                outcome="answered",
                model=whole.model,
                service=whole.service,
                attempts=whole.attempts,
                timings=whole.timings,
                usage=whole.usage,
                finish_reason=whole.finish_reason,
                chunks=len(self._text),
                content=whole.content,
            )
        )

    def _tell_failure(self, watch: Watch, error: BaseException) -> None:
        watch.stop()
        if self._attempt is not None:  # the caller left
            self._close(self._attempt, error)
        failure = error if isinstance(error, FoundryError) else None
        timings = Timings(
            time_to_first_token_s=self._first_token_s,
            total_s=self._tools.clock() - self._started,
            tokens_per_second=None,
            queued_s=self._queued_s,
        )
        self._tools.events.emit(
            CallEnded(
                call=self._number,
                outcome="failed" if failure else "cancelled",
                model=self._model,
                service=self._service,
                attempts=self._attempts,
                timings=timings,
                error=failure,
                chunks=len(self._text),
                content="".join(self._text),
            )
        )


@dataclass(frozen=True, slots=True)
class _Answer:
    """The end of a call."""

    whole: Completion

    @property
    def last(self) -> Chunk:
        """The last chunk of the answer as a stream."""
        whole = self.whole
        return Chunk(
            content="",
            model=whole.model,
            finish_reason=whole.finish_reason,
            usage=whole.usage,
            timings=whole.timings,
            attempts=whole.attempts,
            raw=whole.raw[-1],
        )


def _rate(first_token_at: float | None, now: float, usage: Usage) -> float | None:
    tokens = usage.completion_tokens - 1
    if first_token_at is None or tokens < 1:
        return None
    took_s = now - first_token_at
    return tokens / took_s if took_s >= SHORTEST_RATED_S else None
