"""One chat completion from its first attempt to its last token."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from foundry_api.core.attempt import GuardedAttempt
from foundry_api.core.call import CallTools, GuardedCall, Order
from foundry_api.types.errors import (
    ContextOverflow,
    FoundryError,
    ProtocolError,
    StreamInterrupted,
    ToolMarkersMissing,
)
from foundry_api.types.events import CallEnded
from foundry_api.types.messages import ChatRequest, Chunk, Completion
from foundry_api.types.values import is_dict
from foundry_api.wire.chat.reasoning import attributed
from foundry_api.wire.encoding import DECODED
from foundry_api.wire.errors import lenient_json
from foundry_api.wire.transport import LAST_SUCCESS, MAX_BODY_BYTES, OK

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from foundry_api.core.service_pool import Service
    from foundry_api.resilience.deadline import Deadline
    from foundry_api.resilience.silence import Watch
    from foundry_api.types.capabilities import Capabilities
    from foundry_api.types.messages import ToolCall, Usage
    from foundry_api.wire.dialects.base import ChatDecoder, Ending
    from foundry_api.wire.transport import Response

__all__ = ["ChatAttempt", "ChatCall", "last_chunk"]


log = logging.getLogger("foundry_api")

EVENT_STREAM = "text/event-stream"
BODYLESS = frozenset({204, 205})
"""Successes that have no body."""

DRAIN_S = 0.1
"""How long the end of a body that is complete may take, before its connection is given up."""


class ChatAttempt(GuardedAttempt):
    """Sends one request and reads its answer. `close` has to be called, however it ends.

    Args:
        service: Whom to ask.
        request: What the caller wants.
        watch: Bounds its waiting.
        clock: Seconds of a monotonic clock.
    """

    def __init__(
        self,
        service: Service,
        request: ChatRequest,
        watch: Watch,
        clock: Callable[[], float],
    ) -> None:
        super().__init__(service, watch, clock)
        self._request = request
        self._decoder: ChatDecoder | None = None
        self._ahead = b""

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
        response = await self._open(message, first_s, gap_s)
        if not _is_stream(response):
            await self._look_into(response)

    async def read(self) -> list[Chunk]:
        """The next pieces of the answer, at least one; none at its end.

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
                block, self._ahead = self._ahead or await self._block(response), b""
            except StreamInterrupted as error:
                connection, model = self.found
                plain = connection.dialect.plain_request(model, self._request)
                raise await self._explained(error, plain) from error
            if not block:
                return self._last(decoder)
            if chunks := self._decoded(decoder, block):
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
            coding = response.headers.get("Content-Encoding", "").strip().lower()
            if coding and coding not in {"identity", *DECODED}:
                raise ProtocolError(f"the answer is encoded as {coding}, unasked") from error
            raise
        if not ending.early:
            await self._drain(response)
        return ending

    def _decoded(self, decoder: ChatDecoder, block: bytes) -> list[Chunk]:
        before = decoder.pieces
        chunks = self._taken(decoder.feed(block))
        if came := decoder.pieces - before:
            self._note(came)
        return chunks

    def _last(self, decoder: ChatDecoder) -> list[Chunk]:
        """The pieces of a last event whose line end is missing, unless it was cut."""
        try:
            chunks = self._decoded(decoder, b"\n\n")
        except ProtocolError:
            return []
        if isinstance(self._behind, ProtocolError):
            self._behind = None
        return chunks

    async def _look_into(self, response: Response) -> None:
        """Look whether an answer that is not declared a stream is one, or a whole completion.

        Proxies that cannot stream send the whole, and some declare a stream to be text or JSON.

        Raises:
            FoundryError: It is neither.
        """
        body = b""
        while OK <= response.status <= LAST_SUCCESS and len(body) <= MAX_BODY_BYTES:
            block = await self._block(response)
            body += block
            begun = body.lstrip()
            if begun.startswith(_BEGINS_STREAM):
                self._ahead = body
                return
            if not block or not begun.startswith(b"{"):
                break
        if not _is_completion(body):
            raise await self._refusal(response, body)
        line = body.replace(b"\r", b" ").replace(b"\n", b" ")
        self._ahead = b"data: %b\n\ndata: [DONE]\n\n" % line

    def _check(self, capabilities: Capabilities) -> None:
        capabilities.check(self._request)

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


