"""One call from its first attempt to its end: what every kind of call has in common.

Attempts are made until one brings a piece of the answer. After that nothing is tried again: the
caller has something in hand that another attempt would contradict.
"""

from __future__ import annotations

import itertools
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

import msgspec

from foundry_api.core.attempt import GuardedAttempt
from foundry_api.core.operation import Asking
from foundry_api.resilience.deadline import Deadline
from foundry_api.resilience.limiter import Moved
from foundry_api.resilience.silence import Watch
from foundry_api.types.errors import (
    CircuitOpen,
    ClientClosed,
    ContextOverflow,
    FoundryError,
    ModelError,
    QueueFull,
    RouteMissing,
    ServerError,
    ServiceCrashed,
    ServiceError,
    ServiceNotRunning,
    SilenceTimeout,
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
from foundry_api.types.messages import Attempt, Timings
from foundry_api.wire.transport import LAST_SUCCESS, OK

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator, Sequence

    from foundry_api.core.connection import Connection
    from foundry_api.core.operation import Decoder
    from foundry_api.core.service_pool import Service, Services
    from foundry_api.resilience.latency import Latencies
    from foundry_api.resilience.retry import Retry
    from foundry_api.types.capabilities import Capabilities
    from foundry_api.types.events import Events, Operation
    from foundry_api.types.messages import ChatRequest, Generation, Model
    from foundry_api.wire.transport import Response

__all__ = ["CallTools", "EndpointCall", "GuardedCall", "Order", "Outcome", "Recovery", "ordered"]


ANOTHER_SERVICE_MAY = (ServiceError, ModelError, QueueFull, UnsupportedFeature)
"""What one service failed with, or lacks, says nothing of the next one."""

ANOTHER_MODEL_MAY = (
    ModelError,
    ContextOverflow,
    ServerError,
    ServiceCrashed,
    StreamInterrupted,
    SilenceTimeout,
)
"""What a model was the cause of. A service that is gone has no other model either."""


class Recovery:
    """The options that are left to one call.

    Args:
        retry: How to try again.
        services: Whom else to ask.
        models: The names of the models, in the order in which to try them.

    Attributes:
        model: Name of the model to ask for now.
        tried: Services that failed for it.
    """

    def __init__(self, retry: Retry, services: Services, models: Sequence[str]) -> None:
        self.model, *self._fallbacks = models
        self.tried: set[Service] = set()
        self._retry = retry
        self._services = services
        self._failures = 0

    def after(self, error: FoundryError, service: Service | None, left_s: float) -> float | None:
        """Seconds until the next attempt; None if the error is final, which its hint may explain.

        Args:
            error: What ended the last attempt, before its first token.
            service: Who was asked; None if none was found.
            left_s: Seconds until the call's deadline.
        """
        if service is not None and self._goes_elsewhere(error, service):
            return 0.0
        delay_s = self._tries_again(error, left_s)
        if delay_s is None and self._takes_another_model(error):
            return 0.0
        return delay_s

    def _goes_elsewhere(self, error: FoundryError, service: Service) -> bool:
        if not isinstance(error, ANOTHER_SERVICE_MAY) or service in self.tried:
            return False
        self.tried.add(service)
        return self._services.has_untried(self.tried) and self._retry.budget.take()

    def _tries_again(self, error: FoundryError, left_s: float) -> float | None:
        # A call that had begun waits for the breaker; a new one is refused at once.
        waits_for_breaker = isinstance(error, CircuitOpen) and self._failures > 0
        if not (error.retryable or waits_for_breaker) or self._failures >= self._retry.retries:
            return None
        self._failures += 1
        delay_s = self._retry.delay_s(error, self._failures)
        if delay_s >= left_s:
            error.hint = f"{error.hint} Its deadline leaves no time for another attempt."
            return None
        if not (waits_for_breaker or self._retry.budget.take()):
            error.hint = f"{error.hint} So many calls failed that the retry budget is spent."
            return None
        return delay_s

    def _takes_another_model(self, error: FoundryError) -> bool:
        if not self._fallbacks or not isinstance(error, ANOTHER_MODEL_MAY):
            return False
        self.model = self._fallbacks.pop(0)
        self.tried.clear()
        self._failures = 0
        return True


_R = TypeVar("_R")
_A = TypeVar("_A", bound=GuardedAttempt)


class Order(msgspec.Struct, Generic[_R], frozen=True):
    """What the caller ordered.

    Attributes:
        models: The models' names as the caller said them; each is tried when the one before failed.
        request: The checked request.
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
class CallTools:
    """What all the calls of a client share.

    Attributes:
        services: Whom to ask.
        retry: How to try again.
        events: Who wants to hear what happens.
        latencies: What was seen of the models.
        closed: Tells whether the client was closed.
        bind: Binds the client to the running event loop, or refuses it.
        clock: Seconds of a monotonic clock.
        numbers: Numbers the calls.
    """

    services: Services
    retry: Retry
    events: Events
    latencies: Latencies
    closed: Callable[[], bool]
    bind: Callable[[], None] = lambda: None
    clock: Callable[[], float] = time.perf_counter
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))


class GuardedCall(ABC, Generic[_R, _A]):
    """Makes attempts, and reports them.

    Args:
        tools: What the client's calls share.
        order: What the caller ordered.
    """

    _operation: Operation = "chat"

    def __init__(self, tools: CallTools, order: Order[_R]) -> None:
        self._tools = tools
        self._order = order
        self._request = order.request
        self._recovery = Recovery(tools.retry, tools.services, order.models)
        self._number = next(tools.numbers)
        self._started = self._attempt_started = tools.clock()
        self._attempt: _A | None = None
        self._attempts: tuple[Attempt, ...] = ()
        self._model = order.models[0]
        self._service: str | None = None
        self._queued_s = 0.0
        self._pieces: int = 0
        self._first_token_s: float | None = None

    @abstractmethod
    def _new_attempt(self, service: Service, watch: Watch) -> _A:
        """One request for this call."""

    async def _pick(self, name: str) -> Service:
        """The service to ask next."""
        return await self._tools.services.having(name, self._recovery.tried)

    @property
    def _told(self) -> ChatRequest | None:
        """What was asked, for events, where it is a chat completion."""
        return None

    @property
    def _partial(self) -> str:
        """The text of the answer so far."""
        return ""

    def _amended(self, error: FoundryError) -> bool:
        """Whether the request was put right, so that it can be sent again at once."""
        del error
        return False

    def _is_final(self, error: FoundryError, attempt: _A | None) -> bool:
        """Whether nothing may be sent again after an attempt that failed so."""
        del error, attempt
        return False

    def _begin(self) -> Watch:
        self._tools.bind()
        self._started = self._tools.clock()
        if self._tools.events.hears(CallStarted):
            self._tools.events.emit(
                CallStarted(
                    call=self._number,
                    model=self._model,
                    request=self._told,
                    operation=self._operation,
                )
            )
        return Watch(self._order.deadline)

    async def _prepare(self, watch: Watch) -> _A:
        """An attempt that has its turn."""
        tools, name = self._tools, self._recovery.model
        self._model, self._service, self._attempt_started = name, None, tools.clock()
        watch.ignore_silence("connecting")
        attempt = await self._in_line(name, watch)
        connection, model = attempt.found
        self._model, self._service = model.id, connection.endpoint.base_url
        self._tell_attempt(attempt)
        return attempt

    async def _in_line(self, name: str, watch: Watch) -> _A:
        """An attempt that has waited in line for its turn, wherever one was free first."""
        download, again = self._order.download, bool(self._attempts)
        while True:
            with watch:
                service = await self._pick(name)
            attempt = self._attempt = self._new_attempt(service, watch)
            may_move = self._may_move and not self._recovery.tried
            try:
                await attempt.prepare(name, download=download, again=again, may_move=may_move)
            except Moved as moved:
                attempt.close(moved)
                self._queued_s += attempt.queued_s
                again = True
            else:
                return attempt

    @property
    def _may_move(self) -> bool:
        """Whether any of the services may serve it."""
        return True

    def _silence_bounds(self) -> tuple[float, float]:
        timeout_s = self._order.timeout_s
        if timeout_s == "auto":
            return self._tools.latencies.of(self._model).bounds_s
        return timeout_s, timeout_s

    async def _after(self, error: FoundryError, watch: Watch) -> None:
        """Prepare the next attempt, or raise the error if there is none."""
        attempt = self._attempt
        self._close(attempt, error)
        if self._tools.closed() and not isinstance(error, ClientClosed):
            closed = ClientClosed("the client was closed during the call")
            raise self._completed(closed) from error
        self._completed(error)
        self._learn(error)
        if self._pieces or self._is_final(error, attempt):
            raise error
        if self._amended(error):
            return
        delay_s = self._recovery.after(error, attempt.service if attempt else None, watch.left_s)
        if delay_s is None:
            raise error
        self._tell_retry(error, delay_s)
        if delay_s:
            await self._tools.retry.sleep(delay_s)

    def _close(self, attempt: _A | None, error: BaseException | None) -> float:
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
        error.partial = self._partial
        return error.located(model=self._model, attempts=len(failures))

    def _learn(self, error: FoundryError) -> None:
        if isinstance(error, SilenceTimeout):
            latency = self._tools.latencies.of(self._model)
            latency.fell(error.limit_s, streaming=bool(self._pieces))

    def _timings(self, total_s: float, tokens_per_second: float | None = None) -> Timings:
        return Timings(
            time_to_first_token_s=self._first_token_s,
            total_s=total_s,
            tokens_per_second=tokens_per_second,
            queued_s=self._queued_s,
        )

    def _tell_attempt(self, attempt: _A) -> None:
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

    def _tell_failure(self, watch: Watch, error: BaseException) -> None:
        watch.stop()
        if self._attempt is not None:  # the caller left
            self._close(self._attempt, error)
        failure = error if isinstance(error, FoundryError) else None
        self._tools.events.emit(
            CallEnded(
                call=self._number,
                outcome="failed" if failure else "cancelled",
                model=self._model,
                service=self._service,
                attempts=self._attempts,
                timings=self._timings(self._tools.clock() - self._started),
                error=failure,
                chunks=self._pieces,
                content=self._partial,
                operation=self._operation,
            )
        )


_P = TypeVar("_P")


def ordered(
    asking: Asking[_P, _R],
    model: str,
    timeout_s: float | Literal["auto"],
    deadline: Deadline,
    *,
    download: bool = False,
) -> Order[Asking[_P, _R]]:
    """An order of one model."""
    return Order((model,), asking, timeout_s, deadline, download)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome(Generic[_R]):
    """The result of a call, with what only the call knows."""

    result: _R
    model: Model
    connection: Connection
    timings: Timings
    attempts: tuple[Attempt, ...]

    @property
    def service(self) -> str:
        """The base URL of the service that answered."""
        return self.connection.base_url

    @property
    def generation(self) -> Generation:
        """Which generation of Foundry Local that is."""
        return self.connection.endpoint.generation


class EndpointAttempt(GuardedAttempt, Generic[_P, _R]):
    """Sends one request and reads its answer. `close` has to be called, however it ends."""

    def __init__(
        self,
        service: Service,
        asking: Asking[_P, _R],
        watch: Watch,
        clock: Callable[[], float],
    ) -> None:
        super().__init__(service, watch, clock)
        self._asking = asking
        self._decoder: Decoder[_P, _R] | None = None

    async def send(self, first_s: float, gap_s: float) -> None:
        """Send the request and wait for the head of its answer.

        Raises:
            FoundryError: The service refused it, failed, or said nothing.
        """
        connection, model = self.found
        with self._watch:
            await self._asking.verify(connection, model)
        self._decoder = self._asking.decoder(connection, model)
        response = await self._open(self._asking.request(connection, model), first_s, gap_s)
        if not OK <= response.status <= LAST_SUCCESS:
            error = await self._refusal(response)
            raise _lacking(error) if isinstance(error, RouteMissing) else error

    async def read(self) -> list[_P]:
        """The next pieces of the answer, at least one; none at its end.

        Raises:
            FoundryError: The answer broke off, or says that it failed.
        """
        if self._behind is not None:
            raise self._behind
        response, decoder = self._reading
        while not decoder.done:
            try:
                block = await self._block(response)
            except StreamInterrupted as error:
                plain = self._asking.plain(*self.found)
                raise await self._explained(error, plain) from error
            if not block:
                break
            if pieces := self._taken(decoder.feed(block)):
                self._note(len(pieces))
                return pieces
        return []

    def finish(self) -> _R:
        """The result, once all of the answer was read."""
        _, decoder = self._reading
        return decoder.finish()

    def _check(self, capabilities: Capabilities) -> None:
        self._asking.check(capabilities)

    @property
    def _reading(self) -> tuple[Response, Decoder[_P, _R]]:
        if self._response is None or self._decoder is None:
            raise StreamInterrupted("the answer is closed")
        return self._response, self._decoder


def _lacking(error: RouteMissing) -> UnsupportedFeature:
    """A version that lacks a route, though others of its generation have it."""
    lacking = UnsupportedFeature(f"the service has no such route: {error.message}")
    lacking.status = error.status
    return lacking


class EndpointCall(GuardedCall[Asking[_P, _R], EndpointAttempt[_P, _R]], Generic[_P, _R]):
    """A call of an endpoint, whole or as a stream, and its measurements.

    Args:
        tools: What the client's calls share.
        order: What the caller ordered.
        text: The text of a piece, for errors and events.
        service: Whom to ask, where no other will do; None for any.
    """

    def __init__(
        self,
        tools: CallTools,
        order: Order[Asking[_P, _R]],
        text: Callable[[_P], str] = lambda _: "",
        service: Service | None = None,
    ) -> None:
        super().__init__(tools, order)
        self._operation = order.request.operation
        self._text_of = text
        self._only = service
        self._text: list[str] = []

    async def whole(self) -> Outcome[_R]:
        """The result, without the pieces."""
        watch = self._begin()
        try:
            while isinstance(came := await self._next(watch), list):
                self._note(came)
        except BaseException as error:
            self._tell_failure(watch, error)
            raise
        self._tell_answer(watch, came)
        return came

    async def pieces(self) -> AsyncGenerator[_P | Outcome[_R]]:
        """The pieces as they come, and the outcome as the last."""
        watch = self._begin()
        try:
            while isinstance(came := await self._next(watch), list):
                self._note(came)
                for piece in came:
                    yield piece
        except BaseException as error:
            self._tell_failure(watch, error)
            raise
        self._tell_answer(watch, came)
        yield came

    async def _next(self, watch: Watch) -> list[_P] | Outcome[_R]:
        while True:
            try:
                attempt = self._attempt or await self._send(watch)
                return await attempt.read() or self._finish(attempt)
            except FoundryError as error:
                await self._after(error, watch)

    async def _send(self, watch: Watch) -> EndpointAttempt[_P, _R]:
        attempt = await self._prepare(watch)
        await attempt.send(*self._silence_bounds())
        return attempt

    def _new_attempt(self, service: Service, watch: Watch) -> EndpointAttempt[_P, _R]:
        return EndpointAttempt(service, self._request, watch, self._tools.clock)

    async def _pick(self, name: str) -> Service:
        return self._only or await super()._pick(name)

    @property
    def _may_move(self) -> bool:
        return self._only is None

    def _is_final(self, error: FoundryError, attempt: EndpointAttempt[_P, _R] | None) -> bool:
        if self._request.is_repeatable or attempt is None or not attempt.was_sent:
            return False
        refused = error.status is not None and error.status > LAST_SUCCESS
        return not refused and not isinstance(error, ServiceNotRunning)

    def _amended(self, error: FoundryError) -> bool:
        amended = self._request.amended(error)
        if amended is not None:
            self._request = amended
        return amended is not None

    @property
    def _partial(self) -> str:
        return "".join(self._text)

    def _note(self, pieces: list[_P]) -> None:
        if not self._pieces and self._attempt is not None:
            self._first_token_s = self._attempt.time_to_first_token_s
            self._tell_first_token(self._first_token_s or 0.0)
        self._pieces += len(pieces)
        self._text += [text for piece in pieces if (text := self._text_of(piece))]

    def _finish(self, attempt: EndpointAttempt[_P, _R]) -> Outcome[_R]:
        result = attempt.finish()
        now = self._close(attempt, None)
        self._tools.retry.budget.succeeded()
        connection, model = attempt.found
        return Outcome(
            result=result,
            model=model,
            connection=connection,
            timings=self._timings(now - self._started),
            attempts=self._attempts,
        )

    def _tell_answer(self, watch: Watch, outcome: Outcome[_R]) -> None:
        watch.stop()
        self._tools.events.emit(
            CallEnded(
                call=self._number,
                outcome="answered",
                model=outcome.model.id,
                service=outcome.service,
                attempts=outcome.attempts,
                timings=outcome.timings,
                chunks=self._pieces,
                content=self._partial,
                operation=self._operation,
            )
        )
