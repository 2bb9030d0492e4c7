"""Messages, requests and answers of chats: immutable types, independent of the wire protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import msgspec

from foundry_api.types.errors import FoundryError
from foundry_api.types.serialization import Result, ShortResult

# The type of `Completion.parsed`.
if TYPE_CHECKING:
    import typing_extensions

    _T = typing_extensions.TypeVar("_T", default=Any)
else:
    # `typing.TypeVar` has no defaults before Python 3.13.
    _T = TypeVar("_T")

__all__ = [
    "AttemptRecord",
    "ChatRequest",
    "ChoiceConstraint",
    "Chunk",
    "Completion",
    "Constraint",
    "FinishReason",
    "FunctionCall",
    "GrammarConstraint",
    "JsonSchemaConstraint",
    "Message",
    "Role",
    "ServiceGeneration",
    "Timings",
    "ToolCall",
    "ToolDefinition",
    "Usage",
]

Role = Literal["system", "user", "assistant", "tool"]
FinishReason = Literal["stop", "length", "tool_calls", "content_filter"]
ServiceGeneration = Literal[
    "legacy", "cli-0.10", "sdk-1", "sdk-2.0", "sdk-2.1", "gateway", "openai"
]


class FunctionCall(Result, msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The function in a tool call.

    Attributes:
        name: The function's name.
        arguments: The arguments, a JSON object as text.
    """

    name: str
    arguments: str


class ToolCall(Result, msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tool call requested by a model.

    Attributes:
        id: Identifies the call; the message with its result has the same `tool_call_id`.
        function: The function to call.
        type: Always `function`.
    """

    id: str
    function: FunctionCall
    type: Literal["function"] = "function"


class Message(Result, msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One message of a conversation.

    Attributes:
        role: `system`, `user`, `assistant` or `tool`.
        content: The text; may be empty if there are tool calls.
        tool_calls: The tool calls of an assistant message.
        tool_call_id: For role `tool`, the id of the call whose result this is.
    """

    role: Role
    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None


class ToolDefinition(Result, msgspec.Struct, frozen=True, kw_only=True):
    """A function that a model may call.

    Attributes:
        name: The function's name.
        description: What the function does, for the model.
        parameters: The JSON schema of the arguments, of type `object`.
    """

    name: str
    description: str = ""
    parameters: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])


class JsonSchemaConstraint(msgspec.Struct, frozen=True):
    """Constrains an answer to JSON that matches a schema.

    Attributes:
        schema: The JSON schema, without a wrapper.
    """

    schema: dict[str, Any]


class ChoiceConstraint(msgspec.Struct, frozen=True):
    """Constrains an answer to one of several texts.

    Attributes:
        choices: The texts.
    """

    choices: tuple[str, ...]


class GrammarConstraint(msgspec.Struct, frozen=True):
    """Constrains an answer to a grammar.

    Attributes:
        lark: The grammar, in Lark's notation.
    """

    lark: str


Constraint = JsonSchemaConstraint | ChoiceConstraint | GrammarConstraint


class ChatRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A validated request for a chat completion. None means the service's default.

    Attributes:
        messages: The conversation, oldest message first.
        max_tokens: Maximum tokens of the answer. The service's default is 2048.
        temperature: Sampling temperature, 0 (always the most likely token) to 2.
        top_p: Nucleus sampling, above 0 to 1.
        seed: Makes sampling repeatable, if the engine supports it.
        stop: Up to four strings that end the answer; not part of it.
        tools: The functions that the model may call.
        tool_choice: `auto`, `none`, `required`, or the name of the tool to call; None is `auto`.
        tools_in_prompt: Whether to describe the tools in the prompt, for models or services
            without native tools.
        constraint: The format of the answer, if the engine can enforce it.
        extra: Additional members of the JSON body, sent unchanged.
    """

    messages: tuple[Message, ...]
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    tools: tuple[ToolDefinition, ...] = ()
    tool_choice: str | None = None
    tools_in_prompt: bool = False
    constraint: Constraint | None = None
    extra: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])


class Usage(Result, msgspec.Struct, frozen=True):
    """Token counts of the service.

    Attributes:
        prompt_tokens: Tokens of the prompt, including the chat template.
        completion_tokens: Tokens of the answer; some services include the end token.
        total_tokens: The sum of both.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0


