"""Validate arguments before a request is sent. Errors name the invalid argument."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeGuard, cast, get_args

import msgspec

from foundry_api.types.errors import InvalidRequest, UnsupportedFeature
from foundry_api.types.messages import Message, Role
from foundry_api.types.user_code import read_argument
from foundry_api.types.values import (
    UNENCODABLE,
    as_bool,
    as_float,
    as_int,
    as_text,
    format_value,
    is_dict,
    is_list_like,
    is_mapping,
    to_plain,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from collections.abc import Set as AbstractSet

__all__ = [
    "ReadTimeouts",
    "Timeout",
    "check_cache",
    "check_characters",
    "check_encodable",
    "check_flag",
    "check_instructions",
    "check_int",
    "check_model_names",
    "check_name",
    "check_range",
    "check_repairs",
    "check_several",
    "check_text",
    "check_timeout",
    "prompt_to_messages",
    "reject_unknown_options",
    "validate_messages",
]

MAX_TEMPERATURE = 2.0
MAX_TOKENS = 2**31 - 1  # the engine stores it in a 32-bit int
MAX_SEED = 2**63 - 1

# The JSON of an empty string. It replaces an empty tool result; run_tools sends the same.
EMPTY_RESULT = '""'

_ROLES = frozenset(get_args(Role))
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class ReadTimeouts(NamedTuple):
    """Exact time limits: unlike those of a number, keep-alives of the service do not extend them.

    Attributes:
        first_token_s: Seconds from the request to the first token.
        gap_s: Seconds between two tokens.
    """

    first_token_s: float
    gap_s: float


Timeout = float | Literal["auto"] | ReadTimeouts


def validate_messages(messages: Iterable[Message | Mapping[str, Any]]) -> tuple[Message, ...]:
    """Return the messages to send, without empty system and assistant messages."""
    value: Any = messages
    # Nearly all conversations take this shorter way.
    if type(value) in (list, tuple):
        simple = [_check_simple_message(message) for message in value]
        if simple and None not in simple:
            return tuple(cast("list[Message]", simple))
    if isinstance(value, (str, bytes, Message)) or is_mapping(value):
        raise InvalidRequest(
            f"messages is {format_value(value)}, not a list of messages",
            field="messages",
            hint='Give [{"role": "user", "content": "…"}], or call complete() with a prompt.',
        )
    items = check_several("messages", value, "a list of messages")
    checked = [_check_message(f"messages[{index}]", item) for index, item in enumerate(items)]
    to_send = tuple(message for message in checked if message is not None)
    if not to_send:
        problem = "has only empty messages" if checked else "is empty"
        raise InvalidRequest(f"messages {problem}", field="messages")
    return to_send


def prompt_to_messages(prompt: str, system: str | None = None) -> list[Message]:
    """Return the messages for a prompt and an optional system prompt."""
    system_text = None if system is None else check_instructions("system", system)
    # Most prompts are ASCII and need no further check.
    is_simple = type(prompt) is str and prompt.isascii() and "\0" not in prompt
    if not is_simple or not prompt or prompt.isspace():
        prompt = check_text("prompt", prompt)
    message = Message("user", prompt)
    return [message] if system_text is None else [Message("system", system_text), message]


def check_instructions(field: str, value: object) -> str | None:
    """Return instructions or a system prompt as text; None if they are empty."""
    if value is None:
        return None
    text = as_text(value)
    if text is not None and not text.strip():
        return None
    return check_text(field, value)


def _check_simple_message(message: object) -> Message | None:
    """Return a message of only role and ASCII content; None if it needs `_check_message`."""
    if type(message) is not Message and is_dict(message) and message.keys() == {"role", "content"}:
        message = Message(message["role"], message["content"])
    if not _is_valid_message(message) or not message.content or message.content.isspace():
        return None
    return message if message.content.isascii() and "\0" not in message.content else None


def _check_message(field: str, value: Message | Mapping[str, Any]) -> Message | None:
    """Return a valid message; None for an empty one that need not be sent."""
    message = value if _is_valid_message(value) else _coerce_message(field, value)
    if message.content and not message.content.isspace():
        check_characters(f"{field}.content", message.content)
        return message
    match message.role:
        case "tool":
            return msgspec.structs.replace(message, content=EMPTY_RESULT)
        case "assistant" | "system":
            # A model that only wrote reasoning leaves an empty assistant message.
            return message if message.tool_calls else None
        case "user":
            raise InvalidRequest(f"{field}.content is empty", field=f"{field}.content")


def _coerce_message(field: str, message: object) -> Message:
    try:
        if isinstance(message, Message):
            members = msgspec.structs.asdict(message)
        elif isinstance(message, Iterable) and not isinstance(message, str | bytes):
            members = dict(cast("Mapping[str, Any]", message))
        else:
            raise InvalidRequest(
                f"{field} is {format_value(message)}, not a message",
                field=field,
                hint='Give {"role": "user", "content": "…"}, or a Message.',
            )
        content = _join_parts(f"{field}.content", members.pop("content", None))
        return msgspec.convert({**to_plain(members), "content": content}, Message, strict=True)
    except UNENCODABLE as error:
        if isinstance(error, InvalidRequest):
            raise
        raise InvalidRequest(f"{field} is not a valid message: {error}", field=field) from error


def _join_parts(field: str, content: object) -> str:
    if content is None:
        return ""
    if not isinstance(content, list | tuple):
        return check_encodable(field, content)
    # Joined here, because SDK 1.x would put the JSON of the parts into the prompt.
    texts: list[str] = []
    for index, part in enumerate(cast("list[Any]", content)):
        members: Mapping[Any, Any] = part if is_mapping(part) else {}
        if members.get("type") != "text":
            raise UnsupportedFeature(
                f"{field}[{index}] is of type {members.get('type')!r}; chat completions accept "
                "text only, in every generation",
                field=f"{field}[{index}]",
                hint="Leave it out: the service would silently drop it.",
            )
        texts.append(check_encodable(f"{field}[{index}].text", members.get("text")))
    return "".join(texts)


def _is_valid_message(message: object) -> TypeGuard[Message]:
    # Message's constructor does not check types.
    return (
        type(message) is Message
        and (type(message.role) is str and message.role in _ROLES)
        and type(message.content) is str
        and not message.tool_calls
        and message.tool_call_id is None
    )


def check_timeout(timeout: object) -> Timeout | None:
    """Return a timeout: `auto` or seconds above 0; None if the argument is None."""
    if timeout is None or isinstance(timeout, ReadTimeouts):
        return timeout
    if as_text(timeout) == "auto":
        return "auto"
    seconds = as_float(timeout)
    if seconds is None or not seconds > 0:
        problem = "but must be above 0 s" if seconds is not None else "neither seconds nor 'auto'"
        raise InvalidRequest(f"timeout is {format_value(timeout)}, {problem}", field="timeout")
    return seconds


def check_cache(cache: object) -> Literal["auto", "always", "never"]:
    """Return a cache mode: `auto`, `always` or `never`."""
    match as_text(cache):
        case ("auto" | "always" | "never") as known:
            return known
        case _:
            raise InvalidRequest(
                f"cache is {format_value(cache)}, but must be 'auto', 'always' or 'never'",
                field="cache",
            )


def check_flag(field: str, value: object) -> bool:
    """Return a bool; None counts as False."""
    if value is None:
        return False
    flag = as_bool(value)
    if flag is None:
        raise InvalidRequest(
            f"{field} is {format_value(value)}, neither True nor False", field=field
        )
    return flag


def check_repairs(max_repairs: object) -> int:
    """Return the number of repairs, an integer of 0 or more."""
    if type(max_repairs) is int and max_repairs >= 0:
        return max_repairs
    if max_repairs is None:
        raise InvalidRequest("max_repairs is None, not a whole number", field="max_repairs")
    return cast("int", check_int("max_repairs", max_repairs, 0, math.inf))


def reject_unknown_options(options: Mapping[str, Any], known: AbstractSet[str]) -> None:
    """Raise TypeError for an unknown option, as Python does for an unknown argument."""
    for name in options:
        if name not in known:
            raise TypeError(f"a completion takes no argument {name!r}; members go into extra=")


def check_model_names(model: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return the models to try, in order; none for None."""
    if model is None:
        return ()
    if isinstance(model, str):
        return (check_name("model", model),)
    names = check_several("model", model, "a model's name or a list of names")
    if not names:
        raise InvalidRequest("model is an empty list", field="model")
    return tuple(check_name(f"model[{index}]", name) for index, name in enumerate(names))


