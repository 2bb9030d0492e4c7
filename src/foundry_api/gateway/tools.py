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

__all__ = ["add_tools", "make_tool"]

MODES = frozenset({"auto", "none", "required"})
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
    options: ChatOptions,
    tools: list[ToolDefinition],
    choice: str | dict[str, Any] | None,
    *,
    field: str = "tool_choice",
) -> None:
    """Add tools, and OpenAI's choice among them, to the options of a call.

    Raises:
        RequestError: The choice is not one, or is none among these tools.
    """
    if not tools and choice is None:  # as in most calls
        return
    mode, allowed = (
        _read_choice(field, choice) if isinstance(choice, dict) else (choice, set[str]())
    )
    if mode == "required" and not tools:
        raise make_invalid(field, f"{field} asks for a call, but there are no tools. Send tools.")
    named = allowed if mode is None or mode in MODES else {mode}
    if unknown := named - {tool.name for tool in tools}:
        raise make_invalid(
            field, f"{field} names {min(unknown)[:64]!r}, which is none of the request's tools."
        )
    if not tools:  # so that none is called, which the modes that are left allow
        return
    options["tools"] = [tool for tool in tools if not allowed or tool.name in allowed]
    if mode is not None:
        options["tool_choice"] = mode


def _read_choice(field: str, choice: dict[str, Any]) -> tuple[str, set[str]]:
    """Return the choice, and the names of the tools that it is limited to; none without a limit.

    Raises:
        RequestError: It is not one.
    """
    kind = choice.get("type", "function")
    if kind == "function":
        function = choice.get("function", choice)
        name = function.get("name") if is_dict(function) else None
        if isinstance(name, str):
            return name, set()
    elif kind == "allowed_tools":
        allowed = choice.get("allowed_tools", choice)
        if is_dict(allowed) and isinstance(allowed.get("tools"), list):
            items = cast("list[object]", allowed["tools"])
            names = {name for item in items if (name := _get_tool_name(item)) is not None}
            mode = allowed.get("mode", "auto")
            if names and mode in {"auto", "required"}:
                return mode, names
    raise make_invalid(field, f"{field} is not a choice of tools.")


def _get_tool_name(item: object) -> str | None:
    """Return the name in `{"type", "name"}` or `{"type", "function": {"name"}}`."""
    if not is_dict(item):
        return None
    function = item.get("function")
    name = function.get("name") if is_dict(function) else item.get("name")
    return name if isinstance(name, str) else None