class Timings(Result, msgspec.Struct, frozen=True):
    """Durations of a call in seconds, measured by the client.

    Attributes:
        time_to_first_token_s: From the start of the last attempt to its first text; None without
            text.
        total_s: From the start to the end of the call, including discovery, loading and retries.
        tokens_per_second: Completion tokens after the first token per second after the first token;
            None if the service does not count tokens, or for fewer than two tokens or a single
            burst.
        queued_s: Time in the client's queue, over all attempts.
    """

    time_to_first_token_s: float | None
    total_s: float
    tokens_per_second: float | None
    queued_s: float = 0.0


class AttemptRecord(Result, msgspec.Struct, frozen=True):
    """One HTTP request of a call.

    Attributes:
        duration_s: Seconds from sending the request to its end.
        error: The error of a failed attempt; None for the successful one.
    """

    duration_s: float
    error: FoundryError | None = None


class Chunk(ShortResult, msgspec.Struct, frozen=True):
    """A chunk of a streamed answer.

    Attributes:
        content: The new text; empty in the last chunk.
        model: The id of the model.
        reasoning: New text of the model's reasoning, which precedes the answer; a chunk has either
            `content` or `reasoning`.
        tool_calls: Tool calls that are now complete; in a chunk without text.
        refusal: New text of the model's refusal, if the service separates it.
        partial: If the answer is parsed, the value so far.
        parsed: If the answer is parsed, the complete value; in the last chunk only.
        cached: Whether the chunk comes from a cache instead of the engine.
        finish_reason: Why the answer ended; in the last chunk only.
        usage: Token counts of the call; in the last chunk only.
        timings: Durations of the call; in the last chunk only.
        attempts: The HTTP requests of the call; in the last chunk only.
        raw: The event's data as sent by the service; in the last chunk, the data of all events
            without text, one per line.
    """

    content: str
    model: str
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    timings: Timings | None = None
    attempts: tuple[AttemptRecord, ...] = ()
    raw: bytes = b""
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    partial: Any = None
    parsed: Any = None
    cached: bool = False
    refusal: str = ""


class Completion(ShortResult, msgspec.Struct, Generic[_T], frozen=True, kw_only=True):
    """A complete answer.

    Attributes:
        content: The text.
        reasoning: The model's reasoning, if it writes any; not part of the text.
        refusal: The model's refusal, if the service separates it from the text.
        tool_calls: The tool calls requested by the model.
        parsed: The answer as the requested type; None without one.
        repairs: How many repairs were needed until the answer was valid.
        model: The id of the model that answered.
        service: The base URL of the service that answered.
        service_generation: The generation of the service.
        finish_reason: `stop` for a complete answer, `length` for one truncated at max_tokens or at
            the end of the context, `tool_calls` for one with tool calls, or `content_filter`.
        usage: Token counts of the service.
        timings: Durations of the call.
        attempts: The HTTP requests, the successful one last.
        cached: Whether the answer comes from a cache instead of the engine.
        headers: The headers of the successful response.
        raw: The data of each event of the stream.
    """

    content: str
    reasoning: str = ""
    refusal: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    parsed: _T
    repairs: int = 0
    model: str
    service: str
    service_generation: ServiceGeneration
    finish_reason: FinishReason
    usage: Usage
    timings: Timings
    attempts: tuple[AttemptRecord, ...]
    cached: bool = False
    headers: tuple[tuple[str, str], ...] = ()
    raw: tuple[bytes, ...] = ()
