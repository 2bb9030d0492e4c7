"""Functions as tools: what a model is told of them."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeGuard, overload

import msgspec

from foundry_api.tools.signature import make_argument_converter, parse_docstring
from foundry_api.types.checks import check_characters
from foundry_api.types.errors import InvalidRequest, ToolDefinitionError
from foundry_api.types.messages import ToolDefinition
from foundry_api.types.values import UNENCODABLE, as_text, format_value, is_mapping, to_plain

if TYPE_CHECKING:
    from foundry_api.tools.signature import ArgumentConverter

__all__ = ["Tool", "ToolLike", "require_callable", "to_definitions", "to_tool", "tool"]

_NAME: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_-]{0,63}")
_ANY_OBJECT: Final[dict[str, Any]] = {"type": "object", "properties": {}}


@dataclass(frozen=True)
class Tool:
    """A function that a model may call. It can still be called as before.

    Attributes:
        definition: What the model is told.
        function: What is called; may be a coroutine function.
        arguments: Checks and converts what the model gives; None where the schema was given, and
            the function gets the arguments as they are in JSON.
    """

    definition: ToolDefinition
    function: Callable[..., Any]
    arguments: ArgumentConverter | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """Its name."""
        return self.definition.name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        return self.function(*args, **kwargs)


ToolLike = Tool | ToolDefinition | Callable[..., Any] | Mapping[str, Any]
"""What may be offered: a typed function, a `Tool`, a definition, or OpenAI's form of one."""


@overload
def tool(function: Callable[..., Any], /) -> Tool: ...


@overload
def tool(
    function: Callable[..., Any],
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    parameters: Mapping[str, Any] | None = None,
) -> Tool: ...


@overload
def tool(
    *,
    name: str | None = None,
    description: str | None = None,
    parameters: Mapping[str, Any] | None = None,
) -> Callable[[Callable[..., Any]], Tool]: ...


def tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    parameters: Mapping[str, Any] | None = None,
) -> Tool | Callable[[Callable[..., Any]], Tool]:
    """A function as a tool; a decorator, too. Plain functions need it only for another name.

        @tool(name="time_of_day", description="Tell the time of a city.")
        def clock(city: str = "Zürich") -> str: ...

    Args:
        function: With types on all of its parameters; may be a coroutine function.
        name: Default the function's own.
        description: Default the docstring, up to its sections.
        parameters: The JSON schema of the arguments, an object; default what the signature says.
            With one, the function gets the arguments as they are in JSON.

    Raises:
        ToolDefinitionError: It cannot be described; `.field` names the parameter at fault.
    """
    if function is None:
        return functools.partial(
            _make_tool, name=name, description=description, parameters=parameters
        )
    return _make_tool(function, name, description, parameters)


def _make_tool(
    function: Callable[..., Any],
    name: str | None,
    description: str | None,
    parameters: Mapping[str, Any] | None,
) -> Tool:
    if not callable(function):
        raise ToolDefinitionError(f"{format_value(function)} is no function", field="function")
    name = name or str(getattr(function, "__name__", type(function).__name__))
    text = as_text(name)
    if text is None or not _NAME.fullmatch(text):
        raise ToolDefinitionError(
            f"{format_value(name)} is no name for a tool: letters, digits, _ and -, 64 at most",
            field="name",
            hint="Give it another one: tool(function, name=…).",
        )
    if description is None:
        description = parse_docstring(function).summary
    arguments = make_argument_converter(text, function) if parameters is None else None
    try:
        definition = ToolDefinition(
            name=text,
            description=_validate_description("description", description),
            parameters=arguments.schema
            if arguments
            else _validate_schema("parameters", parameters),
        )
    except InvalidRequest as error:
        hint = None if error.hint == InvalidRequest.default_hint else error.hint
        raise ToolDefinitionError(error.message, field=error.field, hint=hint) from error
    return Tool(definition, function, arguments)


