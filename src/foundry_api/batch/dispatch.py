"""Send a batch request through the client."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypedDict, cast

from foundry_api.batch.request_body import parse_messages, parse_tool_choice
from foundry_api.batch.types import EMBEDDINGS_URL, RESPONSES_URL
from foundry_api.types.errors import InvalidRequest
from foundry_api.types.values import format_value

if TYPE_CHECKING:
    from typing import Literal

    from foundry_api.batch.protocol import BatchClient
    from foundry_api.batch.types import BatchAnswer, BatchRequest
    from foundry_api.core.options import Timeout

__all__ = ["RequestOverrides", "dispatch", "get_model"]

# The client streams every answer anyway, and returns it as a whole.
_STREAMING_MEMBERS = {"stream", "stream_options"}

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
    """Call options that a request body cannot express."""

    timeout: Timeout | None  # seconds without a token, or `auto`
    deadline: float | None  # seconds for the whole call
    download: bool  # whether to download a missing model
    cache: Literal["auto", "always", "never"]  # whether the client's cache may serve the answer


def get_model(request: BatchRequest, default: str) -> str:
    """Return the model that a request names, or the default."""
    body = cast("object", request.body)  # a caller may pass anything
    model = cast("Mapping[str, Any]", body).get("model") if isinstance(body, Mapping) else None
    return model if isinstance(model, str) and model else default


async def dispatch(
    client: BatchClient, request: BatchRequest, overrides: RequestOverrides, model: str
) -> BatchAnswer:
    """Send a request; `model` is for one that names none."""
    body = {
        name: value
        for name, value in request.body.items()
        if value is not None and name not in _STREAMING_MEMBERS
    }
    body.setdefault("model", model)
    if request.url not in {EMBEDDINGS_URL, RESPONSES_URL}:
        return await _chat(client, body, overrides)
    # Neither `embed` nor `create` has the option `cache`.
    options: dict[str, Any] = {name: value for name, value in overrides.items() if name != "cache"}
    if request.url == EMBEDDINGS_URL:
        return await _embed(client, body, options)
    options |= _select(body, _RESPONSE_MEMBERS)
    response_input = body.pop("input", None)
    return await client.responses.create(
        response_input, **options, extra=_extra_members(body, _RESPONSE_MEMBERS)
    )


async def _chat(
    client: BatchClient, body: dict[str, Any], overrides: RequestOverrides
) -> BatchAnswer:
    options: dict[str, Any] = {**_select(body, _CHAT_MEMBERS), **overrides}
    limit = body.pop("max_tokens", None)
    # OpenAI's newer name for the same limit.
    options["max_tokens"] = body.pop("max_completion_tokens", limit)
    options["tool_choice"] = parse_tool_choice(body.pop("tool_choice", None))
    options |= _pop_response_format(body)
    messages = parse_messages(body.pop("messages", None))
    answer: BatchAnswer = await client.chat(
        messages, **options, extra=_extra_members(body, _CHAT_MEMBERS)
    )
    return answer


async def _embed(client: BatchClient, body: dict[str, Any], options: dict[str, Any]) -> BatchAnswer:
    for name in body.keys() - _EMBEDDINGS_MEMBERS:
        raise InvalidRequest(f"{name} is not a member of an embeddings request", field=name)
    if body.get("encoding_format", "float") not in {"float", "base64"}:
        raise InvalidRequest(
            f"encoding_format is {body['encoding_format']!r}, neither float nor base64",
            field="encoding_format",
        )
    try:
        return await client.embed(body.get("input", ()), model=body["model"], **options)
    except InvalidRequest as error:
        if error.field is not None:  # the argument of `embed` has another name than the member
            error.field = error.field.replace("texts", "input", 1)
        raise


def _select(body: dict[str, Any], names: set[str]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name in names}


def _extra_members(body: dict[str, Any], names: set[str]) -> dict[str, Any] | None:
    return {name: value for name, value in body.items() if name not in names} or None


def _pop_response_format(body: dict[str, Any]) -> dict[str, Any]:
    """Remove `response_format`, and return the arguments of `client.chat` for it."""
    match body.pop("response_format", None):
        case {"type": "json_schema", "json_schema": {"schema": dict(schema)}}:  # pyright: ignore[reportUnknownVariableType] # of JSON
            arguments: dict[str, Any] = {"response_model": schema}
        case {"type": "json_schema"}:
            field = "response_format.json_schema.schema"
            raise InvalidRequest(f"{field} is not a schema", field=field)
        case {"type": "json_object"}:
            arguments = {"response_model": {"type": "object"}}
        case {"type": "lark_grammar", "lark_grammar": str(grammar)}:
            arguments = {"grammar": grammar}
        case {"type": "text"} | None:
            arguments = {}
        case other:
            raise InvalidRequest(
                f"response_format is {format_value(other)}, which no service supports",
                field="response_format",
            )
    return arguments
