"""The tags of unions, which a type with a default does not require of an answer.

Without its tag nothing tells which branch a value is of, and a model leaves out what is not
required.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, cast

from foundry_api.errors import GrammarError
from foundry_api.structured.references import target

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["with_tags_required"]


def with_tags_required(schema: dict[str, Any]) -> dict[str, Any]:
    """A schema whose unions have their tags required in every branch."""
    if not any(True for _ in _unions(schema)):
        return schema
    root = copy.deepcopy(schema)
    for union, branches in _unions(root):
        named = union.get("discriminator")
        tag = cast("Any", named).get("propertyName") if isinstance(named, dict) else None
        objects = [each for each in (_resolved(root, branch) for branch in branches) if each]
        for branch in objects if len(objects) > 1 else ():
            properties = branch["properties"]
            tags = [name for name, value in properties.items() if name == tag or _is_fixed(value)]
            required = branch.get("required", [])
            if missing := [name for name in tags if name not in required]:
                branch["required"] = [*missing, *required]
    return root


def _is_fixed(schema: Any) -> bool:
    """Whether a member can have but one value."""
    if not isinstance(schema, dict):
        return False
    members = cast("dict[str, Any]", schema)
    listed: Any = members.get("enum", ())
    return "const" in members or len(listed) == 1


def _resolved(root: dict[str, Any], branch: Any) -> dict[str, Any] | None:
    """The object that a branch describes; None if it is none with members of its own."""
    if isinstance(branch, dict) and "$ref" in branch:
        try:
            branch = target(root, cast("dict[str, Any]", branch)["$ref"], "$")
        except GrammarError:
            return None  # told where the schema is read for the engine
    if not isinstance(branch, dict):
        return None
    members = cast("dict[str, Any]", branch)
    return members if isinstance(members.get("properties"), dict) else None


def _unions(value: Any) -> Iterator[tuple[dict[str, Any], list[Any]]]:
    if isinstance(value, dict):
        members = cast("dict[str, Any]", value)
        for name in ("anyOf", "oneOf"):
            if isinstance(branches := members.get(name), list):
                yield members, branches
        for each in members.values():
            yield from _unions(each)
    elif isinstance(value, list):
        items: list[Any] = value  # pyright: ignore[reportUnknownVariableType] # of JSON
        for each in items:
            yield from _unions(each)