def to_tool(field_name: str, value: ToolLike) -> Tool | ToolDefinition:
    """Whatever was offered as a tool, or its definition where it is no more.

    Raises:
        InvalidRequest: It is none; `.field` names it.
    """
    if isinstance(value, Tool):
        return value
    if isinstance(value, ToolDefinition):
        return _validate_definition(field_name, value)
    if _is_mapping(value):
        return _validate_definition(field_name, _from_mapping(field_name, value))
    if callable(value):
        return tool(value)
    raise InvalidRequest(f"{field_name} is {format_value(value)}, not a function", field=field_name)


def to_definitions(tools: Iterable[ToolLike]) -> tuple[ToolDefinition, ...]:
    """What the model is told of these tools.

    Raises:
        InvalidRequest: One is no tool, or two have the same name.
        ToolDefinitionError: A function cannot be described.
    """
    declared = _declared(tools)
    return tuple(item.definition if isinstance(item, Tool) else item for item in declared)


def require_callable(tools: Iterable[ToolLike]) -> dict[str, Tool]:
    """Tools that can be called, by name.

    Raises:
        InvalidRequest: One is no tool, cannot be called, or has another's name.
        ToolDefinitionError: A function cannot be described.
    """
    declared = _declared(tools)
    for index, item in enumerate(declared):
        if not isinstance(item, Tool):
            raise InvalidRequest(
                f"tools[{index}] describes {item.name}, but cannot be called",
                field=f"tools[{index}]",
                hint="Give the function: tool(function, parameters=…).",
            )
    return {item.name: item for item in declared if isinstance(item, Tool)}


def _is_mapping(value: object) -> TypeGuard[Mapping[str, Any]]:
    return isinstance(value, Mapping)


def _is_list_like(value: object) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, str | Mapping)


def _declared(tools: Iterable[ToolLike]) -> list[Tool | ToolDefinition]:
    if not _is_list_like(tools):
        raise InvalidRequest(f"tools is {format_value(tools)}, not a list", field="tools")
    declared = [to_tool(f"tools[{index}]", item) for index, item in enumerate(tools)]
    names = [item.name for item in declared]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise InvalidRequest(
                f"tools[{index}] is named {name}, as another one", field=f"tools[{index}]"
            )
    return declared


def _from_mapping(field_name: str, value: Mapping[str, Any]) -> ToolDefinition:
    """OpenAI's form. `strict` is left out: 2.2.1 refuses it, and keeps to the schema anyway."""
    members_by_name = (
        value["function"] if value.get("type") == "function" and "function" in value else value
    )
    try:
        members = {
            name: members_by_name[name]
            for name in ("name", "description", "parameters")
            if name in members_by_name
        }
        return msgspec.convert(to_plain(members), ToolDefinition, strict=True)
    except UNENCODABLE as error:
        raise InvalidRequest(f"{field_name} is no tool: {error}", field=field_name) from error


def _validate_definition(field_name: str, definition: ToolDefinition) -> ToolDefinition:
    name = as_text(definition.name)
    if name is None or not _NAME.fullmatch(name):
        raise InvalidRequest(
            f"{field_name} is named {format_value(definition.name)}, which is no name for a tool: "
            "letters, digits, _ and -, 64 at most",
            field=field_name,
        )
    return ToolDefinition(
        name=name,
        description=_validate_description(f"{field_name}.description", definition.description),
        parameters=_validate_schema(f"{field_name}.parameters", definition.parameters),
    )


def _validate_description(field_name: str, description: object) -> str:
    """What the model is told that a tool does.

    Raises:
        InvalidRequest: It is no text, or cannot be sent.
    """
    text = as_text(description)
    if text is None:
        raise InvalidRequest(
            f"{field_name} is {format_value(description)}, not a text", field=field_name
        )
    check_characters(field_name, text)
    return text


def _validate_schema(field_name: str, parameters: object) -> dict[str, Any]:
    """The JSON schema of a tool's arguments.

    Raises:
        InvalidRequest: It is no mapping, or cannot be sent as JSON.
    """
    if not is_mapping(parameters):
        raise InvalidRequest(
            f"{field_name} is {format_value(parameters)}, not a mapping",
            field=field_name,
            hint="Give the JSON schema of an object.",
        )
    try:
        return to_plain(dict(parameters)) or _ANY_OBJECT
    except UNENCODABLE as error:
        raise InvalidRequest(
            f"{field_name} cannot be sent as JSON: {error}", field=field_name
        ) from error
