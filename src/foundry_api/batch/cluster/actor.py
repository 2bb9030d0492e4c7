"""What an actor does: one engine, which answers the lines of all the blocks that come."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Protocol

from foundry_api.types.errors import BatchError, FoundryError, ServiceError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from foundry_api.batch.cluster.messages import Seat, Who
    from foundry_api.batch.engine import BatchEngine, EngineState
    from foundry_api.batch.types import Finished, Work

__all__ = ["DeskCalls", "Station"]

GATHER_S = 0.1
"""Lines that are answered within it are delivered together: each delivery is work for three
processes."""

HURRY_S = 0.01
"""The same where no further lines wait here, so that the next ones come soon."""


class DeskCalls(Protocol):
    """What an actor asks of the desk; see there."""

    async def seat(self, who: Who, /) -> Seat | None:
        """Wait for something to work with."""
        ...

    async def take(self, number: int, actor: str, /) -> Sequence[Work]:
        """The lines of a block."""
        ...

    async def deliver(
        self, actor: str, finished: Sequence[Finished], state: EngineState, /
    ) -> None:
        """Give answers."""
        ...

    async def attend(self, actor: str, state: EngineState, /) -> bool:
        """Tell how the engine is; whether it is over."""
        ...

    async def leave(self, actor: str, error: FoundryError, /) -> None:
        """Give the lines back."""
        ...

    async def fail(self, error: FoundryError, /) -> None:
        """End the run."""
        ...


class Station:
    """Answers blocks, several at once.

    The engine sees one stream of lines over its whole life: what it learns of its service, of lines
    that kill it and of lines that are alike holds beyond a block.

    Args:
        desk: Where the lines lie.
        who: The actor.
        engine: Opens the engine for a seat.
    """

    def __init__(
        self,
        desk: DeskCalls,
        who: Who,
        engine: Callable[[Seat], AbstractAsyncContextManager[BatchEngine]],
    ) -> None:
        self._desk = desk
        self._who = who
        self._open = engine
        self._coming: asyncio.Queue[Work] = asyncio.Queue()
        self._waiting: dict[int, asyncio.Future[None]] = {}
        self._gathered: list[Finished] = []
        self._some = asyncio.Event()
        self._ended = asyncio.Event()

    async def answer(self, number: int) -> None:
        """Take a block, and wait until each of its lines was answered here, or is not wanted."""
        works = await self._desk.take(number, self._who.actor)
        if self._ended.is_set():
            return
        for work in works:
            if work.line.index not in self._waiting:
                self._waiting[work.line.index] = asyncio.get_running_loop().create_future()
                self._coming.put_nowait(work)
        await asyncio.gather(*(self._waiting[work.line.index] for work in works))

    async def live(self) -> None:
        """Work until the desk says that it is over. To be called once."""
        try:
            seat = await self._desk.seat(self._who)
            if seat is not None:
                async with self._open(seat) as engine:
                    await self._work(engine)
        except Exception as error:
            await self._desk.fail(_unforeseen(self._who, error))
            raise
        finally:
            self._ended.set()
            self._release(tuple(self._waiting))

    async def _work(self, engine: BatchEngine) -> None:
        tasks = {
            asyncio.create_task(self._ask(engine)),
            asyncio.create_task(self._deliver(engine)),
            asyncio.create_task(self._attend(engine)),
        }
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, engine: BatchEngine) -> None:
        try:
            async with aclosing(engine.answers(self._works())) as answers:
                async for finished in answers:
                    self._gathered.append(finished)
                    self._some.set()
        except FoundryError as error:
            await self._give_up(error)

    async def _give_up(self, error: FoundryError) -> None:
        """Others have the lines; what one actor's caller got wrong, all of them would."""
        if isinstance(error, ServiceError):
            await self._desk.leave(self._who.actor, error)
        else:
            await self._desk.fail(error)
        self._release(tuple(self._waiting))
        await self._ended.wait()

    async def _works(self) -> AsyncGenerator[Work]:
        while True:
            yield await self._coming.get()

    async def _deliver(self, engine: BatchEngine) -> None:
        while True:
            await self._some.wait()
            await asyncio.sleep(GATHER_S if engine.state().queued else HURRY_S)
            self._some.clear()
            finished, self._gathered = self._gathered, []
            await self._desk.deliver(self._who.actor, finished, engine.state())
            self._release([each.index for each in finished])

    async def _attend(self, engine: BatchEngine) -> None:
        while not await self._desk.attend(self._who.actor, engine.state()):
            pass

    def _release(self, indexes: Sequence[int]) -> None:
        for index in indexes:
            future = self._waiting.pop(index, None)
            if future is not None and not future.done():
                future.set_result(None)


def _unforeseen(who: Who, error: Exception) -> FoundryError:
    if isinstance(error, FoundryError):
        return error
    return BatchError(f"an actor on {who.host} failed: {type(error).__name__}: {error}")
