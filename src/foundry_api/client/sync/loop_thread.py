"""The background thread of the blocking client and its event loop."""

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


# Items of a stream that are read ahead of a slow consumer. The engine is not slowed down, and the
# threads of a fast stream need not synchronize for each item.
PREFETCH = 64

# A wait is restarted after this time so that Ctrl-C ends it: Windows handles it only between two
# waits, and elsewhere one that arrives just before a wait is not handled during it.
POLL_INTERVAL_S = 0.1

# How long closing may take at exit if the client was not closed.
EXIT_TIMEOUT_S = 10.0

_T = TypeVar("_T")
_U = TypeVar("_U")
_P = ParamSpec("_P")


class LoopTask(Generic[_T]):
    """A task on the loop, and the queue through which another thread waits for it.

    Args:
        check: Raises an error if that thread would wait for ever.

    Attributes:
        is_started: Whether the task was or is about to be scheduled on the loop.
        is_done: Whether the task has ended.
    """

    def __init__(self, check: Callable[[], None]) -> None:
        self.is_started = self.is_done = False
        self._check = check
        self._queue: SimpleQueue[Any] = SimpleQueue()
        self._task: asyncio.Task[_T] | None = None

    def start(self, call: Callable[[], Coroutine[Any, Any, _T]]) -> asyncio.Task[_T]:
        self._task = task = asyncio.get_running_loop().create_task(_run_call(call))
        task.add_done_callback(self.finish)
        return task

    def finish(self, task: asyncio.Task[_T] | None) -> None:
        if task is not None and not task.cancelled():
            # Marks the exception as retrieved: the waiting thread may have been interrupted.
            task.exception()
        self.is_done = True
        # Only to end the wait. A reference to the task, left here by a thread that saw it done
        # before it waited, would make its error part of a cycle.
        self._queue.put(None)

    def cancel(self) -> None:
        """Cancel the task, or keep it from starting."""
        if self._task is not None:
            self._task.cancel()
        elif not self.is_done:
            self.finish(None)

    def wait(self) -> None:
        while not self.is_done:
            self._next_message()

    def wait_while(self, is_running: Callable[[], bool]) -> None:
        """Wait for the task to end, as long as its loop is running."""
        while not self.is_done and is_running():
            with suppress(Empty):
                self._queue.get(timeout=POLL_INTERVAL_S)

    def get_result(self) -> _T:
        task, self._task = self._task, None
        if task is None or task.cancelled():
            raise ClientClosed("the client was closed during the call")
        try:
            return task.result()
        finally:
            # The traceback of its error refers to this frame: a reference back would be a cycle.
            del task

    def _next_message(self) -> Any:
        while True:
            try:
                return self._queue.get(timeout=POLL_INTERVAL_S)
            except Empty:
                self._check()


async def _run_call(call: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
    # Called inside the task, so that an error of the call itself is an error of the task.
    return await call()


class LoopStream(LoopTask[None], Generic[_U]):
    """A task that reads an asynchronous generator to its end.

    One task reads all of it, as `async for` does: a time-out in it belongs to one task.
    """

    def __init__(self, check: Callable[[], None], source: AsyncGenerator[_U]) -> None:
        super().__init__(check)
        self._source = source
        self._may_continue = asyncio.Event()

    async def send_items(self) -> None:
        sent = 0
        async with aclosing(self._source) as source:
            async for item in source:
                self._queue.put((item,))
                sent += 1
                if sent % PREFETCH == 0:
                    await self._may_continue.wait()
                    self._may_continue.clear()

    def iterate(self, call_soon: Callable[[Callable[[], object]], None]) -> Generator[_U]:
        received = 0
        while isinstance(message := self._next_message(), tuple):
            yield message[0]
            received += 1
            if received % PREFETCH == 0:
                call_soon(self._may_continue.set)
        self.get_result()


class LoopThread:
    """The thread and its loop.

    It has no reference to the `BackgroundLoop`, whose finalizer stops it.
    """

    def __init__(self, close: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._close = close
        self._lock = threading.RLock()  # a finalizer may run while its thread holds the lock
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
        """Raise an error if the calling thread would wait for ever."""
        if self._is_forked():
            raise ClientClosed(
                "the client was used before this process was forked, and its thread is not here",
                hint="Create the client in the process that uses it.",
            )
        if threading.get_ident() == self._thread.ident:
            raise InvalidRequest(
                "a callback of a FoundryClient called that client and would wait for itself",
                hint="Use another client there: listeners, hooks and callbacks run on the client's "
                "own thread.",
            )

    def start(self, task: LoopTask[_T], call: Callable[[], Coroutine[Any, Any, _T]]) -> None:
        """Start a task on the loop, in a copy of the caller's context."""
        with self._lock:
            if not self._open:
                raise ClientClosed("the client is closed")
            task.is_started = True  # first, as Ctrl-C may come between the two statements
            self._loop.call_soon_threadsafe(self._start_task, task, call)

    def cancel(self, task: LoopTask[Any]) -> None:
        """Cancel a task and wait for it to end."""
        if task.is_started and not self._is_forked():
            self.call_soon(task.cancel)
            task.wait_while(self._thread.is_alive)

    def call_soon(self, function: Callable[[], object]) -> None:
        """Call a function on the loop, if it still runs."""
        if self._is_forked():
            return
        with self._lock:
            if self._open:
                self._loop.call_soon_threadsafe(function)

    def stop(self) -> None:
        """Stop the loop without waiting for it."""
        if self._is_forked():
            return
        with self._lock:
            if self._open:
                self._open = False
                self._loop.call_soon_threadsafe(self._stopping.set)

    def close(self) -> None:
        """Stop the loop, wait for it, and raise the error that ended it."""
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

    def _start_task(self, task: LoopTask[_T], call: Callable[[], Coroutine[Any, Any, _T]]) -> None:
        if task.is_done:
            return
        if not self._open:
            task.finish(None)
            return
        running = task.start(call)
        self._tasks.add(running)  # the loop has only weak references to its tasks
        running.add_done_callback(self._tasks.discard)

    def _main(self) -> None:
        try:
            self._loop.run_until_complete(self._run())
        except BaseException as error:  # noqa: BLE001 - raised in the waiting thread
            self._failure = error
        with self._lock:
            self._open = False
        # Like asyncio.Runner, except for how it waits for its workers: that takes another thread,
        # and from Python 3.12 on none can be started while the interpreter exits.
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
            self._thread.join(EXIT_TIMEOUT_S)


class _ExitSafeExecutor(ThreadPoolExecutor):
    """An executor that also works while the interpreter exits.

    At that time an engine that was not closed is stopped, and non-daemon threads still make calls.
    """

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        try:
            return super().submit(fn, *args, **kwargs)
        except RuntimeError:  # at exit: use a new thread, or this one if none can be started
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
    except BaseException as error:  # noqa: BLE001 - raised in the waiting thread
        future.set_exception(error)
