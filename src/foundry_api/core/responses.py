"""Requests of the Responses API: validation, the operation, and its corrections."""

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
from foundry_api.resilience.prompt_reading import UNKNOWN_SIZE, PromptSize
from foundry_api.types.checks import (
    EMPTY_RESULT,
    MAX_SEED,
    MAX_TEMPERATURE,
    MAX_TOKENS,
    check_flag,
    check_instructions,
    check_int,
    check_range,
    check_several,
    check_text,
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
from foundry_api.wire.chat.request import DEFAULT_MAX_TOKENS, make_readable_schema
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

    Input = str | Sequence[Mapping[str, Any] | Message | ResponseItem]

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

# Size of the file. In base64 it stays below the 30,000,000 bytes that 1.x accepts as a body.
MAX_IMAGE_BYTES = 20 * 2**20

_RESPONSE_ID = re.compile(r"[\w.-]{1,200}", re.ASCII)
_IMAGE_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"),
)
_WEBP = re.compile(rb"RIFF....WEBP", re.DOTALL)
_TEXT_TYPES = frozenset({"input_text", "output_text", "text"})
_OMITTED_IF_EMPTY = frozenset({"assistant", "system", "developer"})


@dataclass(frozen=True, slots=True)
class ResponseOperation(EndpointOperation[ResponseEvent, Response]):
    """A response. `members` are those of the JSON body, without the model and `stream`.

    `is_continuation` says that the previous response had the same instructions.
    """

    members: dict[str, Any]
    retention: Retention = "until_unload"
    is_continuation: bool = False
    name: ClassVar[OperationName] = "response"
    reads_prompt: ClassVar[bool] = True

    def measure_prompt(self) -> PromptSize:
        # The length of a conversation in the service, of an image, or of what the service makes of
        # tools is not known here.
        members = self.members
        text = members["input"]
        if not isinstance(text, str) or "previous_response_id" in members or members.get("tools"):
            return UNKNOWN_SIZE
        return PromptSize.of([members.get("instructions") or "", text])

    def is_final(self, error: FoundryError, *, was_sent: bool) -> bool:
        """Whether the service may have stored it, so that a retry would store it twice."""
        if not self.members.get("store") or not was_sent:
            return False
        was_rejected = error.status is not None and error.status > MAX_SUCCESS_STATUS
        return not was_rejected and not isinstance(error, ServiceNotRunning)

    def check(self, capabilities: Capabilities) -> None:
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
        match self.members.get("text"):
            case {"format": {"type": str(text_format)}}:
                pass
            case _:
                text_format = "text"
        if text_format != "text" and capabilities.json_schema != "native":
            raise UnsupportedFeature(
                f"a service of generation {generation} ignores a text format of type "
                f"{text_format!r}",
                field="text",
                hint="Leave text out and check the answer, or use a service of SDK 2.1 or later.",
            )
        if capabilities.response_images == "unsupported" and has_images(self.members["input"]):
            raise UnsupportedFeature(
                f"a service of generation {generation} takes no images",
                field="input",
                hint="Send text, or call the service behind the gateway itself.",
            )

    async def preflight(self, connection: Connection, model: Model) -> None:
        previous = self.members.get("previous_response_id")
        if (
            previous is not None
            and connection.dialect.capabilities.chained_responses == "corrected"
        ):
            await _check_stored(connection, model, previous)
        if has_images(self.members["input"]):
            await check_vision(connection, model)

    def make_request(self, connection: Connection, model: Model) -> Request:
        return self._build_request(connection, model, stream=True)

    def make_non_streaming_request(self, connection: Connection, model: Model) -> Request | None:
        if connection.dialect.capabilities.stream_errors == "native":
            return None
        return self._build_request(connection, model, stream=False, store=False)

    def make_decoder(self, connection: Connection, model: Model) -> ResponseStream:
        is_stored = bool(self.members.get("store"))

        def on_created(response_id: str) -> None:
            # Registered at its first event, so that it is deleted even if the stream fails later.
            if is_stored:
                connection.stored_responses.add(response_id, model, self.retention)

        return ResponseStream(make_reader(connection), on_created)

    def collect(self, chunks: list[ResponseEvent], texts: list[str], *, keep_result: bool) -> None:
        del keep_result
        texts += [chunk.text for chunk in chunks]

    def amend(self, error: FoundryError) -> ResponseOperation | None:
        """Request as many tokens as there is room for, as `ChatCompletion.amend` does."""
        if not isinstance(error, ContextOverflow) or "max_output_tokens" in self.members:
            return None
        if error.available_tokens is None:
            error.blame_prompt()
            return None
        return replace(self, members={**self.members, "max_output_tokens": error.available_tokens})

    def _build_request(self, connection: Connection, model: Model, **extra: bool) -> Request:
        body = {"model": model.id, **self.members, **extra}
        if (
            self.is_continuation
            and connection.dialect.capabilities.chained_responses == "corrected"
        ):
            # 1.2.4 and 2.0.1 store the instructions with the input, so the model would get them
            # twice.
            body.pop("instructions", None)
        match body.get("text"):
            case {"format": {"type": "json_schema", "schema": schema} as form, **rest}:
                body["text"] = {**rest, "format": {**form, "schema": make_readable_schema(schema)}}
            case _:
                pass
        path = connection.dialect.make_path(model.catalog, RESPONSES_ROUTE)
        return connection.service_client.build_post(path, msgspec.json.encode(body))


