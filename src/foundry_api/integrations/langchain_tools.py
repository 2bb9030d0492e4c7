"""LangChain's tools as ours."""

from __future__ import annotations

from typing import Any

from langchain_core.utils.function_calling import convert_to_openai_tool

from foundry_api.messages import ToolDefinition

__all__ = ["choice", "definition"]


def definition(tool: Any) -> ToolDefinition:
    """What the model is told of a tool."""
    function = convert_to_openai_tool(tool)["function"]
    return ToolDefinition(
        name=function["name"],
        description=function.get("description", ""),
        parameters=function.get("parameters", {}),
    )


def choice(said: str | bool | dict[str, Any] | None) -> str | None:  # noqa: FBT001 - LangChain's own
    """Which tool has to be called, in this package's words."""
    match said:
        case True | "any":
            return "required"
        case False | None:
            return None
        case {"function": {"name": str(name)}} | str(name):
            return name
        case _:
            return str(said)
