"""Run coroutines on an event loop in a background thread, for callers without a loop."""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Any, TypeVar

from foundry_api.client.sync.loop_thread import LoopStream, LoopTask, LoopThread
from foundry_api.types.errors import ClientClosed

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Generator

__all__ = ["BackgroundLoop"]

_T = TypeVar("_T")


class BackgroundLoop:
    """Runs coroutines for threads that wait for them.

    The thread starts with the first call. It ends with `close`, when this object is no longer
    referenced, or with the interpreter.

    Args:
        close: Awaited on the loop before it stops.
    """

    def __init__(self, close: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._close = close
        self._lock = threading.RLock()
        self._thread: LoopThread | None = None
        self._closed = False

    def run(self, call: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """Run a coroutine function on the loop, in the caller's context, and return its result.

        If the wait is interrupted, the coroutine is cancelled and has ended when this returns.

        Raises:
            ClientClosed: The client is closed, or belongs to another process.
            InvalidRequest: The caller is the loop's own thread.
        """
        thread = self._ensure_started()
        task: LoopTask[_T] = LoopTask(thread.check_caller)
        try:
            thread.start(task, call)
            task.wait()
        except BaseException:  # Ctrl-C
            thread.cancel(task)
            raise
        return task.get_result()

    def iterate(self, source: Callable[[], AsyncGenerator[_T]]) -> Generator[_T]:
        """Run an async generator function on the loop and iterate over it in this thread.

        Errors of the function itself are raised at once. Closing the returned generator closes the
        asynchronous one. Raises the errors of `run`.
        """

        async def call_source() -> AsyncGenerator[_T]:
            return source()

        return self._iterate(self.run(call_source))

    def close(self) -> None:
        """Cancel running calls and stop the thread."""
        with self._lock:
            self._closed = True
            thread = self._thread
        if thread is not None:
            thread.close()

    def _iterate(self, source: AsyncGenerator[_T]) -> Generator[_T]:
        thread = self._ensure_started()
        stream = LoopStream(thread.check_caller, source)
        try:
            thread.start(stream, stream.send_items)
            yield from stream.iterate(thread.call_soon)
        except GeneratorExit:
            # Without waiting, because the garbage collector may drop a stream in any thread.
            thread.call_soon(stream.cancel)
            raise
        except BaseException:
            thread.cancel(stream)
            raise

    def _ensure_started(self) -> LoopThread:
        thread = self._thread
        if thread is None:
            thread = self._start()
        thread.check_caller()
        return thread

    def _start(self) -> LoopThread:
        with self._lock:
            if self._closed:
                raise ClientClosed("the client is closed")
            if self._thread is None:
                self._thread = LoopThread(self._close)
                # Not at exit, where the thread waits for itself to end.
                weakref.finalize(self, self._thread.stop).atexit = False
            return self._thread
