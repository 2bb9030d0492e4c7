"""Chat completions as all generations have them in common, and where they may be put right.

The body of a request, the events of a stream, and the correction of finish reasons that lie.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from foundry_api.classify import classify
from foundry_api.errors import ProtocolError, StreamInterrupted
from foundry_api.messages import Chunk, FinishReason, Usage
from foundry_api.wire.dialects.base import BAD_JSON, Ending
from foundry_api.wire.sse import MAX_EVENT_BYTES, EventDecoder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from foundry_api.messages import ChatRequest

__all__ = ["DEFAULT_MAX_TOKENS", "ChatStream", "chat_body", "encode", "output_limit"]

DEFAULT_MAX_TOKENS = 2048
"""Where the SDK's services cut an answer without a bound (foundry-local-service.md, 4.5)."""

_DONE = b"[DONE]"


class _Delta(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta
    finish_reason: FinishReason | None = None


class _Error(msgspec.Struct):
    message: str = ""
    type: str = "server_error"


class _Event(msgspec.Struct):
    choices: list[_Choice] = []
    usage: Usage | None = None
    error: _Error | None = None


_EVENT = msgspec.json.Decoder(_Event)
_ENCODER = msgspec.json.Encoder()


def chat_body(request: ChatRequest, model: str) -> dict[str, Any]:
    """The members of a streamed chat completion's body.

    Args:
        request: What the caller wants.
        model: The model's name as the service takes it.
    """
    body: dict[str, Any] = {
        **request.extra,
        "model": model,
        "messages": request.messages,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    for name in ("max_tokens", "temperature", "top_p", "seed"):
        if (value := getattr(request, name)) is not None:
            body[name] = value
    if request.stop:
        body["stop"] = request.stop
    return body


def encode(body: dict[str, Any]) -> bytes:
    """A body as JSON."""
    return _ENCODER.encode(body)


def output_limit(request: ChatRequest, default: int = DEFAULT_MAX_TOKENS) -> int:
    """At how many tokens the service cuts the answer: `max_completion_tokens` wins there."""
    limit = request.extra.get("max_completion_tokens") or request.max_tokens
    return limit if isinstance(limit, int) else default


class ChatStream:
    """Decodes the events of one stream: role, text, finish reason, usage, `[DONE]`.

    Args:
        model_id: The model that answers.
        limit: For a service that calls an answer `stop` that it cut: at how many tokens it cuts.
            Where it does not count tokens, pieces of text are counted, of which there is at most
            one a token: a cut answer may be called `stop` then, but never the other way round.
        says_why: Whether the service sends finish reasons at all.

    Attributes:
        model_id: As above.
        usage: Tokens as they were counted last; some generations count along, others at the end.
        done: Whether the stream said that it is complete.
    """

    def __init__(self, model_id: str, *, limit: int | None = None, says_why: bool = True) -> None:
        self.model_id = model_id
        self._limit = limit
        self._says_why = says_why
        self._events = EventDecoder()
        self._finish_reason: FinishReason | None = None
        self.usage: Usage | None = None
        self._pieces = 0
        self._without_text: list[bytes] = []
        self._without_text_bytes = 0
        self.done = False

    def feed(self, block: bytes) -> Iterator[Chunk]:
        """The pieces of text that this block completes."""
        for event in self._events.feed(block):
            data = event.data
            if data == _DONE:
                self.done = True
                break
            if text := self._text(data):
                self._pieces += 1
                yield Chunk(text, self.model_id, raw=data)
            else:
                self._keep(data)

    def finish(self) -> Ending:
        """How the answer ended."""
        reason = self._finish_reason
        if reason is None and self.done and not self._says_why:
            reason = "stop"
        if reason is None:
            raise StreamInterrupted("the stream ended before the answer did", model=self.model_id)
        if reason == "stop" and self._limit and self._counted() >= self._limit:
            reason = "length"
        return Ending(reason, self.usage or Usage(), b"\n".join(self._without_text))

    def _counted(self) -> int:
        return self._pieces if self.usage is None else self.usage.completion_tokens

    def _keep(self, data: bytes) -> None:
        self._without_text.append(data)
        self._without_text_bytes += len(data)
        if self._without_text_bytes > MAX_EVENT_BYTES:
            raise ProtocolError(f"more than {MAX_EVENT_BYTES} bytes of events carry no text")

    def _text(self, data: bytes) -> str:
        try:
            event = _EVENT.decode(data)
        except BAD_JSON as error:
            raise ProtocolError(f"an event is not a chat completion chunk: {error}") from error
        if event.error is not None:
            status = 500 if event.error.type == "server_error" else 400
            raise classify(status, event.error.message)
        if event.usage is not None:
            self.usage = event.usage
        if not event.choices:
            return ""
        choice = event.choices[0]
        self._finish_reason = choice.finish_reason or self._finish_reason
        return choice.delta.content or ""
