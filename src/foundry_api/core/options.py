"""What the calls beside chat completions take besides what is asked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Literal, TypedDict, TypeVar

from foundry_api.resilience.deadline import Deadline
from foundry_api.types.checks import check_timeout

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


_T = TypeVar("_T")


class CompletionOptions(TypedDict, total=False):
    """What every completion call takes besides its prompt or messages, and its tools.

    Attributes:
        model: Alias, id, or id without version; of several, each is tried when the one before it
            failed; default `FOUNDRY_MODEL`, else phi-4-mini.
        max_tokens: Upper bound of the answer in tokens; default 2048, or what fits.
        temperature: 0 to 2; default the model's own.
        top_p: 0 to 1; default the model's own.
        seed: Makes sampling repeatable where the engine allows it.
        stop: Up to four strings that end the answer.
        tool_choice: `auto` (default), `none`, `required` for at least one call, or the name of the
            tool to call.
        timeout: Seconds without a token before the call gives up, or `auto` for what the model was
            seen to need; default `FOUNDRY_TIMEOUT`.
        deadline: Seconds for the whole call, with its queueing, loading and retries; default
            `FOUNDRY_DEADLINE`, else none.
        download: Download the model first if its files are not on this machine; default False.
        cache: `auto` (default) lets the client's cache serve calls that have one answer:
            temperature 0, or a seed; `always` this one whatever it is, `never` not this one.
        extra: Further members of the JSON body, sent as they are.
    """

    model: str | Sequence[str] | None
    max_tokens: int | None
    temperature: float | None
    top_p: float | None
    seed: int | None
    stop: str | Sequence[str] | None
    tool_choice: str | None
    timeout: float | Literal["auto"] | None
    deadline: float | None
    download: bool
    cache: Literal["auto", "always", "never"]
    extra: Mapping[str, Any] | None


class ChatOptions(CompletionOptions, total=False):
    """What every completion call takes besides its prompt or messages.

    Attributes:
        tools: Functions that the model may call: typed functions, `Tool`s, `ToolDefinition`s or
            OpenAI's form of one. The calls that it wants are in `tool_calls`; `run` makes them.
    """

    tools: Sequence[ToolLike] | None


class StructuredOptions(ChatOptions, Generic[_T], total=False):
    """What a call takes besides whose answer has to pass.

    Attributes:
        validators: Called with what was made of the answer, or with its text where nothing was;
            each refuses it by raising ValueError or answering False.
        max_repairs: How often the model may be asked again, with what was wrong with its answer;
            default 2.
    """

    validators: Iterable[Callable[[_T], object]]
    max_repairs: int


Timeout = float | Literal["auto"]


class TimeOptions(TypedDict, total=False):
    """How long a call may take.

    Attributes:
        timeout: Seconds without a sign of the answer before the call gives up, or `auto` for what
            the model was seen to need; default `FOUNDRY_TIMEOUT`.
        deadline: Seconds for the whole call, with its queueing, loading and retries; default
            `FOUNDRY_DEADLINE`, else none.
    """

    timeout: Timeout | None
    deadline: float | None


class ModelOptions(TimeOptions, total=False):
    """How long a call of a model may take, and what may be done for it.

    Attributes:
        timeout: As in `TimeOptions`.
        deadline: As in `TimeOptions`.
        download: Download the model first if its files are not on this machine; default False.
    """

    download: bool


class ResponseOptions(ModelOptions, total=False):
    """What a response takes besides its input.

    Attributes:
        timeout: As in `TimeOptions`.
        deadline: As in `TimeOptions`.
        download: As in `ModelOptions`.
        model: Alias, id, or id without version; default `FOUNDRY_MODEL`, else phi-4-mini.
        instructions: What the model is told ahead of the input.
        previous_response_id: The stored response to go on from.
        max_output_tokens: Upper bound of the answer in tokens; default 2048.
        temperature: 0 to 2; default the model's own.
        top_p: 0 to 1; default the model's own.
        seed: Makes sampling repeatable where the engine allows it.
        text: `{"format": {"type": "json_schema", "name": …, "schema": …}}` keeps the answer to a
            schema, from SDK 2.1 on.
        tools: Functions that the model may want called, in OpenAI's flat or nested form.
        tool_choice: `auto`, `none`, `required`, or the form of OpenAI.
        parallel_tool_calls: Whether several may be wanted at once.
        reasoning: Such as `{"effort": "low"}`.
        metadata: Labels of the caller's own; texts.
        store: Whether the service keeps the response, so that others can go on from it; default
            False. This client has it deleted when it closes, and when it unloads the model.
        keep: Leave a stored one in the service until somebody deletes it; default False.
        extra: Further members of the JSON body, sent as they are.
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


def resolve_timeouts(backend: ClientRuntime, options: TimeOptions) -> tuple[Timeout, Deadline]:
    """The time bounds of a call that begins now.

    Raises:
        ClientClosed: The client was closed.
        InvalidRequest: A bound is no number of seconds, or the time-out is not above 0.
    """
    backend.check_open()
    timeout_s = check_timeout(options.get("timeout"))
    deadline = Deadline.for_call(options.get("deadline"), backend.settings.deadline_s)
    return backend.settings.timeout_s if timeout_s is None else timeout_s, deadline
