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

from foundry_api.structured.isolation import validate_in_process
from foundry_api.structured.pattern_costs import MAX_PATTERN_S, PatternCosts
from foundry_api.structured.response_model import require_tags
from foundry_api.structured.type_metadata import (
    UnsupportedType,
    has_pydantic,
    is_pydantic_field,
    make_path_schema,
    needs_pydantic,
    parse_path,
)
from foundry_api.types.errors import ToolDefinitionError
from foundry_api.types.values import UNENCODABLE, is_list, is_object, to_plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from foundry_api.structured.pydantic_types import PydanticType

__all__ = ["ArgumentConverter", "DocstringInfo", "make_argument_converter", "parse_docstring"]


_SECTION: Final = re.compile(r"[A-Z][\w ]*:")
_PARAMETERS: Final = frozenset({"Args:", "Arguments:", "Parameters:"})
_PARAMETER: Final = re.compile(r"\*{0,2}(?P<name>\w+)\s*(?:\([^)]*\))?\s*:\s*(?P<text>.*)")


class DocstringInfo(NamedTuple):
    """What a docstring says.

    Attributes:
        summary: What the function does, up to the first section.
        parameters: What its parameters mean.
    """

    summary: str
    parameters: dict[str, str]


def parse_docstring(function: Callable[..., object]) -> DocstringInfo:
    """Read the docstring of a function; nothing where it has none."""
    lines = (inspect.getdoc(function) or "").splitlines()
    section_starts = [
        index for index, line in enumerate(lines) if _SECTION.fullmatch(line.rstrip())
    ]
    summary = lines[: section_starts[0]] if section_starts else lines
    parameters = [
        lines[begin + 1 : end]
        for begin, end in itertools.pairwise([*section_starts, len(lines)])
        if lines[begin].rstrip() in _PARAMETERS
    ]
    descriptions = {
        name: text for section in parameters for name, text in _iter_parameters(section)
    }
    return DocstringInfo("\n".join(summary).strip(), descriptions)


def _iter_parameters(lines: list[str]) -> Iterator[tuple[str, str]]:
    """Each parameter of a section; lines that are indented deeper go on with it."""
    text = [line for line in lines if line.strip()]
    margin = min((_get_indent(line) for line in text), default=0)
    name, description = "", list[str]()
    for line in text:
        match = _PARAMETER.fullmatch(line.strip()) if _get_indent(line) == margin else None
        if match:
            if name:
                yield name, " ".join(description)
            name, description = match["name"], [match["text"]]
        else:
            description.append(line.strip())
    if name:
        yield name, " ".join(description).strip()


def _get_indent(line: str) -> int:
    return len(line) - len(line.lstrip())


_NAMED_PARAMETERS: Final = frozenset(
    {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}
)


