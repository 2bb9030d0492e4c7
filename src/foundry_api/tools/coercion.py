"""Arguments of the wrong JSON type, where the schema leaves no doubt of what is meant.

Small models write `"5"`, `5.0` or `"true"` for a number or a truth value, and a list or an object
as text. To tell them so costs a round; what they mean is clear.
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
MAX_EXACT_INTEGER: Final = 2**53
"""From here on a float does not tell which whole number is meant."""

_NUMBER: Final = re.compile(r"[+-]?\d{1,300}(?:\.\d{1,300})?(?:e[+-]?\d{1,3})?")
_BOOLEANS: Final = {"true": True, "false": False}
_NULLS: Final = frozenset({"null", "none"})


def coerce(value: Any, schema: Mapping[str, Any]) -> Any:
    """A value with its parts as the schema has them, as far as that is clear; the rest as it is.

    Args:
        value: Decoded JSON.
        schema: A JSON schema, with the definitions that it refers to.
    """
    return _Coercion(schema).coerce(value, schema, MAX_DEPTH)


class _Coercion:
    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root

    def coerce(self, value: Any, schema: Any, depth: int) -> Any:
        schema = self._resolve(schema)
        if not depth or not is_object(schema):
            return value
        branches = schema.get("anyOf") or schema.get("oneOf")
        if is_list(branches):
            return self._coerce_branches(value, branches, depth)
        kind = _get_type(schema)
        if "enum" in schema or "const" in schema:
            return _match_enum(value, schema.get("enum", [schema.get("const")]))
        value = _coerce_to_type(value, kind)
        if is_object(value) and kind in ("object", None):
            members = schema.get("properties")
            others = schema.get("additionalProperties")
            known: dict[str, Any] = members if is_object(members) else {}
            return {
                name: self.coerce(part, known.get(name, others), depth - 1)
                for name, part in value.items()
            }
        if is_list(value) and kind in ("array", None):
            return [self.coerce(part, schema.get("items"), depth - 1) for part in value]
        return value

    def _coerce_branches(self, value: Any, branches: list[Any], depth: int) -> Any:
        """A value as the first branch has it that it fits as it is, else the first that changes it.

        An object is left alone where more than one branch may be meant.
        """
        resolved = [self._resolve(branch) for branch in branches]
        kinds = [_get_type(branch) for branch in resolved]
        matching = [
            branch for branch, kind in zip(resolved, kinds, strict=True) if _fits(value, kind)
        ]
        if len(matching) == 1:
            return self.coerce(value, matching[0], depth - 1)
        if matching:
            return value
        for branch in resolved:
            changed = self.coerce(value, branch, depth - 1)
            if changed is not value:
                return changed
        return value

    def _resolve(self, schema: Any) -> Any:
        for _ in range(MAX_DEPTH):
            reference = schema.get("$ref") if is_object(schema) else None
            if not isinstance(reference, str) or not reference.startswith("#/"):
                return schema
            schema = self._root
            for step in reference[2:].split("/"):
                schema = schema.get(step) if is_object(schema) else None
        return None


def _get_type(schema: Any) -> str | None:
    """The one JSON type that a schema names."""
    if not is_object(schema):
        return None
    kind = schema.get("type")
    if isinstance(kind, str):
        return kind
    if "properties" in schema:
        return "object"
    return None


_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "null": (type(None),),
    "array": (list,),
    "object": (dict,),
}


def _fits(value: Any, kind: str | None) -> bool:
    types = _TYPES.get(kind or "")
    if types is None:
        return True
    return isinstance(value, types) and (kind == "boolean" or not isinstance(value, bool))


def _coerce_to_type(value: Any, kind: str | None) -> Any:
    if _fits(value, kind):
        return value
    if isinstance(value, str):
        return _parse_text(value, kind)
    return _to_integer(value) if kind == "integer" else value


def _parse_text(text: str, kind: str | None) -> Any:
    """What a text means of which a schema says that it is none."""
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
            return _decode(text, kind)
        case _:
            return text


def _parse_number(text: str) -> int | float | None:
    if not _NUMBER.fullmatch(text):
        return None
    number = float(text) if any(mark in text for mark in ".e") else int(text)
    return number if math.isfinite(number) else None


def _to_integer(value: Any) -> Any:
    """A whole number that was written as a fraction."""
    if isinstance(value, float) and value.is_integer() and abs(value) < MAX_EXACT_INTEGER:
        return int(value)
    return value


def _decode(text: str, kind: str) -> Any:
    try:
        value: Any = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return text
    return value if _fits(value, kind) else text


def _match_enum(value: Any, choices: Any) -> Any:
    """The member of a list of values that has the same text."""
    if not is_list(choices) or value in choices or is_object(value) or is_list(value):
        return value
    normalized = str(value).strip().lower()
    matches = [choice for choice in choices if str(choice).lower() == normalized]
    return matches[0] if len(matches) == 1 else value
