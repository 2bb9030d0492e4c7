"""Tolerant decoding of the events of a streamed chat completion."""

from __future__ import annotations

import math
import secrets
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Protocol

import msgspec
from msgspec import Meta

from foundry_api.types.errors import ProtocolError, StreamInterrupted
from foundry_api.types.messages import FinishReason, FunctionCall, ToolCall, Usage
from foundry_api.types.values import is_list, is_object
from foundry_api.wire.errors import NOT_JSON, decode_lenient_json, parse_stream_error
from foundry_api.wire.sse import Event, is_end_mark

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from foundry_api.types.messages import Chunk

__all__ = [
    "EMPTY_DELTA",
    "EVENT_DECODER",
    "ChatDecoder",
    "ChatDelta",
    "ChatEvent",
    "FunctionDelta",
    "PlainEvent",
    "StreamEnd",
    "ToolCallAssembler",
    "ToolCallDelta",
    "check_choice",
    "decode_event",
    "decode_plain_event",
    "make_call_id",
    "parse_finish_reason",
    "parse_usage",
]

# How often the arguments of one call are parsed to see whether they are complete. They are parsed
# from their beginning, and every piece may look like the beginning of another call.
MAX_CHECKS: Final = 32

# Finish reasons of other servers for a piece that is not the last one, and sometimes for the last.
_EMPTY_REASONS: Final = frozenset({"", "null", "none"})

_REASONS: Final[dict[str, FinishReason]] = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
    "max_tokens": "length",
    "max_output_tokens": "length",
    "max_completion_tokens": "length",
    "max_new_tokens": "length",
    "token_limit": "length",
    "max_length": "length",
    "model_length": "length",
    "context_length": "length",
    "context_length_exceeded": "length",
    "model_context_window_exceeded": "length",
    "function_call": "tool_calls",
    "function_calls": "tool_calls",
    "tool_call": "tool_calls",
    "tool_use": "tool_calls",
    "safety": "content_filter",
    "refusal": "content_filter",
}
_ABORTED_REASONS: Final = frozenset(
    {
        *("error", "failed", "timeout", "engine_error", "network_error", "server_error"),
        *("abort", "aborted", "cancelled", "canceled", "insufficient_system_resource"),
    }
)


class StreamEnd(msgspec.Struct, frozen=True):
    """How a streamed answer ended."""

    finish_reason: FinishReason
    usage: Usage  # zeros if the service did not count
    raw: bytes = b""  # the data of the events without text, one per line
    stopped_early: bool = False  # ended by this client; the service is still generating


class ChatDecoder(Protocol):
    """Decodes the body of one streamed chat completion."""

    @property
    def chunk_count(self) -> int:
        """How many pieces of the answer have arrived, including those not yet returned."""
        ...

    @property
    def done(self) -> bool:
        """Whether the stream has reported its end."""
        ...

    def feed(self, block: bytes) -> Iterator[Chunk]:
        """Yield the chunks that this block completes, then raise the stream's error, if any."""
        ...

    def finish(self) -> StreamEnd:
        """Return finish reason and usage; raise StreamInterrupted if the answer is incomplete."""
        ...


class FunctionDelta(msgspec.Struct):
    """A piece of a call's function."""

    name: str | None = None
    arguments: Any = None  # text, or a JSON object


class ToolCallDelta(msgspec.Struct):
    """A piece of a tool call."""

    index: int | None = None
    id: str | None = None
    function: FunctionDelta | None = None


class ChatDelta(msgspec.Struct, gc=False):
    """What an event adds to the answer."""

    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCallDelta] | None = None
    reasoning: str | None = None  # vLLM's name for reasoning_content
    refusal: str | None = None
    function_call: FunctionDelta | None = None


EMPTY_DELTA: Final = ChatDelta()


class ChatChoice(msgspec.Struct, gc=False):
    """A piece of one answer, or a complete answer in `message` or `text`."""

    delta: ChatDelta | None = None
    finish_reason: str | None = None
    index: int | None = 0
    message: ChatDelta | None = None
    text: str | None = None
    error: Any = None

    @property
    def full_delta(self) -> ChatDelta:
        """The complete answer in a choice without a delta."""
        return self.message or (ChatDelta(self.text) if self.text else EMPTY_DELTA)


class ChatEvent(msgspec.Struct, gc=False):
    """One event of a stream."""

    choices: list[ChatChoice] | None = None
    usage: Usage | None = None
    error: Any = None  # in any shape: `parse_stream_error` decodes it
    is_end: bool = False  # the end mark, in any notation


# Decodes most events. `decode_event` also decodes those that differ.
EVENT_DECODER: Final = msgspec.json.Decoder(ChatEvent)


class PlainDelta(msgspec.Struct, gc=False):
    """A delta that has nothing but text."""

    content: str | None = None
    reasoning_content: Literal[""] | None = None
    tool_calls: Annotated[list[Any], Meta(max_length=0)] | None = None
    reasoning: Literal[""] | None = None
    refusal: Literal[""] | None = None
    function_call: None = None