class ArgumentConverter:
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
            (field, kind)
            if parameter.default is parameter.empty
            else (field, kind | msgspec.UnsetType, msgspec.UNSET)
            for field, (kind, parameter) in fields.items()
        ]
        self._fields = {
            field: parameter.default
            for field, (_, parameter) in fields.items()
            if is_pydantic_field(parameter.default)
        }
        self._struct = msgspec.defstruct(
            name, members, kw_only=True, forbid_unknown_fields=True, frozen=True
        )
        self.schema = _make_schema(self._struct)
        for field, (_, parameter) in fields.items():
            default = parameter.default
            if is_pydantic_field(default):
                default = default.get_default(call_default_factory=False)
            _add_default(self.schema["properties"][field], default)
        self._patterns = PatternCosts(
            [_get_python_pattern_schema(kind) for kind, _ in fields.values()]
        )

    def may_take_long(self, arguments: dict[str, Any]) -> bool:
        """Whether a pattern may take long on them, so that `convert` needs a thread."""
        return bool(self._patterns) and self._patterns.may_take_long(arguments)

    def convert(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """What the function is called with.

        Raises:
            msgspec.ValidationError: They do not fit; the message names the place.
            ValueError: A pattern takes too long on them.
        """
        if self.may_take_long(arguments):
            validate_in_process(self.schema, msgspec.json.encode(arguments).decode(), MAX_PATTERN_S)
        values = msgspec.convert(arguments, self._struct, dec_hook=_convert_unknown)
        decoded = {
            parameter: getattr(values, parameter) for parameter in self._struct.__struct_fields__
        }
        converted = {
            parameter: value.value if isinstance(value, _PydanticProxy) else value
            for parameter, value in decoded.items()
            if value is not msgspec.UNSET
        }
        # Left to the function, its default would be pydantic's description of one.
        defaults = {
            parameter: field.get_default(call_default_factory=True)
            for parameter, field in self._fields.items()
            if parameter not in converted
        }
        return {**defaults, **converted}


def make_argument_converter(name: str, function: Callable[..., object]) -> ArgumentConverter:
    """The parameters of a function.

    Raises:
        ToolDefinitionError: One cannot be described; `.field` names it.
    """
    descriptions = parse_docstring(function).parameters
    kinds = _get_types(name, function)
    fields: dict[str, tuple[Any, inspect.Parameter]] = {}
    for parameter_name, parameter in inspect.signature(function).parameters.items():
        kind = _get_type(name, parameter, kinds)
        if parameter.default is parameter.empty:
            parameter = _apply_field_default(kind, parameter)  # noqa: PLW2901 - as it means
        elif is_pydantic_field(parameter.default):
            kind = Annotated[kind, parameter.default]
            if parameter.default.is_required():
                parameter = parameter.replace(default=parameter.empty)  # noqa: PLW2901 - as it means
        kind = _make_describable(name, parameter_name, kind)
        if text := descriptions.get(parameter_name):
            kind = Annotated[kind, msgspec.Meta(description=text)]
        fields[parameter_name] = (kind, parameter)
    return ArgumentConverter(name, fields)


def _get_types(name: str, function: Callable[..., object]) -> dict[str, Any]:
    target = function if inspect.isroutine(function) else getattr(function, "func", function)
    target = target if inspect.isroutine(target) else type(target).__call__
    try:
        return typing.get_type_hints(target, include_extras=True)
    except Exception as error:
        raise ToolDefinitionError(
            f"a type in the signature of {name} is not known where it is defined: {error}",
            hint="Import it for more than type checking, or define it outside of the function.",
        ) from error


def _get_type(name: str, parameter: inspect.Parameter, kinds: dict[str, Any]) -> Any:
    if parameter.kind not in _NAMED_PARAMETERS:
        raise ToolDefinitionError(
            f"{name} takes {parameter}, but a model gives every argument by name",
            field=parameter.name,
        )
    if parameter.name not in kinds:
        raise ToolDefinitionError(f"{parameter.name} of {name} has no type", field=parameter.name)
    return kinds[parameter.name]


def _apply_field_default(kind: Any, parameter: inspect.Parameter) -> inspect.Parameter:
    """A parameter without a default, with that of `Annotated[int, Field(default=3)]`."""
    marks: tuple[Any, ...] = getattr(kind, "__metadata__", ())
    field_marks = [mark for mark in marks if is_pydantic_field(mark) and not mark.is_required()]
    return parameter.replace(default=field_marks[-1]) if field_marks else parameter


def _make_describable(name: str, parameter: str, kind: Any) -> Any:
    """A type that msgspec can describe and convert, by itself or with pydantic's help.

    Raises:
        ToolDefinitionError: There is none.
    """
    try:
        if needs_pydantic(kind):
            return _make_pydantic_proxy(kind)
        plain = _replace_notes(kind)
        try:
            msgspec.json.schema(plain, schema_hook=_describe_type)
        except (TypeError, msgspec.MsgspecError):
            if not has_pydantic():
                raise
            return _make_pydantic_proxy(kind)
    except Exception as error:
        raise ToolDefinitionError(
            f"the type of {parameter} of {name} cannot be described: "
            f"{_explain_type_error(kind, error)}",
            field=parameter,
        ) from error
    return plain


def _explain_type_error(kind: Any, error: Exception) -> str:
    """Why a type cannot be described, in other words than the library's, which advise its users."""
    if isinstance(error, UnsupportedType):
        return str(error)
    return f"{getattr(kind, '__name__', kind)} has no form in JSON"


def _replace_notes(kind: Any) -> Any:
    """`Annotated[int, "what it means"]` as msgspec writes it."""
    if typing.get_origin(kind) is not Annotated:
        return kind
    inner, *notes = typing.get_args(kind)
    marks = [msgspec.Meta(description=mark) if isinstance(mark, str) else mark for mark in notes]
    meta_marks = [mark for mark in marks if isinstance(mark, msgspec.Meta)]
    return Annotated[inner, *meta_marks] if meta_marks else inner


class _PydanticProxy:
    """The base of types that stand for one that pydantic describes and converts.

    Args:
        value: Of the type that it stands for.
    """

    pydantic_type: ClassVar[PydanticType]

    def __init__(self, value: Any) -> None:
        self.value = value


def _make_pydantic_proxy(kind: Any) -> Any:
    from foundry_api.structured.pydantic_types import PydanticType  # noqa: PLC0415 - optional

    pydantic_type = PydanticType(kind)
    if not pydantic_type.schema:
        raise TypeError(f"pydantic takes anything for {kind}")
    return type("Converted", (_PydanticProxy,), {"pydantic_type": pydantic_type})


def _make_schema(struct: type[msgspec.Struct]) -> dict[str, Any]:
    """The schema of an object, with the types that it names beside it."""
    (schema,), named = msgspec.json.schema_components(
        [struct], schema_hook=_describe_type, ref_template="#/$defs/{name}"
    )
    own = schema["$ref"].removeprefix("#/$defs/")
    object_schema: dict[str, Any] = named.pop(own)
    object_schema.pop("title", None)
    definitions = {**named, **_extract_defs(object_schema), **_extract_defs(named)}
    return require_tags({**object_schema, "$defs": definitions} if definitions else object_schema)


def _extract_defs(schema: object) -> dict[str, Any]:
    """The definitions within a schema that pydantic made, which belong to its top."""
    definitions: dict[str, Any] = {}
    if is_object(schema):
        definitions |= schema.pop("$defs", {})
        parts = list(schema.values())
    else:
        parts = schema if is_list(schema) else []
    for part in parts:
        definitions |= _extract_defs(part)
    return definitions


def _add_default(schema: dict[str, Any], default: Any) -> None:
    if default is inspect.Parameter.empty:
        return
    try:
        schema["default"] = to_plain(default)
    except UNENCODABLE:
        return  # the function knows it, and JSON has no word for it


def _get_python_pattern_schema(kind: Any) -> dict[str, Any]:
    """The schema of a type whose patterns Python's expressions match.

    msgspec uses them; those of pydantic take linear time, unless a model asks for Python's.
    """
    plain = getattr(kind, "__origin__", kind)  # without the description
    if not _is_pydantic_proxy(plain):
        return msgspec.json.schema(kind, schema_hook=_describe_type)
    return plain.pydantic_type.schema if plain.pydantic_type.matches_with_python else {}


def _is_pydantic_proxy(kind: Any) -> TypeGuard[type[_PydanticProxy]]:
    return inspect.isclass(kind) and issubclass(kind, _PydanticProxy)


def _describe_type(kind: Any) -> dict[str, Any]:
    """The schema of a type that msgspec does not know.

    Raises:
        NotImplementedError: It does not describe itself.
    """
    if _is_pydantic_proxy(kind):
        return copy.deepcopy(kind.pydantic_type.schema)
    describe = getattr(kind, "model_json_schema", None)
    if describe is None:
        return make_path_schema(kind)
    schema: dict[str, Any] = describe()
    return schema


def _convert_unknown(kind: Any, value: Any) -> Any:
    """A value of a type that msgspec does not know.

    Raises:
        ValueError: The type refuses it; msgspec adds the place.
    """
    if _is_pydantic_proxy(kind):
        return kind(kind.pydantic_type.decode(msgspec.json.encode(value)))
    validate: Callable[[Any], Any] | None = getattr(kind, "model_validate", None)
    if validate is None:
        return parse_path(kind, value)
    from foundry_api.structured.pydantic_types import shorten_errors  # noqa: PLC0415 - it is there

    with shorten_errors():
        return validate(value)
