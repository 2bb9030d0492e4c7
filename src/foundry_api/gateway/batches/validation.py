"""The lines of a batch's input: read, and checked as a whole before any of them runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, cast

import msgspec

from foundry_api.batch.sources.base import LineSource
from foundry_api.batch.sources.files import BadLine, FileOrigin
from foundry_api.batch.types import (
    CHAT_URL,
    EMBEDDINGS_URL,
    RESPONSES_URL,
    BatchRequest,
    InputOptions,
    parse_route,
)
from foundry_api.core.chat import make_chat_request, make_output_spec
from foundry_api.gateway.anthropic.request import MessagesBody
from foundry_api.gateway.anthropic.request import make_generation as make_message_generation
from foundry_api.gateway.checks import check_model_name, make_unsupported
from foundry_api.gateway.errors import (
    RequestError,
    make_model_not_allowed,
    name_member,
    translate_error,
)
from foundry_api.gateway.files.batch_types import BatchProblem
from foundry_api.gateway.json_body import decode_json
from foundry_api.gateway.openai.chat_request import ChatBody, make_generation
from foundry_api.gateway.openai.embeddings import EmbeddingsBody, read_texts
from foundry_api.gateway.openai.responses_request import (
    ResponseBody,
    make_messages,
    make_response_generation,
)
from foundry_api.gateway.openai.sampling import get_choices
from foundry_api.types.errors import FoundryError, InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from foundry_api.batch.types import BatchUrl, Line
    from foundry_api.gateway.generation import Generation

__all__ = ["MAX_LINES", "CheckedInput", "RequestLines", "check_input", "check_message"]

# As OpenAI's.
MAX_LINES = 50_000
MAX_CUSTOM_ID_CHARS = 512
MAX_PROBLEMS = 100
MAX_MESSAGE_CHARS = 500
COMPRESSED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd")


class _Line(msgspec.Struct):
    custom_id: str
    body: msgspec.Raw
    url: str
    method: str = "POST"


class _Id(msgspec.Struct):
    custom_id: str


class _Request(msgspec.Struct):
    custom_id: str
    body: dict[str, msgspec.Raw]


_LINE = msgspec.json.Decoder(_Line)
_ID = msgspec.json.Decoder(_Id)
_REQUEST = msgspec.json.Decoder(_Request)


class RequestLines(LineSource):
    """The lines of an input that was checked."""

    def __init__(self, path: Path, endpoint: str) -> None:
        super().__init__(
            FileOrigin(path), InputOptions(path=str(path), format="openai"), ["gateway", endpoint]
        )
        # Of a message batch, it is none of those that clients of this package send.
        self._endpoint: BatchUrl = cast("BatchUrl", endpoint)

    def _parse_request(self, line: Line) -> BatchRequest:
        request = _REQUEST.decode(line.raw)
        # The members stay as they are written: a number that is too large for Python may be in one
        # that no route reads, and that the check has skipped.
        body: dict[str, Any] = dict(request.body)
        if "model" in body:
            body["model"] = msgspec.json.decode(body["model"])
        return BatchRequest(custom_id=request.custom_id, body=body, url=self._endpoint)

    def get_custom_id(self, line: Line) -> str | None:
        """Return the id of a line."""
        return _ID.decode(line.raw).custom_id


class CheckedInput(NamedTuple):
    """What a check of an input found.

    Attributes:
        total: The number of lines that were read.
        problems: Why they are refused; empty if they are valid.
        model: The model that all of them name; None if they name several.
    """

    total: int
    problems: tuple[BatchProblem, ...] = ()
    model: str | None = None


def check_input(
    path: Path,
    endpoint: str,
    *,
    allows_model: Callable[[str], bool],
    default_model: str | None,
    max_bytes: int,
) -> CheckedInput:
    """Check all lines of an input. Blocks."""
    with path.open("rb") as file:
        if file.read(4).startswith(COMPRESSED):
            problem = _make_problem("invalid_file", "The file is compressed. Upload plain text.")
            return CheckedInput(0, (problem,))
    checker = _Checker(parse_route(endpoint), allows_model, default_model, max_bytes)
    count = 0
    for line in RequestLines(path, endpoint).iter_lines():
        count += 1
        if count > MAX_LINES:
            message = f"The file has more than {MAX_LINES} lines. Split it."
            return CheckedInput(count, (_make_problem("too_many_lines", message),))
        checker.check(line)
        if len(checker.problems) >= MAX_PROBLEMS:
            break
    if not count:
        return CheckedInput(0, (_make_problem("empty_file", "The file has no lines."),))
    model = checker.models.pop() if len(checker.models) == 1 else None
    return CheckedInput(count, tuple(checker.problems), model)


class _Checker:
    def __init__(
        self,
        endpoint: BatchUrl,
        allows_model: Callable[[str], bool],
        default_model: str | None,
        max_bytes: int,
    ) -> None:
        self.problems: list[BatchProblem] = []
        self.models: set[str] = set()
        self._endpoint = endpoint
        self._allows_model = allows_model
        self._default_model = default_model
        self._max_bytes = max_bytes
        self._ids: set[str] = set()

    def check(self, line: Line) -> None:
        try:
            self._check(line)
        except RequestError as error:
            self.problems.append(
                _make_problem(error.code or "invalid_line", error.message, line.number, error.param)
            )
        except FoundryError as error:
            refusal = translate_error(error)
            self.problems.append(
                _make_problem(
                    refusal.code or "invalid_line", refusal.message, line.number, refusal.param
                )
            )

    def _check(self, line: Line) -> None:
        if isinstance(line.raw, BadLine) or len(line.raw) > self._max_bytes:
            raise RequestError(
                400, "line_too_large", f"The line is larger than {self._max_bytes} bytes."
            )
        raw = cast("bytes", line.raw)
        try:
            raw.decode()
            request = _LINE.decode(raw)
        except (msgspec.ValidationError, RecursionError):
            request = decode_json(raw, _Line)[0]  # which names the member
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise RequestError(
                400, "invalid_json_line", f"This line is not parseable as valid JSON: {error}."
            ) from None
        name = request.custom_id
        if not 0 < len(name) <= MAX_CUSTOM_ID_CHARS:
            raise RequestError(
                400,
                "invalid_custom_id",
                f"custom_id has 1 to {MAX_CUSTOM_ID_CHARS} characters.",
                param="custom_id",
            )
        if name in self._ids:
            raise RequestError(
                400,
                "duplicate_custom_id",
                "Another line has this custom_id; each needs its own.",
                param="custom_id",
            )
        self._ids.add(name)
        if request.method != "POST":
            raise RequestError(400, "invalid_method", "method must be POST.", param="method")
        if request.url not in {self._endpoint, self._endpoint.removeprefix("/v1")}:
            raise RequestError(
                400,
                "mismatched_url",
                f"url must be {self._endpoint}, the endpoint of the batch.",
                param="url",
            )
        body = bytes(request.body)
        model = _CHECKS[self._endpoint](body, self._default_model)
        if not self._allows_model(model):
            raise make_model_not_allowed(model, param="body.model")
        self.models.add(model)


def _check_chat(raw: bytes, default_model: str | None) -> str:
    body = decode_json(raw, ChatBody)[0]
    if body.stream:
        raise make_unsupported("stream", "A batch does not stream.")
    get_choices(body.n)
    model = check_model_name(body.model or default_model)
    _check_arguments(make_generation(body, model))
    return model


def _check_embeddings(raw: bytes, default_model: str | None) -> str:
    body = decode_json(raw, EmbeddingsBody)[0]
    read_texts(body)
    return check_model_name(body.model or default_model)


def _check_response(raw: bytes, default_model: str | None) -> str:
    body = decode_json(raw, ResponseBody)[0]
    if body.stream:
        raise make_unsupported("stream", "A batch does not stream.")
    if body.background:
        raise make_unsupported("background", "The lines of a batch are in the background anyway.")
    model = check_model_name(body.model or default_model)
    _check_arguments(make_response_generation(body, model, make_messages(body)))
    return model


def check_message(raw: bytes, default_model: str | None) -> str:
    """Check the parameters of a message, and return its model.

    Raises:
        RequestError: They are invalid.
    """
    body = decode_json(raw, MessagesBody)[0]
    if body.stream:
        raise make_unsupported("stream", "A batch does not stream.")
    model = check_model_name(body.model or default_model)
    _check_arguments(make_message_generation(body, model))
    return model


def _check_arguments(generation: Generation) -> None:
    """Check what the client refuses once the line runs: values out of range, an invalid schema.

    Raises:
        FoundryError: An argument is invalid.
    """
    options: dict[str, Any] = {**generation.options}
    del options["model"]
    try:
        make_chat_request(generation.messages, **options)
        make_output_spec(**generation.format)
    except InvalidRequest as error:
        name_member(error, generation.members)
        raise


_CHECKS: Mapping[str, Callable[[bytes, str | None], str]] = {
    CHAT_URL: _check_chat,
    EMBEDDINGS_URL: _check_embeddings,
    RESPONSES_URL: _check_response,
}


def _make_problem(
    code: str, message: str, line: int | None = None, param: str | None = None
) -> BatchProblem:
    return BatchProblem(code=code, message=message[:MAX_MESSAGE_CHARS], line=line, param=param)
