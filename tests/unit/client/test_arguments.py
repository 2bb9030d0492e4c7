"""Invalid arguments of the clients raise errors that name the argument."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from foundry_api import (
    ClientClosed,
    ConfigurationError,
    DeadlineExceeded,
    FoundryAPIClient,
    FoundryClient,
    InvalidRequest,
    Settings,
    deadline,
)
from foundry_api.testing import FakeService

if TYPE_CHECKING:
    from collections.abc import Callable

SECRET = "hunter2"  # noqa: S105 - must not appear in any text


@pytest.mark.parametrize("kind", [FoundryAPIClient, FoundryClient])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"base_url": 5273}, "base_url is 5273, not a string"),
        ({"base_url": b"http://127.0.0.1"}, "base_url is b'http://127.0.0.1', not a string"),
        ({"base_url": Path("x")}, "base_url is "),
        ({"base_url": ""}, "base_url is '', not a service's address"),
        ({"base_url": "ftp://h"}, "base_url is 'ftp://h', not a service's address"),
        ({"base_url": f"//user:{SECRET}@host"}, "base_url carries a credential"),
        ({"base_url": f"user:{SECRET}@host"}, "base_url carries a credential"),
        ({"base_url": "http://a\tb"}, "base_url is "),
        ({"base_url": "http://\ud800"}, "base_url is 'http://\\ud800'"),
        ({"model": "\ud800"}, "model is '\\ud800', which holds a lone surrogate"),
        ({"base_urls": []}, "base_urls is an empty list"),
        ({"base_urls": "http://127.0.0.1"}, "base_urls is of type str, not a list"),
        ({"base_urls": 5}, "base_urls is of type int, not a list"),
        ({"base_urls": [f"//u:{SECRET}@h"]}, "base_urls[0] carries a credential"),
        ({"base_urls": ["http://h", 5]}, "base_urls[1] is 5, not a string"),
        ({"api_key": 5}, "api_key is of type int, neither a string nor a callable"),
        ({"api_key": ""}, "api_key is empty"),
        ({"api_key": f"Bearer {SECRET}"}, "api_key holds white space"),
        ({"api_key": f"{SECRET}\r\nX: y"}, "api_key holds white space"),
        ({"service": "cloud"}, "service is 'cloud'"),
        ({"service": []}, "service is []"),
        ({"model": 5}, "model is 5, not a string"),
        ({"model": ""}, "model is empty"),
        ({"model": "a\0b"}, "model is 'a\\x00b', which holds control characters"),
        ({"timeout": "30"}, "timeout is '30'"),
        ({"timeout": -3}, "timeout is -3"),
        ({"timeout": True}, "timeout is True"),
        ({"deadline": 0}, "deadline is 0"),
        ({"deadline": "soon"}, "deadline is 'soon'"),
        ({"connect_timeout": -1}, "connect_timeout is -1"),
        ({"max_retries": -1}, "max_retries is -1"),
        ({"max_retries": 1.5}, "max_retries is 1.5"),
        ({"max_retries": "3"}, "max_retries is '3'"),
        ({"limiter": 5}, "limiter is 5"),
        ({"breaker": {}}, "breaker is {}"),
        ({"residency": "all"}, "residency is 'all'"),
        ({"listeners": print}, "listeners is <built-in function print>, not a list"),
        ({"listeners": [5]}, "listeners[0] is 5, which can't be called"),
        ({"headers": 5}, "headers is of type int, not a mapping"),
        ({"headers": [("a", "b")]}, "headers is of type list, not a mapping"),
        ({"headers": {5: "a"}}, "headers[5] cannot be sent"),
        ({"headers": {"a b": "c"}}, "headers['a b'] cannot be sent"),
        ({"headers": {"X-A": 5}}, "headers['X-A'] cannot be sent: its value is of type int"),
        ({"headers": {"X-A": f"{SECRET}\r\nHost: x"}}, "headers['X-A'] cannot be sent"),
        ({"headers": {"X-A": f"{SECRET}\N{SNOWMAN}"}}, "headers['X-A'] cannot be sent"),
        ({"auth": 5}, "auth is of type int, not a callable"),
        ({"request_hooks": 5}, "request_hooks is 5, not a list"),
        ({"request_hooks": ["x"]}, "request_hooks[0] is 'x', which can't be called"),
        ({"response_hooks": "x"}, "response_hooks is 'x', not a list"),
        ({"cache": "memory"}, "cache is 'memory'"),
        ({"home": 5}, "home is 5, not a path"),
        ({"home": "a\0b"}, "home is 'a\\x00b', not a path"),
        ({"transport": 5}, "transport is 5, which sends no requests"),
        ({"settings": {}}, "settings is {}, not Settings"),
    ],
)
def test_an_invalid_argument_is_named(
    kind: Callable[..., object], arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        kind(**arguments)
    assert caught.value.message.startswith(message)
    assert SECRET not in f"{caught.value} {caught.value!r} {caught.value.hint}"


FRAMING = ["Host", "content-length", "Transfer-Encoding", "Connection", "TE", "Upgrade", "Expect"]


@pytest.mark.parametrize("name", FRAMING)
async def test_headers_that_frame_requests_are_rejected(name: str) -> None:
    message = rf"^headers\['{name}'\] is set by the client"
    with pytest.raises(ConfigurationError, match=message):
        FoundryAPIClient(headers={name: "x"})
    async with FoundryAPIClient("http://127.0.0.1:1") as client:
        with pytest.raises(InvalidRequest, match=message) as caught:
            await client.request("GET", "/v1/models", headers={name: "x"})
    assert caught.value.field == "headers"


def test_the_error_names_the_variable_or_the_argument(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FOUNDRY_RETRIES", "-2")
    with pytest.raises(ConfigurationError, match=r"^FOUNDRY_RETRIES is -2"):
        FoundryAPIClient()
    with pytest.raises(ConfigurationError, match=r"^max_retries is -1"):
        FoundryAPIClient(max_retries=-1)
    with pytest.raises(ConfigurationError, match=r"^timeout_s is -1"):
        Settings(timeout_s=-1)
    assert FoundryAPIClient(max_retries=1).settings.max_retries == 1
    monkeypatch.setenv("FOUNDRY_BASE_URL", f"//user:{SECRET}@host")
    with pytest.raises(ConfigurationError, match=r"^FOUNDRY_BASE_URL carries a") as caught:
        FoundryAPIClient(max_retries=1)
    assert SECRET not in str(caught.value)


def test_the_repr_has_the_service_and_no_secret() -> None:
    options: dict[str, Any] = {"api_key": SECRET, "headers": {"X-Key": SECRET}, "model": "demo"}
    arguments = "base_url='http://127.0.0.1:5273', model='demo'"
    assert repr(FoundryAPIClient("127.0.0.1:5273", **options)) == f"FoundryAPIClient({arguments})"
    with FoundryClient("127.0.0.1:5273", **options) as client:
        assert repr(client) == f"FoundryClient({arguments})"
    assert repr(FoundryAPIClient(model="demo")) == "FoundryAPIClient(service='auto', model='demo')"
    several = FoundryAPIClient(base_urls=["http://a", "http://b"], model="demo")
    assert repr(several) == "FoundryAPIClient(base_urls=['http://a', 'http://b'], model='demo')"


@pytest.mark.parametrize("seconds", [0, 0.0, -1, max(0, time.time() - time.time() - 1)])
async def test_a_deadline_in_the_past_fails_before_sending(
    seconds: float,
) -> None:
    async with (
        FakeService(*["Hello"] * 20) as service,
        FoundryAPIClient(service.base_url, model="fake") as client,
    ):
        await client.complete("Hi")
        sent = len(service.requests)
        calls: list[Callable[..., Any]] = [
            lambda **option: client.complete("Hi", **option),
            lambda **option: client.chat([{"role": "user", "content": "Hi"}], **option),
            lambda **option: anext(client.stream_complete("Hi", **option)),
            lambda **option: client.complete("Hi", choice=["Hello"], **option),
            lambda **option: client.run_tools("Hi", [], **option),
            lambda **option: client.embed(["Hi"], model="fake", **option),
            lambda **option: client.responses.create("Hi", **option),
            client.responses.list,
            lambda **option: client.responses.get("resp_1", **option),
            lambda **option: client.request("POST", "/v1/models", **option),
        ]
        for call in calls:
            with pytest.raises(DeadlineExceeded, match="had passed before"):
                await call(deadline=seconds)
            with deadline(seconds), pytest.raises(DeadlineExceeded, match="had passed before"):
                await call()
        with deadline(seconds), pytest.raises(DeadlineExceeded):
            await client.models.list()
        assert len(service.requests) == sent


async def test_a_closed_client_reports_that_before_a_deadline() -> None:
    client = FoundryAPIClient("http://127.0.0.1:1")
    await client.close()
    with pytest.raises(ClientClosed):
        await client.complete("Hi", deadline=0)
