"""One chat completion from its first attempt to its last token."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from foundry_api.backoff import Backoff
from foundry_api.errors import (
    CallTimeout,
    ContextOverflow,
    FoundryError,
    ModelError,
    ServiceCrashed,
    ServiceNotRunning,
    StreamInterrupted,
)
from foundry_api.messages import Attempt, Chunk, Completion, Timings
from foundry_api.resilience.silence import SilenceBound
from foundry_api.wire.dialects.base import error_of
from foundry_api.wire.transport import Reply

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from typing import Protocol

    from foundry_api.connection import Connection
    from foundry_api.messages import ChatRequest, Model, Usage
    from foundry_api.wire.dialects.base import Ending
    from foundry_api.wire.transport import Response

    class Router(Protocol):
        """Finds the service for a model, and hears when it is gone."""

        async def route(self, name: str, *, download: bool) -> tuple[Connection, Model]:
            """A connected service and the model there that the name means."""
            ...

        def lost(self, connection: Connection) -> None:
            """The service behind this connection is gone: find or start it again."""
            ...


__all__ = ["ChatCall", "Order"]

log = logging.getLogger("foundry_api")

RETRY_BACKOFF = Backoff(base_s=0.1, cap_s=5.0)

EVENT_STREAM = "text/event-stream"
ERROR_BODY_BYTES = 64 * 2**10
SHORTEST_RATED_S = 0.001
"""An answer that came in one burst says nothing of the engine's speed."""
DRAIN_S = 0.1
"""How long the end of a body that is complete may take, before its connection is given up."""


@dataclass(frozen=True, slots=True)
class Order:
    """What the caller ordered.

    Attributes:
        model: The model's name as the caller said it.
        request: The checked request.
        timeout_s: Bound of the silence before and between tokens.
        download: Whether a model that is not here may be downloaded first.
    """

    model: str
    request: ChatRequest
    timeout_s: float
    download: bool = False


