"""What callers put between the client and the network is called, and nothing slips past it."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import web

from foundry_api import (
    ConfigurationError,
    FoundryAPIClient,
    HookFailed,
    InvalidRequest,
    Request,
    ResponseHead,
)
from foundry_api.testing import FakeService
from support.scripted_model import script

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from foundry_api.engine.endpoint import Endpoint
    from foundry_api.wire.hooks import RequestHook


class Guarded(FakeService):
    """A service behind a key, as a gateway has it."""

    def __init__(self, *keys: str) -> None:
        super().__init__("Welcome")
        self.keys = list(keys)
        self.seen: list[str] = []

    def _make_application(self) -> web.Application:
        application = super()._make_application()
        application.middlewares.append(self._guard)
        return application

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        credential = request.headers.get("Authorization", "")
        self.seen.append(credential)
        if credential.removeprefix("Bearer ") != self.keys[0]:
            return web.json_response({"error": {"message": "who are you?"}}, status=401)
        return await handler(request)


@asynccontextmanager
async def a_client(service: FakeService, **options: Any) -> AsyncGenerator[FoundryAPIClient]:
    async with service, FoundryAPIClient(service.base_url, model="fake", **options) as client:
        yield client


async def test_a_callable_gives_the_key_for_every_request() -> None:
    keys = iter(["one", "one", "one", "one", "one", "one"])
    async with a_client(service := Guarded("one"), api_key=lambda: next(keys)) as client:
        assert (await client.complete("Hi")).content == "Welcome"
    assert set(service.seen) == {"Bearer one"}


async def test_a_key_that_expired_is_asked_for_anew_and_the_request_sent_once_more() -> None:
    service, current = Guarded("one"), "one"

    async def key() -> str:
        return current

    async with a_client(service, api_key=key) as client:
        await client.complete("Hi")
        service.keys = ["two"]

        async def expires(request: Request) -> Request:
            nonlocal current
            signed = request.with_headers({"Authorization": f"Bearer {current}"})
            current = "two"
            return signed

        async with FoundryAPIClient(service.base_url, model="fake", auth=expires) as other:
            assert (await other.complete("Hi")).content == "Welcome"


async def test_a_key_that_is_refused_twice_is_the_callers_to_correct() -> None:
    async with a_client(service := Guarded("one"), api_key=lambda: "two") as client:
        with pytest.raises(ConfigurationError, match="refuses the credential") as refused:
            await client.complete("Hi")
    assert refused.value.status == 401
    assert "two" not in str(refused.value)
    assert service.seen == ["Bearer two"]


@pytest.mark.parametrize("key", ["", "two words", "line\nbreak", 7, None])
async def test_what_cannot_be_sent_as_a_key_is_refused(key: Any) -> None:
    async with a_client(service := Guarded("one"), api_key=lambda: key) as client:
        with pytest.raises(ConfigurationError, match="returned no key"):
            await client.complete("Hi")
    assert service.seen == []


async def test_the_key_of_the_environment_is_not_sent_beside_another_credential(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FOUNDRY_API_KEY", "from-the-environment")
    async with a_client(service := Guarded("one"), api_key=lambda: "one") as client:
        await client.complete("Hi")
    assert set(service.seen) == {"Bearer one"}


def test_two_credentials_are_one_too_many() -> None:
    with pytest.raises(ConfigurationError, match="both"):
        FoundryAPIClient("http://127.0.0.1:1", api_key="one", auth=lambda request: request)


async def test_headers_are_sent_from_the_first_look_on() -> None:
    headers = {"Authorization": "Bearer one"}
    async with a_client(service := Guarded("one"), headers=headers) as client:
        await client.complete("Hi")
    assert set(service.seen) == {"Bearer one"}


async def test_no_hook_sees_the_credential_of_a_callable() -> None:
    seen: list[Request] = []

    def watch(request: Request) -> Request:
        seen.append(request)
        return request

    service = Guarded("one")
    async with a_client(service, api_key=lambda: "one", request_hooks=[watch]) as client:
        await client.complete("Hi")
    assert seen
    assert not any("Authorization" in request.headers for request in seen)
    assert not any("Hi" in repr(request) for request in seen)


async def failing(_request: Request) -> Request:
    raise KeyError("tenant")


async def refusing(_request: Request) -> Request:
    raise InvalidRequest("not today", field="prompt")


def straying(request: Request) -> Request:
    return Request(request.method, "http://127.0.0.2:1/elsewhere")


@pytest.mark.parametrize(
    ("hook", "error", "told"),
    [
        (failing, HookFailed, "failing failed: KeyError: 'tenant'"),
        (refusing, InvalidRequest, "not today"),
        (straying, HookFailed, "straying would send the request to another host"),
        (lambda _: None, HookFailed, "returned NoneType, not a Request"),
    ],
)
async def test_a_hook_that_fails_ends_the_call_in_our_words(
    hook: RequestHook, error: type[Exception], told: str
) -> None:
    async with a_client(FakeService("Hello"), request_hooks=[hook]) as client:
        with pytest.raises(error, match=told):
            await client.complete("Hi")
        assert client.breaker.state == "closed"


async def test_hooks_change_and_watch_what_passes_the_real_engine(engine: Endpoint) -> None:
    heads: list[tuple[str, ResponseHead]] = []

    def rephrase(request: Request) -> Request:
        if not request.url.endswith("/chat/completions"):
            return request
        body = request.json()
        body["messages"][-1]["content"] = "say-hello"
        return request.with_json(body).with_headers({"X-Trace": "7"})

    async def note(request: Request, head: ResponseHead) -> None:
        heads.append((request.url.rpartition("/")[2], head))

    async with FoundryAPIClient(
        engine.base_url, model="scripted", request_hooks=[rephrase], response_hooks=[note]
    ) as client:
        response = await client.complete("say-long")
    assert response.content == script("say-hello").text
    name, head = heads[-1]
    assert (name, head.status) == ("completions", 200)
    assert head.duration_s > 0
    assert head.headers["content-type"].startswith("text/event-stream")


async def test_the_raw_answer_is_always_at_hand(engine: Endpoint) -> None:
    async with FoundryAPIClient(engine.base_url, model="scripted") as client:
        response = await client.complete("say-hello")
    assert ("Server", "oatpp/1.3.0") in response.headers
    assert b"".join(response.raw).count(b'"chat.completion.chunk"') > len("Hello")
