"""What the body of a request may hold, by its route. What no service heeds is refused by its name.

In a batch of a million lines a misspelt member would be found out from a million answers.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import msgspec
from msgspec import UNSET, Meta, UnsetType

from foundry_api.batch.types import CHAT_URL, EMBEDDINGS_URL, RESPONSES_URL, URLS
from foundry_api.types.checks import (
    MAX_SEED,
    MAX_TEMPERATURE,
    MAX_TOKENS,
    chat_request,
    check_int,
    check_range,
    check_text,
    instructions,
)
from foundry_api.types.errors import InvalidRequest
from foundry_api.types.values import format_value
from foundry_api.wire.dialects.base import BAD_JSON

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from foundry_api.batch.types import BatchUrl
    from foundry_api.core.options import ResponseOptions

__all__ = [
    "MEMBERS",
    "is_simple_chat",
    "parse_members",
    "parse_messages",
    "parse_tool_choice",
    "suggest_nearest",
    "validate_body",
]


class _Message(msgspec.Struct, forbid_unknown_fields=True):
    role: Literal["system", "user", "assistant"]
    content: str


class _Chat(msgspec.Struct, forbid_unknown_fields=True):
    messages: Annotated[list[_Message], Meta(min_length=1)]
    model: str | UnsetType = UNSET
    max_tokens: Annotated[int, Meta(ge=1, le=MAX_TOKENS)] | UnsetType = UNSET
    temperature: Annotated[float, Meta(ge=0, le=MAX_TEMPERATURE)] | UnsetType = UNSET
    top_p: Annotated[float, Meta(ge=0, le=1)] | UnsetType = UNSET
    seed: Annotated[int, Meta(ge=-MAX_SEED - 1, le=MAX_SEED)] | UnsetType = UNSET


def is_simple_chat(body: Mapping[str, Any]) -> bool:
    """Whether a chat completion is certainly one that the service can't refuse for its form.

    Of the others this says nothing. It takes a tenth of the time of a look at each member, which
    counts in a file of millions.

    Args:
        body: As it was given.
    """
    try:
        chat = msgspec.convert(body, _Chat)
    except (msgspec.ValidationError, UnicodeEncodeError):  # half a surrogate pair is the second
        return False
    texts = [message.content for message in chat.messages]
    if chat.model is not UNSET:
        texts.append(chat.model)
    return all(map(_is_sendable, texts))


def _is_sendable(text: str) -> bool:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return False
    return not text.isspace() and bool(text) and "\0" not in text


_UNREAD_MEMBERS = {"refusal", "annotations", "audio", "function_call", "name", "reasoning_content"}
"""Members that OpenAI's answers have, and that no Foundry service reads."""


def parse_messages(messages: object) -> list[Any]:
    """Messages without what no service reads, for the client to check the rest.

    Raises:
        InvalidRequest: They are no list.
    """
    if not isinstance(messages, list):
        raise InvalidRequest(f"messages is {format_value(messages)}, not a list", field="messages")
    return [_parse_message(message) for message in cast("list[object]", messages)]


def _parse_message(message: Any) -> Any:
    if not isinstance(message, dict):
        return message
    members = cast("Mapping[str, Any]", message)
    parsed = {
        name: value
        for name, value in members.items()
        if value is not None and name not in _UNREAD_MEMBERS
    }
    if parsed.get("role") == "developer":
        parsed["role"] = "system"
    return parsed


if TYPE_CHECKING:
    Check = Callable[[str, Any], object]
    Body = Mapping[str, Any]


MAX_PENALTY = 2.0
MAX_INT = 2**31 - 1


def validate_body(url: BatchUrl, body: Body) -> dict[str, Any]:
    """A body that the service can't refuse for its form.

    Args:
        url: The route.
        body: As it was given. It may lack a model.

    Returns:
        It without the members that ask for nothing, such as `"stream": false`.

    Raises:
        InvalidRequest: A member is unknown, missing, or at fault; `.field` names it.
        FoundryError: What it asks for is in no generation of the service.
    """
    if url == CHAT_URL and is_simple_chat(body):
        return dict(body)
    known = _MEMBER_CHECKS[url]
    members = {name: value for name, value in body.items() if _check_member(url, name, value)}
    for name, value in members.items():
        known[name](name, value)
    _BODY_CHECKS[url](members)
    return members


