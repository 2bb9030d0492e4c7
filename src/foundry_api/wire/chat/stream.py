"""Chat completions as all generations have them in common, and where they may be put right.

The body of a request, the events of a stream, and the correction of finish reasons that lie.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from foundry_api.types.errors import ProtocolError, StreamInterrupted
from foundry_api.types.messages import Chunk, FinishReason, Usage
from foundry_api.wire.chat.events import (
    EVENTS,
    NOTHING,
    ChatDelta,
    ChatEvent,
    ToolCallDelta,
    ToolCallsInPieces,
    check_choice,
    decode_event,
    finish_reason_of,
)
from foundry_api.wire.chat.reasoning import ThinkSplitter
from foundry_api.wire.chat.request import inlined, with_tools
from foundry_api.wire.dialects.base import Ending
from foundry_api.wire.errors import NOT_JSON
from foundry_api.wire.sse import MAX_EVENT_BYTES, EventDecoder

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from foundry_api.types.messages import ChatRequest
    from foundry_api.wire.sse import Event

__all__ = [
    "DEFAULT_MAX_TOKENS",
    "ChatStream",
    "chat_body",
    "encode",
    "offers_tools",
    "output_limit",
    "tool_names",
]

DEFAULT_MAX_TOKENS = 2048
"""Where the SDK's services cut an answer without a bound (foundry-local-service.md, 4.5)."""

_DONE = b"[DONE]"
_decode = EVENTS.decode


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
    if not request.tools or not offers_tools(request):
        return body
    if request.tools_in_prompt:
        body["messages"] = with_tools(inlined(request.messages), request.tools)
    else:
        body["tools"] = [{"type": "function", "function": tool} for tool in request.tools]
        if request.tool_choice is not None:
            body["tool_choice"] = _tool_choice(request.tool_choice)
    return body


def offers_tools(request: ChatRequest) -> bool:
    """Whether the model may call tools. Where it may not, it is told of none, as 2.2.1 does."""
    return bool(request.tools) and request.tool_choice != "none"


def tool_names(request: ChatRequest) -> tuple[str, ...]:
    """The names of the tools that the model may call."""
    return tuple(tool.name for tool in request.tools) if offers_tools(request) else ()


def _tool_choice(choice: str) -> str | dict[str, Any]:
    if choice in {"auto", "required"}:
        return choice
    return {"type": "function", "function": {"name": choice}}


encode = msgspec.json.Encoder().encode
"""Encodes a body as JSON."""


def output_limit(request: ChatRequest, default: int = DEFAULT_MAX_TOKENS) -> int:
    """At how many tokens the service cuts the answer: `max_completion_tokens` wins there."""
    limit = request.extra.get("max_completion_tokens") or request.max_tokens
    return limit if isinstance(limit, int) else default


