"""Blocking work that may never end, such as a look at a network drive that went away."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, TypeVar

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

    def run() -> None:
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 - it is the waiting check's
            _tell(loop, lambda failure=error: outcome.set_exception(failure), outcome)
        else:
            _tell(loop, lambda: outcome.set_result(result), outcome)

    threading.Thread(target=run, name="doctor", daemon=True).start()
    return await outcome


def _tell(
    loop: asyncio.AbstractEventLoop, settle: Callable[[], None], outcome: asyncio.Future[_T]
) -> None:
    def unless_late() -> None:
        if not outcome.done():
            settle()

    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
        loop.call_soon_threadsafe(unless_late)
