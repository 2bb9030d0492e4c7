"""Decodes responses of the Responses API and corrects them, as probed on 1.2.4, 2.0.1 and 2.2.1."""

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
from foundry_api.types.values import is_object
from foundry_api.wire.chat.events import parse_usage
from foundry_api.wire.chat.reasoning import ReasoningSplitter, split_reasoning
from foundry_api.wire.error_codes import get_error_class
from foundry_api.wire.errors import (
    NOT_JSON,
    classify,
    classify_error_object,
    extract_error_message,
    parse_stream_error,
)
from foundry_api.wire.sse import EventDecoder, is_end_mark

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from foundry_api.types.errors import FoundryError
    from foundry_api.types.messages import ServiceGeneration, Usage
    from foundry_api.wire.sse import Event

__all__ = ["RESPONSES_ROUTE", "ResponseReader", "ResponseStream"]

RESPONSES_ROUTE = "/v1/responses"
MAX_RESPONSE_BYTES = 64 * 2**20  # limit for one event: the last one has the complete response

_DONE = b"[DONE]"
_NO_RESPONSE = frozenset({b"", b"null"})
_TEXT_DELTA = "response.output_text.delta"
_REFUSAL_DELTA = "response.refusal.delta"
_REASONING_DELTAS = frozenset(
    {
        "response.reasoning.delta",  # the name of SDK 2.x
        "response.reasoning_text.delta",
        "response.reasoning_summary_text.delta",
    }
)
_START_EVENTS = frozenset({"response.queued", "response.created", "response.in_progress"})
_TERMINAL_EVENTS = frozenset({"response.completed", "response.incomplete"})
_FAILED_EVENT = "response.failed"
_ERROR_EVENT_TYPES = frozenset({"", "error"})
_TEXT_END_EVENTS = frozenset(
    {
        *("response.output_text.done", "response.content_part.done", "response.output_item.done"),
        *_TERMINAL_EVENTS,
    }
)
# The Responses API's names for the members of chat usage.
_USAGE_NAMES = {"input_tokens": "prompt_tokens", "output_tokens": "completion_tokens"}


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


class _FailedResponse(msgspec.Struct):
    error: Any = None


_RESPONSE = msgspec.json.Decoder(_Response)
_FAILED_RESPONSE = msgspec.json.Decoder(_FailedResponse)
_EVENT = msgspec.json.Decoder(_Event)
_PAGE = msgspec.json.Decoder(_Page)
_ITEMS = msgspec.json.Decoder(_Items)


class ResponseReader:
    """Decodes the responses of one service."""

    # `truncates_at` is the default limit of a generation that reports `completed` for a truncated
    # response (1.2.4 and 2.0.1); None for one that reports `incomplete`.

    def __init__(
        self,
        service: str,
        service_generation: ServiceGeneration,
        *,
        truncates_at: int | None = None,
    ) -> None:
        self._service = service
        self._service_generation: ServiceGeneration = service_generation
        self._truncates_at = truncates_at

    def parse_response(self, data: bytes, delta_count: int | None = None) -> Response:
        """Decode one response; `delta_count` is the number of deltas if it was streamed."""
        try:
            members = _RESPONSE.decode(data)
        except NOT_JSON as error:
            raise ProtocolError(
                f"the service sent no valid response: {error}", service=self._service
            ) from error
        reason = members.incomplete_details.reason if members.incomplete_details else None
        status = members.status
        usage = None
        # 2.0.1 counts the earlier turns of a chained response as part of its answer.
        if self._service_generation != "sdk-2.0" or members.previous_response_id is None:
            usage = _parse_usage(members.usage)
        output_tokens = delta_count if usage is None else usage.completion_tokens
        if (
            status == "completed"
            and self._truncates_at is not None
            and output_tokens is not None
            and output_tokens >= (members.max_output_tokens or self._truncates_at)
        ):
            status, reason = "incomplete", "max_output_tokens"
        return Response(
            id=members.id,
            status=status,
            model=members.model or "",
            service=self._service,
            service_generation=self._service_generation,
            output=tuple(map(parse_item, members.output or ())),
            usage=usage,
            error=None if members.error is None else extract_error_message(members.error),
            incomplete_reason=reason,
            instructions=members.instructions if isinstance(members.instructions, str) else None,
            previous_response_id=members.previous_response_id,
            stored=bool(members.store),
            metadata={name: str(value) for name, value in (members.metadata or {}).items()},
            created_at=int(members.created_at or 0),
            raw=bytes(data),
        )

    def parse_page(self, data: bytes) -> ResponsePage:
        try:
            page = _PAGE.decode(data)
        except NOT_JSON as error:
            raise ProtocolError(
                f"the service sent no valid list: {error}", service=self._service
            ) from error
        responses = tuple(self.parse_response(bytes(item)) for item in page.data)
        return ResponsePage(responses=responses, has_more=page.has_more)

    def parse_items(self, data: bytes) -> tuple[ResponseItem, ...]:
        try:
            return tuple(map(parse_item, _ITEMS.decode(data).data))
        except NOT_JSON as error:
            raise ProtocolError(
                f"the service sent no valid list: {error}", service=self._service
            ) from error


