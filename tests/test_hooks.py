"""Credentials, headers, request hooks and response hooks."""

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


class AuthenticatedFakeService(FakeService):
    """A fake service that requires an API key, as a gateway does."""

    def __init__(self, *keys: str) -> None:
        super().__init__("Welcome")
        self.keys = list(keys)
        self.credentials: list[str] = []

    def _make_application(self) -> web.Application:
        application = super()._make_application()
        application.middlewares.append(self._check_credential)
        return application

    @web.middleware
    async def _check_credential(self, request: web.Request, handler: Any) -> web.StreamResponse:
        credential = request.headers.get("Authorization", "")
        self.credentials.append(credential)
        if credential.removeprefix("Bearer ") != self.keys[0]:
            return web.json_response({"error": {"message": "who are you?"}}, status=401)
        return await handler(request)


@asynccontextmanager
async def make_client(service: FakeService, **options: Any) -> AsyncGenerator[FoundryAPIClient]:
    async with service, FoundryAPIClient(service.base_url, model="fake", **options) as client:
        yield client


async def test_an_api_key_callable_is_called_for_every_request() -> None:
    keys = iter(["one", "one", "one", "one", "one", "one"])
    async with make_client(
        service := AuthenticatedFakeService("one"), api_key=lambda: next(keys)
    ) as client:
        assert (await client.complete("Hi")).content == "Welcome"
    assert set(service.credentials) == {"Bearer one"}


async def test_a_request_with_an_expired_key_is_sent_again() -> None:
    service, current = AuthenticatedFakeService("one"), "one"

    async def get_key() -> str:
        return current

    async with make_client(service, api_key=get_key) as client:
        await client.complete("Hi")
        service.keys = ["two"]

        async def sign_and_rotate(request: Request) -> Request:
            nonlocal current
            signed = request.with_headers({"Authorization": f"Bearer {current}"})
            current = "two"
            return signed

        async with FoundryAPIClient(service.base_url, model="fake", auth=sign_and_rotate) as other:
            assert (await other.complete("Hi")).content == "Welcome"


async def test_a_key_rejected_twice_is_a_configuration_error() -> None:
    async with make_client(
        service := AuthenticatedFakeService("one"), api_key=lambda: "two"
    ) as client:
        with pytest.raises(ConfigurationError, match="refuses the credential") as caught:
            await client.complete("Hi")
    assert caught.value.status == 401
    assert "two" not in str(caught.value)
    assert service.credentials == ["Bearer two"]


@pytest.mark.parametrize("key", ["", "two words", "line\nbreak", 7, None])
async def test_an_invalid_key_is_an_error(key: Any) -> None:
    async with make_client(
        service := AuthenticatedFakeService("one"), api_key=lambda: key
    ) as client:
        with pytest.raises(ConfigurationError, match="returned no key"):
            await client.complete("Hi")
    assert service.credentials == []


async def test_an_api_key_argument_overrides_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FOUNDRY_API_KEY", "from-the-environment")
    async with make_client(
        service := AuthenticatedFakeService("one"), api_key=lambda: "one"
    ) as client:
        await client.complete("Hi")
    assert set(service.credentials) == {"Bearer one"}


def test_api_key_and_auth_exclude_each_other() -> None:
    with pytest.raises(ConfigurationError, match="both"):
        FoundryAPIClient("http://127.0.0.1:1", api_key="one", auth=lambda request: request)


async def test_headers_are_sent_with_every_request() -> None:
    headers = {"Authorization": "Bearer one"}
    async with make_client(service := AuthenticatedFakeService("one"), headers=headers) as client:
        await client.complete("Hi")
    assert set(service.credentials) == {"Bearer one"}


async def test_a_request_hook_does_not_see_the_credential() -> None:
    requests: list[Request] = []

    def record(request: Request) -> Request:
        requests.append(request)
        return request

    service = AuthenticatedFakeService("one")
    async with make_client(service, api_key=lambda: "one", request_hooks=[record]) as client:
        await client.complete("Hi")
    assert requests
    assert not any("Authorization" in request.headers for request in requests)
    assert not any("Hi" in repr(request) for request in requests)


async def raise_key_error(_request: Request) -> Request:
    raise KeyError("tenant")


async def raise_invalid_request(_request: Request) -> Request:
    raise InvalidRequest("not today", field="prompt")


def change_host(request: Request) -> Request:
    return Request(request.method, "http://127.0.0.2:1/elsewhere")


@pytest.mark.parametrize(
    ("hook", "error", "message"),
    [
        (raise_key_error, HookFailed, "raise_key_error failed: KeyError: 'tenant'"),
        (raise_invalid_request, InvalidRequest, "not today"),
        (change_host, HookFailed, "change_host would send the request to another host"),
        (lambda _: None, HookFailed, "returned NoneType, not a Request"),
    ],
)
async def test_an_error_in_a_hook_is_hook_failed(
    hook: RequestHook, error: type[Exception], message: str
) -> None:
    async with make_client(FakeService("Hello"), request_hooks=[hook]) as client:
        with pytest.raises(error, match=message):
            await client.complete("Hi")
        assert client.breaker.state == "closed"


async def test_hooks_change_requests_and_observe_responses(engine: Endpoint) -> None:
    heads: list[tuple[str, ResponseHead]] = []

    def replace_prompt(request: Request) -> Request:
        if not request.url.endswith("/chat/completions"):
            return request
        body = request.json()
        body["messages"][-1]["content"] = "say-hello"
        return request.with_json(body).with_headers({"X-Trace": "7"})

    async def record(request: Request, head: ResponseHead) -> None:
        heads.append((request.url.rpartition("/")[2], head))

    async with FoundryAPIClient(
        engine.base_url, model="scripted", request_hooks=[replace_prompt], response_hooks=[record]
    ) as client:
        response = await client.complete("say-long")
    assert response.content == script("say-hello").text
    name, head = heads[-1]
    assert (name, head.status) == ("completions", 200)
    assert head.duration_s > 0
    assert head.headers["content-type"].startswith("text/event-stream")


async def test_a_completion_has_the_raw_response(engine: Endpoint) -> None:
    async with FoundryAPIClient(engine.base_url, model="scripted") as client:
        response = await client.complete("say-hello")
    assert ("Server", "oatpp/1.3.0") in response.headers
    assert b"".join(response.raw).count(b'"chat.completion.chunk"') > len("Hello")
