"""`--schema`: a JSON schema from a file, or from a short list of fields."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

from foundry_api.cli.text_file import read_text_file
from foundry_api.types.errors import InvalidRequest
from foundry_api.types.local_path import absolute_path

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["FIELDS_HINT", "parse_schema"]

FIELD = "response_model"  # what errors name; the option has the same parameter
FIELDS_HINT = (
    "Give a file, a schema, or fields such as: name, age int, tags str[], note: one sentence"
)
TYPES = {
    "str": "string",
    "string": "string",
    "int": "integer",
    "integer": "integer",
    "float": "number",
    "number": "number",
    "bool": "boolean",
    "boolean": "boolean",
}
_FIELD = re.compile(r"(?P<name>[A-Za-z_]\w*)(?:\s+(?P<type>[a-z]+)(?P<list>\[\])?)?")
_FILE = re.compile(r"[^,\s]+\.json", re.IGNORECASE)


def parse_schema(text: str) -> dict[str, Any]:
    """Return the JSON schema that an argument names or describes. Raises InvalidRequest.

    A description after a colon goes on to the next comma or line end.
    """
    if text.lstrip().startswith("{"):
        return _decode(text, "--schema")
    if _FILE.fullmatch(text.strip()) or _is_file(text):
        return _decode(read_text_file(text, FIELD).text, text)
    properties: dict[str, Any] = {}
    for part, description in _split(text):
        match = _FIELD.fullmatch(part)
        if match is None or (match["type"] or "str") not in TYPES:
            problem = f"{part!r} is no field" if match is None else f"{match['type']} is no type"
            raise InvalidRequest(f"--schema: {problem}", field=FIELD, hint=f"{FIELDS_HINT}.")
        if match["name"] in properties:
            raise InvalidRequest(f"--schema has {match['name']} twice", field=FIELD)
        kind: dict[str, Any] = {"type": TYPES[match["type"] or "str"]}
        if match["list"]:
            kind = {"type": "array", "items": kind}
        if description:
            kind["description"] = description
        properties[match["name"]] = kind
    if not properties:
        raise InvalidRequest("--schema is empty", field=FIELD, hint=f"{FIELDS_HINT}.")
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _split(text: str) -> Iterator[tuple[str, str]]:
    for part in re.split(r"[,\n]", text):
        name, _, description = part.partition(":")
        if name.strip():
            yield name.strip(), description.strip()


def _is_file(text: str) -> bool:
    try:
        return absolute_path(text.strip()).is_file()
    except (ValueError, OSError):
        return False


def _decode(text: str, subject: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise InvalidRequest(
            f"{subject} has no JSON schema: {error}", field=FIELD, hint=f"{FIELDS_HINT}."
        ) from error
