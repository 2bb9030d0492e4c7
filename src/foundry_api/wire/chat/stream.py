"""Chat completions as all generations have them in common, and where they may be put right.

The body of a request, the events of a stream, and the correction of finish reasons that lie.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from foundry_api.types.errors import ProtocolError, StreamInterrupted
from foundry_api.types.messages import Chunk, FinishReason, Usage
from foundry_api.wire.chat.events import (
    EMPTY_DELTA,
    EVENT_DECODER,
    ChatDelta,
    ChatEvent,
    StreamEnd,
    ToolCallAssembler,
    ToolCallDelta,
    check_choice,
    decode_event,
    parse_finish_reason,
)
from foundry_api.wire.chat.reasoning import ReasoningSplitter
from foundry_api.wire.chat.request import add_tool_prompt, inline_tool_history
from foundry_api.wire.errors import NOT_JSON
from foundry_api.wire.sse import MAX_EVENT_BYTES, EventDecoder

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from foundry_api.types.messages import ChatRequest
    from foundry_api.wire.sse import Event

__all__ = [
    "DEFAULT_MAX_TOKENS",
    "ChatStream",
    "encode",
    "get_output_limit",
    "get_tool_names",
    "make_chat_body",
    "offers_tools",
]

DEFAULT_MAX_TOKENS = 2048
"""Where the SDK's services cut an answer without a bound (foundry-local-service.md, 4.5)."""

_DONE = b"[DONE]"
_decode = EVENT_DECODER.decode


def make_chat_body(request: ChatRequest, model: str) -> dict[str, Any]:
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
        body["messages"] = add_tool_prompt(inline_tool_history(request.messages), request.tools)
    else:
        body["tools"] = [{"type": "function", "function": tool} for tool in request.tools]
        if request.tool_choice is not None:
            body["tool_choice"] = _make_tool_choice(request.tool_choice)
    return body


def offers_tools(request: ChatRequest) -> bool:
    """Whether the model may call tools. Where it may not, it is told of none, as 2.2.1 does."""
    return bool(request.tools) and request.tool_choice != "none"


def get_tool_names(request: ChatRequest) -> tuple[str, ...]:
    """The names of the tools that the model may call."""
    return tuple(tool.name for tool in request.tools) if offers_tools(request) else ()


def _make_tool_choice(choice: str) -> str | dict[str, Any]:
    if choice in {"auto", "required"}:
        return choice
    return {"type": "function", "function": {"name": choice}}


encode = msgspec.json.Encoder().encode
"""Encodes a body as JSON."""


