"""One guarded call of any endpoint: an answer that is read whole, or piece by piece.

What is asked is an `Asking`: how it is checked, what is sent, and who decodes the answer. The
limiter, the breaker, retries, time bounds and events are those of every call.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

from foundry_api.attempt import GuardedAttempt
from foundry_api.call import GuardedCall, Order
from foundry_api.endpoints.asking import Asking
from foundry_api.errors import (
    FoundryError,
    RouteMissing,
    ServiceNotRunning,
    StreamInterrupted,
    UnsupportedFeature,
)
from foundry_api.events import CallEnded
from foundry_api.wire.transport import LAST_SUCCESS, OK

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from foundry_api.call import CallTools
    from foundry_api.capabilities import Capabilities
    from foundry_api.connection import Connection
    from foundry_api.endpoints.asking import Decoder
    from foundry_api.messages import Attempt, Generation, Model, Timings
    from foundry_api.resilience.deadline import Deadline
    from foundry_api.resilience.watch import Watch
    from foundry_api.services import Service
    from foundry_api.wire.transport import Response

__all__ = ["EndpointCall", "Outcome", "ordered"]

_P = TypeVar("_P")
_R = TypeVar("_R")


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
