"""One chat completion from its first attempt to its last token."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from foundry_api.errors import (
    CallTimeout,
    ContextOverflow,
    FoundryError,
    ModelNotLoaded,
    ServiceCrashed,
    ServiceNotRunning,
    StreamInterrupted,
)
from foundry_api.messages import Attempt, Completion, Timings, Usage
from foundry_api.resilience.silence import SilenceBound
from foundry_api.wire.dialects.base import error_of
from foundry_api.wire.transport import Reply

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from typing import Protocol

    from foundry_api.connection import Connection
    from foundry_api.messages import ChatRequest, Chunk, Model
    from foundry_api.resilience.retry import Backoff
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

ERROR_BODY_BYTES = 64 * 2**10
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
        backoff: How often and how soon to try again.
        clock: Seconds of a monotonic clock.
        sleep: Waits for a number of seconds.
    """

    def __init__(
        self,
        router: Router,
        order: Order,
        backoff: Backoff,
        *,
        clock: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._router = router
        self._order = order
        self._request = order.request
        self._backoff = backoff
        self._clock = clock
        self._sleep = sleep
        self._attempts: list[Attempt] = []
        self._text: list[str] = []
        self._started = clock()
        self._sent = self._started
        self._first_token: float | None = None
        self.connection: Connection | None = None

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
        raw: list[bytes] = []
        async with aclosing(self.chunks()) as chunks:
            async for chunk in chunks:
                raw.append(chunk.raw)
        connection, last = self.connection, chunk
        assert connection is not None  # noqa: S101 - a chunk came, so there was a service
        assert last.finish_reason is not None  # noqa: S101 - a decoder raises without one
        assert last.timings is not None  # noqa: S101 - set beside it
        return Completion(
            content="".join(self._text),
            model=last.model,
            service=connection.endpoint.base_url,
            generation=connection.endpoint.generation,
            finish_reason=last.finish_reason,
            usage=last.usage or Usage(),
            timings=last.timings,
            attempts=last.attempts,
            raw=tuple(raw),
        )

    async def _attempt(self) -> AsyncGenerator[Chunk]:
        self._sent = self._clock()
        connection, model = await self._router.route(
            self._order.model, download=self._order.download
        )
        self.connection = connection
        try:
            await connection.ensure_loaded(model)
            async with aclosing(self._stream(connection, model)) as stream:
                async for chunk in stream:
                    yield chunk
        except FoundryError as error:
            error.located(model=model.id, service=connection.endpoint.base_url)
            if isinstance(error, ServiceNotRunning | ServiceCrashed | StreamInterrupted):
                self._router.lost(connection)
            elif isinstance(error, ModelNotLoaded):
                connection.forget(model)
            raise

    async def _stream(self, connection: Connection, model: Model) -> AsyncGenerator[Chunk]:
        bound = SilenceBound(self._order.timeout_s)
        decoder = connection.dialect.chat_decoder(model)
        request = connection.dialect.chat_request(model, self._request)
        self._sent = self._clock()
        response = await bound.wait(connection.transport.send(request))
        try:
            if response.status != 200:  # noqa: PLR2004 - HTTP's own number
                raise error_of(await bound.wait(_read_error(response)))
            async with aclosing(response.blocks()) as blocks:
                while not decoder.done and (block := await bound.wait(anext(blocks, b""))):
                    for chunk in decoder.feed(block):
                        self._note(chunk)
                        bound.token()
                        yield chunk
                last = self._last(decoder.finish())
                await _drain(blocks)
        finally:
            response.close()
        yield last

    def _note(self, chunk: Chunk) -> None:
        if self._first_token is None:
            self._first_token = self._clock()
        self._text.append(chunk.content)

    def _last(self, chunk: Chunk) -> Chunk:
        now = self._clock()
        self._attempts.append(Attempt(now - self._sent))
        timings = Timings(
            time_to_first_token_s=self._first_token and self._first_token - self._sent,
            total_s=now - self._started,
            tokens_per_second=self._rate(chunk, now),
        )
        log.info("%s answered in %.3f s: %s", chunk.model, timings.total_s, chunk.finish_reason)
        return msgspec.structs.replace(chunk, timings=timings, attempts=tuple(self._attempts))

    def _rate(self, chunk: Chunk, now: float) -> float | None:
        tokens = chunk.usage.completion_tokens - 1 if chunk.usage else 0
        if self._first_token is None or tokens < 1 or now <= self._first_token:
            return None
        return tokens / (now - self._first_token)

    async def _after(self, error: FoundryError) -> None:
        """Prepare the next attempt, or raise the error if there is none."""
        self._attempts.append(Attempt(self._clock() - self._sent, error))
        if isinstance(error, CallTimeout | StreamInterrupted):
            error.partial = "".join(self._text)
        failures = len(self._attempts)
        if self._fit_into_context(error):
            return
        may_retry = error.retryable and self._first_token is None
        if not may_retry or failures > self._backoff.retries:
            raise error.located(model=self._order.model, attempts=failures)
        delay_s = self._backoff.delay_s(failures)
        log.warning("attempt %d failed, the next in %.2f s: %s", failures, delay_s, error)
        await self._sleep(delay_s)

    def _fit_into_context(self, error: FoundryError) -> bool:
        """Ask for what fits, when the caller set no bound and the service's default overflows.

        The service adds 2048 output tokens to the prompt and refuses when that is more than the
        context, though the answer may be short (foundry-local-service.md, 4.5).
        """
        if not isinstance(error, ContextOverflow) or self._request.max_tokens is not None:
            return False
        if error.context_length is None or error.prompt_tokens is None:
            return False
        room = error.context_length - error.prompt_tokens
        if room < 1:
            return False
        self._request = msgspec.structs.replace(self._request, max_tokens=room)
        return True


async def _read_error(response: Response) -> Reply:
    body = bytearray()
    async for block in response.blocks():
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
