"""The parameters of a function as JSON schema, and arguments of a model's as their types.

msgspec describes and converts what it knows: numbers, texts, lists, mappings, literals, enums,
optional values, dataclasses, `TypedDict`s, paths and its own Structs. pydantic does it for the rest
where it is there: models, unions of them, its types, and bounds such as `Field(ge=1)`.
"""

from __future__ import annotations

import copy
import inspect
import itertools
import re
import typing
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, NamedTuple, TypeGuard

import msgspec

from foundry_api.structured.isolation import MAX_PATTERN_S, CostlyPatterns, errors_apart
from foundry_api.structured.response_model import with_tags_required
from foundry_api.structured.type_marks import (
    UnsupportedType,
    is_field,
    needs_pydantic,
    path_of,
    path_schema,
    pydantic_is_there,
)
from foundry_api.types.errors import ToolDefinitionError
from foundry_api.types.values import UNENCODABLE, is_list, is_object, plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from foundry_api.structured.pydantic_types import PydanticType

__all__ = ["Arguments", "Described", "arguments_of", "described"]


_SECTION: Final = re.compile(r"[A-Z][\w ]*:")
_PARAMETERS: Final = frozenset({"Args:", "Arguments:", "Parameters:"})
_PARAMETER: Final = re.compile(r"\*{0,2}(?P<name>\w+)\s*(?:\([^)]*\))?\s*:\s*(?P<text>.*)")


class Described(NamedTuple):
    """What a docstring says.

    Attributes:
        summary: What the function does, up to the first section.
        parameters: What its parameters mean.
    """

    summary: str
    parameters: dict[str, str]


def described(function: Callable[..., object]) -> Described:
    """Read the docstring of a function; nothing where it has none."""
    lines = (inspect.getdoc(function) or "").splitlines()
    begins = [index for index, line in enumerate(lines) if _SECTION.fullmatch(line.rstrip())]
    summary = lines[: begins[0]] if begins else lines
    parameters = [
        lines[begin + 1 : end]
        for begin, end in itertools.pairwise([*begins, len(lines)])
        if lines[begin].rstrip() in _PARAMETERS
    ]
    told = {name: text for section in parameters for name, text in _parameters(section)}
    return Described("\n".join(summary).strip(), told)


def _parameters(lines: list[str]) -> Iterator[tuple[str, str]]:
    """Each parameter of a section; lines that are indented deeper go on with it."""
    text = [line for line in lines if line.strip()]
    margin = min((_indent(line) for line in text), default=0)
    name, said = "", list[str]()
    for line in text:
        begun = _PARAMETER.fullmatch(line.strip()) if _indent(line) == margin else None
        if begun:
            if name:
                yield name, " ".join(said)
            name, said = begun["name"], [begun["text"]]
        else:
            said.append(line.strip())
    if name:
        yield name, " ".join(said).strip()


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


_NAMED: Final = frozenset({inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY})


