"""Where the `$ref`s of a JSON schema lead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote

from foundry_api.errors import GrammarError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["Schema", "target"]

Schema = dict[str, Any] | bool


def target(root: dict[str, Any], reference: object, path: str) -> Schema:
    """The schema that a reference means, through references that say nothing else.

    Args:
        root: The whole schema.
        reference: The value of `$ref`.
        path: Where it stands, for the error.

    Raises:
        GrammarError: It leads out of the schema, nowhere, or only to itself.
    """
    seen: list[object] = []
    while True:
        found = _found(root, reference, path)
        if not isinstance(found, dict) or set(found) != {"$ref"}:
            return found
        reference = found["$ref"]
        if reference in seen:
            raise GrammarError(f"{path}: {reference!r} leads only to itself", field=_FIELD)
        seen.append(reference)


def _found(root: dict[str, Any], reference: object, path: str) -> Schema:
    if not isinstance(reference, str) or not reference.startswith("#"):
        raise GrammarError(
            f"{path}: {reference!r} leads out of the schema, and nothing is fetched for it",
            hint="Put what it means under $defs and refer to it as #/$defs/NAME.",
            field=_FIELD,
        )
    fragment = unquote(reference[1:])
    found = _at(root, fragment) if fragment[:1] in {"", "/"} else _anchored(root, fragment)
    if not isinstance(found, dict | bool):
        raise GrammarError(f"{path}: {reference!r} leads to no schema", field=_FIELD)
    return cast("Schema", found)


def _at(root: dict[str, Any], pointer: str) -> object:
    value: Any = root
    for step in pointer.split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        try:
            value = value[int(name) if isinstance(value, list) else name]
        except (KeyError, IndexError, TypeError, ValueError):
            return None
    return value


def _anchored(root: dict[str, Any], name: str) -> object:
    names = ("$anchor", "$dynamicAnchor")
    return next((each for each in _objects(root) if name in map(each.get, names)), None)


def _objects(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        members = cast("dict[str, Any]", value)
        yield members
        for member in members.values():
            yield from _objects(member)
    elif isinstance(value, list):
        for item in cast("Iterable[Any]", value):
            yield from _objects(item)


_FIELD = "response_model"
