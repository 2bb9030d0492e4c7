"""The Responses API on the wire, and where the generations have to be put right.

Probed on 1.2.4, 2.0.1 and 2.2.1: all of them stream the same events, and end a stream that failed
with `response.failed`. 1.2.4 and 2.0.1 call `completed` what they cut; 1.2.4 answers a failure with
HTTP 200 and wants `"type": "message"` on every message.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import msgspec

from foundry_api.types.errors import ProtocolError, StreamInterrupted
from foundry_api.types.results import (
    Response,
    ResponseEvent,
    ResponseItem,
    ResponsePage,
    ResponseStatus,
)
from foundry_api.wire.chat.events import usage_of
from foundry_api.wire.chat.reasoning import ThinkSplitter, attributed
from foundry_api.wire.dialects.base import BAD_JSON
from foundry_api.wire.errors import classify, error_message, stream_error
from foundry_api.wire.sse import EventDecoder, is_end_mark

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from foundry_api.types.messages import Generation, Usage
    from foundry_api.wire.sse import Event

__all__ = ["RESPONSES_ROUTE", "ResponseReader", "ResponseStream"]

RESPONSES_ROUTE = "/v1/responses"
MAX_RESPONSE_BYTES = 64 * 2**20
"""Bound of one event: the last one holds the whole response."""

_DONE = b"[DONE]"
_NOTHING = frozenset({b"", b"null"})
_TEXT = "response.output_text.delta"
_REFUSAL = "response.refusal.delta"
_REASONING = frozenset(
    {
        "response.reasoning.delta",  # the name of SDK 2.x
        "response.reasoning_text.delta",
        "response.reasoning_summary_text.delta",
    }
)
_PRELUDE = frozenset({"response.queued", "response.created", "response.in_progress"})
_TERMINAL = frozenset({"response.completed", "response.incomplete"})
_FAILED = "response.failed"
_NO_KIND = frozenset({"", "error"})
_ENDS_TEXT = frozenset(
    {
        *("response.output_text.done", "response.content_part.done", "response.output_item.done"),
        *_TERMINAL,
    }
)


class _Incomplete(msgspec.Struct):
    reason: str | None = None


class _Response(msgspec.Struct):
    id: str
    status: ResponseStatus
    model: str | None = None
    output: list[dict[str, Any]] | None = None
    usage: Any = None
    error: Any = None
    incomplete_details: _Incomplete | None = None
    instructions: Any = None
    previous_response_id: str | None = None
    store: bool | None = None
    metadata: dict[str, Any] | None = None
    created_at: float | None = None
    max_output_tokens: int | None = None


class _Event(msgspec.Struct):
    type: str = ""
    delta: Any = None
    item: dict[str, Any] | None = None
    response: msgspec.Raw = msgspec.Raw()
    error: Any = None


class _Page(msgspec.Struct):
    data: list[msgspec.Raw]
    has_more: bool = False


class _Items(msgspec.Struct):
    data: list[dict[str, Any]]


_RESPONSE = msgspec.json.Decoder(_Response)
_EVENT = msgspec.json.Decoder(_Event)
_PAGE = msgspec.json.Decoder(_Page)
_ITEMS = msgspec.json.Decoder(_Items)


class ResponseReader:
    """Reads the responses of one service.

    Args:
        service: Its base URL.
        generation: Which it is.
        cuts_at: For a generation that calls `completed` what it cut: at how many tokens it does so
            without a bound. None for one that tells.
    """

    def __init__(self, service: str, generation: Generation, *, cuts_at: int | None = None) -> None:
        self._service = service
        self._generation: Generation = generation
        self._cuts_at = cuts_at

    def response(self, data: bytes, pieces: int | None = None) -> Response:
        """One response.

        Args:
            data: As it came.
            pieces: How many deltas came ahead of it, where it was streamed.

        Raises:
            ProtocolError: It is none.
        """
        try:
            told = _RESPONSE.decode(data)
        except BAD_JSON as error:
            raise ProtocolError(f"this is no response: {error}", service=self._service) from error
        reason = told.incomplete_details.reason if told.incomplete_details else None
        status = told.status
        usage = None if self._miscounts(told) else _usage(told.usage)
        written = pieces if usage is None else usage.completion_tokens
        if status == "completed" and self._was_cut(told, written):
            status, reason = "incomplete", "max_output_tokens"
        return Response(
            id=told.id,
            status=status,
            model=told.model or "",
            service=self._service,
            generation=self._generation,
            output=tuple(map(item_of, told.output or ())),
            usage=usage,
            error=None if told.error is None else error_message(told.error),
            incomplete_reason=reason,
            instructions=told.instructions if isinstance(told.instructions, str) else None,
            previous_response_id=told.previous_response_id,
            stored=bool(told.store),
            metadata={name: str(value) for name, value in (told.metadata or {}).items()},
            created_at=int(told.created_at or 0),
            raw=bytes(data),
        )

    def page(self, data: bytes) -> ResponsePage:
        """Some responses.

        Raises:
            ProtocolError: It is no list of them.
        """
        try:
            page = _PAGE.decode(data)
        except BAD_JSON as error:
            raise ProtocolError(f"this is no list: {error}", service=self._service) from error
        responses = tuple(self.response(bytes(each)) for each in page.data)
        return ResponsePage(responses=responses, has_more=page.has_more)

    def items(self, data: bytes) -> tuple[ResponseItem, ...]:
        """Some items.

        Raises:
            ProtocolError: It is no list of them.
        """
        try:
            return tuple(map(item_of, _ITEMS.decode(data).data))
        except BAD_JSON as error:
            raise ProtocolError(f"this is no list: {error}", service=self._service) from error

    def _miscounts(self, told: _Response) -> bool:
        """2.0.1 counts the earlier turns of a chained response as part of its answer."""
        return self._generation == "sdk-2.0" and told.previous_response_id is not None

    def _was_cut(self, told: _Response, written: int | None) -> bool:
        if self._cuts_at is None or written is None:
            return False
        return written >= (told.max_output_tokens or self._cuts_at)


class ResponseStream:
    """Decodes the events of one streamed response.

    Args:
        reader: Reads what the events say of the response.
        begun: Told the response's id, once that is known.

    Attributes:
        done: Whether the stream said that it is complete.
        pieces: Events that came, without those that are held back.
        response: The whole response, once it came.
    """

    def __init__(
        self, reader: ResponseReader, begun: Callable[[str], None] = lambda _: None
    ) -> None:
        self.done = False
        self.pieces = 0
        self.response: Response | None = None
        self._reader = reader
        self._begun = begun
        self._id = ""
        self._pieces = 0
        self._held: list[ResponseEvent] = []
        self._events = EventDecoder(MAX_RESPONSE_BYTES)
        self._thinking: ThinkSplitter | None = ThinkSplitter()

    def feed(self, block: bytes) -> Iterator[ResponseEvent]:
        """The events that this block completes, those ahead of a failure too.

        Those that only say that it began are held back until there is more: one that fails at once
        can then be tried again.

        Raises:
            FoundryError: The response failed, classified by its message.
            ProtocolError: The stream is not what the generation sends.
        """
        for event in self._events.feed(block):
            if event.data == _DONE or is_end_mark(event.data):
                self.done = True
                break
            if not event.data.strip():
                continue  # a sign of life
            told = self._event(event)
            if told.type in _PRELUDE:
                self._held.append(told)
                continue
            ended = self._end_text() if told.type in _ENDS_TEXT else ()
            for piece in (*self._held, *ended, told):
                self.pieces += 1
                yield piece
            self._held.clear()

    def finish(self) -> Response:
        """The whole response, once the body ended.

        Raises:
            StreamInterrupted: The stream ended before the response did.
        """
        if self.response is None:
            raise StreamInterrupted("the stream ended before the response did")
        return self.response

    def _end_text(self) -> Iterator[ResponseEvent]:
        """What was held back of a message, at its end; the next one may begin with reasoning."""
        thinking, self._thinking = self._thinking, ThinkSplitter()
        reasoning, text = ("", "") if thinking is None else thinking.flush()
        if reasoning or text:
            yield ResponseEvent(type=_TEXT, text=text, reasoning=reasoning)

    def _told_apart(self, text: str) -> tuple[str, str]:
        """The reasoning and the text of a delta, of a service that does not tell them apart."""
        if self._thinking is None:
            return "", text
        split = self._thinking.feed(text)
        if self._thinking.decided:
            self._thinking = None
        return split

    def _event(self, event: Event) -> ResponseEvent:
        data, is_error = event.data, event.name == b"error"
        try:
            told = _EVENT.decode(data)
        except BAD_JSON as error:
            failure = stream_error(data, is_error=is_error)
            raise failure or ProtocolError(f"an event is not a response's: {error}") from error
        self._pieces += told.type == _TEXT
        about = bytes(told.response)
        response = None if about in _NOTHING else self._reader.response(about, self._pieces)
        if response is not None and not self._id:
            self._id = response.id
            self._begun(response.id)
        if told.type == _FAILED:
            raise classify(500, _why(told, response))
        if told.error is not None or is_error or told.type in _NO_KIND:
            failure = stream_error(data, is_error=is_error)
            if failure is not None:
                raise failure
        kind = told.type
        if response is not None and kind in _TERMINAL:
            kind = f"response.{response.status}"  # it may have been cut
            self.response = response
        delta = told.delta if isinstance(told.delta, str) else ""
        reasoning = delta if kind in _REASONING else ""
        text = ""
        if kind == _TEXT:
            reasoning, text = self._told_apart(delta)
        return ResponseEvent(
            type=kind,
            text=text,
            reasoning=reasoning,
            refusal=delta if kind == _REFUSAL else "",
            item=item_of(told.item) if told.item else None,
            response=response,
            raw=data,
        )


def item_of(item: dict[str, Any]) -> ResponseItem:
    """One item, as callers see it: a message's reasoning apart from its text."""
    reasoning, text = "", _text_of(item)
    if _text(item, "role") == "assistant" and text:
        reasoning, text = attributed("", text)
    return ResponseItem(
        type=_text(item, "type") or "message",
        id=_text(item, "id"),
        status=_text(item, "status") or None,
        role=_text(item, "role") or None,
        text=text,
        reasoning=reasoning,
        refusal=_text_of(item, "refusal"),
        call_id=_text(item, "call_id") or None,
        name=_text(item, "name") or None,
        arguments=_text(item, "arguments"),
        raw=item,
    )


def _why(told: _Event, response: Response | None) -> str:
    if response is not None and response.error:
        return response.error
    return error_message(told.error)


def _text(item: Any, name: str) -> str:
    value = cast("dict[str, Any]", item).get(name) if isinstance(item, dict) else None
    return value if isinstance(value, str) else ""


def _text_of(item: dict[str, Any], member: str = "text") -> str:
    """The text of an item's parts: a message's content, a reasoning's summary, an output."""
    for name in ("content", "summary", "output"):
        value: Any = item.get(name)
        if isinstance(value, str):
            return value if member == "text" else ""
        if isinstance(value, list) and value:
            parts: list[Any] = value  # pyright: ignore[reportUnknownVariableType] # JSON
            return "".join(_text(part, member) for part in parts)
    return ""


def _usage(told: object) -> Usage | None:
    if not isinstance(told, dict):
        return None
    members = cast("dict[str, Any]", told)
    renamed = {_USAGE.get(name, name): value for name, value in members.items()}
    usage = usage_of(renamed)
    return usage if usage is not None and usage.total_tokens else None


_USAGE = {"input_tokens": "prompt_tokens", "output_tokens": "completion_tokens"}
