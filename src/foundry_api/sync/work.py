"""What a thread has the background loop do: one task, or one stream."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from foundry_api.errors import ClientClosed

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Generator

__all__ = ["SLICE_S", "Stream", "Work"]

AHEAD = 64
"""Pieces of a stream that are read ahead of a slow reader. The engine is not held up by them,
and fast streams need no exchange between the threads for each piece."""

SLICE_S = 0.1
"""Seconds after which a wait begins anew, so that Ctrl-C ends it: Windows tells of it only between
two waits, and elsewhere one that comes just before a wait is not told of during it."""

_T = TypeVar("_T")
_U = TypeVar("_U")


class Work(Generic[_T]):
    """A task of the loop, and the mail by which another thread hears of it.

    Args:
        check: Raises when that thread would wait in vain.

    Attributes:
        begun: Whether the loop was told of it, or just about to be.
        over: Whether the task has ended.
    """

    def __init__(self, check: Callable[[], None]) -> None:
        self.begun = self.over = False
        self._check = check
        self._mail: SimpleQueue[Any] = SimpleQueue()
        self._task: asyncio.Task[_T] | None = None

    def begin(self, call: Callable[[], Coroutine[Any, Any, _T]]) -> asyncio.Task[_T]:
        """Start the task; on the loop."""
        self._task = task = asyncio.get_running_loop().create_task(_called(call))
        task.add_done_callback(self.end)
        return task

    def end(self, task: asyncio.Task[_T] | None) -> None:
        """Tell that the task is over, or never was; on the loop."""
        if task is not None and not task.cancelled():
            task.exception()  # nobody has to ask for it: who waited may have left
        self.over = True
        self._mail.put(task)

    def give_up(self) -> None:
        """End the task, or see to it that it never begins; on the loop."""
        if self._task is not None:
            self._task.cancel()
        elif not self.over:
            self.end(None)

    def wait(self) -> None:
        """Wait until it is over."""
        while not self.over:
            self._receive()

    def wait_for_end(self, going_on: Callable[[], bool]) -> None:
        """Wait until it is over, while there is a loop that could end it."""
        while not self.over and going_on():
            with suppress(Empty):
                self._mail.get(timeout=SLICE_S)

    def outcome(self) -> _T:
        """Of a task that is over, what it returned or raised."""
        task, self._task = self._task, None
        if task is None or task.cancelled():
            raise ClientClosed("the client was closed during the call")
        try:
            return task.result()
        finally:
            del task  # its error has this frame, which would have its error

    def _receive(self) -> Any:
        while True:
            try:
                return self._mail.get(timeout=SLICE_S)
            except Empty:
                self._check()


async def _called(call: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    """Call it where what it refuses at once is an error of the task, too."""
    return await call()


class Stream(Work[None], Generic[_U]):
    """A task that reads a generator to its end: as in `async for`, all of it in one task.

    Args:
        check: As above.
        source: What to read.
    """

    def __init__(self, check: Callable[[], None], source: AsyncGenerator[_U]) -> None:
        super().__init__(check)
        self._source = source
        self._go_on = asyncio.Event()

    async def pump(self) -> None:
        """Send every piece; on the loop."""
        sent = 0
        async with aclosing(self._source) as source:
            async for piece in source:
                self._mail.put((piece,))
                sent += 1
                if sent % AHEAD == 0:
                    await self._go_on.wait()
                    self._go_on.clear()

    def pieces(self, post: Callable[[Callable[[], object]], None]) -> Generator[_U]:
        """Receive every piece.

        Args:
            post: Calls a function on the loop.
        """
        taken = 0
        while isinstance(mail := self._receive(), tuple):
            yield mail[0]
            taken += 1
            if taken % AHEAD == 0:
                post(self._go_on.set)
        self.outcome()
