"""Answers and failures as OpenAI's batches write them: a line of JSON for each request.

    {"id": "batch_req_…", "custom_id": "…", "response": {"status_code": 200, …}, "error": null}

Ids are drawn at random: `custom_id` names a line within its batch alone, and answers of several
batches may come together in one place.
"""

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
    from foundry_api.types.results import Response, Vector

__all__ = [
    "error_line",
    "error_result",
    "metadata_from",
    "response_body",
    "success_line",
    "with_custom_id",
]

_ENCODER = msgspec.json.Encoder()


class _Response(msgspec.Struct):
    status_code: int
    request_id: str
    body: msgspec.Raw


class _OutputLine(msgspec.Struct):
    """A line as it is written, as far as it names its request."""

    id: str
    custom_id: str | None
    response: _Response | None
    error: msgspec.Raw


_DECODER = msgspec.json.Decoder(_OutputLine)

MIN_ERROR_STATUS = 400
ID_DIGITS = 32
_COMPLETION_PREFIX = b'{"id":"chatcmpl-'
"""What the body of a chat completion begins with, before its `ID_DIGITS` digits."""


class ResultMetadata(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is told of an answer beside it.

    Attributes:
        model: The id of the model that answered.
        prompt_tokens: As the service counted them.
        completion_tokens: As the service counted them.
        attempts: HTTP requests made for it.
        queued_s: Seconds of waiting for its turn in the client.
        time_to_first_token_s: None without any text.
        shared: Whether it came from the client's cache.
    """

    model: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    attempts: int = 0
    queued_s: float = 0.0
    time_to_first_token_s: float | None = None
    shared: bool = False


def metadata_from(answer: BatchAnswer) -> ResultMetadata:
    """What is told of an answer beside it."""
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


def response_body(request: BatchRequest, answer: BatchAnswer, at: float) -> bytes:
    """The object that the request's route answers with, as JSON.

    Args:
        request: What was asked.
        answer: The answer.
        at: When it came, in seconds since the epoch.
    """
    if isinstance(answer, Completion):
        return _ENCODER.encode(_chat_completion_body(answer, at))
    if isinstance(answer, Embeddings):
        return _ENCODER.encode(_embeddings_body(request, answer))
    return _response_object(answer)


def success_line(request: BatchRequest, body: bytes) -> bytes:
    """The line of the output for an answered request."""
    name = _random_id()
    return _ENCODER.encode(
        {
            "id": f"batch_req_{name}",
            "custom_id": request.custom_id,
            "response": {
                "status_code": 200,
                "request_id": f"req_{name}",
                "body": _replace_id(body, name),
            },
            "error": None,
        }
    )


def with_custom_id(line: bytes, custom_id: str) -> bytes:
    """The same line, answered or failed, for another request that asks the same."""
    output_line = _DECODER.decode(line)
    name = _random_id()
    output_line.id, output_line.custom_id = f"batch_req_{name}", custom_id
    if output_line.response is not None:
        output_line.response.request_id = f"req_{name}"
        output_line.response.body = _replace_id(output_line.response.body, name)
    return _ENCODER.encode(output_line)


def error_line(custom_id: str | None, error: FoundryError) -> bytes:
    """The line of the error file for a request that failed.

    Args:
        custom_id: Its own name, if it is known.
        error: Why it failed.
    """
    name = _random_id()
    error_body = {
        "code": type(error).__name__,
        "message": error.message,
        "hint": error.hint or None,
        "param": getattr(error, "field", None),
    }
    return _ENCODER.encode(
        {
            "id": f"batch_req_{name}",
            "custom_id": custom_id,
            "response": _error_response(name, error, error_body),
            "error": error_body,
        }
    )


def error_result(
    index: int,
    digest: int,
    custom_id: str | None,
    error: FoundryError,
    *,
    at: float,
    model: str = "",
    duration_s: float = 0.0,
) -> BatchLineResult:
    """A line that failed for good.

    Args:
        index: The line's.
        digest: The line's.
        custom_id: Its own name, if it is known.
        error: Why it failed.
        at: When, in seconds since the epoch.
        model: The model that was asked for.
        duration_s: From its first attempt to its end.
    """
    return BatchLineResult(
        index=index,
        digest=digest,
        output=error_line(custom_id, error),
        failed=True,
        at=at,
        model=error.model or model,
        duration_s=duration_s,
        attempts=error.attempts,
        code=type(error).__name__,
    )


def _error_response(
    name: str, error: FoundryError, error_body: dict[str, Any]
) -> dict[str, Any] | None:
    """What the service answered, where it refused. An error in a stream came with a success."""
    if error.status is None or error.status < MIN_ERROR_STATUS:
        return None
    body = {
        "message": error_body["message"],
        "type": error_body["code"],
        "param": error_body["param"],
        "code": None,
    }
    return {
        "status_code": error.status,
        "request_id": f"req_{name}",
        "body": {"error": body},
    }


def _chat_completion_body(answer: Completion[Any], at: float) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": _message_content(answer)}
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
        "id": f"chatcmpl-{_random_id()}",
        "object": "chat.completion",
        "created": int(at),
        "model": answer.model,
        "choices": [choice],
        "usage": answer.usage,
    }


def _message_content(answer: Completion[Any]) -> str | None:
    """The text; where JSON was asked for, that alone, without what a model may have put around."""
    if answer.tool_calls:
        return answer.content or None
    if answer.parsed is None or isinstance(answer.parsed, str):
        return answer.content
    try:
        msgspec.json.decode(answer.content)
    except (msgspec.DecodeError, RecursionError):
        return _ENCODER.encode(answer.parsed).decode()
    return answer.content


def _response_object(answer: Response) -> bytes:
    """The service's own object, with what the client knows better."""
    raw: Any = msgspec.json.decode(answer.raw) if answer.raw else {}
    members: dict[str, Any] = {
        "id": f"resp_{_random_id()}",
        "object": "response",
        "created_at": answer.created_at,
        "output": [],
        "usage": answer.usage and _usage_members(answer.usage),
        **raw,
        "status": answer.status,
        "model": answer.model,
    }
    if answer.incomplete_reason is not None:
        members["incomplete_details"] = {"reason": answer.incomplete_reason}
    return _ENCODER.encode(members)


def _usage_members(usage: Usage) -> dict[str, int]:
    return {
        "input_tokens": usage.prompt_tokens,
        "output_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
    }


def _embeddings_body(request: BatchRequest, answer: Embeddings) -> dict[str, Any]:
    in_base64 = request.body.get("encoding_format") == "base64"
    usage = answer.usage or Usage()
    return {
        "object": "list",
        "data": [
            {
                "object": "embedding",
                "index": index,
                "embedding": _encode_base64(vector) if in_base64 else vector,
            }
            for index, vector in enumerate(answer.vectors)
        ],
        "model": answer.model,
        "usage": {"prompt_tokens": usage.prompt_tokens, "total_tokens": usage.total_tokens},
    }


def _encode_base64(vector: Vector) -> str:
    """Four bytes a number, the lowest first, as OpenAI's libraries read them."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def _random_id() -> str:
    return secrets.token_hex(ID_DIGITS // 2)


def _replace_id(body: bytes | msgspec.Raw, name: str) -> msgspec.Raw:
    """A body with an id of its own: one answer may be given to several lines that ask alike."""
    body = bytes(body)
    if body.startswith(_COMPLETION_PREFIX):
        body = _COMPLETION_PREFIX + name.encode() + body[len(_COMPLETION_PREFIX) + ID_DIGITS :]
    return msgspec.Raw(body)
