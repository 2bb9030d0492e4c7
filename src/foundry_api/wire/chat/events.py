"""The events of a streamed chat completion, read liberally.

Foundry Local's own events are decoded by type. What a gateway, or another server behind the same
address, writes differently is read member by member: a null or missing `delta` is no reason to
throw the text away that is there already, nor are NaN, half a surrogate pair and bytes that are
not UTF-8. A whole completion in the place of an event is read as the answer that it is.
"""

from __future__ import annotations

import math
import secrets
from typing import TYPE_CHECKING, Any, Final, Protocol

import msgspec

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
    "StreamEnd",
    "ToolCallAssembler",
    "ToolCallDelta",
    "check_choice",
    "decode_event",
    "make_call_id",
    "parse_finish_reason",
    "parse_usage",
]


class StreamEnd(msgspec.Struct, frozen=True):
    """How a streamed answer ended.

    Attributes:
        finish_reason: Why.
        usage: Tokens, as the service counted them; zeros if it did not.
        raw: The data of the events without text, a line each.
        stopped_early: Whether the answer was ended here, while the service would have gone on.
    """

    finish_reason: FinishReason
    usage: Usage
    raw: bytes = b""
    stopped_early: bool = False


class ChatDecoder(Protocol):
    """Turns the body of one streamed chat completion into chunks."""

    @property
    def chunk_count(self) -> int:
        """Pieces of the answer that came, those that are held back included."""
        ...

    @property
    def done(self) -> bool:
        """Whether the stream said that it is complete."""
        ...

    def feed(self, block: bytes) -> Iterator[Chunk]:
        """The pieces of text that this block completes, those ahead of an error too.

        Raises:
            FoundryError: The stream carries an error, classified by its message.
            ProtocolError: The stream is not what the generation sends.
        """
        ...

    def finish(self) -> StreamEnd:
        """Finish reason and usage, once the body ended.

        Raises:
            StreamInterrupted: The stream ended before the answer did.
        """
        ...


MAX_CHECKS: Final = 32
"""How often the arguments of one call are read from their beginning, to see whether they are whole.
Every piece may look like the beginning of another call."""


class FunctionDelta(msgspec.Struct):
    """What a piece adds to the function of a call: arguments are text, or a JSON object."""

    name: str | None = None
    arguments: Any = None


class ToolCallDelta(msgspec.Struct):
    """A piece of a call."""

    index: int | None = None
    id: str | None = None
    function: FunctionDelta | None = None


class _PartialCall(msgspec.Struct):
    id: str
    name: str = ""
    arguments: list[str] = []
    checks: int = 0


def make_call_id() -> str:
    """A name for a call that has none; unique, since engines refuse one that is used twice."""
    return f"call_{secrets.token_hex(8)}"


