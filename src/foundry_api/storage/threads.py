"""Opening files in threads, for coroutines that may be cancelled meanwhile."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

__all__ = ["finish_opening"]

_T = TypeVar("_T")


async def finish_opening(
    opening: Coroutine[Any, Any, _T], close: Callable[[_T], Awaitable[object]]
) -> _T:
    """Return what a thread opens. If the caller is cancelled meanwhile, it is closed again.

    A thread cannot be cancelled, and nobody gets what it returns to a caller that was: a file would
    stay open, or on the disk.
    """
    task = asyncio.ensure_future(opening)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        with suppress(Exception):  # it was not opened, so there is nothing to close
            await close(await asyncio.shield(task))
        raise
