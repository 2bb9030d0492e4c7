"""What the annotations within a type say beside the type: bounds, descriptions, validators.

msgspec reads its own `Meta` and passes over all other marks of `Annotated` without a word, pydantic
passes over those that it does not know. A bound that nothing keeps to is an error.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pathlib
import sys
import types
import typing
from collections import abc
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "UnknownMark",
    "UnsupportedType",
    "has_pydantic",
    "is_pydantic_field",
    "make_path_schema",
    "needs_pydantic",
    "parse_path",
    "reject_msgspec_bounds",
    "to_pydantic_type",
]


_PYDANTIC_PACKAGES = frozenset(
    {"annotated_types", "pydantic", "pydantic_core", "pydantic_extra_types"}
)
_LAZY_TYPES = (abc.Iterable, abc.Iterator, abc.Generator)
_PYDANTIC_HOOKS = ("__get_pydantic_core_schema__", "__get_pydantic_json_schema__")


class UnsupportedType(TypeError):
    """A type cannot be described or read; the message says why."""


class UnknownMark(UnsupportedType):
    """A type has a mark that nothing here keeps to; the message names it."""


def needs_pydantic(kind: object) -> bool:
    """Whether a type has marks that pydantic keeps to, such as `Field(ge=1)` or `Ge(1)`.

    Raises:
        UnknownMark: It has a mark that neither msgspec nor pydantic knows, marks of both, or
            marks of pydantic in a msgspec Struct.
    """
    marks = list(_iter_marks(kind, set()))
    for mark, owner in marks:
        if isinstance(mark, msgspec.Meta) and _has_bounds(mark) and _get_pydantic_fields(owner):
            raise UnknownMark(
                f"{owner.__name__} is a model of pydantic, on which {mark!r} has no effect: write "
                "it as Field(…)"
            )
    unknown = [mark for mark, _ in marks if not _is_known(mark)]
    if unknown:
        raise UnknownMark(
            f"Annotated has {unknown[0]!r}, which neither msgspec nor pydantic knows: it would "
            "have no effect"
        )
    pydantic_marks = [(mark, owner) for mark, owner in marks if _is_pydantic_mark(mark)]
    if not pydantic_marks:
        return False
    for mark, owner in pydantic_marks:
        if isinstance(owner, type) and issubclass(owner, msgspec.Struct):
            raise UnknownMark(
                f"{owner.__name__} is a msgspec Struct, on which {mark!r} has no effect: write it "
                "as msgspec.Meta"
            )
    if any(isinstance(mark, msgspec.Meta) and _has_bounds(mark) for mark, _ in marks):
        raise UnknownMark(
            f"it has both msgspec.Meta and {pydantic_marks[0][0]!r}: write all of them in one way"
        )
    if not has_pydantic():
        raise UnknownMark(
            f"{pydantic_marks[0][0]!r} needs pydantic: install it, or write msgspec.Meta"
        )
    return True


def has_pydantic() -> bool:
    """Whether pydantic can be imported, or is."""
    try:
        importlib.import_module("pydantic")
    except ImportError:
        return False
    return True


def reject_msgspec_bounds(kind: object) -> None:
    """See that pydantic misses nothing in a type that msgspec does not take.

    Raises:
        UnknownMark: It has bounds that only msgspec knows.
    """
    for mark, _ in _iter_marks(kind, set()):
        if isinstance(mark, msgspec.Meta) and _has_bounds(mark):
            raise UnknownMark(
                f"msgspec cannot keep to {mark!r} here, and pydantic does not know it: write it as "
                "Field(…), or correct it"
            )


def to_pydantic_type(kind: Any) -> Any:
    """A type as pydantic takes it, and reads it at once.

    It refuses `typing.TypedDict` before Python 3.12, and validates an `Iterable` only while it is
    iterated.
    """
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
    import typing_extensions  # noqa: PLC0415 - it comes with pydantic

    members: dict[str, Any] = {}
    for name, hint in typing.get_type_hints(kind, include_extras=True).items():
        is_wrapped = typing.get_origin(hint) in (typing.Required, typing.NotRequired)
        inner = typing.get_args(hint)[0] if is_wrapped else hint
        is_required = name in kind.__required_keys__
        wrapper: Any = typing.Required if is_required else typing.NotRequired
        members[name] = wrapper[to_pydantic_type(inner)]
    make: Any = typing_extensions.TypedDict
    return make(kind.__name__, members)


def _iter_marks(kind: Any, seen: set[int], owner: Any = None) -> Iterator[tuple[Any, Any]]:
    """The marks within a type, each with the class whose member has it."""
    kind = getattr(kind, "__supertype__", kind)  # of a NewType
    origin = typing.get_origin(kind)
    if origin is Literal:
        return
    for mark in getattr(kind, "__metadata__", ()) if origin is Annotated else ():
        yield mark, owner
    for part in _iter_parts(kind):
        yield from _iter_marks(part, seen, owner)
    yield from _iter_member_marks(origin if isinstance(origin, type) else kind, seen)


def _iter_parts(kind: Any) -> Iterator[Any]:
    """The types that a type is made of."""
    arguments = typing.get_args(kind)
    for item in arguments[:1] if typing.get_origin(kind) is Annotated else arguments:
        argument: Any = item
        yield from argument if isinstance(argument, list) else (argument,)
    if hasattr(kind, "__value__"):  # of a type alias
        yield kind.__value__


def _iter_member_marks(kind: Any, seen: set[int]) -> Iterator[tuple[Any, Any]]:
    if id(kind) in seen:
        return
    if fields := _get_pydantic_fields(kind):
        seen.add(id(kind))
        yield from _iter_msgspec_bounds(kind, fields, seen)
    if not _has_members(kind):
        return
    seen.add(id(kind))
    for default in _iter_defaults(kind):
        if is_pydantic_field(default):
            yield default, kind
    for hint in typing.get_type_hints(kind, include_extras=True).values():
        yield from _iter_marks(hint, seen, kind)


def _get_pydantic_fields(kind: Any) -> dict[str, Any]:
    """The fields of a class of pydantic's; empty for any other."""
    fields: Any = getattr(kind, "__pydantic_fields__", None)
    return typing.cast("dict[str, Any]", fields) if inspect.isclass(kind) and fields else {}


