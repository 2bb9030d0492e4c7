"""The thread in the background, its event loop, and their end."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import aclosing, suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

from foundry_api.types.errors import ClientClosed, InvalidRequest

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Generator

__all__ = ["SLICE_S", "LoopThread", "Stream", "Work"]


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


EXIT_S = 10.0
"""Seconds that closing may take when the interpreter leaves and nobody closed the client."""

_P = ParamSpec("_P")


class LoopThread:
    """The thread. It knows nothing of those who use it, so that their end can end it."""

    def __init__(self, close: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._close = close
        self._lock = threading.RLock()  # a finalizer may want it while its thread has it
        self._open = True
        self._failure: BaseException | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._pid = os.getpid()
        self._loop = asyncio.new_event_loop()
        self._workers = _Workers()
        self._loop.set_default_executor(self._workers)
        self._stopping = asyncio.Event()
        self._thread = threading.Thread(target=self._main, name="foundry-api", daemon=True)
        self._thread.start()
        atexit.register(self._at_exit)

    def check_caller(self) -> None:
        """Refuse who would wait for ever."""
        if self._is_left_behind():
            raise ClientClosed(
                "the client was used before this process was forked, and its thread is not here",
                hint="Create the client in the process that uses it.",
            )
        if threading.get_ident() == self._thread.ident:
            raise InvalidRequest(
                "a callback of a FoundryClient called that client, and would wait for itself",
                hint="Use another client there: listeners, hooks and callbacks run on the client's "
                "own thread.",
            )

    def start(self, work: Work[_T], call: Callable[[], Coroutine[Any, Any, _T]]) -> None:
        """Begin some work on the loop, in a copy of the caller's context."""
        with self._lock:
            if not self._open:
                raise ClientClosed("the client is closed")
            work.begun = True  # before it is: Ctrl-C may come between the two
            self._loop.call_soon_threadsafe(self._begin, work, call)

    def end(self, work: Work[Any]) -> None:
        """Cancel some work, and wait until it is over."""
        if work.begun and not self._is_left_behind():
            self.post(work.give_up)
            work.wait_for_end(self._thread.is_alive)

    def post(self, function: Callable[[], object]) -> None:
        """Call a function on the loop soon, if that still runs."""
        if self._is_left_behind():
            return
        with self._lock:
            if self._open:
                self._loop.call_soon_threadsafe(function)

    def stop(self) -> None:
        """End the loop soon."""
        if self._is_left_behind():
            return
        with self._lock:
            if self._open:
                self._open = False
                self._loop.call_soon_threadsafe(self._stopping.set)

    def close(self) -> None:
        """End the loop, wait for that, and raise what went wrong. A forked process has none."""
        if self._is_left_behind():
            return
        self.check_caller()
        self.stop()
        while self._thread.is_alive():
            self._thread.join(SLICE_S)
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _is_left_behind(self) -> bool:
        return self._pid != os.getpid()

    def _begin(self, work: Work[_T], call: Callable[[], Coroutine[Any, Any, _T]]) -> None:
        if work.over:
            return
        if not self._open:
            work.end(None)
            return
        task = work.begin(call)
        self._tasks.add(task)  # the loop itself would let go of one that nobody waits for
        task.add_done_callback(self._tasks.discard)

    def _main(self) -> None:
        try:
            self._loop.run_until_complete(self._live())
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            self._failure = error
        with self._lock:
            self._open = False
        # As asyncio's own runner ends, but for its way to wait for the workers: that needs another
        # thread, and from Python 3.12 on none can be started while the interpreter leaves.
        self._loop.run_until_complete(self._wind_up())
        self._workers.shutdown()
        self._loop.close()
        atexit.unregister(self._at_exit)

    async def _live(self) -> None:
        await self._stopping.wait()
        await self._close()

    async def _wind_up(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._loop.shutdown_asyncgens()

    def _at_exit(self) -> None:
        self.stop()
        if not self._is_left_behind():
            self._thread.join(EXIT_S)


class _Workers(ThreadPoolExecutor):
    """Works on while the interpreter leaves, when the standard one refuses.

    An engine that was forgotten is stopped then, and threads that are not daemons still call.
    """

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """As the standard one; then in a thread of its own, or where there is none, at once."""
        try:
            return super().submit(fn, *args, **kwargs)
        except RuntimeError:
            future: Future[_T] = Future()
            work = partial(_fulfil, future, partial(fn, *args, **kwargs))
            try:
                threading.Thread(target=work, daemon=True).start()
            except RuntimeError:
                work()
            return future


def _fulfil(future: Future[_T], work: Callable[[], _T]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(work())
    except BaseException as error:  # noqa: BLE001 - raised where it is waited for
        future.set_exception(error)
