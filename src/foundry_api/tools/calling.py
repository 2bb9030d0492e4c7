"""Calling tools: what a model gave is checked, and what goes wrong is put in words for it."""

from __future__ import annotations

import asyncio
import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from foundry_api.tools.outcome import ToolResult

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from foundry_api.messages import ToolCall
    from foundry_api.tools.definition import Tool
    from foundry_api.tools.limits import ToolLimits

__all__ = ["ToolCaller"]


class _Refused(Exception):
    """A call that comes to nothing, with what the model is told of it."""

    def __init__(self, error: Exception, told: str) -> None:
        super().__init__(told)
        self.error = error
        self.told = told


@dataclass(frozen=True, slots=True)
class ToolCaller:
    """Calls the tools of a conversation.

    Attributes:
        tools: By name.
        limits: How many calls run at once, and how long each may take.
        clock: Seconds of a monotonic clock.
    """

    tools: Mapping[str, Tool]
    limits: ToolLimits
    clock: Callable[[], float]

    async def answered(self, calls: Sequence[ToolCall], number: int) -> tuple[ToolResult, ...]:
        """The results of all calls of a round, in their order.

        Args:
            calls: What the model wants.
            number: The round's.
        """
        turns = asyncio.Semaphore(self.limits.parallel)

        async def in_turn(call: ToolCall) -> ToolResult:
            async with turns:
                return await self._result(call, number)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(in_turn(call)) for call in calls]
        return tuple(task.result() for task in tasks)

    async def _result(self, call: ToolCall, number: int) -> ToolResult:
        started = self.clock()
        given: dict[str, Any] | None = None
        value, error = None, None
        try:
            tool = self._tool(call)
            given = _given(call)
            value = await self._called(tool, _fitting(tool, given))
            content = _content(value)
        except _Refused as refused:
            error, content = refused.error, _sendable(f"Error: {refused.told}")
        return ToolResult(
            call=call,
            arguments=given,
            value=value,
            error=error,
            content=content,
            duration_s=self.clock() - started,
            round=number,
        )

    def _tool(self, call: ToolCall) -> Tool:
        name = call.function.name
        if name not in self.tools:
            told = f"there is no tool {name}. There are: {', '.join(self.tools)}."
            raise _Refused(LookupError(f"there is no tool {name}"), told)
        return self.tools[name]

    async def _called(self, tool: Tool, arguments: dict[str, Any]) -> Any:
        """What the tool gives back.

        A plain function runs in a thread, which goes on if the call is given up: Python has no way
        to stop it.
        """
        limit_s = self.limits.tool_timeout
        scope = asyncio.timeout(limit_s)
        try:
            async with scope:
                if _is_async(tool.function):
                    return await tool.function(**arguments)
                return await asyncio.to_thread(tool.function, **arguments)
        except Exception as error:
            if scope.expired():
                raise _Refused(error, f"{tool.name} took longer than {limit_s:g} s.") from error
            told = f"{tool.name} failed: {type(error).__name__}: {error}"
            raise _Refused(error, told) from error


def _is_async(function: Callable[..., Any]) -> bool:
    target = getattr(function, "func", function)  # of a partial
    called = getattr(target, "__call__", None)  # noqa: B004 - an object's own method is wanted
    return inspect.iscoroutinefunction(target) or inspect.iscoroutinefunction(called)


def _given(call: ToolCall) -> dict[str, Any]:
    """The arguments as JSON has them."""
    text = call.function.arguments.strip() or "{}"
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.ValidationError as error:
        told = f"the arguments of {call.function.name} are not a JSON object."
        raise _Refused(error, told) from error
    except msgspec.DecodeError as error:
        raise _Refused(
            error, f"the arguments of {call.function.name} are not JSON: {error}"
        ) from error


def _fitting(tool: Tool, given: dict[str, Any]) -> dict[str, Any]:
    """The arguments as the function's types have them."""
    if tool.arguments is None:
        return given
    try:
        return tool.arguments.converted(given)
    except (ValueError, TypeError) as error:
        schema = msgspec.json.encode(tool.definition.parameters).decode()
        told = f"the arguments of {tool.name} do not fit: {error}. They have to match {schema}"
        raise _Refused(error, told) from error


def _content(value: Any) -> str:
    """What the model is told of a result: a text as it is, anything else as JSON."""
    if isinstance(value, str) and value.strip():
        return _sendable(value)
    try:
        return msgspec.json.encode(value, enc_hook=_dumped).decode()
    except (TypeError, ValueError, OverflowError, RecursionError):
        return _sendable(repr(value))


def _dumped(value: Any) -> Any:
    """Values that msgspec does not know: pydantic's models, and anything that has a text."""
    dump = getattr(value, "model_dump", None)
    return str(value) if dump is None else dump(mode="json")


def _sendable(text: str) -> str:
    """Without what no service takes: NULs and lone surrogates (foundry-local-service.md, 4.8)."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()