def _iter_msgspec_bounds(
    model: Any, fields: dict[str, Any], seen: set[int]
) -> Iterator[tuple[Any, Any]]:
    """The marks in a model of pydantic's that are not for pydantic, which knows its own."""
    for field in fields.values():
        marks = [*field.metadata, *(mark for mark, _ in _iter_marks(field.annotation, seen))]
        yield from ((mark, model) for mark in marks if isinstance(mark, msgspec.Meta))


def _has_members(kind: Any) -> bool:
    if not inspect.isclass(kind) or any(hasattr(kind, hook) for hook in _PYDANTIC_HOOKS):
        return False  # pydantic's own classes look after their members
    return (
        dataclasses.is_dataclass(kind)
        or typing.is_typeddict(kind)
        or issubclass(kind, msgspec.Struct)
        or _is_named_tuple(kind)
    )


def _is_named_tuple(kind: Any) -> bool:
    return tuple in kind.__mro__ and hasattr(kind, "_fields")


def _iter_defaults(kind: Any) -> Iterator[Any]:
    if dataclasses.is_dataclass(kind):
        yield from (field.default for field in dataclasses.fields(kind))
    elif _is_named_tuple(kind):
        yield from kind._field_defaults.values()
    elif issubclass(kind, msgspec.Struct):
        yield from kind.__struct_defaults__


def _is_known(mark: Any) -> bool:
    if type(mark).__module__ == "annotated_types" and type(mark).__name__ == "Timezone":
        return False  # pydantic passes over it
    # pydantic's own conint() has None for each bound that was not given.
    is_plain = mark is None or isinstance(mark, str | msgspec.Meta)
    return is_plain or _is_pydantic_mark(mark) or _is_documentation(mark)


def _is_documentation(mark: Any) -> bool:
    """Whether a mark only describes: `typing_extensions.Doc`, `annotated_types.doc`."""
    return isinstance(getattr(mark, "documentation", None), str)


def _is_pydantic_mark(mark: Any) -> bool:
    if _is_documentation(mark):
        return False
    kind = mark if isinstance(mark, type) else type(mark)
    bases = {base.__module__.partition(".")[0] for base in kind.__mro__}
    return bool(bases & _PYDANTIC_PACKAGES) or any(hasattr(mark, hook) for hook in _PYDANTIC_HOOKS)


def is_pydantic_field(default: Any) -> bool:
    """Whether a default is pydantic's `Field(…)`."""
    return type(default).__module__ == "pydantic.fields"


def _has_bounds(mark: msgspec.Meta) -> bool:
    texts = {"title", "description", "examples", "extra_json_schema", "extra"}
    return any(value is not None for name, value in mark.__rich_repr__() if name not in texts)


def make_path_schema(kind: type) -> dict[str, Any]:
    """The schema of a path.

    Raises:
        NotImplementedError: The type is no path.
    """
    if _is_path_type(kind):
        return {"type": "string", "format": "path"}
    raise NotImplementedError


def parse_path(kind: type, value: Any) -> Any:
    """A text as a path.

    Raises:
        ValueError: It is no text.
        NotImplementedError: The type is no path.
    """
    if not _is_path_type(kind):
        raise NotImplementedError
    if not isinstance(value, str):
        raise ValueError("Expected str, the path of a file")  # noqa: TRY004 - msgspec adds the place
    return kind(value)


def _is_path_type(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, pathlib.PurePath)
