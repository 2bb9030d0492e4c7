"""One thread for what blocks: files, and a journal that belongs to one thread at a time."""

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


@asynccontextmanager
async def closing_iter(items: AsyncIterable[_T]) -> AsyncGenerator[AsyncIterable[_T]]:
    """The same items; what makes them is closed at the end of the block, where it is a generator.

    Else what it holds would stay open until the garbage collector comes by.
    """
    try:
        yield items
    finally:
        if isinstance(items, AsyncGenerator):
            await items.aclose()


_P = ParamSpec("_P")


class SerialExecutor:
    """Runs functions, one after the other. A context manager, which waits for the last one."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="foundry-api-batch")

    async def __call__(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """What a function returns. One that was begun is not ended when the caller is cancelled."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, partial(function, *args, **kwargs))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.shutdown()