class ResponseStream:
    """Decodes the events of one streamed response.

    `on_created` is called with the response's id as soon as it is known.
    """

    def __init__(
        self, reader: ResponseReader, on_created: Callable[[str], None] = lambda _: None
    ) -> None:
        self.done = False
        self.chunk_count = 0
        self.response: Response | None = None
        self._reader = reader
        self._on_created = on_created
        self._id = ""
        self._delta_count = 0
        self._pending_events: list[ResponseEvent] = []
        self._events = EventDecoder(MAX_RESPONSE_BYTES)
        self._reasoning_splitter: ReasoningSplitter | None = ReasoningSplitter()

    def feed(self, block: bytes) -> Iterator[ResponseEvent]:
        """Yield the events that this block completes; raise the response's error, if any."""
        for event in self._events.feed(block):
            if event.data == _DONE or is_end_mark(event.data):
                self.done = True
                break
            if not event.data.strip():
                continue  # sent as keep-alive
            response_event = self._decode_event(event)
            if response_event.type in _START_EVENTS:
                # Held back until there is more: a response that fails now can be retried.
                self._pending_events.append(response_event)
                continue
            if response_event.type in _TEXT_END_EVENTS:
                # The splitter may hold text back. The next message may begin with reasoning again.
                splitter, self._reasoning_splitter = self._reasoning_splitter, ReasoningSplitter()
                split = None if splitter is None else splitter.flush()
                if split is not None and any(split):
                    self._pending_events.append(
                        ResponseEvent(
                            type=_TEXT_DELTA, text=split.content, reasoning=split.reasoning
                        )
                    )
            for piece in (*self._pending_events, response_event):
                self.chunk_count += 1
                yield piece
            self._pending_events.clear()

    def finish(self) -> Response:
        """Return the complete response; raise StreamInterrupted if it did not arrive."""
        if self.response is None:
            raise StreamInterrupted("the stream ended before the response did")
        return self.response

    def _split(self, text: str) -> tuple[str, str]:
        """Return the reasoning and the content of a text delta."""
        if self._reasoning_splitter is None:
            return "", text
        split = self._reasoning_splitter.feed(text)
        if self._reasoning_splitter.is_decided:
            self._reasoning_splitter = None
        return split

    def _decode_event(self, event: Event) -> ResponseEvent:
        data, is_error = event.data, event.name == b"error"
        try:
            members = _EVENT.decode(data)
        except NOT_JSON as error:
            failure = parse_stream_error(data, is_error=is_error)
            raise failure or ProtocolError(f"an event is not one of a response: {error}") from error
        self._delta_count += members.type == _TEXT_DELTA
        response_data = bytes(members.response)
        response = (
            None
            if response_data in _NO_RESPONSE
            else self._reader.parse_response(response_data, self._delta_count)
        )
        if response is not None and not self._id:
            self._id = response.id
            self._on_created(response.id)
        if members.type == _FAILED_EVENT:
            raise _make_failure(response, members.error)
        if members.error is not None or is_error or members.type in _ERROR_EVENT_TYPES:
            failure = parse_stream_error(data, is_error=is_error)
            if failure is not None:
                raise failure
        kind = members.type
        if response is not None and kind in _TERMINAL_EVENTS:
            kind = f"response.{response.status}"  # corrected if the response was truncated
            self.response = response
        delta = members.delta if isinstance(members.delta, str) else ""
        reasoning = delta if kind in _REASONING_DELTAS else ""
        text = ""
        if kind == _TEXT_DELTA:
            reasoning, text = self._split(delta)
        return ResponseEvent(
            type=kind,
            text=text,
            reasoning=reasoning,
            refusal=delta if kind == _REFUSAL_DELTA else "",
            item=parse_item(members.item) if members.item else None,
            response=response,
            raw=data,
        )


def _make_failure(response: Response | None, error: Any) -> FoundryError:
    """Return the error of a failed response."""
    inner = None if response is None else _FAILED_RESPONSE.decode(response.raw).error
    for value in (inner, error):
        # A gateway names the cause in a code.
        if is_object(value) and get_error_class(value) is not None:
            return classify_error_object(500, value)
    message = response.error if response is not None else None
    return classify(500, message or extract_error_message(error))


def parse_item(item: dict[str, Any]) -> ResponseItem:
    """Decode one item, with a message's reasoning separated from its text."""
    reasoning, text = "", _join_text(item)
    if _get_text(item, "role") == "assistant" and text:
        reasoning, text = split_reasoning("", text)
    return ResponseItem(
        type=_get_text(item, "type") or "message",
        id=_get_text(item, "id"),
        status=_get_text(item, "status") or None,
        role=_get_text(item, "role") or None,
        text=text,
        reasoning=reasoning,
        refusal=_join_text(item, "refusal"),
        call_id=_get_text(item, "call_id") or None,
        name=_get_text(item, "name") or None,
        arguments=_get_text(item, "arguments"),
        raw=item,
    )


def _get_text(item: Any, name: str) -> str:
    value = cast("dict[str, Any]", item).get(name) if isinstance(item, dict) else None
    return value if isinstance(value, str) else ""


def _join_text(item: dict[str, Any], member: str = "text") -> str:
    """Join the text of an item's parts: a message's content, a summary, or an output."""
    for name in ("content", "summary", "output"):
        value: Any = item.get(name)
        if isinstance(value, str):
            return value if member == "text" else ""
        if isinstance(value, list) and value:
            parts: list[Any] = value  # pyright: ignore[reportUnknownVariableType] # JSON
            return "".join(_get_text(part, member) for part in parts)
    return ""


def _parse_usage(data: object) -> Usage | None:
    if not isinstance(data, dict):
        return None
    members = cast("dict[str, Any]", data)
    renamed = {_USAGE_NAMES.get(name, name): value for name, value in members.items()}
    usage = parse_usage(renamed)
    return usage if usage is not None and usage.total_tokens else None
