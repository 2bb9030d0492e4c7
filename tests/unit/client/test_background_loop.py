"""The thread that runs an event loop for synchronous callers: results, streams, shutdown."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import pytest

from foundry_api import ClientClosed, InvalidRequest
from foundry_api.client.sync.background import BackgroundLoop
from foundry_api.client.sync.loop_thread import PREFETCH, LoopTask
from service.helpers import start_program, wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator

USER: ContextVar[str] = ContextVar("user", default="no user")

posix = pytest.mark.skipif(os.name != "posix", reason="signals and fork are POSIX's")


async def do_nothing() -> None:
    pass


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "foundry-api"]


@pytest.fixture
def loop() -> Iterator[BackgroundLoop]:
    loop = BackgroundLoop(do_nothing)
    yield loop
    loop.close()
    assert not threads()


class Source:
    """A stream that counts the items sent and records whether it was closed."""

    def __init__(self, items: float = float("inf"), error: Exception | None = None) -> None:
        self.sent = 0
        self.closed = False
        self._items = items
        self._error = error

    async def __call__(self) -> AsyncGenerator[int]:
        try:
            while self.sent < self._items:
                await asyncio.sleep(0)
                self.sent += 1
                yield self.sent
            if self._error is not None:
                raise self._error
        finally:
            self.closed = True


class Endless:
    """A call that runs until it is cancelled, and whose cleanup takes 50 ms."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.ended = False

    async def __call__(self) -> None:
        self.started.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.05)
            self.ended = True


# Calls


def test_a_call_returns_its_result(loop: BackgroundLoop) -> None:
    async def double(number: int) -> int:
        await asyncio.sleep(0)
        return 2 * number

    assert loop.run(lambda: double(21)) == 42


def test_a_call_raises_its_error_with_the_original_traceback(loop: BackgroundLoop) -> None:
    async def fail() -> None:
        raise KeyError("lost")

    with pytest.raises(KeyError, match="lost") as caught:
        loop.run(fail)

    assert [entry.name for entry in caught.traceback][-1] == "fail"


def test_an_error_before_the_coroutine_exists_is_raised(loop: BackgroundLoop) -> None:
    def refuse() -> Coroutine[None, None, None]:
        raise KeyError("lost")

    with pytest.raises(KeyError, match="lost"):
        loop.run(refuse)


@pytest.mark.parametrize("is_done_before", [False, True], ids=["waits for it", "is done before"])
def test_an_error_is_not_in_a_reference_cycle(
    loop: BackgroundLoop, monkeypatch: pytest.MonkeyPatch, *, is_done_before: bool
) -> None:
    """Its frames are freed with it, not when the garbage collector runs."""
    freed = threading.Event()

    class Failure(Exception):  # built-in errors take no weak references
        def __init__(self) -> None:
            weakref.finalize(self, freed.set)

    async def fail() -> None:
        raise Failure

    wait = LoopTask.wait

    def wait_late(task: LoopTask[Any]) -> None:
        wait_until(lambda: task.is_done)
        wait(task)

    if is_done_before:
        monkeypatch.setattr(LoopTask, "wait", wait_late)
    gc.disable()
    try:
        with pytest.raises(Failure):
            loop.run(fail)
        # The thread of the loop may release the error a moment later than the caller.
        assert freed.wait(10)
    finally:
        gc.enable()


def test_a_call_sees_the_context_of_its_caller(loop: BackgroundLoop) -> None:
    async def get_user() -> str:
        return USER.get()

    token = USER.set("Ada")
    try:
        assert loop.run(get_user) == "Ada"
    finally:
        USER.reset(token)
    assert loop.run(get_user) == "no user"


def test_calls_of_several_threads_run_concurrently(loop: BackgroundLoop) -> None:
    """Each call waits at a barrier for all the others."""
    barrier = asyncio.Barrier(20)

    async def meet(number: int) -> int:
        async with barrier:
            return number

    with ThreadPoolExecutor(20) as pool:
        results = list(pool.map(lambda number: loop.run(lambda: meet(number)), range(20)))

    assert results == list(range(20))
    assert len(threads()) == 1


async def test_a_call_works_inside_a_running_event_loop(loop: BackgroundLoop) -> None:
    async def running() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    assert loop.run(running) is not asyncio.get_running_loop()


def test_a_call_from_the_loops_own_thread_is_rejected(loop: BackgroundLoop) -> None:
    """It would be a deadlock."""

    async def inside() -> None:
        loop.run(do_nothing)

    with pytest.raises(InvalidRequest, match="would wait for itself"):
        loop.run(inside)


def test_the_thread_starts_with_the_first_call() -> None:
    loop = BackgroundLoop(do_nothing)
    assert not threads()
    loop.close()
    with pytest.raises(ClientClosed, match="the client is closed"):
        loop.run(do_nothing)
    assert not threads()


# Streams


def test_a_stream_has_every_item_in_order(loop: BackgroundLoop) -> None:
    items = 5 * PREFETCH + 1
    assert list(loop.iterate(Source(items))) == list(range(1, items + 1))


