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
    check_range,
    check_text,
    check_whole,
    instructions,
)
from foundry_api.types.errors import InvalidRequest
from foundry_api.types.values import shown
from foundry_api.wire.dialects.base import BAD_JSON

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from foundry_api.batch.types import BatchUrl
    from foundry_api.core.options import ResponseOptions

__all__ = [
    "MEMBERS",
    "checked_body",
    "chosen_tool",
    "is_plain_chat",
    "nearest",
    "parsed_members",
    "turns",
]


class _Turn(msgspec.Struct, forbid_unknown_fields=True):
    role: Literal["system", "user", "assistant"]
    content: str


class _Chat(msgspec.Struct, forbid_unknown_fields=True):
    messages: Annotated[list[_Turn], Meta(min_length=1)]
    model: str | UnsetType = UNSET
    max_tokens: Annotated[int, Meta(ge=1, le=MAX_TOKENS)] | UnsetType = UNSET
    temperature: Annotated[float, Meta(ge=0, le=MAX_TEMPERATURE)] | UnsetType = UNSET
    top_p: Annotated[float, Meta(ge=0, le=1)] | UnsetType = UNSET
    seed: Annotated[int, Meta(ge=-MAX_SEED - 1, le=MAX_SEED)] | UnsetType = UNSET


def is_plain_chat(body: Mapping[str, Any]) -> bool:
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
    texts = [turn.content for turn in chat.messages]
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


_UNREAD = {"refusal", "annotations", "audio", "function_call", "name", "reasoning_content"}
"""Members that OpenAI's answers have, and that no Foundry service reads."""


def turns(messages: object) -> list[Any]:
    """Messages without what no service reads, for the client to check the rest.

    Raises:
        InvalidRequest: They are no list.
    """
    if not isinstance(messages, list):
        raise InvalidRequest(f"messages is {shown(messages)}, not a list", field="messages")
    return [_turn(each) for each in cast("list[object]", messages)]


def _turn(message: Any) -> Any:
    if not isinstance(message, dict):
        return message
    told = cast("Mapping[str, Any]", message)
    turn = {
        name: value for name, value in told.items() if value is not None and name not in _UNREAD
    }
    if turn.get("role") == "developer":
        turn["role"] = "system"
    return turn


if TYPE_CHECKING:
    Check = Callable[[str, Any], object]
    Body = Mapping[str, Any]


MAX_PENALTY = 2.0
MAX_INT = 2**31 - 1


def checked_body(url: BatchUrl, body: Body) -> dict[str, Any]:
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
    if url == CHAT_URL and is_plain_chat(body):
        return dict(body)
    known = _KNOWN[url]
    kept = {name: value for name, value in body.items() if _asks(url, name, value)}
    for name, value in kept.items():
        known[name](name, value)
    _WHOLE[url](kept)
    return kept


def chosen_tool(value: object) -> str | None:
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


def nearest(name: str, known: Iterable[str]) -> str:
    """What somebody may have meant, in brackets; nothing where that is anyone's guess.

    Args:
        name: What was written.
        known: What there is.
    """
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _asks(url: BatchUrl, name: str, value: object) -> bool:
    """Whether a member asks for anything.

    Raises:
        InvalidRequest: It asks for what no service does.
    """
    if name in _KNOWN[url]:
        return value is not None
    if name not in _IDLE:
        raise InvalidRequest(
            f"{name} is no member of a request to {url}{nearest(name, _KNOWN[url])}",
            field=name,
            hint=f"It has {', '.join(_KNOWN[url])}.",
        )
    if not any(value == idle and type(value) is type(idle) for idle in (None, *_IDLE[name])):
        raise InvalidRequest(
            f"{name} is {_told(value)}, {_WHY.get(name, _UNHEEDED)}",
            field=name,
            hint="Leave it out.",
        )
    return False


def _whole_chat(body: Body) -> None:
    chat_request(
        turns(_needed(body, "messages")),
        max_tokens=body.get("max_tokens"),
        temperature=body.get("temperature"),
        top_p=body.get("top_p"),
        seed=body.get("seed"),
        stop=body.get("stop"),
        tools=body.get("tools"),
        tool_choice=chosen_tool(body.get("tool_choice")),
    )


def _whole_response(body: Body) -> None:
    # Images and the Responses API's own forms, which few batches have.
    from foundry_api.core.responses import responding  # noqa: PLC0415

    responding(_needed(body, "input"), cast("ResponseOptions", body))


def _whole_embedding(body: Body) -> None:
    texts = _needed(body, "input")
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


def _needed(body: Body, name: str) -> Any:
    if name not in body:
        raise InvalidRequest(f"{name} is missing", field=name)
    return body[name]


def _told(value: object) -> str:
    """A value as it is written in JSON, where it can be."""
    try:
        return msgspec.json.encode(value).decode()
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError):
        return repr(value)


def _later(name: str, value: object) -> None:
    """Checked with the whole body."""


