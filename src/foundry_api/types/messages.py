"""Messages, requests and answers: frozen value objects that are independent of the protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import msgspec

from foundry_api.types.errors import FoundryError
from foundry_api.types.serialization import Result, ShortResult

if TYPE_CHECKING:
    import typing_extensions

    _T = typing_extensions.TypeVar("_T", default=Any)
else:
    # Python 3.13 is the first that knows defaults of its own.
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
ServiceGeneration = Literal["legacy", "cli-0.10", "sdk-1", "sdk-2.0", "sdk-2.1", "gateway"]


class FunctionCall(Result, msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which function a model wants called.

    Attributes:
        name: Its name.
        arguments: A JSON object, as text.
    """

    name: str
    arguments: str


class ToolCall(Result, msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A call of a tool that a model wants.

    Attributes:
        id: Names it; the message with its result has the same.
        function: What to call.
        type: Of functions there are only calls.
    """

    id: str
    function: FunctionCall
    type: Literal["function"] = "function"


class Message(Result, msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One turn of a conversation.

    Attributes:
        role: Who speaks.
        content: What is said; may be empty beside tool calls.
        tool_calls: The calls that the assistant wanted in this turn.
        tool_call_id: Of a turn of role `tool`, the call whose result it is.
    """

    role: Role
    content: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None


class ToolDefinition(Result, msgspec.Struct, frozen=True, kw_only=True):
    """A function that a model may call.

    Attributes:
        name: Its name.
        description: What it does, for the model.
        parameters: The JSON schema of its arguments, an object.
    """

    name: str
    description: str = ""
    parameters: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])


class JsonSchemaConstraint(msgspec.Struct, frozen=True):
    """An answer has to be JSON of this schema.

    Attributes:
        schema: The schema itself, without a wrapper.
    """

    schema: dict[str, Any]


class ChoiceConstraint(msgspec.Struct, frozen=True):
    """An answer has to be one of these texts.

    Attributes:
        choices: The texts.
    """

    choices: tuple[str, ...]


class GrammarConstraint(msgspec.Struct, frozen=True):
    """An answer has to follow a grammar.

    Attributes:
        lark: The grammar, in Lark's notation.
    """

    lark: str


Constraint = JsonSchemaConstraint | ChoiceConstraint | GrammarConstraint
"""What an answer has to look like."""


class ChatRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A chat completion as the caller wants it, already checked. None means the service's default.

    Attributes:
        messages: The conversation so far, oldest first.
        max_tokens: Upper bound of the answer in tokens. The service's default is 2048.
        temperature: 0 (always the likeliest token) to 2.
        top_p: Nucleus sampling, above 0 to 1.
        seed: Makes sampling repeatable where the engine allows it.
        stop: Up to four strings that end the answer; they are not part of it.
        tools: The functions that the model may call.
        tool_choice: `auto`, `none`, `required`, or the name of the tool to call; None is `auto`.
        tools_in_prompt: Whether the tools are told in the prompt, for a model or a service that
            knows no other way.
        constraint: What the answer has to look like, where the engine keeps it to that.
        extra: Further members of the JSON body, sent as they are.
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
    """Tokens as the service counted them.

    Attributes:
        prompt_tokens: Tokens of the prompt, with the model's chat template.
        completion_tokens: Tokens of the answer, the end token included where the service counts it.
        total_tokens: Their sum.
    """

    prompt_tokens: int = 0
    completion_tokens: int = 0
    total_tokens: int = 0


class Timings(Result, msgspec.Struct, frozen=True):
    """Where the time of a call went, in seconds, measured by the client.

    Attributes:
        time_to_first_token_s: From the start of the last attempt to its first text; None without
            any text.
        total_s: From the call to its end, finding the service, loading and retries included.
        tokens_per_second: Completion tokens after the first, over the time after the first; None
            where the service did not count tokens, where there were fewer than two, and where
            they came in one burst.
        queued_s: Time spent waiting for its turn in the client, over all attempts.
    """

    time_to_first_token_s: float | None
    total_s: float
    tokens_per_second: float | None
    queued_s: float = 0.0


class AttemptRecord(Result, msgspec.Struct, frozen=True):
    """One HTTP request made for a call.

    Attributes:
        duration_s: From sending it to its end.
        error: Why it failed; None for the one that succeeded.
    """

    duration_s: float
    error: FoundryError | None = None


class Chunk(ShortResult, msgspec.Struct, frozen=True):
    """A piece of an answer.

    Attributes:
        content: The new text; empty in the last chunk.
        model: The id of the model that answers.
        reasoning: New text of the model's reasoning, which comes before the answer; a chunk has
            one of the two.
        tool_calls: Calls of tools that are complete now; in a chunk without text.
        refusal: New text of the model's refusal to answer, where the service tells it apart.
        partial: Of an answer that is parsed, the value so far.
        parsed: Of an answer that is parsed, the whole value; set on the last chunk only.
        cached: Whether it comes from a cache instead of the engine.
        finish_reason: Why the answer ended; set on the last chunk only.
        usage: Tokens of the whole call; set on the last chunk only.
        timings: Set on the last chunk only.
        attempts: Set on the last chunk only.
        raw: The event's data as the service sent it; on the last chunk, of all events without
            text, a line each.
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
        reasoning: What the model thought before, where it shows that; not part of the text.
        refusal: Why the model refuses to answer, where the service tells that apart from the text.
        tool_calls: The tools that the model wants called.
        parsed: The answer as the type that the caller asked for; None without one.
        repairs: How often the model had to be asked again until its answer passed.
        model: The id of the model that answered.
        service: The base URL of the service that answered.
        service_generation: Which generation of Foundry Local that is.
        finish_reason: `stop` for an answer that ended by itself, `length` for one cut at
            max_tokens or at the end of the context, `tool_calls` for one that waits for tools.
        usage: Tokens as the service counted them.
        timings: Where the time went.
        attempts: The HTTP requests made, the successful one last.
        cached: Whether the answer came from a cache instead of the engine.
        headers: The headers of the answer that succeeded, as the service sent them.
        raw: The data of every event of the stream, as the service sent them.
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
