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

__all__ = ["POLL_INTERVAL_S", "LoopStream", "LoopTask", "LoopThread"]


PREFETCH = 64
"""Pieces of a stream that are read ahead of a slow reader. The engine is not held up by them,
and fast streams need no exchange between the threads for each piece."""

POLL_INTERVAL_S = 0.1
"""Seconds after which a wait begins anew, so that Ctrl-C ends it: Windows tells of it only between
two waits, and elsewhere one that comes just before a wait is not told of during it."""

_T = TypeVar("_T")
_U = TypeVar("_U")


class LoopTask(Generic[_T]):
    """A task of the loop, and the mail by which another thread hears of it.

    Args:
        check: Raises when that thread would wait in vain.

    Attributes:
        is_started: Whether the loop was told of it, or just about to be.
        is_done: Whether the task has ended.
    """

    def __init__(self, check: Callable[[], None]) -> None:
        self.is_started = self.is_done = False
        self._check = check
        self._queue: SimpleQueue[Any] = SimpleQueue()
        self._task: asyncio.Task[_T] | None = None

    def start(self, call: Callable[[], Coroutine[Any, Any, _T]]) -> asyncio.Task[_T]:
        """Start the task; on the loop."""
        self._task = task = asyncio.get_running_loop().create_task(_run_call(call))
        task.add_done_callback(self.finish)
        return task

    def finish(self, task: asyncio.Task[_T] | None) -> None:
        """Tell that the task is over, or never was; on the loop."""
        if task is not None and not task.cancelled():
            task.exception()  # nobody has to ask for it: who waited may have left
        self.is_done = True
        self._queue.put(task)

    def cancel(self) -> None:
        """End the task, or see to it that it never begins; on the loop."""
        if self._task is not None:
            self._task.cancel()
        elif not self.is_done:
            self.finish(None)

    def wait(self) -> None:
        """Wait until it is over."""
        while not self.is_done:
            self._next_message()

    def wait_while(self, is_running: Callable[[], bool]) -> None:
        """Wait until it is over, while there is a loop that could end it."""
        while not self.is_done and is_running():
            with suppress(Empty):
                self._queue.get(timeout=POLL_INTERVAL_S)

    def get_result(self) -> _T:
        """Of a task that is over, what it returned or raised."""
        task, self._task = self._task, None
        if task is None or task.cancelled():
            raise ClientClosed("the client was closed during the call")
        try:
            return task.result()
        finally:
            del task  # its error has this frame, which would have its error

    def _next_message(self) -> Any:
        while True:
            try:
                return self._queue.get(timeout=POLL_INTERVAL_S)
            except Empty:
                self._check()


async def _run_call(call: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    """Call it where what it refuses at once is an error of the task, too."""
    return await call()


class LoopStream(LoopTask[None], Generic[_U]):
    """A task that reads a generator to its end: as in `async for`, all of it in one task.

    Args:
        check: As above.
        source: What to read.
    """

    def __init__(self, check: Callable[[], None], source: AsyncGenerator[_U]) -> None:
        super().__init__(check)
        self._source = source
        self._may_continue = asyncio.Event()

    async def send_items(self) -> None:
        """Send every piece; on the loop."""
        sent = 0
        async with aclosing(self._source) as source:
            async for item in source:
                self._queue.put((item,))
                sent += 1
                if sent % PREFETCH == 0:
                    await self._may_continue.wait()
                    self._may_continue.clear()

    def iterate(self, call_soon: Callable[[Callable[[], object]], None]) -> Generator[_U]:
        """Receive every piece.

        Args:
            call_soon: Calls a function on the loop.
        """
        received = 0
        while isinstance(message := self._next_message(), tuple):
            yield message[0]
            received += 1
            if received % PREFETCH == 0:
                call_soon(self._may_continue.set)
        self.get_result()


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
        self._workers = _ExitSafeExecutor()
        self._loop.set_default_executor(self._workers)
        self._stopping = asyncio.Event()
        self._thread = threading.Thread(target=self._main, name="foundry-api", daemon=True)
        self._thread.start()
        atexit.register(self._close_at_exit)

    def check_caller(self) -> None:
        """Refuse who would wait for ever."""
        if self._is_forked():
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

    def start(self, work: LoopTask[_T], call: Callable[[], Coroutine[Any, Any, _T]]) -> None:
        """Begin some work on the loop, in a copy of the caller's context."""
        with self._lock:
            if not self._open:
                raise ClientClosed("the client is closed")
            work.is_started = True  # before it is: Ctrl-C may come between the two
            self._loop.call_soon_threadsafe(self._start_task, work, call)

    def cancel(self, work: LoopTask[Any]) -> None:
        """Cancel some work, and wait until it is over."""
        if work.is_started and not self._is_forked():
            self.call_soon(work.cancel)
            work.wait_while(self._thread.is_alive)

    def call_soon(self, function: Callable[[], object]) -> None:
        """Call a function on the loop soon, if that still runs."""
        if self._is_forked():
            return
        with self._lock:
            if self._open:
                self._loop.call_soon_threadsafe(function)

    def stop(self) -> None:
        """End the loop soon."""
        if self._is_forked():
            return
        with self._lock:
            if self._open:
                self._open = False
                self._loop.call_soon_threadsafe(self._stopping.set)

    def close(self) -> None:
        """End the loop, wait for that, and raise what went wrong. A forked process has none."""
        if self._is_forked():
            return
        self.check_caller()
        self.stop()
        while self._thread.is_alive():
            self._thread.join(POLL_INTERVAL_S)
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _is_forked(self) -> bool:
        return self._pid != os.getpid()

    def _start_task(self, work: LoopTask[_T], call: Callable[[], Coroutine[Any, Any, _T]]) -> None:
        if work.is_done:
            return
        if not self._open:
            work.finish(None)
            return
        task = work.start(call)
        self._tasks.add(task)  # the loop itself would let go of one that nobody waits for
        task.add_done_callback(self._tasks.discard)

    def _main(self) -> None:
        try:
            self._loop.run_until_complete(self._run())
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            self._failure = error
        with self._lock:
            self._open = False
        # As asyncio's own runner ends, but for its way to wait for the workers: that needs another
        # thread, and from Python 3.12 on none can be started while the interpreter leaves.
        self._loop.run_until_complete(self._shutdown())
        self._workers.shutdown()
        self._loop.close()
        atexit.unregister(self._close_at_exit)

    async def _run(self) -> None:
        await self._stopping.wait()
        await self._close()

    async def _shutdown(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._loop.shutdown_asyncgens()

    def _close_at_exit(self) -> None:
        self.stop()
        if not self._is_forked():
            self._thread.join(EXIT_S)


class _ExitSafeExecutor(ThreadPoolExecutor):
    """Works on while the interpreter leaves, when the standard one refuses.

    An engine that was forgotten is stopped then, and threads that are not daemons still call.
    """

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """As the standard one; then in a thread of its own, or where there is none, at once."""
        try:
            return super().submit(fn, *args, **kwargs)
        except RuntimeError:
            future: Future[_T] = Future()
            work = partial(_set_result, future, partial(fn, *args, **kwargs))
            try:
                threading.Thread(target=work, daemon=True).start()
            except RuntimeError:
                work()
            return future


def _set_result(future: Future[_T], function: Callable[[], _T]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(function())
    except BaseException as error:  # noqa: BLE001 - raised where it is waited for
        future.set_exception(error)
