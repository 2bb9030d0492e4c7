"""JSON schemas of msgspec's types, with the meanings that their docstrings have."""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING, Any, cast

import msgspec
from msgspec import inspect as types

from foundry_api.types.values import is_dict

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["Schemas"]

_PREFIX = "#/components/schemas/"
_ATTRIBUTE = re.compile(r"^    (\w+): (.*(?:\n        .*)*)", re.MULTILINE)


class Schemas:
    """The schemas of types, and of all types in them.

    Attributes:
        components: The schemas by name.
    """

    def __init__(self, kinds: Iterable[type]) -> None:
        distinct = tuple(dict.fromkeys(kinds))
        refs, components = msgspec.json.schema_components(
            distinct, ref_template=f"{_PREFIX}{{name}}"
        )
        self._refs: dict[type, dict[str, Any]] = {
            kind: _tidy(ref) for kind, ref in zip(distinct, refs, strict=True)
        }
        classes = {
            name: cls
            for cls in _find_classes(types.multi_type_info(distinct))
            # msgspec adds the module if two classes have the same name.
            for name in (cls.__name__, f"{cls.__module__}.{cls.__name__}")
        }
        self.components: dict[str, Any] = {}
        for name, schema in components.items():
            tidy = _tidy(schema)
            _add_meanings(tidy, classes[name])
            self.components[_shorten(name)] = tidy

    def get_ref(self, kind: type) -> dict[str, Any]:
        """Return a reference to the schema of a type."""
        return self._refs[kind]


def _find_classes(kinds: Iterable[types.Type]) -> Iterator[type[msgspec.Struct]]:
    """Find the structs in types."""
    found: set[type] = set()
    waiting = list(kinds)
    while waiting:
        kind = waiting.pop()
        match kind:
            case types.StructType() if kind.cls not in found:
                found.add(kind.cls)
                yield kind.cls
                waiting += [field.type for field in kind.fields]
            case types.UnionType():
                waiting += kind.types
            case types.ListType() | types.VarTupleType():
                waiting.append(kind.item_type)
            case types.DictType():
                waiting.append(kind.value_type)
            case types.Metadata():
                waiting.append(kind.type)
            case _:
                pass


def _shorten(name: str) -> str:
    """Return the name for a class whose name is not unique, such as ChatMessageBody."""
    parts = name.split(".")
    if len(parts) == 1:
        return name
    subject = parts[-2].removesuffix("request").rstrip("_") or parts[-3]
    return f"{subject.title()}{parts[-1]}"


def _tidy(schema: Any) -> Any:
    """Leave out what says nothing, and shorten names."""
    if is_dict(schema):
        is_default_null = schema.get("default", "") is None
        return {
            name: _tidy(value)
            for name, value in schema.items()
            if name != "title" and not (name == "default" and is_default_null)
        }
    if isinstance(schema, list):
        return [_tidy(item) for item in cast("list[object]", schema)]
    if isinstance(schema, str) and schema.startswith(_PREFIX):
        return _PREFIX + _shorten(schema.removeprefix(_PREFIX))
    return schema


def _add_meanings(schema: dict[str, Any], cls: type) -> None:
    """Describe a schema and its members as the docstring of its class does."""
    properties: dict[str, dict[str, Any]] = schema.get("properties", {})
    for base in reversed(cls.__mro__):
        _, _, attributes = (inspect.getdoc(base) or "").partition("Attributes:\n")
        for name, meaning in _ATTRIBUTE.findall(attributes):
            if name in properties:
                properties[name]["description"] = " ".join(meaning.split())
    schema.pop("description", None)
    # `__doc__` of a class without one would be that of its base.
    text, _, _ = inspect.cleandoc(cls.__dict__.get("__doc__") or "").partition("\n\n")
    if text:
        schema["description"] = " ".join(text.split())
