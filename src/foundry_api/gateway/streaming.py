"""Event streams to clients: each event at once, comments in silence, errors as the last event."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Self

from foundry_api.gateway.errors import RequestError, translate_error
from foundry_api.types.errors import FoundryError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from foundry_api.gateway.exchange import Exchange
    from foundry_api.gateway.response import Response

__all__ = ["LastEvent", "send_events"]

KEEP_ALIVE_COMMENT = b": keep-alive\n\n"


class LastEvent(bytes):
    """The event that ends a stream. It is sent together with the end of the body."""

    __slots__ = ()


async def send_events(
    exchange: Exchange,
    events: AsyncGenerator[bytes],
    make_error_event: Callable[[RequestError], bytes],
) -> Response:
    """Send encoded events as they arrive.

    The head is sent with the first event, or after some seconds of silence. An error before that
    is raised, so that it becomes an HTTP status; a later one is the last event of the stream.

    Args:
        exchange: The exchange to answer.
        events: The encoded events. Closing it ends the work for them. Without a `LastEvent` the
            stream ends with the generator.
        make_error_event: Encodes an error as an event.
    """
    async with _Writer(exchange, events) as writer:
        try:
            async for event in events:
                if isinstance(event, LastEvent):
                    return await writer.finish(event)
                await writer.write(event)
        except (FoundryError, RequestError) as error:
            if writer.response is None:
                raise
            refusal = translate_error(error) if isinstance(error, FoundryError) else error
            exchange.outcome = refusal.code or "error"
            return await writer.finish(make_error_event(refusal))
        except asyncio.CancelledError:
            # The client left, unless the gateway itself ended the exchange.
            if exchange.abort_error is None or writer.response is None:
                raise
            return await writer.finish(make_error_event(exchange.take_abort_error()))
        return await writer.finish()


class _Writer:
    """Writes events to one client, and comments when there are none for a while.

    Leaving it closes the generator of the events.
    """

    __slots__ = (
        "_comment",
        "_events",
        "_exchange",
        "_is_writing",
        "_keep_alive_s",
        "_last_write_at",
        "_loop",
        "_timer",
        "response",
    )

    def __init__(self, exchange: Exchange, events: AsyncGenerator[bytes]) -> None:
        self.response: Response | None = None
        self._exchange = exchange
        self._events = events
        self._loop = asyncio.get_running_loop()
        self._keep_alive_s = exchange.context.config.keep_alive_s
        self._last_write_at = self._loop.time()
        self._is_writing = False
        # One timer for the stream: arming one for each event would cost more than the event.
        self._timer = exchange.context.stream_timers.take(self._loop, self._check)
        self._timer.arm(self._last_write_at + self._keep_alive_s)
        self._comment: asyncio.Task[Response] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._exchange.context.stream_timers.put_back(self._timer)
        try:
            if self._comment is not None:
                self._comment.cancel()
                with contextlib.suppress(asyncio.CancelledError, ConnectionError):
                    await self._comment
        finally:
            await self._events.aclose()

    async def write(self, data: bytes) -> None:
        """Send data; wait while the client's buffer is full."""
        await self._prepare()
        await self._send(data)

    async def finish(self, data: bytes = b"") -> Response:
        """End the stream with data, and return its response."""
        await self._prepare()
        return await self._send(data, is_last=True)

    async def _prepare(self) -> None:
        if self._exchange.first_event_at is None:
            self._exchange.first_event_at = self._exchange.context.monotonic()
        if self._comment is not None:
            await self._comment

    async def _send(self, data: bytes, *, is_last: bool = False) -> Response:
        if self.response is None:
            self.response = await self._exchange.start_stream()
        self._is_writing = True
        try:
            await (self.response.write_eof(data) if is_last else self.response.write(data))
        finally:
            self._is_writing = False
            self._last_write_at = self._loop.time()
        return self.response

    def _check(self) -> None:
        now = self._loop.time()
        due_at = self._last_write_at + self._keep_alive_s
        if self._is_writing:  # to a client that has not read the last event
            due_at = now + self._keep_alive_s
        elif due_at <= now:
            self._comment = self._loop.create_task(self._send(KEEP_ALIVE_COMMENT))
            self._comment.add_done_callback(self._on_comment)
            due_at = now + self._keep_alive_s
        self._timer.arm(due_at)

    def _on_comment(self, task: asyncio.Task[Response]) -> None:
        self._comment = None
        if not task.cancelled():
            task.exception()  # a client that left: the next write reports it
