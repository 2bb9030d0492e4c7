"""The tools of a request: definitions, a choice among them, and strict arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from foundry_api.gateway.checks import check_depth, make_invalid
from foundry_api.gateway.errors import RequestError
from foundry_api.types.errors import InvalidRequest
from foundry_api.types.messages import ToolDefinition
from foundry_api.types.values import is_dict

if TYPE_CHECKING:
    from foundry_api.core.options import ChatOptions
    from foundry_api.structured.output_spec import OutputSpec

__all__ = ["add_tools", "make_tool", "read_tool_choice"]

NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}}


def make_tool(
    field: str,
    name: str,
    description: str | None,
    parameters: dict[str, Any] | None,
    strict_tools: dict[str, OutputSpec] | None = None,
) -> ToolDefinition:
    """Return the definition of a function; `field` is the path of its schema in the request.

    With `strict_tools`, what its arguments have to be is added there.

    Raises:
        RequestError: The schema is nested too deeply, or is not one.
    """
    check_depth(field, parameters)
    if strict_tools is not None and parameters:
        from foundry_api.structured.output_spec import OutputSpec  # noqa: PLC0415 - few tools are strict

        try:
            strict_tools[name] = OutputSpec.from_arguments(response_model=parameters)
        except InvalidRequest as error:
            problem = error.message.replace("response_model", field)
            raise RequestError(400, "invalid_value", f"{problem}.", param=field) from error
    return ToolDefinition(
        name=name, description=description or "", parameters=parameters or NO_PARAMETERS
    )


def add_tools(
    options: ChatOptions, tools: list[ToolDefinition], choice: str | dict[str, Any] | None
) -> None:
    """Add tools, and OpenAI's choice among them, to the options of a call."""
    if not tools:
        return
    if is_dict(choice):
        choice, allowed = read_tool_choice(choice)
        if allowed is not None:
            tools = [tool for tool in tools if tool.name in allowed]
    options["tools"] = tools
    if isinstance(choice, str):
        options["tool_choice"] = choice


def read_tool_choice(choice: dict[str, Any]) -> tuple[str, set[str] | None]:
    """Return the choice, and the names of the tools that it is limited to.

    Raises:
        RequestError: It is not one.
    """
    kind = choice.get("type", "function")
    if kind == "function":
        function = choice.get("function", choice)
        name = function.get("name") if is_dict(function) else None
        if isinstance(name, str):
            return name, None
    elif kind == "allowed_tools":
        allowed = choice.get("allowed_tools", choice)
        if is_dict(allowed) and isinstance(allowed.get("tools"), list):
            items = cast("list[object]", allowed["tools"])
            names = {name for item in items if (name := _get_tool_name(item)) is not None}
            mode = allowed.get("mode", "auto")
            if names and mode in {"auto", "required"}:
                return mode, names
    raise make_invalid("tool_choice", "tool_choice is not a choice of tools.")


def _get_tool_name(item: object) -> str | None:
    """Return the name in `{"type", "name"}` or `{"type", "function": {"name"}}`."""
    if not is_dict(item):
        return None
    function = item.get("function")
    name = function.get("name") if is_dict(function) else item.get("name")
    return name if isinstance(name, str) else None
