"""The driver's lines, as blocks: as many as the cluster wants, when it wants them."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from foundry_api.batch.closing import closed_after
from foundry_api.batch.cluster.change import Change
from foundry_api.batch.waiting import Waiting

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable

    from foundry_api.batch.lines import Work

__all__ = ["blocks"]

GATHER_S = 0.05
"""How long a block waits for further lines after its first one, where they come slowly."""


async def blocks(
    works: AsyncIterable[Work],
    room: Callable[[], Awaitable[int]],
    model_of: Callable[[Work], str],
) -> AsyncGenerator[tuple[Work, ...]]:
    """Lines in blocks, those for the same model together.

    Args:
        works: The lines.
        room: Waits until a block is wanted, and says of how many lines; 0 ends it.
        model_of: The model that a line is for.
    """
    shelf = _Shelf(model_of)
    reading = asyncio.create_task(shelf.fill(works))
    try:
        while lines := await room():
            block = await shelf.take(lines)
            if not block:
                await reading  # raises what the reading failed of
                return
            yield block
    finally:
        reading.cancel()
        with suppress(asyncio.CancelledError):
            await reading


class _Shelf:
    """Lines that were read and wait."""

    def __init__(self, model_of: Callable[[Work], str]) -> None:
        self._model_of = model_of
        self._waiting: Waiting[Work] = Waiting()
        self._change = Change()
        self._full = False

    async def fill(self, works: AsyncIterable[Work]) -> None:
        try:
            async with closed_after(works):
                async for work in works:
                    self._waiting.put(work, self._model_of(work))
                    self._change.tell()
                    await self._change.until(lambda: len(self._waiting) < self._waiting.bound)
        finally:
            self._full = True
            self._change.tell()

    async def take(self, lines: int) -> tuple[Work, ...]:
        await self._change.until(lambda: self._full or len(self._waiting))
        with suppress(TimeoutError):
            async with asyncio.timeout(GATHER_S):
                await self._change.until(lambda: self._full or len(self._waiting) >= lines)
        taken = [work for _ in range(lines) if (work := self._waiting.take()) is not None]
        self._change.tell()
        return tuple(taken)
