"""What completion calls take besides their prompt or messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Literal, TypedDict, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from foundry_api.tools.definition import ToolLike

__all__ = ["ChatOptions", "CheckedOptions", "RunOptions"]

_T = TypeVar("_T")


class RunOptions(TypedDict, total=False):
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


class ChatOptions(RunOptions, total=False):
    """What every completion call takes besides its prompt or messages.

    Attributes:
        tools: Functions that the model may call: typed functions, `Tool`s, `ToolDefinition`s or
            OpenAI's form of one. The calls that it wants are in `tool_calls`; `run` makes them.
    """

    tools: Sequence[ToolLike] | None


class CheckedOptions(ChatOptions, Generic[_T], total=False):
    """What a call takes besides whose answer has to pass.

    Attributes:
        validators: Called with what was made of the answer, or with its text where nothing was;
            each refuses it by raising ValueError or answering False.
        repairs: How often the model may be asked again, with what was wrong with its answer;
            default 2.
    """

    validators: Iterable[Callable[[_T], object]]
    repairs: int
