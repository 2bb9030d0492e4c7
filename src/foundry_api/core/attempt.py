"""One HTTP request for a call, from its turn in the queue to the end of its answer.

What every kind of call has in common: finding the service, having the model in memory, waiting for
a turn, and telling the guards how it ended.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, TypeVar

from foundry_api.resilience.limiter import Moved
from foundry_api.types.errors import (
    FoundryError,
    InvalidRequest,
    ModelError,
    ModelTaskMismatch,
    ProtocolError,
    RouteMissing,
    ServiceCrashed,
    ServiceError,
    ServiceNotRunning,
    SilenceTimeout,
    StreamInterrupted,
)
from foundry_api.types.serialization import header_text
from foundry_api.wire.dialects.base import error_of
from foundry_api.wire.transport import OK, Reply

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from foundry_api.core.connection import Connection
    from foundry_api.core.residency.usage import ModelUses
    from foundry_api.core.service_pool import Service
    from foundry_api.resilience.breaker import Permit
    from foundry_api.resilience.limiter import Slot
    from foundry_api.resilience.silence import Watch
    from foundry_api.types.capabilities import Capabilities
    from foundry_api.types.messages import Model
    from foundry_api.wire.transport import Request, Response

__all__ = ["GuardedAttempt"]

log = logging.getLogger("foundry_api")

_T = TypeVar("_T")

ERROR_BODY_BYTES = 64 * 2**10
MAX_ANSWER_BYTES = 256 * 2**20
"""Bound of one answer: a million tokens, with the 250 bytes that each takes on the wire."""


class GuardedAttempt:
    """Has what one request needs, and sends it. `close` has to be called, however it ends.

    What it sends and how its answer is read is for the kinds of calls to say.

    Args:
        service: Whom to ask.
        watch: Bounds its waiting.
        clock: Seconds of a monotonic clock.

    Attributes:
        service: As above.
        connection: Set once the service was found.
        model: Set once its name was resolved.
        queued_s: Seconds that it waited for its turn.
        sent_at: When the request was sent, on the clock; before, when the attempt began.
        first_token_at: When the first text came, on the clock.
    """

    def __init__(
        self,
        service: Service,
        watch: Watch,
        clock: Callable[[], float],
    ) -> None:
        self.service = service
        service.attempts.add(self)
        self.connection: Connection | None = None
        self.model: Model | None = None
        self.queued_s = 0.0
        self.sent_at = clock()
        self.first_token_at: float | None = None
        self._watch = watch
        self._clock = clock
        self._permit: Permit | None = None
        self._slot: Slot | None = None
        self._uses: ModelUses | None = None
        self._response: Response | None = None
        self._behind: FoundryError | None = None
        self._sent = False
        self._bytes = 0

    async def prepare(
        self, name: str, *, download: bool, again: bool, may_move: bool = False
    ) -> None:
        """Find the service, have the model in memory, and wait for a turn.

        Args:
            name: The model's name as the caller said it.
            download: Whether a model that is not here may be downloaded first.
            again: Whether the call waited for its turn before, so that it need not line up again.
            may_move: Whether another service may serve it as well.

        Raises:
            Moved: Another service is free while this one is not.
            UnsupportedFeature: The service cannot do what the caller wants.
            FoundryError: There is no service, no such model, no turn, or no time for it.
        """
        await self._find(name, download=download)
        self._slot = self.service.limiter.try_acquire()
        if self._slot is None:
            await self._queue(again=again, may_move=may_move)
            # What was found before the wait may be gone since.
            await self._find(name, download=download)
        connection, model = self.found
        self._uses = connection.memory.begin(model.id)

    def close(self, error: BaseException | None = None) -> None:
        """Free what the attempt held, and tell the guards of the service how it ended.

        Args:
            error: Why it ended early; None if it was answered.
        """
        self.service.attempts.discard(self)
        self._drop_response()
        self._tell_breaker(error)
        self._blame(error)
        if self._uses is not None and self.connection is not None:
            self.connection.memory.end(self._uses)
            self._uses = None
        if self._slot is not None:
            self._slot.release()
            self._slot = None

    @property
    def reached(self) -> Connection:
        """The service, once it was found."""
        if self.connection is None:
            raise ServiceNotRunning("the service has not been looked for yet")
        return self.connection

    @property
    def found(self) -> tuple[Connection, Model]:
        """The service and the model there, once they were found."""
        if self.connection is None or self.model is None:
            raise ServiceNotRunning("the service has not been looked for yet")
        return self.connection, self.model

    @property
    def was_sent(self) -> bool:
        """Whether its request was sent, or was about to be."""
        return self._sent

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """The headers of its answer, once that came."""
        if self._response is None:
            return ()
        # aiohttp's names are no plain texts, which encoders of JSON refuse.
        return tuple(
            (str.__str__(name), header_text(value))
            for name, value in self._response.headers.items()
        )

    @property
    def time_to_first_token_s(self) -> float | None:
        """Seconds from sending the request to its first text; None without any."""
        return None if self.first_token_at is None else self.first_token_at - self.sent_at

    def _check(self, capabilities: Capabilities) -> None:
        """Refuse what the service cannot do, before anything is sent or loaded for it.

        Raises:
            InvalidRequest: The caller asks for what this generation does not take.
            UnsupportedFeature: This generation cannot do it.
        """
        raise NotImplementedError

    async def _open(self, message: Request, first_s: float, gap_s: float) -> Response:
        """Send a request and wait for the head of its answer."""
        connection = self.reached
        self._watch.listen(first_s, gap_s)
        self.sent_at = self._clock()
        self._sent = True
        with self._watch:
            self._response = response = await connection.transport.send(message)
        return response

    async def _refusal(self, response: Response, body: bytes = b"") -> FoundryError:
        """Why an answer is no success, of whose body some was read."""
        connection = self.reached
        error = error_of(await self._error_reply(response, body))
        await self._check_identity(connection, error)
        return error

    async def _block(self, response: Response) -> bytes:
        """What came of the body, bounded in time and size; nothing at its end."""
        with self._watch:
            block = await response.read()
        self._bytes += len(block)
        if self._bytes > MAX_ANSWER_BYTES:
            raise ProtocolError(f"the answer is larger than {MAX_ANSWER_BYTES} bytes")
        return block

    async def _explained(self, error: StreamInterrupted, plain: Request | None) -> FoundryError:
        """Why an answer broke off ahead of its first byte, where the generation does not say so.

        Args:
            error: How it broke off.
            plain: The same request without streaming, which is told why; None where none is needed.
        """
        if plain is None or self._bytes:
            return error
        connection, _ = self.found
        self._drop_response()
        with self._watch:
            self._response = response = await connection.transport.send(plain)
        if response.status == OK:
            return error  # it broke off for another reason, and another attempt may succeed
        return error_of(await self._error_reply(response))

    def _taken(self, pieces: Iterable[_T]) -> list[_T]:
        """The pieces of a block. An error behind them is raised when they have been taken."""
        taken: list[_T] = []
        try:
            for piece in pieces:
                taken.append(piece)  # noqa: PERF402 - those before an error have to be kept
        except FoundryError as error:
            if not taken:
                raise
            self._behind = error
        return taken

    async def _find(self, name: str, *, download: bool) -> None:
        breaker, service = self.service.breaker, self.service
        if self._permit is None or not breaker.current(self._permit):
            self._permit = breaker.try_enter() or await self._enter()
        connection = self.connection = service.connection
        self.model = connection.ready(name) if connection else None
        while connection is None or self.model is None:
            connection = await self._make_ready(name, download=download)
            self.model = connection.ready(name)  # unless somebody unloaded it meanwhile
        self._check(connection.dialect.capabilities)

    async def _enter(self) -> Permit:
        with self._watch:
            return await self.service.breaker.enter(self.service.probe)

    async def _make_ready(self, name: str, *, download: bool) -> Connection:
        with self._watch:
            connection = self.connection = await self.service.connect()
        self._check(connection.dialect.capabilities)  # before a model is loaded for it
        self._watch.ignore_silence("loading the model")
        with self._watch:
            await connection.make_ready(name, download=download)
        return connection

    async def _queue(self, *, again: bool, may_move: bool = False) -> None:
        self._watch.ignore_silence("waiting for its turn")
        trial = self._permit is not None and self._permit.trial
        try:
            with self._watch:
                self._slot = await self.service.limiter.acquire(
                    again=again or trial, may_move=may_move and not trial
                )
        except Moved as moved:
            self.queued_s = moved.queued_s
            raise
        self.queued_s = self._slot.queued_s

    async def _error_reply(self, response: Response, begun: bytes = b"") -> Reply:
        body = bytearray(begun)
        try:
            while len(body) <= ERROR_BODY_BYTES:
                with self._watch:
                    block = await response.read()
                if not block:
                    break
                body += block
        except StreamInterrupted:
            log.debug("an error's text broke off; its status tells enough")
        return Reply(response.status, response.headers, bytes(body))

    async def _check_identity(self, connection: Connection, error: FoundryError) -> None:
        """A service that denies what it offered before may be another one by now.

        Raises:
            ServiceCrashed: It is.
        """
        if not isinstance(error, ModelError | RouteMissing):
            return
        with self._watch:
            replaced = await connection.replaced()
        if replaced:
            raise ServiceCrashed("another service has taken the place of this one") from error

    def _drop_response(self) -> None:
        if self._response is not None:
            self._response.close()
            self._response = None

    def _note(self, tokens: int) -> None:
        self._watch.token()
        if self._slot is not None:
            self._slot.progress(tokens)
        if self.first_token_at is None:
            self.first_token_at = now = self._clock()
            if self._permit is not None and self._permit.trial:
                # The rest of a long answer must not keep all other callers out.
                self._permit.succeeded(now - self.sent_at)

    def _blame(self, error: BaseException | None) -> None:
        """Complete an error, and pass it on to those who took the opposite for granted."""
        connection, model = self.connection, self.model
        if connection is None or not isinstance(error, FoundryError):
            return
        error.located(model=model.id if model else None, service=connection.endpoint.base_url)
        if isinstance(error, GONE):
            self.service.lost(connection)
        elif isinstance(error, ModelTaskMismatch):
            return  # it is what it was taken for, and asked for something else
        elif isinstance(error, ModelError) and model is not None:
            connection.forget(model)

    def _tell_breaker(self, error: BaseException | None) -> None:
        if self._permit is None:
            return
        took_s = (self.first_token_at or self._clock()) - self.sent_at
        if error is None or (self._sent and isinstance(error, InvalidRequest | ModelError)):
            self._permit.succeeded(took_s)
        elif isinstance(error, FAILURES) and not self._was_told(error):
            self._permit.failed(took_s)
        else:
            self._permit.released()

    def _was_told(self, error: FoundryError) -> bool:
        """Whether another call saw the same death of the service first: it counts once."""
        connection = self.connection
        return (
            isinstance(error, GONE)
            and connection is not None
            and self.service.connection is not connection
        )


GONE = (ServiceNotRunning, ServiceCrashed, StreamInterrupted)
"""After these the service may have moved, or be another one."""

FAILURES = (ServiceError, SilenceTimeout)
"""Of these the service is guilty; of the others nobody, or the caller."""
