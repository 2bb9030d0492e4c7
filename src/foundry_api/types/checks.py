"""Validate arguments before a request is sent. Errors name the invalid argument."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeGuard, cast, get_args

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
    "check_cache",
    "check_characters",
    "check_encodable",
    "check_flag",
    "check_int",
    "check_name",
    "check_range",
    "check_repairs",
    "check_several",
    "check_text",
    "check_timeout",
    "instructions",
    "model_names",
    "prompt_to_messages",
    "reject_unknown_options",
    "validate_messages",
]


MAX_TEMPERATURE = 2.0
MAX_TOKENS = 2**31 - 1
"""The engine keeps the bound in an int."""

MAX_SEED = 2**63 - 1

EMPTY_RESULT = '""'
"""What is sent for the empty result of a tool: its JSON, as `run` sends it."""

_ROLES = frozenset(get_args(Role))
_PLAIN_MEMBERS = {"role", "content"}
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def validate_messages(messages: Iterable[Message | Mapping[str, Any]]) -> tuple[Message, ...]:
    """The turns that are sent.

    Empty turns of the system and of the assistant are left out, as a model that only thinks has
    them; the empty result of a tool is sent as `run` sends it.

    Raises:
        InvalidRequest: There are none, or one of the user is empty, or one cannot be sent.
    """
    given: Any = messages
    if type(given) in (list, tuple):
        plain_turns = [_plain_turn(message) for message in given]
        if plain_turns and None not in plain_turns:
            return tuple(cast("list[Message]", plain_turns))
    if isinstance(given, (str, bytes, Message)) or is_mapping(given):
        raise InvalidRequest(
            f"messages is {format_value(given)}, not a list of messages",
            field="messages",
            hint='Give [{"role": "user", "content": "…"}], or call complete() with a prompt.',
        )
    several = check_several("messages", given, "a list of messages")
    turns = [_turn(f"messages[{index}]", message) for index, message in enumerate(several)]
    checked = tuple(turn for turn in turns if turn is not None)
    if not checked:
        wrong = "has only empty messages" if turns else "is empty"
        raise InvalidRequest(f"messages {wrong}", field="messages")
    return checked


def prompt_to_messages(prompt: str, system: str | None = None) -> list[Message]:
    """The conversation of a single prompt, with instructions ahead of it, if there are any.

    Raises:
        InvalidRequest: One of them is no text or cannot be sent, or the prompt is empty.
    """
    ahead = None if system is None else instructions("system", system)
    # A prompt of the commonest form is checked at once.
    is_plain = type(prompt) is str and prompt.isascii() and "\0" not in prompt
    if not is_plain or not prompt or prompt.isspace():
        prompt = check_text("prompt", prompt)
    turn = Message("user", prompt)
    return [turn] if ahead is None else [Message("system", ahead), turn]


def instructions(field: str, value: object) -> str | None:
    """Instructions ahead of what is asked; None where they are empty.

    Raises:
        InvalidRequest: They are no text, or cannot be sent.
    """
    if value is None:
        return None
    text = as_text(value)
    if text is not None and not text.strip():
        return None
    return check_text(field, value)


def check_timeout(timeout: object) -> float | Literal["auto"] | None:
    """A time-out that a call can meet.

    Raises:
        InvalidRequest: It is neither `auto` nor above 0.
    """
    if timeout is None:
        return None
    if as_text(timeout) == "auto":
        return "auto"
    seconds = as_float(timeout)
    if seconds is None or not seconds > 0:
        wrong = "but must be above 0 s" if seconds is not None else "neither seconds nor 'auto'"
        raise InvalidRequest(f"timeout is {format_value(timeout)}, {wrong}", field="timeout")
    return seconds


def check_cache(cache: object) -> Literal["auto", "always", "never"]:
    """A use of the cache that there is.

    Raises:
        InvalidRequest: It is none of `auto`, `always` and `never`.
    """
    match as_text(cache):
        case ("auto" | "always" | "never") as known:
            return known
        case _:
            raise InvalidRequest(
                f"cache is {format_value(cache)}, but must be 'auto', 'always' or 'never'",
                field="cache",
            )


def check_flag(field: str, value: object) -> bool:
    """True or False; None is False.

    Raises:
        InvalidRequest: It is neither.
    """
    if value is None:
        return False
    flag = as_bool(value)
    if flag is None:
        raise InvalidRequest(
            f"{field} is {format_value(value)}, neither True nor False", field=field
        )
    return flag


def check_repairs(max_repairs: object) -> int:
    """A number of repairs.

    Raises:
        InvalidRequest: It is no whole number from 0 on.
    """
    if type(max_repairs) is int and max_repairs >= 0:
        return max_repairs
    if max_repairs is None:
        raise InvalidRequest("max_repairs is None, not a whole number", field="max_repairs")
    return cast("int", check_int("max_repairs", max_repairs, 0, math.inf))


def reject_unknown_options(options: Mapping[str, Any], known: AbstractSet[str]) -> None:
    """Refuse an option that would be ignored.

    Raises:
        TypeError: There is no such option, as Python itself says of an unknown argument.
    """
    for name in options:
        if name not in known:
            raise TypeError(f"a completion takes no argument {name!r}; members go into extra=")


def model_names(model: str | Sequence[str] | None) -> tuple[str, ...]:
    """The models to try, in order; none where the caller named none.

    Raises:
        InvalidRequest: A name is no text, empty, or has control characters.
    """
    if model is None:
        return ()
    if isinstance(model, str):
        return (check_name("model", model),)
    several = check_several("model", model, "a model's name or a list of names")
    if not several:
        raise InvalidRequest("model is an empty list", field="model")
    return tuple(check_name(f"model[{index}]", name) for index, name in enumerate(several))


def _plain_turn(message: object) -> Message | None:
    """A message of the commonest form, checked at once; None for one to look at more closely."""
    if is_dict(message) and message.keys() == _PLAIN_MEMBERS:
        message = Message(message["role"], message["content"])
    if not _is_valid_message(message) or not message.content or message.content.isspace():
        return None
    return message if message.content.isascii() and "\0" not in message.content else None


def _turn(field: str, message: Message | Mapping[str, Any]) -> Message | None:
    """A checked message; None for an empty one that says nothing by being sent."""
    turn = message if _is_valid_message(message) else _coerce_message(field, message)
    if turn.content and not turn.content.isspace():
        check_characters(f"{field}.content", turn.content)
        return turn
    match turn.role:
        case "tool":
            return msgspec.structs.replace(turn, content=EMPTY_RESULT)
        case "assistant" | "system":
            return turn if turn.tool_calls else None
        case "user":
            raise InvalidRequest(f"{field}.content is empty", field=f"{field}.content")


def _coerce_message(field: str, message: object) -> Message:
    try:
        members = _members(field, message)
        content = _flatten_content(f"{field}.content", members.pop("content", None))
        return msgspec.convert({**to_plain(members), "content": content}, Message, strict=True)
    except UNENCODABLE as error:
        if isinstance(error, InvalidRequest):
            raise
        raise InvalidRequest(f"{field} is no message: {error}", field=field) from error


def _members(field: str, message: object) -> dict[str, Any]:
    if isinstance(message, Message):
        return msgspec.structs.asdict(message)
    if not isinstance(message, Iterable) or isinstance(message, str | bytes):
        raise InvalidRequest(
            f"{field} is {format_value(message)}, not a message",
            field=field,
            hint='Give {"role": "user", "content": "…"}, or a Message.',
        )
    return dict(cast("Mapping[str, Any]", message))


def _flatten_content(field: str, content: object) -> str:
    """Parts of text as one text: 1.x would paste their JSON into the prompt."""
    if content is None:
        return ""
    if isinstance(content, list | tuple):
        parts = cast("list[Any]", content)
        return "".join(_content_part(f"{field}[{index}]", part) for index, part in enumerate(parts))
    return check_encodable(field, content)


def _content_part(field: str, part: Any) -> str:
    members: Mapping[Any, Any] = part if is_mapping(part) else {}
    if members.get("type") != "text":
        raise UnsupportedFeature(
            f"{field} is of type {members.get('type')!r}; chat completions read text alone, "
            "in every generation",
            hint="Leave it out: the service would drop it without a word.",
        )
    return check_encodable(f"{field}.text", members.get("text"))


def _is_valid_message(message: object) -> TypeGuard[Message]:
    """Whether it is a message of the right types; its constructor checks none of them."""
    return (
        type(message) is Message
        and (type(message.role) is str and message.role in _ROLES)
        and type(message.content) is str
        and not message.tool_calls
        and message.tool_call_id is None
    )


def check_name(field: str, value: object) -> str:
    """The name of a model.

    Raises:
        InvalidRequest: It is no text, empty, or has control characters.
    """
    name = check_text(field, value)
    if found := _CONTROL.search(name):
        raise InvalidRequest(f"{field} holds the control character {found[0]!r}", field=field)
    return name


def check_text(field: str, value: object) -> str:
    """A text that can be sent.

    Raises:
        InvalidRequest: It is no text, empty, or holds characters that the service can't take.
    """
    text = check_encodable(field, value)
    if not text or text.isspace():
        raise InvalidRequest(f"{field} is empty", field=field)
    return text


def check_encodable(field: str, value: object) -> str:
    """A text that can be sent, which may be empty."""
    text = as_text(value)
    if text is None:
        raise InvalidRequest(f"{field} is {format_value(value)}, not a text", field=field)
    check_characters(field, text)
    return text


def check_characters(field: str, text: str) -> None:
    """Refuse characters that the service can't take.

    Raises:
        InvalidRequest: There are some; the message names them.
    """
    if "\0" in text:
        # Both engines end the prompt at a NUL without a word (foundry-local-service.md, 4.8).
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
    """What is in something to iterate over that is no text, no bytes and no mapping.

    Raises:
        InvalidRequest: It is none, or fails while it is iterated over.
    """
    if not is_list_like(value):
        raise InvalidRequest(f"{field} is {format_value(value)}, not {kind}", field=field)
    return read_argument(field, value)


def check_range(field: str, value: object, low: float, high: float) -> float | None:
    """A number between two others; None is fine.

    Raises:
        InvalidRequest: It is out of bounds, or no number.
    """
    if value is None:
        return None
    if (type(value) is float or type(value) is int) and low <= value <= high:
        return value
    number: float | None = as_int(value)
    number = as_float(value) if number is None else number
    if number is None:
        raise InvalidRequest(f"{field} is {format_value(value)}, not a number", field=field)
    if not low <= number <= high:
        raise InvalidRequest(
            f"{field} is {format_value(number)}, {_must_be(low, high)}", field=field
        )
    return number


def check_int(field: str, value: object, low: float, high: float) -> int | None:
    """A whole number between two others; None is fine.

    Raises:
        InvalidRequest: It is out of bounds, or no whole number.
    """
    if value is None or (type(value) is int and low <= value <= high):
        return value
    # The 2.x service ignores 2.0 and "5" in silence, 1.x answers 500.
    number = as_int(value)
    check_range(field, value, low, high)
    if number is None:
        raise InvalidRequest(f"{field} is {format_value(value)}, not a whole number", field=field)
    return number


def _must_be(low: float, high: float) -> str:
    bounds = f"{_written(low)} or more" if high == math.inf else None
    return f"but must be {bounds or f'from {_written(low)} to {_written(high)}'}"


def _written(number: float) -> str:
    """A bound, with all of its digits if it is a whole number."""
    return str(number) if isinstance(number, int) else f"{number:g}"
