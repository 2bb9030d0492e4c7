"""A JSON schema in the form that the engine of SDK 2.1 and later enforces.

What it can't enforce is left out, which only allows more: the answer is validated afterwards
against the whole schema in any case. Probed keyword by keyword on 2.2.1.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

from foundry_api.structured.keywords import LISTS, MAPS, SINGLE, is_enforced
from foundry_api.structured.patterns import engine_reads, loosened
from foundry_api.structured.ranges import told_apart
from foundry_api.structured.references import Schema, target
from foundry_api.structured.rewrites import COMBINERS, SAID_ASIDE, added

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["engine_schema", "lark_choice", "lark_schema"]

GUIDANCE = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    "coerce_one_of": True,
}
"""Left to itself, a small model fills its answer with white space up to max_tokens."""


def lark_schema(schema: Mapping[str, Any]) -> str:
    """The grammar of the answers that a schema allows.

    Within a grammar the engine keeps the order of the properties; a schema by itself reaches it
    with the properties in alphabetical order.

    Raises:
        GrammarError: A `$ref` leads nowhere.
    """
    return f"start: %json {json.dumps(engine_schema(schema), ensure_ascii=False)}"


def lark_choice(choices: tuple[str, ...]) -> str:
    """The grammar whose answers are these texts."""
    return f"start: {' | '.join(json.dumps(each, ensure_ascii=False) for each in choices)}"


def engine_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A schema as the engine takes it; it allows every answer that the given one does.

    With these exceptions, for answers that end: an object that names properties, and says nothing
    of others, gets no others; a number has at most 64 bits before the point; one from 0 on gets
    at most nine decimals, and a time six.

    Raises:
        GrammarError: A `$ref` leads nowhere.
    """
    root = dict(schema)
    shaper = _Shaper(root)
    shaped = shaper.shaped(root, "$", closing=True)
    told = shaped if isinstance(shaped, dict) else {"allOf": [shaped]}
    if "$schema" in schema:
        told = {"$schema": schema["$schema"], **told}
    if shaper.definitions:
        told = {**told, "$defs": shaper.definitions}
    return {**told, "x-guidance": GUIDANCE}


class _Shaper:
    """Goes through one schema. What references mean is collected as definitions.

    Args:
        root: The whole schema.

    Attributes:
        definitions: What the references mean, by number.
    """

    def __init__(self, root: dict[str, Any]) -> None:
        self.definitions: dict[str, Schema] = {}
        self._root = root
        self._numbers: dict[tuple[int, bool], str] = {}

    def shaped(self, schema: Schema, path: str, *, closing: bool) -> Schema:
        """One schema within the whole.

        Args:
            schema: As the caller wrote it.
            path: Where it stands.
            closing: Whether nothing else bears on the same value, so that objects may be closed.
        """
        if isinstance(schema, bool):
            return schema
        combined = COMBINERS & schema.keys()
        alone = closing and (not combined or len(schema.keys() - SAID_ASIDE) == 1)
        alone = alone and len(schema.get("allOf", ())) <= 1
        shaped = {
            name: self._member(name, value, f"{path}.{name}", closing=alone)
            for name, value in schema.items()
            if is_enforced(schema, name)
        }
        if not all(map(engine_reads, schema.get("patternProperties", ()))):
            # Which members are additional depends on the patterns.
            shaped.pop("patternProperties")
            shaped.pop("additionalProperties", None)
        return {**shaped, **added(schema, shaped, closing=closing)}

    def _member(self, name: str, value: Any, path: str, *, closing: bool) -> Any:
        if name == "$ref":
            return self._reference(value, path, closing=closing)
        if name == "pattern":
            return loosened(value)
        if name in MAPS:
            members = cast("dict[str, Schema]", value)
            return {
                key: self.shaped(each, f"{path}.{key}", closing=closing)
                for key, each in members.items()
            }
        if name in LISTS or (name in SINGLE and isinstance(value, list)):
            items: Sequence[Schema] = cast("list[Schema]", value)
            if name == "oneOf":
                items = told_apart(items)
            return [
                self.shaped(each, f"{path}[{index}]", closing=closing)
                for index, each in enumerate(items)
            ]
        return self.shaped(value, path, closing=closing) if name in SINGLE else value

    def _reference(self, reference: object, path: str, *, closing: bool) -> str:
        found = target(self._root, reference, path)
        key = (id(found), closing)
        if isinstance(found, bool):
            key = (int(found), closing)
        if key not in self._numbers:
            number = self._numbers[key] = str(len(self._numbers) + 1)
            self.definitions[number] = True  # holds the place while it refers to itself
            self.definitions[number] = self.shaped(found, str(reference), closing=closing)
        return f"#/$defs/{self._numbers[key]}"
