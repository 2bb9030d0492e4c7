"""Checks of the members of a request."""

from __future__ import annotations

from typing import cast

from foundry_api.gateway.errors import RequestError
from foundry_api.types.checks import check_characters
from foundry_api.types.errors import InvalidRequest
from foundry_api.types.values import is_dict

__all__ = [
    "check_depth",
    "check_model_name",
    "check_text",
    "make_invalid",
    "make_missing",
    "make_unsupported",
]

# How deep a JSON schema may be nested.
MAX_DEPTH = 64
MAX_MODEL_CHARS = 256


def check_depth(field: str, value: object) -> None:
    """Refuse JSON that is nested too deeply.

    Raises:
        RequestError: 400.
    """
    level: list[object] = [value]
    for _ in range(MAX_DEPTH):
        children: list[object] = []
        for item in level:
            if is_dict(item):
                children += item.values()
            elif isinstance(item, list):
                children += cast("list[object]", item)
        if not children:
            return
        level = children
    raise make_invalid(field, f"{field} is nested more than {MAX_DEPTH} levels deep.")


def check_model_name(name: str | None) -> str:
    """Return the name of a model, which logs and metrics may repeat.

    Raises:
        RequestError: 400.
    """
    if not name:
        raise make_missing("model")
    if len(name) > MAX_MODEL_CHARS:
        raise make_invalid("model", f"model has more than {MAX_MODEL_CHARS} characters.")
    return name


def check_text(field: str, text: str) -> None:
    """Refuse a text with characters that the engine does not take.

    Raises:
        RequestError: 400.
    """
    try:
        check_characters(field, text)
    except InvalidRequest as error:
        raise make_invalid(field, f"{error.message}.") from error


def make_missing(field: str) -> RequestError:
    """Return the error for a member that is required."""
    return RequestError(400, "missing_required_parameter", f"{field} is missing.", param=field)


def make_invalid(field: str, message: str) -> RequestError:
    """Return the error for a value that is not allowed."""
    return RequestError(400, "invalid_value", message, param=field)


def make_unsupported(field: str, reason: str) -> RequestError:
    """Return the error for a member that asks for what the engine cannot do."""
    return RequestError(400, "unsupported_parameter", f"{reason} Leave {field} out.", param=field)
