"""Find the metadata of `Annotated` in a type: bounds, descriptions, validators.

msgspec silently ignores all metadata but its own `Meta`, and pydantic what it does not know. A
bound that neither of them enforces is an error here.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import sys
import types
import typing
from collections import abc
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

__all__ = [
    "UnknownMetadata",
    "UnsupportedType",
    "has_pydantic",
    "is_pydantic_field",
    "needs_pydantic",
    "reject_msgspec_bounds",
    "to_pydantic_type",
]

_PYDANTIC_PACKAGES = frozenset(
    {"annotated_types", "pydantic", "pydantic_core", "pydantic_extra_types"}
)
_PYDANTIC_HOOKS = ("__get_pydantic_core_schema__", "__get_pydantic_json_schema__")
_LAZY_TYPES = (abc.Iterable, abc.Iterator, abc.Generator)
_DESCRIPTIVE_FIELDS = {"title", "description", "examples", "extra_json_schema", "extra"}


class UnsupportedType(TypeError):
    """A type cannot be described or decoded."""


class UnknownMetadata(UnsupportedType):
    """A type has metadata that would have no effect."""


def needs_pydantic(kind: object) -> bool:
    """Check whether a type has metadata that only pydantic enforces, such as `Field(ge=1)`.

    Raises UnknownMetadata if neither msgspec nor pydantic can enforce all metadata of the type.
    """
    metadata = list(_iter_metadata(kind, set()))
    _reject_ineffective(metadata)
    return any(_is_pydantic_metadata(item) for item, _ in metadata)


def _reject_ineffective(metadata: Sequence[tuple[Any, Any]]) -> None:
    """Raise UnknownMetadata if an item would have no effect."""
    for item, owner in metadata:
        if _is_msgspec_bound(item) and _get_pydantic_fields(owner):
            raise UnknownMetadata(
                f"{owner.__name__} is a model of pydantic, on which {item!r} has no effect: write "
                "it as Field(…)"
            )
    unknown = [item for item, _ in metadata if not _is_known(item)]
    if unknown:
        raise UnknownMetadata(
            f"Annotated has {unknown[0]!r}, which neither msgspec nor pydantic knows: it would "
            "have no effect"
        )
    pydantic_metadata = [(item, owner) for item, owner in metadata if _is_pydantic_metadata(item)]
    if not pydantic_metadata:
        return
    for item, owner in pydantic_metadata:
        if isinstance(owner, type) and issubclass(owner, msgspec.Struct):
            raise UnknownMetadata(
                f"{owner.__name__} is a msgspec Struct, on which {item!r} has no effect: write it "
                "as msgspec.Meta"
            )
    first = pydantic_metadata[0][0]
    if any(_is_msgspec_bound(item) for item, _ in metadata):
        raise UnknownMetadata(
            f"it has both msgspec.Meta and {first!r}: use one of them for all bounds"
        )
    if not has_pydantic():
        raise UnknownMetadata(f"{first!r} needs pydantic: install it, or write msgspec.Meta")


def has_pydantic() -> bool:
    try:
        importlib.import_module("pydantic")
    except ImportError:
        return False
    return True


def reject_msgspec_bounds(kind: object) -> None:
    """Raise UnknownMetadata if a type that is left to pydantic has bounds of msgspec."""
    for item, _ in _iter_metadata(kind, set()):
        if _is_msgspec_bound(item):
            raise UnknownMetadata(
                f"msgspec cannot enforce {item!r} here, and pydantic does not know it: write it as "
                "Field(…), or correct it"
            )


def to_pydantic_type(kind: Any) -> Any:
    """Replace the types that pydantic rejects, or does not validate at once."""
    # pydantic rejects typing.TypedDict before Python 3.12, and validates an Iterable only while it
    # is iterated.
    if sys.version_info < (3, 12) and typing.is_typeddict(kind):
        return _make_typed_dict(kind)
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if (origin or kind) in _LAZY_TYPES:
        item: Any = to_pydantic_type(args[0]) if args else Any
        return types.GenericAlias(list, (item,))
    if origin is Annotated:
        return Annotated[(to_pydantic_type(args[0]), *kind.__metadata__)]
    if origin in (None, Literal) or not args:
        return kind
    changed = tuple(map(to_pydantic_type, args))
    if all(new is old for new, old in zip(changed, args, strict=True)):
        return kind
    return typing.Union[changed] if origin in (typing.Union, types.UnionType) else origin[changed]  # noqa: UP007 - of a tuple


def _make_typed_dict(kind: Any) -> Any:
    import typing_extensions  # noqa: PLC0415 - a dependency of pydantic

    members: dict[str, Any] = {}
    for name, hint in typing.get_type_hints(kind, include_extras=True).items():
        is_wrapped = typing.get_origin(hint) in (typing.Required, typing.NotRequired)
        inner = typing.get_args(hint)[0] if is_wrapped else hint
        is_required = name in kind.__required_keys__
        wrapper: Any = typing.Required if is_required else typing.NotRequired
        members[name] = wrapper[to_pydantic_type(inner)]
    make: Any = typing_extensions.TypedDict
    return make(kind.__name__, members)


def _iter_metadata(kind: Any, visited: set[int], owner: Any = None) -> Iterator[tuple[Any, Any]]:
    """Yield all metadata in a type, each with its owner.

    The owner is the class whose member is annotated, as `Person` for `age: Annotated[int, Ge(0)]`;
    None outside of a class. `visited` has the ids of the classes that were read: a class may refer
    to itself.
    """
    kind = getattr(kind, "__supertype__", kind)  # of a NewType
    origin = typing.get_origin(kind)
    if origin is Literal:
        return
    args = typing.get_args(kind)
    parts: list[Any] = [*args]
    if origin is Annotated:
        parts = [args[0]]
        yield from ((item, owner) for item in kind.__metadata__)
    if hasattr(kind, "__value__"):  # of a type alias
        parts.append(kind.__value__)
    for part in parts:
        # The parameters of a Callable are a list.
        for inner in part if isinstance(part, list) else (part,):  # pyright: ignore[reportUnknownVariableType] # of typing
            yield from _iter_metadata(inner, visited, owner)
    # The class of a generic alias such as `Page[int]` has the members.
    yield from _iter_member_metadata(origin if isinstance(origin, type) else kind, visited)


def _iter_member_metadata(kind: Any, visited: set[int]) -> Iterator[tuple[Any, Any]]:
    """Yield the metadata in the members of a class, if it is one whose members are decoded."""
    if id(kind) in visited:
        return
    if fields := _get_pydantic_fields(kind):
        visited.add(id(kind))
        for field in fields.values():
            nested = (item for item, _ in _iter_metadata(field.annotation, visited))
            items = [*field.metadata, *nested]
            # pydantic enforces its own metadata, so only that of msgspec is of interest.
            yield from ((item, kind) for item in items if isinstance(item, msgspec.Meta))
    if not inspect.isclass(kind) or any(hasattr(kind, hook) for hook in _PYDANTIC_HOOKS):
        return
    defaults: Iterable[Any] = ()
    if dataclasses.is_dataclass(kind):
        defaults = [field.default for field in dataclasses.fields(kind)]
    elif tuple in kind.__mro__ and hasattr(kind, "_fields"):
        defaults = typing.cast("Any", kind)._field_defaults.values()
    elif issubclass(kind, msgspec.Struct):
        defaults = kind.__struct_defaults__
    elif not typing.is_typeddict(kind):
        return
    visited.add(id(kind))
    # A default such as `Field(ge=1)` is metadata, too.
    yield from ((default, kind) for default in defaults if is_pydantic_field(default))
    for hint in typing.get_type_hints(kind, include_extras=True).values():
        yield from _iter_metadata(hint, visited, kind)


def _get_pydantic_fields(kind: Any) -> dict[str, Any]:
    """Return the fields of a pydantic model or dataclass; empty for other types."""
    fields: Any = getattr(kind, "__pydantic_fields__", None)
    return typing.cast("dict[str, Any]", fields) if inspect.isclass(kind) and fields else {}


def _is_known(item: Any) -> bool:
    if type(item).__module__ == "annotated_types" and type(item).__name__ == "Timezone":
        return False  # pydantic ignores it
    # pydantic's conint() has None for each bound that is not set.
    is_plain = item is None or isinstance(item, str | msgspec.Meta)
    return is_plain or _is_pydantic_metadata(item) or _is_documentation(item)


def _is_documentation(item: Any) -> bool:
    """Check whether metadata only describes, such as `typing_extensions.Doc`."""
    return isinstance(getattr(item, "documentation", None), str)


def _is_pydantic_metadata(item: Any) -> bool:
    if _is_documentation(item):
        return False
    kind = item if isinstance(item, type) else type(item)
    packages = {base.__module__.partition(".")[0] for base in kind.__mro__}
    return bool(packages & _PYDANTIC_PACKAGES) or any(
        hasattr(item, hook) for hook in _PYDANTIC_HOOKS
    )


def is_pydantic_field(default: Any) -> bool:
    """Check whether a default is pydantic's `Field(…)`."""
    return type(default).__module__ == "pydantic.fields"


def _is_msgspec_bound(item: Any) -> bool:
    return isinstance(item, msgspec.Meta) and any(
        value is not None and name not in _DESCRIPTIVE_FIELDS
        for name, value in item.__rich_repr__()
    )
