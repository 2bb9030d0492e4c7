"""Paths of files in types, which msgspec does not know."""

from __future__ import annotations

import pathlib
from typing import Any

__all__ = ["path_of", "path_schema"]


def path_schema(kind: type) -> dict[str, Any]:
    """The schema of a path.

    Raises:
        NotImplementedError: The type is no path.
    """
    if _is_path(kind):
        return {"type": "string", "format": "path"}
    raise NotImplementedError


def path_of(kind: type, value: Any) -> Any:
    """A text as a path.

    Raises:
        ValueError: It is no text.
        NotImplementedError: The type is no path.
    """
    if not _is_path(kind):
        raise NotImplementedError
    if not isinstance(value, str):
        raise ValueError("Expected str, the path of a file")  # noqa: TRY004 - msgspec adds the place
    return kind(value)


def _is_path(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, pathlib.PurePath)