def check_name(field: str, value: object) -> str:
    """Return a model's name: a text that is not empty, without control characters."""
    # Nearly all names are ASCII and need no further check.
    if type(value) is str and value.isascii() and value.isprintable() and value.strip():
        return value
    name = check_text(field, value)
    if found := _CONTROL.search(name):
        raise InvalidRequest(f"{field} holds the control character {found[0]!r}", field=field)
    return name


def check_text(field: str, value: object) -> str:
    """Return a text that is not empty and that the service accepts."""
    text = check_encodable(field, value)
    if not text or text.isspace():
        raise InvalidRequest(f"{field} is empty", field=field)
    return text


def check_encodable(field: str, value: object) -> str:
    """Return a text that the service accepts; it may be empty."""
    text = as_text(value)
    if text is None:
        raise InvalidRequest(f"{field} is {format_value(value)}, not a string", field=field)
    check_characters(field, text)
    return text


def check_characters(field: str, text: str) -> None:
    """Raise InvalidRequest for characters that the service cannot process."""
    if "\0" in text:
        # Both engines silently cut the prompt at a NUL (docs/foundry-local-service.md, 4.8).
        raise InvalidRequest(f"{field} holds a NUL character", field=field)
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            f"{field} holds a lone surrogate at position {error.start}", field=field
        ) from error


