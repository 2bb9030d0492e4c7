"""Validate the bodies of batch requests before anything runs."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import msgspec
from msgspec import UNSET, Meta, UnsetType

from foundry_api.batch.types import CHAT_URL, EMBEDDINGS_URL, RESPONSES_URL, URLS
from foundry_api.core.chat import make_chat_request
from foundry_api.types.checks import (
    MAX_SEED,
    MAX_TEMPERATURE,
    MAX_TOKENS,
    check_instructions,
    check_int,
    check_range,
    check_text,
)
from foundry_api.types.errors import InvalidRequest
from foundry_api.types.values import format_value
from foundry_api.wire.errors import NOT_JSON

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from foundry_api.batch.types import BatchUrl
    from foundry_api.core.options import ResponseOptions

    Check = Callable[[str, Any], object]
    Body = Mapping[str, Any]

__all__ = [
    "MEMBERS",
    "is_simple_chat",
    "parse_members",
    "parse_messages",
    "parse_tool_choice",
    "suggest_nearest",
    "validate_body",
]

MAX_PENALTY = 2.0
MAX_INT = 2**31 - 1

# OpenAI returns these in its answers, so clients send them back; no Foundry service reads them.
_UNREAD_MEMBERS = {"refusal", "annotations", "audio", "function_call", "name", "reasoning_content"}

# Members of OpenAI's API that no service generation supports, with the values that ask for the
# default behaviour. Such a value is dropped; any other one is refused, since the answers to a
# million lines would all be wrong for it.
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

_UNSUPPORTED_REASON = "which no version of Foundry Local supports"
_UNSUPPORTED_REASONS: Mapping[str, str] = {
    "stream": "but a batch does not stream its answers",
    "stream_options": "but a batch does not stream its answers",
    "n": "but the service returns one answer per request",
    "dimensions": "but the length of a model's vectors is fixed",
}


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


def validate_body(url: BatchUrl, body: Body) -> dict[str, Any]:
    """Return the body without members that request nothing, such as `"stream": false`."""
    if url == CHAT_URL and is_simple_chat(body):
        return dict(body)
    known = _MEMBER_CHECKS[url]
    members = {name: value for name, value in body.items() if _check_member(url, name, value)}
    # One check per member first: its error names that member. The checks of the whole body come
    # last, since they read several members at once.
    for name, value in members.items():
        known[name](name, value)
    _BODY_CHECKS[url](members)
    return members


def parse_tool_choice(value: object) -> str | None:
    """Return the tool's name, which `client.chat` takes in place of OpenAI's object."""
    match value:
        case None | str():
            return value
        case {"type": "function", "function": {"name": str(name)}}:
            return name
        case {"type": "function", "name": str(name)}:
            return name
        case _:
            raise InvalidRequest(
                f"tool_choice is {format_value(value)}, neither a string nor an object that names "
                "a function",
                field="tool_choice",
            )


def suggest_nearest(name: str, known: Iterable[str]) -> str:
    """Return " (did you mean …?)" if a known name is similar, else an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def is_simple_chat(body: Mapping[str, Any]) -> bool:
    """Return whether a body surely is a valid chat completion; False means "not checked"."""
    # This takes a tenth of the time of checking each member, which counts in a file of millions of
    # lines. Only the commonest form passes; all others go through the full check.
    try:
        chat = msgspec.convert(body, _Chat)
    except (msgspec.ValidationError, UnicodeEncodeError):  # the latter for half a surrogate pair
        return False
    texts = [message.content for message in chat.messages]
    if chat.model is not UNSET:
        texts.append(chat.model)
    return all(map(_is_sendable, texts))


def _is_sendable(text: str) -> bool:
    if not text.isascii():  # only these can hold half a surrogate pair
        try:
            text.encode()
        except UnicodeEncodeError:
            return False
    return not text.isspace() and bool(text) and "\0" not in text


def parse_messages(messages: object) -> list[Any]:
    """Drop the members that no service reads; the client checks the rest."""
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
    if parsed.get("role") == "developer":  # OpenAI's newer name of the role
        parsed["role"] = "system"
    return parsed


