"""One response that is asked for: what is checked, sent, and put right."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast
from urllib.parse import unquote_to_bytes

import msgspec

from foundry_api.core.model_task import check_vision
from foundry_api.core.operation import EndpointOperation
from foundry_api.types.checks import (
    EMPTY_RESULT,
    MAX_SEED,
    MAX_TEMPERATURE,
    MAX_TOKENS,
    check_flag,
    check_int,
    check_range,
    check_several,
    check_text,
    instructions,
)
from foundry_api.types.errors import (
    ContextOverflow,
    InvalidRequest,
    ResponseNotFound,
    ServiceNotRunning,
    UnsupportedFeature,
)
from foundry_api.types.messages import Message
from foundry_api.types.results import Response, ResponseEvent, ResponseItem
from foundry_api.types.values import UNENCODABLE, as_text, format_value, is_list_like, to_plain
from foundry_api.wire.chat.request import make_readable_schema
from foundry_api.wire.chat.stream import DEFAULT_MAX_TOKENS
from foundry_api.wire.dialects.base import QUICK_TIMEOUT_S, parse_error
from foundry_api.wire.endpoints.responses import RESPONSES_ROUTE, ResponseReader, ResponseStream
from foundry_api.wire.transport import MAX_SUCCESS_STATUS, OK, fetch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from foundry_api.core.connection import Connection
    from foundry_api.core.options import ResponseOptions
    from foundry_api.core.residency.stored_responses import Retention
    from foundry_api.types.capabilities import Capabilities
    from foundry_api.types.errors import FoundryError
    from foundry_api.types.events import OperationName
    from foundry_api.types.models import Model
    from foundry_api.wire.transport import Request

__all__ = [
    "MAX_IMAGE_BYTES",
    "ResponseOperation",
    "build_operation",
    "has_images",
    "make_input_items",
    "make_reader",
    "to_json_members",
    "to_json_object",
    "validate_numbers",
    "validate_response_id",
]


MAX_IMAGE_BYTES = 20 * 2**20
"""Of the file. In base64 it stays below the 30,000,000 bytes that 1.x takes as a body."""

_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"),
)
_WEBP = re.compile(rb"RIFF....WEBP", re.DOTALL)
_TEXT_TYPES = frozenset({"input_text", "output_text", "text"})
_OMITTED_IF_EMPTY = frozenset({"assistant", "system", "developer"})


def make_input_items(value: object) -> str | list[dict[str, Any]]:
    """The input: a text, or items.

    Raises:
        InvalidRequest: It is neither, or a part of it cannot be sent; `.field` names that part.
    """
    if isinstance(value, str):
        return check_text("input", value)
    elements = check_several("input", value, "a text or a list of items")
    items = [_make_item(f"input[{index}]", element) for index, element in enumerate(elements)]
    if not items:
        raise InvalidRequest("input is empty", field="input")
    sent_items = [item for item in items if item is not None]
    if not sent_items:
        raise InvalidRequest("input has only empty messages", field="input")
    return sent_items


def has_images(items: str | Sequence[Mapping[str, Any]]) -> bool:
    """Whether there is an image in the input."""
    if isinstance(items, str):
        return False
    contents = [item["content"] for item in items if isinstance(item.get("content"), list)]
    return any(part.get("type") == "input_image" for parts in contents for part in parts)


def to_json_members(field: str, value: object) -> Any:
    """A value that can be sent as JSON; None is fine.

    Raises:
        InvalidRequest: It cannot.
    """
    try:
        return to_plain(value)
    except UNENCODABLE as error:
        raise InvalidRequest(f"{field} cannot be sent as JSON: {error}", field=field) from error


def to_json_object(field: str, value: object) -> dict[str, Any]:
    """A mapping that can be sent as JSON.

    Raises:
        InvalidRequest: It is none, or cannot.
    """
    if not isinstance(value, Mapping):
        raise InvalidRequest(f"{field} is {format_value(value)}, not a mapping", field=field)
    members: dict[str, Any] = to_json_members(field, dict(cast("Mapping[str, Any]", value)))
    return members


def validate_numbers(
    *, temperature: object, top_p: object, max_output_tokens: object, seed: object
) -> dict[str, object]:
    """Those that were given, within the bounds that the services have."""
    validated = {
        "max_output_tokens": check_int("max_output_tokens", max_output_tokens, 1, MAX_TOKENS),
        "temperature": check_range("temperature", temperature, 0, MAX_TEMPERATURE),
        "top_p": check_range("top_p", top_p, 0, 1),
        "seed": check_int("seed", seed, -MAX_SEED - 1, MAX_SEED),
    }
    return {name: value for name, value in validated.items() if value is not None}


def _make_item(field: str, value: object) -> dict[str, Any] | None:
    """An item as it is sent; None for an empty message that says nothing by being sent."""
    if isinstance(value, ResponseItem):
        is_empty = value.type == "message" and value.role != "user" and not value.text.strip()
        return None if is_empty else dict(value.raw)
    if isinstance(value, Message):
        value = msgspec.to_builtins(value)
    if not isinstance(value, Mapping):
        raise InvalidRequest(f"{field} is {format_value(value)}, not an item", field=field)
    item = to_json_object(field, cast("Mapping[str, Any]", value))
    if "role" in item:
        content = item.get("content")
        if item["role"] in _OMITTED_IF_EMPTY and _is_empty(content):
            return None
        item = {"type": "message", **item, "content": _make_content(field, content)}
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
            return kind in _TEXT_TYPES and not text.strip()
        case _:
            return False


def _make_content(field: str, content: object) -> object:
    if isinstance(content, str):
        return check_text(f"{field}.content", content)
    if not is_list_like(content) or not (parts := list(content)):
        raise InvalidRequest(
            f"{field}.content is {format_value(content)}", field=f"{field}.content"
        )
    return [_make_part(f"{field}.content[{index}]", part) for index, part in enumerate(parts)]


def _make_part(field: str, part: Any) -> dict[str, Any]:
    members = cast("dict[str, Any]", part) if isinstance(part, dict) else {}
    kind = members.get("type")
    if kind in _TEXT_TYPES:
        check_text(f"{field}.text", members.get("text"))
        return members if kind != "text" else {**members, "type": "input_text"}
    if kind == "input_image":
        return _make_image(f"{field}.image_url", members)
    if not isinstance(kind, str):
        raise InvalidRequest(f"{field} has no type", field=field)
    return members


def _make_image(field: str, part: dict[str, Any]) -> dict[str, Any]:
    """An image as a data URL, with the kind that 1.x wants beside it."""
    place = part.get("image_url")
    if not isinstance(place, str) or not place:
        raise InvalidRequest(
            f"{field} is {format_value(place)}, not a path or a data URL", field=field
        )
    if re.match(r"https?:", place, re.IGNORECASE):
        raise InvalidRequest(
            f"{field} is an address on the network, from which no generation reads images",
            field=field,
            hint="Give a path or a data URL.",
        )
    kind, content = (
        _decode_data_url(field, place)
        if place.startswith("data:")
        else ("", _read_image(field, place))
    )
    if len(content) > MAX_IMAGE_BYTES:
        raise InvalidRequest(
            f"{field} has {len(content)} bytes; {MAX_IMAGE_BYTES} can be sent", field=field
        )
    kind = _detect_image_type(content) or kind
    if not kind.startswith("image/"):
        raise InvalidRequest(f"{field} is no PNG, JPEG, GIF, BMP or WebP image", field=field)
    url = f"data:{kind};base64,{base64.b64encode(content).decode()}"
    return {**part, "image_url": url, "media_type": kind}


def _decode_data_url(field: str, url: str) -> tuple[str, bytes]:
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


def _read_image(field: str, place: str) -> bytes:
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


def _detect_image_type(content: bytes) -> str:
    if _WEBP.match(content):
        return "image/webp"
    return next((kind for start, kind in _SIGNATURES if content.startswith(start)), "")


if TYPE_CHECKING:
    Input = str | Sequence[Mapping[str, Any] | Message | ResponseItem]


_ID = re.compile(r"[\w.-]{1,200}", re.ASCII)


@dataclass(frozen=True, slots=True)
class ResponseOperation(EndpointOperation[ResponseEvent, Response]):
    """A response that is asked for.

    Attributes:
        members: Of the JSON body, all but the model and `stream`; checked.
        retention: Until when a stored one stays.
        is_continuation: Whether it goes on with a conversation whose instructions were told before.
    """

    members: dict[str, Any]
    retention: Retention = "until_unload"
    is_continuation: bool = False
    name: ClassVar[OperationName] = "response"

    def is_final(self, error: FoundryError, *, was_sent: bool) -> bool:
        """Whether it may have been stored: one that is made twice would be kept twice."""
        if not self.members.get("store") or not was_sent:
            return False
        was_refused = error.status is not None and error.status > MAX_SUCCESS_STATUS
        return not was_refused and not isinstance(error, ServiceNotRunning)

    def check(self, capabilities: Capabilities) -> None:
        """Refuse a generation without responses, or without what this one needs."""
        generation = capabilities.service_generation
        if capabilities.responses == "unsupported":
            raise UnsupportedFeature(
                f"a service of generation {generation} has no Responses API",
                hint="Use chat(), which every generation has.",
            )
        seed = self.members.get("seed")
        if seed is not None and not -capabilities.max_seed - 1 <= seed <= capabilities.max_seed:
            raise InvalidRequest(
                f"seed is {seed}, but {generation} takes {capabilities.max_seed} at most",
                field="seed",
            )
        kind = _get_text_format(self.members.get("text"))
        if kind != "text" and capabilities.json_schema != "native":
            raise UnsupportedFeature(
                f"a service of generation {generation} ignores a text format of type {kind!r}",
                hint="Leave text out and check the answer, or use a service of SDK 2.1 or later.",
            )

    async def preflight(self, connection: Connection, model: Model) -> None:
        """Refuse to go on from what is not there, and images that the model cannot see."""
        previous = self.members.get("previous_response_id")
        corrected = connection.dialect.capabilities.chained_responses == "corrected"
        if previous is not None and corrected:
            await _check_stored(connection, model, previous)
        if has_images(self.members["input"]):
            await check_vision(connection, model)

    def request(self, connection: Connection, model: Model) -> Request:
        """What is sent."""
        return self._build_request(connection, model, stream=True)

    def non_streaming_request(self, connection: Connection, model: Model) -> Request | None:
        """The same without streaming, where a stream that fails at once says nothing."""
        if connection.dialect.capabilities.stream_errors == "native":
            return None
        return self._build_request(connection, model, stream=False, store=False)

    def decoder(self, connection: Connection, model: Model) -> ResponseStream:
        """Reads the events, and has what is stored released later."""
        store = bool(self.members.get("store"))

        def on_created(response_id: str) -> None:
            if store:
                connection.stored_responses.add(response_id, model, self.retention)

        return ResponseStream(make_reader(connection), on_created)

    def collect(self, chunks: list[ResponseEvent], texts: list[str], *, keep_result: bool) -> None:
        """Keep the text."""
        del keep_result
        texts += [chunk.text for chunk in chunks]

    def amend(self, error: FoundryError) -> ResponseOperation | None:
        """Ask for what fits, when the caller set no bound and the service's default overflows."""
        if not isinstance(error, ContextOverflow) or "max_output_tokens" in self.members:
            return None
        if (room := error.available_tokens) is None:
            error.blame_prompt()
            return None
        return replace(self, members={**self.members, "max_output_tokens": room})

    def _build_request(self, connection: Connection, model: Model, **extra: bool) -> Request:
        body = {"model": model.id, **self.members, **extra}
        if (
            self.is_continuation
            and connection.dialect.capabilities.chained_responses == "corrected"
        ):
            # 1.2.4 and 2.0.1 keep them with the input, and would read them twice.
            body.pop("instructions", None)
        match body.get("text"):
            case {"format": {"type": "json_schema", "schema": schema} as form, **rest}:
                body["text"] = {**rest, "format": {**form, "schema": make_readable_schema(schema)}}
            case _:
                pass
        path = connection.dialect.make_path(model.catalog, RESPONSES_ROUTE)
        return connection.wire.build_post(path, msgspec.json.encode(body))


