"""Coroutines run by a thread in the background, for callers without an event loop."""

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

    The thread starts with the first call. It ends with `close`, with the last reference to this
    object, or with the interpreter, whatever comes first.

    Args:
        close: Awaited on the loop before it ends.
    """

    def __init__(self, close: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._close = close
        self._lock = threading.RLock()
        self._thread: LoopThread | None = None
        self._closed = False

    def run(self, call: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """Call a coroutine function on the loop, in the caller's context, and wait for its result.

        When the wait is interrupted, the coroutine is cancelled and over before this returns.

        Raises:
            ClientClosed: It is closed, was closed meanwhile, or belongs to another process.
            InvalidRequest: The caller is the loop's own thread.
        """
        thread = self._ensure_started()
        work: LoopTask[_T] = LoopTask(thread.check_caller)
        try:
            thread.start(work, call)
            work.wait()
        except BaseException:  # Ctrl-C
            thread.cancel(work)
            raise
        return work.get_result()

    def iterate(self, source: Callable[[], AsyncGenerator[_T]]) -> Generator[_T]:
        """Call an async generator function on the loop, and read it from this thread.

        What it refuses is raised at once. Leaving the generator early closes the other one.

        Raises:
            ClientClosed: As `run`.
            InvalidRequest: As `run`.
        """

        async def call_source() -> AsyncGenerator[_T]:
            return source()

        return self._iterate(self.run(call_source))

    def close(self) -> None:
        """End the calls and the thread. Once more does nothing."""
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
            # Without waiting: who drops a stream may be the garbage collector, in any thread.
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
                # Not at exit, where the thread itself waits until it is over.
                weakref.finalize(self, self._thread.stop).atexit = False
            return self._thread
