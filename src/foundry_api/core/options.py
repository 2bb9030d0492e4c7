"""Keyword arguments that several methods of a client share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Literal, TypedDict, TypeVar

from foundry_api.resilience.deadline import Deadline
from foundry_api.types.checks import Timeout, check_timeout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from foundry_api.core.runtime import ClientRuntime
    from foundry_api.tools.definition import ToolLike

__all__ = [
    "ChatOptions",
    "CompletionOptions",
    "ModelOptions",
    "ResponseOptions",
    "StructuredOptions",
    "TimeOptions",
    "Timeout",
    "resolve_timeouts",
]

_T = TypeVar("_T")  # the type of the parsed answer


class CompletionOptions(TypedDict, total=False):
    """Options of every chat completion, without its tools.

    Attributes:
        model: Alias, id, or id without version. With several, each is tried if the one before it
            fails. Default: `FOUNDRY_MODEL`, else phi-4-mini.
        max_tokens: Maximum length of the answer in tokens. Default: 2048, or less if the context
            has less room.
        temperature: 0 to 2. Default: the model's own.
        top_p: 0 to 1. Default: the model's own.
        seed: Makes sampling repeatable if the engine supports it.
        stop: Up to four strings that end the answer.
        tool_choice: `auto` (default), `none`, `required` for at least one call, or the name of the
            tool to call.
        timeout: Seconds without a token after which the call fails, or `auto` to derive them from
            the measured latency of the model. Default: `FOUNDRY_TIMEOUT`.
        deadline: Seconds for the whole call, including queueing, loading and retries. Default:
            `FOUNDRY_DEADLINE`, else no limit.
        download: Download the model first if its files are not on this machine. Default: False.
        cache: `auto` (default) uses the client's cache for repeatable calls: those with
            temperature 0 or a seed. `always` uses it for this call, `never` does not.
        extra: More members of the JSON body, sent unchanged.
    """

    model: str | Sequence[str] | None
    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    seed: int | None
    stop: str | Sequence[str] | None
    tool_choice: str | None
    timeout: Timeout | None
    deadline: float | None
    download: bool
    cache: Literal["auto", "always", "never"]
    extra: Mapping[str, Any] | None


class ChatOptions(CompletionOptions, total=False):
    """Options of every chat completion.

    Attributes:
        tools: Functions that the model may call: typed functions, `Tool`s, `ToolDefinition`s or
            mappings in OpenAI's format. The calls that the model requests are in `tool_calls`;
            `run_tools` executes them.
    """

    tools: Sequence[ToolLike] | None


class StructuredOptions(ChatOptions, Generic[_T], total=False):
    """Options of chat completions with structured output.

    Attributes:
        validators: Called with the parsed answer, or with its text if it is not parsed. A
            validator rejects the answer by raising ValueError or returning False.
        max_repairs: How often the model is asked to correct a rejected answer. Default: 2.
    """

    validators: Iterable[Callable[[_T], object]]
    max_repairs: int


class TimeOptions(TypedDict, total=False):
    """Time limits of a call.

    Attributes:
        timeout: Seconds without data after which the call fails, or `auto` to derive them from the
            measured latency of the model. Default: `FOUNDRY_TIMEOUT`.
        deadline: Seconds for the whole call, including queueing, loading and retries. Default:
            `FOUNDRY_DEADLINE`, else no limit.
    """

    timeout: Timeout | None
    deadline: float | None


class ModelOptions(TimeOptions, total=False):
    """Options of every call that uses a model.

    Attributes:
        timeout: As in `TimeOptions`.
        deadline: As in `TimeOptions`.
        download: Download the model first if its files are not on this machine. Default: False.
    """

    download: bool


class ResponseOptions(ModelOptions, total=False):
    """Options of a response.

    Attributes:
        timeout: As in `TimeOptions`.
        deadline: As in `TimeOptions`.
        download: As in `ModelOptions`.
        model: Alias, id, or id without version. Default: `FOUNDRY_MODEL`, else phi-4-mini.
        instructions: System message that precedes the input.
        previous_response_id: The stored response to continue.
        max_output_tokens: Maximum length of the answer in tokens. Default: 2048.
        temperature: 0 to 2. Default: the model's own.
        top_p: 0 to 1. Default: the model's own.
        seed: Makes sampling repeatable if the engine supports it.
        text: Output format. `{"format": {"type": "json_schema", "name": …, "schema": …}}` makes
            the answer follow a schema, with SDK 2.1 and later.
        tools: Functions that the model may call, in OpenAI's flat or nested format.
        tool_choice: `auto`, `none`, `required`, or a mapping in OpenAI's format.
        parallel_tool_calls: Whether the model may request several calls at once.
        reasoning: Reasoning options, such as `{"effort": "low"}`.
        metadata: The caller's own labels, as strings.
        store: Whether the service stores the response, so that another can continue it. Default:
            False. The client deletes it when it closes and when it unloads the model.
        keep: Do not delete a stored response. Default: False.
        extra: More members of the JSON body, sent unchanged.
    """

    model: str | None
    instructions: str | None
    previous_response_id: str | None
    max_output_tokens: int | None
    temperature: float | None
    top_p: float | None
    seed: int | None
    text: Mapping[str, Any] | None
    tools: Sequence[Mapping[str, Any]] | None
    tool_choice: str | Mapping[str, Any] | None
    parallel_tool_calls: bool | None
    reasoning: Mapping[str, Any] | None
    metadata: Mapping[str, str] | None
    store: bool
    keep: bool
    extra: Mapping[str, Any] | None


def resolve_timeouts(runtime: ClientRuntime, options: TimeOptions) -> tuple[Timeout, Deadline]:
    """Return the validated timeout and the deadline of a call that starts now."""
    runtime.check_open()
    timeout_s = check_timeout(options.get("timeout"))
    deadline = Deadline.for_call(options.get("deadline"), runtime.settings.deadline_s)
    return runtime.settings.timeout_s if timeout_s is None else timeout_s, deadline