def build_operation(
    response_input: object,
    options: ResponseOptions,
    *,
    retention: Retention | None = None,
    is_continuation: bool = False,
) -> ResponseOperation:
    """What is asked for, checked.

    Args:
        response_input: The input.
        options: The caller's.
        retention: Until when a stored one stays; None goes by the options.
        is_continuation: Whether it goes on with a conversation whose instructions were told before.

    Raises:
        InvalidRequest: An argument is at fault; `.field` names it.
    """
    previous, extra = options.get("previous_response_id"), options.get("extra")
    members: dict[str, Any] = {
        **({} if extra is None else to_json_object("extra", extra)),
        "input": make_input_items(response_input),
        "store": check_flag("store", options.get("store")),
        **validate_numbers(
            max_output_tokens=options.get("max_output_tokens"),
            temperature=options.get("temperature"),
            top_p=options.get("top_p"),
            seed=options.get("seed"),
        ),
        **_members(options),
    }
    if previous is not None:
        members["previous_response_id"] = validate_response_id("previous_response_id", previous)
    retention = retention or (
        "forever" if check_flag("keep", options.get("keep")) else "until_unload"
    )
    return ResponseOperation(members, retention, is_continuation)


def _get_text_format(text: object) -> str:
    """What kind of text is wanted."""
    match text:
        case {"format": {"type": str(kind)}}:
            return kind
        case _:
            return "text"