class ChatCall:
    """Makes attempts until one brings a token, and measures them.

    After the first token nothing is tried again: the caller has text in hand that another attempt
    would contradict.

    Args:
        router: Finds the service.
        order: What the caller ordered.
        retries: Further attempts after the first; 0 means none.
        backoff: How soon to try again.
        clock: Seconds of a monotonic clock.
        sleep: Waits for a number of seconds.
    """

    def __init__(
        self,
        router: Router,
        order: Order,
        *,
        retries: int,
        backoff: Backoff = RETRY_BACKOFF,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._router = router
        self._order = order
        self._request = order.request
        self._retries = retries
        self._backoff = backoff
        self._clock = clock
        self._sleep = sleep
        self._attempts: list[Attempt] = []
        self._text: list[str] = []
        self._started = clock()
        self._sent = self._started
        self._first_token: float | None = None
        self._outcome: Completion | None = None

    async def chunks(self) -> AsyncGenerator[Chunk]:
        """The answer in pieces; the last one carries finish reason, usage and timings."""
        while True:
            try:
                async with aclosing(self._attempt()) as attempt:
                    async for chunk in attempt:
                        yield chunk
            except FoundryError as error:
                await self._after(error)
            else:
                return

    async def completion(self) -> Completion:
        """The whole answer."""
        raw = tuple([chunk.raw async for chunk in self.chunks()])
        if self._outcome is None:
            raise StreamInterrupted("the stream ended before the answer did")
        return msgspec.structs.replace(self._outcome, raw=raw)

    async def _attempt(self) -> AsyncGenerator[Chunk]:
        self._sent = self._clock()
        connection, model = await self._router.route(
            self._order.model, download=self._order.download
        )
        try:
            await connection.ensure_loaded(model)
            async with aclosing(self._stream(connection, model)) as stream:
                async for chunk in stream:
                    yield chunk
        except FoundryError as error:
            error.located(model=model.id, service=connection.endpoint.base_url)
            if isinstance(error, ServiceNotRunning | ServiceCrashed | StreamInterrupted):
                self._router.lost(connection)
            elif isinstance(error, ModelError):
                connection.forget(model)
            raise

    async def _stream(self, connection: Connection, model: Model) -> AsyncGenerator[Chunk]:
        bound = SilenceBound(self._order.timeout_s)
        decoder = connection.dialect.chat_decoder(model)
        request = connection.dialect.chat_request(model, self._request)
        self._sent = self._clock()
        response = await bound.wait(connection.transport.send(request))
        try:
            if not _is_stream(response):
                raise error_of(await bound.wait(_read_error(response)))
            async with aclosing(response.blocks()) as blocks:
                while not decoder.done and (block := await bound.wait(anext(blocks, b""))):
                    for chunk in decoder.feed(block):
                        self._note(chunk)
                        bound.token()
                        yield chunk
                last = self._end(connection, model, decoder.finish())
                await _drain(blocks)
        finally:
            response.close()
        yield last

    def _note(self, chunk: Chunk) -> None:
        if self._first_token is None:
            self._first_token = self._clock()
        self._text.append(chunk.content)

    def _end(self, connection: Connection, model: Model, ending: Ending) -> Chunk:
        now = self._clock()
        self._attempts.append(Attempt(now - self._sent))
        done = self._outcome = Completion(
            content="".join(self._text),
            model=model.id,
            service=connection.endpoint.base_url,
            generation=connection.endpoint.generation,
            finish_reason=ending.finish_reason,
            usage=ending.usage,
            timings=self._timings(ending.usage, now),
            attempts=tuple(self._attempts),
        )
        log.info("%s answered in %.3f s: %s", done.model, done.timings.total_s, done.finish_reason)
        return Chunk(
            content="",
            model=done.model,
            finish_reason=done.finish_reason,
            usage=done.usage,
            timings=done.timings,
            attempts=done.attempts,
            raw=ending.raw,
        )

    def _timings(self, usage: Usage, now: float) -> Timings:
        first = self._first_token
        return Timings(
            time_to_first_token_s=None if first is None else first - self._sent,
            total_s=now - self._started,
            tokens_per_second=self._rate(usage, now),
        )

    def _rate(self, usage: Usage, now: float) -> float | None:
        tokens = usage.completion_tokens - 1
        if self._first_token is None or tokens < 1:
            return None
        took_s = now - self._first_token
        return tokens / took_s if took_s >= SHORTEST_RATED_S else None

    async def _after(self, error: FoundryError) -> None:
        """Prepare the next attempt, or raise the error if there is none."""
        self._attempts.append(Attempt(self._clock() - self._sent, error))
        if isinstance(error, CallTimeout | StreamInterrupted):
            error.partial = "".join(self._text)
        failures = len(self._attempts)
        may_retry = self._first_token is None
        if may_retry and self._fit_into_context(error):
            return
        if not (may_retry and error.retryable) or failures > self._retries:
            raise error.located(model=self._order.model, attempts=failures)
        delay_s = self._backoff.delay_s(failures)
        log.warning("attempt %d failed, the next in %.2f s: %s", failures, delay_s, error)
        await self._sleep(delay_s)

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


def _is_stream(response: Response) -> bool:
    kind = response.headers.get("Content-Type", EVENT_STREAM)
    return response.status == 200 and kind.startswith(EVENT_STREAM)  # noqa: PLR2004 - HTTP's own


async def _read_error(response: Response) -> Reply:
    body = bytearray()
    async with aclosing(response.blocks()) as blocks:
        with suppress(StreamInterrupted):  # the status tells enough
            async for block in blocks:
                body += block
                if len(body) > ERROR_BODY_BYTES:
                    break
    return Reply(response.status, response.headers, bytes(body))


async def _drain(blocks: AsyncGenerator[bytes]) -> None:
    """Read the end of a complete body, so that its connection can serve the next call."""
    try:
        async with asyncio.timeout(DRAIN_S):
            await anext(blocks, b"")
    except (TimeoutError, FoundryError):
        log.debug("the service left the connection open after the end of its answer")