class ToolCallAssembler:
    """Collects the pieces of the calls of one answer.

    Args:
        names: The tools that were offered, where they are known: a name may come in pieces too.
        new_id: Names a call.
    """

    def __init__(
        self, names: Collection[str] = (), *, new_id: Callable[[], str] = make_call_id
    ) -> None:
        self._names = frozenset(names)
        self._new_id = new_id
        self._calls: list[_PartialCall] = []
        self._by_id: dict[str, _PartialCall] = {}
        self._by_index: dict[int, _PartialCall] = {}

    def __len__(self) -> int:
        """How many calls have begun, and were not taken."""
        return len(self._calls)

    def add(self, delta: ToolCallDelta) -> None:
        """One more piece."""
        function = delta.function or FunctionDelta()
        name = function.name or ""
        arguments = _encode_arguments(function.arguments)
        call = self._find_call(delta)
        if call is not None:
            joined_name = self._join_name(call, name, arguments)
            call = None if joined_name is None else call
            name = joined_name or name
        if call is None:
            call = self._start_call(delta)
        call.name = name
        if arguments:
            call.arguments.append(arguments)
        if delta.index is not None:
            self._by_index[delta.index] = call

    def drain(self) -> tuple[ToolCall, ...]:
        """The calls, in the order in which they began; they are complete at the answer's end."""
        calls, self._calls = self._calls, []
        self._by_id.clear()
        self._by_index.clear()
        return tuple(
            ToolCall(call.id, FunctionCall(call.name, "".join(call.arguments))) for call in calls
        )

    def _find_call(self, delta: ToolCallDelta) -> _PartialCall | None:
        """The call that a piece says it belongs to."""
        if delta.id:
            return self._by_id.get(delta.id)
        if delta.index is not None:
            return self._by_index.get(delta.index)
        return self._calls[-1] if self._calls else None

    def _join_name(self, call: _PartialCall, name: str, arguments: str) -> str | None:
        """The name of a call with one more piece; None if the piece belongs to another call."""
        if not name or not call.name:
            return call.name or name
        if name == call.name:
            begins_anew = arguments.lstrip().startswith("{") and _is_complete(call)
            return None if begins_anew else name
        if call.arguments or call.name in self._names:
            return None
        for longer in (call.name + name, name):
            if any(known.startswith(longer) for known in self._names):
                return longer if longer != name or name.startswith(call.name) else None
        return None

    def _start_call(self, delta: ToolCallDelta) -> _PartialCall:
        is_taken = delta.id in self._by_id
        call = _PartialCall(delta.id if delta.id and not is_taken else self._new_id())
        self._calls.append(call)
        self._by_id[delta.id or call.id] = call
        return call


def _encode_arguments(arguments: object) -> str:
    if arguments is None:
        return ""
    return arguments if isinstance(arguments, str) else msgspec.json.encode(arguments).decode()


def _is_complete(call: _PartialCall) -> bool:
    """Whether the arguments are a whole JSON value."""
    call.checks += 1
    if call.checks > MAX_CHECKS:
        return False
    try:
        msgspec.json.decode("".join(call.arguments))
    except NOT_JSON:
        return False
    return True


class ChatDelta(msgspec.Struct, gc=False):
    """What an event adds to the answer. `reasoning` is vLLM's name for the reasoning."""

    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCallDelta] | None = None
    reasoning: str | None = None
    refusal: str | None = None
    function_call: FunctionDelta | None = None


EMPTY_DELTA: Final = ChatDelta()


class ChatChoice(msgspec.Struct, gc=False):
    """A piece of one of the answers, or the whole of it: a `message`, or its `text`."""

    delta: ChatDelta | None = None
    finish_reason: str | None = None
    index: int | None = 0
    message: ChatDelta | None = None
    text: str | None = None
    error: Any = None

    @property
    def full_delta(self) -> ChatDelta:
        """What it adds where it has no `delta`."""
        return self.message or (ChatDelta(self.text) if self.text else EMPTY_DELTA)


class ChatEvent(msgspec.Struct, gc=False):
    """One event. `is_end` says that it is the stream's end mark, however it is written."""

    choices: list[ChatChoice] | None = None
    usage: Usage | None = None
    error: Any = None  # in any shape: `parse_stream_error` reads it
    is_end: bool = False


EVENT_DECODER: Final = msgspec.json.Decoder(ChatEvent)
"""For events as nearly all of them are. `decode_event` is for any."""


def decode_event(event: Event) -> ChatEvent:
    """What an event says.

    Raises:
        FoundryError: It carries an error, classified by its message.
        ProtocolError: It is no event of a chat completion.
    """
    data = event.data
    try:
        chat_event = EVENT_DECODER.decode(data)
    except NOT_JSON as error:
        return _decode_unusual_event(event, error)
    if chat_event.choices and chat_event.error is None:
        return chat_event
    if chat_event.error is not None or chat_event.usage is None:
        failure = parse_stream_error(data, is_error=event.name == b"error")
        if failure is not None:
            raise failure
    return chat_event


def check_choice(choice: ChatChoice) -> None:
    """Look whether a choice carries an error, as OpenRouter's do.

    Raises:
        FoundryError: It does.
    """
    if choice.error:
        failure = parse_stream_error(msgspec.json.encode({"error": choice.error}))
        if failure is not None:
            raise failure