def parse_members(arguments: Iterable[str]) -> dict[str, Any]:
    r"""Parse NAME=VALUE arguments; if a name repeats, the last one wins.

    A value is decoded as JSON if possible, else it is text: `max_tokens=50`, `stop=["\n"]`,
    `user=me`. Quotes make text of a value that looks like JSON: `user='"7"'`.
    """
    members: dict[str, Any] = {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        name = name.strip()
        if not equals or not name:
            raise InvalidRequest(
                f"{argument!r} is not NAME=VALUE", field="set", hint="Such as --set max_tokens=50."
            )
        if name not in MEMBERS:
            raise InvalidRequest(
                f"{name} is not a member of a request{suggest_nearest(name, MEMBERS)}", field="set"
            )
        try:
            members[name] = msgspec.json.decode(value)
        except NOT_JSON:
            members[name] = value
    return members


def _check_member(url: BatchUrl, name: str, value: object) -> bool:
    """Return whether a member is to be sent to the service."""
    if name in _MEMBER_CHECKS[url]:
        return value is not None
    if name not in _IGNORED_MEMBERS:
        raise InvalidRequest(
            f"{name} is not a member of a request to {url}"
            f"{suggest_nearest(name, _MEMBER_CHECKS[url])}",
            field=name,
            hint=f"It has {', '.join(_MEMBER_CHECKS[url])}.",
        )
    # The types are compared too: in Python True == 1 and False == 0.
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
    make_chat_request(
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
    # Imported late: few batches use the Responses API, whose modules also load images.
    from foundry_api.core.responses import build_operation  # noqa: PLC0415

    build_operation(_require(body, "input"), cast("ResponseOptions", body))


def _check_embedding(body: Body) -> None:
    texts = _require(body, "input")
    if isinstance(texts, str):
        check_text("input", texts)
        return
    if not isinstance(texts, list) or not texts:
        raise InvalidRequest("input is neither a string nor a list of strings", field="input")
    for index, text in enumerate(cast("list[object]", texts)):
        if isinstance(text, int | list):
            raise InvalidRequest(
                f"input[{index}] is made of tokens, but the service accepts only text",
                field=f"input[{index}]",
            )
        check_text(f"input[{index}]", text)


def _require(body: Body, name: str) -> Any:
    if name not in body:
        raise InvalidRequest(f"{name} is missing", field=name)
    return body[name]


def _format_json(value: object) -> str:
    try:
        return msgspec.json.encode(value).decode()
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError):
        return repr(value)


def _check_later(name: str, value: object) -> None:
    """Accept any value: the check of the whole body validates it with the other members."""


def _check_list(name: str, value: object) -> None:
    if not isinstance(value, list):
        raise InvalidRequest(f"{name} is not a list", field=name)


def _check_objects(name: str, value: object) -> None:
    _check_list(name, value)
    for index, item in enumerate(cast("list[object]", value)):
        _check_object(f"{name}[{index}]", item)


def _check_object(name: str, value: object) -> None:
    if not isinstance(value, dict):
        raise InvalidRequest(f"{name} is not a JSON object", field=name)


def _check_typed_object(name: str, value: object) -> None:
    _check_object(name, value)
    check_text(f"{name}.type", cast("dict[str, Any]", value).get("type"))


def _check_metadata(name: str, value: object) -> None:
    # Services 1.x and 2.x refuse labels whose values are not text, one of them with a 500.
    _check_object(name, value)
    for label, text in cast("dict[str, Any]", value).items():
        if not isinstance(text, str):
            field = f"{name}.{label}"
            raise InvalidRequest(f"{field} is {format_value(text)}, not a string", field=field)


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
# The members that a body may have on each route, and the check for each of them.
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
        "instructions": check_instructions,
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

_BODY_CHECKS: Mapping[BatchUrl, Callable[[Body], None]] = {
    CHAT_URL: _check_chat,
    RESPONSES_URL: _check_response,
    EMBEDDINGS_URL: _check_embedding,
}

MEMBERS: frozenset[str] = frozenset(_IGNORED_MEMBERS).union(*(_MEMBER_CHECKS[url] for url in URLS))