class PlainChoice(msgspec.Struct, gc=False):
    """The choice of a `PlainEvent`."""

    delta: PlainDelta
    finish_reason: Literal["stop"] | None = None
    index: Literal[0] | None = 0
    error: None = None


class PlainEvent(msgspec.Struct, gc=False):
    """An event that has nothing but text, the reason `stop`, or the usage: nearly all have no more.

    Its type says so, so that nothing is left to check: JSON with more is invalid for it.
    """

    choices: Annotated[list[PlainChoice], Meta(max_length=1)] | None = None
    usage: Usage | None = None
    error: None = None


decode_plain_event: Final = msgspec.json.Decoder(PlainEvent).decode


def decode_event(event: Event) -> ChatEvent:
    """Decode an event, or raise the error that it carries."""
    data = event.data
    is_error = event.name == b"error"
    try:
        chat_event = EVENT_DECODER.decode(data)
    except NOT_JSON as error:
        if is_end_mark(data):
            return ChatEvent(is_end=True)
        if not data.strip():
            return ChatEvent()  # sent as keep-alive
        failure = parse_stream_error(data, is_error=is_error)
        if failure is not None:
            raise failure from error
        return _decode_leniently(data, error)
    if chat_event.choices and chat_event.error is None:
        return chat_event
    if chat_event.error is not None or chat_event.usage is None:
        failure = parse_stream_error(data, is_error=is_error)
        if failure is not None:
            raise failure
    return chat_event


def check_choice(choice: ChatChoice) -> None:
    """Raise the error in a choice, where OpenRouter puts it."""
    if choice.error:
        failure = parse_stream_error(msgspec.json.encode({"error": choice.error}))
        if failure is not None:
            raise failure


def parse_finish_reason(reason: str) -> FinishReason | None:
    """Return the standard finish reason for this one, or None if it says nothing."""
    known = _REASONS.get(reason)
    if known is not None:
        return known
    normalized = reason.strip().lower().replace("-", "_")
    if normalized in _EMPTY_REASONS:
        return None
    if normalized in _ABORTED_REASONS:
        raise StreamInterrupted(f"the service aborted the answer: finish reason {reason[:40]!r}")
    # An unknown reason, such as `eos` or `stop_sequence`, is an ordinary end.
    return _REASONS.get(normalized, "stop")


def parse_usage(members: object) -> Usage | None:
    """Decode usage whose counts may be null, fractions or missing, as gateways send them."""
    if not is_object(members):
        return None
    return Usage(*(_read_count(members.get(name)) for name in Usage.__struct_fields__))


def make_call_id() -> str:
    """Make an id for a tool call without one. Engines refuse an id that is used twice."""
    return f"call_{secrets.token_hex(8)}"


class _PartialCall(msgspec.Struct):
    id: str
    name: str = ""
    arguments: list[str] = []
    checks: int = 0


class ToolCallAssembler:
    """Joins the pieces of the tool calls of one answer."""

    # `names` are the offered tools, which show where a name ends that arrives in pieces.

    def __init__(
        self, names: Collection[str] = (), *, new_id: Callable[[], str] = make_call_id
    ) -> None:
        self._names = frozenset(names)
        self._new_id = new_id
        self._calls: list[_PartialCall] = []
        self._by_id: dict[str, _PartialCall] = {}
        self._by_index: dict[int, _PartialCall] = {}

    def __len__(self) -> int:
        """How many calls have begun and were not drained."""
        return len(self._calls)

    def add(self, delta: ToolCallDelta) -> None:
        function = delta.function or FunctionDelta()
        name = function.name or ""
        arguments = function.arguments
        if arguments is None:
            arguments = ""
        elif not isinstance(arguments, str):
            arguments = msgspec.json.encode(arguments).decode()
        # An id is more reliable than an index: SDK 2.0 restarts the index at 0 in every chunk.
        if delta.id:
            call = self._by_id.get(delta.id)
        elif delta.index is not None:
            call = self._by_index.get(delta.index)
        else:
            call = self._calls[-1] if self._calls else None
        if call is not None:
            joined_name = self._join_name(call, name, arguments)
            call = None if joined_name is None else call
            name = joined_name or name
        if call is None:
            is_taken = delta.id in self._by_id
            call = _PartialCall(delta.id if delta.id and not is_taken else self._new_id())
            self._calls.append(call)
            self._by_id[delta.id or call.id] = call
        call.name = name
        if arguments:
            call.arguments.append(arguments)
        if delta.index is not None:
            self._by_index[delta.index] = call

    def drain(self) -> tuple[ToolCall, ...]:
        """Return the calls in the order in which they began."""
        calls, self._calls = self._calls, []
        self._by_id.clear()
        self._by_index.clear()
        return tuple(
            ToolCall(call.id, FunctionCall(call.name, "".join(call.arguments))) for call in calls
        )

    def _join_name(self, call: _PartialCall, name: str, arguments: str) -> str | None:
        """Return the call's name with one more piece; None if the piece is of another call."""
        if not name or not call.name:
            return call.name or name
        if name == call.name:
            # Some servers repeat the name in every piece, others call the same tool again.
            is_another = arguments.lstrip().startswith("{") and _is_complete(call)
            return None if is_another else name
        if call.arguments or call.name in self._names:
            return None
        for longer in (call.name + name, name):
            if any(known.startswith(longer) for known in self._names):
                return longer if longer != name or name.startswith(call.name) else None
        return None