def _decode_unusual_event(event: Event, error: Exception) -> ChatEvent:
    if is_end_mark(event.data):
        return ChatEvent(is_end=True)
    if not event.data.strip():
        return ChatEvent()  # a sign of life
    failure = parse_stream_error(event.data, is_error=event.name == b"error")
    if failure is not None:
        raise failure
    return _read_by_member(event, error)


def _not_a_chunk(reason: object) -> ProtocolError:
    return ProtocolError(f"an event is not a chat completion chunk: {reason}")


def _read_by_member(event: Event, error: Exception) -> ChatEvent:
    """An event that differs in the type of a member, without the members that say nothing.

    Raises:
        ProtocolError: It has no choices where they belong, or text that is no text.
    """
    try:
        members = decode_lenient_json(event.data)
    except ValueError as not_json:
        raise _not_a_chunk(not_json) from not_json
    if not members:
        return ChatEvent()  # null, as a sign of life
    if not is_object(members):
        raise _not_a_chunk(error)
    choices = members.get("choices") or ()
    if is_object(choices):
        choices = [choices]
    if choices and not is_list(choices):
        raise _not_a_chunk(error)
    return ChatEvent(
        [_read_choice(item, error) for item in choices if is_object(item)],
        parse_usage(members.get("usage")),
    )


def _read_choice(members: dict[str, Any], error: Exception) -> ChatChoice:
    delta, reason = members.get("delta"), members.get("finish_reason")
    index = _read_count(members.get("index"))
    if reason is not None and not isinstance(reason, str):
        reason = "stop" if reason else None
    message, text = members.get("message"), _read_text(members.get("text"), error)
    return ChatChoice(
        _read_delta(delta, error),
        reason,
        index,
        message=_read_delta(message, error),
        text=text,
        error=members.get("error"),
    )


def _read_delta(members: object, error: Exception) -> ChatDelta | None:
    if not members:
        return None
    if isinstance(members, str):
        return ChatDelta(_read_text(members, error))
    if not is_object(members):
        raise _not_a_chunk(error)
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
    """A text, also one in parts, as Mistral sends them.

    Raises:
        ProtocolError: It is something else, so that a part of the answer would be lost.
    """
    if value is None:
        return None
    if isinstance(value, str):
        # Half a surrogate pair, which nobody can encode, becomes U+FFFD.
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if is_list(value):
        return "".join(_read_text(part, error) or "" for part in value)
    if is_object(value):
        return _read_text(value.get("text"), error)
    raise _not_a_chunk(error)


def _read_thinking(content: object, error: Exception) -> str | None:
    """The reasoning among the parts of a text."""
    if not is_list(content):
        return None
    return "".join(
        _read_text(part.get("thinking"), error) or "" for part in content if is_object(part)
    )


def parse_usage(members: object) -> Usage | None:
    """Tokens, of which a gateway may send some as null, as a fraction, or not at all."""
    if not is_object(members):
        return None
    return Usage(*(_read_count(members.get(name)) for name in Usage.__struct_fields__))


def _read_count(value: object) -> int:
    if isinstance(value, str):
        return int(value) if value.isascii() and value.isdecimal() and len(value) < 10 else 0  # noqa: PLR2004
    if isinstance(value, float) and not math.isfinite(value):
        return 0
    return max(int(value), 0) if isinstance(value, int | float) else 0


_EMPTY_REASONS: Final = frozenset({"", "null", "none"})
"""What some servers write for a piece that is not the last one, and some for the last one too."""

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


def parse_finish_reason(reason: str) -> FinishReason | None:
    """Which of the finish reasons that callers know this is; None for one that says nothing.

    One that nobody knows, such as `eos` or `stop_sequence`, is an end like any other.

    Raises:
        StreamInterrupted: It says that the answer broke off.
    """
    known = _REASONS.get(reason)
    if known is not None:
        return known
    normalized = reason.strip().lower().replace("-", "_")
    if normalized in _EMPTY_REASONS:
        return None
    if normalized in _ABORTED_REASONS:
        raise StreamInterrupted(f"the service broke the answer off: finish reason {reason[:40]!r}")
    return _REASONS.get(normalized, "stop")
