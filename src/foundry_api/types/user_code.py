"""Call user code, such as parsers, tools and hooks, which may raise anything.

Its exception fails one call. It must not end the program or be mistaken for a cancellation.
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
    """Whether the current task was cancelled."""
    # Without a cancellation, a CancelledError is an ordinary failure: of user code, or of another
    # task that was awaited.
    task = _current_task()
    return task is not None and task.cancelling() > 0


class UserCode:
    """Distinguishes exceptions of user code from those that only pass through it.

        code = UserCode()
        try:
            value = await hook(request)
        except BaseException as error:
            if not code.is_own_failure(error):
                raise
            raise HookFailed(f"the hook failed: {describe(error)}") from error

    Create it in the task that calls the code.
    """

    __slots__ = ("_task",)

    def __init__(self) -> None:
        self._task = _current_task()

    def is_own_failure(self, error: BaseException) -> bool:
        """Whether the code failed; not for Ctrl-C, exit, cancellation or a closed coroutine."""
        if isinstance(error, KeyboardInterrupt | SystemExit):
            return False
        if isinstance(error, asyncio.CancelledError):
            return not is_cancelled()
        if isinstance(error, GeneratorExit):
            # Another task or the garbage collector closes a coroutine; in its own task, the
            # code raised it.
            return _current_task() is self._task
        return True


def get_error_text(error: BaseException) -> str:
    """Return the text of an exception; an empty text if its `__str__` fails."""
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - __str__ of a user's class may raise anything
        return ""


def describe(error: BaseException) -> str:
    """Return the type and the text of an exception."""
    name, text = type(error).__name__, get_error_text(error)
    return f"{name}: {text}" if text else name


def read_argument(field: str, values: Iterable[Any]) -> Sequence[Any]:
    """Return the items of an iterable argument."""
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
    """Call a function in a thread; return its result and its exception."""

    # A pair, because a future cannot raise StopIteration: `asyncio.to_thread` would never return.
    def call() -> tuple[Any, BaseException | None]:
        try:
            return function(*args, **kwargs), None
        except BaseException as error:  # noqa: BLE001 - returned to the caller
            return None, error

    return await asyncio.to_thread(call)


def _current_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # no event loop runs in this thread
        return None
