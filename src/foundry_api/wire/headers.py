"""Validation of headers that users add to requests."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from foundry_api.types.errors import InvalidRequest
from foundry_api.types.values import as_text, format_value

if TYPE_CHECKING:
    from foundry_api.types.errors import FoundryError

__all__ = ["validate_headers"]

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
_VALUE = re.compile(r"[\t -~\x80-\xff]*")

# Headers that frame the message or apply to one connection only (RFC 9110, section 7.6.1).
_RESERVED_HEADERS = frozenset(
    {
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)


def validate_headers(field: str, headers: object, error: type[FoundryError]) -> dict[str, str]:
    """Return the headers as a dict, or raise `error` with a message about argument `field`."""
    if headers is None:
        return {}
    if not isinstance(headers, Mapping):
        problem = f"{field} is of type {type(headers).__name__}, not a mapping"
        raise _make_header_error(error, field, problem, 'Give {"name": "value"}.')
    validated: dict[str, str] = {}
    for name, value in cast("Mapping[object, object]", headers).items():
        if problem := _describe_header_problem(name, value):
            raise _make_header_error(error, field, f"{field}[{format_value(name)}] {problem}", None)
        validated[as_text(name) or ""] = as_text(value) or ""
    return validated


def _describe_header_problem(name: object, value: object) -> str:
    """Return why a header cannot be sent; empty if it can."""
    header, text = as_text(name), as_text(value)
    if header is None or not _NAME.fullmatch(header):
        return "cannot be sent: this is not a valid header name"
    if header.lower() in _RESERVED_HEADERS:
        return "is set by the client"
    # The value may be a credential, so no message shows it.
    if text is None:
        return f"cannot be sent: its value is of type {type(value).__name__}, not a string"
    if not _VALUE.fullmatch(text):
        return "cannot be sent: its value holds a line break or a character that is not in Latin-1"
    return ""


def _make_header_error(
    error: type[FoundryError], field: str, message: str, hint: str | None
) -> FoundryError:
    failure = error(message, hint=hint)
    if isinstance(failure, InvalidRequest):
        failure.field = field
    return failure