def _list(name: str, value: object) -> None:
    if not isinstance(value, list):
        raise InvalidRequest(f"{name} is no list", field=name)


def _objects(name: str, value: object) -> None:
    _list(name, value)
    for index, each in enumerate(cast("list[object]", value)):
        _object(f"{name}[{index}]", each)


def _object(name: str, value: object) -> None:
    if not isinstance(value, dict):
        raise InvalidRequest(f"{name} is no JSON object", field=name)


def _typed(name: str, value: object) -> None:
    _object(name, value)
    check_text(f"{name}.type", cast("dict[str, Any]", value).get("type"))


def _labels(name: str, value: object) -> None:
    """1.x and 2.x refuse labels that are no texts, one of them with a 500."""
    _object(name, value)
    for label, text in cast("dict[str, Any]", value).items():
        if not isinstance(text, str):
            field = f"{name}.{label}"
            raise InvalidRequest(f"{field} is {shown(text)}, not a text", field=field)


def _boolean(name: str, value: object) -> None:
    if not isinstance(value, bool):
        raise InvalidRequest(f"{name} is {shown(value)}, neither true nor false", field=name)


def _text_or_list(name: str, value: object) -> None:
    if not isinstance(value, str):
        _list(name, value)


def _text_or_object(name: str, value: object) -> None:
    if not isinstance(value, str):
        _object(name, value)


def _encoding(name: str, value: object) -> None:
    if value not in ("float", "base64"):
        raise InvalidRequest(f"{name} is {shown(value)}, neither float nor base64", field=name)


def _penalty(name: str, value: object) -> None:
    check_range(name, value, -MAX_PENALTY, MAX_PENALTY)


def _whole_number(low: int, high: int) -> Check:
    return lambda name, value: check_whole(name, value, low, high)


_EVERYWHERE: Mapping[str, Check] = {"model": check_text, "user": check_text}
_SAMPLED: Mapping[str, Check] = {
    "temperature": _later,
    "top_p": _later,
    "seed": _later,
    "tools": _objects,
    "tool_choice": _text_or_object,
    "parallel_tool_calls": _boolean,
    "frequency_penalty": _penalty,
    "presence_penalty": _penalty,
    "metadata": _labels,
}
_KNOWN: Mapping[BatchUrl, Mapping[str, Check]] = {
    CHAT_URL: {
        "messages": _objects,
        "max_tokens": _later,
        "max_completion_tokens": _whole_number(1, MAX_INT),
        "stop": _text_or_list,
        "response_format": _typed,
        "top_k": _whole_number(1, MAX_INT),
        "random_seed": _whole_number(-MAX_SEED - 1, MAX_SEED),
        **_SAMPLED,
        **_EVERYWHERE,
    },
    RESPONSES_URL: {
        "input": _text_or_list,
        "instructions": instructions,
        "max_output_tokens": _later,
        "text": _object,
        "reasoning": _object,
        "previous_response_id": check_text,
        "store": _boolean,
        **_SAMPLED,
        **_EVERYWHERE,
    },
    EMBEDDINGS_URL: {"input": _later, "encoding_format": _encoding, **_EVERYWHERE},
}
"""The members that a body may have, and who checks each of them."""

_WHOLE: Mapping[BatchUrl, Callable[[Body], None]] = {
    CHAT_URL: _whole_chat,
    RESPONSES_URL: _whole_response,
    EMBEDDINGS_URL: _whole_embedding,
}

_IDLE: Mapping[str, tuple[Any, ...]] = {
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

_UNHEEDED = "which no Foundry Local heeds"
_WHY: Mapping[str, str] = {
    "stream": "but the answers of a batch come whole",
    "stream_options": "but the answers of a batch come whole",
    "n": "but the service gives one answer to a request",
    "dimensions": "but a model's vectors have the length that they have",
}

MEMBERS: frozenset[str] = frozenset(_IDLE).union(*(_KNOWN[url] for url in URLS))
"""The members that a body may have on one route or another."""


def parsed_members(told: Iterable[str]) -> dict[str, Any]:
    r"""The members; of a name that comes twice, the last.

    A value is JSON where it can be read as such, else text: `max_tokens=50`, `stop=["\n"]`,
    `user=me`. A text that looks like JSON is put in quotes: `user='"7"'`.

    Args:
        told: Each as NAME=VALUE.

    Raises:
        InvalidRequest: One has no `=`, or no body has such a member.
    """
    return dict(map(_parsed, told))


def _parsed(told: str) -> tuple[str, Any]:
    name, equals, value = told.partition("=")
    name = name.strip()
    if not equals or not name:
        raise InvalidRequest(
            f"{told!r} is not NAME=VALUE", field="set", hint="Such as --set max_tokens=50."
        )
    if name not in MEMBERS:
        raise InvalidRequest(
            f"{name} is no member of a request{nearest(name, MEMBERS)}", field="set"
        )
    return name, _value(value)


def _value(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except BAD_JSON:
        return text
