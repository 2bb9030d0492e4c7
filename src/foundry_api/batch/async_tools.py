"""Helpers for asyncio: one thread for blocking calls, and closing of generators."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, ParamSpec, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, Callable

__all__ = ["SerialExecutor", "closing_iter"]


_T = TypeVar("_T")
_P = ParamSpec("_P")


@asynccontextmanager
async def closing_iter(items: AsyncIterable[_T]) -> AsyncGenerator[AsyncIterable[_T]]:
    """Close the iterable at the end of the block, if it is a generator."""
    # Otherwise a generator would keep its files open until the garbage collector finds it.
    try:
        yield items
    finally:
        if isinstance(items, AsyncGenerator):
            await items.aclose()


class SerialExecutor:
    """Runs blocking functions in one thread, one after the other."""

    def __init__(self) -> None:
        # One thread: a journal belongs to one thread at a time.
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="foundry-api-batch")

    async def __call__(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Run a function. It runs to its end even if the caller is cancelled."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, partial(function, *args, **kwargs))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown()
