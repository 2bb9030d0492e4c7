"""Describe the parameters of a function as JSON schema, and convert arguments to their types.

msgspec handles numbers, strings, lists, mappings, literals, enums, optional values, dataclasses,
`TypedDict`s, paths and its own Structs. pydantic, if it is installed, handles its models, unions of
them, its own types, and bounds such as `Field(ge=1)`.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
import itertools
import re
import typing
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, NamedTuple, TypeGuard

import msgspec

from foundry_api.structured.isolation import validate_in_process
from foundry_api.structured.pattern_costs import MAX_PATTERN_S, PatternCosts
from foundry_api.structured.response_model import make_path_schema, parse_path, require_tags
from foundry_api.structured.type_metadata import (
    UnsupportedType,
    has_pydantic,
    is_pydantic_field,
    needs_pydantic,
)
from foundry_api.tools.coercion import coerce
from foundry_api.tools.errors import ToolDefinitionError
from foundry_api.types.values import UNENCODABLE, is_list, is_object, to_plain

if TYPE_CHECKING:
    from collections.abc import Callable

    from foundry_api.structured.pydantic_types import PydanticType

__all__ = ["ArgumentConverter", "DocstringInfo", "make_argument_converter", "parse_docstring"]

_NAMED_PARAMETERS: Final = frozenset(
    {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}
)
# Headings and entries of docstrings in Google style.
_SECTION: Final = re.compile(r"[A-Z][\w ]*:")
_PARAMETERS: Final = frozenset({"Args:", "Arguments:", "Parameters:"})
_PARAMETER: Final = re.compile(r"\*{0,2}(?P<name>\w+)\s*(?:\([^)]*\))?\s*:\s*(?P<text>.*)")


class ArgumentConverter:
    """Converts decoded JSON to the arguments of one function.

    `fields` are the type and the parameter by name; `schema` describes the arguments.
    """

    def __init__(self, name: str, fields: dict[str, tuple[Any, inspect.Parameter]]) -> None:
        # A missing argument stays missing, because the function knows its own default.
        members: list[Any] = [
            (field, kind)
            if parameter.default is parameter.empty
            else (field, kind | msgspec.UnsetType, msgspec.UNSET)
            for field, (kind, parameter) in fields.items()
        ]
        self._pydantic_defaults = {
            field: parameter.default
            for field, (_, parameter) in fields.items()
            if is_pydantic_field(parameter.default)
        }
        self._struct = msgspec.defstruct(
            name, members, kw_only=True, forbid_unknown_fields=True, frozen=True
        )
        (reference,), named = msgspec.json.schema_components(
            [self._struct], schema_hook=_describe_type, ref_template="#/$defs/{name}"
        )
        schema: dict[str, Any] = named.pop(reference["$ref"].removeprefix("#/$defs/"))
        schema.pop("title", None)
        # pydantic puts definitions into the schema of each type; references look at the top.
        definitions = {**named, **_extract_defs(schema), **_extract_defs(named)}
        self.schema = require_tags({**schema, "$defs": definitions} if definitions else schema)
        for field, (_, parameter) in fields.items():
            default = parameter.default
            if is_pydantic_field(default):
                default = default.get_default(call_default_factory=False)
            if default is not parameter.empty:
                with contextlib.suppress(*UNENCODABLE):  # not every default can be encoded
                    self.schema["properties"][field]["default"] = to_plain(default)
        self._patterns = PatternCosts(
            [_get_python_pattern_schema(kind) for kind, _ in fields.values()]
        )

    def may_take_long(self, arguments: dict[str, Any]) -> bool:
        """Check whether a pattern may take long, so that `convert` needs a thread."""
        return bool(self._patterns) and self._patterns.may_take_long(arguments)

    def convert(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Convert arguments. Raises ValueError, whose message has the path of the invalid one."""
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
        # The function's own default is pydantic's FieldInfo, not the value.
        defaults = {
            parameter: field.get_default(call_default_factory=True)
            for parameter, field in self._pydantic_defaults.items()
            if parameter not in converted
        }
        return {**defaults, **converted}

    def convert_leniently(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Like `convert`, but accept values of another JSON type if their meaning is clear."""
        try:
            return self.convert(arguments)
        except (ValueError, TypeError) as error:
            try:
                return self.convert(coerce(arguments, self.schema))
            except (ValueError, TypeError):
                # The first error describes what the model wrote.
                raise error from None


def make_argument_converter(name: str, function: Callable[..., object]) -> ArgumentConverter:
    """Create the converter of a function. Raises ToolDefinitionError."""
    descriptions = parse_docstring(function).parameters
    kinds = _get_types(name, function)
    fields: dict[str, tuple[Any, inspect.Parameter]] = {}
    for field, parameter in inspect.signature(function).parameters.items():
        if parameter.kind not in _NAMED_PARAMETERS:
            raise ToolDefinitionError(
                f"{name} takes {parameter}, but a model gives every argument by name", field=field
            )
        if field not in kinds:
            raise ToolDefinitionError(f"{field} of {name} has no type", field=field)
        kind, default = kinds[field], parameter.default
        if default is parameter.empty:
            # The default may be in the metadata: Annotated[int, Field(default=3)].
            for item in getattr(kind, "__metadata__", ()):
                if is_pydantic_field(item) and not item.is_required():
                    default = item
        elif is_pydantic_field(default):
            kind = Annotated[kind, default]
            if default.is_required():
                default = parameter.empty
        kind = _make_describable(name, field, kind)
        if text := descriptions.get(field):
            kind = Annotated[kind, msgspec.Meta(description=text)]
        fields[field] = (kind, parameter.replace(default=default))
    return ArgumentConverter(name, fields)


def _get_types(name: str, function: Callable[..., object]) -> dict[str, Any]:
    # The annotations of a partial are those of its function, and those of a callable object are on
    # its class.
    target = function if inspect.isroutine(function) else getattr(function, "func", function)
    target = target if inspect.isroutine(target) else type(target).__call__
    try:
        return typing.get_type_hints(target, include_extras=True)
    except Exception as error:
        raise ToolDefinitionError(
            f"a type in the signature of {name} is not known where it is defined: {error}",
            hint="Import it for more than type checking, or define it outside of the function.",
        ) from error


def _make_describable(name: str, parameter: str, kind: Any) -> Any:
    """Return a type that msgspec can describe and convert. Raises ToolDefinitionError."""
    try:
        if needs_pydantic(kind):
            return _make_pydantic_proxy(kind)
        plain = _convert_metadata(kind)
        try:
            msgspec.json.schema(plain, schema_hook=_describe_type)
        except (TypeError, msgspec.MsgspecError):
            if not has_pydantic():
                raise
            return _make_pydantic_proxy(kind)
    except Exception as error:
        # The messages of the libraries give advice for their own users, such as a `schema_hook`.
        is_own = isinstance(error, UnsupportedType)
        reason = (
            str(error) if is_own else f"{getattr(kind, '__name__', kind)} cannot be encoded as JSON"
        )
        raise ToolDefinitionError(
            f"the type of {parameter} of {name} cannot be described: {reason}", field=parameter
        ) from error
    return plain


def _convert_metadata(kind: Any) -> Any:
    """Convert `Annotated[int, "description"]` to msgspec's metadata, and drop other metadata."""
    if typing.get_origin(kind) is not Annotated:
        return kind
    inner, *items = typing.get_args(kind)
    converted = [
        msgspec.Meta(description=item) if isinstance(item, str) else item for item in items
    ]
    metadata = [item for item in converted if isinstance(item, msgspec.Meta)]
    return Annotated[inner, *metadata] if metadata else inner


class _PydanticProxy:
    """A type for msgspec that stands for one that pydantic describes and converts."""

    pydantic_type: ClassVar[PydanticType]

    def __init__(self, value: Any) -> None:
        self.value = value


def _make_pydantic_proxy(kind: Any) -> Any:
    from foundry_api.structured.pydantic_types import PydanticType  # noqa: PLC0415 - optional

    pydantic_type = PydanticType(kind)
    if not pydantic_type.schema:
        raise TypeError(f"pydantic accepts anything for {kind}")
    return type("Converted", (_PydanticProxy,), {"pydantic_type": pydantic_type})


def _is_pydantic_proxy(kind: Any) -> TypeGuard[type[_PydanticProxy]]:
    return inspect.isclass(kind) and issubclass(kind, _PydanticProxy)


def _extract_defs(schema: object) -> dict[str, Any]:
    """Remove and return the definitions in a schema."""
    definitions: dict[str, Any] = {}
    if is_object(schema):
        definitions |= schema.pop("$defs", {})
        parts = list(schema.values())
    else:
        parts = schema if is_list(schema) else []
    for part in parts:
        definitions |= _extract_defs(part)
    return definitions


def _get_python_pattern_schema(kind: Any) -> dict[str, Any]:
    """Return the schema of a type whose patterns are matched with Python's regular expressions.

    msgspec uses them. pydantic's take linear time, unless a model selects Python's.
    """
    plain = getattr(kind, "__origin__", kind)  # without the description
    if not _is_pydantic_proxy(plain):
        return msgspec.json.schema(kind, schema_hook=_describe_type)
    return plain.pydantic_type.schema if plain.pydantic_type.matches_with_python else {}


def _describe_type(kind: Any) -> dict[str, Any]:
    """Describe a type that msgspec does not know; a `schema_hook`."""
    if _is_pydantic_proxy(kind):
        return copy.deepcopy(kind.pydantic_type.schema)
    describe = getattr(kind, "model_json_schema", None)
    if describe is None:
        return make_path_schema(kind)
    schema: dict[str, Any] = describe()
    return schema


def _convert_unknown(kind: Any, value: Any) -> Any:
    """Convert a value to a type that msgspec does not know; a `dec_hook`."""
    if _is_pydantic_proxy(kind):
        return kind(kind.pydantic_type.decode(msgspec.json.encode(value)))
    validate: Callable[[Any], Any] | None = getattr(kind, "model_validate", None)
    if validate is None:
        return parse_path(kind, value)
    from foundry_api.structured.pydantic_types import shorten_errors  # noqa: PLC0415 - a pydantic model

    with shorten_errors():
        return validate(value)


class DocstringInfo(NamedTuple):
    """The text of a docstring up to its first section, and the descriptions of parameters."""

    summary: str
    parameters: dict[str, str]


def parse_docstring(function: Callable[..., object]) -> DocstringInfo:
    lines = (inspect.getdoc(function) or "").splitlines()
    starts = [index for index, line in enumerate(lines) if _SECTION.fullmatch(line.rstrip())]
    summary = lines[: starts[0]] if starts else lines
    descriptions: dict[str, str] = {}
    for start, end in itertools.pairwise([*starts, len(lines)]):
        if lines[start].rstrip() not in _PARAMETERS:
            continue
        section = [line for line in lines[start + 1 : end] if line.strip()]
        margin = min(map(_get_indent, section), default=0)
        name = ""
        for line in section:
            match = _PARAMETER.fullmatch(line.strip()) if _get_indent(line) == margin else None
            if match:
                name = match["name"]
                descriptions[name] = match["text"]
            elif name:  # lines that are indented deeper continue the description
                descriptions[name] = f"{descriptions[name]} {line.strip()}".strip()
    return DocstringInfo("\n".join(summary).strip(), descriptions)


def _get_indent(line: str) -> int:
    return len(line) - len(line.lstrip())
