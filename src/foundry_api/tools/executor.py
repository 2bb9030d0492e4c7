"""Calling tools: what a model gave is checked, and what goes wrong is put in words for it."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, Never

import msgspec

from foundry_api.structured.isolation import validated
from foundry_api.tools.coercion import coerced
from foundry_api.tools.results import ToolResult
from foundry_api.types.errors import InvalidRequest
from foundry_api.types.user_code import UserCode, describe, text_of, try_in_thread
from foundry_api.types.values import as_bool, as_float, as_int, as_text, shown

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping, Sequence

    from foundry_api.tools.definition import Tool
    from foundry_api.tools.signature import Arguments
    from foundry_api.types.messages import ToolCall

__all__ = ["OnError", "ToolCaller", "ToolLimits"]


MOST_VALUES = 10_000
"""Of a tool that is a generator, which might never end."""


class _Refused(Exception):
    """A call that comes to nothing, with what the model is told of it."""

    def __init__(self, error: BaseException, told: str) -> None:
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
        return tuple(
            _gave_up(call, number) if task.cancelled() else task.result()
            for call, task in zip(calls, tasks, strict=True)
        )

    async def _result(self, call: ToolCall, number: int) -> ToolResult:
        started = self.clock()
        given: dict[str, Any] | None = None
        value, error = None, None
        try:
            tool = self._tool(call)
            given = _given(call)
            value = await self._called(tool, await _fitted(tool, given))
            content = _content(tool, value)
        except _Refused as refused:
            value, error, content = None, refused.error, _sendable(f"Error: {refused.told}")
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
        code, value, failure = UserCode(), None, None
        try:
            async with scope:
                value, failure = await _outcome(tool.function, arguments)
        except BaseException as error:
            if scope.expired() and isinstance(error, Exception):
                raise _Refused(error, f"{tool.name} took longer than {limit_s:g} s.") from error
            if not code.raised(error):
                raise
            failure = error
        if failure is not None:
            raise _failed(tool, failure) from failure
        return value


def _failed(tool: Tool, failure: BaseException) -> _Refused:
    return _Refused(failure, f"{tool.name} failed: {describe(failure)}")


def _gave_up(call: ToolCall, number: int) -> ToolResult:
    """The result of a tool that cancelled the task that it ran in."""
    return ToolResult(
        call=call,
        arguments=None,
        error=asyncio.CancelledError(),
        content=f"Error: {call.function.name} failed: it cancelled itself",
        duration_s=0.0,
        round=number,
    )


async def _outcome(
    function: Callable[..., Any], arguments: dict[str, Any]
) -> tuple[Any, BaseException | None]:
    """What a function gives back: at once or later, or one value after the other, as a list."""
    failure = None
    if _is_async(function):
        value = await function(**arguments)
    else:
        value, failure = await try_in_thread(function, **arguments)
    if inspect.isawaitable(value):  # of a plain function, such as a lambda or a partial
        value = await value
    if inspect.isasyncgen(value):
        return await _values_of(value), None
    if inspect.isgenerator(value):
        values, failure = await try_in_thread(lambda: list(islice(value, MOST_VALUES + 1)))
        return values if failure else _bounded(values), failure
    return value, failure


async def _values_of(generator: AsyncGenerator[Any, Never]) -> list[Any]:
    values: list[Any] = []
    async with contextlib.aclosing(generator):
        async for value in generator:
            values.append(value)
            _bounded(values)
    return values


def _bounded(values: list[Any]) -> list[Any]:
    if len(values) > MOST_VALUES:
        raise ValueError(f"it gives more than {MOST_VALUES} values; return a list")
    return values


def _is_async(function: Callable[..., Any]) -> bool:
    target = getattr(function, "func", function)  # of a partial
    called = getattr(target, "__call__", None)  # noqa: B004 - an object's own method is wanted
    return inspect.iscoroutinefunction(target) or inspect.iscoroutinefunction(called)


def _given(call: ToolCall) -> dict[str, Any]:
    """The arguments as JSON has them."""
    text = call.function.arguments.strip() or "{}"
    if text.startswith('"'):
        text = _unquoted(text)
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.ValidationError as error:
        told = f"the arguments of {call.function.name} are not a JSON object."
        raise _Refused(error, told) from error
    except msgspec.DecodeError as error:
        raise _Refused(
            error, f"the arguments of {call.function.name} are not JSON: {error}"
        ) from error


def _unquoted(text: str) -> str:
    """Arguments that were encoded twice, as they were encoded once."""
    try:
        return msgspec.json.decode(text, type=str)
    except msgspec.DecodeError:
        return text


async def _fitted(tool: Tool, given: dict[str, Any]) -> dict[str, Any]:
    """The arguments as the function's types have them; in a thread where that may take long."""
    if tool.arguments is None or not tool.arguments.may_take_long(given):
        return _fitting(tool, given)
    fitting, error = await validated(_fitting, tool, given)
    if error is not None:
        raise error
    arguments: dict[str, Any] = fitting
    return arguments


