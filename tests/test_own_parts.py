"""Caches and transports of the user may raise anything; calls only raise errors of this package."""

from __future__ import annotations

import asyncio
import functools
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from foundry_api import (
    CacheStats,
    DeadlineExceeded,
    FoundryAPIClient,
    FoundryClient,
    HookFailed,
    Request,
    ResponseCache,
    StreamInterrupted,
)
from foundry_api.testing import FakeService
from foundry_api.wire.http import HttpTransport
from test_user_code import any_failure, raiser

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


class OwnCache(ResponseCache):
    """A cache with one method that fails or is replaced."""

    def __init__(self, name: str, replacement: Callable[..., Any]) -> None:
        # `ResponseCache.__init__` is not called: a user may forget that.
        self.answers: dict[str, bytes] = {}
        setattr(self, name, replacement)

    async def get(self, key: str) -> bytes | None:
        return self.answers.get(key)

    async def put(self, key: str, answer: bytes, *, model: str) -> bool:
        del model
        self.answers[key] = answer
        return True

    async def clear(self) -> int:
        return 0

    async def stats(self) -> CacheStats:
        return CacheStats()


def make_async(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    async def call(*arguments: Any, **named: Any) -> Any:
        await asyncio.sleep(0)
        return function(*arguments, **named)

    return call


@any_failure
@pytest.mark.parametrize("name", ["get", "put", "lock", "bind", "unbind", "close"])
async def test_call_continues_without_a_failing_cache(
    name: str, failure: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    failing = raiser(failure)
    is_async = name in {"get", "put", "close"}
    cache = OwnCache(name, make_async(failing) if is_async else failing)
    async with FakeService("Hello") as service:
        async with FoundryAPIClient(service.base_url, model="fake", cache=cache) as client:
            assert client.cache is cache
            for _ in range(2):
                assert (await client.complete("Hi", temperature=0)).content == "Hello"
            chunks = [chunk.content async for chunk in client.stream_complete("Hi", temperature=0)]
        assert "".join(chunks) == "Hello"
        assert len(service.requests) == (3 if name in {"get", "put"} else 1)
    assert f"cache: {name} failed" in caplog.text


@any_failure
@pytest.mark.parametrize("when", ["entering", "leaving"])
async def test_failing_cache_lock_is_ignored(when: str, failure: type[BaseException]) -> None:
    @asynccontextmanager
    async def lock(_key: str) -> AsyncIterator[None]:
        if when == "entering":
            raise failure("oops")
        yield
        raise failure("oops")

    async with FakeService("Hello") as service:
        cache = OwnCache("lock", lock)
        async with FoundryAPIClient(service.base_url, model="fake", cache=cache) as client:
            assert (await client.complete("Hi", temperature=0)).content == "Hello"
            assert cache.answers


@pytest.mark.parametrize("answer", ["text", 5, bytearray(b"x"), b"damaged", [b"x"]])
async def test_cached_value_that_is_not_bytes_is_ignored(answer: object) -> None:
    async with FakeService("Hello") as service:
        cache = OwnCache("get", make_async(lambda _key: answer))
        async with FoundryAPIClient(service.base_url, model="fake", cache=cache) as client:
            assert (await client.complete("Hi", temperature=0)).content == "Hello"


async def test_hanging_cache_is_awaited_until_the_deadline() -> None:
    async def hang(*_: object) -> None:
        await asyncio.Event().wait()

    async with FakeService("Hello") as service:
        cache = OwnCache("get", hang)
        async with FoundryAPIClient(service.base_url, model="fake", cache=cache) as client:
            with pytest.raises(DeadlineExceeded):
                await client.complete("Hi", temperature=0, deadline=0.2)


class OwnResponse:
    """A response with replaceable methods."""

    def __init__(self, response: Any, methods: dict[str, Any]) -> None:
        self.status, self.headers = response.status, response.headers
        self._response = response
        for name, method in methods.items():
            setattr(self, name, method)

    @property
    def ended(self) -> bool:
        return bool(self._response.ended)

    async def read(self) -> bytes:
        return bytes(await self._response.read())

    def close(self) -> None:
        self._response.close()


class OwnTransport:
    """A transport that fails only for chat completions, so that the service is found."""

    def __init__(self, **methods: Any) -> None:
        self._transport = HttpTransport()
        self._methods = methods

    async def send(self, request: Request) -> Any:
        if "chat" not in request.url:
            return await self._transport.send(request)
        if "send" in self._methods:
            return await self._methods["send"](request)
        return OwnResponse(await self._transport.send(request), self._methods)

    async def aclose(self) -> None:
        await self._transport.aclose()


@any_failure
@pytest.mark.parametrize("name", ["send", "read"])
async def test_error_of_a_transport_becomes_a_typed_error(
    name: str, failure: type[BaseException]
) -> None:
    transport: Any = OwnTransport(**{name: make_async(raiser(failure))})
    async with FakeService("Hello") as service:
        async with FoundryAPIClient(service.base_url, model="fake", transport=transport) as client:
            with pytest.raises(HookFailed, match=f"transport: {name} failed: .*{failure.__name__}"):
                await client.complete("Hi")
            with pytest.raises(HookFailed):
                _ = [chunk async for chunk in client.stream_complete("Hi")]
        await transport.aclose()


@any_failure
async def test_response_that_cannot_be_closed_is_logged(
    failure: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    transport: Any = OwnTransport(close=raiser(failure))
    async with FakeService("Hello") as service:
        async with FoundryAPIClient(service.base_url, model="fake", transport=transport) as client:
            assert (await client.complete("Hi")).content == "Hello"
        await transport.aclose()
    assert "transport: close failed" in caplog.text


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ({"send": make_async(lambda _: None)}, "send returned NoneType"),
        ({"send": make_async(lambda _: "answer")}, "send returned str"),
        ({"read": make_async(lambda: "text")}, "read returned str"),
        ({"read": make_async(lambda: None)}, "read returned NoneType"),
        ({"status": "200"}, "send returned OwnResponse"),
        ({"headers": None}, "send returned OwnResponse"),
    ],
)
async def test_transport_that_returns_no_response(methods: dict[str, Any], message: str) -> None:
    transport: Any = OwnTransport(**methods)
    async with FakeService("Hello") as service:
        async with FoundryAPIClient(service.base_url, model="fake", transport=transport) as client:
            with pytest.raises(HookFailed, match=message) as caught:
                await client.complete("Hi")
        assert "Transport" in (caught.value.hint or "")
        await transport.aclose()


async def test_error_of_this_package_passes_unchanged() -> None:
    async def fail_to_read() -> bytes:
        raise StreamInterrupted("the tunnel fell")

    transport: Any = OwnTransport(read=fail_to_read)
    async with FakeService("Hello") as service:
        client = FoundryAPIClient(
            service.base_url, model="fake", transport=transport, max_retries=0
        )
        async with client:
            with pytest.raises(StreamInterrupted, match="the tunnel fell"):
                await client.complete("Hi")
        await transport.aclose()


def test_blocking_client_with_a_failing_transport() -> None:
    async def send(request: Request) -> Any:
        raise ConnectionResetError(f"to {request.method}")

    class Transport:
        def __init__(self) -> None:
            self.send = send

        async def aclose(self) -> None: ...

    transport: Any = Transport()
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        FoundryClient(
            f"http://127.0.0.1:{server.getsockname()[1]}", model="fake", transport=transport
        ) as client,
        pytest.raises(HookFailed, match="ConnectionResetError"),
    ):
        client.complete("Hi")