def parse_tool_choice(value: object) -> str | None:
    """OpenAI's `tool_choice` as `client.chat` takes it: the name of the tool, not an object.

    Raises:
        InvalidRequest: It is neither.
    """
    match value:
        case None | str():
            return value
        case {"type": "function", "function": {"name": str(name)}}:
            return name
        case {"type": "function", "name": str(name)}:
            return name
        case _:
            raise InvalidRequest(
                "tool_choice is neither a text nor an object that names a function",
                field="tool_choice",
            )


def suggest_nearest(name: str, known: Iterable[str]) -> str:
    """What somebody may have meant, in brackets; nothing where that is anyone's guess.

    Args:
        name: What was written.
        known: What there is.
    """
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _check_member(url: BatchUrl, name: str, value: object) -> bool:
    """Whether a member asks for anything.

    Raises:
        InvalidRequest: It asks for what no service does.
    """
    if name in _MEMBER_CHECKS[url]:
        return value is not None
    if name not in _IGNORED_MEMBERS:
        raise InvalidRequest(
            f"{name} is no member of a request to {url}"
            f"{suggest_nearest(name, _MEMBER_CHECKS[url])}",
            field=name,
            hint=f"It has {', '.join(_MEMBER_CHECKS[url])}.",
        )
    if not any(
        value == ignored and type(value) is type(ignored)
        for ignored in (None, *_IGNORED_MEMBERS[name])
    ):
        raise InvalidRequest(
            f"{name} is {_format_json(value)}, "
            f"{_UNSUPPORTED_REASONS.get(name, _UNSUPPORTED_REASON)}",
            field=name,
            hint="Leave it out.",
        )
    return False


def _check_chat(body: Body) -> None:
    chat_request(
        parse_messages(_require(body, "messages")),
        max_tokens=body.get("max_tokens"),
        temperature=body.get("temperature"),
        top_p=body.get("top_p"),
        seed=body.get("seed"),
        stop=body.get("stop"),
        tools=body.get("tools"),
        tool_choice=parse_tool_choice(body.get("tool_choice")),
    )


def _check_response(body: Body) -> None:
    # Images and the Responses API's own forms, which few batches have.
    from foundry_api.core.responses import build_operation  # noqa: PLC0415

    build_operation(_require(body, "input"), cast("ResponseOptions", body))


def _check_embedding(body: Body) -> None:
    texts = _require(body, "input")
    if isinstance(texts, str):
        check_text("input", texts)
        return
    if not isinstance(texts, list) or not texts:
        raise InvalidRequest("input is neither a text nor a list of texts", field="input")
    for index, text in enumerate(cast("list[object]", texts)):
        if isinstance(text, int | list):
            raise InvalidRequest(
                f"input[{index}] is made of tokens, but the service takes texts alone",
                field=f"input[{index}]",
            )
        check_text(f"input[{index}]", text)


def _require(body: Body, name: str) -> Any:
    if name not in body:
        raise InvalidRequest(f"{name} is missing", field=name)
    return body[name]


def _format_json(value: object) -> str:
    """A value as it is written in JSON, where it can be."""
    try:
        return msgspec.json.encode(value).decode()
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError):
        return repr(value)


def _check_later(name: str, value: object) -> None:
    """Checked with the whole body."""


def _check_list(name: str, value: object) -> None:
    if not isinstance(value, list):
        raise InvalidRequest(f"{name} is no list", field=name)


def _check_objects(name: str, value: object) -> None:
    _check_list(name, value)
    for index, item in enumerate(cast("list[object]", value)):
        _check_object(f"{name}[{index}]", item)


def _check_object(name: str, value: object) -> None:
    if not isinstance(value, dict):
        raise InvalidRequest(f"{name} is no JSON object", field=name)


def _check_typed_object(name: str, value: object) -> None:
    _check_object(name, value)
    check_text(f"{name}.type", cast("dict[str, Any]", value).get("type"))


def _check_metadata(name: str, value: object) -> None:
    """1.x and 2.x refuse labels that are no texts, one of them with a 500."""
    _check_object(name, value)
    for label, text in cast("dict[str, Any]", value).items():
        if not isinstance(text, str):
            field = f"{name}.{label}"
            raise InvalidRequest(f"{field} is {format_value(text)}, not a text", field=field)