class ChatStream:
    """Decodes the events of one stream: role, text, finish reason, usage, `[DONE]`.

    Reasoning comes apart from the text, whether the service tells them apart or not, and calls of
    tools come whole.

    Args:
        model_id: The model that answers.
        limit: For a service that calls an answer `stop` that it cut: at how many tokens it cuts.
            Where it does not count tokens, pieces of text are counted, of which there is at most
            one a token: a cut answer may be called `stop` then, but never the other way round.
        says_why: Whether the service sends finish reasons at all.
        tools: The names of the tools that were offered.
        block_opened: Whether the prompt opened a block of reasoning, and the service does not tell
            reasoning apart.

    Attributes:
        model_id: As above.
        usage: Tokens as they were counted last; some generations count along, others at the end.
        pieces: Pieces of the answer that came, those that are held back included.
        done: Whether the stream said that it is complete.
    """

    def __init__(
        self,
        model_id: str,
        *,
        limit: int | None = None,
        says_why: bool = True,
        tools: Collection[str] = (),
        block_opened: bool = False,
    ) -> None:
        self.model_id = model_id
        self._limit = limit
        self._says_why = says_why
        self._events = EventDecoder()
        self._finish_reason: FinishReason | None = None
        self.usage: Usage | None = None
        self.pieces = 0
        self._block_opened = block_opened
        self._tells_apart = True  # until the answer itself has begun
        self._thinking: ThinkSplitter | None = None  # most answers need none
        self._tools = tools
        self._tool_calls: ToolCallsInPieces | None = None
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._without_text: list[bytes] = []
        self._without_text_bytes = 0
        self.done = False

    def feed(self, block: bytes) -> Iterator[Chunk]:
        """The pieces of the answer that this block completes."""
        # This runs for every token. What nearly all events are is decoded here, without a call.
        model_id = self.model_id
        for event in self._events.feed(block):
            data = event.data
            if data == _DONE:
                self.done = True
                break
            decoded: ChatEvent | None
            try:
                decoded = _decode(data)
            except NOT_JSON:
                decoded = None
            else:
                if (
                    (choices := decoded.choices)
                    and len(choices) == 1
                    and (delta := choices[0].delta) is not None
                    and (text := delta.content)
                    and choices[0].finish_reason is None
                    and decoded.error is None
                    and not choices[0].index
                    and not (delta.tool_calls or delta.reasoning_content or delta.reasoning)
                    and not (delta.refusal or delta.function_call)
                    and (not self._tells_apart or self._begins_answer(text))
                ):
                    if decoded.usage is not None:
                        self.usage = decoded.usage
                    self.pieces += 1
                    yield Chunk(text, model_id, raw=data)
                    continue
            try:
                delta = self._delta(event, decoded)
            except Exception:
                yield from self._flush()  # the text ahead of an error is the caller's
                raise
            if self.done:
                break
            if delta is NOTHING:
                self._keep(data)
            else:
                yield from self._pieces(delta, data)
            if self._finish_reason is not None and self._holds:
                yield from self._flush()
        if self.done and self._holds:
            yield from self._flush()

    def finish(self) -> Ending:
        """How the answer ended."""
        reason = self._reason()
        if reason is None:
            raise StreamInterrupted("the stream ended before the answer did", model=self.model_id)
        return Ending(reason, self.usage or Usage(), b"\n".join(self._without_text))

    @property
    def _holds(self) -> bool:
        return bool(self._held or self._tool_calls or self._tells_apart)

    def _begins_answer(self, text: str) -> bool:
        """Whether the first text is clearly no reasoning, so that all of it is the answer."""
        begun = text.lstrip()
        if self._block_opened or self._thinking is not None or self._held:
            return False
        if not begun or begun.startswith("<"):
            return False
        self._tells_apart = False
        return True

    def _splitter(self) -> ThinkSplitter:
        if self._thinking is None:
            self._thinking = ThinkSplitter(opened=self._block_opened)
        return self._thinking

    def _reason(self) -> FinishReason | None:
        reason = self._finish_reason
        if reason is None and self.done and (self.pieces or not self._says_why):
            reason = "stop"  # its end mark says that the answer is whole
        if reason == "stop" and self._limit and self._counted() >= self._limit:
            reason = "length"
        return reason

    def _counted(self) -> int:
        return self.pieces if self.usage is None else self.usage.completion_tokens

    def _pieces(self, delta: ChatDelta, data: bytes) -> Iterator[Chunk]:
        """The pieces of an event that is more than text of the answer."""
        self.pieces += 1
        self._hold(data)
        if delta.tool_calls or delta.function_call is not None:
            calls = self._tool_calls = self._tool_calls or ToolCallsInPieces(self._tools)
            for call in delta.tool_calls or ():
                calls.add(call)
            if delta.function_call is not None:
                calls.add(ToolCallDelta(function=delta.function_call))
        if reasoning := delta.reasoning_content or delta.reasoning:
            if self._tells_apart:
                self._splitter().expect_markers()
            yield Chunk("", self.model_id, raw=self._raw(), reasoning=reasoning)
        if delta.refusal:
            yield Chunk("", self.model_id, raw=self._raw(), refusal=delta.refusal)
        if delta.content:
            yield from self._told_apart(delta.content)

    def _told_apart(self, text: str) -> Iterator[Chunk]:
        """Text of which it is not clear yet whether it is reasoning."""
        if not self._tells_apart:
            yield Chunk(text, self.model_id, raw=self._raw())
            return
        thinking = self._splitter()
        reasoning, content = thinking.feed(text)
        if thinking.decided:
            self._thinking, self._tells_apart = None, False
        yield from self._split(reasoning, content)

    def _split(self, reasoning: str, content: str) -> Iterator[Chunk]:
        if reasoning:
            yield Chunk("", self.model_id, raw=self._raw(), reasoning=reasoning)
        if content:
            yield Chunk(content, self.model_id, raw=self._raw())

    def _flush(self) -> Iterator[Chunk]:
        """What was held back until the end of the answer."""
        thinking, self._thinking, self._tells_apart = self._thinking, None, False
        if thinking is not None:
            yield from self._split(*thinking.flush())
            if thinking.unmarked and self._reason() not in {None, "length"}:
                yield Chunk(thinking.unmarked, self.model_id, raw=self._raw())
        if self._tool_calls and (calls := self._tool_calls.take()):
            yield Chunk("", self.model_id, raw=self._raw(), tool_calls=calls)
        if self._held:
            self._keep(self._raw())

    def _hold(self, data: bytes) -> None:
        self._held.append(data)
        self._held_bytes += len(data)
        if self._held_bytes > MAX_EVENT_BYTES:
            raise ProtocolError(f"a part of the answer is larger than {MAX_EVENT_BYTES} bytes")

    def _raw(self) -> bytes:
        """The data of the events that the next chunk is made of."""
        raw = b"\n".join(self._held)
        self._held.clear()
        self._held_bytes = 0
        return raw

    def _keep(self, data: bytes) -> None:
        self._without_text.append(data)
        self._without_text_bytes += len(data)
        if self._without_text_bytes > MAX_EVENT_BYTES:
            raise ProtocolError(f"more than {MAX_EVENT_BYTES} bytes of events carry no text")

    def _delta(self, event: Event, told: ChatEvent | None) -> ChatDelta:
        """What an event adds to the answer; `NOTHING` if it adds nothing.

        Args:
            event: The event.
            told: What it says; None where it is not as nearly all events are.
        """
        if told is None or told.error is not None or not (told.choices or told.usage):
            told = self._unusual(event)
        if told.usage is not None:
            self.usage = told.usage
        choices = told.choices
        if not choices:
            self.done = told.ends
            return NOTHING
        choice = choices[0]
        # A completion holds one answer: of several, which a gateway may mix, that of index 0. The
        # services that send no finish reasons count their events there.
        if (choice.index and self._says_why) or len(choices) > 1:
            first = next((one for one in choices if not one.index), None)
            if first is None:
                return NOTHING
            choice = first
        if choice.finish_reason is not None:
            if choice.error:
                check_choice(choice)
            if choice.finish_reason == "stop":
                self._finish_reason = "stop"
            else:
                self._finish_reason = finish_reason_of(choice.finish_reason) or self._finish_reason
        delta = choice.whole if choice.delta is None else choice.delta
        if delta.content:
            return delta
        if choice.error:
            check_choice(choice)
        has_more = delta.tool_calls or delta.reasoning_content or delta.reasoning
        return delta if has_more or delta.refusal or delta.function_call else NOTHING

    def _unusual(self, event: Event) -> ChatEvent:
        """An event that is more or less than a piece of the answer."""
        try:
            return decode_event(event)
        except ProtocolError:
            if self._finish_reason is None:
                raise
            return ChatEvent()  # the answer was whole before it
