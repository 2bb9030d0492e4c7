"""Errors in the shape of Anthropic's API."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from foundry_api.gateway.errors import RequestError

__all__ = [
    "THREAD_UNSUPPORTED",
    "get_anthropic_type",
    "make_anthropic_error",
    "make_anthropic_error_event",
]

# With this code in the details of an error, Anthropic's clients send the whole conversation.
THREAD_UNSUPPORTED = "thread_unsupported_request"

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def make_anthropic_error(error: RequestError) -> bytes:
    """Encode Anthropic's error object. It has no field for a path, so the message names it."""
    message = error.message
    if error.param and error.param not in message:
        message = f"{error.param}: {message}"
    if error.code == "context_length_exceeded":
        message = f"prompt is too long: {message}"  # by which Anthropic's clients recognise it
    members: dict[str, Any] = {"type": get_anthropic_type(error.status), "message": message}
    if error.code == THREAD_UNSUPPORTED:
        members["details"] = {"error_code": error.code, "unsupported": [error.param]}
    return msgspec.json.encode({"type": "error", "error": members})


def get_anthropic_type(status: int) -> str:
    """Return the type of errors with an HTTP status."""
    return _TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")  # noqa: PLR2004


def make_anthropic_error_event(error: RequestError) -> bytes:
    """Encode an error as the last event of a stream."""
    return b"event: error\ndata: %b\n\n" % make_anthropic_error(error)