def check_several(field: str, value: object, kind: str = "a list") -> Sequence[Any]:
    """Return the items of an iterable that is not a string, bytes or a mapping."""
    if not is_list_like(value):
        raise InvalidRequest(f"{field} is {format_value(value)}, not {kind}", field=field)
    return read_argument(field, value)


def check_range(field: str, value: object, low: float, high: float) -> float | None:
    """Return a number between `low` and `high`, or None for None."""
    if value is None:
        return None
    if (type(value) is float or type(value) is int) and low <= value <= high:
        return value
    number: float | None = as_int(value)
    number = as_float(value) if number is None else number
    if number is None:
        raise InvalidRequest(f"{field} is {format_value(value)}, not a number", field=field)
    if not low <= number <= high:
        limits = f"must be from {_format_limit(low)} to {_format_limit(high)}"
        if high == math.inf:
            limits = f"must be {_format_limit(low)} or more"
        raise InvalidRequest(f"{field} is {format_value(number)}, but {limits}", field=field)
    return number


def check_int(field: str, value: object, low: float, high: float) -> int | None:
    """Return an integer between `low` and `high`, or None for None."""
    if value is None or (type(value) is int and low <= value <= high):
        return value
    # SDK 2.x silently ignores 2.0 and "5"; SDK 1.x answers 500.
    number = as_int(value)
    check_range(field, value, low, high)
    if number is None:
        raise InvalidRequest(f"{field} is {format_value(value)}, not a whole number", field=field)
    return number


def _format_limit(number: float) -> str:
    # `g` would write 2**31 - 1 as 2.14748e+09.
    return str(number) if isinstance(number, int) else f"{number:g}"