_BEGINS_STREAM = (b"data:", b"event:", b": ")


def _is_completion(body: bytes) -> bool:
    """Whether a body is a whole completion."""
    try:
        members = lenient_json(body)
    except ValueError:
        return False
    return is_dict(members) and bool(members.get("choices"))


def _is_stream(response: Response) -> bool:
    if not OK <= response.status <= LAST_SUCCESS or response.status in BODYLESS:
        return False
    kind = response.headers.get("Content-Type") or EVENT_STREAM
    return kind.partition(";")[0].strip().lower() == EVENT_STREAM


SHORTEST_RATED_S = 0.001
"""An answer that came in one burst says nothing of the engine's speed."""


class ChatCall(GuardedCall[ChatRequest, ChatAttempt]):
    """A chat completion, whole or as a stream, and its measurements.

    Args:
        tools: What the client's calls share.
        order: What the caller ordered.
    """

    def __init__(self, tools: CallTools, order: Order[ChatRequest]) -> None:
        super().__init__(tools, order)
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._refusal: list[str] = []
        self._tool_calls: list[ToolCall] = []
        self._raw: list[bytes] = []
        self._watch: Watch | None = None
        self._whole: Completion[None] | None = None

    @property
    def whole(self) -> Completion[None]:
        """The whole answer, once all of its pieces were taken."""
        assert self._whole is not None  # noqa: S101 - a mistake of ours
        return self._whole

    async def chunks(self) -> AsyncGenerator[Chunk]:
        """The answer in pieces; the last one carries finish reason, usage and timings."""
        watch = self._begin()
        try:
            while isinstance(came := await self._next(watch), list):
                for piece in came:
                    yield piece
        except BaseException as error:
            self._tell_failure(watch, error)
            raise
        self._tell_answer(watch, came.whole)
        yield came.last

    async def completion(
        self, receive: Callable[[list[Chunk]], None] | None = None
    ) -> Completion[None]:
        """The whole answer.

        Args:
            receive: Called with its pieces as they come.
        """
        self._watch = watch = self._begin()
        self._raw = []
        try:
            while isinstance(came := await self._next(watch), list):
                self._raw += [piece.raw for piece in came]
                if receive is not None:
                    receive(came)
        except BaseException as error:
            self._tell_failure(watch, error)
            raise
        self._tell_answer(watch, came.whole)
        return came.whole

    def allow(self, deadline: Deadline) -> None:
        """Somebody waits for the completion who may have more time than who asked for it."""
        if self._watch is not None:
            self._watch.extend(deadline)

    async def _next(self, watch: Watch) -> list[Chunk] | _Answer:
        """The next pieces of the answer, and at its end the whole of it."""
        while True:
            try:
                attempt = self._attempt or await self._send(watch)
                if pieces := await attempt.read():
                    self._note(attempt, pieces)
                    return pieces
                return await self._finish(attempt, watch)
            except FoundryError as error:
                await self._after(error, watch)

    async def _send(self, watch: Watch) -> ChatAttempt:
        attempt = await self._prepare(watch)
        await attempt.send(*self._silence_bounds())
        return attempt

    def _new_attempt(self, service: Service, watch: Watch) -> ChatAttempt:
        return ChatAttempt(service, self._request, watch, self._tools.clock)

    @property
    def _told(self) -> ChatRequest:
        return self._request

    @property
    def _partial(self) -> str:
        return "".join(self._text)

    def _note(self, attempt: ChatAttempt, pieces: list[Chunk]) -> None:
        if not self._pieces:
            self._first_token_s = attempt.time_to_first_token_s
            self._tell_first_token(self._first_token_s or 0.0)
        self._pieces += len(pieces)
        for piece in pieces:
            if piece.content:
                self._text.append(piece.content)
            else:
                self._reasoning.append(piece.reasoning)
                self._refusal.append(piece.refusal)
                self._tool_calls += piece.tool_calls

    async def _finish(self, attempt: ChatAttempt, watch: Watch) -> _Answer:
        longest_gap_s = watch.longest_gap_s
        ending = await attempt.finish()
        headers = attempt.headers
        now = self._close(attempt, None)
        self._tools.retry.budget.succeeded()
        if self._first_token_s is not None:
            self._tools.latencies.of(self._model).answered(self._first_token_s, longest_gap_s)
        connection, _ = attempt.found
        reasoning, content = attributed("".join(self._reasoning), "".join(self._text))
        whole = Completion(
            content=content,
            reasoning=reasoning,
            refusal="".join(self._refusal),
            tool_calls=tuple(self._tool_calls),
            parsed=None,
            model=self._model,
            service=connection.endpoint.base_url,
            generation=connection.endpoint.generation,
            finish_reason=ending.finish_reason,
            usage=ending.usage,
            timings=self._timings(
                now - self._started, _rate(attempt.first_token_at, now, ending.usage)
            ),
            attempts=self._attempts,
            headers=headers,
            raw=(*self._raw, ending.raw),
        )
        self._whole = whole
        return _Answer(whole)

    def _amended(self, error: FoundryError) -> bool:
        return self._told_of_tools(error) or self._bounded_to_fit(error)

    def _told_of_tools(self, error: FoundryError) -> bool:
        """Tell a model of its tools in the prompt, when the service would not tell this one."""
        request = self._request
        if not isinstance(error, ToolMarkersMissing) or request.tools_in_prompt:
            return False
        if request.tool_choice not in {None, "auto"}:
            return False
        self._request = msgspec.structs.replace(request, tools_in_prompt=True)
        return True

    def _bounded_to_fit(self, error: FoundryError) -> bool:
        """Ask for what fits, when the caller set no bound and the service's default overflows.

        The service adds 2048 output tokens to the prompt and refuses when that is more than the
        context, though the answer may be short (foundry-local-service.md, 4.5).
        """
        if not isinstance(error, ContextOverflow) or _is_bounded(self._order.request):
            return False
        room = error.room
        if room is None or _is_bounded(self._request):
            error.blame_prompt()
            return False
        self._request = msgspec.structs.replace(self._request, max_tokens=room)
        return True

    def _tell_answer(self, watch: Watch, whole: Completion[None]) -> None:
        watch.stop()
        self._tools.events.emit(
            CallEnded(
                call=self._number,
                outcome="answered",
                model=whole.model,
                service=whole.service,
                attempts=whole.attempts,
                timings=whole.timings,
                usage=whole.usage,
                finish_reason=whole.finish_reason,
                chunks=self._pieces,
                content=whole.content,
            )
        )


@dataclass(frozen=True, slots=True)
class _Answer:
    """The end of a call."""

    whole: Completion[None]

    @property
    def last(self) -> Chunk:
        """The last chunk of the answer as a stream."""
        return last_chunk(self.whole)


def last_chunk(whole: Completion[None]) -> Chunk:
    """The last chunk of an answer as a stream."""
    return Chunk(
        content="",
        model=whole.model,
        finish_reason=whole.finish_reason,
        usage=whole.usage,
        timings=whole.timings,
        attempts=whole.attempts,
        raw=whole.raw[-1],
        cached=whole.cached,
    )


def _is_bounded(request: ChatRequest) -> bool:
    bounds = {"max_tokens", "max_completion_tokens"}
    return request.max_tokens is not None or not bounds.isdisjoint(request.extra)


def _rate(first_token_at: float | None, now: float, usage: Usage) -> float | None:
    tokens = usage.completion_tokens - 1
    if first_token_at is None or tokens < 1:
        return None
    took_s = now - first_token_at
    return tokens / took_s if took_s >= SHORTEST_RATED_S else None