def validate_response_id(field: str, value: object) -> str:
    """The id of a response, which becomes part of a path.

    Raises:
        InvalidRequest: It is none.
    """
    name = as_text(value)
    if name is None or not _ID.fullmatch(name) or not name.strip("."):
        raise InvalidRequest(
            f"{field} is {format_value(value)}, not the id of a response", field=field
        )
    return name


def _members(options: ResponseOptions) -> dict[str, Any]:
    """Those members that were given."""
    members: dict[str, Any] = {}
    metadata = options.get("metadata")
    if (instructions_text := instructions("instructions", options.get("instructions"))) is not None:
        members["instructions"] = instructions_text
    if metadata is not None:
        members["metadata"] = _validate_metadata(metadata)
    if (tools := options.get("tools")) is not None:
        items = check_several("tools", tools)
        members["tools"] = [
            _flatten_tool(f"tools[{index}]", tool) for index, tool in enumerate(items)
        ]
    if (parallel := options.get("parallel_tool_calls")) is not None:
        members["parallel_tool_calls"] = check_flag("parallel_tool_calls", parallel)
    for name in ("text", "reasoning"):
        if (value := options.get(name)) is not None:
            members[name] = to_json_object(name, value)
    if (choice := options.get("tool_choice")) is not None:
        word = as_text(choice)
        members["tool_choice"] = to_json_object("tool_choice", choice) if word is None else word
    return members


