"""One HTTP request for a chat completion, from its turn in the queue to the end of its stream."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from foundry_api.errors import (
    FoundryError,
    InvalidRequest,
    ModelError,
    ProtocolError,
    RouteMissing,
    ServiceCrashed,
    ServiceError,
    ServiceNotRunning,
    SilenceTimeout,
    StreamInterrupted,
)
from foundry_api.wire.dialects.base import error_of
from foundry_api.wire.transport import Reply

if TYPE_CHECKING:
    from collections.abc import Callable

    from foundry_api.connection import Connection
    from foundry_api.messages import ChatRequest, Chunk, Model
    from foundry_api.residency.uses import ModelUses
    from foundry_api.resilience.breaker import Permit
    from foundry_api.resilience.limiter import Slot
    from foundry_api.resilience.watch import Watch
    from foundry_api.services import Service
    from foundry_api.wire.dialects.base import ChatDecoder, Ending
    from foundry_api.wire.transport import Response

__all__ = ["ChatAttempt"]

log = logging.getLogger("foundry_api")

EVENT_STREAM = "text/event-stream"
OK = 200
ERROR_BODY_BYTES = 64 * 2**10
MAX_STREAM_BYTES = 256 * 2**20
"""Bound of one answer: a million tokens, with the 250 bytes that each takes on the wire."""

DRAIN_S = 0.1
"""How long the end of a body that is complete may take, before its connection is given up."""


class ChatAttempt:
    """Sends one request and reads its answer. `close` has to be called, however it ends.

    Args:
        service: Whom to ask.
        request: What the caller wants.
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
        request: ChatRequest,
        watch: Watch,
        clock: Callable[[], float],
    ) -> None:
        self.service = service
        self.connection: Connection | None = None
        self.model: Model | None = None
        self.queued_s = 0.0
        self.sent_at = clock()
        self.first_token_at: float | None = None
        self._request = request
        self._watch = watch
        self._clock = clock
        self._permit: Permit | None = None
        self._slot: Slot | None = None
        self._uses: ModelUses | None = None
        self._response: Response | None = None
        self._decoder: ChatDecoder | None = None
        self._behind: FoundryError | None = None
        self._sent = False
        self._bytes = 0

    async def prepare(self, name: str, *, download: bool, again: bool) -> None:
        """Find the service, have the model in memory, and wait for a turn.

        Args:
            name: The model's name as the caller said it.
            download: Whether a model that is not here may be downloaded first.
            again: Whether the call waited for its turn before, so that it need not line up again.

        Raises:
            UnsupportedFeature: The service cannot do what the caller wants.
            FoundryError: There is no service, no such model, no turn, or no time for it.
        """
        await self._find(name, download=download)
        self._slot = self.service.limiter.try_acquire()
        if self._slot is None:
            await self._queue(again=again)
            # What was found before the wait may be gone since.
            await self._find(name, download=download)
        connection, model = self.found
        self._uses = connection.memory.begin(model.id)

    async def send(self, first_s: float, gap_s: float) -> None:
        """Send the request and wait for the head of its answer.

        Args:
            first_s: Bound of the silence before the first token.
            gap_s: Bound of the silence between two tokens.

        Raises:
            FoundryError: The service refused it, failed, or said nothing.
        """
        connection, model = self.found
        self._decoder = connection.dialect.chat_decoder(model, self._request)
        message = connection.dialect.chat_request(model, self._request)
        self._watch.listen(first_s, gap_s)
        self.sent_at = self._clock()
        self._sent = True
        with self._watch:
            self._response = response = await connection.transport.send(message)
        if not _is_stream(response):
            error = error_of(await self._error_reply(response))
            await self._check_identity(connection, error)
            raise error

    async def read(self) -> list[Chunk]:
        """The next pieces of text, at least one; none at the end of the answer.

        Raises:
            FoundryError: The stream broke, or says that it failed.
        """
        if self._behind is not None:
            raise self._behind
        response, decoder = self._response, self._decoder
        if response is None or decoder is None:
            raise StreamInterrupted("the stream is closed")
        while not decoder.done:
            try:
                with self._watch:
                    block = await response.read()
            except StreamInterrupted as error:
                raise await self._explained(error) from error
            if not block:
                break
            self._count(len(block))
            if chunks := self._decoded(decoder, block):
                self._note(len(chunks))
                return chunks
        return []

    async def finish(self) -> Ending:
        """How the answer ended, once all of it was read.

        Raises:
            StreamInterrupted: The stream ended before the answer did.
        """
        response, decoder = self._response, self._decoder
        if response is None or decoder is None:
            raise StreamInterrupted("the stream is closed")
        try:
            ending = decoder.finish()
        except StreamInterrupted as error:
            if coding := response.headers.get("Content-Encoding", "").removeprefix("identity"):
                raise ProtocolError(f"the answer is encoded as {coding}, unasked") from error
            raise
        if not ending.early:
            await self._drain(response)
        return ending

    def close(self, error: BaseException | None = None) -> None:
        """Free what the attempt held, and tell the guards of the service how it ended.

        Args:
            error: Why it ended early; None if it was answered.
        """
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
    def found(self) -> tuple[Connection, Model]:
        """The service and the model there, once they were found."""
        if self.connection is None or self.model is None:
            raise ServiceNotRunning("the service has not been looked for yet")
        return self.connection, self.model

    @property
    def time_to_first_token_s(self) -> float | None:
        """Seconds from sending the request to its first text; None without any."""
        return None if self.first_token_at is None else self.first_token_at - self.sent_at

    async def _find(self, name: str, *, download: bool) -> None:
        breaker, service = self.service.breaker, self.service
        if self._permit is None or not breaker.current(self._permit):
            self._permit = breaker.try_enter() or await self._enter()
        connection = self.connection = service.connection
        self.model = connection.ready(name) if connection else None
        while connection is None or self.model is None:
            connection = await self._make_ready(name, download=download)
            self.model = connection.ready(name)  # unless somebody unloaded it meanwhile
        connection.dialect.capabilities.check(self._request)

    async def _enter(self) -> Permit:
        with self._watch:
            return await self.service.breaker.enter(self.service.probe)

    async def _make_ready(self, name: str, *, download: bool) -> Connection:
        with self._watch:
            connection = self.connection = await self.service.connect()
        connection.dialect.capabilities.check(self._request)  # before a model is loaded for it
        self._watch.ignore_silence("loading the model")
        with self._watch:
            await connection.make_ready(name, download=download)
        return connection

    async def _queue(self, *, again: bool) -> None:
        self._watch.ignore_silence("waiting for its turn")
        trial = self._permit is not None and self._permit.trial
        with self._watch:
            self._slot = await self.service.limiter.acquire(again=again or trial)
        self.queued_s = self._slot.queued_s

    async def _error_reply(self, response: Response) -> Reply:
        body = bytearray()
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

    async def _explained(self, error: StreamInterrupted) -> FoundryError:
        """Why a stream broke off ahead of its first byte, where the generation does not say so."""
        connection, model = self.found
        plain = None if self._bytes else connection.dialect.plain_request(model, self._request)
        if plain is None:
            return error
        self._drop_response()
        with self._watch:
            self._response = response = await connection.transport.send(plain)
        if response.status == OK:
            return error  # it broke off for another reason, and another attempt may succeed
        return error_of(await self._error_reply(response))

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

    def _decoded(self, decoder: ChatDecoder, block: bytes) -> list[Chunk]:
        """The pieces of a block. An error behind them is raised when they have been taken."""
        chunks: list[Chunk] = []
        try:
            for chunk in decoder.feed(block):
                chunks.append(chunk)  # noqa: PERF402 - those before an error have to be kept
        except FoundryError as error:
            if not chunks:
                raise
            self._behind = error
        return chunks

    def _count(self, size: int) -> None:
        self._bytes += size
        if self._bytes > MAX_STREAM_BYTES:
            raise ProtocolError(f"the answer is larger than {MAX_STREAM_BYTES} bytes")

    def _note(self, tokens: int) -> None:
        self._watch.token()
        if self._slot is not None:
            self._slot.progress(tokens)
        if self.first_token_at is None:
            self.first_token_at = now = self._clock()
            if self._permit is not None and self._permit.trial:
                # The rest of a long answer must not keep all other callers out.
                self._permit.succeeded(now - self.sent_at)

    async def _drain(self, response: Response) -> None:
        """Read the end of a complete body, so that its connection can serve the next call."""
        if response.ended:
            return
        self._watch.listen(DRAIN_S, DRAIN_S)
        try:
            with self._watch:
                await response.read()
        except FoundryError:
            log.debug("the service left the connection open after the end of its answer")

    def _blame(self, error: BaseException | None) -> None:
        """Complete an error, and pass it on to those who took the opposite for granted."""
        connection, model = self.connection, self.model
        if connection is None or not isinstance(error, FoundryError):
            return
        error.located(model=model.id if model else None, service=connection.endpoint.base_url)
        if isinstance(error, GONE):
            self.service.lost(connection)
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


def _is_stream(response: Response) -> bool:
    kind = response.headers.get("Content-Type", EVENT_STREAM)
    return response.status == OK and kind.startswith(EVENT_STREAM)
