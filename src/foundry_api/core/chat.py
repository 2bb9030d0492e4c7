"""Chat completions: the request, its corrections after an error, and the result."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, cast

import msgspec

from foundry_api.core.call import Call
from foundry_api.core.operation import Finished, Operation
from foundry_api.resilience.prompt_reading import UNKNOWN_SIZE, PromptSize
from foundry_api.types.checks import (
    MAX_SEED,
    MAX_TEMPERATURE,
    MAX_TOKENS,
    check_encodable,
    check_int,
    check_range,
    check_several,
    validate_messages,
)
from foundry_api.types.errors import (
    ContextOverflow,
    InvalidRequest,
    ToolMarkersMissing,
    UnsupportedParameter,
)
from foundry_api.types.messages import (
    ChatRequest,
    Chunk,
    Completion,
    GrammarConstraint,
    JsonSchemaConstraint,
    Timings,
)
from foundry_api.types.serialization import header_text
from foundry_api.types.values import UNENCODABLE, as_text, format_value, is_dict, to_plain
from foundry_api.wire.chat.events import StreamEnd
from foundry_api.wire.chat.reasoning import split_reasoning
from foundry_api.wire.chat.request import prompt_for_constraint
from foundry_api.wire.errors import decode_lenient_json
from foundry_api.wire.transport import MAX_BODY_BYTES, MAX_SUCCESS_STATUS, OK

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from foundry_api.core.call import CallContext, CallRequest
    from foundry_api.core.connection import Connection
    from foundry_api.core.operation import AnswerFacts
    from foundry_api.structured.output_spec import OutputSpec
    from foundry_api.tools.definition import ToolLike
    from foundry_api.types.capabilities import Capabilities
    from foundry_api.types.errors import FoundryError
    from foundry_api.types.events import OperationName
    from foundry_api.types.messages import Constraint, Message, ToolCall, ToolDefinition
    from foundry_api.types.models import Model
    from foundry_api.wire.chat.events import ChatDecoder
    from foundry_api.wire.transport import Request, Response

__all__ = [
    "ChatCall",
    "ChatCompletion",
    "make_chat_call",
    "make_chat_request",
    "make_final_chunk",
    "make_output_spec",
]

MAX_STOP_STRINGS = 4

# Below this all tokens arrived at once, so the speed of the engine is unknown.
MIN_MEASURED_S = 0.001

EVENT_STREAM = "text/event-stream"
BODYLESS_STATUSES = frozenset({204, 205})

_STREAM_STARTS = (b"data:", b"event:", b": ")
_TOKEN_LIMITS = frozenset({"max_tokens", "max_completion_tokens"})


def make_chat_request(
    messages: Iterable[Message | Mapping[str, Any]],
    *,
    max_tokens: int | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    stop: str | Sequence[str] | None = None,
    tools: Sequence[ToolLike] | None = None,
    tool_choice: str | None = None,
    constraint: Constraint | None = None,
    extra: Mapping[str, Any] | None = None,
    is_validated: bool = False,
) -> ChatRequest:
    """Validate the arguments and return a request.

    With `is_validated` the messages come from `prompt_to_messages` or `validate_messages`.
    """
    offered: tuple[ToolDefinition, ...] = ()
    if tools is not None and not (isinstance(tools, list) and not tools):
        # Few calls have tools, so they import what describes functions.
        from foundry_api.tools.definition import to_definitions  # noqa: PLC0415

        offered = to_definitions(tools)
    if isinstance(constraint, GrammarConstraint) and offered and tool_choice != "none":
        raise InvalidRequest(
            "grammar and tools were both given, but a model that follows a grammar calls no tools",
            field="grammar",
        )
    if constraint is not None and extra and "response_format" in extra:
        raise InvalidRequest(
            "extra has a response_format, but another argument describes the answer too",
            field="extra",
        )
    # Most calls have few of these. Testing for None first saves calls on every prompt.
    if max_tokens is not None:
        max_tokens = check_int("max_tokens", max_tokens, 1, MAX_TOKENS)
    if temperature is not None:
        temperature = check_range("temperature", temperature, 0, MAX_TEMPERATURE)
    if top_p is not None:
        top_p = check_range("top_p", top_p, 0, 1)
    if seed is not None:
        seed = check_int("seed", seed, -MAX_SEED - 1, MAX_SEED)
    return ChatRequest(
        messages=tuple(cast("Iterable[Message]", messages))
        if is_validated
        else validate_messages(messages),
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        stop=() if stop is None else _check_stop(stop),
        tools=offered,
        tool_choice=None if tool_choice is None else _check_tool_choice(tool_choice, offered),
        constraint=constraint,
        extra={} if extra is None else _check_extra(extra),
    )


def _check_stop(stop: str | Sequence[str]) -> tuple[str, ...]:
    if isinstance(stop, str):
        return (_check_stop_string("stop", stop),)
    strings = check_several("stop", stop, "a string or a list of strings")
    if len(strings) > MAX_STOP_STRINGS:
        raise InvalidRequest(
            f"stop holds {len(strings)} strings, but the service takes {MAX_STOP_STRINGS} at most",
            field="stop",
        )
    return tuple(_check_stop_string(f"stop[{index}]", text) for index, text in enumerate(strings))


def _check_stop_string(field: str, value: object) -> str:
    text = check_encodable(field, value)
    if not text:  # white space is allowed, unlike in `check_text`
        raise InvalidRequest(f"{field} is empty", field=field)
    return text


def _check_tool_choice(choice: str, tools: tuple[ToolDefinition, ...]) -> str:
    name = as_text(choice)
    if name is None:
        raise InvalidRequest(
            f"tool_choice is {format_value(choice)}, not a string",
            field="tool_choice",
            hint="Give auto, none, required or the name of a tool.",
        )
    if name in {"auto", "none"}:
        return name
    names = [tool.name for tool in tools]
    if not names:
        raise InvalidRequest(
            f"tool_choice is {name!r}, but there are no tools", field="tool_choice"
        )
    if name != "required" and name not in names:
        raise InvalidRequest(
            f"tool_choice is {name!r}, but must be auto, none, required or the name of a tool: "
            f"{', '.join(names)}",
            field="tool_choice",
        )
    return name


def _check_extra(extra: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(cast("object", extra), Mapping):
        raise InvalidRequest(f"extra is {format_value(extra)}, not a mapping", field="extra")
    try:
        members: dict[str, Any] = to_plain(dict(extra))
    except UNENCODABLE as error:
        raise InvalidRequest(f"extra cannot be sent as JSON: {error}", field="extra") from error
    return members


def make_output_spec(**arguments: Any) -> OutputSpec | None:
    """Return what the answer has to be, or None for any text.

    The arguments are those of `OutputSpec.from_arguments`.
    """
    for value in arguments.values():
        if value is not None and not (type(value) is tuple and not value):
            break
    else:
        return None
    # Most calls take any answer, so the schema code is imported by the calls that need it.
    from foundry_api.structured.output_spec import OutputSpec  # noqa: PLC0415

    return OutputSpec.from_arguments(**arguments)


class ChatCompletion(Operation[Chunk, StreamEnd, Completion[None]]):
    """A streamed chat completion. `original` is the caller's request if `request` is corrected."""

    __slots__ = ("_original", "_raw", "_reasoning", "_refusal", "_request", "_tool_calls")

    name: ClassVar[OperationName] = "chat"
    measures_latency: ClassVar[bool] = True
    reads_prompt: ClassVar[bool] = True
    end_of_body: ClassVar[bytes] = b"\n\n"

    def __init__(self, request: ChatRequest, original: ChatRequest | None = None) -> None:
        self._request = request
        self._original = original or request
        self._reasoning: list[str] = []
        self._refusal: list[str] = []
        self._tool_calls: list[ToolCall] = []
        self._raw: list[bytes] = []

    def measure_prompt(self) -> PromptSize:
        request = self._request
        # What the service makes of tools is not known here.
        if request.tools or any(message.tool_calls for message in request.messages):
            return UNKNOWN_SIZE
        return PromptSize.of(message.content for message in request.messages)

    def get_event_request(self) -> ChatRequest:
        return self._request

    def check(self, capabilities: Capabilities) -> None:
        request = self._request
        # Generations differ only in these parameters, so a plain prompt skips the check.
        is_plain = request.seed is None and request.tool_choice is None and not request.extra
        if not is_plain or request.constraint is not None:
            capabilities.check(request)

    def make_request(self, connection: Connection, model: Model) -> Request:
        return connection.dialect.build_chat_request(model, self._request)

    def make_non_streaming_request(self, connection: Connection, model: Model) -> Request | None:
        return connection.dialect.build_non_streaming_request(model, self._request)

    def make_decoder(self, connection: Connection, model: Model) -> ChatDecoder:
        return connection.dialect.make_chat_decoder(model, self._request)

    def accepts(self, response: Response) -> bool:
        """Whether the headers declare an event stream."""
        if not OK <= response.status <= MAX_SUCCESS_STATUS or response.status in BODYLESS_STATUSES:
            return False
        kind = response.headers.get("Content-Type") or EVENT_STREAM
        return kind.partition(";")[0].strip().lower() == EVENT_STREAM

    async def inspect(
        self, response: Response, read: Callable[[], Awaitable[bytes]]
    ) -> tuple[bool, bytes]:
        """Accept a stream with wrong headers, and a complete answer in place of a stream.

        Some proxies cannot stream and send all at once, some declare a stream as text or JSON.
        """
        body = b""
        while OK <= response.status <= MAX_SUCCESS_STATUS and len(body) <= MAX_BODY_BYTES:
            block = await read()
            body += block
            start = body.lstrip()
            if start.startswith(_STREAM_STARTS):
                return True, body
            if not block or not start.startswith(b"{"):
                break
        if not _is_completion(body):
            return False, body
        # The decoder reads only streams, so make the JSON a stream of one event. Its line breaks
        # are insignificant whitespace, but would end the event.
        line = body.replace(b"\r", b" ").replace(b"\n", b" ")
        return True, b"data: %b\n\ndata: [DONE]\n\n" % line

    def amend(self, error: FoundryError) -> ChatCompletion | None:
        request = (
            self._move_tools_into_prompt(error)
            or self._move_format_into_prompt(error)
            or self._cap_max_tokens(error)
        )
        return None if request is None else ChatCompletion(request, self._original)

    def _move_tools_into_prompt(self, error: FoundryError) -> ChatRequest | None:
        """Describe the tools in the prompt, if the service supports no tools for this model."""
        request = self._request
        if not isinstance(error, ToolMarkersMissing) or request.tools_in_prompt:
            return None
        # A prompt cannot force a model to call a tool.
        if request.tool_choice not in {None, "auto"}:
            return None
        return msgspec.structs.replace(request, tools_in_prompt=True)

    def _move_format_into_prompt(self, error: FoundryError) -> ChatRequest | None:
        """Only describe the schema in the prompt, if the service takes none."""
        request = self._request
        if not (isinstance(error, UnsupportedParameter) and "json_object" in error.message):
            return None
        if not isinstance(request.constraint, JsonSchemaConstraint):
            return None
        messages = prompt_for_constraint(request)
        return msgspec.structs.replace(request, messages=messages, constraint=None)

    def _cap_max_tokens(self, error: FoundryError) -> ChatRequest | None:
        """Request as many tokens as the context has room for, if the caller set no limit."""
        # Without a limit the service adds 2048 output tokens to the prompt and rejects the request
        # if the sum exceeds the context, though the answer may be short
        # (docs/foundry-local-service.md, 4.5).
        if not isinstance(error, ContextOverflow) or _has_token_limit(self._original):
            return None
        if error.available_tokens is None or _has_token_limit(self._request):
            # The prompt alone does not fit, or the capped request was rejected as well.
            error.blame_prompt()
            return None
        return msgspec.structs.replace(self._request, max_tokens=error.available_tokens)

    def collect(self, chunks: list[Chunk], texts: list[str], *, keep_result: bool) -> None:
        for chunk in chunks:
            if keep_result:  # `raw` of the result; a stream has it in each chunk
                self._raw.append(chunk.raw)
            if chunk.content:
                texts.append(chunk.content)
            else:
                self._reasoning.append(chunk.reasoning)
                self._refusal.append(chunk.refusal)
                self._tool_calls += chunk.tool_calls

    def may_drain(self, value: StreamEnd) -> bool:
        return not value.stopped_early

    def complete(
        self, value: StreamEnd, texts: list[str], facts: AnswerFacts
    ) -> Finished[Completion[None]]:
        reasoning, content = "".join(self._reasoning), "".join(texts)
        # The markers are rare, and searching for them is cheaper than a call.
        if reasoning or "think>" in content or "<|" in content:
            reasoning, content = split_reasoning(reasoning, content)
        # The time is measured from the first token on, so that one is not counted.
        tokens, streamed_s = value.usage.completion_tokens - 1, facts.streamed_s
        is_measured = tokens >= 1 and streamed_s is not None and streamed_s >= MIN_MEASURED_S
        timings = Timings(
            time_to_first_token_s=facts.time_to_first_token_s,
            total_s=facts.total_s,
            tokens_per_second=tokens / streamed_s if is_measured and streamed_s else None,
            queued_s=facts.queued_s,
        )
        endpoint = facts.connection.endpoint
        completion = Completion(
            content=content,
            reasoning=reasoning,
            refusal="".join(self._refusal),
            tool_calls=tuple(self._tool_calls),
            parsed=None,
            model=facts.model.id,
            service=endpoint.base_url,
            service_generation=endpoint.service_generation,
            finish_reason=value.finish_reason,
            usage=value.usage,
            timings=timings,
            attempts=facts.attempts,
            headers=_to_pairs(tuple(facts.headers.items())),
            raw=(*self._raw, value.raw),
        )
        return Finished(completion, timings, value.usage, value.finish_reason, content)

    def make_final_chunk(self, result: Completion[None]) -> Chunk:
        return make_final_chunk(result)


ChatCall = Call[Chunk, Completion[None]]


def make_chat_call(context: CallContext, request: CallRequest[ChatRequest]) -> ChatCall:
    return Call(context, request, ChatCompletion(request.request))


def make_final_chunk(completion: Completion[None]) -> Chunk:
    """Return the chunk that ends the stream of a completion."""
    return Chunk(
        content="",
        model=completion.model,
        finish_reason=completion.finish_reason,
        usage=completion.usage,
        timings=completion.timings,
        attempts=completion.attempts,
        raw=completion.raw[-1],
        cached=completion.cached,
    )


@functools.lru_cache(maxsize=16)
def _to_pairs(headers: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """Make the headers of a result. A service sends nearly the same ones every time."""
    return tuple(
        # multidict's header names are a subclass of str, which JSON encoders reject
        (str.__str__(name), str.__str__(text) if text.isascii() else header_text(text))
        for name, text in headers
    )


def _has_token_limit(request: ChatRequest) -> bool:
    return request.max_tokens is not None or not _TOKEN_LIMITS.isdisjoint(request.extra)


def _is_completion(body: bytes) -> bool:
    try:
        members = decode_lenient_json(body)
    except ValueError:
        return False
    return is_dict(members) and bool(members.get("choices"))