def _validate_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """2.x and 1.x refuse labels that are no texts, one of them with a 500."""
    labels = to_json_object("metadata", metadata)
    for name, value in labels.items():
        if not isinstance(value, str):
            field = f"metadata[{name!r}]"
            raise InvalidRequest(f"{field} is {format_value(value)}, not a text", field=field)
    return labels


def _flatten_tool(field: str, tool: Mapping[str, Any]) -> dict[str, Any]:
    """A tool as the Responses API wants it, also where it comes in the form of chat completions."""
    members = to_json_object(field, tool)
    inner: Any = members.get("function")
    return {"type": "function", **inner} if isinstance(inner, dict) else members


def make_reader(connection: Connection) -> ResponseReader:
    """Who reads the responses of a service."""
    # What calls a cut answer of a chat `stop` calls a cut response `completed`.
    reports_truncation = connection.dialect.capabilities.finish_reason == "corrected"
    return ResponseReader(
        connection.base_url,
        connection.endpoint.service_generation,
        truncates_at=DEFAULT_MAX_TOKENS if reports_truncation else None,
    )


async def _check_stored(connection: Connection, model: Model, response_id: str) -> None:
    """1.2.4 and 2.0.1 go on from an unknown response as from none, without a word."""
    path = connection.dialect.make_path(model.catalog, f"{RESPONSES_ROUTE}/{response_id}")
    request = connection.wire.build_request("GET", path)
    response = await fetch(connection.wire.transport, request, timeout_s=QUICK_TIMEOUT_S)
    if response.status == OK:
        return
    error = parse_error(response)
    if isinstance(error, ResponseNotFound):
        error.field = "previous_response_id"
    raise error.with_context(model=model.id, service=connection.base_url)
