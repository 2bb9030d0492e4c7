"""One HTTP request for a call, from its turn in the queue to the end of its answer.

`acquire` finds the service, has the model in memory and waits for a turn; `send` sends the request;
`read` and `finish` read the answer; `close` frees what was held and reports to the guards.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from foundry_api.resilience.limiter import Moved
from foundry_api.types.errors import (
    FoundryError,
    InvalidRequest,
    ModelError,
    ModelTaskMismatch,
    ProtocolError,
    ReadTimeout,
    RouteNotFound,
    ServiceCrashed,
    ServiceError,
    ServiceNotRunning,
    StreamInterrupted,
)
from foundry_api.wire.dialects.base import parse_error
from foundry_api.wire.encoding import SUPPORTED_ENCODINGS
from foundry_api.wire.transport import OK, BufferedResponse

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from foundry_api.core.connection import Connection
    from foundry_api.core.operation import Decoder, Operation
    from foundry_api.core.residency.usage import ModelUsage
    from foundry_api.core.service_pool import ServiceHandle
    from foundry_api.resilience.breaker import CallPermit
    from foundry_api.resilience.limiter import Slot
    from foundry_api.resilience.silence import TimeoutGuard
    from foundry_api.types.messages import Model
    from foundry_api.wire.transport import Response

__all__ = ["Attempt"]

log = logging.getLogger("foundry_api")

_P = TypeVar("_P")

ERROR_BODY_BYTES = 64 * 2**10
MAX_ANSWER_BYTES = 256 * 2**20
"""Bound of one answer: a million tokens, with the 250 bytes that each takes on the wire."""

DRAIN_TIMEOUT_S = 0.1
"""How long the end of a body that is complete may take, before its connection is given up."""

SERVICE_GONE_ERRORS = (ServiceNotRunning, ServiceCrashed, StreamInterrupted)
"""After these the service may have moved, or be another one."""

SERVICE_FAULT_ERRORS = (ServiceError, ReadTimeout)
"""The service is guilty of these; of the others nobody, or the caller."""


class Attempt(Generic[_P]):
    """Makes one request. `close` has to be called, however it ends.

    Args:
        service: The service to ask.
        operation: What is asked, and how the answer is read.
        watch: Bounds its waiting.
        clock: Seconds of a monotonic clock.

    Attributes:
        service: The service to ask.
        connection: Set once the service was found.
        model: Set once its name was resolved; stays None for an operation that needs none.
        queued_s: Seconds that it waited for its turn.
        sent_at: When the request was sent, on the clock; before, when the attempt began.
        was_sent: Whether its request was sent, or was about to be.
        first_token_at: When the first token came, on the clock.
        status: The HTTP status of the answer.
        headers: The headers of the answer.
    """

    __slots__ = (
        "_ahead",
        "_bytes",
        "_clock",
        "_decoder",
        "_deferred_error",
        "_operation",
        "_permit",
        "_response",
        "_slot",
        "_uses",
        "_watch",
        "connection",
        "first_token_at",
        "headers",
        "model",
        "queued_s",
        "sent_at",
        "service",
        "status",
        "was_sent",
    )

    def __init__(
        self,
        service: ServiceHandle,
        operation: Operation[_P, Any, Any],
        watch: TimeoutGuard,
        clock: Callable[[], float],
    ) -> None:
        self.service = service
        service.attempts.add(self)
        self.connection: Connection | None = None
        self.model: Model | None = None
        self.queued_s = 0.0
        self.sent_at = clock()
        self.was_sent = False
        self.first_token_at: float | None = None
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self._operation = operation
        self._watch = watch
        self._clock = clock
        self._permit: CallPermit | None = None
        self._slot: Slot | None = None
        self._uses: ModelUsage | None = None
        self._response: Response | None = None
        self._decoder: Decoder[_P, Any] | None = None
        self._deferred_error: FoundryError | None = None
        self._ahead = b""
        self._bytes = 0

    async def acquire(
        self, name: str, *, download: bool, requeued: bool, may_move: bool = False
    ) -> None:
        """Find the service, have the model in memory, and wait for a turn.

        Args:
            name: The model's name as the caller said it.
            download: Whether a model that is not here may be downloaded first.
            requeued: Whether the call waited for its turn before, so that it need not line up
                again.
            may_move: Whether another service may serve it as well.

        Raises:
            Moved: Another service is free while this one is not.
            UnsupportedFeature: The service cannot do what the caller wants.
            FoundryError: There is no service, no such model, no turn, or no time for it.
        """
        service, operation = self.service, self._operation
        if not operation.needs_model:
            self._permit = service.breaker.try_enter() or await self._enter_breaker()
            with self._watch:
                self.connection = await service.connect()
            if operation.needs_slot:
                self._slot = service.limiter.try_acquire()
                if self._slot is None:
                    await self._wait_for_slot(requeued=requeued)
            return
        connection, model = await self._resolve(name, download=download)
        self._slot = service.limiter.try_acquire()
        if self._slot is None:
            await self._wait_for_slot(requeued=requeued, may_move=may_move)
            # What was found before the wait may be gone since.
            connection, model = await self._resolve(name, download=download)
        self._uses = connection.memory.begin_use(model.id)

    async def send(self, first_s: float, gap_s: float) -> None:
        """Send the request and wait for the head of its answer.

        Args:
            first_s: Bound of the silence before the first token.
            gap_s: Bound of the silence between two tokens.

        Raises:
            FoundryError: The service refused it, failed, or said nothing.
        """
        connection, model = self.target
        operation, watch = self._operation, self._watch
        if operation.verifies:
            with watch:
                await operation.preflight(connection, model)
        self._decoder = operation.decoder(connection, model)
        request = operation.request(connection, model)
        watch.start_silence_timer(first_s, gap_s)
        self.sent_at = self._clock()
        self.was_sent = True
        with watch:
            self._response = response = await connection.transport.send(request)
        self.status, self.headers = response.status, response.headers
        if operation.accepts(response):
            return
        is_readable, self._ahead = await operation.inspect(
            response, partial(self._read_block, response)
        )
        if not is_readable:
            raise operation.refusal(await self._error_from_response(response, self._ahead))

    async def read(self) -> list[_P]:
        """Return the next chunks of the answer, at least one; none at its end.

        Raises:
            FoundryError: The answer broke off, or says that it failed.
        """
        if self._deferred_error is not None:
            raise self._deferred_error
        response, decoder = self._response, self._decoder
        if response is None or decoder is None:
            raise StreamInterrupted("the stream is closed")
        while not decoder.done:
            block, self._ahead = self._ahead, b""
            if not block:
                # As `_read_block`, without the call: this runs for every packet.
                try:
                    with self._watch:
                        block = await response.read()
                except StreamInterrupted as error:
                    raise await self._explain_interruption(error) from error
                self._bytes += len(block)
                if self._bytes > MAX_ANSWER_BYTES:
                    raise _too_large()
            if not block:
                return self._read_cut_event(decoder)
            if chunks := self._collect(decoder, block):
                return chunks
        return []

    async def finish(self) -> Any:
        """Return what the decoder made of the answer, once all of it was read.

        Raises:
            StreamInterrupted: The body ended before the answer did.
        """
        response, decoder = self._response, self._decoder
        if response is None or decoder is None:
            raise StreamInterrupted("the stream is closed")
        try:
            value = decoder.finish()
        except StreamInterrupted as error:
            coding = response.headers.get("Content-Encoding", "").strip().lower()
            if coding and coding not in {"identity", *SUPPORTED_ENCODINGS}:
                raise ProtocolError(f"the answer is encoded as {coding}, unasked") from error
            raise
        if not response.ended and self._operation.may_drain(value):
            await self._drain(response)
        return value

    def close(self, error: BaseException | None = None) -> None:
        """Free what the attempt held, and tell the guards of the service how it ended.

        Args:
            error: Why it ended early; None if it was answered.
        """
        self.service.attempts.discard(self)
        response, self._response = self._response, None
        if response is not None:
            response.close()
        self._record_outcome(error)
        if error is not None:
            self._invalidate_state(error)
        if self._uses is not None and self.connection is not None:
            self.connection.memory.end_use(self._uses)
            self._uses = None
        if self._slot is not None:
            self._slot.release()
            self._slot = None

    @property
    def target(self) -> tuple[Connection, Model]:
        """The service and the model there, once they were found."""
        connection, model = self.connection, self.model
        if connection is None or (model is None and self._operation.needs_model):
            raise ServiceNotRunning("the service has not been looked for yet")
        return connection, cast("Model", model)  # an operation that needs none looks at none

    async def _resolve(self, name: str, *, download: bool) -> tuple[Connection, Model]:
        """Find the service and the model there, and have it loaded."""
        breaker, service, operation = self.service.breaker, self.service, self._operation
        if self._permit is None or not breaker.current(self._permit):
            self._permit = breaker.try_enter() or await self._enter_breaker()
        connection = self.connection = service.connection
        self.model = None
        model = connection.resolved.get(name) if connection is not None else None
        while connection is None or model is None or not connection.memory.is_loaded(model.id):
            with self._watch:
                connection = self.connection = await service.connect()
            operation.check(connection.dialect.capabilities)  # before a model is loaded for it
            self._watch.suspend_silence("loading the model")
            with self._watch:
                await connection.make_ready(name, download=download)
            model = connection.resolved.get(name)  # which somebody may have unloaded meanwhile
        self.model = model
        operation.check(connection.dialect.capabilities)
        return connection, model

    async def _enter_breaker(self) -> CallPermit:
        with self._watch:
            return await self.service.breaker.enter(self.service.probe)

    async def _wait_for_slot(self, *, requeued: bool, may_move: bool = False) -> None:
        self._watch.suspend_silence("waiting for its turn")
        is_probe = self._permit is not None and self._permit.is_probe
        try:
            with self._watch:
                self._slot = await self.service.limiter.acquire(
                    again=requeued or is_probe, may_move=may_move and not is_probe
                )
        except Moved as moved:
            self.queued_s = moved.queued_s
            raise
        self.queued_s = self._slot.queued_s

    async def _read_block(self, response: Response) -> bytes:
        """Return what came of the body, bounded in time and size; nothing at its end."""
        with self._watch:
            block = await response.read()
        self._bytes += len(block)
        if self._bytes > MAX_ANSWER_BYTES:
            raise _too_large()
        return block

    def _collect(self, decoder: Decoder[_P, Any], block: bytes) -> list[_P]:
        """Decode a block. An error behind its chunks is raised when they have been taken."""
        tokens_before = decoder.chunk_count
        chunks: list[_P] = []
        try:
            chunks.extend(decoder.feed(block))  # which keeps those ahead of an error
        except FoundryError as error:
            if not chunks:
                raise
            self._deferred_error = error
        if new_tokens := decoder.chunk_count - tokens_before:
            self._on_tokens(new_tokens)
        return chunks

    def _read_cut_event(self, decoder: Decoder[_P, Any]) -> list[_P]:
        """Decode a last event whose line end is missing, unless it was cut."""
        if not self._operation.end_of_body:
            return []
        try:
            chunks = self._collect(decoder, self._operation.end_of_body)
        except ProtocolError:
            return []
        if isinstance(self._deferred_error, ProtocolError):
            self._deferred_error = None
        return chunks

    def _on_tokens(self, count: int) -> None:
        self._watch.on_token()
        if self._slot is not None:
            self._slot.progress(count)
        if self.first_token_at is None:
            self.first_token_at = now = self._clock()
            if self._permit is not None and self._permit.is_probe:
                # The rest of a long answer must not keep all other callers out.
                self._permit.succeeded(now - self.sent_at)

    async def _drain(self, response: Response) -> None:
        """Read the end of a complete body, so that its connection can serve the next call."""
        self._watch.start_silence_timer(DRAIN_TIMEOUT_S, DRAIN_TIMEOUT_S)
        try:
            with self._watch:
                await response.read()
        except FoundryError:
            log.debug("the service left the connection open after the end of its answer")

    async def _error_from_response(self, response: Response, begun: bytes = b"") -> FoundryError:
        """Say why an answer is no success, of whose body some was read.

        Raises:
            ServiceCrashed: Another service answers at the address by now.
        """
        error = parse_error(await self._read_error(response, begun))
        connection, _ = self.target
        # A service that denies what it offered before may be another one by now.
        if isinstance(error, ModelError | RouteNotFound):
            with self._watch:
                is_replaced = await connection.is_replaced()
            if is_replaced:
                raise ServiceCrashed("another service has taken the place of this one") from error
        return error

    async def _read_error(self, response: Response, begun: bytes = b"") -> BufferedResponse:
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
        return BufferedResponse(response.status, response.headers, bytes(body))

    async def _explain_interruption(self, error: StreamInterrupted) -> FoundryError:
        """Find out why an answer broke off ahead of its first byte, where the service is silent.

        The same request without streaming is told why.
        """
        connection, model = self.target
        plain = self._operation.non_streaming_request(connection, model)
        if plain is None or self._bytes:
            return error
        broken, self._response = self._response, None
        if broken is not None:
            broken.close()
        with self._watch:
            self._response = response = await connection.transport.send(plain)
        if response.status == OK:
            return error  # it broke off for another reason, and another attempt may succeed
        return parse_error(await self._read_error(response))

    def _record_outcome(self, error: BaseException | None) -> None:
        """Tell the breaker how it ended."""
        permit = self._permit
        if permit is None:
            return
        took_s = (self.first_token_at or self._clock()) - self.sent_at
        if error is None or (self.was_sent and isinstance(error, InvalidRequest | ModelError)):
            permit.succeeded(took_s)
        elif isinstance(error, SERVICE_FAULT_ERRORS) and not self._already_reported(error):
            permit.failed(took_s)
        else:
            permit.released()

    def _already_reported(self, error: FoundryError) -> bool:
        """Whether another call saw the same death of the service first: it counts once."""
        connection = self.connection
        return (
            isinstance(error, SERVICE_GONE_ERRORS)
            and connection is not None
            and self.service.connection is not connection
        )

    def _invalidate_state(self, error: BaseException) -> None:
        """Complete an error, and pass it on to those who took the opposite for granted."""
        connection, model = self.connection, self.model
        if connection is None or not isinstance(error, FoundryError):
            return
        error.with_context(model=model.id if model else None, service=connection.endpoint.base_url)
        if isinstance(error, SERVICE_GONE_ERRORS):
            self.service.invalidate(connection)
        elif isinstance(error, ModelTaskMismatch):
            return  # it is what it was taken for, and asked for something else
        elif isinstance(error, ModelError) and model is not None:
            connection.forget(model)


def _too_large() -> ProtocolError:
    return ProtocolError(f"the answer is larger than {MAX_ANSWER_BYTES} bytes")
