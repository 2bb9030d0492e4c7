"""Errors that come as JSON, in the shapes that services and the proxies ahead of them use.

- `{"error": {"message": …, "type": …, "code": …}}` (Foundry Local, OpenAI), members perhaps null
- `{"error": "text"}` (Ollama, TGI), `{"error": {"error": …}}`, `{"errors": [{"message": …}]}`
- `{"object": "error", "message": …, "code": 400}` (vLLM), `{"type": "error", "message": …}`
- `{"detail": …}` (FastAPI, problem details), `{"message": …}`; and any data of an `event: error`
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, TypeGuard

import msgspec

from foundry_api.classify import classify
from foundry_api.errors import ServerError

if TYPE_CHECKING:
    from foundry_api.errors import FoundryError

__all__ = ["NOT_JSON", "error_message", "lenient_json", "stream_error"]

NOT_JSON: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for bytes that are not JSON."""

MAX_DEPTH: Final = 6
"""How far an error is unwrapped."""

_MESSAGES: Final = ("message", "error", "detail", "msg", "errors", "title", "error_message")
_SAYS_ERROR: Final = ("message", "detail", "errors", "error_message")
"""Of these, one says that an object without an answer is an error."""

_OF_SERVICE: Final = "server_error"
"""What Foundry Local calls its own failures, after which the same request may succeed."""

_OF_CALLER: Final = ("invalid", "badrequest", "bad_request", "notfound", "not_found", "auth")
_NONE: Final[dict[str, Any]] = {}
_OVERLOADED: Final = ("rate_limit", "ratelimit", "overloaded", "too_many")


def error_message(value: object, depth: int = MAX_DEPTH) -> str:
    """The words in an error of any of these shapes; empty if there are none."""
    if isinstance(value, str):
        return value.strip()
    if not depth:
        return ""
    if _is_list(value):
        messages = (error_message(item, depth - 1) for item in value[:depth])
        return "; ".join(message for message in messages if message)
    if _is_object(value):
        for name in _MESSAGES:
            if message := error_message(value.get(name), depth - 1):
                return message
    return ""


def lenient_json(data: bytes) -> Any:
    """JSON, also as Python writes it: with NaN, half surrogate pairs, or bytes that are not UTF-8.

    Raises:
        ValueError: It is none.
    """
    text = data.decode("utf-8", "replace")
    try:
        return msgspec.json.decode(text)
    except NOT_JSON:
        pass
    try:
        return json.loads(text, strict=False)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def stream_error(data: bytes, *, is_error: bool = False) -> FoundryError | None:
    """The error that an event of a stream carries; None if it carries none.

    An answer that failed within its stream was begun. It is asked for again only where the service
    calls that its own failure, or the message says what to put right.

    Args:
        data: The event's data.
        is_error: Whether the event is an error whatever its data, as one named `error` is.
    """
    try:
        value = _folded(lenient_json(data))
    except ValueError:
        if not is_error:
            return None
        value = data.decode("utf-8", "replace")
    if not is_error and not _is_error(value):
        return None
    inner = _folded(value.get("error")) if _is_object(value) else None
    members = inner if _is_object(inner) else value if _is_object(value) else _NONE
    kind = members.get("type")
    failure = classify(_status(members, kind), error_message(inner) or error_message(value))
    if type(failure) is ServerError and kind != _OF_SERVICE:
        failure.retryable = False
    return failure


def _folded(value: Any) -> Any:
    """A JSON object with its keys in lower case, as .NET may write them in upper; else itself."""
    return {key.lower(): item for key, item in value.items()} if _is_object(value) else value


def _is_error(value: object) -> bool:
    if not _is_object(value):
        return False
    error = value.get("error")
    if error or (_is_object(error) and not value.get("choices")):
        return True
    if "error" in (value.get("object"), value.get("type")):
        return True
    has_answer = any(value.get(name) is not None for name in ("choices", "usage", "type"))
    return not has_answer and any(value.get(name) for name in _SAYS_ERROR)


def _status(error: dict[str, Any], kind: object) -> int:
    """The HTTP status that the failure would have had."""
    for name in ("code", "status", "status_code"):
        code = error.get(name)
        if isinstance(code, str) and code.isdecimal() and len(code) == 3:  # noqa: PLR2004
            code = int(code)
        if isinstance(code, int) and 400 <= code <= 599:  # noqa: PLR2004 - HTTP's classes
            return 400 if code in {404, 405} else code  # the route itself is there
    name = kind.lower() if isinstance(kind, str) else ""
    if any(word in name for word in _OVERLOADED):
        return 429
    return 400 if any(word in name for word in _OF_CALLER) else 500


def _is_object(value: object) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)


def _is_list(value: object) -> TypeGuard[list[Any]]:
    return isinstance(value, list)