def get_output_limit(request: ChatRequest, default: int = DEFAULT_MAX_TOKENS) -> int:
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
        chunk_count: Pieces of the answer that came, those that are held back included.
        done: Whether the stream said that it is complete.
    """

    def __init__(
        self,
        model_id: str,
        *,
        limit: int | None = None,
        explains_errors: bool = True,
        tools: Collection[str] = (),
        in_reasoning: bool = False,
    ) -> None:
        self.model_id = model_id
        self._limit = limit
        self._explains_errors = explains_errors
        self._events = EventDecoder()
        self._finish_reason: FinishReason | None = None
        self.usage: Usage | None = None
        self.chunk_count = 0
        self._block_opened = in_reasoning
        self._tells_apart = True  # until the answer itself has begun
        self._reasoning_splitter: ReasoningSplitter | None = None  # most answers need none
        self._tools = tools
        self._tool_calls: ToolCallAssembler | None = None
        self._pending_events: list[bytes] = []
        self._pending_bytes = 0
        self._raw_events: list[bytes] = []
        self._raw_bytes = 0
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
                    self.chunk_count += 1
                    yield Chunk(text, model_id, raw=data)
                    continue
            try:
                delta = self._decode_delta(event, decoded)
            except Exception:
                yield from self._flush()  # the text ahead of an error is the caller's
                raise
            if self.done:
                break
            if delta is EMPTY_DELTA:
                self._keep_raw(data)
            else:
                yield from self._make_chunks(delta, data)
            if self._finish_reason is not None and self._is_held_back:
                yield from self._flush()
        if self.done and self._is_held_back:
            yield from self._flush()

    def finish(self) -> StreamEnd:
        """How the answer ended."""
        reason = self._get_finish_reason()
        if reason is None:
            raise StreamInterrupted("the stream ended before the answer did", model=self.model_id)
        return StreamEnd(reason, self.usage or Usage(), b"\n".join(self._raw_events))

    @property
    def _is_held_back(self) -> bool:
        return bool(self._pending_events or self._tool_calls or self._tells_apart)

    def _begins_answer(self, text: str) -> bool:
        """Whether the first text is clearly no reasoning, so that all of it is the answer."""
        begun = text.lstrip()
        if self._block_opened or self._reasoning_splitter is not None or self._pending_events:
            return False
        if not begun or begun.startswith("<"):
            return False
        self._tells_apart = False
        return True

    def _splitter(self) -> ReasoningSplitter:
        if self._reasoning_splitter is None:
            self._reasoning_splitter = ReasoningSplitter(in_reasoning=self._block_opened)
        return self._reasoning_splitter

    def _get_finish_reason(self) -> FinishReason | None:
        reason = self._finish_reason
        if reason is None and self.done and (self.chunk_count or not self._explains_errors):
            reason = "stop"  # its end mark says that the answer is whole
        if reason == "stop" and self._limit and self._count_tokens() >= self._limit:
            reason = "length"
        return reason

    def _count_tokens(self) -> int:
        return self.chunk_count if self.usage is None else self.usage.completion_tokens

    def _make_chunks(self, delta: ChatDelta, data: bytes) -> Iterator[Chunk]:
        """The pieces of an event that is more than text of the answer."""
        self.chunk_count += 1
        self._hold_back(data)
        if delta.tool_calls or delta.function_call is not None:
            calls = self._tool_calls = self._tool_calls or ToolCallAssembler(self._tools)
            for call in delta.tool_calls or ():
                calls.add(call)
            if delta.function_call is not None:
                calls.add(ToolCallDelta(function=delta.function_call))
        if reasoning := delta.reasoning_content or delta.reasoning:
            if self._tells_apart:
                self._splitter().expect_markers()
            yield Chunk("", self.model_id, raw=self._take_raw(), reasoning=reasoning)
        if delta.refusal:
            yield Chunk("", self.model_id, raw=self._take_raw(), refusal=delta.refusal)
        if delta.content:
            yield from self._separate(delta.content)

    def _separate(self, text: str) -> Iterator[Chunk]:
        """Text of which it is not clear yet whether it is reasoning."""
        if not self._tells_apart:
            yield Chunk(text, self.model_id, raw=self._take_raw())
            return
        thinking = self._splitter()
        reasoning, content = thinking.feed(text)
        if thinking.is_decided:
            self._reasoning_splitter, self._tells_apart = None, False
        yield from self._make_split_chunks(reasoning, content)

    def _make_split_chunks(self, reasoning: str, content: str) -> Iterator[Chunk]:
        if reasoning:
            yield Chunk("", self.model_id, raw=self._take_raw(), reasoning=reasoning)
        if content:
            yield Chunk(content, self.model_id, raw=self._take_raw())

    def _flush(self) -> Iterator[Chunk]:
        """What was held back until the end of the answer."""
        splitter, self._reasoning_splitter, self._tells_apart = (
            self._reasoning_splitter,
            None,
            False,
        )
        if splitter is not None:
            yield from self._make_split_chunks(*splitter.flush())
            if splitter.unmarked and self._get_finish_reason() not in {None, "length"}:
                yield Chunk(splitter.unmarked, self.model_id, raw=self._take_raw())
        if self._tool_calls and (calls := self._tool_calls.drain()):
            yield Chunk("", self.model_id, raw=self._take_raw(), tool_calls=calls)
        if self._pending_events:
            self._keep_raw(self._take_raw())

    def _hold_back(self, data: bytes) -> None:
        self._pending_events.append(data)
        self._pending_bytes += len(data)
        if self._pending_bytes > MAX_EVENT_BYTES:
            raise ProtocolError(f"a part of the answer is larger than {MAX_EVENT_BYTES} bytes")

    def _take_raw(self) -> bytes:
        """The data of the events that the next chunk is made of."""
        raw = b"\n".join(self._pending_events)
        self._pending_events.clear()
        self._pending_bytes = 0
        return raw

    def _keep_raw(self, data: bytes) -> None:
        self._raw_events.append(data)
        self._raw_bytes += len(data)
        if self._raw_bytes > MAX_EVENT_BYTES:
            raise ProtocolError(f"more than {MAX_EVENT_BYTES} bytes of events carry no text")

    def _decode_delta(self, event: Event, chat_event: ChatEvent | None) -> ChatDelta:
        """What an event adds to the answer; `EMPTY_DELTA` if it adds nothing.

        Args:
            event: The event.
            chat_event: What it says; None where it is not as nearly all events are.
        """
        if (
            chat_event is None
            or chat_event.error is not None
            or not (chat_event.choices or chat_event.usage)
        ):
            chat_event = self._decode_unusual(event)
        if chat_event.usage is not None:
            self.usage = chat_event.usage
        choices = chat_event.choices
        if not choices:
            self.done = chat_event.is_end
            return EMPTY_DELTA
        choice = choices[0]
        # A completion holds one answer: of several, which a gateway may mix, that of index 0. The
        # services that send no finish reasons count their events there.
        if (choice.index and self._explains_errors) or len(choices) > 1:
            first_choice = next((candidate for candidate in choices if not candidate.index), None)
            if first_choice is None:
                return EMPTY_DELTA
            choice = first_choice
        if choice.finish_reason is not None:
            if choice.error:
                check_choice(choice)
            if choice.finish_reason == "stop":
                self._finish_reason = "stop"
            else:
                self._finish_reason = (
                    parse_finish_reason(choice.finish_reason) or self._finish_reason
                )
        delta = choice.full_delta if choice.delta is None else choice.delta
        if delta.content:
            return delta
        if choice.error:
            check_choice(choice)
        has_more = delta.tool_calls or delta.reasoning_content or delta.reasoning
        return delta if has_more or delta.refusal or delta.function_call else EMPTY_DELTA

    def _decode_unusual(self, event: Event) -> ChatEvent:
        """An event that is more or less than a piece of the answer."""
        try:
            return decode_event(event)
        except ProtocolError:
            if self._finish_reason is None:
                raise
            return ChatEvent()  # the answer was whole before it
