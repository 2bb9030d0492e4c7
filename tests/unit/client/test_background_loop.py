"""The thread that runs coroutines for threads which wait: results, streams, and every end."""

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
from foundry_api.client.sync.loop_thread import PREFETCH
from service.helpers import start_program, wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator

WHO: ContextVar[str] = ContextVar("who", default="nobody")

posix = pytest.mark.skipif(os.name != "posix", reason="signals and fork are POSIX's")


async def nothing() -> None:
    pass


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "foundry-api"]


@pytest.fixture
def loop() -> Iterator[BackgroundLoop]:
    loop = BackgroundLoop(nothing)
    yield loop
    loop.close()
    assert not threads()


class Source:
    """A stream that tells how far it was read, and whether it was closed."""

    def __init__(self, pieces: float = float("inf"), error: Exception | None = None) -> None:
        self.sent = 0
        self.closed = False
        self._pieces = pieces
        self._error = error

    async def __call__(self) -> AsyncGenerator[int]:
        try:
            while self.sent < self._pieces:
                await asyncio.sleep(0)
                self.sent += 1
                yield self.sent
            if self._error is not None:
                raise self._error
        finally:
            self.closed = True


class Endless:
    """A call that only its cancellation ends, and that takes its time then."""

    def __init__(self) -> None:
        self.began = threading.Event()
        self.over = False

    async def __call__(self) -> None:
        self.began.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.05)
            self.over = True


# Calls


def test_a_call_gives_its_result(loop: BackgroundLoop) -> None:
    async def double(number: int) -> int:
        await asyncio.sleep(0)
        return 2 * number

    assert loop.run(lambda: double(21)) == 42


def test_a_call_raises_its_error_with_the_place_it_came_from(loop: BackgroundLoop) -> None:
    async def fail() -> None:
        raise KeyError("lost")

    with pytest.raises(KeyError, match="lost") as caught:
        loop.run(fail)

    assert [entry.name for entry in caught.traceback][-1] == "fail"


def test_what_is_refused_before_there_is_a_coroutine_is_raised_too(loop: BackgroundLoop) -> None:
    def refuse() -> Coroutine[None, None, None]:
        raise KeyError("lost")

    with pytest.raises(KeyError, match="lost"):
        loop.run(refuse)


def test_an_error_is_no_part_of_a_cycle(loop: BackgroundLoop) -> None:
    """What its frames hold is freed with it, not when the collector runs."""
    freed = threading.Event()

    class Failure(Exception):  # built-in errors take no weak references
        def __init__(self) -> None:
            weakref.finalize(self, freed.set)

    async def fail() -> None:
        raise Failure

    gc.disable()
    try:
        with pytest.raises(Failure):
            loop.run(fail)
        # The thread of the loop may hold the error for a moment longer than the caller.
        assert freed.wait(10)
    finally:
        gc.enable()


def test_a_call_sees_the_context_of_its_caller(loop: BackgroundLoop) -> None:
    async def who() -> str:
        return WHO.get()

    token = WHO.set("Ada")
    try:
        assert loop.run(who) == "Ada"
    finally:
        WHO.reset(token)
    assert loop.run(who) == "nobody"


def test_calls_of_many_threads_run_at_the_same_time(loop: BackgroundLoop) -> None:
    """None would come to its end alone."""
    everybody = asyncio.Barrier(20)

    async def meet(number: int) -> int:
        async with everybody:
            return number

    with ThreadPoolExecutor(20) as pool:
        met = list(pool.map(lambda number: loop.run(lambda: meet(number)), range(20)))

    assert met == list(range(20))
    assert len(threads()) == 1


async def test_a_call_may_be_made_inside_a_running_loop(loop: BackgroundLoop) -> None:
    async def running() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    assert loop.run(running) is not asyncio.get_running_loop()


def test_a_call_from_the_loops_own_thread_is_refused(loop: BackgroundLoop) -> None:
    """It would wait for ever."""

    async def inside() -> None:
        loop.run(nothing)

    with pytest.raises(InvalidRequest, match="would wait for itself"):
        loop.run(inside)


