"""Calling the user's own code, which may raise anything.

A parser, a tool or a listener that fails is the failure of the one call that it was called for. It
must not end the program, and must not pass for a cancellation that nobody asked for.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

from foundry_api.types.errors import FoundryError, InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = [
    "UserCode",
    "describe",
    "get_error_text",
    "is_cancelled",
    "read_argument",
    "try_in_thread",
]


def is_cancelled() -> bool:
    """Whether somebody asked the current task to end.

    In a task that nobody cancelled, a `CancelledError` is an ordinary failure: of the user's own
    code, or of another task that was waited for.
    """
    task = _current_task()
    return task is not None and task.cancelling() > 0


class UserCode:
    """Tells what the user's code raised from what only passes through it.

        code = UserCode()
        try:
            value = await hook(request)
        except BaseException as error:
            if not code.raised(error):
                raise
            raise HookFailed(f"the hook failed: {describe(error)}") from error

    It is made in the task that calls the code, before the call. Code that is not awaited needs
    none: a cancellation comes only while something is awaited.
    """

    __slots__ = ("_task",)

    def __init__(self) -> None:
        self._task = _current_task()

    def is_own_failure(self, error: BaseException) -> bool:
        """Whether an exception is a failure of the code.

        Ctrl-C, the end of the program, a cancellation that somebody asked for and the closing of
        the coroutine are not: they have to go on.
        """
        if isinstance(error, KeyboardInterrupt | SystemExit):
            return False
        if isinstance(error, asyncio.CancelledError):
            return not is_cancelled()
        if isinstance(error, GeneratorExit):
            # A coroutine is closed by another task, or by the garbage collector.
            return _current_task() is self._task
        return True


def get_error_text(error: BaseException) -> str:
    """The text of an exception; nothing where making it fails."""
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - an exception's own __str__ may raise anything, too
        return ""


def describe(error: BaseException) -> str:
    """The type and the text of an exception."""
    name, text = type(error).__name__, get_error_text(error)
    return f"{name}: {text}" if text else name


def read_argument(field: str, values: Iterable[Any]) -> Sequence[Any]:
    """Read an argument that may be any iterable to its end.

    Raises:
        InvalidRequest: It failed.
    """
    if type(values) in (list, tuple):
        return cast("Sequence[Any]", values)
    code = UserCode()
    try:
        return [*values]
    except FoundryError:
        raise
    except BaseException as error:
        if not code.is_own_failure(error):
            raise
        raise InvalidRequest(f"{field} cannot be read: {describe(error)}", field=field) from error


async def try_in_thread(
    function: Callable[..., Any], *args: Any, **kwargs: Any
) -> tuple[Any, BaseException | None]:
    """Call a function in a thread; what it returned, and what it raised.

    As a pair, because neither a future nor a coroutine can raise `StopIteration`: with
    `asyncio.to_thread` the caller would wait for ever.
    """

    def call() -> tuple[Any, BaseException | None]:
        try:
            return function(*args, **kwargs), None
        except BaseException as error:  # noqa: BLE001 - handed to the caller
            return None, error

    return await asyncio.to_thread(call)


def _current_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # no event loop runs in this thread
        return None
