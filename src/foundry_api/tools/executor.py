"""Calling tools: what a model gave is checked, and what goes wrong is put in words for it."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, Never

import msgspec

from foundry_api.structured.isolation import run_validation
from foundry_api.tools.coercion import coerce
from foundry_api.tools.results import ToolResult
from foundry_api.types.errors import InvalidRequest
from foundry_api.types.user_code import UserCode, describe, get_error_text, try_in_thread
from foundry_api.types.values import as_bool, as_float, as_int, as_text, format_value

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping, Sequence

    from foundry_api.tools.definition import Tool
    from foundry_api.tools.signature import ArgumentConverter
    from foundry_api.types.messages import ToolCall

__all__ = ["OnError", "ToolExecutor", "ToolLimits"]


MAX_VALUES = 10_000
"""Of a tool that is a generator, which might never end."""


class _Rejected(Exception):
    """A call that comes to nothing, with what the model is told of it."""

    def __init__(self, error: BaseException, message: str) -> None:
        super().__init__(message)
        self.error = error
        self.message = message


@dataclass(frozen=True, slots=True)
class ToolExecutor:
    """Calls the tools of a conversation.

    Attributes:
        tools: By name.
        limits: How many calls run at once, and how long each may take.
        monotonic: Seconds of a monotonic clock.
    """

    tools: Mapping[str, Tool]
    limits: ToolLimits
    monotonic: Callable[[], float]

    async def execute(self, calls: Sequence[ToolCall], turn: int) -> tuple[ToolResult, ...]:
        """The results of all calls of a round, in their order.

        Args:
            calls: What the model wants.
            turn: The round's.
        """
        slots = asyncio.Semaphore(self.limits.parallel)

        async def execute_call(call: ToolCall) -> ToolResult:
            async with slots:
                return await self._execute_call(call, turn)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(execute_call(call)) for call in calls]
        return tuple(
            _make_cancelled_result(call, turn) if task.cancelled() else task.result()
            for call, task in zip(calls, tasks, strict=True)
        )

    async def _execute_call(self, call: ToolCall, turn: int) -> ToolResult:
        started = self.monotonic()
        arguments: dict[str, Any] | None = None
        value, error = None, None
        try:
            tool = self._find_tool(call)
            arguments = _parse_arguments(call)
            value = await self._call_tool(tool, await _bind_async(tool, arguments))
            content = _format_content(tool, value)
        except _Rejected as rejected:
            value, error, content = (
                None,
                rejected.error,
                _remove_unsendable(f"Error: {rejected.message}"),
            )
        return ToolResult(
            call=call,
            arguments=arguments,
            value=value,
            error=error,
            content=content,
            duration_s=self.monotonic() - started,
            turn=turn,
        )

    def _find_tool(self, call: ToolCall) -> Tool:
        name = call.function.name
        if name not in self.tools:
            message = f"there is no tool {name}. There are: {', '.join(self.tools)}."
            raise _Rejected(LookupError(f"there is no tool {name}"), message)
        return self.tools[name]

    async def _call_tool(self, tool: Tool, arguments: dict[str, Any]) -> Any:
        """What the tool gives back.

        A plain function runs in a thread, which goes on if the call is given up: Python has no way
        to stop it.
        """
        limit_s = self.limits.tool_timeout
        scope = asyncio.timeout(limit_s)
        code, value, failure = UserCode(), None, None
        try:
            async with scope:
                value, failure = await _run_function(tool.function, arguments)
        except BaseException as error:
            if scope.expired() and isinstance(error, Exception):
                raise _Rejected(error, f"{tool.name} took longer than {limit_s:g} s.") from error
            if not code.is_own_failure(error):
                raise
            failure = error
        if failure is not None:
            raise _make_failure(tool, failure) from failure
        return value


def _make_failure(tool: Tool, failure: BaseException) -> _Rejected:
    return _Rejected(failure, f"{tool.name} failed: {describe(failure)}")


def _make_cancelled_result(call: ToolCall, turn: int) -> ToolResult:
    """The result of a tool that cancelled the task that it ran in."""
    return ToolResult(
        call=call,
        arguments=None,
        error=asyncio.CancelledError(),
        content=f"Error: {call.function.name} failed: it cancelled itself",
        duration_s=0.0,
        turn=turn,
    )


async def _run_function(
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
        return await _collect_values(value), None
    if inspect.isgenerator(value):
        values, failure = await try_in_thread(lambda: list(islice(value, MAX_VALUES + 1)))
        return values if failure else _check_value_count(values), failure
    return value, failure


async def _collect_values(generator: AsyncGenerator[Any, Never]) -> list[Any]:
    values: list[Any] = []
    async with contextlib.aclosing(generator):
        async for value in generator:
            values.append(value)
            _check_value_count(values)
    return values


def _check_value_count(values: list[Any]) -> list[Any]:
    if len(values) > MAX_VALUES:
        raise ValueError(f"it gives more than {MAX_VALUES} values; return a list")
    return values


def _is_async(function: Callable[..., Any]) -> bool:
    target = getattr(function, "func", function)  # of a partial
    call_method = getattr(target, "__call__", None)  # noqa: B004 - an object's own method is wanted
    return inspect.iscoroutinefunction(target) or inspect.iscoroutinefunction(call_method)


def _parse_arguments(call: ToolCall) -> dict[str, Any]:
    """The arguments as JSON has them."""
    text = call.function.arguments.strip() or "{}"
    if text.startswith('"'):
        text = _unquote(text)
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.ValidationError as error:
        message = f"the arguments of {call.function.name} are not a JSON object."
        raise _Rejected(error, message) from error
    except msgspec.DecodeError as error:
        raise _Rejected(
            error, f"the arguments of {call.function.name} are not JSON: {error}"
        ) from error


def _unquote(text: str) -> str:
    """Arguments that were encoded twice, as they were encoded once."""
    try:
        return msgspec.json.decode(text, type=str)
    except msgspec.DecodeError:
        return text


async def _bind_async(tool: Tool, raw_arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments as the function's types have them; in a thread where that may take long."""
    if tool.arguments is None or not tool.arguments.may_take_long(raw_arguments):
        return _bind(tool, raw_arguments)
    bound, error = await run_validation(_bind, tool, raw_arguments)
    if error is not None:
        raise error
    arguments: dict[str, Any] = bound
    return arguments