def test_no_thread_runs_before_the_first_call() -> None:
    loop = BackgroundLoop(nothing)
    assert not threads()
    loop.close()
    with pytest.raises(ClientClosed, match="the client is closed"):
        loop.run(nothing)
    assert not threads()


# Streams


def test_a_stream_gives_every_piece_in_order(loop: BackgroundLoop) -> None:
    pieces = 5 * PREFETCH + 1
    assert list(loop.iterate(Source(pieces))) == list(range(1, pieces + 1))


def test_a_stream_that_fails_gives_what_came_before(loop: BackgroundLoop) -> None:
    stream = loop.iterate(Source(3, error=KeyError("lost")))

    assert [next(stream) for _ in range(3)] == [1, 2, 3]
    with pytest.raises(KeyError, match="lost"):
        next(stream)
    assert list(stream) == []


def test_what_a_stream_refuses_is_raised_before_the_first_piece_is_asked_for(
    loop: BackgroundLoop,
) -> None:
    def refuse() -> AsyncGenerator[int]:
        raise InvalidRequest("no")

    with pytest.raises(InvalidRequest, match="no"):
        loop.iterate(refuse)


def test_a_slow_reader_is_only_so_far_behind(loop: BackgroundLoop) -> None:
    source = Source()
    stream = loop.iterate(source)

    assert next(stream) == 1
    wait_until(lambda: source.sent == PREFETCH)
    loop.run(lambda: asyncio.sleep(0.05))
    assert source.sent == PREFETCH
    assert [next(stream) for _ in range(PREFETCH)] == list(range(2, PREFETCH + 2))
    stream.close()


def break_out(begin: Callable[[], Iterator[int]]) -> None:
    for piece in begin():
        if piece == 3:
            break


def close(begin: Callable[[], Iterator[int]]) -> None:
    stream = begin()
    next(stream)
    stream.close()  # type: ignore[attr-defined] # it is a generator


def abandon_in_a_cycle(begin: Callable[[], Iterator[int]]) -> None:
    cycle: list[object] = [begin()]
    next(cycle[0])  # type: ignore[call-overload] # it is the iterator
    cycle.append(cycle)
    del cycle
    gc.collect()


def fail(begin: Callable[[], Iterator[int]]) -> None:
    def divide() -> None:
        for piece in begin():
            piece / 0

    with pytest.raises(ZeroDivisionError):
        divide()


@pytest.mark.parametrize("leave", [break_out, close, abandon_in_a_cycle, fail])
def test_leaving_a_stream_early_closes_it(
    loop: BackgroundLoop, leave: Callable[[Callable[[], Iterator[int]]], None]
) -> None:
    source = Source()
    leave(lambda: loop.iterate(source))
    wait_until(lambda: source.closed)


