"""One request of a batch as a call of the client."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypedDict, cast

from foundry_api.batch.request_body import parse_messages
from foundry_api.batch.types import EMBEDDINGS_URL, RESPONSES_URL
from foundry_api.types.errors import InvalidRequest
from foundry_api.types.values import format_value

if TYPE_CHECKING:
    from typing import Literal

    from foundry_api.batch.protocol import BatchClient
    from foundry_api.batch.types import BatchAnswer, BatchRequest
    from foundry_api.core.options import Timeout

__all__ = ["RequestOverrides", "dispatch", "get_model"]

_STREAMING_MEMBERS = {"stream", "stream_options"}
"""The answer is read as a stream anyway, and given as a whole."""

_CHAT_MEMBERS = {"model", "temperature", "top_p", "seed", "stop", "tools"}
_RESPONSE_MEMBERS = {
    "model",
    "instructions",
    "previous_response_id",
    "max_output_tokens",
    "temperature",
    "top_p",
    "seed",
    "text",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "reasoning",
    "metadata",
    "store",
}
_EMBEDDINGS_MEMBERS = {"model", "input", "encoding_format", "user"}


class RequestOverrides(TypedDict, total=False):
    """What calls take that a request has no word for.

    Attributes:
        timeout: Seconds without a token before a call gives up, or `auto`.
        deadline: Seconds for a whole call.
        download: Download a model first if its files are not on this machine.
        cache: Whether the client's cache may serve it.
    """

    timeout: Timeout | None
    deadline: float | None
    download: bool
    cache: Literal["auto", "always", "never"]


def get_model(request: BatchRequest, default: str) -> str:
    """The model that a request is for."""
    body = cast("object", request.body)  # a program's may be anything
    model = cast("Mapping[str, Any]", body).get("model") if isinstance(body, Mapping) else None
    return model if isinstance(model, str) and model else default


async def dispatch(
    client: BatchClient, request: BatchRequest, overrides: RequestOverrides, model: str
) -> BatchAnswer:
    """The answer to a request.

    Args:
        client: Makes the call.
        request: What is asked.
        overrides: What the request has no word for.
        model: For one that names none.

    Raises:
        InvalidRequest: A member of the body is at fault; `.field` names it.
        FoundryError: As the client's calls.
    """
    body = {
        name: value
        for name, value in request.body.items()
        if value is not None and name not in _STREAMING_MEMBERS
    }
    body.setdefault("model", model)
    if request.url == EMBEDDINGS_URL:
        return await _embed(client, body, overrides)
    if request.url == RESPONSES_URL:
        return await _respond(client, body, overrides)
    return await _chat(client, body, overrides)


async def _chat(
    client: BatchClient, body: dict[str, Any], overrides: RequestOverrides
) -> BatchAnswer:
    options: dict[str, Any] = {**_select(body, _CHAT_MEMBERS), **overrides}
    limit = body.pop("max_tokens", None)
    options["max_tokens"] = body.pop("max_completion_tokens", limit)
    options["tool_choice"] = _parse_tool_choice(body.pop("tool_choice", None))
    options |= _response_format_arguments(body)
    messages = parse_messages(body.pop("messages", None))
    answer: BatchAnswer = await client.chat(
        messages, **options, extra=_extra_members(body, _CHAT_MEMBERS)
    )
    return answer


async def _respond(
    client: BatchClient, body: dict[str, Any], overrides: RequestOverrides
) -> BatchAnswer:
    options: dict[str, Any] = _select(body, _RESPONSE_MEMBERS)
    options |= {name: value for name, value in overrides.items() if name != "cache"}
    response_input = body.pop("input", None)
    return await client.responses.create(
        response_input, **options, extra=_extra_members(body, _RESPONSE_MEMBERS)
    )


async def _embed(
    client: BatchClient, body: dict[str, Any], overrides: RequestOverrides
) -> BatchAnswer:
    for name in body.keys() - _EMBEDDINGS_MEMBERS:
        raise InvalidRequest(f"{name} is not what embeddings take", field=name)
    if body.get("encoding_format", "float") not in {"float", "base64"}:
        raise InvalidRequest(
            f"encoding_format is {body['encoding_format']!r}, neither float nor base64",
            field="encoding_format",
        )
    options: dict[str, Any] = {name: value for name, value in overrides.items() if name != "cache"}
    try:
        return await client.embed(body.get("input", ()), model=body["model"], **options)
    except InvalidRequest as error:
        if error.field is not None:
            error.field = error.field.replace("texts", "input", 1)
        raise


def _select(body: dict[str, Any], names: set[str]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name in names}


def _extra_members(body: dict[str, Any], names: set[str]) -> dict[str, Any] | None:
    return {name: value for name, value in body.items() if name not in names} or None


def _parse_tool_choice(choice: object) -> Any:
    """The name of the tool, where OpenAI's form has an object around it."""
    match choice:
        case {"type": "function", "function": {"name": str(name)}}:
            return name
        case {"type": "function", "name": str(name)}:
            return name
        case str() | None:
            return choice
        case _:
            raise InvalidRequest(
                f"tool_choice is {format_value(choice)}, neither a word nor a function",
                field="tool_choice",
            )


def _response_format_arguments(body: dict[str, Any]) -> dict[str, Any]:
    """What the answer has to be. What only a service knows is left to it."""
    match body.get("response_format"):
        case {"type": "json_schema", "json_schema": {"schema": dict(schema)}}:  # pyright: ignore[reportUnknownVariableType] # of JSON
            arguments: dict[str, Any] = {"response_model": schema}
        case {"type": "json_schema"}:
            field = "response_format.json_schema.schema"
            raise InvalidRequest(f"{field} is no schema", field=field)
        case {"type": "json_object"}:
            arguments = {"response_model": {"type": "object"}}
        case {"type": "lark_grammar", "lark_grammar": str(grammar)}:
            arguments = {"grammar": grammar}
        case {"type": "text"} | None:
            arguments = {}
        case other:
            raise InvalidRequest(
                f"response_format is {format_value(other)}, which no service knows",
                field="response_format",
            )
    body.pop("response_format", None)
    return arguments