def _is_complete(call: _PartialCall) -> bool:
    call.checks += 1
    if call.checks > MAX_CHECKS:
        return False
    try:
        msgspec.json.decode("".join(call.arguments))
    except NOT_JSON:
        return False
    return True


def _decode_leniently(data: bytes, error: Exception) -> ChatEvent:
    """Decode an event member by member, because the type of one is not as expected."""
    # Gateways and other servers send null or missing deltas, NaN, lone surrogates and invalid
    # UTF-8. None of these is a reason to lose the text that has already arrived.
    try:
        members = decode_lenient_json(data)
    except ValueError as not_json:
        raise _make_event_error(not_json) from not_json
    if not members:
        return ChatEvent()  # null, sent as keep-alive
    if not is_object(members):
        raise _make_event_error(error)
    choices = members.get("choices") or ()
    if is_object(choices):
        choices = [choices]
    if choices and not is_list(choices):
        raise _make_event_error(error)
    return ChatEvent(
        [_read_choice(item, error) for item in choices if is_object(item)],
        parse_usage(members.get("usage")),
    )


def _make_event_error(reason: object) -> ProtocolError:
    return ProtocolError(f"an event is not a chat completion chunk: {reason}")


def _read_choice(members: dict[str, Any], error: Exception) -> ChatChoice:
    reason = members.get("finish_reason")
    if reason is not None and not isinstance(reason, str):
        reason = "stop" if reason else None
    return ChatChoice(
        _read_delta(members.get("delta"), error),
        reason,
        _read_count(members.get("index")),
        message=_read_delta(members.get("message"), error),
        text=_read_text(members.get("text"), error),
        error=members.get("error"),
    )


def _read_delta(members: object, error: Exception) -> ChatDelta | None:
    if not members:
        return None
    if isinstance(members, str):
        return ChatDelta(_read_text(members, error))
    if not is_object(members):
        raise _make_event_error(error)
    calls = members.get("tool_calls")
    if is_object(calls):
        calls = [calls]
    function, content = members.get("function_call"), members.get("content")
    return ChatDelta(
        content=_read_text(content, error),
        reasoning_content=_read_text(members.get("reasoning_content"), error),
        tool_calls=[_read_tool_call(call, error) for call in calls if is_object(call)]
        if is_list(calls)
        else None,
        reasoning=_read_text(members.get("reasoning"), error) or _read_thinking(content, error),
        refusal=_read_text(members.get("refusal"), error),
        function_call=_read_function(function, error) if is_object(function) else None,
    )


def _read_tool_call(members: dict[str, Any], error: Exception) -> ToolCallDelta:
    index, call_id, function = (members.get(name) for name in ("index", "id", "function"))
    return ToolCallDelta(
        index=None if index is None else _read_count(index),
        id=None if call_id is None else str(call_id),
        function=_read_function(function, error) if is_object(function) else None,
    )


def _read_function(members: dict[str, Any], error: Exception) -> FunctionDelta:
    arguments = members.get("arguments")
    if isinstance(arguments, str):
        arguments = _read_text(arguments, error)
    return FunctionDelta(_read_text(members.get("name"), error), arguments)


def _read_text(value: object, error: Exception) -> str | None:
    """Decode a text, which Mistral sends in parts."""
    if value is None:
        return None
    if isinstance(value, str):
        # A lone surrogate cannot be encoded as UTF-8, so it becomes U+FFFD.
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if is_list(value):
        return "".join(_read_text(part, error) or "" for part in value)
    if is_object(value):
        return _read_text(value.get("text"), error)
    raise _make_event_error(error)


def _read_thinking(content: object, error: Exception) -> str | None:
    """Join the reasoning in the parts of a text."""
    if not is_list(content):
        return None
    return "".join(
        _read_text(part.get("thinking"), error) or "" for part in content if is_object(part)
    )


def _read_count(value: object) -> int:
    if isinstance(value, str):
        return int(value) if value.isascii() and value.isdecimal() and len(value) < 10 else 0  # noqa: PLR2004
    if isinstance(value, float) and not math.isfinite(value):
        return 0
    return max(int(value), 0) if isinstance(value, int | float) else 0