def _fitting(tool: Tool, given: dict[str, Any]) -> dict[str, Any]:
    """The arguments as the function's types have them."""
    if tool.arguments is None:
        arguments: dict[str, Any] = coerced(given, tool.definition.parameters)
        return arguments
    try:
        return _converted(tool.arguments, given)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the caller's own types may raise anything
        schema = msgspec.json.encode(tool.definition.parameters).decode()
        why = text_of(error) if isinstance(error, ValueError | TypeError) else describe(error)
        told = f"the arguments of {tool.name} do not fit: {why}. They have to match {schema}"
        raise _Refused(error, told) from error


def _converted(arguments: Arguments, given: dict[str, Any]) -> dict[str, Any]:
    """The arguments by their types, those of another JSON type too if it is clear what is meant."""
    try:
        return arguments.converted(given)
    except (ValueError, TypeError) as error:
        try:
            return arguments.converted(coerced(given, arguments.schema))
        except (ValueError, TypeError):
            raise error from None  # it speaks of what the model wrote


def _content(tool: Tool, value: Any) -> str:
    """What the model is told of a result: a text as it is, anything else as JSON."""
    if isinstance(value, str) and value.strip():
        return _sendable(value)
    try:
        return msgspec.json.encode(value, enc_hook=_dumped).decode()
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # noqa: BLE001 - the value's own methods may raise anything
        return _sendable(_repr(tool, value))


def _repr(tool: Tool, value: Any) -> str:
    try:
        return repr(value)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        raise _failed(tool, error) from error


def _dumped(value: Any) -> Any:
    """Values that msgspec does not know: pydantic's models, and anything that has a text."""
    dump = getattr(value, "model_dump", None)
    if dump is not None:
        return dump(mode="json")
    for convert in (as_text, as_int, as_float, as_bool):
        if (converted := convert(value)) is not None:
            return converted
    return str(value)


def _sendable(text: str) -> str:
    """Without what no service takes: NULs and lone surrogates (foundry-local-service.md, 4.8)."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()


OnError = Literal["tell", "raise"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolLimits:
    """How far a model may go.

    Attributes:
        max_rounds: How often it is asked at most.
        parallel: How many calls of a round run at once.
        tool_timeout: Seconds that one call may take.
        on_error: Whether a call that fails is told to the model or raised.

    Raises:
        InvalidRequest: One cannot be kept; `.field` names it.
    """

    max_rounds: int
    parallel: int
    tool_timeout: float
    on_error: OnError

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        for name in ("max_rounds", "parallel"):
            value = getattr(self, name)
            number = as_int(value)
            if number is None or number < 1:
                raise InvalidRequest(
                    f"{name} is {shown(value)}, not a whole number from 1", field=name
                )
            object.__setattr__(self, name, number)
        seconds = as_float(self.tool_timeout)
        if seconds is None or not seconds > 0:
            raise InvalidRequest(
                f"tool_timeout is {shown(self.tool_timeout)}, but must be above 0 s",
                field="tool_timeout",
            )
        object.__setattr__(self, "tool_timeout", seconds)
        if as_text(self.on_error) not in {"tell", "raise"}:
            raise InvalidRequest(
                f"on_error is {shown(self.on_error)}, but must be tell or raise", field="on_error"
            )
