"""One client and several event loops: refused at once, or one after another; never a hang."""

from __future__ import annotations

import asyncio
import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from foundry_api import (
    FoundryAPIClient,
    FoundryClient,
    FoundryError,
    InvalidRequest,
    LimiterSettings,
    MemoryCache,
)
from foundry_api.testing import FakeService, Stall
from foundry_api.wire.http import HttpTransport

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator

    from foundry_api import Chunk

    Way = Callable[[FoundryAPIClient], Coroutine[Any, Any, Any]]

WAIT_S = 20.0


@contextmanager
def serving(*script: str | Stall) -> Iterator[str]:
    """The base URL of a service on an event loop of its own."""
    started, stop = threading.Event(), threading.Event()
    found: list[str] = []

    async def serve() -> None:
        async with FakeService(*script) as service:
            found.append(service.base_url)
            started.set()
            await asyncio.to_thread(stop.wait)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert started.wait(WAIT_S)
    try:
        yield found[0]
    finally:
        stop.set()
        thread.join(WAIT_S)


@pytest.fixture
def base_url() -> Iterator[str]:
    with serving("Hello") as url:
        yield url


def outcome(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except BaseException as error:  # noqa: BLE001 - the test looks at it
        return error


def in_threads(calls: list[Callable[[], Any]]) -> list[Any]:
    """What comes of calls that are made at once, each in a thread of its own."""
    barrier = threading.Barrier(len(calls))

    def one(call: Callable[[], Any]) -> Any:
        barrier.wait(WAIT_S)
        return outcome(call)

    with ThreadPoolExecutor(len(calls)) as threads:
        return [future.result(WAIT_S) for future in [threads.submit(one, call) for call in calls]]


async def stream(client: FoundryAPIClient) -> str:
    return "".join([chunk.content async for chunk in client.stream_complete("Hi")])


async def read_on(chunks: AsyncGenerator[Chunk]) -> None:
    async for _ in chunks:
        pass


async def end(chunks: AsyncGenerator[Chunk]) -> None:
    await chunks.aclose()


async def complete(client: FoundryAPIClient) -> str:
    return (await client.complete("Hi", temperature=0)).content


async def look(client: FoundryAPIClient) -> str:
    await client.models.list()
    return "Hello"


async def embed(client: FoundryAPIClient) -> str:
    await client.embed(["a"], model="fake")
    return "Hello"


async def respond(client: FoundryAPIClient) -> str:
    await client.responses.create("Hi")
    return "Hello"


def run(way: Way, client: FoundryAPIClient) -> Any:
    return asyncio.run(way(client))


WAYS: list[Way] = [complete, stream, look, respond, embed, complete, stream, look]


@pytest.mark.parametrize(
    "options", [{}, {"cache": True}, {"limiter": LimiterSettings(concurrency=1)}]
)
def test_calls_from_several_loops_at_once_are_answered_or_refused(
    base_url: str, options: dict[str, Any]
) -> None:
    if options.pop("cache", False):
        options = {"cache": MemoryCache()}
    for _ in range(5):
        client = FoundryAPIClient(base_url, model="fake", **options)
        calls = [partial(run, way, client) for way in WAYS]
        for told in in_threads(calls):
            assert told == "Hello" or isinstance(told, FoundryError), told
        assert asyncio.run(complete(client)) == "Hello"
        asyncio.run(client.close())


@pytest.mark.parametrize("way", [complete, stream, look, respond, embed, FoundryAPIClient.close])
def test_a_second_loop_is_refused_while_the_first_one_runs(base_url: str, way: Way) -> None:
    async def main() -> None:
        async with FoundryAPIClient(base_url, model="fake") as client:
            assert await complete(client) == "Hello"
            refused = await asyncio.to_thread(outcome, partial(run, way, client))
            assert isinstance(refused, InvalidRequest)
            assert "another event loop" in str(refused)
            assert "FoundryClient" in str(refused)
            assert await complete(client) == "Hello"

    asyncio.run(main())


def test_one_loop_after_another_is_served(base_url: str) -> None:
    client = FoundryAPIClient(base_url, model="fake")
    for _ in range(3):
        assert asyncio.run(complete(client)) == "Hello"
        assert asyncio.run(stream(client)) == "Hello"
    asyncio.run(client.close())


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of the connection that was dropped
def test_a_loop_that_was_dropped_in_the_middle_of_a_call_keeps_no_turn() -> None:
    with serving(Stall(after="Hello"), "Hello") as base_url:
        client = FoundryAPIClient(base_url, model="fake", limiter=LimiterSettings(concurrency=1))
        loop = asyncio.new_event_loop()
        chunks = client.stream_complete("Hi")
        loop.run_until_complete(anext(chunks))
        loop.close()
        assert client.limiter.statistics().in_flight == 1

        async def main() -> str:
            async with asyncio.timeout(WAIT_S):
                return await complete(client)

        assert asyncio.run(main()) == "Hello"
        asyncio.run(client.close())
        del chunks, loop
        gc.collect()
        assert client.limiter.statistics().in_flight == 0


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of the connection that was dropped
@pytest.mark.parametrize("session", [False, True], ids=["direct", "session"])
@pytest.mark.parametrize("ended", [True, False], ids=["ended", "stopped"])
@pytest.mark.parametrize("script", [Stall(after="Hello"), "Hello"], ids=["broken off", "done"])
def test_a_client_is_closed_on_another_loop_than_it_was_used_on(
    *, script: str | Stall, ended: bool, session: bool
) -> None:
    loop = asyncio.new_event_loop()
    with serving(script) as base_url:
        client = FoundryAPIClient(base_url, model="fake")
        if session:
            client._backend._transport = HttpTransport(use_loopback=lambda _: False)
        chunks = client.stream_complete("Hi")
        try:
            assert loop.run_until_complete(anext(chunks)).content == "Hello"
            if script == "Hello":
                loop.run_until_complete(read_on(chunks))
            if ended:
                loop.close()
            asyncio.run(client.close())
            asyncio.run(end(chunks))
        finally:
            if not ended:
                loop.run_until_complete(asyncio.sleep(0))
            loop.close()
            del chunks, client, loop
            gc.collect()


def test_a_call_whose_loop_was_dropped_while_it_connected_is_collected_in_silence() -> None:
    client = FoundryAPIClient("http://127.0.0.1:1", model="fake")
    call = client.complete("Hi")

    async def begin() -> None:
        call.send(None)

    asyncio.run(begin())
    call.close()
    asyncio.run(client.close())


def test_a_blocking_client_serves_threads_and_loops_alike(base_url: str) -> None:
    with FoundryClient(base_url, model="fake") as client:
        told = in_threads([lambda: client.complete("Hi").content] * 8)
    assert told == ["Hello"] * 8


def test_langchain_keeps_one_client_for_each_loop(base_url: str) -> None:
    langchain = pytest.importorskip("foundry_api.integrations.langchain")
    model = langchain.ChatFoundryLocal(base_url=base_url, model="fake")

    async def call() -> str:
        return (await model.ainvoke("Hi")).text

    async def several() -> list[str]:
        return list(await asyncio.gather(*(call() for _ in range(3))))

    for _ in range(5):
        assert in_threads([lambda: asyncio.run(several())] * 4) == [["Hello"] * 3] * 4
    clients = model._own_async_clients._clients
    assert len(clients) <= 4
    assert asyncio.run(call()) == "Hello"
    assert len(clients) == 1
    asyncio.run(model.aclose())
    assert not model._own_async_clients._clients
