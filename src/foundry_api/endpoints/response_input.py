"""What a response is asked for: checked, in the form that all generations take."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote_to_bytes

import msgspec

from foundry_api.arguments import check_range, check_text
from foundry_api.errors import InvalidRequest
from foundry_api.messages import Message
from foundry_api.replies.responses import ResponseItem

__all__ = ["MAX_IMAGE_BYTES", "has_images", "input_items", "json_members", "numbers"]

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
_UNENCODABLE = (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError)


def input_items(value: object) -> str | list[dict[str, Any]]:
    """The input: a text, or items.

    Raises:
        InvalidRequest: It is neither, or a part of it cannot be sent; `.field` names that part.
    """
    if isinstance(value, str):
        return check_text("input", value)
    if not isinstance(value, Iterable) or isinstance(value, Mapping | bytes):
        raise InvalidRequest(f"input is {value!r}, neither a text nor a list", field="input")
    several = cast("Iterable[object]", value)
    items = [_item(f"input[{index}]", each) for index, each in enumerate(several)]
    if not items:
        raise InvalidRequest("input is empty", field="input")
    return items


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
        return msgspec.json.decode(msgspec.json.encode(value))
    except _UNENCODABLE as error:
        raise InvalidRequest(f"{field} cannot be sent as JSON: {error}", field=field) from error


def numbers(**values: object) -> dict[str, object]:
    """Those that were given, within the bounds that the services have."""
    bounds = {"temperature": (0, 2), "top_p": (0, 1), "max_output_tokens": (1, 2**31 - 1)}
    bounds["seed"] = (-(2**63), 2**63 - 1)
    for name, value in values.items():
        check_range(name, value, *bounds[name])
        if name in {"max_output_tokens", "seed"} and isinstance(value, float):
            raise InvalidRequest(f"{name} is {value!r}, not a whole number", field=name)
    return {name: value for name, value in values.items() if value is not None}


def _item(field: str, value: object) -> dict[str, Any]:
    if isinstance(value, ResponseItem):
        return dict(value.raw)
    if isinstance(value, Message):
        value = msgspec.to_builtins(value)
    if not isinstance(value, Mapping):
        raise InvalidRequest(f"{field} is {value!r}, not an item", field=field)
    item: dict[str, Any] = json_members(field, dict(cast("Mapping[str, Any]", value)))
    if "role" in item:
        item = {"type": "message", **item, "content": _content(field, item.get("content"))}
    elif not isinstance(item.get("type"), str):
        raise InvalidRequest(f"{field} has neither a role nor a type", field=field)
    return item


def _content(field: str, content: object) -> object:
    if isinstance(content, str):
        return check_text(f"{field}.content", content)
    if not isinstance(content, list) or not content:
        raise InvalidRequest(f"{field}.content is {content!r}", field=f"{field}.content")
    parts: list[Any] = content  # pyright: ignore[reportUnknownVariableType] # a caller's own
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
        raise InvalidRequest(f"{field} is {place!r}, not a path or a data URL", field=field)
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
