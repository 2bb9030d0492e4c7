"""What a response is asked for: checked, in the form that all generations take."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote_to_bytes

import msgspec

from foundry_api.arguments import (
    EMPTY_RESULT,
    MAX_SEED,
    MAX_TEMPERATURE,
    MAX_TOKENS,
    check_range,
    check_several,
    check_text,
    check_whole,
)
from foundry_api.errors import InvalidRequest
from foundry_api.messages import Message
from foundry_api.replies.responses import ResponseItem
from foundry_api.values import UNENCODABLE, is_several, plain, shown

__all__ = [
    "MAX_IMAGE_BYTES",
    "has_images",
    "input_items",
    "json_members",
    "json_object",
    "numbers",
]

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_IMAGE_BYTES = 20 * 2**20
"""Of the file. In base64 it stays below the 30,000,000 bytes that 1.x takes as a body."""

_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"),
)
_WEBP = re.compile(rb"RIFF....WEBP", re.DOTALL)
_TEXTS = frozenset({"input_text", "output_text", "text"})
_LEFT_OUT_IF_EMPTY = frozenset({"assistant", "system", "developer"})


def input_items(value: object) -> str | list[dict[str, Any]]:
    """The input: a text, or items.

    Raises:
        InvalidRequest: It is neither, or a part of it cannot be sent; `.field` names that part.
    """
    if isinstance(value, str):
        return check_text("input", value)
    several = check_several("input", value, "a text or a list of items")
    items = [_item(f"input[{index}]", each) for index, each in enumerate(several)]
    if not items:
        raise InvalidRequest("input is empty", field="input")
    kept = [item for item in items if item is not None]
    if not kept:
        raise InvalidRequest("input has only empty messages", field="input")
    return kept


def has_images(items: str | Sequence[Mapping[str, Any]]) -> bool:
    """Whether there is an image in the input."""
    if isinstance(items, str):
        return False
    contents = [item["content"] for item in items if isinstance(item.get("content"), list)]
    return any(part.get("type") == "input_image" for parts in contents for part in parts)


def json_members(field: str, value: object) -> Any:
    """A value that can be sent as JSON; None is fine.

    Raises:
        InvalidRequest: It cannot.
    """
    try:
        return plain(value)
    except UNENCODABLE as error:
        raise InvalidRequest(f"{field} cannot be sent as JSON: {error}", field=field) from error


def json_object(field: str, value: object) -> dict[str, Any]:
    """A mapping that can be sent as JSON.

    Raises:
        InvalidRequest: It is none, or cannot.
    """
    if not isinstance(value, Mapping):
        raise InvalidRequest(f"{field} is {shown(value)}, not a mapping", field=field)
    members: dict[str, Any] = json_members(field, dict(cast("Mapping[str, Any]", value)))
    return members


def numbers(
    *, temperature: object, top_p: object, max_output_tokens: object, seed: object
) -> dict[str, object]:
    """Those that were given, within the bounds that the services have."""
    checked = {
        "max_output_tokens": check_whole("max_output_tokens", max_output_tokens, 1, MAX_TOKENS),
        "temperature": check_range("temperature", temperature, 0, MAX_TEMPERATURE),
        "top_p": check_range("top_p", top_p, 0, 1),
        "seed": check_whole("seed", seed, -MAX_SEED - 1, MAX_SEED),
    }
    return {name: value for name, value in checked.items() if value is not None}


def _item(field: str, value: object) -> dict[str, Any] | None:
    """An item as it is sent; None for an empty message that says nothing by being sent."""
    if isinstance(value, ResponseItem):
        is_empty = value.type == "message" and value.role != "user" and not value.text.strip()
        return None if is_empty else dict(value.raw)
    if isinstance(value, Message):
        value = msgspec.to_builtins(value)
    if not isinstance(value, Mapping):
        raise InvalidRequest(f"{field} is {shown(value)}, not an item", field=field)
    item = json_object(field, cast("Mapping[str, Any]", value))
    if "role" in item:
        content = item.get("content")
        if item["role"] in _LEFT_OUT_IF_EMPTY and _is_empty(content):
            return None
        item = {"type": "message", **item, "content": _content(field, content)}
    elif not isinstance(item.get("type"), str):
        raise InvalidRequest(f"{field} has neither a role nor a type", field=field)
    if item["type"] == "function_call_output" and _is_empty(item.get("output")):
        item["output"] = EMPTY_RESULT
    return item


def _is_empty(content: Any) -> bool:
    """Whether content has no text, and nothing else."""
    match content:
        case None:
            return True
        case str():
            return not content.strip()
        case list():
            return all(_is_empty_text(part) for part in cast("Any", content))
        case _:
            return False


def _is_empty_text(part: Any) -> bool:
    match part:
        case {"type": str(kind), "text": str(text)}:
            return kind in _TEXTS and not text.strip()
        case _:
            return False


def _content(field: str, content: object) -> object:
    if isinstance(content, str):
        return check_text(f"{field}.content", content)
    if not is_several(content) or not (parts := list(content)):
        raise InvalidRequest(f"{field}.content is {shown(content)}", field=f"{field}.content")
    return [_part(f"{field}.content[{index}]", part) for index, part in enumerate(parts)]


def _part(field: str, part: Any) -> dict[str, Any]:
    told = cast("dict[str, Any]", part) if isinstance(part, dict) else {}
    kind = told.get("type")
    if kind in _TEXTS:
        check_text(f"{field}.text", told.get("text"))
        return told if kind != "text" else {**told, "type": "input_text"}
    if kind == "input_image":
        return _image(f"{field}.image_url", told)
    if not isinstance(kind, str):
        raise InvalidRequest(f"{field} has no type", field=field)
    return told


def _image(field: str, part: dict[str, Any]) -> dict[str, Any]:
    """An image as a data URL, with the kind that 1.x wants beside it."""
    place = part.get("image_url")
    if not isinstance(place, str) or not place:
        raise InvalidRequest(f"{field} is {shown(place)}, not a path or a data URL", field=field)
    if re.match(r"https?:", place, re.IGNORECASE):
        raise InvalidRequest(
            f"{field} is an address on the network, from which no generation reads images",
            field=field,
            hint="Give a path or a data URL.",
        )
    kind, content = _data(field, place) if place.startswith("data:") else ("", _read(field, place))
    if len(content) > MAX_IMAGE_BYTES:
        raise InvalidRequest(
            f"{field} has {len(content)} bytes; {MAX_IMAGE_BYTES} can be sent", field=field
        )
    kind = _kind(content) or kind
    if not kind.startswith("image/"):
        raise InvalidRequest(f"{field} is no PNG, JPEG, GIF, BMP or WebP image", field=field)
    url = f"data:{kind};base64,{base64.b64encode(content).decode()}"
    return {**part, "image_url": url, "media_type": kind}


def _data(field: str, url: str) -> tuple[str, bytes]:
    if len(url) > 2 * MAX_IMAGE_BYTES:
        raise InvalidRequest(f"{field} is longer than {2 * MAX_IMAGE_BYTES}", field=field)
    head, comma, data = url.removeprefix("data:").partition(",")
    kind, *parameters = head.split(";")
    try:
        if not comma:
            raise ValueError("it has no comma")  # noqa: TRY301 - told as what base64 raises
        if "base64" in parameters:
            return kind, base64.b64decode(data, validate=True)
        return kind, unquote_to_bytes(data)
    except (ValueError, binascii.Error) as error:
        raise InvalidRequest(f"{field} is no data URL: {error}", field=field) from error


def _read(field: str, place: str) -> bytes:
    path = Path(place).expanduser()
    try:
        if path.exists() and not path.is_file():
            raise InvalidRequest(  # noqa: TRY301 - a pipe, which is read once, and may never end
                f"{field} is no file: {place}", field=field, hint="Give a file or a data URL."
            )
        with path.open("rb") as file:
            return file.read(MAX_IMAGE_BYTES + 1)
    except InvalidRequest:
        raise
    except (OSError, ValueError, RuntimeError) as error:
        raise InvalidRequest(f"{field} cannot be read: {error}", field=field) from error


def _kind(content: bytes) -> str:
    if _WEBP.match(content):
        return "image/webp"
    return next((kind for start, kind in _SIGNATURES if content.startswith(start)), "")
