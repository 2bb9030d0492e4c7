"""The key of an answer: the same for requests that mean the same, and for no others."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from foundry_api.messages import ChatRequest, Generation

__all__ = ["FORMAT", "answer_key"]

FORMAT = 1
"""Raised whenever a request begins to mean something else on the wire, or an answer here."""

_ENCODER = msgspec.json.Encoder()


def answer_key(model_id: str, generation: Generation, request: ChatRequest) -> str:
    """The key under which the answer to a request is kept: 64 hexadecimal digits.

    It is made of every member of the request, so that a new one cannot be forgotten. It tells
    nothing of what was asked.

    Args:
        model_id: The model that answers, as its name was resolved.
        generation: The service that answers.
        request: What is asked.
    """
    members = {name: getattr(request, name) for name in request.__struct_fields__}
    told = {
        name: _canonical(name, value) for name, value in members.items() if _is_said(name, value)
    }
    identity = (FORMAT, model_id, generation, sorted(told.items()))
    return hashlib.sha256(_ENCODER.encode(identity)).hexdigest()


def _is_said(name: str, value: object) -> bool:
    """Whether a member is more than its default, so that new members leave the old keys alone."""
    if value is None or value is False or value in ((), {}):
        return False
    return (name, value) != ("tool_choice", "auto")


def _canonical(name: str, value: Any) -> Any:
    """One spelling for all that mean the same.

    The order of members matters below the first level: the engine writes tools and schemas into
    the prompt as they are, and fills in a schema's properties one after another.
    """
    if name == "stop":
        return sorted(set(value))
    if name == "extra":
        return sorted(value.items())
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, msgspec.Struct):
        return type(value).__name__, value
    return value