def test_a_failed_stream_has_the_items_before_the_error(loop: BackgroundLoop) -> None:
    stream = loop.iterate(Source(3, error=KeyError("lost")))

    assert [next(stream) for _ in range(3)] == [1, 2, 3]
    with pytest.raises(KeyError, match="lost"):
        next(stream)
    assert list(stream) == []


def test_an_invalid_stream_raises_before_the_first_item(
    loop: BackgroundLoop,
) -> None:
    def refuse() -> AsyncGenerator[int]:
        raise InvalidRequest("no")

    with pytest.raises(InvalidRequest, match="no"):
        loop.iterate(refuse)


def test_the_prefetch_of_a_slow_reader_is_bounded(loop: BackgroundLoop) -> None:
    source = Source()
    stream = loop.iterate(source)

    assert next(stream) == 1
    wait_until(lambda: source.sent == PREFETCH)
    loop.run(lambda: asyncio.sleep(0.05))
    assert source.sent == PREFETCH
    assert [next(stream) for _ in range(PREFETCH)] == list(range(2, PREFETCH + 2))
    stream.close()


def break_out(start: Callable[[], Iterator[int]]) -> None:
    for item in start():
        if item == 3:
            break


def close(start: Callable[[], Iterator[int]]) -> None:
    stream = start()
    next(stream)
    stream.close()  # type: ignore[attr-defined] # it is a generator


def abandon_in_a_cycle(start: Callable[[], Iterator[int]]) -> None:
    cycle: list[object] = [start()]
    next(cycle[0])  # type: ignore[call-overload] # it is the iterator
    cycle.append(cycle)
    del cycle
    gc.collect()


def fail(start: Callable[[], Iterator[int]]) -> None:
    def divide() -> None:
        for item in start():
            item / 0

    with pytest.raises(ZeroDivisionError):
        divide()


@pytest.mark.parametrize("stop_reading", [break_out, close, abandon_in_a_cycle, fail])
def test_a_stream_that_is_left_early_is_closed(
    loop: BackgroundLoop, stop_reading: Callable[[Callable[[], Iterator[int]]], None]
) -> None:
    source = Source()
    stop_reading(lambda: loop.iterate(source))
    wait_until(lambda: source.closed)


def test_a_stream_collected_on_the_loops_thread_is_closed(
    loop: BackgroundLoop,
) -> None:
    source = Source()
    cycle: list[object] = [loop.iterate(source)]
    next(cycle[0])  # type: ignore[call-overload] # it is the iterator
    cycle.append(cycle)
    del cycle

    async def collect() -> None:
        gc.collect()

    loop.run(collect)
    wait_until(lambda: source.closed)


def test_a_stream_is_read_in_one_task_and_one_context(loop: BackgroundLoop) -> None:
    """Generators may keep timeouts, task groups and context variables open between items."""

    async def with_context() -> AsyncGenerator[str]:
        token = USER.set("Ada")
        async with asyncio.timeout(60), asyncio.TaskGroup():
            for _ in range(3):
                await asyncio.sleep(0)
                yield USER.get()
        USER.reset(token)

    assert list(loop.iterate(with_context)) == ["Ada"] * 3


# Interruption and shutdown


@posix
def test_ctrl_c_ends_the_call_before_it_is_raised(loop: BackgroundLoop) -> None:
    call = Endless()

    def interrupt() -> None:
        call.started.wait()
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        loop.run(call)
    thread.join()

    assert call.ended


