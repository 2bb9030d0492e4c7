"""One attempt of a call: one HTTP request and its response.

A call uses it in this order: `acquire`, `send`, `read` until it returns nothing, `finish`, `close`.
"""

from __future__ import annotations

import logging
import math
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from foundry_api.core.abandoned_reads import AbandonedRead
from foundry_api.resilience.limiter import Moved
from foundry_api.resilience.prompt_reading import MARGIN, DeadlineTooShort
from foundry_api.types.access_errors import AuthenticationFailed, QuotaExceeded
from foundry_api.types.checks import ReadTimeouts
from foundry_api.types.errors import (
    CallTimeout,
    DeadlineExceeded,
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
    from foundry_api.resilience.abandoned import AbandonedPrompt
    from foundry_api.resilience.breaker import CallPermit
    from foundry_api.resilience.limiter import Slot
    from foundry_api.resilience.timeouts import TimeoutGuard
    from foundry_api.types.models import Model
    from foundry_api.wire.transport import Response

__all__ = ["Attempt"]

log = logging.getLogger("foundry_api")

_ChunkT = TypeVar("_ChunkT")  # what the operation's decoder yields

ERROR_BODY_BYTES = 64 * 2**10
# How many chunks of an answer are kept until its end, when the caller waits for that.
MAX_CHUNKS = 256
MAX_ANSWER_BYTES = 256 * 2**20  # a million tokens at about 250 bytes each on the wire

MIN_DEADLINE_S = 0.001  # a gateway takes no deadline of 0

# How long to wait for the end of a complete body before its connection is dropped.
DRAIN_TIMEOUT_S = 0.1

# After these errors the service may run at another address, or be another one.
SERVICE_LOST_ERRORS = (ServiceNotRunning, ServiceCrashed, StreamInterrupted)

# The errors that count against the service in its circuit breaker.
SERVICE_FAULT_ERRORS = (ServiceError, ReadTimeout)

# The errors that count too if each service has a key of its own.
ACCESS_ERRORS = (AuthenticationFailed, QuotaExceeded)


class Attempt(Generic[_ChunkT]):
    """One request to one service. Always call `close`, also after an error."""

    __slots__ = (
        "_chunk_limit",
        "_decoder",
        "_deferred_error",
        "_guard",
        "_last_slot",
        "_monotonic",
        "_operation",
        "_permit",
        "_read_ahead",
        "_received_bytes",
        "_response",
        "_slot",
        "_usage",
        "abandoned",
        "chunks",
        "connection",
        "first_token_at",
        "headers",
        "model",
        "name",
        "queued_s",
        "sent_at",
        "service",
        "status",
        "was_sent",
    )

    def __init__(
        self,
        service: ServiceHandle,
        operation: Operation[_ChunkT, Any, Any],
        guard: TimeoutGuard,
        monotonic: Callable[[], float],
    ) -> None:
        self.service = service
        service.attempts.add(self)
        self.name = ""  # of the model, as it was requested; set by `acquire`
        self.connection: Connection | None = None
        self.model: Model | None = None  # stays None for an operation without a model
        self.queued_s = 0.0
        self.sent_at = monotonic()  # the attempt's start until `send`
        self.was_sent = False
        self.first_token_at: float | None = None
        self.abandoned: AbandonedPrompt | None = None  # set by `close`
        self.chunks: list[_ChunkT] = []  # that `read` has not returned, perhaps for ever
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self._operation = operation
        self._guard = guard
        self._monotonic = monotonic
        self._permit: CallPermit | None = None
        self._slot: Slot | None = None
        self._last_slot: int | None = None  # of the limiter, if this was the only call then
        self._usage: ModelUsage | None = None
        self._response: Response | None = None
        self._decoder: Decoder[_ChunkT, Any] | None = None
        self._deferred_error: FoundryError | None = None
        self._read_ahead = b""
        self._received_bytes = 0
        self._chunk_limit = 1  # when `read` returns

    async def acquire(
        self, name: str, *, download: bool, requeued: bool, may_move: bool = False
    ) -> None:
        """Connect to the service, load the model and wait for a slot.

        A `requeued` call has waited before and goes to the front of the queue. With `may_move` the
        wait ends with `Moved` when another service has a free slot.
        """
        self.name = name
        service, operation = self.service, self._operation
        if not operation.needs_model:
            self._permit = service.breaker.try_enter() or await self._enter_breaker()
            with self._guard:
                self.connection = await service.connect()
            if operation.needs_slot:
                self._slot = service.limiter.try_acquire()
                if self._slot is None:
                    await self._wait_for_slot(requeued=requeued)
            return
        connection, model = await self._resolve(name, download=download)
        self._slot = service.limiter.try_acquire()
        if self._slot is None:
            await self._wait_for_slot(requeued=requeued, movable=name if may_move else None)
            # The service may have been restarted or the model unloaded during the wait.
            connection, model = await self._resolve(name, download=download)
        if operation.reads_prompt and self._guard.deadline.at < math.inf:
            self._check_deadline(model)
        self._usage = connection.models.begin_use(model.id)

    async def send(self, timeouts_s: tuple[float, float]) -> None:
        """Send the request and wait for the head of the response.

        `timeouts_s` are the read timeouts before the first token and between two tokens.
        """
        connection, model = self.get_target()
        operation, guard = self._operation, self._guard
        if operation.has_preflight:
            with guard:
                await operation.preflight(connection, model)
        limiter = self.service.limiter
        self._last_slot = limiter.acquired if limiter.load == 1 else None
        self._decoder = operation.make_decoder(connection, model)
        request = operation.make_request(connection, model)
        if guard.deadline.at < math.inf and connection.dialect.manages_calls:
            # A gateway refuses at once what cannot start in time, and stops what does not end.
            remaining_s = max(guard.remaining_s, MIN_DEADLINE_S)
            request = request.with_headers({"X-Request-Timeout": f"{remaining_s:.3f}"})
        is_exact = isinstance(timeouts_s, ReadTimeouts)
        guard.start_read_timeout(*timeouts_s, are_extended=not is_exact)
        self.sent_at = self._monotonic()
        self.was_sent = True
        with guard:
            self._response = response = await connection.transport.send(request)
        self.status, self.headers = response.status, response.headers
        if operation.accepts(response):
            return
        is_readable, self._read_ahead = await operation.inspect(
            response, partial(self._read_block, response)
        )
        if not is_readable:
            raise operation.translate_error(await self._make_error(response, self._read_ahead))

    async def read(self, *, to_end: bool = False) -> list[_ChunkT]:
        """Return the next chunks of the answer. An empty list marks its end.

        With `to_end` it waits for the end of the answer, or for MAX_CHUNKS. This saves waking the
        task for each block.
        """
        if self._deferred_error is not None:
            raise self._deferred_error
        response, decoder = self._response, self._decoder
        if response is None or decoder is None:
            raise StreamInterrupted("the stream is closed")
        if decoder.done:
            return []
        chunks, guard = self.chunks, self._guard
        self._chunk_limit = MAX_CHUNKS if to_end else 1
        try:
            block, self._read_ahead = self._read_ahead, b""
            # Only a `LoopbackResponse` has it. A short answer has often arrived with its head.
            if not block and (take := getattr(response, "take", None)) is not None:
                block = take()
            if block:
                guard.check()
            if not (block and self._on_block(block)):
                with guard:
                    await _read_until(response, self._on_block)
        except FoundryError as error:
            if chunks:
                self._deferred_error = error
            elif isinstance(error, StreamInterrupted):
                raise await self._explain_interruption(error) from error
            else:
                raise
        if not (chunks or decoder.done):
            self._complete_last_event(decoder)
        self.chunks = []
        return chunks

    async def finish(self) -> Any:
        """Return the decoded answer, after its last chunk."""
        response, decoder = self._response, self._decoder
        if response is None or decoder is None:
            raise StreamInterrupted("the stream is closed")
        try:
            value = decoder.finish()
        except StreamInterrupted as error:
            coding = response.headers.get("Content-Encoding", "").strip().lower()
            if coding and coding not in {"identity", *SUPPORTED_ENCODINGS}:
                raise ProtocolError(
                    f"the answer is compressed as {coding}, which was not requested"
                ) from error
            raise
        if not response.ended and self._operation.may_drain(value):
            await self._drain(response)
        return value

    def close(self, error: BaseException | None = None) -> None:
        """Release the resources and report the outcome to the circuit breaker.

        If the engine continues to read the prompt, the slot stays taken until it has read it.
        """
        self.service.attempts.discard(self)
        if error is not None and self._may_be_read_on(error):
            self._abandon()
        response, self._response = self._response, None
        if response is not None:
            response.close()
        # Before `_invalidate_state`, which drops the connection that `_record_outcome` checks.
        self._record_outcome(error)
        if error is not None:
            self._invalidate_state(error)
        if self._usage is not None and self.connection is not None:
            self.connection.models.end_use(self._usage)
            self._usage = None
        if self._slot is not None:
            self._slot.release()
            self._slot = None

    def give_up(self) -> None:
        """End a wait for the first token with ReadTimeout, so that another service is called."""
        if self.was_sent and self.first_token_at is None:
            self._guard.expire_read_timeout()

    def get_target(self) -> tuple[Connection, Model]:
        """Return the connection and the model. Available after `acquire`."""
        connection, model = self.connection, self.model
        if connection is None or (model is None and self._operation.needs_model):
            raise ServiceNotRunning("the attempt is not connected to a service yet")
        return connection, cast("Model", model)  # an operation without a model ignores it

    @property
    def is_complete(self) -> bool:
        """Whether `read` has returned the complete answer."""
        return self._decoder is not None and self._decoder.done and self._deferred_error is None

    @property
    def has_ended(self) -> bool:
        """Whether it is complete, and the service has sent the end of the body as well."""
        return self.is_complete and self._response is not None and self._response.ended

    @property
    def is_only_call(self) -> bool:
        """Whether this client has sent the service nothing else since the request was sent."""
        return self._last_slot == self.service.limiter.acquired

    async def _resolve(self, name: str, *, download: bool) -> tuple[Connection, Model]:
        """Connect to the service and load the model, unless both are done."""
        breaker, service, operation = self.service.breaker, self.service, self._operation
        if self._permit is None or not breaker.is_current(self._permit):
            self._permit = breaker.try_enter() or await self._enter_breaker()
        connection = self.connection = service.connection
        self.model = None
        model = connection.resolved.get(name) if connection is not None else None
        while connection is None or model is None or not connection.models.is_loaded(model.id):
            with self._guard:
                connection = self.connection = await service.connect()
            operation.check(connection.dialect.capabilities)  # fail before loading a model
            self._guard.suspend_read_timeout("loading the model")
            with self._guard:
                await connection.make_ready(name, download=download)
            # Read the state again: another client may have unloaded the model meanwhile.
            model = connection.resolved.get(name)
        self.model = model
        operation.check(connection.dialect.capabilities)
        return connection, model

    async def _enter_breaker(self) -> CallPermit:
        with self._guard:
            return await self.service.breaker.enter(self.service.probe)

    async def _wait_for_slot(self, *, requeued: bool, movable: str | None = None) -> None:
        self._guard.suspend_read_timeout("waiting for its turn")
        self._replace_busy_engine()
        is_probe = self._permit is not None and self._permit.is_probe
        try:
            with self._guard:
                self._slot = await self.service.limiter.acquire(
                    requeued=requeued or is_probe, movable=None if is_probe else movable
                )
        except Moved as moved:
            self.queued_s = moved.queued_s
            raise
        except DeadlineExceeded as error:
            if reason := self.service.limiter.abandoned.describe():
                error.message = f"{error.message}, and {reason}"
            raise
        self.queued_s = self._slot.queued_s

    def _check_deadline(self, model: Model) -> None:
        """Raise DeadlineTooShort if reading the prompt will clearly outlast the deadline."""
        reading = self.service.readings.for_model(model.id)
        if reading.is_empty:
            return
        estimate = reading.estimate(self._operation.measure_prompt())
        remaining_s = self._guard.remaining_s
        if estimate is None or estimate.duration_s * MARGIN <= remaining_s:
            return
        size = "" if estimate.tokens is None else f" of about {estimate.tokens:,} tokens"
        rate = estimate.tokens_per_second
        pace = "" if rate is None else f" ({rate:,.0f} tokens/s)"
        error = DeadlineTooShort(
            f"reading the prompt{size} takes at least {estimate.duration_s:.1f} s{pace}, and "
            f"{max(remaining_s, 0.0):.1f} s of the deadline are left",
            limit_s=self._guard.deadline.limit_s,
            stage="reading the prompt",
        )
        error.estimate_s, error.prompt_tokens = estimate.duration_s, estimate.tokens
        error.tokens_per_second = rate
        raise error

    def _may_be_read_on(self, error: BaseException) -> bool:
        """Return whether the engine still reads the prompt of a call that ends with this error."""
        connection = self.connection
        if self._slot is None or connection is None or self.first_token_at is not None:
            return False
        if not (self.was_sent and self._operation.reads_prompt and self._guard.loop.is_running()):
            return False
        if isinstance(error, FoundryError) and not isinstance(error, CallTimeout):
            return False
        if connection.dialect.manages_calls:
            return False  # it must learn at once that the caller left: the call may be queued there
        capabilities = connection.dialect.capabilities
        if isinstance(error, ReadTimeout) and capabilities.keep_alive == "native":
            # Without a keep-alive the engine hangs.
            return error.has_keep_alives
        return capabilities.prompt_cancellation != "native"

    def _abandon(self) -> None:
        """Leave the response, the model and the slot to a task that waits for the engine."""
        (connection, model), decoder, loop = self.get_target(), self._decoder, self._guard.loop
        size = self._operation.measure_prompt()
        reading = self.service.readings.for_model(model.id)
        estimate = reading.estimate(size, min_samples=1)
        response, usage, slot = self._response, self._usage, self._slot
        if decoder is None or slot is None or (response is None and estimate is None):
            return
        if response is not None and (response.ended or response.status != OK):
            return

        def release() -> None:
            if usage is not None:
                connection.models.end_use(usage)
            slot.release()

        read = AbandonedRead(
            response=response,
            decoder=decoder,
            release=release,
            has_keep_alives=connection.dialect.capabilities.keep_alive == "native",
            sent_at=loop.time() - (self._monotonic() - self.sent_at),
            last_slot=self._last_slot,
            size=size,
            reading=reading,
            estimate=estimate,
        )
        self.abandoned = self.service.abandoned_reads.add(read, loop)
        self._response = self._usage = self._slot = None
        if self.service.limiter.queued:
            self._replace_busy_engine()

    def _replace_busy_engine(self) -> None:
        """Replace an engine that reads abandoned prompts while calls wait, if that is allowed."""
        service = self.service
        if service.replacement is not None and service.limiter.abandoned:
            service.replacement.start()

    async def _read_block(self, response: Response) -> bytes:
        """Return the next block of the body, without decoding it. Empty at its end."""
        with self._guard:
            return await response.read()

    def _on_block(self, block: bytes) -> bool:
        """Decode a block that has arrived during `read`. Return whether `read` has enough.

        An error after a chunk is raised by the next `read`.
        """
        decoder = self._decoder
        assert decoder is not None  # noqa: S101 - a bug if it fails
        self._received_bytes += len(block)
        if self._received_bytes > MAX_ANSWER_BYTES:
            raise ProtocolError(f"the answer is larger than {MAX_ANSWER_BYTES} bytes")
        tokens = self._decode(decoder, block)
        is_last = (
            decoder.done
            or len(self.chunks) >= self._chunk_limit
            or self._deferred_error is not None
        )
        self._guard.on_block(tokens, is_last=is_last)
        return is_last

    def _decode(self, decoder: Decoder[_ChunkT, Any], block: bytes) -> int:
        """Add the chunks of a block to `chunks`, and return how many tokens it had."""
        tokens_before = decoder.chunk_count
        try:
            # `extend` keeps the chunks that `feed` yields before an error.
            self.chunks.extend(decoder.feed(block))
        except FoundryError as error:
            if not self.chunks:
                raise
            self._deferred_error = error
        tokens = decoder.chunk_count - tokens_before
        if not tokens:
            return 0
        if self._slot is not None:
            self._slot.progress(tokens)
        if self.first_token_at is None:
            self.first_token_at = self._monotonic()
            if self._permit is not None and self._permit.is_probe:
                # The first token proves that the service works. Other calls wait for the probe,
                # and must not wait for the rest of a long answer.
                self._permit.record_success(self.first_token_at - self.sent_at)
        return tokens

    def _complete_last_event(self, decoder: Decoder[_ChunkT, Any]) -> None:
        """Decode the last event of a body that ended without the blank line after it."""
        if not self._operation.end_of_body:
            return
        # If the connection broke within the data of the event, it is not valid JSON. Drop it then:
        # `finish` reports the interruption.
        try:
            self._decode(decoder, self._operation.end_of_body)
        except ProtocolError:
            return
        if isinstance(self._deferred_error, ProtocolError):
            self._deferred_error = None

    async def _drain(self, response: Response) -> None:
        """Read the end of a complete body, so that its connection can be reused."""
        self._guard.start_read_timeout(DRAIN_TIMEOUT_S, DRAIN_TIMEOUT_S)
        try:
            with self._guard:
                await response.read()
        except FoundryError:
            log.debug("the service did not end the body after a complete answer")

    async def _make_error(self, response: Response, read_ahead: bytes) -> FoundryError:
        error = parse_error(await self._read_error(response, read_ahead))
        connection, _ = self.get_target()
        # A service that does not know its own model or route may have been replaced by another.
        if isinstance(error, ModelError | RouteNotFound):
            with self._guard:
                is_replaced = await connection.is_replaced()
            if is_replaced:
                raise ServiceCrashed("another service has replaced this one") from error
        return error

    async def _read_error(self, response: Response, read_ahead: bytes = b"") -> BufferedResponse:
        body = bytearray(read_ahead)
        try:
            while len(body) <= ERROR_BODY_BYTES:
                with self._guard:
                    block = await response.read()
                if not block:
                    break
                body += block
        except StreamInterrupted:
            log.debug("the body of an error response is incomplete")
        return BufferedResponse(response.status, response.headers, bytes(body))

    async def _explain_interruption(self, error: StreamInterrupted) -> FoundryError:
        """Return the real error of a stream that ended before its first byte.

        Some services end the stream without a reason. The same request without streaming gets one.
        """
        connection, model = self.get_target()
        plain = self._operation.make_non_streaming_request(connection, model)
        if plain is None or self._received_bytes:
            return error
        broken, self._response = self._response, None
        if broken is not None:
            broken.close()
        with self._guard:
            self._response = response = await connection.transport.send(plain)
        if response.status == OK:
            return error  # the stream ended for another reason, so a retry may succeed
        return parse_error(await self._read_error(response))

    def _record_outcome(self, error: BaseException | None) -> None:
        permit, connection = self._permit, self.connection
        if permit is None:
            return
        latency_s = (self.first_token_at or self._monotonic()) - self.sent_at
        if error is None:
            permit.record_success(latency_s)
            return
        # One crash fails all calls in flight, but must count as one failure. The first of them to
        # end counts, and `_invalidate_state` then drops the connection. The others find it dropped.
        is_already_counted = (
            isinstance(error, SERVICE_LOST_ERRORS)
            and connection is not None
            and self.service.connection is not connection
        )
        # A service that refuses its own key fails fast, and would else get the most calls.
        is_refusal = self.service.offer is not None and isinstance(error, ACCESS_ERRORS)
        is_fault = is_refusal or isinstance(error, SERVICE_FAULT_ERRORS)
        if self.was_sent and isinstance(error, InvalidRequest | ModelError):
            permit.record_success(latency_s)  # a service that rejects a bad request is healthy
        elif is_fault and not is_already_counted:
            permit.record_failure(latency_s)
        else:
            permit.release()

    def _invalidate_state(self, error: BaseException) -> None:
        """Drop the cached state that the error disproves."""
        connection, model = self.connection, self.model
        if connection is None or not isinstance(error, FoundryError):
            return
        error.with_context(model=model.id if model else None, service=connection.endpoint.base_url)
        if isinstance(error, SERVICE_LOST_ERRORS):
            self.service.invalidate(connection)
        elif isinstance(error, ModelTaskMismatch):
            return  # what is cached about the model is right; only the request was wrong
        elif isinstance(error, ModelError) and model is not None:
            connection.forget(model)


async def _read_until(response: Response, on_block: Callable[[bytes], bool]) -> None:
    """Pass the blocks of the body to `on_block`, until it returns True or the body ends."""
    # Only a `LoopbackResponse` hands its blocks over when they arrive.
    if (read_until := getattr(response, "read_until", None)) is not None:
        await read_until(on_block)
        return
    while block := await response.read():
        if on_block(block):
            return
