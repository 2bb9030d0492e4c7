"""The decoder of a streamed chat completion."""

from __future__ import annotations

from typing import TYPE_CHECKING

from foundry_api.types.errors import ProtocolError, StreamInterrupted
from foundry_api.types.messages import Chunk, FinishReason, Usage
from foundry_api.wire.chat.events import (
    EMPTY_DELTA,
    ChatDelta,
    PlainEvent,
    StreamEnd,
    ToolCallAssembler,
    ToolCallDelta,
    check_choice,
    decode_event,
    decode_plain_event,
    parse_finish_reason,
)
from foundry_api.wire.chat.reasoning import ReasoningSplitter
from foundry_api.wire.errors import NOT_JSON
from foundry_api.wire.sse import MAX_EVENT_BYTES, EventDecoder

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from foundry_api.wire.sse import Event

__all__ = ["ChatStream"]

_DONE = b"[DONE]"


class ChatStream:
    """Decodes the events of one stream.

    Reasoning is separated from the text and tool calls are complete, whatever the service sends.

    Args:
        model_id: The model that answers.
        limit: The token limit, for a service that reports `stop` for a truncated answer.
        has_finish_reasons: Whether the service sends finish reasons at all.
        tools: The names of the offered tools.
        in_reasoning: Whether the prompt ends inside a reasoning block that the service does not
            separate.
    """

    def __init__(
        self,
        model_id: str,
        *,
        limit: int | None = None,
        has_finish_reasons: bool = True,
        tools: Collection[str] = (),
        in_reasoning: bool = False,
    ) -> None:
        self.model_id = model_id
        self._limit = limit
        self._has_finish_reasons = has_finish_reasons
        self._events = EventDecoder()
        self._finish_reason: FinishReason | None = None
        self.usage: Usage | None = None  # some generations count along, others at the end
        self.chunk_count = 0
        self._starts_in_reasoning = in_reasoning
        self._is_splitting = True  # until the answer itself has begun
        self._reasoning_splitter: ReasoningSplitter | None = None  # most answers need none
        self._tools = tools
        self._tool_calls: ToolCallAssembler | None = None
        self._pending_events: list[bytes] = []  # the data of which the next chunk consists
        self._pending_bytes = 0
        self._raw_events: list[bytes] = []  # the data that belongs to no chunk
        self._raw_bytes = 0
        self.done = False

    def feed(self, block: bytes) -> Iterator[Chunk]:
        """Yield the chunks that this block completes."""
        # This runs for every token, so nearly all events are decoded inline.
        model_id = self.model_id
        for event in self._events.feed(block):
            data = event.data
            if data == _DONE:
                self.done = True
                break
            try:
                plain = decode_plain_event(data)
            except NOT_JSON:
                plain = None
            if plain is not None:
                if (
                    (choices := plain.choices)
                    and (text := choices[0].delta.content)
                    and choices[0].finish_reason is None
                    and (not self._is_splitting or self._begins_answer(text))
                ):
                    if plain.usage is not None:
                        self.usage = plain.usage
                    self.chunk_count += 1
                    yield Chunk(text, model_id, raw=data)
                    continue
                if self._read_textless(plain):
                    self._keep_raw(data)
                    continue
            try:
                delta = self._decode_delta(event)
            except Exception:
                yield from self._flush()  # the caller gets the text before the error
                raise
            if self.done:
                break
            yield from self._make_chunks(delta, data)
            if self._finish_reason is not None and self._is_held_back:
                yield from self._flush()
        if self.done and self._is_held_back:
            yield from self._flush()

    def finish(self) -> StreamEnd:
        reason = self._get_finish_reason()
        if reason is None:
            raise StreamInterrupted("the stream ended before the answer did", model=self.model_id)
        return StreamEnd(reason, self.usage or Usage(), b"\n".join(self._raw_events))

    @property
    def _is_held_back(self) -> bool:
        return bool(self._pending_events or self._tool_calls or self._is_splitting)

    def _begins_answer(self, text: str) -> bool:
        """Return whether the first text is clearly not reasoning, and stop splitting if so."""
        stripped = text.lstrip()
        if self._starts_in_reasoning or self._reasoning_splitter or self._pending_events:
            return False
        if not stripped or stripped.startswith("<"):
            return False
        self._is_splitting = False
        return True

    def _read_textless(self, event: PlainEvent) -> bool:
        """Read an event without text: the role, the end, or the usage.

        Return False for all others, which `_decode_delta` reads.
        """
        if self._pending_events or self._tool_calls:
            return False
        if event.choices:
            choice = event.choices[0]
            if choice.delta.content or (choice.finish_reason and self._is_splitting):
                return False
            self._finish_reason = choice.finish_reason or self._finish_reason
        elif event.usage is None:
            return False
        self.usage = event.usage or self.usage
        return True

    def _get_splitter(self) -> ReasoningSplitter:
        if self._reasoning_splitter is None:
            self._reasoning_splitter = ReasoningSplitter(in_reasoning=self._starts_in_reasoning)
        return self._reasoning_splitter

    def _get_finish_reason(self) -> FinishReason | None:
        reason = self._finish_reason
        if reason is None and self.done and (self.chunk_count or not self._has_finish_reasons):
            reason = "stop"  # the end mark shows that the answer is complete
        if reason == "stop" and self._limit:
            # Without usage, count the chunks. Each has at least one token, so a truncated answer
            # may be reported as `stop`, but never the other way round.
            tokens = self.chunk_count if self.usage is None else self.usage.completion_tokens
            if tokens >= self._limit:
                reason = "length"
        return reason

    def _make_chunks(self, delta: ChatDelta, data: bytes) -> Iterator[Chunk]:
        """Yield the chunks of an event that is not plain text."""
        if delta is EMPTY_DELTA:
            self._keep_raw(data)
            return
        self.chunk_count += 1
        self._pending_events.append(data)
        self._pending_bytes += len(data)
        if self._pending_bytes > MAX_EVENT_BYTES:
            raise ProtocolError(f"a part of the answer is larger than {MAX_EVENT_BYTES} bytes")
        if delta.tool_calls or delta.function_call is not None:
            calls = self._tool_calls = self._tool_calls or ToolCallAssembler(self._tools)
            for call in delta.tool_calls or ():
                calls.add(call)
            if delta.function_call is not None:
                calls.add(ToolCallDelta(function=delta.function_call))
        if reasoning := delta.reasoning_content or delta.reasoning:
            if self._is_splitting:
                self._get_splitter().expect_markers()
            yield Chunk("", self.model_id, raw=self._take_raw(), reasoning=reasoning)
        if delta.refusal:
            yield Chunk("", self.model_id, raw=self._take_raw(), refusal=delta.refusal)
        if delta.content:
            if self._is_splitting:
                splitter = self._get_splitter()
                split = splitter.feed(delta.content)
                if splitter.is_decided:
                    self._reasoning_splitter, self._is_splitting = None, False
                yield from self._make_split_chunks(*split)
            else:
                yield Chunk(delta.content, self.model_id, raw=self._take_raw())

    def _make_split_chunks(self, reasoning: str, content: str) -> Iterator[Chunk]:
        if reasoning:
            yield Chunk("", self.model_id, raw=self._take_raw(), reasoning=reasoning)
        if content:
            yield Chunk(content, self.model_id, raw=self._take_raw())

    def _flush(self) -> Iterator[Chunk]:
        """Yield what was held back until the end of the answer."""
        splitter, self._reasoning_splitter = self._reasoning_splitter, None
        self._is_splitting = False
        if splitter is not None:
            yield from self._make_split_chunks(*splitter.flush())
            # No marker has appeared: what looked like reasoning is the answer, too. In a truncated
            # answer the marker may be missing.
            if splitter.unmarked and self._get_finish_reason() not in {None, "length"}:
                yield Chunk(splitter.unmarked, self.model_id, raw=self._take_raw())
        if self._tool_calls and (calls := self._tool_calls.drain()):
            yield Chunk("", self.model_id, raw=self._take_raw(), tool_calls=calls)
        if self._pending_events:
            self._keep_raw(self._take_raw())

    def _take_raw(self) -> bytes:
        """Return the data of the events that the next chunk consists of."""
        raw = b"\n".join(self._pending_events)
        self._pending_events.clear()
        self._pending_bytes = 0
        return raw

    def _keep_raw(self, data: bytes) -> None:
        self._raw_events.append(data)
        self._raw_bytes += len(data)
        if self._raw_bytes > MAX_EVENT_BYTES:
            raise ProtocolError(f"more than {MAX_EVENT_BYTES} bytes of events carry no text")

    def _decode_delta(self, event: Event) -> ChatDelta:
        """Return what an event adds to the answer, or `EMPTY_DELTA` if it adds nothing."""
        try:
            chat_event = decode_event(event)
        except ProtocolError:
            if self._finish_reason is None:
                raise
            return EMPTY_DELTA  # the answer is already complete
        if chat_event.usage is not None:
            self.usage = chat_event.usage
        choices = chat_event.choices
        if not choices:
            self.done = chat_event.is_end
            return EMPTY_DELTA
        choice = choices[0]
        # Gateways may mix several answers, of which the one with index 0 counts. The services
        # that send no finish reasons number their events there.
        if (choice.index and self._has_finish_reasons) or len(choices) > 1:
            first_choice = next((candidate for candidate in choices if not candidate.index), None)
            if first_choice is None:
                return EMPTY_DELTA
            choice = first_choice
        if choice.finish_reason is not None:
            # Every stream ends here, nearly always with "stop" and without an error: the functions
            # for the rest are called only when needed. An error says more than its finish reason.
            if choice.error:
                check_choice(choice)
            reason = choice.finish_reason
            self._finish_reason = (
                "stop" if reason == "stop" else parse_finish_reason(reason) or self._finish_reason
            )
        delta = choice.full_delta if choice.delta is None else choice.delta
        if delta.content:
            return delta
        if choice.error:
            check_choice(choice)
        has_more = delta.tool_calls or delta.reasoning_content or delta.reasoning
        return delta if has_more or delta.refusal or delta.function_call else EMPTY_DELTA
