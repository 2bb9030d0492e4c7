"""The lines of output and error files, in the JSON of OpenAI's batches."""

from __future__ import annotations

import base64
import secrets
import struct
from typing import TYPE_CHECKING, Any

import msgspec

from foundry_api.batch.types import BatchLineResult
from foundry_api.types.messages import Completion, Usage
from foundry_api.types.results import Embeddings

if TYPE_CHECKING:
    from foundry_api.batch.types import BatchAnswer, BatchRequest
    from foundry_api.types.errors import FoundryError
    from foundry_api.types.messages import Timings
    from foundry_api.types.results import Response

__all__ = [
    "copy_with_custom_id",
    "encode_response",
    "extract_metadata",
    "make_error_line",
    "make_error_result",
    "make_success_line",
]

MIN_ERROR_STATUS = 400

# The JSON of a chat completion begins with this prefix and ID_DIGITS digits: `_replace_id` relies
# on it.
_COMPLETION_PREFIX = b'{"id":"chatcmpl-'
ID_DIGITS = 32


class _Response(msgspec.Struct):
    status_code: int
    request_id: str
    body: msgspec.Raw


class _OutputLine(msgspec.Struct):
    id: str
    custom_id: str | None
    response: _Response | None
    error: msgspec.Raw


class ResultMetadata(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is stored about an answer besides its body. Token counts are the service's."""

    model: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    attempts: int = 0
    queued_s: float = 0.0  # seconds that the call waited in the client's queue
    time_to_first_token_s: float | None = None  # None if the answer has no text
    shared: bool = False  # whether the answer came from the client's cache


_DECODER = msgspec.json.Decoder(_OutputLine)
_ENCODER = msgspec.json.Encoder()


def extract_metadata(answer: BatchAnswer) -> ResultMetadata:
    usage = answer.usage or Usage()
    timings: Timings | None = answer.timings
    return ResultMetadata(
        model=answer.model,
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        attempts=len(answer.attempts),
        queued_s=timings.queued_s if timings else 0.0,
        time_to_first_token_s=timings.time_to_first_token_s if timings else None,
        shared=isinstance(answer, Completion) and answer.cached,
    )


def encode_response(request: BatchRequest, answer: BatchAnswer, at: float) -> bytes:
    """Encode the JSON object that the request's route responds with."""
    if isinstance(answer, Completion):
        return _ENCODER.encode(_make_completion(answer, at))
    if isinstance(answer, Embeddings):
        return _ENCODER.encode(_make_embeddings(request, answer))
    return _encode_response_object(answer)


def make_success_line(request: BatchRequest, body: bytes) -> bytes:
    # Ids are random: `custom_id` names a line only within its batch, and the answers of several
    # batches may be put together.
    line_id = _make_id()
    return _ENCODER.encode(
        {
            "id": f"batch_req_{line_id}",
            "custom_id": request.custom_id,
            "response": {
                "status_code": 200,
                "request_id": f"req_{line_id}",
                "body": _replace_id(body, line_id),
            },
            "error": None,
        }
    )


def copy_with_custom_id(line: bytes, custom_id: str) -> bytes:
    """Copy a line, successful or failed, for an identical request."""
    output_line = _DECODER.decode(line)
    line_id = _make_id()
    output_line.id, output_line.custom_id = f"batch_req_{line_id}", custom_id
    if output_line.response is not None:
        output_line.response.request_id = f"req_{line_id}"
        output_line.response.body = _replace_id(output_line.response.body, line_id)
    return _ENCODER.encode(output_line)


def make_error_line(custom_id: str | None, error: FoundryError) -> bytes:
    line_id = _make_id()
    code, param = type(error).__name__, getattr(error, "field", None)
    response: dict[str, Any] | None = None
    # An error within a stream has the status of a success: its headers were sent before it.
    if error.status is not None and error.status >= MIN_ERROR_STATUS:
        service_error = {"message": error.message, "type": code, "param": param, "code": None}
        response = {
            "status_code": error.status,
            "request_id": f"req_{line_id}",
            "body": {"error": service_error},
        }
    return _ENCODER.encode(
        {
            "id": f"batch_req_{line_id}",
            "custom_id": custom_id,
            "response": response,
            "error": {
                "code": code,
                "message": error.message,
                "hint": error.hint or None,
                "param": param,
            },
        }
    )


def make_error_result(
    index: int,
    digest: int,
    custom_id: str | None,
    error: FoundryError,
    *,
    at: float,
    model: str = "",
    duration_s: float = 0.0,
    attempts: int | None = None,
) -> BatchLineResult:
    return BatchLineResult(
        index=index,
        digest=digest,
        output=make_error_line(custom_id, error),
        failed=True,
        at=at,
        model=error.model or model,
        duration_s=duration_s,
        attempts=error.attempts if attempts is None else attempts,
        code=type(error).__name__,
    )


def _make_completion(answer: Completion[Any], at: float) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": _get_content(answer)}
    message["refusal"] = answer.refusal or None
    if answer.reasoning:
        message["reasoning_content"] = answer.reasoning
    if answer.tool_calls:
        message["tool_calls"] = answer.tool_calls
    choice = {
        "index": 0,
        "message": message,
        "logprobs": None,
        "finish_reason": answer.finish_reason,
    }
    return {
        "id": f"chatcmpl-{_make_id()}",
        "object": "chat.completion",
        "created": int(at),
        "model": answer.model,
        "choices": [choice],
        "usage": answer.usage,
    }


def _get_content(answer: Completion[Any]) -> str | None:
    """Return the text; if JSON was requested, only the JSON in it."""
    if answer.tool_calls:
        return answer.content or None
    if answer.parsed is None or isinstance(answer.parsed, str):
        return answer.content
    try:
        msgspec.json.decode(answer.content)
    except (msgspec.DecodeError, RecursionError):  # the model put other text around the JSON
        return _ENCODER.encode(answer.parsed).decode()
    return answer.content


def _encode_response_object(answer: Response) -> bytes:
    raw: Any = msgspec.json.decode(answer.raw) if answer.raw else {}
    usage = answer.usage and {
        "input_tokens": answer.usage.prompt_tokens,
        "output_tokens": answer.usage.completion_tokens,
        "total_tokens": answer.usage.total_tokens,
    }
    members: dict[str, Any] = {
        "id": f"resp_{_make_id()}",
        "object": "response",
        "created_at": answer.created_at,
        "output": [],
        "usage": usage,
        # The service's own object replaces the members above, but not those below, which the client
        # knows better.
        **raw,
        "status": answer.status,
        "model": answer.model,
    }
    if answer.incomplete_reason is not None:
        members["incomplete_details"] = {"reason": answer.incomplete_reason}
    return _ENCODER.encode(members)


def _make_embeddings(request: BatchRequest, answer: Embeddings) -> dict[str, Any]:
    vectors: list[Any] = list(answer.vectors)
    if request.body.get("encoding_format") == "base64":
        # Little-endian 32-bit floats, which OpenAI's libraries expect.
        vectors = [
            base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
            for vector in answer.vectors
        ]
    usage = answer.usage or Usage()
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": vector}
            for index, vector in enumerate(vectors)
        ],
        "model": answer.model,
        "usage": {"prompt_tokens": usage.prompt_tokens, "total_tokens": usage.total_tokens},
    }


def _make_id() -> str:
    return secrets.token_hex(ID_DIGITS // 2)


def _replace_id(body: bytes | msgspec.Raw, line_id: str) -> msgspec.Raw:
    # One answer may go to several identical lines; each of them gets its own id. Replacing the
    # bytes saves decoding the body.
    body = bytes(body)
    if body.startswith(_COMPLETION_PREFIX):
        body = _COMPLETION_PREFIX + line_id.encode() + body[len(_COMPLETION_PREFIX) + ID_DIGITS :]
    return msgspec.Raw(body)
