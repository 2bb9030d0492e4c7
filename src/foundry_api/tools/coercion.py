"""Convert arguments of the wrong JSON type if the schema leaves no doubt about their meaning.

Small models write `"5"`, `5.0` or `"true"` for a number or a boolean, and a list or an object as
text. Rejecting them would cost another turn.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any, Final

import msgspec

from foundry_api.types.values import is_list, is_object

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["coerce"]

MAX_DEPTH: Final = 32
# Larger floats do not represent every integer.
MAX_EXACT_INTEGER: Final = 2**53

_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "null": (type(None),),
    "array": (list,),
    "object": (dict,),
}
# A model may write any number of digits, and int() raises ValueError for more than 4300.
_NUMBER: Final = re.compile(r"[+-]?\d{1,300}(?:\.\d{1,300})?(?:e[+-]?\d{1,3})?")
_BOOLEANS: Final = {"true": True, "false": False}
_NULLS: Final = frozenset({"null", "none"})


def coerce(value: Any, schema: Mapping[str, Any]) -> Any:
    """Convert the parts of a decoded JSON value to the types of a schema where that is clear."""
    return _coerce(value, schema, schema, MAX_DEPTH)


def _coerce(value: Any, schema: Any, root: Mapping[str, Any], depth: int) -> Any:
    schema = _resolve(schema, root)
    if not depth or not is_object(schema):
        return value
    branches = schema.get("anyOf") or schema.get("oneOf")
    if is_list(branches):
        return _coerce_branches(value, branches, root, depth)
    if "enum" in schema or "const" in schema:
        return _match_enum(value, schema.get("enum", [schema.get("const")]))
    kind = _get_type(schema)
    if not _fits(value, kind):
        if isinstance(value, str):
            value = _parse_text(value, kind)
        elif kind == "integer":
            value = _to_integer(value)
    if is_object(value) and kind in ("object", None):
        properties = schema.get("properties")
        known: dict[str, Any] = properties if is_object(properties) else {}
        others = schema.get("additionalProperties")
        return {
            name: _coerce(part, known.get(name, others), root, depth - 1)
            for name, part in value.items()
        }
    if is_list(value) and kind in ("array", None):
        return [_coerce(part, schema.get("items"), root, depth - 1) for part in value]
    return value


def _coerce_branches(value: Any, branches: list[Any], root: Mapping[str, Any], depth: int) -> Any:
    resolved = [_resolve(branch, root) for branch in branches]
    matching = [branch for branch in resolved if _fits(value, _get_type(branch))]
    if len(matching) == 1:
        return _coerce(value, matching[0], root, depth - 1)
    if matching:
        return value  # more than one branch may be meant
    for branch in resolved:
        changed = _coerce(value, branch, root, depth - 1)
        if changed is not value:
            return changed
    return value


def _resolve(schema: Any, root: Mapping[str, Any]) -> Any:
    """Follow `$ref`s; None if they lead nowhere or in a circle."""
    for _ in range(MAX_DEPTH):
        reference = schema.get("$ref") if is_object(schema) else None
        if not isinstance(reference, str) or not reference.startswith("#/"):
            return schema
        schema = root
        for step in reference[2:].split("/"):
            schema = schema.get(step) if is_object(schema) else None
    return None


def _get_type(schema: Any) -> str | None:
    """Return the JSON type of a schema; None if it allows several."""
    if not is_object(schema):
        return None
    kind = schema.get("type")
    if isinstance(kind, str):
        return kind
    return "object" if "properties" in schema else None


def _fits(value: Any, kind: str | None) -> bool:
    types = _TYPES.get(kind or "")
    if types is None:
        return True
    # A bool is an int in Python, but not in JSON.
    return isinstance(value, types) and (kind == "boolean" or not isinstance(value, bool))


def _match_enum(value: Any, choices: Any) -> Any:
    """Return the only choice with the same text, ignoring case; otherwise the value."""
    if not is_list(choices) or value in choices or is_object(value) or is_list(value):
        return value
    normalized = str(value).strip().lower()
    matches = [choice for choice in choices if str(choice).lower() == normalized]
    return matches[0] if len(matches) == 1 else value


def _parse_text(text: str, kind: str | None) -> Any:
    """Parse a text to a type other than string; return the text if that fails."""
    word = text.strip().lower()
    match kind:
        case "integer":
            number = _to_integer(_parse_number(word))
            return number if isinstance(number, int) else text
        case "number":
            number = _parse_number(word)
            return text if number is None else number
        case "boolean":
            return _BOOLEANS.get(word, text)
        case "null":
            return None if word in _NULLS else text
        case "array" | "object":
            try:
                value: Any = msgspec.json.decode(text)
            except (msgspec.DecodeError, UnicodeError, RecursionError):
                return text
            return value if _fits(value, kind) else text
        case _:
            return text


def _parse_number(text: str) -> int | float | None:
    if not _NUMBER.fullmatch(text):
        return None
    number = float(text) if any(mark in text for mark in ".e") else int(text)
    return number if math.isfinite(number) else None


def _to_integer(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer() and abs(value) < MAX_EXACT_INTEGER:
        return int(value)
    return value
