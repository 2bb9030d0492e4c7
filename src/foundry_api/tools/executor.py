"""Execute tool calls: validate the arguments, call the function, format the result."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from foundry_api.structured.isolation import run_validation
from foundry_api.tools.coercion import coerce
from foundry_api.tools.results import ToolResult
from foundry_api.types.errors import InvalidRequest
from foundry_api.types.user_code import UserCode, describe, get_error_text, try_in_thread
from foundry_api.types.values import as_bool, as_float, as_int, as_text, format_value

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from foundry_api.tools.definition import Tool
    from foundry_api.types.messages import ToolCall

__all__ = ["OnError", "ToolExecutor", "ToolLimits"]

OnError = Literal["return", "raise"]

# A generator may never end.
MAX_VALUES = 10_000


class _CallFailed(Exception):
    """A call failed; the message is for the model."""

    def __init__(self, error: BaseException, message: str) -> None:
        super().__init__(message)
        self.error = error
        self.message = message


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolLimits:
    """The limits of a tool run: requests to the model, calls at once, seconds per call.

    `on_error` says whether a failed call is returned to the model or raised. Raises InvalidRequest.
    """

    max_turns: int
    parallel: int
    tool_timeout: float
    on_error: OnError

    def __post_init__(self) -> None:
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
                f"on_error is {format_value(self.on_error)}, but must be 'return' or 'raise'",
                field="on_error",
            )


@dataclass(frozen=True, slots=True)
class ToolExecutor:
    """Executes the tool calls of a conversation."""

    tools: Mapping[str, Tool]
    limits: ToolLimits
    monotonic: Callable[[], float]

    async def execute(self, calls: Sequence[ToolCall], turn: int) -> tuple[ToolResult, ...]:
        """Execute the calls of one answer concurrently and return their results in order."""
        slots = asyncio.Semaphore(self.limits.parallel)

        async def execute_call(call: ToolCall) -> ToolResult:
            async with slots:
                return await self._execute_call(call, turn)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(execute_call(call)) for call in calls]
        results: list[ToolResult] = []
        for call, task in zip(calls, tasks, strict=True):
            if not task.cancelled():
                results.append(task.result())
                continue
            # The tool cancelled the task that it ran in.
            result = ToolResult(
                call=call,
                arguments=None,
                error=asyncio.CancelledError(),
                content=f"Error: {call.function.name} failed: it cancelled itself",
                duration_s=0.0,
                turn=turn,
            )
            results.append(result)
        return tuple(results)

    async def _execute_call(self, call: ToolCall, turn: int) -> ToolResult:
        started = self.monotonic()
        name = call.function.name
        arguments: dict[str, Any] | None = None
        value: Any = None
        error: BaseException | None = None
        if (tool := self.tools.get(name)) is None:
            error = LookupError(f"there is no tool {name}")
            content = _format_error(f"{error}. There are: {', '.join(self.tools)}.")
        else:
            try:
                arguments = _parse_arguments(call)
                value = await self._call_tool(tool, await _bind_arguments(tool, arguments))
                content = _format_content(tool, value)
            except _CallFailed as failed:
                value, error = None, failed.error
                content = _format_error(failed.message)
        return ToolResult(
            call=call,
            arguments=arguments,
            value=value,
            error=error,
            content=content,
            duration_s=self.monotonic() - started,
            turn=turn,
        )

    async def _call_tool(self, tool: Tool, arguments: dict[str, Any]) -> Any:
        # After a timeout, the thread of a plain function continues: Python cannot stop it.
        limit_s = self.limits.tool_timeout
        scope = asyncio.timeout(limit_s)
        code, value, failure = UserCode(), None, None
        try:
            async with scope:
                value, failure = await _run_function(tool.function, arguments)
        except BaseException as error:
            if scope.expired() and isinstance(error, Exception):
                raise _CallFailed(error, f"{tool.name} took longer than {limit_s:g} s.") from error
            if not code.is_own_failure(error):
                raise
            failure = error
        if failure is not None:
            raise _make_failure(tool, failure) from failure
        return value


def _make_failure(tool: Tool, failure: BaseException) -> _CallFailed:
    return _CallFailed(failure, f"{tool.name} failed: {describe(failure)}")


def _parse_arguments(call: ToolCall) -> dict[str, Any]:
    text = call.function.arguments.strip() or "{}"
    if text.startswith('"'):
        # Some models encode the arguments twice.
        with contextlib.suppress(msgspec.DecodeError):
            text = msgspec.json.decode(text, type=str)
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.ValidationError as error:
        message = f"the arguments of {call.function.name} are not a JSON object."
        raise _CallFailed(error, message) from error
    except msgspec.DecodeError as error:
        raise _CallFailed(
            error, f"the arguments of {call.function.name} are not JSON: {error}"
        ) from error


async def _bind_arguments(tool: Tool, raw_arguments: dict[str, Any]) -> dict[str, Any]:
    """Convert arguments to the types of the function, in a thread if that may take long."""
    if tool.arguments is None or not tool.arguments.may_take_long(raw_arguments):
        return _bind(tool, raw_arguments)
    bound, error = await run_validation(_bind, tool, raw_arguments)
    if error is not None:
        raise error
    arguments: dict[str, Any] = bound
    return arguments


def _bind(tool: Tool, raw_arguments: dict[str, Any]) -> dict[str, Any]:
    if tool.arguments is None:
        arguments: dict[str, Any] = coerce(raw_arguments, tool.definition.parameters)
        return arguments
    try:
        return tool.arguments.convert_leniently(raw_arguments)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the caller's own types may raise anything
        schema = msgspec.json.encode(tool.definition.parameters).decode()
        reason = (
            get_error_text(error) if isinstance(error, ValueError | TypeError) else describe(error)
        )
        message = f"the arguments of {tool.name} do not fit: {reason}. They have to match {schema}"
        raise _CallFailed(error, message) from error


async def _run_function(
    function: Callable[..., Any], arguments: dict[str, Any]
) -> tuple[Any, BaseException | None]:
    """Call a function and return its value and its exception; the values of a generator as a list.

    Plain functions and generators run in a thread.
    """
    failure = None
    target = getattr(function, "func", function)  # of a partial
    call_method = getattr(target, "__call__", None)  # noqa: B004 - the method of a callable object
    if inspect.iscoroutinefunction(target) or inspect.iscoroutinefunction(call_method):
        value = await function(**arguments)
    else:
        value, failure = await try_in_thread(function, **arguments)
    if inspect.isawaitable(value):  # of a lambda, for example
        value = await value
    if inspect.isasyncgen(value):
        values: list[Any] = []
        async with contextlib.aclosing(value):
            async for item in value:
                values.append(item)
                _check_value_count(values)
        return values, None
    if inspect.isgenerator(value):
        values, failure = await try_in_thread(lambda: list(islice(value, MAX_VALUES + 1)))
        return values if failure else _check_value_count(values), failure
    return value, failure


def _check_value_count(values: list[Any]) -> list[Any]:
    if len(values) > MAX_VALUES:
        raise ValueError(f"it gives more than {MAX_VALUES} values; return a list")
    return values


def _format_content(tool: Tool, value: Any) -> str:
    """Format a result for the model: a text as it is, other values as JSON."""
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
    """Convert values that msgspec does not know: pydantic's models, and others to str."""
    dump = getattr(value, "model_dump", None)
    if dump is not None:
        return dump(mode="json")
    for convert in (as_text, as_int, as_float, as_bool):
        if (converted := convert(value)) is not None:
            return converted
    return str(value)


def _format_error(message: str) -> str:
    return _remove_unsendable(f"Error: {message}")


def _remove_unsendable(text: str) -> str:
    # No service accepts NULs and lone surrogates (docs/foundry-local-service.md, 4.8).
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode(errors="replace").decode()
