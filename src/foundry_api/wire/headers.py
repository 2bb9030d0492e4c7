"""The headers that a caller may add to requests."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

from foundry_api.types.errors import InvalidRequest
from foundry_api.types.values import as_text, shown

if TYPE_CHECKING:
    from foundry_api.types.errors import FoundryError

__all__ = ["checked_headers"]

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,100}")
_VALUE = re.compile(r"[\t -~\x80-\xff]*")

_OURS = frozenset(
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
"""Headers that frame a message or are for one connection alone (RFC 9110, 7.6.1)."""


def checked_headers(field: str, headers: object, error: type[FoundryError]) -> dict[str, str]:
    """The headers of a caller. Their values may be credentials, so no error shows them.

    Args:
        field: What the caller calls the argument.
        headers: A mapping; None is an empty one.
        error: What is raised.

    Raises:
        FoundryError: One cannot be sent, or is for the client to set.
    """
    if headers is None:
        return {}
    if not isinstance(headers, Mapping):
        wrong = f"{field} is of type {type(headers).__name__}, not a mapping"
        raise _refusal(error, field, wrong, 'Give {"name": "value"}.')
    checked: dict[str, str] = {}
    for name, value in cast("Mapping[object, object]", headers).items():
        if wrong := _fault(name, value):
            raise _refusal(error, field, f"{field}[{shown(name)}] {wrong}", None)
        checked[as_text(name) or ""] = as_text(value) or ""
    return checked


def _fault(name: object, value: object) -> str:
    """Why a header cannot be sent; empty for one that can."""
    known, text = as_text(name), as_text(value)
    if known is None or not _NAME.fullmatch(known):
        return "cannot be sent: this is no name of a header"
    if known.lower() in _OURS:
        return "is for the client to set"
    if text is None:
        return f"cannot be sent: its value is of type {type(value).__name__}, not a text"
    if not _VALUE.fullmatch(text):
        return "cannot be sent: its value holds a line break, or what is not in Latin-1"
    return ""


def _refusal(error: type[FoundryError], field: str, message: str, hint: str | None) -> FoundryError:
    refusal = error(message, hint=hint)
    if isinstance(refusal, InvalidRequest):
        refusal.field = field
    return refusal
