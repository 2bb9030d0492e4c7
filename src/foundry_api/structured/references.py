"""Resolve the `$ref`s of a JSON schema. Only references within the schema are supported."""

from __future__ import annotations

from typing import Any, cast
from urllib.parse import unquote

from foundry_api.structured.json_values import iter_values
from foundry_api.types.errors import GrammarError
from foundry_api.types.values import is_object

__all__ = ["Schema", "resolve_ref"]

Schema = dict[str, Any] | bool

_FIELD = "response_model"


def resolve_ref(root: dict[str, Any], reference: object, path: str) -> Schema:
    """Return the schema that a `$ref` points to, following schemas that are only a `$ref`.

    `path` is the location of the reference, for error messages. Raises GrammarError.
    """
    visited: list[object] = []
    while True:
        if not isinstance(reference, str) or not reference.startswith("#"):
            raise GrammarError(
                f"{path}: {reference!r} points outside the schema, and nothing is fetched for it",
                hint="Move the schema under $defs and refer to it as #/$defs/NAME.",
                field=_FIELD,
            )
        target = _find_fragment(root, unquote(reference[1:]))
        if not isinstance(target, dict | bool):
            raise GrammarError(f"{path}: {reference!r} does not point to a schema", field=_FIELD)
        schema = cast("Schema", target)
        if not isinstance(schema, dict) or set(schema) != {"$ref"}:
            return schema
        reference = schema["$ref"]
        if reference in visited:
            raise GrammarError(f"{path}: {reference!r} refers only to itself", field=_FIELD)
        visited.append(reference)


def _find_fragment(root: dict[str, Any], fragment: str) -> object:
    """Return the value at a JSON pointer or an anchor; None if there is none."""
    if fragment and not fragment.startswith("/"):
        for schema in iter_values(root):
            if is_object(schema) and fragment in map(schema.get, ("$anchor", "$dynamicAnchor")):
                return schema
        return None
    value: Any = root
    for step in fragment.split("/")[1:]:
        # ~1 before ~0, so that ~01 becomes ~1 and not a slash (RFC 6901).
        name = step.replace("~1", "/").replace("~0", "~")
        try:
            value = value[int(name) if isinstance(value, list) else name]
        except (KeyError, IndexError, TypeError, ValueError):
            return None
    return value