class Arguments:
    """The parameters of one function.

    Args:
        name: The tool's.
        fields: The type of each parameter, and the parameter.

    Attributes:
        schema: What a model may give for them.
    """

    def __init__(self, name: str, fields: dict[str, tuple[Any, inspect.Parameter]]) -> None:
        # A parameter that was left out stays so, whatever its default: the function knows it.
        members: list[Any] = [
            (each, kind)
            if parameter.default is parameter.empty
            else (each, kind | msgspec.UnsetType, msgspec.UNSET)
            for each, (kind, parameter) in fields.items()
        ]
        self._fields = {
            each: parameter.default
            for each, (_, parameter) in fields.items()
            if is_field(parameter.default)
        }
        self._struct = msgspec.defstruct(
            name, members, kw_only=True, forbid_unknown_fields=True, frozen=True
        )
        self.schema = _schema_of(self._struct)
        for each, (_, parameter) in fields.items():
            default = parameter.default
            if is_field(default):
                default = default.get_default(call_default_factory=False)
            _add_default(self.schema["properties"][each], default)
        self._patterns = CostlyPatterns([_matched_by_python(kind) for kind, _ in fields.values()])

    def may_take_long(self, arguments: dict[str, Any]) -> bool:
        """Whether a pattern may take long on them, so that `converted` needs a thread."""
        return bool(self._patterns) and self._patterns.may_take_long(arguments)

    def converted(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """What the function is called with.

        Raises:
            msgspec.ValidationError: They do not fit; the message names the place.
            ValueError: A pattern takes too long on them.
        """
        if self.may_take_long(arguments):
            errors_apart(self.schema, msgspec.json.encode(arguments).decode(), MAX_PATTERN_S)
        values = msgspec.convert(arguments, self._struct, dec_hook=_converted)
        given = {each: getattr(values, each) for each in self._struct.__struct_fields__}
        known = {
            each: value.value if isinstance(value, _ByPydantic) else value
            for each, value in given.items()
            if value is not msgspec.UNSET
        }
        # Left to the function, its default would be pydantic's description of one.
        left_out = {
            each: field.get_default(call_default_factory=True)
            for each, field in self._fields.items()
            if each not in known
        }
        return {**left_out, **known}


def arguments_of(name: str, function: Callable[..., object]) -> Arguments:
    """The parameters of a function.

    Raises:
        ToolDefinitionError: One cannot be described; `.field` names it.
    """
    said = described(function).parameters
    kinds = _types_of(name, function)
    fields: dict[str, tuple[Any, inspect.Parameter]] = {}
    for each, parameter in inspect.signature(function).parameters.items():
        kind = _type_of(name, parameter, kinds)
        if parameter.default is parameter.empty:
            parameter = _with_default_of(kind, parameter)  # noqa: PLW2901 - as it means
        elif is_field(parameter.default):
            kind = Annotated[kind, parameter.default]
            if parameter.default.is_required():
                parameter = parameter.replace(default=parameter.empty)  # noqa: PLW2901 - as it means
        kind = _described_type(name, each, kind)
        if text := said.get(each):
            kind = Annotated[kind, msgspec.Meta(description=text)]
        fields[each] = (kind, parameter)
    return Arguments(name, fields)


def _types_of(name: str, function: Callable[..., object]) -> dict[str, Any]:
    target = function if inspect.isroutine(function) else getattr(function, "func", function)
    target = target if inspect.isroutine(target) else type(target).__call__
    try:
        return typing.get_type_hints(target, include_extras=True)
    except Exception as error:
        raise ToolDefinitionError(
            f"a type in the signature of {name} is not known where it is defined: {error}",
            hint="Import it for more than type checking, or define it outside of the function.",
        ) from error


def _type_of(name: str, parameter: inspect.Parameter, kinds: dict[str, Any]) -> Any:
    if parameter.kind not in _NAMED:
        raise ToolDefinitionError(
            f"{name} takes {parameter}, but a model gives every argument by name",
            field=parameter.name,
        )
    if parameter.name not in kinds:
        raise ToolDefinitionError(f"{parameter.name} of {name} has no type", field=parameter.name)
    return kinds[parameter.name]


def _with_default_of(kind: Any, parameter: inspect.Parameter) -> inspect.Parameter:
    """A parameter without a default, with that of `Annotated[int, Field(default=3)]`."""
    marks: tuple[Any, ...] = getattr(kind, "__metadata__", ())
    given = [mark for mark in marks if is_field(mark) and not mark.is_required()]
    return parameter.replace(default=given[-1]) if given else parameter


def _described_type(name: str, parameter: str, kind: Any) -> Any:
    """A type that msgspec can describe and convert, by itself or with pydantic's help.

    Raises:
        ToolDefinitionError: There is none.
    """
    try:
        if needs_pydantic(kind):
            return _converted_by_pydantic(kind)
        plain = _with_meta(kind)
        try:
            msgspec.json.schema(plain, schema_hook=_described)
        except (TypeError, msgspec.MsgspecError):
            if not pydantic_is_there():
                raise
            return _converted_by_pydantic(kind)
    except Exception as error:
        raise ToolDefinitionError(
            f"the type of {parameter} of {name} cannot be described: {_reason(kind, error)}",
            field=parameter,
        ) from error
    return plain


def _reason(kind: Any, error: Exception) -> str:
    """Why a type cannot be described, in other words than the library's, which advise its users."""
    if isinstance(error, UnsupportedType):
        return str(error)
    return f"{getattr(kind, '__name__', kind)} has no form in JSON"


def _with_meta(kind: Any) -> Any:
    """`Annotated[int, "what it means"]` as msgspec writes it."""
    if typing.get_origin(kind) is not Annotated:
        return kind
    inner, *notes = typing.get_args(kind)
    told = [msgspec.Meta(description=note) if isinstance(note, str) else note for note in notes]
    kept = [note for note in told if isinstance(note, msgspec.Meta)]
    return Annotated[inner, *kept] if kept else inner


class _ByPydantic:
    """The base of types that stand for one that pydantic describes and converts.

    Args:
        value: Of the type that it stands for.
    """

    described: ClassVar[PydanticType]

    def __init__(self, value: Any) -> None:
        self.value = value


def _converted_by_pydantic(kind: Any) -> Any:
    from foundry_api.structured.pydantic_types import PydanticType  # noqa: PLC0415 - optional

    described = PydanticType(kind)
    if not described.schema:
        raise TypeError(f"pydantic takes anything for {kind}")
    return type("Converted", (_ByPydantic,), {"described": described})


def _schema_of(struct: type[msgspec.Struct]) -> dict[str, Any]:
    """The schema of an object, with the types that it names beside it."""
    (schema,), named = msgspec.json.schema_components(
        [struct], schema_hook=_described, ref_template="#/$defs/{name}"
    )
    own = schema["$ref"].removeprefix("#/$defs/")
    told: dict[str, Any] = named.pop(own)
    told.pop("title", None)
    definitions = {**named, **_taken_out(told), **_taken_out(named)}
    return with_tags_required({**told, "$defs": definitions} if definitions else told)


def _taken_out(schema: object) -> dict[str, Any]:
    """The definitions within a schema that pydantic made, which belong to its top."""
    found: dict[str, Any] = {}
    if is_object(schema):
        found |= schema.pop("$defs", {})
        parts = list(schema.values())
    else:
        parts = schema if is_list(schema) else []
    for each in parts:
        found |= _taken_out(each)
    return found


def _add_default(schema: dict[str, Any], default: Any) -> None:
    if default is inspect.Parameter.empty:
        return
    try:
        schema["default"] = plain(default)
    except UNENCODABLE:
        return  # the function knows it, and JSON has no word for it


def _matched_by_python(kind: Any) -> dict[str, Any]:
    """The schema of a type whose patterns Python's expressions match.

    msgspec uses them; those of pydantic take linear time, unless a model asks for Python's.
    """
    plain = getattr(kind, "__origin__", kind)  # without the description
    if not _is_by_pydantic(plain):
        return msgspec.json.schema(kind, schema_hook=_described)
    return plain.described.schema if plain.described.matches_with_python else {}


def _is_by_pydantic(kind: Any) -> TypeGuard[type[_ByPydantic]]:
    return inspect.isclass(kind) and issubclass(kind, _ByPydantic)


def _described(kind: Any) -> dict[str, Any]:
    """The schema of a type that msgspec does not know.

    Raises:
        NotImplementedError: It does not describe itself.
    """
    if _is_by_pydantic(kind):
        return copy.deepcopy(kind.described.schema)
    describe = getattr(kind, "model_json_schema", None)
    if describe is None:
        return path_schema(kind)
    told: dict[str, Any] = describe()
    return told


def _converted(kind: Any, value: Any) -> Any:
    """A value of a type that msgspec does not know.

    Raises:
        ValueError: The type refuses it; msgspec adds the place.
    """
    if _is_by_pydantic(kind):
        return kind(kind.described.decode(msgspec.json.encode(value)))
    validate: Callable[[Any], Any] | None = getattr(kind, "model_validate", None)
    if validate is None:
        return path_of(kind, value)
    from foundry_api.structured.pydantic_types import in_short  # noqa: PLC0415 - it is there

    with in_short():
        return validate(value)
