"""Checks of what callers pass, before anything is sent, each naming the argument at fault."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal, TypeGuard, cast, get_args

import msgspec

from foundry_api.errors import InvalidRequest, UnsupportedFeature
from foundry_api.messages import ChatRequest, Grammar, Message, Role

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from foundry_api.messages import Constraint, ToolDefinition
    from foundry_api.tools.definition import ToolLike

__all__ = [
    "chat_request",
    "check_cache",
    "check_known",
    "check_range",
    "check_repairs",
    "check_text",
    "check_timeout",
    "conversation",
    "model_names",
    "prompt_turns",
]

MAX_STOP_STRINGS = 4
MAX_TEMPERATURE = 2.0
MAX_TOKENS = 2**31 - 1
"""The engine keeps the bound in an int."""

MAX_SEED = 2**63 - 1

_ROLES = frozenset(get_args(Role))
_UNENCODABLE = (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError)


def chat_request(
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
) -> ChatRequest:
    """A request that the service can't refuse for its form.

    Raises:
        InvalidRequest: An argument is at fault; `.field` names it.
    """
    offered = _tools(tools)
    if isinstance(constraint, Grammar) and offered and tool_choice != "none":
        raise InvalidRequest(
            "grammar and tools were both given, but a model that is kept to a grammar calls none",
            field="grammar",
        )
    check_range("max_tokens", max_tokens, 1, MAX_TOKENS)
    check_range("temperature", temperature, 0, MAX_TEMPERATURE)
    check_range("top_p", top_p, 0, 1)
    check_range("seed", seed, -MAX_SEED - 1, MAX_SEED)
    if constraint is not None and extra and "response_format" in extra:
        raise InvalidRequest(
            "extra has a response_format, beside another description of the answer", field="extra"
        )
    return ChatRequest(
        messages=conversation(messages),
        max_tokens=_whole("max_tokens", max_tokens),
        temperature=temperature,
        top_p=top_p,
        seed=_whole("seed", seed),
        stop=_stop_strings(stop),
        tools=offered,
        tool_choice=_tool_choice(tool_choice, offered),
        constraint=constraint,
        extra=_extra(extra),
    )


def conversation(messages: Iterable[Message | Mapping[str, Any]]) -> tuple[Message, ...]:
    """Checked messages.

    Raises:
        InvalidRequest: There are none, or one is empty or cannot be sent.
    """
    _check_several("messages", messages)
    checked = tuple(_message(index, message) for index, message in enumerate(messages))
    if not checked:
        raise InvalidRequest("messages is empty", field="messages")
    return checked


def prompt_turns(prompt: str, system: str | None = None) -> list[Message]:
    """The conversation of a single prompt, with instructions ahead of it.

    Raises:
        InvalidRequest: One of them is no text, empty, or cannot be sent.
    """
    turns = [] if system is None else [Message("system", check_text("system", system))]
    return [*turns, Message("user", check_text("prompt", prompt))]


def check_timeout(timeout: float | Literal["auto"] | None) -> None:
    """Refuse a time-out that no call could meet.

    Raises:
        InvalidRequest: It is neither `auto` nor above 0.
    """
    if timeout == "auto":
        return
    check_range("timeout", timeout, 0, math.inf)
    if timeout == 0:
        raise InvalidRequest("timeout is 0, but must be above 0 s", field="timeout")


def check_cache(cache: object) -> None:
    """Refuse a use of the cache that there is not.

    Raises:
        InvalidRequest: It is none of `auto`, `always` and `never`.
    """
    if cache not in {"auto", "always", "never"}:
        raise InvalidRequest(
            f"cache is {cache!r}, but must be 'auto', 'always' or 'never'", field="cache"
        )


def check_repairs(repairs: int) -> None:
    """Refuse a number of repairs that is none.

    Raises:
        InvalidRequest: It is no whole number from 0 on.
    """
    _whole("repairs", repairs)
    check_range("repairs", repairs, 0, math.inf)


def check_known(options: Mapping[str, Any], known: AbstractSet[str]) -> None:
    """Refuse an option that would be ignored.

    Raises:
        TypeError: There is no such option, as Python itself says of an unknown argument.
    """
    for name in options.keys() - known:
        raise TypeError(f"a completion takes no argument {name!r}; further members go into extra=")


def model_names(model: str | Sequence[str] | None) -> tuple[str, ...]:
    """The models to try, in order; none where the caller named none.

    Raises:
        InvalidRequest: A name is no text, or empty.
    """
    if model is None or model == "":
        return ()
    if isinstance(model, str):
        return (model,)
    _check_several("model", model)
    names = tuple(check_text(f"model[{index}]", name) for index, name in enumerate(model))
    if not names:
        raise InvalidRequest("model is an empty list", field="model")
    return names


def _message(index: int, message: Message | Mapping[str, Any]) -> Message:
    field = f"messages[{index}]"
    if not _is_sound(message):
        message = _converted(field, message)
    if message.content or not message.tool_calls:
        check_text(f"{field}.content", message.content)
    return message


def _converted(field: str, message: Message | Mapping[str, Any]) -> Message:
    try:
        told = msgspec.structs.asdict(message) if isinstance(message, Message) else dict(message)
        told["content"] = _flat(f"{field}.content", told.get("content"))
        return msgspec.convert(told, Message, strict=True)
    except (msgspec.ValidationError, TypeError, ValueError) as error:
        if isinstance(error, InvalidRequest):
            raise
        raise InvalidRequest(f"{field} is no message: {error}", field=field) from error


def _flat(field: str, content: object) -> object:
    """Parts of text as one text: 1.x would paste their JSON into the prompt."""
    if content is None:
        return ""
    if not isinstance(content, list):
        return content
    parts: list[Any] = content  # pyright: ignore[reportUnknownVariableType] # a caller's own
    return "".join(_part(f"{field}[{index}]", part) for index, part in enumerate(parts))


def _part(field: str, part: Any) -> str:
    told = cast("dict[str, Any]", part) if isinstance(part, dict) else {}
    if told.get("type") != "text":
        raise UnsupportedFeature(
            f"{field} is of type {told.get('type')!r}; chat completions read text alone, "
            "in every generation",
            hint="Leave it out: the service would drop it without a word.",
        )
    return check_text(f"{field}.text", told.get("text"))


def _is_sound(message: object) -> TypeGuard[Message]:
    """Whether it is a message of the right types; its constructor checks none of them."""
    return (
        isinstance(message, Message)
        and message.role in _ROLES
        and type(message.content) is str
        and not message.tool_calls
        and message.tool_call_id is None
    )


def check_text(field: str, value: object) -> str:
    """A text that can be sent.

    Raises:
        InvalidRequest: It is no text, empty, or holds characters that the service can't take.
    """
    if not isinstance(value, str):
        raise InvalidRequest(f"{field} is {value!r}, not a text", field=field)
    if not value.strip():
        raise InvalidRequest(f"{field} is empty", field=field)
    _check_characters(field, value)
    return value


def _check_characters(field: str, text: str) -> None:
    if "\0" in text:
        # Both engines end the prompt at a NUL without a word (foundry-local-service.md, 4.8).
        raise InvalidRequest(f"{field} holds a NUL character", field=field)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            f"{field} holds a lone surrogate at position {error.start}", field=field
        ) from error


def _check_several(field: str, value: object) -> None:
    if not isinstance(value, Iterable):
        raise InvalidRequest(f"{field} is {value!r}, not a list", field=field)


def check_range(field: str, value: object, low: float, high: float) -> None:
    """Refuse what is no number between two others; None is fine.

    Raises:
        InvalidRequest: It is out of bounds, or no number.
    """
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidRequest(f"{field} is {value!r}, not a number", field=field)
    if not low <= value <= high:
        bounds = f"{low:g} or more" if high == math.inf else f"from {low:g} to {high:g}"
        raise InvalidRequest(f"{field} is {value}, but must be {bounds}", field=field)


def _whole(field: str, value: object) -> int | None:
    # The 2.x service ignores 2.0 and "5" in silence, 1.x answers 500.
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise InvalidRequest(f"{field} is {value!r}, not a whole number", field=field)
    return value


def _stop_strings(stop: str | Sequence[str] | None) -> tuple[str, ...]:
    if stop is None:
        return ()
    _check_several("stop", stop)
    strings: tuple[Any, ...] = (stop,) if isinstance(stop, str) else tuple(stop)
    if len(strings) > MAX_STOP_STRINGS:
        raise InvalidRequest(
            f"stop holds {len(strings)} strings, but the service takes {MAX_STOP_STRINGS} at most",
            field="stop",
        )
    for index, text in enumerate(strings):
        if not isinstance(text, str) or not text:
            raise InvalidRequest(f"stop[{index}] is no text", field=f"stop[{index}]")
        _check_characters(f"stop[{index}]", text)
    return strings


def _tools(tools: Sequence[ToolLike] | None) -> tuple[ToolDefinition, ...]:
    if tools is None or tools == []:
        return ()
    # Describing functions is of no use to those who offer none.
    from foundry_api.tools.definition import definitions  # noqa: PLC0415

    return definitions(tools)


def _tool_choice(choice: str | None, tools: tuple[ToolDefinition, ...]) -> str | None:
    if choice in {None, "auto", "none"}:
        return choice
    names = [tool.name for tool in tools]
    if not names:
        raise InvalidRequest(
            f"tool_choice is {choice!r}, but there are no tools", field="tool_choice"
        )
    if choice != "required" and choice not in names:
        raise InvalidRequest(
            f"tool_choice is {choice!r}, but must be auto, none, required or the name of a tool: "
            f"{', '.join(names)}",
            field="tool_choice",
        )
    return choice


def _extra(extra: Mapping[str, Any] | None) -> dict[str, Any]:
    if not extra:
        return {}
    try:
        members = dict(extra)
        msgspec.json.encode(members)
    except _UNENCODABLE as error:
        raise InvalidRequest(f"extra cannot be sent as JSON: {error}", field="extra") from error
    return members
