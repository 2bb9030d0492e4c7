"""Inputs of lines: OpenAI batch files, and plain text with one prompt per line."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal, cast

import msgspec

from foundry_api.batch.request_body import suggest_nearest, validate_body
from foundry_api.batch.sources.base import LineSource, validate_custom_id
from foundry_api.batch.sources.files import read_beginning
from foundry_api.batch.sources.json_array import begins_array, iter_array_elements
from foundry_api.batch.sources.prompts import DEFAULT_COLUMN, PromptBuilder
from foundry_api.batch.types import CHAT_URL, BatchRequest, Line, parse_route
from foundry_api.types.errors import BatchInputInvalid, FoundryError, InvalidRequest
from foundry_api.wire.errors import NOT_JSON

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from foundry_api.batch.sources.files import InputOrigin, InputReader
    from foundry_api.batch.types import InputOptions

__all__ = ["OpenAILines", "TextLines", "decode_text"]


class _Request(msgspec.Struct, forbid_unknown_fields=True):
    custom_id: str
    body: dict[str, Any]
    url: str = CHAT_URL
    method: Literal["POST"] = "POST"


class _CustomIdOnly(msgspec.Struct):
    custom_id: str


_REQUEST = msgspec.json.Decoder(_Request)
_CUSTOM_ID_ONLY = msgspec.json.Decoder(_CustomIdOnly)
_ANYTHING = msgspec.json.Decoder()
# A pretty-printed object: none of its lines is a request.
_PRETTY_PRINTED = re.compile(rb"\s*\{[ \t\r]*\n\s*[\"}]")
_REQUEST_HINT = (
    'A line is {"custom_id": "1", "body": {"messages": [{"role": "user", "content": "Hi"}]}}. '
    "For a file of prompts give --format text."
)


class OpenAILines(LineSource):
    """An OpenAI batch file, or a JSON array of such requests."""

    def __init__(self, origin: InputOrigin, options: InputOptions) -> None:
        super().__init__(origin, options, "openai")
        head = read_beginning(origin)
        if _PRETTY_PRINTED.match(head):
            raise BatchInputInvalid(
                f"{origin.name} has a JSON object over several lines",
                field="format",
                hint="Write each request on one line (jq -c does that), or all in one array.",
            )
        self._is_array = begins_array(head)
        model = {} if options.model is None else {"model": options.model}
        self._members: Mapping[str, Any] = {**options.members, **model}

    def format_place(self, line: Line) -> str:
        return f"{self.name} item {line.number}" if self._is_array else super().format_place(line)

    def read_lines(self, reader: InputReader) -> Iterator[Line]:
        if not self._is_array:
            yield from super().read_lines(reader)
            return
        elements = iter_array_elements(reader.file, self.name, self._salt)
        for index, (raw, digest) in enumerate(elements):
            yield Line(index, index + 1, digest, raw)

    def get_custom_id(self, line: Line) -> str | None:
        try:
            return validate_custom_id(_CUSTOM_ID_ONLY.decode(line.raw).custom_id)
        except (*NOT_JSON, TypeError, InvalidRequest):
            return None

    def _parse_request(self, line: Line) -> BatchRequest:
        try:
            request = _REQUEST.decode(line.raw)
        except NOT_JSON as error:
            # msgspec's own message rarely says what to do; look for the first problem by hand.
            _explain(_parse_json(line.raw))
            raise InvalidRequest(f"it is not a request: {error}") from error
        custom_id = validate_custom_id(request.custom_id)
        url = parse_route(request.url)
        try:
            body = validate_body(url, {**self._members, **request.body})
        except FoundryError as error:
            field = error.field if isinstance(error, InvalidRequest) else None
            is_option = field in self._members and field not in request.body
            message = f"{error.message} (it comes from the options)" if is_option else error.message
            raise InvalidRequest(
                message, field=f"body.{field}" if field else "body", hint=error.hint
            ) from error
        return BatchRequest(custom_id=custom_id, body=body, url=url)


def _parse_json(raw: bytes) -> Any:
    try:
        return _ANYTHING.decode(raw)
    except RecursionError as error:
        raise InvalidRequest("its JSON is nested too deeply") from error
    except NOT_JSON as error:
        try:
            raw.decode()
        except UnicodeDecodeError as bad:
            message = f"it is not UTF-8: byte {bad.start + 1} is 0x{raw[bad.start]:02x}"
        else:
            message = f"it is not JSON: {error}"
        raise InvalidRequest(message) from error


def _explain(value: Any) -> None:
    """Raise an error for the first problem of JSON that is not a request."""
    if not isinstance(value, dict):
        raise InvalidRequest("it is not a JSON object", hint=_REQUEST_HINT)
    members = cast("dict[str, Any]", value)
    known = _Request.__struct_fields__
    for name in members:
        if name not in known:
            raise InvalidRequest(
                f"{name} is not a member of a request{suggest_nearest(name, known)}",
                field=name,
                hint=f"Its members are {', '.join(known)}.",
            )
    for name in ("custom_id", "body"):
        if name not in members:
            raise InvalidRequest(f"{name} is missing", field=name)
    validate_custom_id(members["custom_id"])
    if not isinstance(members["body"], dict):
        raise InvalidRequest("body is not a JSON object", field="body")
    parse_route(members.get("url", CHAT_URL))
    raise InvalidRequest(f"method is {members.get('method')!r}, but must be POST", field="method")


class TextLines(LineSource):
    """Plain text with one prompt per line."""

    def __init__(self, origin: InputOrigin, options: InputOptions) -> None:
        super().__init__(origin, options, "text")
        if options.column not in {None, DEFAULT_COLUMN}:
            raise BatchInputInvalid(
                f"{self.name} is plain text, which has no column {options.column!r}",
                field="column",
                hint="If it is a table, give --format csv or --format parquet.",
            )
        self._prompts = PromptBuilder(options, [DEFAULT_COLUMN], "A line", {"line": 0})

    def get_custom_id(self, line: Line) -> str | None:
        return self._make_default_id(line)

    def _parse_request(self, line: Line) -> BatchRequest:
        return self._prompts.make_request(
            [decode_text(line.raw, "it")], self._make_default_id(line)
        )


def decode_text(raw: bytes, what: str) -> str:
    """Decode UTF-8; `what` names the value in the error message."""
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            f"{what} is not UTF-8: byte {error.start + 1} is 0x{raw[error.start]:02x}",
            hint="Save the file as UTF-8.",
        ) from error
