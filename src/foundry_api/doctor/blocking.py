"""Blocking work that may never end, such as a look at a network drive that went away."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["in_thread"]

_T = TypeVar("_T")


async def in_thread(work: Callable[[], _T]) -> _T:
    """What blocking work returns or raises.

    The thread is a daemon. `asyncio.to_thread` has threads that the loop and the interpreter wait
    for when they end, so that a check that ran out of time would hold the command up after all.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[_T] = loop.create_future()

    def settle(result: _T | None, failure: BaseException | None) -> None:
        if outcome.done():
            return  # the check ran out of time
        if failure is not None:
            outcome.set_exception(failure)
        else:
            outcome.set_result(cast("_T", result))

    def run() -> None:
        result, failure = None, None
        try:
            result = work()
        except Exception as error:  # noqa: BLE001 - it is raised where the work is waited for
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=run, name="doctor", daemon=True).start()
    return await outcome
