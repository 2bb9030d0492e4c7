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

from foundry_api.attempt import GuardedAttempt
from foundry_api.errors import ClientClosed, FoundryError, SilenceTimeout
from foundry_api.events import (
    AttemptStarted,
    CallEnded,
    CallStarted,
    FirstToken,
    RetryScheduled,
)
from foundry_api.messages import Attempt, Timings
from foundry_api.recovery import Recovery
from foundry_api.resilience.deadline import Deadline
from foundry_api.resilience.limiter import Moved
from foundry_api.resilience.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from foundry_api.events import Events, Operation
    from foundry_api.messages import ChatRequest
    from foundry_api.resilience.latency import Latencies
    from foundry_api.resilience.retry import Retry
    from foundry_api.services import Service, Services

__all__ = ["CallTools", "GuardedCall", "Order"]

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