def make_reader(connection: Connection) -> ResponseReader:
    """Return a reader for the responses of a service."""
    # A generation that reports a truncated chat as `stop` reports such a response as `completed`.
    is_truncation_hidden = connection.dialect.capabilities.finish_reason == "corrected"
    return ResponseReader(
        connection.base_url,
        connection.endpoint.service_generation,
        truncates_at=DEFAULT_MAX_TOKENS if is_truncation_hidden else None,
    )


async def _check_stored(connection: Connection, model: Model, response_id: str) -> None:
    """Raise if a response is not stored: 1.2.4 and 2.0.1 would silently ignore its id."""
    path = connection.dialect.make_path(model.catalog, f"{RESPONSES_ROUTE}/{response_id}")
    request = connection.service_client.build_request("GET", path)
    response = await fetch(connection.service_client.transport, request, timeout_s=QUICK_TIMEOUT_S)
    if response.status == OK:
        return
    error = parse_error(response)
    if isinstance(error, ResponseNotFound):
        error.field = "previous_response_id"
    raise error.with_context(model=model.id, service=connection.base_url)


def build_operation(
    response_input: object,
    options: ResponseOptions,
    *,
    retention: Retention | None = None,
    is_continuation: bool = False,
) -> ResponseOperation:
    """Validate the arguments and return the operation.

    Without `retention` the options decide how long a stored response is kept.
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
        **_validate_other_options(options),
    }
    if previous is not None:
        members["previous_response_id"] = validate_response_id("previous_response_id", previous)
    retention = retention or (
        "forever" if check_flag("keep", options.get("keep")) else "until_unload"
    )
    return ResponseOperation(members, retention, is_continuation)


def validate_numbers(
    *, temperature: object, top_p: object, max_output_tokens: object, seed: object
) -> dict[str, object]:
    """Return the numbers that are not None, checked against the limits of the services."""
    validated = {
        "max_output_tokens": check_int("max_output_tokens", max_output_tokens, 1, MAX_TOKENS),
        "temperature": check_range("temperature", temperature, 0, MAX_TEMPERATURE),
        "top_p": check_range("top_p", top_p, 0, 1),
        "seed": check_int("seed", seed, -MAX_SEED - 1, MAX_SEED),
    }
    return {name: value for name, value in validated.items() if value is not None}


def _validate_other_options(options: ResponseOptions) -> dict[str, Any]:
    members: dict[str, Any] = {}
    instructions = check_instructions("instructions", options.get("instructions"))
    if instructions is not None:
        members["instructions"] = instructions
    if (metadata := options.get("metadata")) is not None:
        members["metadata"] = labels = to_json_object("metadata", metadata)
        for name, value in labels.items():
            # 1.x and 2.x reject labels of other types, one of them with status 500.
            if not isinstance(value, str):
                field = f"metadata[{name!r}]"
                raise InvalidRequest(f"{field} is {format_value(value)}, not a string", field=field)
    if (tools := options.get("tools")) is not None:
        members["tools"] = functions = list[dict[str, Any]]()
        for index, tool in enumerate(check_several("tools", tools)):
            definition = to_json_object(f"tools[{index}]", tool)
            # Chat completions nest a function, the Responses API does not.
            function: Any = definition.get("function")
            is_nested = isinstance(function, dict)
            functions.append({"type": "function", **function} if is_nested else definition)
    if (parallel := options.get("parallel_tool_calls")) is not None:
        members["parallel_tool_calls"] = check_flag("parallel_tool_calls", parallel)
    for name in ("text", "reasoning"):
        if (value := options.get(name)) is not None:
            members[name] = to_json_object(name, value)
    if (choice := options.get("tool_choice")) is not None:
        word = as_text(choice)
        members["tool_choice"] = to_json_object("tool_choice", choice) if word is None else word
    return members


def validate_response_id(field: str, value: object) -> str:
    """Return the id of a response, checked because it becomes part of a path."""
    response_id = as_text(value)
    if (
        response_id is None
        or not _RESPONSE_ID.fullmatch(response_id)
        or not response_id.strip(".")  # "." and ".." would change the path
    ):
        raise InvalidRequest(
            f"{field} is {format_value(value)}, not the id of a response", field=field
        )
    return response_id


def to_json_members(field: str, value: object) -> Any:
    """Return a value as plain JSON types."""
    try:
        return to_plain(value)
    except UNENCODABLE as error:
        raise InvalidRequest(f"{field} cannot be sent as JSON: {error}", field=field) from error


def to_json_object(field: str, value: object) -> dict[str, Any]:
    """Return a mapping as plain JSON types."""
    if not isinstance(value, Mapping):
        raise InvalidRequest(f"{field} is {format_value(value)}, not a mapping", field=field)
    members: dict[str, Any] = to_json_members(field, dict(cast("Mapping[str, Any]", value)))
    return members


def make_input_items(value: object) -> str | list[dict[str, Any]]:
    """Return the validated input: a text, or items as they are sent."""
    if isinstance(value, str):
        return check_text("input", value)
    elements = check_several("input", value, "a string or a list of items")
    items = [_make_item(f"input[{index}]", element) for index, element in enumerate(elements)]
    if not items:
        raise InvalidRequest("input is empty", field="input")
    sent_items = [item for item in items if item is not None]
    if not sent_items:
        raise InvalidRequest("input has only empty messages", field="input")
    return sent_items


def has_images(items: str | Sequence[Mapping[str, Any]]) -> bool:
    """Whether the input has an image."""
    if isinstance(items, str):
        return False
    contents = [item["content"] for item in items if isinstance(item.get("content"), list)]
    return any(part.get("type") == "input_image" for parts in contents for part in parts)


def _make_item(field: str, value: object) -> dict[str, Any] | None:
    """Return an item as it is sent, or None for an empty message that can be left out."""
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
    """Whether the content has nothing but white space."""
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
    """Return an image part with its content as a data URL."""
    location = part.get("image_url")
    if not isinstance(location, str) or not location:
        raise InvalidRequest(
            f"{field} is {format_value(location)}, not a path or a data URL", field=field
        )
    if re.match(r"https?:", location, re.IGNORECASE):
        raise InvalidRequest(
            f"{field} is a web address, and no service generation downloads images",
            field=field,
            hint="Give a path or a data URL.",
        )
    if location.startswith("data:"):
        media_type, content = _decode_data_url(field, location)
    else:
        media_type, content = "", _read_image(field, location)
    if len(content) > MAX_IMAGE_BYTES:
        raise InvalidRequest(
            f"{field} has {len(content)} bytes; {MAX_IMAGE_BYTES} can be sent", field=field
        )
    # The content decides, because the declared type may be wrong.
    if _WEBP.match(content):
        media_type = "image/webp"
    for signature, signature_type in _IMAGE_SIGNATURES:
        if content.startswith(signature):
            media_type = signature_type
    if not media_type.startswith("image/"):
        raise InvalidRequest(f"{field} is not a PNG, JPEG, GIF, BMP or WebP image", field=field)
    url = f"data:{media_type};base64,{base64.b64encode(content).decode()}"
    return {**part, "image_url": url, "media_type": media_type}  # 1.x requires `media_type`


def _decode_data_url(field: str, url: str) -> tuple[str, bytes]:
    if len(url) > 2 * MAX_IMAGE_BYTES:
        raise InvalidRequest(f"{field} is longer than {2 * MAX_IMAGE_BYTES}", field=field)
    head, comma, data = url.removeprefix("data:").partition(",")
    media_type, *parameters = head.split(";")
    try:
        if not comma:
            raise ValueError("it has no comma")  # noqa: TRY301 - reported like an error of base64
        if "base64" in parameters:
            return media_type, base64.b64decode(data, validate=True)
        return media_type, unquote_to_bytes(data)
    except (ValueError, binascii.Error) as error:
        raise InvalidRequest(f"{field} is not a data URL: {error}", field=field) from error


def _read_image(field: str, location: str) -> bytes:
    path = Path(location).expanduser()
    try:
        if path.exists() and not path.is_file():
            # A retry could not read a pipe again, and a pipe may never end.
            raise InvalidRequest(  # noqa: TRY301
                f"{field} is not a file: {location}", field=field, hint="Give a file or a data URL."
            )
        with path.open("rb") as file:
            return file.read(MAX_IMAGE_BYTES + 1)
    except InvalidRequest:
        raise
    except (OSError, ValueError, RuntimeError) as error:
        raise InvalidRequest(f"{field} cannot be read: {error}", field=field) from error
