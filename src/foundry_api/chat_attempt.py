"""One HTTP request for a streamed chat completion, read to the end of its stream."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from foundry_api.attempt import GuardedAttempt
from foundry_api.errors import FoundryError, ProtocolError, StreamInterrupted
from foundry_api.values import is_dict
from foundry_api.wire.encoding import DECODED
from foundry_api.wire.failures import lenient_json
from foundry_api.wire.transport import LAST_SUCCESS, MAX_BODY_BYTES, OK

if TYPE_CHECKING:
    from collections.abc import Callable

    from foundry_api.capabilities import Capabilities
    from foundry_api.messages import ChatRequest, Chunk
    from foundry_api.resilience.watch import Watch
    from foundry_api.services import Service
    from foundry_api.wire.dialects.base import ChatDecoder, Ending
    from foundry_api.wire.transport import Response

__all__ = ["ChatAttempt"]

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