@posix
def test_ctrl_c_between_submit_and_start_ends_the_call(
    loop: BackgroundLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interval is too short to hit, so a patched `call_soon_threadsafe` raises Ctrl-C."""
    loop.run(do_nothing)
    call = Endless()
    thread = loop._thread
    assert thread is not None
    call_soon_threadsafe = thread._loop.call_soon_threadsafe

    def interrupted(*arguments: Any) -> None:
        monkeypatch.undo()
        call_soon_threadsafe(*arguments)
        call.started.wait()
        raise KeyboardInterrupt

    monkeypatch.setattr(thread._loop, "call_soon_threadsafe", interrupted)
    with pytest.raises(KeyboardInterrupt):
        loop.run(call)
    assert call.ended


@posix
def test_ctrl_c_before_submit_does_not_start_the_call(
    loop: BackgroundLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop.run(do_nothing)
    call = Endless()
    thread = loop._thread
    assert thread is not None

    def interrupted(*_: Any) -> None:
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(thread._loop, "call_soon_threadsafe", interrupted)
    with pytest.raises(KeyboardInterrupt):
        loop.run(call)
    assert not call.started.is_set()


@posix
def test_ctrl_c_ends_a_stream(loop: BackgroundLoop) -> None:
    call = Endless()

    async def endless() -> AsyncGenerator[int]:
        yield 1
        await call()

    def interrupt() -> None:
        call.started.wait()
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    stream = loop.iterate(endless)
    with pytest.raises(KeyboardInterrupt):
        list(stream)
    thread.join()

    wait_until(lambda: call.ended)


def test_close_ends_calls_and_streams_with_client_closed() -> None:
    loop = BackgroundLoop(do_nothing)
    call, source = Endless(), Source()
    stream = loop.iterate(source)
    next(stream)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(loop.run, call)
        call.started.wait()

        loop.close()

        with pytest.raises(ClientClosed, match="closed during the call"):
            waiting.result()
    assert (call.ended, source.closed) == (True, True)
    with pytest.raises(ClientClosed):
        list(stream)
    with pytest.raises(ClientClosed):
        loop.run(do_nothing)
    with pytest.raises(ClientClosed):
        loop.iterate(source)
    assert not threads()
    loop.close()


def test_an_error_of_close_is_raised() -> None:
    async def fail() -> None:
        raise OSError("still in use")

    loop = BackgroundLoop(fail)
    loop.run(do_nothing)

    with pytest.raises(OSError, match="still in use"):
        loop.close()
    assert not threads()


def test_system_exit_in_a_call_ends_the_loop_and_all_calls() -> None:
    loop = BackgroundLoop(do_nothing)
    call = Endless()

    async def exit_program() -> None:
        raise SystemExit(3)

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(loop.run, call)
        call.started.wait()
        with pytest.raises(SystemExit):
            loop.run(exit_program)
        with pytest.raises(ClientClosed):
            waiting.result()
    wait_until(lambda: not threads())
    with pytest.raises(ClientClosed):
        loop.run(do_nothing)


def test_the_thread_ends_with_the_last_reference() -> None:
    closed = threading.Event()

    async def close() -> None:
        closed.set()

    loop = BackgroundLoop(close)
    loop.run(do_nothing)
    del loop

    assert closed.wait(10)
    wait_until(lambda: not threads())


def test_a_stream_keeps_the_loop_of_a_deleted_client() -> None:
    assert list(BackgroundLoop(do_nothing).iterate(Source(3))) == [1, 2, 3]
    wait_until(lambda: not threads())


PROGRAM = """
import asyncio, atexit, os, sys, threading
from foundry_api.types.errors import FoundryError
from foundry_api.client.sync.background import BackgroundLoop

async def close():
    print(await asyncio.to_thread(lambda: "closed"), flush=True)

async def call():
    return await asyncio.to_thread(lambda: "called")

async def endless():
    while True:
        yield "item"
        await asyncio.sleep(0)

loop = BackgroundLoop(close)

def no_more_threads():
    def start(self):
        raise RuntimeError("can't create new thread at interpreter shutdown")
    threading.Thread.start = start

def late():
    threading.main_thread().join()
    print(loop.run(call))
"""


@pytest.mark.parametrize(
    ("ending", "output", "code"),
    [
        ("print(loop.run(call))", "called closed", 0),
        ("stream = loop.iterate(endless); print(next(stream))", "item closed", 0),
        ("loop.run(call); sys.exit(3)", "closed", 3),
        ("loop.run(call); loop.close(); loop.close()", "closed", 0),
        ("pass", "", 0),
        ("threading.Thread(target=late).start()", "called closed", 0),
        ("loop.run(call); atexit.register(no_more_threads)", "closed", 0),
    ],
    ids=[
        "call",
        "stream",
        "exit",
        "closed",
        "unused",
        "thread outlives the main thread",
        "Python 3.12 and later",
    ],
)
def test_the_client_is_closed_at_exit(ending: str, output: str, code: int) -> None:
    with start_program(PROGRAM + ending) as program:
        stdout, stderr = program.communicate(timeout=30)
    assert (stdout.split(), stderr, program.returncode) == (output.split(), "", code)


FORK_MESSAGE = (
    "the client was used before this process was forked, and its thread is not here. "
    "Create the client in the process that uses it."
)


@posix
def test_a_forked_process_reports_that_the_thread_is_missing() -> None:
    """Its exit does not wait for the thread and does not close the parent's client."""
    source = """
print(loop.run(call), flush=True)
stream = loop.iterate(endless)
next(stream)
if os.fork() == 0:
    for use in (lambda: loop.run(call), lambda: list(stream)):
        try:
            use()
        except FoundryError as error:
            print(error, flush=True)
    loop.close()
    sys.exit()
os.wait()
print(loop.run(call), flush=True)
"""
    with start_program(PROGRAM + source) as program:
        stdout, stderr = program.communicate(timeout=30)
    assert stdout.splitlines() == [
        "called",
        *[FORK_MESSAGE] * 2,
        "called",
        "closed",
    ]
    assert (stderr, program.returncode) == ("", 0)


@posix
def test_a_client_first_used_after_a_fork_works() -> None:
    source = "if os.fork() == 0:\n    print(loop.run(call))\n    sys.exit()\nos.wait()"
    with start_program(PROGRAM + source) as program:
        stdout, stderr = program.communicate(timeout=30)
    assert (stdout.split(), stderr, program.returncode) == (["called", "closed"], "", 0)
