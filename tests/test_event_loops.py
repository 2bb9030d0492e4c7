"""One client on several event loops: one after another works, concurrent use is an error."""

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

    ClientCall = Callable[[FoundryAPIClient], Coroutine[Any, Any, Any]]

WAIT_S = 20.0


@contextmanager
def serve_in_thread(*script: str | Stall) -> Iterator[str]:
    """Run a fake service on an event loop in another thread; return its base URL."""
    started, stop = threading.Event(), threading.Event()
    urls: list[str] = []

    async def serve() -> None:
        async with FakeService(*script) as service:
            urls.append(service.base_url)
            started.set()
            await asyncio.to_thread(stop.wait)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert started.wait(WAIT_S)
    try:
        yield urls[0]
    finally:
        stop.set()
        thread.join(WAIT_S)


@pytest.fixture
def base_url() -> Iterator[str]:
    with serve_in_thread("Hello") as url:
        yield url


def get_outcome(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except BaseException as error:  # noqa: BLE001 - the test checks it
        return error


def run_in_threads(calls: list[Callable[[], Any]]) -> list[Any]:
    """Start calls at the same time, each in its own thread; return results and exceptions."""
    barrier = threading.Barrier(len(calls))

    def start(call: Callable[[], Any]) -> Any:
        barrier.wait(WAIT_S)
        return get_outcome(call)

    with ThreadPoolExecutor(len(calls)) as threads:
        return [future.result(WAIT_S) for future in [threads.submit(start, call) for call in calls]]


async def stream(client: FoundryAPIClient) -> str:
    return "".join([chunk.content async for chunk in client.stream_complete("Hi")])


async def read_rest(chunks: AsyncGenerator[Chunk]) -> None:
    async for _ in chunks:
        pass


async def close_stream(chunks: AsyncGenerator[Chunk]) -> None:
    await chunks.aclose()


async def complete(client: FoundryAPIClient) -> str:
    return (await client.complete("Hi", temperature=0)).content


async def list_models(client: FoundryAPIClient) -> str:
    await client.models.list()
    return "Hello"


async def embed(client: FoundryAPIClient) -> str:
    await client.embed(["a"], model="fake")
    return "Hello"


async def respond(client: FoundryAPIClient) -> str:
    await client.responses.create("Hi")
    return "Hello"


def run(client_call: ClientCall, client: FoundryAPIClient) -> Any:
    return asyncio.run(client_call(client))


CLIENT_CALLS: list[ClientCall] = [
    complete,
    stream,
    list_models,
    respond,
    embed,
    complete,
    stream,
    list_models,
]


@pytest.mark.parametrize(
    "options", [{}, {"cache": True}, {"limiter": LimiterSettings(concurrency=1)}]
)
def test_calls_on_concurrent_loops_succeed_or_raise(base_url: str, options: dict[str, Any]) -> None:
    if options.pop("cache", False):
        options = {"cache": MemoryCache()}
    for _ in range(5):
        client = FoundryAPIClient(base_url, model="fake", **options)
        calls = [partial(run, client_call, client) for client_call in CLIENT_CALLS]
        for outcome in run_in_threads(calls):
            assert outcome == "Hello" or isinstance(outcome, FoundryError), outcome
        assert asyncio.run(complete(client)) == "Hello"
        asyncio.run(client.close())


@pytest.mark.parametrize(
    "client_call", [complete, stream, list_models, respond, embed, FoundryAPIClient.close]
)
def test_a_second_loop_is_rejected_while_the_first_one_runs(
    base_url: str, client_call: ClientCall
) -> None:
    async def main() -> None:
        async with FoundryAPIClient(base_url, model="fake") as client:
            assert await complete(client) == "Hello"
            error = await asyncio.to_thread(get_outcome, partial(run, client_call, client))
            assert isinstance(error, InvalidRequest)
            assert "another event loop" in str(error)
            assert "FoundryClient" in str(error)
            assert await complete(client) == "Hello"

    asyncio.run(main())


def test_a_client_works_on_one_loop_after_another(base_url: str) -> None:
    client = FoundryAPIClient(base_url, model="fake")
    for _ in range(3):
        assert asyncio.run(complete(client)) == "Hello"
        assert asyncio.run(stream(client)) == "Hello"
    asyncio.run(client.close())


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of the abandoned connection
def test_a_loop_closed_during_a_call_releases_its_slot() -> None:
    with serve_in_thread(Stall(after="Hello"), "Hello") as base_url:
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


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of the abandoned connection
@pytest.mark.parametrize("use_session", [False, True], ids=["loopback", "session"])
@pytest.mark.parametrize("loop_closed", [True, False], ids=["closed", "stopped"])
@pytest.mark.parametrize("script", [Stall(after="Hello"), "Hello"], ids=["unfinished", "finished"])
def test_a_client_can_be_closed_on_another_loop(
    *, script: str | Stall, loop_closed: bool, use_session: bool
) -> None:
    loop = asyncio.new_event_loop()
    with serve_in_thread(script) as base_url:
        client = FoundryAPIClient(base_url, model="fake")
        if use_session:
            client._backend._transport = HttpTransport(use_loopback=lambda _: False)
        chunks = client.stream_complete("Hi")
        try:
            assert loop.run_until_complete(anext(chunks)).content == "Hello"
            if script == "Hello":
                loop.run_until_complete(read_rest(chunks))
            if loop_closed:
                loop.close()
            asyncio.run(client.close())
            asyncio.run(close_stream(chunks))
        finally:
            if not loop_closed:
                loop.run_until_complete(asyncio.sleep(0))
            loop.close()
            del chunks, client, loop
            gc.collect()


def test_a_call_abandoned_while_connecting_gives_no_warning() -> None:
    client = FoundryAPIClient("http://127.0.0.1:1", model="fake")
    call = client.complete("Hi")

    async def start() -> None:
        call.send(None)

    asyncio.run(start())
    call.close()
    asyncio.run(client.close())


def test_a_sync_client_works_in_several_threads(base_url: str) -> None:
    with FoundryClient(base_url, model="fake") as client:
        answers = run_in_threads([lambda: client.complete("Hi").content] * 8)
    assert answers == ["Hello"] * 8


def test_langchain_has_one_client_per_loop(base_url: str) -> None:
    langchain = pytest.importorskip("foundry_api.integrations.langchain")
    model = langchain.ChatFoundryLocal(base_url=base_url, model="fake")

    async def call() -> str:
        return (await model.ainvoke("Hi")).text

    async def call_three_times() -> list[str]:
        return list(await asyncio.gather(*(call() for _ in range(3))))

    for _ in range(5):
        assert run_in_threads([lambda: asyncio.run(call_three_times())] * 4) == [["Hello"] * 3] * 4
    clients = model._own_async_clients._clients
    assert len(clients) <= 4
    assert asyncio.run(call()) == "Hello"
    assert len(clients) == 1
    asyncio.run(model.aclose())
    assert not model._own_async_clients._clients
