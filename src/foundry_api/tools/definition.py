"""Define tools: functions with a name, a description and a schema of their arguments."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, overload

import msgspec

from foundry_api.tools.errors import ToolDefinitionError
from foundry_api.tools.signature import make_argument_converter, parse_docstring
from foundry_api.types.checks import check_characters
from foundry_api.types.errors import InvalidRequest
from foundry_api.types.messages import ToolDefinition
from foundry_api.types.values import (
    UNENCODABLE,
    as_text,
    format_value,
    is_list_like,
    is_mapping,
    to_plain,
)

if TYPE_CHECKING:
    from foundry_api.tools.signature import ArgumentConverter

__all__ = ["Tool", "ToolLike", "require_callable", "to_definitions", "tool"]

_NAME: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_-]{0,63}")
_ANY_OBJECT: Final[dict[str, Any]] = {"type": "object", "properties": {}}


@dataclass(frozen=True)
class Tool:
    """A function that a model may call. Calling the tool calls the function.

    Attributes:
        definition: Name, description and schema for the model.
        function: The function, which may be a coroutine function.
        arguments: Validates and converts the model's arguments. None if the schema was passed to
            `tool`; the function then gets the arguments as decoded JSON.
    """

    definition: ToolDefinition
    function: Callable[..., Any]
    arguments: ArgumentConverter | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """The name of the tool."""
        return self.definition.name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        return self.function(*args, **kwargs)


# A typed function, a `Tool`, a definition, or a definition in OpenAI's form.
ToolLike = Tool | ToolDefinition | Callable[..., Any] | Mapping[str, Any]


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
    """Make a tool of a function; also a decorator.

    Methods that take tools accept plain functions, too; `tool` changes their name, description or
    schema.

        @tool(name="time_of_day", description="Tell the time of a city.")
        def clock(city: str = "Zürich") -> str: ...

    Args:
        function: A function with type annotations for all of its parameters. It may be a coroutine
            function.
        name: Name of the tool; by default that of the function.
        description: Description for the model; by default the docstring up to its first section.
        parameters: JSON schema of the arguments, an object; by default derived from the signature.
            With a schema, the function gets the arguments as decoded JSON.

    Returns:
        The tool; without a function, a decorator that returns it.

    Raises:
        ToolDefinitionError: The function cannot be described; `.field` names the invalid parameter.
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
        raise ToolDefinitionError(f"{format_value(function)} is not a function", field="function")
    name = name or str(getattr(function, "__name__", type(function).__name__))
    text = as_text(name)
    if text is None or not _NAME.fullmatch(text):
        raise ToolDefinitionError(
            f"{format_value(name)} is not a tool name: letters, digits, _ and -, 64 at most",
            field="name",
            hint="Use another name: tool(function, name=…).",
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


def _to_tool(field_name: str, value: ToolLike) -> Tool | ToolDefinition:
    """Convert a value that a caller passed as a tool. Raises InvalidRequest."""
    if isinstance(value, Tool):
        return value
    if isinstance(value, ToolDefinition):
        return _validate_definition(field_name, value)
    if is_mapping(value):
        # OpenAI's form. `strict` is dropped: 2.2.1 rejects it, and enforces the schema anyway.
        function = (
            value["function"] if value.get("type") == "function" and "function" in value else value
        )
        names = ("name", "description", "parameters")
        try:
            members = {name: function[name] for name in names if name in function}
            definition = msgspec.convert(to_plain(members), ToolDefinition, strict=True)
        except UNENCODABLE as error:
            raise InvalidRequest(
                f"{field_name} is not a tool: {error}", field=field_name
            ) from error
        return _validate_definition(field_name, definition)
    if callable(value):
        return tool(value)
    raise InvalidRequest(f"{field_name} is {format_value(value)}, not a function", field=field_name)


def to_definitions(tools: Iterable[ToolLike]) -> tuple[ToolDefinition, ...]:
    """Return the definitions of tools. Raises InvalidRequest and ToolDefinitionError."""
    return tuple(
        item.definition if isinstance(item, Tool) else item for item in _convert_tools(tools)
    )


def require_callable(tools: Iterable[ToolLike]) -> dict[str, Tool]:
    """Return tools by name, all of which can be called.

    Raises InvalidRequest and ToolDefinitionError.
    """
    callables: dict[str, Tool] = {}
    for index, item in enumerate(_convert_tools(tools)):
        if not isinstance(item, Tool):
            raise InvalidRequest(
                f"tools[{index}] describes {item.name}, but cannot be called",
                field=f"tools[{index}]",
                hint="Pass the function: tool(function, parameters=…).",
            )
        callables[item.name] = item
    return callables


def _convert_tools(tools: Iterable[ToolLike]) -> list[Tool | ToolDefinition]:
    if not is_list_like(tools):
        raise InvalidRequest(f"tools is {format_value(tools)}, not a list", field="tools")
    converted = [_to_tool(f"tools[{index}]", item) for index, item in enumerate(tools)]
    names = [item.name for item in converted]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise InvalidRequest(
                f"tools[{index}] is named {name}, like another tool", field=f"tools[{index}]"
            )
    return converted


def _validate_definition(field_name: str, definition: ToolDefinition) -> ToolDefinition:
    name = as_text(definition.name)
    if name is None or not _NAME.fullmatch(name):
        raise InvalidRequest(
            f"{field_name} is named {format_value(definition.name)}, which is not a tool name: "
            "letters, digits, _ and -, 64 at most",
            field=field_name,
        )
    return ToolDefinition(
        name=name,
        description=_validate_description(f"{field_name}.description", definition.description),
        parameters=_validate_schema(f"{field_name}.parameters", definition.parameters),
    )


def _validate_description(field_name: str, description: object) -> str:
    text = as_text(description)
    if text is None:
        raise InvalidRequest(
            f"{field_name} is {format_value(description)}, not a string", field=field_name
        )
    check_characters(field_name, text)
    return text


def _validate_schema(field_name: str, parameters: object) -> dict[str, Any]:
    if not is_mapping(parameters):
        raise InvalidRequest(
            f"{field_name} is {format_value(parameters)}, not a mapping",
            field=field_name,
            hint="Pass the JSON schema of an object.",
        )
    try:
        return to_plain(dict(parameters)) or _ANY_OBJECT
    except UNENCODABLE as error:
        raise InvalidRequest(
            f"{field_name} cannot be sent as JSON: {error}", field=field_name
        ) from error