def test_a_stream_that_the_collector_finds_on_the_loops_own_thread_is_closed(
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
    """Generators may hold time-outs, task groups and context variables over their pieces."""

    async def careful() -> AsyncGenerator[str]:
        token = WHO.set("Ada")
        async with asyncio.timeout(60), asyncio.TaskGroup():
            for _ in range(3):
                await asyncio.sleep(0)
                yield WHO.get()
        WHO.reset(token)

    assert list(loop.iterate(careful)) == ["Ada"] * 3


# Ends


@posix
def test_ctrl_c_ends_the_call_before_it_is_raised(loop: BackgroundLoop) -> None:
    call = Endless()

    def interrupt() -> None:
        call.began.wait()
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        loop.run(call)
    thread.join()

    assert call.over


@posix
def test_ctrl_c_between_a_call_and_its_beginning_ends_it_all_the_same(
    loop: BackgroundLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The moment is too short to be hit on purpose, so the loop's own hand-over brings Ctrl-C."""
    loop.run(nothing)
    call = Endless()
    thread = loop._thread
    assert thread is not None
    hand_over = thread._loop.call_soon_threadsafe

    def interrupted(*arguments: Any) -> None:
        monkeypatch.undo()
        hand_over(*arguments)
        call.began.wait()
        raise KeyboardInterrupt

    monkeypatch.setattr(thread._loop, "call_soon_threadsafe", interrupted)
    with pytest.raises(KeyboardInterrupt):
        loop.run(call)
    assert call.over


@posix
def test_ctrl_c_ahead_of_the_beginning_leaves_nothing_to_wait_for(
    loop: BackgroundLoop, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop.run(nothing)
    call = Endless()
    thread = loop._thread
    assert thread is not None

    def interrupted(*_: Any) -> None:
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(thread._loop, "call_soon_threadsafe", interrupted)
    with pytest.raises(KeyboardInterrupt):
        loop.run(call)
    assert not call.began.is_set()


@posix
def test_ctrl_c_ends_a_stream(loop: BackgroundLoop) -> None:
    call = Endless()

    async def endless() -> AsyncGenerator[int]:
        yield 1
        await call()

    def interrupt() -> None:
        call.began.wait()
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    stream = loop.iterate(endless)
    with pytest.raises(KeyboardInterrupt):
        list(stream)
    thread.join()

    wait_until(lambda: call.over)


def test_closing_ends_calls_and_streams_and_says_so() -> None:
    loop = BackgroundLoop(nothing)
    call, source = Endless(), Source()
    stream = loop.iterate(source)
    next(stream)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(loop.run, call)
        call.began.wait()

        loop.close()

        with pytest.raises(ClientClosed, match="closed during the call"):
            waiting.result()
    assert (call.over, source.closed) == (True, True)
    with pytest.raises(ClientClosed):
        list(stream)
    with pytest.raises(ClientClosed):
        loop.run(nothing)
    with pytest.raises(ClientClosed):
        loop.iterate(source)
    assert not threads()
    loop.close()


def test_an_error_while_closing_is_raised_to_who_closes() -> None:
    async def fail() -> None:
        raise OSError("still in use")

    loop = BackgroundLoop(fail)
    loop.run(nothing)

    with pytest.raises(OSError, match="still in use"):
        loop.close()
    assert not threads()


def test_a_callback_that_ends_the_program_ends_the_loop_and_all_who_wait() -> None:
    loop = BackgroundLoop(nothing)
    call = Endless()

    async def leave() -> None:
        raise SystemExit(3)

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(loop.run, call)
        call.began.wait()
        with pytest.raises(SystemExit):
            loop.run(leave)
        with pytest.raises(ClientClosed):
            waiting.result()
    wait_until(lambda: not threads())
    with pytest.raises(ClientClosed):
        loop.run(nothing)


def test_the_thread_ends_with_the_last_reference() -> None:
    closed = threading.Event()

    async def close() -> None:
        closed.set()

    loop = BackgroundLoop(close)
    loop.run(nothing)
    del loop

    assert closed.wait(10)
    wait_until(lambda: not threads())


def test_a_stream_keeps_the_loop_of_a_client_that_is_gone() -> None:
    assert list(BackgroundLoop(nothing).iterate(Source(3))) == [1, 2, 3]
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
        yield "piece"
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
    ("ending", "told", "code"),
    [
        ("print(loop.run(call))", "called closed", 0),
        ("stream = loop.iterate(endless); print(next(stream))", "piece closed", 0),
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
        "thread that outlives the main thread",
        "as from Python 3.12 on",
    ],
)
def test_a_program_that_ends_closes_what_it_forgot(ending: str, told: str, code: int) -> None:
    with start_program(PROGRAM + ending) as program:
        out, complaints = program.communicate(timeout=30)
    assert (out.split(), complaints, program.returncode) == (told.split(), "", code)


LEFT_BEHIND = (
    "the client was used before this process was forked, and its thread is not here. "
    "Create the client in the process that uses it."
)


@posix
def test_a_forked_process_is_told_that_the_thread_is_not_there() -> None:
    """And its end neither waits for the thread nor closes what its parent uses."""
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
        out, complaints = program.communicate(timeout=30)
    assert out.splitlines() == [
        "called",
        *[LEFT_BEHIND] * 2,
        "called",
        "closed",
    ]
    assert (complaints, program.returncode) == ("", 0)


@posix
def test_a_client_that_is_made_before_a_fork_and_used_after_it_works() -> None:
    source = "if os.fork() == 0:\n    print(loop.run(call))\n    sys.exit()\nos.wait()"
    with start_program(PROGRAM + source) as program:
        out, complaints = program.communicate(timeout=30)
    assert (out.split(), complaints, program.returncode) == (["called", "closed"], "", 0)