def _check_boolean(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise InvalidRequest(f"{name} is {format_value(value)}, neither true nor false", field=name)


def _check_text_or_list(name: str, value: object) -> None:
    if not isinstance(value, str):
        _check_list(name, value)


def _check_text_or_object(name: str, value: object) -> None:
    if not isinstance(value, str):
        _check_object(name, value)


def _check_encoding_format(name: str, value: object) -> None:
    if value not in ("float", "base64"):
        raise InvalidRequest(
            f"{name} is {format_value(value)}, neither float nor base64", field=name
        )


def _check_penalty(name: str, value: object) -> None:
    check_range(name, value, -MAX_PENALTY, MAX_PENALTY)


def _make_int_check(low: int, high: int) -> Check:
    return lambda name, value: check_int(name, value, low, high)


_COMMON_MEMBERS: Mapping[str, Check] = {"model": check_text, "user": check_text}
_SAMPLING_MEMBERS: Mapping[str, Check] = {
    "temperature": _check_later,
    "top_p": _check_later,
    "seed": _check_later,
    "tools": _check_objects,
    "tool_choice": _check_text_or_object,
    "parallel_tool_calls": _check_boolean,
    "frequency_penalty": _check_penalty,
    "presence_penalty": _check_penalty,
    "metadata": _check_metadata,
}
_MEMBER_CHECKS: Mapping[BatchUrl, Mapping[str, Check]] = {
    CHAT_URL: {
        "messages": _check_objects,
        "max_tokens": _check_later,
        "max_completion_tokens": _make_int_check(1, MAX_INT),
        "stop": _check_text_or_list,
        "response_format": _check_typed_object,
        "top_k": _make_int_check(1, MAX_INT),
        "random_seed": _make_int_check(-MAX_SEED - 1, MAX_SEED),
        **_SAMPLING_MEMBERS,
        **_COMMON_MEMBERS,
    },
    RESPONSES_URL: {
        "input": _check_text_or_list,
        "instructions": instructions,
        "max_output_tokens": _check_later,
        "text": _check_object,
        "reasoning": _check_object,
        "previous_response_id": check_text,
        "store": _check_boolean,
        **_SAMPLING_MEMBERS,
        **_COMMON_MEMBERS,
    },
    EMBEDDINGS_URL: {
        "input": _check_later,
        "encoding_format": _check_encoding_format,
        **_COMMON_MEMBERS,
    },
}
"""The members that a body may have, and who checks each of them."""

_BODY_CHECKS: Mapping[BatchUrl, Callable[[Body], None]] = {
    CHAT_URL: _check_chat,
    RESPONSES_URL: _check_response,
    EMBEDDINGS_URL: _check_embedding,
}

_IGNORED_MEMBERS: Mapping[str, tuple[Any, ...]] = {
    "background": (False,),
    "dimensions": (),
    "include": ([],),
    "logit_bias": ({},),
    "logprobs": (False,),
    "modalities": (["text"],),
    "n": (1,),
    "prediction": (),
    "reasoning_effort": (),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "stream": (False,),
    "stream_options": (),
    "top_logprobs": (0,),
    "truncation": ("disabled",),
    "verbosity": (),
    "web_search_options": (),
}
"""Members of OpenAI's that no generation heeds, and the values with which they ask for nothing."""

_UNSUPPORTED_REASON = "which no Foundry Local heeds"
_UNSUPPORTED_REASONS: Mapping[str, str] = {
    "stream": "but the answers of a batch come whole",
    "stream_options": "but the answers of a batch come whole",
    "n": "but the service gives one answer to a request",
    "dimensions": "but a model's vectors have the length that they have",
}

MEMBERS: frozenset[str] = frozenset(_IGNORED_MEMBERS).union(*(_MEMBER_CHECKS[url] for url in URLS))
"""The members that a body may have on one route or another."""


def parse_members(arguments: Iterable[str]) -> dict[str, Any]:
    r"""The members; of a name that comes twice, the last.

    A value is JSON where it can be read as such, else text: `max_tokens=50`, `stop=["\n"]`,
    `user=me`. A text that looks like JSON is put in quotes: `user='"7"'`.

    Args:
        arguments: Each as NAME=VALUE.

    Raises:
        InvalidRequest: One has no `=`, or no body has such a member.
    """
    return dict(map(_parse_member, arguments))


def _parse_member(argument: str) -> tuple[str, Any]:
    name, equals, value = argument.partition("=")
    name = name.strip()
    if not equals or not name:
        raise InvalidRequest(
            f"{argument!r} is not NAME=VALUE", field="set", hint="Such as --set max_tokens=50."
        )
    if name not in MEMBERS:
        raise InvalidRequest(
            f"{name} is no member of a request{suggest_nearest(name, MEMBERS)}", field="set"
        )
    return name, _parse_value(value)


def _parse_value(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except BAD_JSON:
        return text