def _bind(tool: Tool, raw_arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments as the function's types have them."""
    if tool.arguments is None:
        arguments: dict[str, Any] = coerce(raw_arguments, tool.definition.parameters)
        return arguments
    try:
        return _convert(tool.arguments, raw_arguments)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the caller's own types may raise anything
        schema = msgspec.json.encode(tool.definition.parameters).decode()
        reason = (
            get_error_text(error) if isinstance(error, ValueError | TypeError) else describe(error)
        )
        message = f"the arguments of {tool.name} do not fit: {reason}. They have to match {schema}"
        raise _Rejected(error, message) from error


def _convert(arguments: ArgumentConverter, raw_arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments by their types, those of another JSON type too if it is clear what is meant."""
    try:
        return arguments.convert(raw_arguments)
    except (ValueError, TypeError) as error:
        try:
            return arguments.convert(coerce(raw_arguments, arguments.schema))
        except (ValueError, TypeError):
            raise error from None  # it speaks of what the model wrote


def _format_content(tool: Tool, value: Any) -> str:
    """What the model is told of a result: a text as it is, anything else as JSON."""
    if isinstance(value, str) and value.strip():
        return _remove_unsendable(value)
    try:
        return msgspec.json.encode(value, enc_hook=_encode_unknown).decode()
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:  # noqa: BLE001 - the value's own methods may raise anything
        return _remove_unsendable(_format_repr(tool, value))


def _format_repr(tool: Tool, value: Any) -> str:
    try:
        return repr(value)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        raise _make_failure(tool, error) from error


def _encode_unknown(value: Any) -> Any:
    """Values that msgspec does not know: pydantic's models, and anything that has a text."""
    dump = getattr(value, "model_dump", None)
    if dump is not None:
        return dump(mode="json")
    for convert in (as_text, as_int, as_float, as_bool):
        if (converted := convert(value)) is not None:
            return converted
    return str(value)


def _remove_unsendable(text: str) -> str:
    """Without what no service takes: NULs and lone surrogates (foundry-local-service.md, 4.8)."""
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()


OnError = Literal["return", "raise"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolLimits:
    """How far a model may go.

    Attributes:
        max_turns: How often it is asked at most.
        parallel: How many calls of a round run at once.
        tool_timeout: Seconds that one call may take.
        on_error: Whether a call that fails is told to the model or raised.

    Raises:
        InvalidRequest: One cannot be kept; `.field` names it.
    """

    max_turns: int
    parallel: int
    tool_timeout: float
    on_error: OnError

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        for name in ("max_turns", "parallel"):
            value = getattr(self, name)
            number = as_int(value)
            if number is None or number < 1:
                raise InvalidRequest(
                    f"{name} is {format_value(value)}, not a whole number from 1", field=name
                )
            object.__setattr__(self, name, number)
        seconds = as_float(self.tool_timeout)
        if seconds is None or not seconds > 0:
            raise InvalidRequest(
                f"tool_timeout is {format_value(self.tool_timeout)}, but must be above 0 s",
                field="tool_timeout",
            )
        object.__setattr__(self, "tool_timeout", seconds)
        if as_text(self.on_error) not in {"return", "raise"}:
            raise InvalidRequest(
                f"on_error is {format_value(self.on_error)}, but must be tell or raise",
                field="on_error",
            )
